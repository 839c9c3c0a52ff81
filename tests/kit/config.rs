//! Configurations for properties: sound ones, made of so few words that they overlap, shadow and repeat each other.
//!
//! Included by path where a property needs it, because it knows the model, which the rest of the kit does not.

mod identities;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proto::limits::{SEND_BUDGET_MAX, SEND_BUDGET_MIN};
use proto::snapshot::{
    Api, Authentication, Authorities, Balance, Certificate, CipherSuite, ClientCertificateMode, ClientCertificates,
    Compression, Config, ContextMatch, Duration, Endpoint, Endpoints, Environment, IdleBy, LegPings, Listener,
    ListenerTls, Mask, MessageLimits, PeerPings, Pem, Pin, Pings, Problem, SessionOptions, Settings, Size, Snapshot,
    Target, TlsVersion, Topic, Upstream, UpstreamTls,
};

pub use identities::{people, populated, with_people};

const LISTENERS: [&str; 3] = ["public", "inside", "test"];
const UPSTREAMS: [&str; 3] = ["one", "two", "three"];
const CERTIFICATES: [&str; 3] = ["edge", "other", "gateway"];
const AUTHORITIES: [&str; 2] = ["clients", "internal"];
const SEGMENTS: [&str; 4] = ["a", "b", "c", "a.b"];

/// Sound configurations without TLS, which tables can be built of.
pub fn config() -> impl Strategy<Value = Config> {
    (settings(), listeners(), upstreams(), vec(api(), 0..24)).prop_map(|(settings, listeners, upstreams, apis)| {
        sound(Config { version: 1, settings, listeners, upstreams, apis, ..Config::default() })
    })
}

/// Sound configurations that speak TLS here and there. Their certificates are PEM as far as the model looks at it.
pub fn secure_config() -> impl Strategy<Value = Config> {
    let wanted = vec(option::of(listener_tls()), LISTENERS.len());
    let endpoint = (select(vec!["wss://a/", "wss://c:9/"]), any::<bool>(), upstream_tls());
    (config(), certificates(), authorities(), wanted, vec(option::of(endpoint), UPSTREAMS.len())).prop_map(
        |(mut config, certificates, authorities, listeners, upstreams)| {
            for (listener, tls) in config.listeners.iter_mut().zip(listeners) {
                listener.tls = tls;
            }
            for (upstream, secure) in config.upstreams.iter_mut().zip(upstreams) {
                if let Some((url, verify_certificate, tls)) = secure {
                    upstream.endpoints.push(Endpoint { url: url.parse().unwrap(), verify_certificate });
                    upstream.tls = tls;
                }
            }
            sound(Config { certificates, authorities, ..config })
        },
    )
}

/// Sound configurations with everything in them.
pub fn whole_config() -> impl Strategy<Value = Config> {
    populated(secure_config())
}

/// Hosts that requests name: some that configurations know, some below those, some neither.
pub fn request_host() -> impl Strategy<Value = String> {
    select(vec!["a.test", "b.test", "x.b.test", "y.x.b.test", "c.other", "test", ""]).prop_map(Into::into)
}

/// Listeners that requests come in by; one does not exist.
pub fn request_listener() -> impl Strategy<Value = String> {
    select(vec!["public", "inside", "test", "nowhere"]).prop_map(Into::into)
}

/// Paths that requests name: of the words of contexts, versions and topics, and a few odd ones.
pub fn request_path() -> impl Strategy<Value = String> {
    let words = vec!["a", "b", "c", "a.b", "v1", "v2", "1.0", "7", ""];
    let odd = vec!["/..", "/a/%2e/b", "//", "a", "", "/a%2fb", "/a//"];
    prop_oneof![
        12 => vec(select(words), 0..6).prop_map(|words| format!("/{}", words.join("/"))),
        1 => select(odd).prop_map(Into::into),
    ]
}

/// Leaves out the APIs that take a place, a name or a default from an earlier one.
fn sound(mut config: Config) -> Config {
    while let Err(problems) = Snapshot::check(config.clone()) {
        let mut spoiled: Vec<usize> = problems.iter().map(late_comer).collect();
        spoiled.sort_unstable();
        spoiled.dedup();
        for index in spoiled.into_iter().rev() {
            config.apis.remove(index);
        }
    }
    config
}

