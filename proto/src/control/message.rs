//! The messages of the control protocol, by kind.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limits::SECTIONS_MAX;
use crate::snapshot::{Digest, Section, SectionList, SectionName, Sections, Snapshot, Unit, list_checksum};

/// Which generation of which control plane. Numbers of different sources are not compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Generation {
    /// Names the control plane (one run of it) that gave the number.
    pub source: String,
    /// Counts the pushes of that source, from 1.
    pub number: u64,
}

/// Node to control plane, first: who I am. Kind 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`](super::PROTOCOL_VERSION) of the node.
    pub protocol: u32,
    /// The node's name.
    pub node: String,
    /// The node's software version.
    pub software: String,
    /// Process id of the data plane.
    #[serde(default)]
    pub pid: u32,
    /// The generation that is being served, if any.
    #[serde(default)]
    pub applied: Option<Generation>,
    /// Sections that the node holds; a push need not carry them.
    #[serde(default)]
    pub sections: Vec<Digest>,
}

/// Control plane to node, in answer to [`Hello`]. Kind 2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// [`PROTOCOL_VERSION`](super::PROTOCOL_VERSION) of the control plane.
    pub protocol: u32,
    /// The control plane's software version.
    pub software: String,
    /// How often a [`Report`] is wanted, in milliseconds; 0: only when asked.
    #[serde(default)]
    pub report_every_ms: u64,
    /// Why the control plane ends the connection now; `None`: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Control plane to node: a whole generation. Exactly one [`Ack`] or [`Reject`] answers it. Kind 3.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    /// The generation's name.
    pub generation: Generation,
    /// SHA-256 over the list: each section's name, a space, its digest and a line feed, in the list's order.
    pub checksum: Digest,
    /// Every section of the generation.
    pub sections: SectionList,
    /// The bytes of those sections that the node does not hold.
    #[serde(default)]
    pub bodies: Vec<Body>,
}

/// The bytes of one section. `Debug` does not show them: they may hold private keys.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// Which section.
    pub name: SectionName,
    /// MessagePack of its part of the model.
    #[serde(with = "bytes")]
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({}, {} bytes)", self.name, self.bytes.len())
    }
}

impl Push {
    /// A snapshot as a push to a node that holds these sections: only the others are carried.
    pub fn new(generation: Generation, snapshot: &Snapshot, held: &HashSet<Digest>) -> Self {
        let missing = snapshot.sections().iter().filter(|(_, (digest, _))| !held.contains(digest));
        let bodies = missing.map(|(name, (_, section))| Body { name: *name, bytes: section.encode() }).collect();
        let sections = snapshot.list();
        Self { generation, checksum: list_checksum(&sections), sections, bodies }
    }

    /// The snapshot that this push names, of its bodies and of what the node holds; or every reason why not.
    ///
    /// What is held under the same name is not decoded, nor looked at again: the new snapshot shares it. A body of a
    /// section that is held as well is compared with its digest and dropped. Two names may have the same bytes (an
    /// application and a user that have nothing but the same name): then no body comes, and what is held is read anew.
    pub fn assemble(&self, held: Option<&Snapshot>) -> Result<(Generation, Snapshot), (Generation, Vec<String>)> {
        let reject = |reasons| (self.generation.clone(), reasons);
        self.list_faults().map_err(reject)?;
        let bodies = self.bodies_by_name().map_err(reject)?;
        let mut sections = Sections::new();
        let mut reasons = Vec::new();
        for (name, digest) in &self.sections {
            let section = match (held.and_then(|held| held.held(*name, digest)), bodies.get(name)) {
                (Some(section), _) => Ok(section),
                (None, Some(body)) => decoded(*name, &body.bytes),
                (None, None) => match held.and_then(|held| held.bytes(digest)) {
                    Some(bytes) => decoded(*name, &bytes),
                    None => Err(format!("/{name}: the section {digest} is not held here; send its body")),
                },
            };
            match section {
                Ok(section) => {
                    sections.insert(*name, (*digest, section));
                }
                Err(reason) => reasons.push(reason),
            }
        }
        if !reasons.is_empty() {
            return Err(reject(reasons));
        }
        let told = |problems: Vec<_>| problems.iter().map(ToString::to_string).collect();
        Snapshot::from_sections(sections, held)
            .map(|snapshot| (self.generation.clone(), snapshot))
            .map_err(|problems| reject(told(problems)))
    }

