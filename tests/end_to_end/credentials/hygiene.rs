//! Nothing that was secret is written anywhere: everything that both planes say, log, count, answer and keep is searched
//! for every credential that was used, good or bad, however it may be written.
//!
//! What must be kept by its nature is named where it is kept, and its files are its owner's only.

mod office;

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Carrier, Keys, token};
use crate::kit::gateway::framegate;
use crate::kit::people::{PASSWORD, PASSWORD_HASH, sha256};
use crate::kit::tokens::{Algorithm, Signer, now_s, tampered};
use crate::kit::{
    EchoBackend, Gateway, IssuerServer, Outcome, Peer, People, Port, RawUpstream, Secrets, Setup, Upgrade, Variant,
    on_both_drivers, on_variant, pki, tls, until,
};

on_both_drivers!(nothing_that_was_secret_is_written_anywhere);
on_variant!(automatic_keeping, Automatic, what_a_data_plane_must_keep_is_its_owners_only);

const KEY: &str = "fgk_Vt3XkqBzR8uQm5aWc7";
const WRONG_KEY: &str = "fgk_NobodysKeyOfThatName";
const WRONG_PASSWORD: &str = "wr0ng: donkey of old";
const OPAQUE: &str = "opaque-2YotnFZFEjr1zCsicMWpAA";
const WRONG_OPAQUE: &str = "opaque-SlAV32hkKG-unknown";
const CLIENT_SECRET: &str = "introspection-gX1fBat3bV";

/// What a data plane is sent because it cannot work without: kept only if the operator wants it so.
const NEEDED: [&str; 4] = [
    "the private key of a listener",
    "the private key of assertions",
    "the secret of introspection",
    "a password's hash",
];

/// A gateway with a secret in every place that has room for one, and everybody's secrets.
struct Stage {
    gateway: Gateway,
    keys: Keys,
    issuer: IssuerServer,
    secure: Port,
    secrets: Secrets,
    tokens: Vec<String>,
    _backend: EchoBackend,
    /// What the operator has of their own, which nobody searches.
    pockets: tempfile::TempDir,
}

impl Stage {
    fn start(variant: Variant, store_keys: &str) -> Self {
        let (backend, keys, issuer, secure) = (EchoBackend::start(), Keys::new(), IssuerServer::start(), Port::free());
        let pockets = tempfile::tempdir().expect("a directory");
        issuer.set_active(OPAQUE, json!({ "client_id": "subscribed-client", "sub": "bob", "exp": now_s() + 600 }));
        let mut secrets = Secrets::new();
        let signer = Signer::new(Algorithm::Es256, "assertions");
        let path = pockets.path().join("assertions.pem");
        std::fs::write(&path, signer.private_pem()).expect("a file can be written");
        let assertion = format!("name: backend, issuer: 'https://gateway.test', key: \"{}\"", path.display());
        secrets.add_private_key(NEEDED[1], signer.private_pkcs8());
        secrets.add_private_key(NEEDED[0], pki::shared().edge.private_key().secret_der());
        for signer in [&keys.ed, &keys.es, &keys.rs] {
            secrets.add_private_key(&format!("the private key of {}", signer.key_id), signer.private_pkcs8());
        }
        for (what, secret) in [
            ("a key", KEY),
            ("an unknown key", WRONG_KEY),
            ("a password", PASSWORD),
            ("a wrong password", WRONG_PASSWORD),
            (NEEDED[3], PASSWORD_HASH),
            ("an opaque token", OPAQUE),
            ("an unknown opaque token", WRONG_OPAQUE),
            (NEEDED[2], CLIENT_SECRET),
        ] {
            secrets.add(what, secret);
        }
        let tokens = tokens(&keys);
        tokens.iter().for_each(|(what, token)| secrets.add_token(what, token));
        let people = people(&keys, &issuer).entry("assertions", assertion);
        let upstream = RawUpstream::listen();
        let gateway = setup(variant, &backend, &secure)
            .api_to("told", &upstream.url("/"), "authentication: { accept: [bearer], assertion: backend }")
            .flags(&["--store-keys", store_keys])
            .people(people)
            .start();
        // What an endpoint is told is a token as well.
        let mut client = gateway.connect();
        client.send(&Carrier::Bearer.request("/told", &tokens[0].1).encode());
        let head = upstream.accept().agree();
        client.upgraded();
        let assertion = head.header("X-JWT-Assertion").unwrap_or_else(|| panic!("no assertion in {head}"));
        secrets.add_token("an assertion", assertion);
        let tokens = tokens.into_iter().map(|(_, token)| token).collect();
        Self { gateway, keys, issuer, secure, secrets, tokens, _backend: backend, pockets }
    }