/// The index of an API that came too late; anything else that is wrong is the generator's fault.
fn late_comer(problem: &Problem) -> usize {
    let mut place = problem.place.split('/').skip(1);
    match (place.next(), place.next(), place.next()) {
        (Some("apis"), Some(index), Some("name" | "context" | "default_version")) => index.parse().unwrap(),
        _ => panic!("the generator's fault: {problem}"),
    }
}

fn settings() -> impl Strategy<Value = Settings> {
    (duration(0, 86_400_000), duration(0, 1 << 34), any::<bool>(), vec(select(vec!["token", "key"]), 0..2)).prop_map(
        |(drain_window, certificate_expiry_warning, other_header, secrets)| Settings {
            drain_window,
            certificate_expiry_warning,
            request_id_header: if other_header { "X-Correlation-Id".into() } else { "X-Request-Id".into() },
            secret_query_parameters: secrets.into_iter().map(Into::into).collect(),
            ..Settings::default()
        },
    )
}

/// PEM as far as the model looks at it.
fn pem() -> impl Strategy<Value = Pem> {
    "[A-Za-z0-9+/\n]{0,60}".prop_map(|text| Pem::Text(format!("-----BEGIN ANYTHING-----\n{text}")))
}

fn certificates() -> impl Strategy<Value = Vec<Certificate>> {
    vec((pem(), pem(), option::of(pem())), CERTIFICATES.len()).prop_map(|all| {
        let one = |(name, (chain, key, ocsp_response)): (&&str, _)| Certificate {
            name: (*name).into(),
            chain,
            key,
            ocsp_response,
        };
        CERTIFICATES.iter().zip(all).map(one).collect()
    })
}

fn authorities() -> impl Strategy<Value = Vec<Authorities>> {
    vec((pem(), vec(pem(), 0..3)), AUTHORITIES.len()).prop_map(|all| {
        let one = |(name, (certificates, revocations)): (&&str, _)| Authorities {
            name: (*name).into(),
            certificates,
            revocations,
        };
        AUTHORITIES.iter().zip(all).map(one).collect()
    })
}

/// Versions and suites that go together.
fn spoken() -> impl Strategy<Value = (Vec<TlsVersion>, Vec<CipherSuite>)> {
    let newer = vec![CipherSuite::TlsAes256GcmSha384, CipherSuite::TlsChacha20Poly1305Sha256];
    let older = vec![CipherSuite::TlsEcdheEcdsaWithAes128GcmSha256, CipherSuite::TlsEcdheRsaWithAes256GcmSha384];
    let versions = vec![TlsVersion::Tls12, TlsVersion::Tls13];
    prop_oneof![
        Just((Vec::new(), Vec::new())),
        (subsequence(versions.clone(), 0..=2), Just(Vec::new())),
        (Just(Vec::new()), subsequence([newer.clone(), older.clone()].concat(), 1..=4)),
        (Just(vec![TlsVersion::Tls13]), subsequence(newer.clone(), 1..=2)),
        Just((versions, [older, newer].concat())),
    ]
}

fn listener_tls() -> impl Strategy<Value = ListenerTls> {
    let client = (
        select(vec![ClientCertificateMode::Off, ClientCertificateMode::Optional, ClientCertificateMode::Required]),
        select(AUTHORITIES.to_vec()),
    );
    (subsequence(CERTIFICATES.to_vec(), 1..=3), any::<[bool; 2]>(), spoken(), client).prop_map(
        |(certificates, [strict_server_names, resumption], (versions, cipher_suites), (mode, authorities))| {
            ListenerTls {
                certificates: certificates.into_iter().map(Into::into).collect(),
                strict_server_names,
                versions,
                cipher_suites,
                client_certificates: ClientCertificates { mode, authorities: Some(authorities.into()) },
                resumption,
            }
        },
    )
}