    /// The list itself: its length, its order, its checksum.
    fn list_faults(&self) -> Result<(), Vec<String>> {
        if self.sections.len() > SECTIONS_MAX {
            return Err(vec![format!("{} sections are listed; at most {SECTIONS_MAX} exist", self.sections.len())]);
        }
        let mut reasons = Vec::new();
        if let Some(pair) = self.sections.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
            let [before, after] = [pair[0].0, pair[1].0];
            reasons.push(format!("the section {before} is listed before {after}; sections rise, each listed once"));
        }
        let checksum = list_checksum(&self.sections);
        if checksum != self.checksum {
            reasons.push(format!("the checksum is {}, but that of the list is {checksum}", self.checksum));
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    /// The bodies, each listed, once, and with the digest that the list gives.
    fn bodies_by_name(&self) -> Result<HashMap<SectionName, &Body>, Vec<String>> {
        let listed: HashMap<_, _> = self.sections.iter().copied().collect();
        let mut bodies = HashMap::with_capacity(listed.len());
        let mut reasons = Vec::new();
        for body in self.bodies.iter().take(SECTIONS_MAX + 1) {
            let name = body.name;
            match listed.get(&name) {
                None => reasons.push(format!("/{name}: this body is not of a section in the list")),
                Some(_) if bodies.insert(name, body).is_some() => {
                    reasons.push(format!("/{name}: there are two bodies of this section"));
                }
                Some(digest) => {
                    let found = Digest::of(&body.bytes);
                    if found != *digest {
                        reasons.push(format!("/{name}: the body has the digest {found}, the list says {digest}"));
                    }
                }
            }
        }
        if reasons.is_empty() { Ok(bodies) } else { Err(reasons) }
    }
}

fn decoded(name: SectionName, bytes: &[u8]) -> Result<Arc<Section>, String> {
    Section::decode(name, bytes).map(Arc::new).map_err(|problem| problem.to_string())
}

/// Node to control plane: the generation is being served. Kind 4.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The push that is answered.
    pub generation: Generation,
    /// How long it took to check, build and swap, in microseconds.
    #[serde(default)]
    pub micros: u64,
}

/// Node to control plane: nothing has changed, and why. Kind 5.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject {
    /// The push that is answered.
    pub generation: Generation,
    /// Every reason, each a sentence that names the place.
    pub reasons: Vec<String>,
}

/// Control plane to node: stop accepting and let sessions end. Kind 6.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Over how many milliseconds sessions are closed; none: the snapshot's drain window.
    #[serde(default)]
    pub window_ms: Option<u64>,
}

/// Control plane to node: send a [`Report`] now, or a [`Usage`]. Kind 7.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Returned in the answer.
    #[serde(default)]
    pub ticket: u64,
    /// What is used of limits is wanted, in a [`Usage`]. A node that does not know this field answers with a [`Report`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageAsked>,
}

/// Of which limits the usage is wanted. All that is said must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageAsked {
    /// Rows of this API: `name:version`, or `name` for all its versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// Rows of this application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<String>,
    /// Rows of this plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// So many rows, and never more than [`USAGE_ROWS_MAX`](crate::limits::USAGE_ROWS_MAX); 0: as many as that.
    #[serde(default)]
    pub rows_max: u32,
}

/// Node to control plane, in answer to an [`Ask`] for it: what is used of limits, by key. Kind 9.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The ticket of the [`Ask`] that this answers.
    #[serde(default)]
    pub ticket: u64,
    /// The rows of which the largest part is used, that first.
    #[serde(default)]
    pub rows: Vec<UsageRow>,
    /// How many rows there are that fit, those that were left out among them.
    #[serde(default)]
    pub total: u64,
}