    /// Uses every credential in every place, and some where they do not belong; what was answered.
    fn visit_everywhere(&self) -> Vec<u8> {
        let mut told = Vec::new();
        for api in ["/chat", "/forwarding", "/judged"] {
            for carrier in Carrier::ALL.into_iter().filter(|carrier| *carrier != Carrier::Certificate) {
                for credential in self.credentials(carrier) {
                    told.extend(visit(self.gateway.connect(), &carrier.request(api, &credential)));
                }
            }
            let client = tls::Terms::default().identity(&pki::shared().client).client();
            told.extend(visit(client.connect(self.secure.address()), &Upgrade::to(api)));
        }
        // Requests that are broken beside their credential.
        let tokens = &self.tokens;
        for request in [
            Carrier::Bearer.request("/nowhere", &tokens[0]),
            Carrier::QueryToken.request("/nowhere", &tokens[0]),
            Carrier::QueryToken.request("/chat", &tokens[0]).without("Sec-WebSocket-Key"),
            Carrier::KeyQuery.request("/chat", KEY).without("Host"),
            Carrier::Bearer.request("/chat", &tokens[0]).with("Authorization", &format!("Bearer {}", tokens[1])),
            Carrier::KeyHeader.request(&format!("/chat?apikey={KEY}&apikey={WRONG_KEY}"), KEY),
            Carrier::Subprotocol.twice("/chat", &tokens[0]),
            Carrier::Bearer.request("/chat", &tokens[0]).with("Sec-WebSocket-Protocol", &format!("bearer. {KEY}")),
            // Of forms that the API does not accept.
            Carrier::KeyQuery.request("/probe", KEY),
            Carrier::QueryToken.request("/probe", &tokens[0]),
        ] {
            told.extend(visit(self.gateway.connect(), &request));
        }
        told.into_iter().flatten().collect()
    }

    fn credentials(&self, carrier: Carrier) -> Vec<String> {
        let of_tokens = self.tokens.iter().cloned();
        match carrier {
            Carrier::KeyHeader | Carrier::KeyQuery => vec![KEY.into(), WRONG_KEY.into()],
            Carrier::Basic => vec![super::name_and_password("alice"), format!("alice:{WRONG_PASSWORD}")],
            Carrier::PersonalHeader | Carrier::PersonalCookie => {
                of_tokens.chain([KEY.into(), WRONG_KEY.into()]).collect()
            }
            _ => of_tokens.chain([OPAQUE.into(), WRONG_OPAQUE.into()]).collect(),
        }
    }

    /// What verbs and the operator's listener say: of a change that takes people away, and of mistakes beside secrets.
    fn ask_everything(&self) -> Vec<u8> {
        let revoked = people(&self.keys, &self.issuer).revoked("user:alice", "").revoked("key:good", "");
        let revoked = self.gateway.setup().yaml_with_people(&revoked);
        let mut outcomes = self.mistakes();
        outcomes.extend([
            self.gateway.verb("diff", &[&self.written("revoked", &revoked), "--json"]),
            self.gateway.apply(&revoked),
            self.gateway.verb("status", &[]),
            self.gateway.verb("status", &["--json"]),
        ]);
        let mut told: Vec<u8> =
            outcomes.iter().flat_map(|one| [&one.stdout[..], &one.stderr]).collect::<String>().into();
        for target in ["/metrics", "/ready", "/health", "/status", "/nothing", &format!("/metrics?apikey={KEY}")] {
            told.extend(self.gateway.ask(target).map(|(_, body)| body.into_bytes()).unwrap_or_default());
        }
        told
    }

