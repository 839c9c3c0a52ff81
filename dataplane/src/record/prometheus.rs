//! The metrics as Prometheus text, exposition format 0.0.4: names, labels, help and escaping.
//!
//! Every family is described in docs/metrics.md, and a test holds the two together. What is counted, and when, is the
//! business of `counters`.

use std::fmt::{Display, Write as _};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Instant, UNIX_EPOCH};

use proto::snapshot::CredentialForm;
use proto::ws::Violation;

use super::counters::{
    ApiTotals, LATENCY_BOUNDS_US, MESSAGE_BOUNDS, OPCODES, Record, SESSION_BOUNDS_S, THROTTLED, Tally, Totals,
    close_label,
};
use super::{Direction, Log, Side};
use crate::bridge::BridgeCounts;
use crate::choice::Choice;
use crate::health::Health;
use crate::identity::Fault;
use crate::refusal::Refusal;
use crate::throttle::LevelKind;
use crate::tls::VERSIONS;
use crate::tls::failure::Reason;

/// All metrics, as they stand at `now`.
pub fn render(record: &Record, health: &Health, log: &Log, bridge: &BridgeCounts, now: Instant) -> String {
    let totals = record.totals();
    let mut text = Text { out: String::with_capacity(16 * 1024) };
    text.process(record, health, now);
    text.door(&totals);
    text.tls(&totals, health);
    text.apis(&totals);
    text.side_rooms(log, bridge);
    text.out
}

struct Text {
    out: String,
}