/// What one key has used of one limit of its plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// `application`, `subscription`, `api`, `topic`, `unauthenticated`, `keyed` or `session`.
    pub level: String,
    /// The key, as people read it: `alice of mobile`, `mobile at chat:v1`, `chat:v1`, `tenants: 203.0.113.0/24`.
    pub key: String,
    /// The API that the key has, as `name:version` or `name`; empty: none.
    #[serde(default)]
    pub api: String,
    /// The application that the key has; empty: none.
    #[serde(default)]
    pub application: String,
    /// The plan's name.
    pub plan: String,
    /// The limit, as it is written: `100/s`, `50000/day`.
    pub limit: String,
    /// What is counted.
    pub count: Unit,
    /// The most that can pass at once: a bucket's burst, a quota's amount.
    #[serde(default)]
    pub amount: u64,
    /// Used of the window, or missing from the full bucket. More than the amount where a message ran over.
    #[serde(default)]
    pub used: u64,
    /// What may still pass.
    #[serde(default)]
    pub left: u64,
    /// When nothing of it will be used any more if nobody comes: milliseconds since 1970; `u64::MAX`: never.
    #[serde(default)]
    pub resets_ms: u64,
    /// Messages that this limit stopped, as long as the key has been known.
    #[serde(default)]
    pub stopped: u64,
    /// Live sessions of the key.
    #[serde(default)]
    pub sessions: u32,
}

/// Node to control plane: how it stands. Kind 8.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The ticket of the [`Ask`] that this answers; 0 for a report by the clock.
    #[serde(default)]
    pub ticket: u64,
    /// Seconds since the data plane started.
    #[serde(default)]
    pub uptime_s: u64,
    /// Workers.
    #[serde(default)]
    pub workers: u32,
    /// `io_uring`, `io_uring_plain` or `epoll`.
    #[serde(default)]
    pub driver: String,
    /// `uring` or `readiness`.
    #[serde(default)]
    pub engine: String,
    /// Whether large frames are spliced.
    #[serde(default)]
    pub splice: bool,
    /// Whether it is draining.
    #[serde(default)]
    pub draining: bool,
    /// Live sessions.
    #[serde(default)]
    pub sessions: u64,
    /// Live sessions of each API, by `name` or `name:version`; only those that have any.
    #[serde(default)]
    pub sessions_by_api: BTreeMap<String, u64>,
    /// Sessions since start.
    #[serde(default)]
    pub sessions_total: u64,
    /// Handshakes refused since start.
    #[serde(default)]
    pub refusals_total: u64,
    /// Data messages relayed since start, both directions.
    #[serde(default)]
    pub messages_total: u64,
    /// Payload bytes relayed since start, both directions.
    #[serde(default)]
    pub bytes_total: u64,
    /// Tokens since start whose key was not among those of their issuer: it may have newer ones.
    #[serde(default)]
    pub unknown_keys_total: u64,
}

impl UsageRow {
    /// The order of rows: those of which the largest part is used first; of the same part, by level and key.
    pub fn order(&self, other: &Self) -> Ordering {
        // used / amount, compared without dividing: nothing of nothing is all of it.
        let [mine, others] = [(self, other), (other, self)].map(|(one, other)| {
            u128::from(if one.amount == 0 { 1.max(one.used) } else { one.used }) * u128::from(other.amount.max(1))
        });
        others.cmp(&mine).then_with(|| self.name().cmp(&other.name()))
    }

    fn name(&self) -> [&str; 4] {
        [&self.level, &self.key, &self.plan, &self.limit]
    }
}

/// Operator to control plane: one request, first on its connection. Kind 64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// How do you and your nodes stand?
    Status,
    /// Read the source again and push it.
    Reload,
    /// Make this file the source, and push it. An absolute path on the control plane's host.
    Apply {
        /// The file.
        file: String,
    },
    /// What would applying this file change?
    Diff {
        /// The file; an absolute path on the control plane's host.
        file: String,
    },
    /// Drain the nodes (all, or the one named).
    Drain {
        /// A node's name.
        node: Option<String>,
        /// Over how many milliseconds.
        window_ms: Option<u64>,
    },
    /// What is used of limits, by key?
    Usage(UsageAsked),
}