fn upstream_tls() -> impl Strategy<Value = UpstreamTls> {
    let names = (
        option::of(select(AUTHORITIES.to_vec())),
        option::of(select(CERTIFICATES.to_vec())),
        option::of(select(vec!["chat.internal", "10.0.0.1"])),
    );
    (names, subsequence(vec![1, 2, 3], 0..=3), spoken()).prop_map(
        |((authorities, certificate, server_name), pins, (versions, cipher_suites))| UpstreamTls {
            authorities: authorities.map(Into::into),
            certificate: certificate.map(Into::into),
            server_name: server_name.map(Into::into),
            pins: pins.into_iter().map(|pin| Pin([pin; 32])).collect(),
            versions,
            cipher_suites,
        },
    )
}

fn listeners() -> impl Strategy<Value = Vec<Listener>> {
    let options = (1_u32..65_536, any::<bool>(), duration(1, 60_000), any::<bool>(), any::<bool>());
    vec(options, LISTENERS.len()).prop_map(|options| {
        let one =
            |(index, (backlog, tcp_nodelay, handshake_timeout, sandbox, header)): (usize, (_, _, _, bool, bool))| {
                let bind = format!("127.0.0.1:{}", 8080 + index).parse().unwrap();
                Listener {
                    backlog,
                    tcp_nodelay,
                    handshake_timeout,
                    proxy_protocol_from: if header { vec!["10.0.0.0/8".parse().unwrap()] } else { Vec::new() },
                    environment: if sandbox { Environment::Sandbox } else { Environment::Production },
                    environment_header: header.then(|| "X-Environment".into()),
                    ..Listener::new(LISTENERS[index], bind)
                }
            };
        options.into_iter().enumerate().map(one).collect()
    })
}

fn upstreams() -> impl Strategy<Value = Vec<Upstream>> {
    let urls = vec!["ws://a/", "ws://b:9/app/?k=1", "ws+unix:/run/app.sock:/chat", "ws://[::1]:7/"];
    let options = (subsequence(urls, 1..=4), any::<bool>(), duration(1, 60_000), any::<bool>());
    vec(options, UPSTREAMS.len()).prop_map(|options| {
        let one = |(name, (urls, flag, connect_timeout, preserve_host)): (&&str, (Vec<&str>, bool, _, _))| Upstream {
            balance: if flag { Balance::LeastSessions } else { Balance::RoundRobin },
            mask: if flag { Mask::Fresh } else { Mask::Keep },
            connect_timeout,
            preserve_host,
            ..Upstream::new(*name, urls.into_iter().map(|url| url.parse().unwrap()).collect())
        };
        UPSTREAMS.iter().zip(options).map(one).collect()
    })
}

fn api() -> impl Strategy<Value = Api> {
    let name = (select(vec!["x", "y", "z", "w"]), select(vec!["", "v1", "v2", "1.0"]), context());
    let switches = (any::<bool>(), prop::bool::weighted(0.8), prop::bool::weighted(0.2));
    let hosts = subsequence(vec!["a.test", "*.test", "x.b.test", "*.b.test"], 0..=2);
    let seen = (hosts, subsequence(LISTENERS.to_vec(), 0..=2));
    (name, switches, seen, topics(), endpoints(), session(), limits()).prop_map(
        |(
            (name, version, context),
            (default_version, enabled, exact),
            (hosts, listeners),
            topics,
            endpoints,
            session,
            limits,
        )| {
            let template = context.contains("{version}") && version.is_empty();
            let context = if template { context.replace("{version}", "v") } else { context };
            let context_match = if exact { ContextMatch::Exact } else { ContextMatch::Longest };
            Api {
                name: name.into(),
                version: version.into(),
                context,
                default_version: default_version && !version.is_empty(),
                enabled,
                hosts: hosts.into_iter().map(Into::into).collect(),
                listeners: listeners.into_iter().map(Into::into).collect(),
                context_match,
                topics: if exact { Vec::new() } else { topics },
                endpoints,
                origins: if exact { vec!["https://*.example.com".into()] } else { Vec::new() },
                authentication: Authentication::default(),
                on_upgrade: Vec::new(),
                compression: if exact { Compression::Off } else { Compression::Pass },
                session,
                limits,
                ..Api::new("", "", "", Target::Upstream(String::new()))
            }
        },
    )
}

