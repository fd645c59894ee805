//! Judges a run by its log: which promises did it break? Pure, so that a log doctored by a test can
//! show that each kind of fault is found.
//!
//! [`messages`] judges loss, duplicates and order (P1–P4), [`presence`] who was seen to come and go
//! (P5), [`outage`] how long what stood still. What the clients cannot know is taken in the nodes'
//! favour: a session on a node that was lost may count as away from the moment the node was lost.

mod messages;
mod outage;
mod presence;
mod span;

use std::collections::BTreeMap;

use serde::Serialize;

use super::log::{Kind, Line, What};
use messages::Messages;
pub(crate) use outage::Outage;
use outage::Outages;
use presence::Presence;

/// Violations of a kind described one by one; the rest is only counted.
const DESCRIBED: u64 = 50;

/// The ways a run can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Breach {
    /// Acked, and never seen by its recipient.
    Lost,
    /// One message under two ids.
    AcceptedTwice,
    /// Accepted, and then refused for good.
    RefusedAfterAll,
    /// At a peer it was not for.
    Misrouted,
    /// Behind a later one of the same sender's connection.
    Inversion,
    /// Seen to leave while it was there or in grace.
    WrongLeft,
    /// Seen to come though it had not been away.
    WrongJoined,
    /// The same event twice in a row.
    Repeated,
    /// Left for longer than the grace, unseen by somebody.
    UnseenLeft,
    /// Came back after that, unseen by somebody.
    UnseenJoined,
    /// Another presence for a session that came back within its grace.
    NewPresence,
    /// No connection to be had, though a balancer had a node to give it to.
    Refused,
    /// Somebody got no ack within the deadline after a fault, or a node did not do as told.
    Stalled,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Violation {
    pub(crate) breach: Breach,
    pub(crate) ms: u64,
    pub(crate) text: String,
}

/// What the run amounts to.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Verdict {
    pub(crate) counts: BTreeMap<Breach, u64>,
    pub(crate) violations: Vec<Violation>,
    pub(crate) seconds: u64,
    pub(crate) sent: u64,
    pub(crate) acked: u64,
    pub(crate) delivered: u64,
    pub(crate) refused: u64,
    pub(crate) connections: u64,
    /// Connections that nobody took.
    pub(crate) connections_refused: u64,
    /// Pushes of a message to a peer that had it already.
    pub(crate) duplicates: u64,
    /// Connections ended by one of the same client that it had given up before.
    pub(crate) displaced: u64,
    /// Out of order, but sent to a member: two of its connections may take turns.
    pub(crate) member_inversions: u64,
    /// Absences that lasted so long that everybody had to be told.
    pub(crate) departures: u64,
    /// `peer_left` expected of them and seen, one for each watcher.
    pub(crate) departures_seen: u64,
    /// Absences so short that nobody might be told: P5 at work.
    pub(crate) returns_in_grace: u64,
    /// Events that could be judged wrong, and were not.
    pub(crate) events: u64,
    /// The latest `peer_left` after the end of the grace, and the latest `peer_joined` after the
    /// hello: for so long a list of peers was wrong. With and without the time of faults.
    pub(crate) longest_wrong_presence_ms: u64,
    pub(crate) longest_wrong_presence_net_ms: u64,
    /// The longest time between two acks in any mesh.
    pub(crate) worst_stall_ms: u64,
    pub(crate) outages: Vec<Outage>,
}

impl Verdict {
    pub(crate) fn is_clean(&self) -> bool {
        self.counts.is_empty()
    }

    fn add(&mut self, breach: Breach, ms: u64, text: String) {
        let count = self.counts.entry(breach).or_default();
        *count += 1;
        if *count <= DESCRIBED {
            self.violations.push(Violation { breach, ms, text });
        }
    }
}

/// A client, as its first line told.
struct Client {
    mesh: String,
    member: String,
    kind: Kind,
    key: String,
}

type Clients = BTreeMap<u32, Client>;

/// Takes a run in, line by line.
#[derive(Default)]
pub(crate) struct Checker {
    clients: Clients,
    verdict: Verdict,
    messages: Messages,
    presence: Presence,
    outages: Outages,
    grace_ms: u64,
    place: u64,
    must_be_reachable: bool,
}

impl Checker {
    pub(crate) fn take(&mut self, line: Line) {
        self.place += 1;
        self.verdict.seconds = line.ms / 1000;
        match &line.what {
            What::Client { mesh, member, kind, key } => {
                let (mesh, member, key) = (mesh.clone(), member.clone(), key.clone());
                self.clients.insert(line.who, Client { mesh, member, kind: *kind, key });
            }
            What::Settings { grace_ms } => self.grace_ms = *grace_ms,
            What::FaultBegan { reachable, .. } => self.must_be_reachable = *reachable,
            What::Recovered => self.must_be_reachable = false,
            What::ConnectionRefused { why } => {
                self.verdict.connections_refused += 1;
                if self.must_be_reachable {
                    let text = format!("client {} was refused: {why}", line.who);
                    self.verdict.add(Breach::Refused, line.ms, text);
                }
            }
            What::Complaint { text } => self.verdict.add(Breach::Stalled, line.ms, text.clone()),
            _ => {}
        }
        self.messages.take(self.place, &line, &mut self.verdict);
        self.outages.take(&line, &self.clients);
        self.presence.take(line);
    }

    pub(crate) fn verdict(mut self) -> Verdict {
        self.outages.judge(&mut self.verdict);
        self.presence.judge(&self.clients, self.grace_ms, &mut self.verdict);
        let presence = &self.presence;
        let gone = |who, ms| presence.left_soon_after(who, ms);
        let left = |who| presence.may_have_left(who);
        self.messages.judge(&self.clients, gone, left, &mut self.verdict);
        self.verdict.violations.sort_by_key(|violation| violation.ms);
        self.verdict
    }
}

#[cfg(test)]
mod tests;
