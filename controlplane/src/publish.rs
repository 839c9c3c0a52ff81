//! What is published, to whom, and what each data plane said to it.
//!
//! Holds the one current generation and the roster of connected nodes; the connections themselves are
//! [`server`](crate::server)'s. Whoever serves a node looks at [`Publisher::watch`], so the newest generation wins by
//! itself when several come while a push is in flight.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use proto::control::Message;
use proto::control::message::{Ack, Ask, Generation, Hello, Reject, Report, Usage, UsageAsked};
use proto::snapshot::Snapshot;
use tokio::sync::{mpsc, watch};

use crate::answer::{NodeOutcome, NodeStatus, Outcome, Rejected};

/// A generation: a snapshot with its name.
#[derive(Debug)]
pub struct Published {
    /// The name.
    pub generation: Generation,
    /// The content.
    pub snapshot: Snapshot,
}

/// Names a connection for as long as the control plane runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

/// The current generation and the roster.
pub struct Publisher {
    source: String,
    current: watch::Sender<Option<Arc<Published>>>,
    roster: Mutex<Roster>,
    /// Steps whenever the roster changes, for those who wait for an answer.
    changes: watch::Sender<u64>,
    /// Steps whenever a node has met tokens whose key it does not know.
    unknown_keys: watch::Sender<u64>,
}

#[derive(Default)]
struct Roster {
    next: u64,
    nodes: BTreeMap<NodeId, Node>,
    /// Of each question about usage that is under way, by its ticket: what nodes have said to it. `None`: a node that
    /// does not know the question.
    asked: BTreeMap<u64, BTreeMap<NodeId, Option<Usage>>>,
}

struct Node {
    hello: Hello,
    connected: Instant,
    commands: mpsc::Sender<Message>,
    applied: Option<Generation>,
    in_flight: Option<Generation>,
    answer: Option<Answer>,
    rejected: Option<Reject>,
    report: Option<Report>,
}

/// The last answer to a push.
struct Answer {
    generation: Generation,
    micros: Option<u64>,
}

impl Publisher {
    /// With the name that its generations carry: unique to this run of the control plane.
    pub fn new(source: String) -> Self {
        Self {
            source,
            current: watch::Sender::new(None),
            roster: Mutex::default(),
            changes: watch::Sender::new(0),
            unknown_keys: watch::Sender::new(0),
        }
    }

    /// Makes the snapshot the current generation.
    pub fn publish(&self, snapshot: Snapshot) -> Arc<Published> {
        let number = self.current.borrow().as_ref().map_or(0, |current| current.generation.number) + 1;
        let generation = Generation { source: self.source.clone(), number };
        let published = Arc::new(Published { generation, snapshot });
        self.current.send_replace(Some(Arc::clone(&published)));
        published
    }

    /// The current generation.
    pub fn current(&self) -> Option<Arc<Published>> {
        self.current.borrow().clone()
    }