fn context() -> impl Strategy<Value = String> {
    let segments = vec(select(SEGMENTS.to_vec()), 0..3);
    (segments, option::weighted(0.2, 0_usize..3)).prop_map(|(mut segments, template)| {
        if let Some(at) = template {
            segments.insert(at.min(segments.len()), "{version}");
        }
        format!("/{}", segments.join("/"))
    })
}

/// Topics, each with a mapping that uses all it may; of two that match the same paths the first is kept.
fn topics() -> impl Strategy<Value = Vec<Topic>> {
    let segment = prop_oneof![2 => select(SEGMENTS.to_vec()), 1 => Just("{}")];
    let topic = (vec(segment, 0..4), any::<bool>(), any::<bool>());
    vec(topic, 0..6).prop_map(|topics| {
        let mut shapes = Vec::new();
        let mut kept = Vec::new();
        for (segments, open, mapped) in topics {
            let shape = (segments.clone(), open);
            if !shapes.contains(&shape) {
                shapes.push(shape);
                kept.push(topic_of(&segments, open, mapped));
            }
        }
        kept
    })
}

fn topic_of(segments: &[&str], open: bool, mapped: bool) -> Topic {
    let (mut topic, mut mapping) = (String::new(), String::from("/m"));
    for (at, segment) in segments.iter().enumerate() {
        if *segment == "{}" {
            topic.push_str(&format!("/{{p{at}}}"));
            mapping.insert_str(2, &format!("/{{p{at}}}"));
        } else {
            topic.push_str(&format!("/{segment}"));
        }
    }
    if open {
        topic.push_str("/*");
        mapping.push_str("/*");
    } else if topic.is_empty() {
        topic.push('/');
    }
    Topic { topic, mapping: mapped.then_some(mapping), ..Topic::default() }
}

fn endpoints() -> impl Strategy<Value = Endpoints> {
    let target = prop_oneof![
        select(UPSTREAMS.to_vec()).prop_map(|name| Target::Upstream(name.into())),
        select(vec!["ws://a/", "ws://direct:9000/x?y=z"]).prop_map(|url| Target::Url(url.parse().unwrap())),
    ];
    (target.clone(), option::of(target), any::<bool>()).prop_map(|(one, other, turned)| {
        let (production, sandbox) = if turned { (other, Some(one)) } else { (Some(one), other) };
        Endpoints { production, sandbox }
    })
}

fn session() -> impl Strategy<Value = SessionOptions> {
    let times = (duration(0, 1 << 30), duration(0, 1 << 30), duration(1, 10_000), 0_u8..=100);
    (times, duration(0, 60_000), any::<[bool; 3]>()).prop_map(
        |(
            (idle_timeout, lifetime, close_timeout, lifetime_jitter_percent),
            interval,
            [frame, answer, validate_utf8],
        )| {
            let pings = LegPings { interval, timeout: Duration::from_secs(5) };
            SessionOptions {
                idle_timeout,
                idle_by: if frame { IdleBy::Frame } else { IdleBy::Data },
                lifetime,
                lifetime_jitter_percent,
                close_timeout,
                ping: if answer { Pings { client: pings.clone(), upstream: pings } } else { Pings::default() },
                peer_pings: if answer { PeerPings::Answer } else { PeerPings::Forward },
                validate_utf8,
            }
        },
    )
}

fn limits() -> impl Strategy<Value = MessageLimits> {
    (0_u64..1 << 40, 0_u64..1 << 63, any::<u32>(), any::<u32>(), SEND_BUDGET_MIN..=SEND_BUDGET_MAX).prop_map(
        |(frame, message, max_fragments, control_frames_per_second, budget)| MessageLimits {
            max_frame: Size::from_bytes(frame),
            max_message: Size::from_bytes(message),
            max_fragments,
            control_frames_per_second,
            send_budget: Size::from_bytes(budget),
        },
    )
}

/// Half of them the default of most fields' kind: a whole number of seconds.
fn duration(least_ms: u64, most_ms: u64) -> impl Strategy<Value = Duration> {
    prop_oneof![
        (least_ms..=most_ms).prop_map(Duration::from_ms),
        (least_ms.div_ceil(1000)..=most_ms / 1000).prop_map(Duration::from_secs),
    ]
}