/// Control plane to operator: the answer, as JSON text, and whether it is a success. Kind 65.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Whether what was asked has been done.
    pub ok: bool,
    /// A JSON document; its form depends on the request.
    pub json: String,
}

/// Any message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the struct of its name")]
pub enum Message {
    Hello(Hello),
    Welcome(Welcome),
    Push(Push),
    Ack(Ack),
    Reject(Reject),
    Drain(Drain),
    Ask(Ask),
    Report(Report),
    Usage(Usage),
    Request(Request),
    Response(Response),
}

/// Byte strings as MessagePack `bin`.
mod bytes {
    use serde::{Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Api, Config, Listener, Target};

    fn snapshot(contexts: &[(&str, &str)]) -> Snapshot {
        let api =
            |(name, context): &(&str, &str)| Api::new(*name, "", *context, Target::Url("ws://a/".parse().unwrap()));
        let listeners = vec![Listener::new("public", "0.0.0.0:8080".parse().unwrap())];
        let apis = contexts.iter().map(api).collect();
        Snapshot::check(Config { version: 1, listeners, apis, ..Config::default() }).unwrap()
    }

    fn generation() -> Generation {
        Generation { source: "test".into(), number: 1 }
    }

    fn full() -> Push {
        Push::new(generation(), &snapshot(&[("a", "/a"), ("b", "/b"), ("c", "/c")]), &HashSet::new())
    }

    #[test]
    fn rows_of_usage_begin_with_that_of_which_the_largest_part_is_used() {
        let row = |key: &str, used, amount| UsageRow { key: key.into(), used, amount, ..UsageRow::default() };
        let mut rows =
            [row("half", 5, 10), row("b", 0, 5), row("over", 7, 5), row("a", 0, 9), row("none there is", 0, 0)];
        rows.sort_by(UsageRow::order);
        assert_eq!(rows.map(|row| row.key), ["over", "none there is", "half", "a", "b"]);
    }

    #[test]
    fn a_full_push_becomes_the_snapshot_it_was_made_of() {
        let push = full();
        let (generation, snapshot) = push.assemble(None).unwrap();
        assert_eq!(generation, push.generation);
        assert_eq!(snapshot.checksum(), push.checksum);
        assert_eq!(Push::new(generation, &snapshot, &HashSet::new()), push);
    }

    #[test]
    fn one_changed_api_is_one_body_and_the_rest_is_shared() {
        let before = snapshot(&[("a", "/a"), ("b", "/b"), ("c", "/c")]);
        let after = snapshot(&[("a", "/a"), ("b", "/changed"), ("c", "/c")]);
        let push = Push::new(generation(), &after, &before.list().into_iter().map(|(_, digest)| digest).collect());
        let names: Vec<_> = push.bodies.iter().map(|body| body.name).collect();
        assert_eq!(names, [SectionName::Apis(crate::snapshot::bucket("b"))]);

        let (_, assembled) = push.assemble(Some(&before)).unwrap();
        assert_eq!(assembled.checksum(), after.checksum());
        for (name, (digest, section)) in assembled.sections() {
            let shared = before.held(*name, digest).is_some_and(|held| Arc::ptr_eq(&held, section));
            assert_eq!(shared, names[0] != *name, "{name}");
        }
    }

    #[test]
    fn what_is_held_may_be_sent_again_and_is_not_decoded() {
        let before = snapshot(&[("a", "/a"), ("b", "/b"), ("c", "/c")]);
        let (_, assembled) = full().assemble(Some(&before)).unwrap();
        let shared = |(name, (_, section)): (&SectionName, &(Digest, Arc<Section>))| {
            Arc::ptr_eq(&before.sections()[name].1, section)
        };
        assert!(assembled.sections().iter().all(shared));
    }