    /// Secrets where something else should stand, which an operator is told of.
    fn mistakes(&self) -> Vec<Outcome> {
        let good = self.gateway.setup().yaml();
        let (quoted_hash, secret) = (PASSWORD_HASH.replace('$', "$$"), format!("client_secret: {CLIENT_SECRET}"));
        let path = self.pockets.path().join("assertions.pem");
        let pem = std::fs::read_to_string(&path).expect("a file can be read");
        let bare = pem.lines().filter(|line| !line.starts_with("---")).collect::<String>();
        let cut = format!("-----BEGIN PRIVATE KEY-----\\n{}\\n-----END PRIVATE KEY-----\\n", &bare[..bare.len() - 6]);
        let key = path.display().to_string();
        let (issuer, called) = ("issuers:\n", format!("http://gateway:{CLIENT_SECRET}@127.0.0.1:9/keys"));
        let more = |members: &str| format!("issuers:\n  - {{ name: more, issuer: 'https://more.test', {members} }}\n");
        let mistakes: [(&str, &str, String); 11] = [
            ("a list", &secret, format!("client_secret: [{CLIENT_SECRET}]")),
            ("another name", &secret, format!("client_secrets: {CLIENT_SECRET}")),
            ("no end", &secret, format!("client_secret: \"{CLIENT_SECRET}")),
            ("a password in a URL", issuer, more(&format!("jwks: '{called}'"))),
            ("a password in another", issuer, more(&format!("introspection: {{ url: '{called}' }}"))),
            ("a password for its hash", &quoted_hash, PASSWORD.into()),
            ("half a hash", &quoted_hash, quoted_hash[12..].into()),
            ("a key for its hash", &sha256(KEY), KEY.into()),
            ("a key that is cut off", &key, cut),
            ("a key without its lines", &key, bare),
            (
                "a token for its hash",
                "\nusers:",
                format!("\nrevocations: [{{ revoked: \"opaque:{OPAQUE}\" }}]\nusers:"),
            ),
        ];
        let mut outcomes = Vec::new();
        for (what, from, to) in mistakes {
            assert!(good.contains(from), "{what}: there is no {from}");
            let path = self.written(what, &good.replacen(from, &to, 1));
            for outcome in [
                framegate(&["validate", &path]),
                self.gateway.verb("diff", &[&path]),
                self.gateway.verb("apply", &[&path]),
            ] {
                assert_ne!(outcome.code, 0, "{what}: {outcome:?}");
                outcomes.push(outcome);
            }
        }
        outcomes
    }

    fn written(&self, name: &str, yaml: &str) -> String {
        let path = self.gateway.setup().directory().join(format!("{}.yaml", name.replace(' ', "-")));
        std::fs::write(&path, yaml).expect("a file can be written");
        path.to_str().expect("a path in UTF-8").into()
    }
}

fn setup(variant: Variant, backend: &EchoBackend, secure: &Port) -> Setup {
    let accept = "accept: [bearer, query_token, api_key, subprotocol, basic, cookie, personal_access_token, \
        client_certificate], assertion: backend";
    let clients = "client_certificates: { mode: optional, authorities: ours }";
    let bind = secure.address();
    // Nobody is there who could be asked, which is told at length.
    let judge = "on_upgrade: [{ forward_auth: { url: 'http://127.0.0.1:9/may' } }]";
    Setup::new(variant)
        .environment("dataplane", "FRAMEGATE_LOG_LEVEL", "trace")
        .environment("controlplane", "FRAMEGATE_LOG_LEVEL", "trace")
        .certificate(&pki::shared().edge.entry("shown"))
        .authorities(&format!("name: ours, certificates: \"{}\"", pki::shared().root.display()))
        .another_listener(&format!("name: secure, bind: \"{bind}\", tls: {{ certificates: [shown], {clients} }}"))
        .api_to("chat", &backend.url("/"), &format!("authentication: {{ {accept} }}"))
        .api_to("judged", &backend.url("/"), &format!("authentication: {{ {accept} }}, {judge}"))
        .api_to("forwarding", &backend.url("/"), &format!("authentication: {{ {accept}, forward_credentials: true }}"))
}

fn people(keys: &Keys, issuer: &IssuerServer) -> People {
    let introspection = format!("client_id: gateway, client_secret: {CLIENT_SECRET}, cache: 1s");
    keys.people()
        .introspecting_issuer("opaque", "https://opaque.test", &issuer.introspection_url(), &introspection)
        .application("subscribed", "")
        .subscriptions("subscribed", &["chat", "forwarding", "told", "judged"])
        .key("good", "subscribed", KEY, "")
        .user("alice", "application: subscribed, certificates: [\"CN=client,O=Framegate\"]")
}

fn tokens(keys: &Keys) -> Vec<(&'static str, String)> {
    vec![
        ("a good token", token("subscribed").claim("sub", "alice").sign(&keys.ed)),
        ("a good token of ES256", token("subscribed").sign(&keys.es)),
        ("a good token of RS256", token("subscribed").sign(&keys.rs)),
        ("a tampered token", tampered(&token("subscribed").sign(&keys.ed))),
        ("a token that has run out", token("subscribed").claim("exp", now_s() - 5).sign(&keys.ed)),
        ("a token of nobody", token("subscribed").claim("iss", "https://nobody.test").sign(&keys.ed)),
        ("a token without a signature", token("subscribed").unsigned("ed")),
        ("a token of odd shape", "eyJub3QiOiJhIn0.dG9rZW4tYnV0LWEtc2VjcmV0.YWxsLXRoZS1zYW1l".to_owned()),
    ]
}