    /// Tells of every new generation.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Published>>> {
        self.current.subscribe()
    }

    /// A node has said Hello. `commands` reaches its connection.
    pub fn connected(&self, hello: Hello, commands: mpsc::Sender<Message>, now: Instant) -> NodeId {
        let mut roster = self.roster();
        let id = NodeId(roster.next);
        roster.next += 1;
        let applied = hello.applied.clone();
        let node = Node {
            hello,
            connected: now,
            commands,
            applied,
            in_flight: None,
            answer: None,
            rejected: None,
            report: None,
        };
        roster.nodes.insert(id, node);
        drop(roster);
        self.changed();
        id
    }

    /// A node's connection has ended.
    pub fn disconnected(&self, id: NodeId) {
        self.roster().nodes.remove(&id);
        self.changed();
    }

    /// A generation is on its way to a node.
    pub fn pushed(&self, id: NodeId, generation: &Generation) {
        self.with(id, |node| node.in_flight = Some(generation.clone()));
    }

    /// A node serves a generation.
    pub fn acknowledged(&self, id: NodeId, ack: Ack) {
        self.with(id, |node| {
            node.in_flight = None;
            node.rejected = None;
            node.applied = Some(ack.generation.clone());
            node.answer = Some(Answer { generation: ack.generation, micros: Some(ack.micros) });
        });
    }

    /// A node has refused a generation.
    pub fn rejected(&self, id: NodeId, reject: Reject) {
        self.with(id, |node| {
            node.in_flight = None;
            node.answer = Some(Answer { generation: reject.generation.clone(), micros: None });
            node.rejected = Some(reject);
        });
    }

    /// A node has said how it stands.
    pub fn reported(&self, id: NodeId, report: Report) {
        let known = |node: &Node| node.report.as_ref().map_or(0, |before| before.unknown_keys_total);
        let before = self.roster().nodes.get(&id).map_or(0, known);
        if report.unknown_keys_total > before {
            self.unknown_keys.send_modify(|step| *step = step.wrapping_add(1));
        }
        let ticket = report.ticket;
        self.with(id, |node| node.report = Some(report));
        self.answered(id, ticket, None);
    }

    /// A node has said what is used of limits.
    pub fn used(&self, id: NodeId, usage: Usage) {
        self.answered(id, usage.ticket, Some(usage));
    }

    /// Asks every node what is used of limits, and waits until each has answered, or has gone, or the time is up: the
    /// nodes by name and process id, each with what it said. The ticket is no other question's.
    pub async fn usage(&self, asked: UsageAsked, ticket: u64, until: Instant) -> Vec<(String, u32, Option<Usage>)> {
        self.roster().asked.insert(ticket, BTreeMap::new());
        // However the waiting ends, answers are kept for nobody.
        let _forgotten = OnDrop(|| drop(self.roster().asked.remove(&ticket)));
        let mut changes = self.changes.subscribe();
        let nodes = self.tell(&Message::Ask(Ask { ticket, usage: Some(asked) }), |_| true);
        loop {
            changes.mark_unchanged();
            let is_done = {
                let roster = self.roster();
                let answers = roster.asked.get(&ticket);
                let answered = |id| answers.is_some_and(|answers| answers.contains_key(id));
                nodes.iter().all(|(id, ..)| answered(id) || !roster.nodes.contains_key(id))
            };
            let wait = tokio::time::timeout_at(until.into(), changes.changed());
            if is_done || wait.await.is_err() {
                break;
            }
        }
        let mut answers = self.roster().asked.remove(&ticket).unwrap_or_default();
        nodes.into_iter().map(|(id, node, pid)| (node, pid, answers.remove(&id).flatten())).collect()
    }

    /// Keeps the answer of a node to a question about usage, if somebody waits for it.
    fn answered(&self, id: NodeId, ticket: u64, usage: Option<Usage>) {
        if let Some(answers) = self.roster().asked.get_mut(&ticket) {
            answers.insert(id, usage);
        }
        self.changed();
    }

    /// Tells when a node has met tokens whose key it does not know: their issuer may have newer ones.
    pub fn unknown_keys(&self) -> watch::Receiver<u64> {
        self.unknown_keys.subscribe()
    }

    /// Sends a message to every node that is wanted; the nodes that could be told, by name and process id.
    pub fn tell(&self, message: &Message, wanted: impl Fn(&str) -> bool) -> Vec<(NodeId, String, u32)> {
        let roster = self.roster();
        let wanted = roster.nodes.iter().filter(|(_, node)| wanted(&node.hello.node));
        let told = wanted.filter(|(_, node)| node.commands.try_send(message.clone()).is_ok());
        told.map(|(id, node)| (*id, node.hello.node.clone(), node.hello.pid)).collect()
    }

    /// The nodes that are connected.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.roster().nodes.keys().copied().collect()
    }

    /// Waits until each of these nodes has answered this generation or a later one, or has gone, or the time is up.
    pub async fn outcomes(&self, nodes: &[NodeId], generation: &Generation, until: Instant) -> Vec<NodeOutcome> {
        let mut changes = self.changes.subscribe();
        let mut last_seen: BTreeMap<NodeId, NodeOutcome> = BTreeMap::new();
        loop {
            changes.mark_unchanged();
            for id in nodes {
                let outcome = match (self.outcome(*id, generation), last_seen.get(id)) {
                    (Some(outcome), _) => outcome,
                    (None, Some(last)) if last.outcome == Outcome::Silent => {
                        NodeOutcome { outcome: Outcome::Gone, ..last.clone() }
                    }
                    (None, _) => continue,
                };
                last_seen.insert(*id, outcome);
            }
            let is_done = last_seen.values().all(|one| one.outcome != Outcome::Silent);
            let wait = tokio::time::timeout_at(until.into(), changes.changed());
            if is_done || wait.await.is_err() {
                return last_seen.into_values().collect();
            }
        }
    }

    /// Waits until each of these nodes has sent a report with this ticket, or has gone, or the time is up.
    pub async fn reports(&self, nodes: &[NodeId], ticket: u64, until: Instant) {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let is_done = {
                let roster = self.roster();
                let answered = |node: &Node| node.report.as_ref().is_some_and(|report| report.ticket == ticket);
                nodes.iter().all(|id| roster.nodes.get(id).is_none_or(answered))
            };
            let wait = tokio::time::timeout_at(until.into(), changes.changed());
            if is_done || wait.await.is_err() {
                return;
            }
        }
    }

    /// Live sessions by API, over all nodes.
    pub fn sessions_by_api(&self) -> BTreeMap<String, u64> {
        let mut sum = BTreeMap::new();
        let roster = self.roster();
        for (api, sessions) in
            roster.nodes.values().filter_map(|node| node.report.as_ref()).flat_map(|report| &report.sessions_by_api)
        {
            *sum.entry(api.clone()).or_insert(0) += sessions;
        }
        sum
    }

    /// How the nodes stand.
    pub fn status(&self, now: Instant) -> Vec<NodeStatus> {
        self.roster().nodes.values().map(|node| node.status(now)).collect()
    }

    fn outcome(&self, id: NodeId, generation: &Generation) -> Option<NodeOutcome> {
        let roster = self.roster();
        let node = roster.nodes.get(&id)?;
        let later = |one: &Generation| one.source == generation.source && one.number > generation.number;
        let (outcome, micros, reasons) = match (&node.applied, &node.answer, &node.rejected) {
            (Some(applied), answer, _) if applied == generation => {
                let of_it = answer.as_ref().filter(|answer| answer.generation == *generation);
                (Outcome::Applied, of_it.and_then(|answer| answer.micros), Vec::new())
            }
            (Some(applied), _, _) if later(applied) => (Outcome::Superseded, None, Vec::new()),
            // This one was passed over for a later one, which the node does not want.
            (_, Some(answer), Some(reject)) if answer.generation == *generation || later(&answer.generation) => {
                (Outcome::Rejected, None, reject.reasons.clone())
            }
            _ => (Outcome::Silent, None, Vec::new()),
        };
        Some(NodeOutcome { node: node.hello.node.clone(), pid: node.hello.pid, outcome, micros, reasons })
    }

    fn with(&self, id: NodeId, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.roster().nodes.get_mut(&id) {
            change(node);
        }
        self.changed();
    }

    fn changed(&self) {
        self.changes.send_modify(|step| *step = step.wrapping_add(1));
    }

    /// What a panic elsewhere left is still a roster: every change to it is a single assignment.
    fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does something when it goes out of scope.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl Node {
    fn status(&self, now: Instant) -> NodeStatus {
        let report = self.report.clone().unwrap_or_default();
        NodeStatus {
            node: self.hello.node.clone(),
            pid: self.hello.pid,
            software: self.hello.software.clone(),
            connected_s: now.saturating_duration_since(self.connected).as_secs(),
            generation: self.applied.clone(),
            in_flight: self.in_flight.clone(),
            last_reject: self
                .rejected
                .as_ref()
                .map(|reject| Rejected { generation: reject.generation.clone(), reasons: reject.reasons.clone() }),
            driver: report.driver,
            engine: report.engine,
            splice: report.splice,
            workers: report.workers,
            uptime_s: report.uptime_s,
            draining: report.draining,
            sessions: report.sessions,
            sessions_by_api: report.sessions_by_api,
            sessions_total: report.sessions_total,
            refusals_total: report.refusals_total,
            messages_total: report.messages_total,
            bytes_total: report.bytes_total,
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::control::PROTOCOL_VERSION;
    use proto::snapshot::Config;

    use super::*;

    fn generation(number: u64) -> Generation {
        Generation { source: "office".into(), number }
    }

    fn outcome(tell: impl FnOnce(&Publisher, NodeId)) -> Outcome {
        let publisher = Publisher::new("office".into());
        let hello = Hello {
            protocol: PROTOCOL_VERSION,
            node: "edge".into(),
            software: "test".into(),
            pid: 1,
            applied: None,
            sections: Vec::new(),
        };
        let node = publisher.connected(hello, mpsc::channel(1).0, Instant::now());
        tell(&publisher, node);
        publisher.outcome(node, &generation(5)).expect("the node is connected").outcome
    }

    fn ack(number: u64) -> Ack {
        Ack { generation: generation(number), micros: 1 }
    }

    fn reject(number: u64) -> Reject {
        Reject { generation: generation(number), reasons: vec!["no".into()] }
    }

    #[test]
    fn the_answer_to_a_later_generation_is_one_to_those_that_were_passed_over() {
        assert_eq!(outcome(|_, _| {}), Outcome::Silent);
        assert_eq!(outcome(|publisher, node| publisher.acknowledged(node, ack(4))), Outcome::Silent);
        assert_eq!(outcome(|publisher, node| publisher.acknowledged(node, ack(5))), Outcome::Applied);
        assert_eq!(outcome(|publisher, node| publisher.acknowledged(node, ack(6))), Outcome::Superseded);
        assert_eq!(outcome(|publisher, node| publisher.rejected(node, reject(4))), Outcome::Silent);
        assert_eq!(outcome(|publisher, node| publisher.rejected(node, reject(5))), Outcome::Rejected);
        assert_eq!(outcome(|publisher, node| publisher.rejected(node, reject(6))), Outcome::Rejected);
    }

    #[test]
    fn a_generation_that_is_served_stays_applied_when_a_later_one_is_rejected() {
        let both = |publisher: &Publisher, node| {
            publisher.acknowledged(node, ack(5));
            publisher.rejected(node, reject(6));
        };
        assert_eq!(outcome(both), Outcome::Applied);
    }

    #[test]
    fn generations_are_numbered_in_the_order_of_their_publication() {
        let publisher = Publisher::new("office".into());
        let snapshot = Snapshot::check(Config { version: 1, ..Config::default() }).expect("it is sound");
        assert_eq!(publisher.publish(snapshot.clone()).generation, generation(1));
        assert_eq!(publisher.publish(snapshot).generation, generation(2));
    }
}