    #[test]
    fn an_application_and_a_user_of_the_same_bytes_do_not_stand_in_for_each_other() {
        let mobile = serde_json::json!({ "name": "mobile" });
        let mut config = serde_json::json!({ "version": 1, "applications": [mobile] });
        let application: Config = serde_json::from_value(config.clone()).unwrap();
        config["users"] = serde_json::json!([mobile]);
        let both = serde_json::from_value(config).unwrap();
        let [before, after] = [application, both].map(|config| Snapshot::check(config).unwrap());
        let push = Push::new(generation(), &after, &before.list().into_iter().map(|(_, digest)| digest).collect());
        assert_eq!(push.bodies, [], "their digests are the same, so the node seems to hold both");
        let (_, assembled) = push.assemble(Some(&before)).unwrap();
        assert_eq!(assembled.to_config(), after.to_config());
    }

    #[test]
    fn a_held_section_under_the_name_of_another_bucket_is_a_reject() {
        let before = snapshot(&[("a", "/a")]);
        let mut push = full();
        let (name, of_a) = (push.sections[3].0, before.list()[2].1);
        push.sections[3].1 = of_a;
        push.bodies.remove(3);
        push.checksum = list_checksum(&push.sections);
        let (_, reasons) = push.assemble(Some(&before)).unwrap_err();
        assert!(reasons[0].contains(&format!("/{name}: ")) && reasons[0].contains("belongs in bucket"), "{reasons:?}");
    }

    #[test]
    fn a_push_that_does_not_hold_together_is_rejected_with_its_reason() {
        type Spoil = fn(&mut Push);
        let resum: fn(&mut Push) = |push| push.checksum = list_checksum(&push.sections);
        let rows: &[(Spoil, bool, &str)] = &[
            (|push| push.checksum = Digest::of(b""), false, "the checksum is"),
            (|push| push.sections.swap(0, 1), true, "is listed before"),
            (|push| push.sections.insert(1, push.sections[0]), true, "is listed before"),
            (|push| push.sections = vec![push.sections[0]; SECTIONS_MAX + 1], true, "sections are listed"),
            (|push| push.bodies.truncate(1), false, "is not held here"),
            (|push| push.bodies.push(push.bodies[0].clone()), false, "two bodies"),
            (
                |push| {
                    push.sections.pop();
                },
                true,
                "not of a section in the list",
            ),
            (|push| push.bodies[2].bytes.push(0), false, "the body has the digest"),
            (
                |push| {
                    push.bodies[2].bytes = b"\xff".to_vec();
                    push.sections[2].1 = Digest::of(b"\xff");
                },
                true,
                "cannot be read",
            ),
            (
                |push| {
                    push.sections.remove(0);
                    push.bodies.remove(0);
                },
                true,
                "the section settings is missing",
            ),
        ];
        for (spoil, sum_again, reason) in rows {
            let mut push = full();
            spoil(&mut push);
            if *sum_again {
                resum(&mut push);
            }
            let (generation, reasons) = push.assemble(None).expect_err(reason);
            assert_eq!(generation, push.generation);
            assert!(reasons.iter().any(|found| found.contains(reason)), "{reasons:?} should say {reason:?}");
        }
    }

    #[test]
    fn what_is_unsound_across_sections_is_rejected_by_name() {
        let mut push = full();
        let other = Push::new(generation(), &snapshot(&[("b", "/a")]), &HashSet::new());
        let clashing = other.bodies.last().unwrap().clone();
        let at = push.sections.iter().position(|(name, _)| *name == clashing.name).unwrap();
        push.sections[at].1 = Digest::of(&clashing.bytes);
        push.bodies[at] = clashing;
        push.checksum = list_checksum(&push.sections);
        let (_, reasons) = push.assemble(None).unwrap_err();
        assert_eq!(reasons.len(), 1, "{reasons:?}");
        assert!(reasons[0].starts_with("/apis/") && reasons[0].contains("would lead to both"), "{reasons:?}");
    }
}