/// One visit: whatever the gateway says to the client, that is not the endpoint's.
fn visit(mut client: Peer, request: &Upgrade) -> Option<Vec<u8>> {
    client.send(&request.encode());
    let head = client.head();
    let body = if head.status() == 101 { Vec::new() } else { client.rest() };
    Some([head.bytes, body].concat())
}

fn nothing_that_was_secret_is_written_anywhere(variant: Variant) {
    if !pki::is_available() {
        return;
    }
    let mut stage = Stage::start(variant, "off");
    let told = [stage.visit_everywhere(), stage.ask_everything()].concat();
    stage.secrets.expect_none("an answer", &told);
    // The node starts again with what it has kept, which is not enough, and is told the rest.
    stage.gateway.kill_data_plane();
    stage.gateway.start_data_plane();
    until("everything is written down", || stage.gateway.log_lines().len() > 100);
    let directory = stage.gateway.setup().directory();
    let found = search(&stage.secrets, directory);
    assert!(found.findings.is_empty(), "{found:#?}");
    found.expect_files(&["controlplane", "dataplane", "sessions.log", "state-dataplane/current"]);
    found_where_it_is_planted(&stage.secrets, directory);
}

/// The same search finds what is put into a file that the gateway has written.
fn found_where_it_is_planted(secrets: &Secrets, directory: &Path) {
    let log = directory.join("sessions.log");
    let text = std::fs::read_to_string(&log).expect("a file can be read");
    for (secret, what) in [(KEY, "a key"), (&super::name_and_password("alice")[6..], "a password")] {
        let (base64, percent) = (
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("alice:{secret}")),
            secret.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>(),
        );
        for planted in [secret, &base64, &percent] {
            std::fs::write(&log, format!("{text}{{\"planted\":\"{planted}\"}}\n")).expect("a file can be written");
            let found = search(secrets, directory);
            assert!(found.findings.iter().any(|(path, found)| *path == log && found == what), "{planted}: {found:?}");
        }
    }
}

fn what_a_data_plane_must_keep_is_its_owners_only(variant: Variant) {
    if !pki::is_available() {
        return;
    }
    let stage = Stage::start(variant, "on");
    let directory = stage.gateway.setup().directory();
    let found = search(&stage.secrets, directory);
    let kept: BTreeSet<&str> = found.findings.iter().map(|(_, what)| what.as_str()).collect();
    assert_eq!(kept, NEEDED.into(), "{found:#?}");
    for (path, what) in &found.findings {
        assert!(path.starts_with(directory.join("state-dataplane/sections")), "{} has {what}", path.display());
        expect_owners_only(path);
        expect_owners_only(path.parent().expect("a file lies in a directory"));
    }
}

#[track_caller]
fn expect_owners_only(path: &Path) {
    let mode = path.metadata().expect("a file has a mode").mode();
    assert_eq!(mode & 0o077, 0, "{} may be read by others: {mode:o}", path.display());
}

/// What a search of files came to.
#[derive(Debug)]
struct Searched {
    files: Vec<PathBuf>,
    /// In which file, and what.
    findings: Vec<(PathBuf, String)>,
}

impl Searched {
    /// Those must have been among them.
    #[track_caller]
    fn expect_files(&self, ends: &[&str]) {
        for end in ends {
            assert!(self.files.iter().any(|path| path.ends_with(end)), "{end} is not in {:?}", self.files);
        }
    }
}

/// Every file that the planes have written; what the operator wrote is theirs to keep.
fn search(secrets: &Secrets, directory: &Path) -> Searched {
    let mut searched = Searched { files: Vec::new(), findings: Vec::new() };
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a directory can be read").flatten() {
            let path = entry.path();
            let is_operators = path.extension().is_some_and(|end| end == "yaml");
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() && !is_operators {
                let bytes = std::fs::read(&path).expect("a file can be read");
                let named = [path.as_os_str().as_encoded_bytes(), &bytes].concat();
                let findings = secrets.find_all(&named).into_iter();
                searched.findings.extend(findings.map(|found| {
                    println!("{}: {found:?}", path.display());
                    (path.clone(), found.what)
                }));
                searched.files.push(path);
            }
        }
    }
    searched
}