impl Text {
    fn process(&mut self, record: &Record, health: &Health, now: Instant) {
        self.family("build_info", "gauge", "The software; the value is 1.");
        self.sample("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        self.family("driver_info", "gauge", "How workers wait for sockets and move bytes; the value is 1.");
        if let Some(Choice { driver, means }) = health.choice() {
            let splice = if means.splice { "on" } else { "off" };
            let labels = [("driver", driver.word()), ("engine", means.engine.word()), ("splice", splice)];
            self.sample("driver_info", &labels, 1);
        }
        self.gauge("ready", "1 if new connections are welcome: a snapshot is applied and nothing drains.", {
            u8::from(health.ready().is_ok())
        });
        self.gauge("draining", "1 while the gateway is shutting down.", u8::from(health.is_draining()));
        self.gauge("workers", "Workers, each on a CPU of its own.", record.workers());
        self.gauge("uptime_seconds", "Seconds since the data plane started.", health.uptime_s(now));
        let started = health.started_at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        self.gauge("process_start_time_seconds", "When the data plane started, in seconds since 1970.", started);
        self.family("generation_info", "gauge", "Which control plane gave the configuration; the value is its number.");
        if let Some(generation) = health.generation() {
            self.sample("generation_info", &[("source", &generation.source)], generation.number);
        }
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        self.counter("generations_applied_total", "Generations that were applied.", count(&health.generations_applied));
        self.counter(
            "generations_rejected_total",
            "Pushes that were rejected; the generation before them went on.",
            count(&health.generations_rejected),
        );
        self.counter(
            "snapshot_store_failures_total",
            "Generations that are served but could not be stored on disk.",
            count(&health.store_failures),
        );
        self.gauge(
            "control_connected",
            "1 while a control plane is connected.",
            u8::from(health.control_connected.load(Relaxed)),
        );
        self.counter(
            "bridge_restarts_total",
            "How often the bridge thread was started again after a fault.",
            count(&health.bridge_restarts),
        );
        self.gauge("limit_keys", "Keys of limits that are in memory.", count(&health.limit_keys));
        let help = "Keys of limits for which there was no room, and which shared a count.";
        self.counter("limit_keys_overflown_total", help, count(&health.limit_keys_overflown));
        let descriptors = Descriptors::read();
        self.gauge("process_open_fds", "Open file descriptors.", descriptors.open);
        self.gauge("process_max_fds", "The limit of open file descriptors.", descriptors.limit);
        self.gauge("process_resident_memory_bytes", "Resident memory.", resident_bytes());
    }

    fn door(&mut self, totals: &Totals) {
        self.family("connections_accepted_total", "counter", "Connections accepted, by listener.");
        for (listener, [accepted, ..]) in &totals.listeners {
            self.sample("connections_accepted_total", &[("listener", listener)], accepted);
        }
        self.family("connections_shed_total", "counter", "Connections turned away because the gateway was full.");
        for (listener, [_, shed, _]) in &totals.listeners {
            self.sample("connections_shed_total", &[("listener", listener)], shed);
        }
        let help = "Connections that one worker accepted and another serves, because that had fewer.";
        self.family("connections_handed_over_total", "counter", help);
        for (listener, [.., handed_over]) in &totals.listeners {
            self.sample("connections_handed_over_total", &[("listener", listener)], handed_over);
        }
        self.family("worker_sessions", "gauge", "Live sessions of each worker.");
        for (worker, sessions) in totals.workers.iter().enumerate() {
            self.sample("worker_sessions", &[("worker", &worker.to_string())], sessions);
        }
        self.gauge("handshakes_active", "Opening handshakes that are under way.", totals.handshakes_active);
        self.family("handshake_seconds", "histogram", "From accept to 101, for handshakes that led to a session.");
        self.histogram("handshake_seconds", &[], &totals.handshake_us, &LATENCY_BOUNDS_US, 1e6);
        self.family("refusals_total", "counter", "Opening handshakes that were refused, by reason and blame.");
        for (refusal, count) in Refusal::ALL.iter().zip(*totals.refusals) {
            let row = refusal.row();
            self.sample("refusals_total", &[("reason", row.word), ("blame", row.blame.word())], count);
        }
        self.authentications(totals);
        self.counter(
            "handshakes_abandoned_total",
            "Connections whose client went before its answer.",
            totals.abandoned,
        );
        self.family("upstream_answers_total", "counter", "Answers of upstreams other than 101, by class of status.");
        for (class, count) in ["1xx", "2xx", "3xx", "4xx", "5xx"].iter().zip(totals.upstream_answers) {
            self.sample("upstream_answers_total", &[("status", class)], count);
        }
        self.gauge("buffered_bytes", "Bytes kept for peers that read slowly.", totals.buffered_bytes);
        self.family("limit_leases_total", "counter", "Leases that workers asked of the counts of limits, by outcome.");
        for (outcome, count) in ["refused", "granted"].iter().zip(totals.leases) {
            self.sample("limit_leases_total", &[("outcome", outcome)], count);
        }
        let help = "Bytes of large frames that were handed on inside the kernel, without a copy.";
        self.counter("spliced_bytes_total", help, totals.spliced_bytes);
        let help = "Sessions that ended because a peer's TLS records were not in order.";
        self.counter("tls_broken_total", help, totals.tls_broken);
        let help = "Receives of the uring engine that found all buffers in use, and were asked for again.";
        self.counter("ring_starved_total", help, totals.ring_starved);
        let help = "Turns of the uring engine in which more completions waited than its ring has room for.";
        self.counter("ring_overflown_total", help, totals.ring_overflown);
    }

    fn tls(&mut self, totals: &Totals, health: &Health) {
        self.family("tls_handshakes_total", "counter", "TLS handshakes with clients that were completed.");
        for (listener, tls) in &totals.tls {
            for (version, counts) in VERSIONS.iter().zip(tls.handshakes) {
                for (resumed, count) in ["no", "yes"].iter().zip(counts) {
                    let extra = [("version", (*version).to_owned()), ("resumed", (*resumed).to_owned())];
                    self.unless_zero("tls_handshakes_total", &[("listener", listener)], &extra, count);
                }
            }
        }
        self.family("tls_failures_total", "counter", "TLS handshakes with clients that failed, by reason.");
        for (listener, tls) in &totals.tls {
            self.by_reason("tls_failures_total", ("listener", listener), &tls.failures);
        }
        self.family("upstream_tls_failures_total", "counter", "TLS handshakes with endpoints that failed, by reason.");
        for (upstream, failures) in &totals.upstream_tls {
            self.by_reason("upstream_tls_failures_total", ("upstream", upstream), failures);
        }
        let help = "When a certificate of the configuration expires, in seconds since 1970.";
        self.family("certificate_expiry_timestamp_seconds", "gauge", help);
        for (certificate, not_after) in health.certificates() {
            self.sample("certificate_expiry_timestamp_seconds", &[("certificate", &certificate)], not_after);
        }
    }

    fn by_reason(&mut self, name: &str, label: (&str, &str), counts: &[u64; Reason::ALL.len()]) {
        for (reason, count) in Reason::ALL.iter().zip(counts) {
            self.unless_zero(name, &[label], &[("reason", reason.word().to_owned())], *count);
        }
    }

    fn apis(&mut self, totals: &Totals) {
        self.api_family(totals, "sessions_active", "gauge", "Live sessions.", |text, labels, api| {
            text.sample("sessions_active", labels, api.sessions());
        });
        self.api_family(totals, "sessions_total", "counter", "Sessions that were opened.", |text, labels, api| {
            text.sample("sessions_total", labels, api.opened);
        });
        let help = "Sessions that ended, by close code and by the side that ended them.";
        self.api_family(totals, "session_closes_total", "counter", help, |text, labels, api| {
            for side in Side::ALL {
                for (slot, count) in api.closes[side.index()].iter().enumerate() {
                    let extra = [("code", close_label(slot)), ("side", side.word().to_owned())];
                    text.unless_zero("session_closes_total", labels, &extra, *count);
                }
            }
        });
        self.api_family(totals, "session_seconds", "histogram", "How long sessions lasted.", |text, labels, api| {
            text.histogram("session_seconds", labels, &api.session_ms, &SESSION_BOUNDS_S.map(|s| s * 1000), 1e3);
        });
        let help = "Frames, by direction and opcode; frames that the gateway answered itself are among them.";
        self.api_family(totals, "frames_total", "counter", help, |text, labels, api| {
            for direction in Direction::ALL {
                for ((_, opcode), count) in OPCODES.iter().zip(api.frames[direction.index()]) {
                    let extra = [("direction", direction.word().to_owned()), ("opcode", (*opcode).to_owned())];
                    text.unless_zero("frames_total", labels, &extra, count);
                }
            }
        });
        let help = "Data messages that were relayed whole, however many fragments they had.";
        self.api_family(totals, "messages_total", "counter", help, |text, labels, api| {
            for direction in Direction::ALL {
                for (kind, count) in ["binary", "text"].iter().zip(api.messages[direction.index()]) {
                    let extra = [("direction", direction.word()), ("type", kind)];
                    text.sample("messages_total", &[labels, &extra].concat(), count);
                }
            }
        });
        let help = "Payload bytes of data frames that were relayed.";
        self.api_family(totals, "payload_bytes_total", "counter", help, |text, labels, api| {
            for direction in Direction::ALL {
                let extra = [("direction", direction.word())];
                text.sample("payload_bytes_total", &[labels, &extra].concat(), api.bytes[direction.index()]);
            }
        });
        self.api_family(
            totals,
            "message_bytes",
            "histogram",
            "Payload bytes of data messages.",
            |text, labels, api| {
                for direction in Direction::ALL {
                    let labels = [labels, &[("direction", direction.word())]].concat();
                    let tally = &api.message_bytes[direction.index()];
                    text.histogram("message_bytes", &labels, tally, &MESSAGE_BOUNDS, 1.0);
                }
            },
        );
        let help = "Rules of the protocol or of the route that a peer broke, by the direction of what it sent.";
        self.api_family(totals, "violations_total", "counter", help, |text, labels, api| {
            for direction in Direction::ALL {
                for (violation, count) in Violation::ALL.iter().zip(api.violations[direction.index()]) {
                    let extra = [("direction", direction.word().to_owned()), ("reason", violation.word().to_owned())];
                    text.unless_zero("violations_total", labels, &extra, count);
                }
            }
        });
        self.throttled(totals);
        self.pings(totals);
    }

    fn throttled(&mut self, totals: &Totals) {
        let help = "Messages that were too much, by the level that said so and by what became of them.";
        self.api_family(totals, "throttled_messages_total", "counter", help, |text, labels, api| {
            for (level, counts) in LevelKind::ALL.into_iter().zip(api.throttled) {
                for ((_, outcome), count) in THROTTLED.iter().zip(counts) {
                    let extra = [("level", level.word().to_owned()), ("outcome", (*outcome).to_owned())];
                    text.unless_zero("throttled_messages_total", labels, &extra, count);
                }
            }
        });
        let help = "Clients that were told of a message left out, and, as `suppressed`, that had been told too often.";
        self.api_family(totals, "throttle_notices_total", "counter", help, |text, labels, api| {
            for (outcome, count) in ["said", "suppressed"].into_iter().zip(api.notices) {
                text.unless_zero("throttle_notices_total", labels, &[("outcome", outcome.to_owned())], count);
            }
        });
    }

    fn pings(&mut self, totals: &Totals) {
        let help = "Pings that the gateway sent, by direction.";
        self.api_family(totals, "pings_sent_total", "counter", help, |text, labels, api| {
            for direction in Direction::ALL {
                let extra = [("direction", direction.word().to_owned())];
                text.unless_zero("pings_sent_total", labels, &extra, api.pings_sent[direction.index()]);
            }
        });
        let help = "From a ping of the gateway to its pong, by the direction of the ping.";
        self.api_family(totals, "ping_rtt_seconds", "histogram", help, |text, labels, api| {
            for direction in Direction::ALL {
                let tally = &api.pong_rtt_us[direction.index()];
                if tally.counts.iter().any(|count| *count > 0) {
                    let labels = [labels, &[("direction", direction.word())]].concat();
                    text.histogram("ping_rtt_seconds", &labels, tally, &LATENCY_BOUNDS_US, 1e6);
                }
            }
        });
    }

    fn side_rooms(&mut self, log: &Log, bridge: &BridgeCounts) {
        self.counter("log_lines_written_total", "Lines of the session log that were written.", log.written());
        self.counter("log_lines_dropped_total", "Lines of the session log that were dropped.", log.dropped());
        self.family("resolver_lookups_total", "counter", "Names that were asked for over the network, by outcome.");
        for (outcome, count) in bridge.names.by_outcome() {
            self.sample("resolver_lookups_total", &[("outcome", outcome)], count);
        }
        self.gauge("resolver_names", "Names in the resolver's cache.", bridge.names.names());
        self.family("password_checks_total", "counter", "Passwords that were presented, by what came of their check.");
        for (outcome, count) in bridge.passwords.by_outcome() {
            self.sample("password_checks_total", &[("outcome", outcome)], count);
        }
        self.family("introspections_total", "counter", "Questions to issuers about opaque tokens, by outcome.");
        for (outcome, count) in bridge.introspections.by_outcome() {
            self.sample("introspections_total", &[("outcome", outcome)], count);
        }
        let help = "Opaque tokens of which it is known whether they are good.";
        self.gauge("introspected_tokens", help, bridge.introspections.tokens());
        self.family("forward_auth_total", "counter", "Questions to services that decide for policies, by outcome.");
        for (outcome, count) in bridge.forward_auth.by_outcome() {
            self.sample("forward_auth_total", &[("outcome", outcome)], count);
        }
    }

    /// A family with samples for each version of an API.
    fn api_family(
        &mut self,
        totals: &Totals,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl Fn(&mut Self, &[(&str, &str)], &ApiTotals),
    ) {
        self.family(name, kind, help);
        for ((api, version), sums) in &totals.apis {
            samples(self, &[("api", api), ("version", version)], sums);
        }
    }

    /// Only what has happened: forms times outcomes are many.
    fn authentications(&mut self, totals: &Totals) {
        let help = "Credentials that were looked at, by their form and what came of them.";
        self.family("authentications_total", "counter", help);
        let forms = CredentialForm::ALL.iter().map(|form| form.word()).chain(["none"]);
        for (form, counts) in forms.zip(totals.authentications.iter()) {
            let outcomes = Fault::ALL.iter().map(|fault| fault.word()).chain(["granted"]);
            for (outcome, count) in outcomes.zip(**counts).filter(|(_, count)| *count > 0) {
                self.sample("authentications_total", &[("form", form), ("outcome", outcome)], count);
            }
        }
        let help = "Signed tokens, by whether the worker had verified them before.";
        self.family("token_cache_lookups_total", "counter", help);
        for (outcome, count) in ["miss", "hit"].iter().zip(totals.token_lookups) {
            self.sample("token_cache_lookups_total", &[("outcome", outcome)], count);
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        debug_assert!(!help.contains(['\\', '\n']), "help texts are written without escapes");
        self.push(format_args!("# HELP framegate_{name} {help}\n# TYPE framegate_{name} {kind}\n"));
    }

    /// A sample that is left out while it is 0: its labels are many, and few of them ever happen.
    fn unless_zero(&mut self, name: &str, labels: &[(&str, &str)], extra: &[(&str, String)], value: u64) {
        if value > 0 {
            let mut all = labels.to_vec();
            all.extend(extra.iter().map(|(label, value)| (*label, value.as_str())));
            self.sample(name, &all, value);
        }
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.push(format_args!("framegate_{name}"));
        for (index, (label, value)) in labels.iter().enumerate() {
            self.push(format_args!("{}{label}=\"", if index == 0 { '{' } else { ',' }));
            for character in value.chars() {
                match character {
                    '\\' => self.out.push_str(r"\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str(r"\n"),
                    other => self.out.push(other),
                }
            }
            self.out.push('"');
        }
        self.push(format_args!("{} {value}\n", if labels.is_empty() { "" } else { "}" }));
    }

    /// Buckets are cumulative on the wire. `scale` is how many observed units make one of the exposed unit.
    fn histogram<const N: usize>(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        tally: &Tally<N>,
        bounds: &[u64],
        scale: f64,
    ) {
        debug_assert_eq!(bounds.len() + 1, N);
        let mut cumulative = 0;
        let bounds = bounds.iter().map(|bound| (*bound as f64 / scale).to_string()).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(tally.counts) {
            cumulative += count;
            self.sample(&format!("{name}_bucket"), &[labels, &[("le", &bound)]].concat(), cumulative);
        }
        self.sample(&format!("{name}_sum"), labels, tally.sum as f64 / scale);
        self.sample(&format!("{name}_count"), labels, cumulative);
    }

    fn push(&mut self, arguments: std::fmt::Arguments<'_>) {
        self.out.write_fmt(arguments).expect("writing to a string does not fail");
    }
}

struct Descriptors {
    open: usize,
    limit: u64,
}

impl Descriptors {
    fn read() -> Self {
        // The directory stream has a descriptor of its own, which is open for no longer than this line.
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1));
        Self { open, limit: crate::rlimit::open_files() }
    }
}

fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * crate::rlimit::page_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, SystemTime};

    use proto::control::message::Generation;
    use proto::snapshot::Outcome;
    use proto::ws::Opcode;

    use super::*;
    use crate::record::LogTarget;
    use crate::relay::{EngineKind, Means};
    use crate::worker::Driver;

    fn rendered(record: &Record) -> String {
        let now = Instant::now();
        let health = Health::new(now, SystemTime::now());
        let means = Means { engine: EngineKind::Readiness, splice: false, deferred: true };
        health.served_by(Choice { driver: Driver::UringDeferred, means });
        health.shows([("edge", 1_900_000_000)].into_iter());
        health.serving(Generation { source: "a\"b\\c".into(), number: 7 });
        let (log, _) = Log::open(LogTarget::Off).unwrap();
        render(record, &health, &log, &BridgeCounts::default(), now)
    }

    fn busy() -> Record {
        let record = Record::new(2, 10);
        for (worker, bytes) in [(0, 100), (1, 70_000)] {
            let shard = record.shard(worker);
            shard.handshake_begun();
            shard.handshake_accepted(Duration::from_millis(3));
            shard.handshake_ended();
            shard.listener("public").accepted();
            let api = shard.api("chat", "v1");
            api.session_opened();
            api.frame(Direction::ToUpstream, Opcode::Text);
            api.bytes(Direction::ToUpstream, bytes);
            api.message(Direction::ToUpstream, true, bytes);
            api.ping_sent(Direction::ToClient);
            api.pong(Direction::ToClient, Duration::from_micros(700));
        }
        let shard = record.shard(0);
        shard.refused(Refusal::NoApi);
        shard.listener("public").handed_over();
        shard.listener("public").tls_handshake("tls1.3", true);
        shard.listener("public").tls_failed(Reason::CertificateExpired);
        shard.upstream_tls_failed("chat", Reason::CertificateWrongName);
        shard.answered_by_upstream(403);
        shard.abandoned();
        shard.spliced(65_536);
        shard.api("chat", "v1").throttled(LevelKind::Subscription, Outcome::Notify);
        shard.api("chat", "v1").notice(false);
        shard.api("chat", "v1").violation(Violation::Unmasked, Direction::ToUpstream);
        shard.api("chat", "v1").session_closed(1002, Side::Client, Duration::from_secs(61));
        record
    }

    #[test]
    fn what_happened_is_in_the_text() {
        let text = rendered(&busy());
        for line in [
            r#"framegate_driver_info{driver="io_uring",engine="readiness",splice="off"} 1"#,
            "framegate_spliced_bytes_total 65536",
            "framegate_ready 1",
            "framegate_workers 2",
            r#"framegate_generation_info{source="a\"b\\c"} 7"#,
            r#"framegate_connections_accepted_total{listener="public"} 2"#,
            r#"framegate_connections_handed_over_total{listener="public"} 1"#,
            r#"framegate_worker_sessions{worker="0"} 0"#,
            r#"framegate_worker_sessions{worker="1"} 1"#,
            "framegate_handshakes_active 0",
            r#"framegate_tls_handshakes_total{listener="public",version="tls1.3",resumed="yes"} 1"#,
            r#"framegate_tls_failures_total{listener="public",reason="certificate_expired"} 1"#,
            r#"framegate_upstream_tls_failures_total{upstream="chat",reason="certificate_wrong_name"} 1"#,
            r#"framegate_certificate_expiry_timestamp_seconds{certificate="edge"} 1900000000"#,
            r#"framegate_handshake_seconds_bucket{le="0.0025"} 0"#,
            r#"framegate_handshake_seconds_bucket{le="0.005"} 2"#,
            r#"framegate_handshake_seconds_bucket{le="+Inf"} 2"#,
            "framegate_handshake_seconds_sum 0.006",
            "framegate_handshake_seconds_count 2",
            r#"framegate_refusals_total{reason="no_api",blame="client"} 1"#,
            "framegate_handshakes_abandoned_total 1",
            r#"framegate_upstream_answers_total{status="4xx"} 1"#,
            r#"framegate_sessions_active{api="chat",version="v1"} 1"#,
            r#"framegate_sessions_total{api="chat",version="v1"} 2"#,
            r#"framegate_session_closes_total{api="chat",version="v1",code="1002",side="client"} 1"#,
            r#"framegate_session_seconds_bucket{api="chat",version="v1",le="60"} 0"#,
            r#"framegate_session_seconds_bucket{api="chat",version="v1",le="300"} 1"#,
            r#"framegate_session_seconds_sum{api="chat",version="v1"} 61"#,
            r#"framegate_frames_total{api="chat",version="v1",direction="to_upstream",opcode="text"} 2"#,
            r#"framegate_messages_total{api="chat",version="v1",direction="to_upstream",type="text"} 2"#,
            r#"framegate_payload_bytes_total{api="chat",version="v1",direction="to_upstream"} 70100"#,
            r#"framegate_message_bytes_bucket{api="chat",version="v1",direction="to_upstream",le="256"} 1"#,
            r#"framegate_message_bytes_bucket{api="chat",version="v1",direction="to_upstream",le="65536"} 1"#,
            r#"framegate_message_bytes_bucket{api="chat",version="v1",direction="to_upstream",le="262144"} 2"#,
            r#"framegate_violations_total{api="chat",version="v1",direction="to_upstream",reason="unmasked"} 1"#,
            r#"framegate_throttled_messages_total{api="chat",version="v1",level="subscription",outcome="notify"} 1"#,
            r#"framegate_throttle_notices_total{api="chat",version="v1",outcome="suppressed"} 1"#,
            r#"framegate_pings_sent_total{api="chat",version="v1",direction="to_client"} 2"#,
            r#"framegate_ping_rtt_seconds_bucket{api="chat",version="v1",direction="to_client",le="0.001"} 2"#,
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n\n{text}");
        }
    }

    #[test]
    fn every_sample_belongs_to_the_family_before_it() {
        let mut family = String::new();
        let mut families = BTreeSet::new();
        for line in rendered(&busy()).lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, _) = rest.split_once(' ').unwrap();
                family = name.into();
                assert!(families.insert(family.clone()), "{family} twice");
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                let known = ["", "_bucket", "_sum", "_count"].iter().any(|suffix| name == format!("{family}{suffix}"));
                assert!(known, "{name} under {family}");
                line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap();
            }
        }
    }

    #[test]
    fn the_manual_lists_every_metric_and_no_other() {
        let manual = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md")).unwrap();
        let row = |line: &str| {
            let mut cells = line.strip_prefix("| `framegate_")?.split(" | ");
            Some(format!("{} {}", cells.next()?.trim_end_matches('`'), cells.next()?))
        };
        let listed: BTreeSet<String> = manual.lines().filter_map(row).collect();
        let text = rendered(&Record::new(1, 1));
        let shown = text.lines().filter_map(|line| line.strip_prefix("# TYPE framegate_")).map(str::to_owned).collect();
        assert_eq!(listed, shown);
    }
}
