//! Loss, duplicates and order.
//!
//! Order is promised per sender's connection: of two messages to one session with equal priority, *a*
//! comes before *b* if *a* was written to a connection before *b* was ever written to any, and *b*
//! was first written to that same connection. A refusal takes a write's claim away: what was
//! refused is accepted when it is sent again, if at all. A refusal may also have found its
//! connection closed: the edge gives up what has no result for 8 s, and refuses while the store is
//! away. So *b* proves nothing if it came when *a* may have been refused unheard.

use std::collections::{HashMap, HashSet};

use super::{Breach, Clients, Kind, Verdict};
use crate::chaos::log::{Line, Message, What};

/// An edge refuses what has no result for 8 s; it has not refused what was overtaken before that.
const UNREFUSED_MS: u64 = 7_500;

/// A write of a message to a socket.
#[derive(Debug, Clone, Copy)]
struct Written {
    conn: u32,
    /// Its line in the log.
    place: u64,
    ms: u64,
}

/// One message, from its first write to its arrival.
#[derive(Debug)]
struct Fate {
    to: u32,
    priority: String,
    first: Written,
    /// Writes since the last refusal: each must have had it accepted, if it reached the broker.
    writes: Vec<Written>,
    acked: Option<String>,
    acked_ms: u64,
    /// Where and under which id it has come.
    pushed: Vec<(u32, String)>,
}

/// A message that has come, by its first write.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    place: u64,
    number: u32,
    ms: u64,
}

/// Of one sender, receiver and priority: the latest first write that has arrived, by connection.
type Lane = HashMap<u32, Arrival>;

/// What an answer may have been lost with.
#[derive(Default)]
struct Connections {
    /// By client and connection: the node, and when it ended.
    all: HashMap<(u32, u32), (String, Option<u64>)>,
    /// When a node that was lost came back last: it then handles what it had read.
    back: HashMap<String, u64>,
    /// When the store was last in trouble, if it was.
    trouble: Option<u64>,
    in_trouble: bool,
}

impl Connections {
    fn take(&mut self, line: &Line) {
        match &line.what {
            What::Connected { conn, node } => {
                self.all.insert((line.who, *conn), (node.clone(), None));
            }
            What::Closed { conn, .. } => {
                if let Some((_, closed)) = self.all.get_mut(&(line.who, *conn)) {
                    closed.get_or_insert(line.ms);
                }
            }
            What::NodeBack { node } => {
                self.back.insert(node.clone(), line.ms);
            }
            What::FaultBegan { name, .. } => self.in_trouble = name.contains("postgres"),
            What::Recovered => self.in_trouble = false,
            _ => {}
        }
        if self.in_trouble {
            self.trouble = Some(line.ms);
        }
    }

    /// Whether it may have been refused by then without its sender's hearing of it.
    fn may_have_refused(&self, who: u32, written: &Written, by: u64) -> bool {
        let Some((node, Some(_))) = self.all.get(&(who, written.conn)) else { return false };
        let late = self.back.get(node).is_some_and(|back| *back >= written.ms);
        let troubled = self.trouble.is_some_and(|last| last >= written.ms);
        by.saturating_sub(written.ms) >= UNREFUSED_MS || late || troubled
    }
}

#[derive(Default)]
pub(super) struct Messages {
    connections: Connections,
    fates: HashMap<Message, Fate>,
    lanes: HashMap<(u32, u32, String), Lane>,
    /// Found out of order: the receiver, the message, the one that overtook it.
    inverted: Vec<(u64, u32, Message, u32)>,
    strangers: HashSet<String>,
}

impl Messages {
    pub(super) fn take(&mut self, place: u64, line: &Line, verdict: &mut Verdict) {
        self.connections.take(line);
        let of = |number: &u32| Message { from: line.who, number: *number };
        match &line.what {
            What::Sent { conn, number, to, priority, .. } => {
                verdict.sent += 1;
                let written = Written { conn: *conn, place, ms: line.ms };
                let fate = self.fates.entry(of(number)).or_insert_with(|| Fate {
                    to: *to,
                    priority: priority.clone(),
                    first: written,
                    writes: Vec::new(),
                    acked: None,
                    acked_ms: 0,
                    pushed: Vec::new(),
                });
                fate.writes.push(written);
            }
            What::Acked { number, id, .. } => self.acked(of(number), id, line.ms, verdict),
            What::Refused { number, error, last, .. } => {
                self.refused(of(number), error, *last, line.ms, verdict);
            }
            What::Pushed { id, message, .. } => {
                self.pushed(line.who, *message, id, line.ms, verdict);
            }
            What::HelloAck { .. } => verdict.connections += 1,
            // No client has two connections.
            What::Closed { why, .. } => {
                verdict.displaced += u64::from(why.contains("session_replaced"));
            }
            _ => {}
        }
    }

    fn acked(&mut self, message: Message, id: &str, ms: u64, verdict: &mut Verdict) {
        let Some(fate) = self.fates.get_mut(&message) else { return };
        let other = fate.pushed.iter().find(|(_, pushed)| pushed != id).map(|(_, pushed)| pushed);
        if let Some(other) = fate.acked.as_ref().filter(|acked| *acked != id).or(other) {
            let text = format!("{}: acked as {id}, known as {other}", name(message));
            verdict.add(Breach::AcceptedTwice, ms, text);
        }
        if fate.acked.is_none() {
            verdict.acked += 1;
            fate.acked = Some(id.to_owned());
            fate.acked_ms = ms;
        }
    }

    fn refused(&mut self, at: Message, error: &str, last: bool, ms: u64, verdict: &mut Verdict) {
        let Some(fate) = self.fates.get_mut(&at) else { return };
        verdict.refused += u64::from(last);
        fate.writes.clear();
        // "Unavailable" says that nobody knows; what says "no" must not be said of what was taken.
        let denied = !error.contains("unavailable") && !error.contains("retry");
        if denied && (fate.acked.is_some() || !fate.pushed.is_empty()) {
            let text = format!("{}: accepted, then refused: {error}", name(at));
            verdict.add(Breach::RefusedAfterAll, ms, text);
        }
    }

    fn pushed(&mut self, who: u32, at: Message, id: &str, ms: u64, verdict: &mut Verdict) {
        let Some(fate) = self.fates.get_mut(&at) else {
            if self.strangers.insert(id.to_owned()) {
                verdict.add(Breach::Misrouted, ms, format!("{}: nobody sent it", name(at)));
            }
            return;
        };
        let other = fate.pushed.iter().map(|(_, id)| id).chain(&fate.acked).find(|was| *was != id);
        if let Some(other) = other {
            let text = format!("{}: pushed as {id}, known as {other}", name(at));
            verdict.add(Breach::AcceptedTwice, ms, text);
        }
        if fate.pushed.iter().any(|(whom, _)| *whom == who) {
            verdict.duplicates += 1;
            return;
        }
        fate.pushed.push((who, id.to_owned()));
        let lane = self.lanes.entry((at.from, who, fate.priority.clone())).or_default();
        let overtaken = fate.writes.iter().find_map(|written| {
            let by = lane.get(&written.conn).filter(|by| by.place > written.place)?;
            let excused = self.connections.may_have_refused(at.from, written, by.ms);
            (!excused).then_some(by.number)
        });
        if let Some(overtaker) = overtaken {
            self.inverted.push((ms, who, at, overtaker));
        }
        let arrival = Arrival { place: fate.first.place, number: at.number, ms };
        let latest = lane.entry(fate.first.conn).or_insert(arrival);
        if latest.place < arrival.place {
            *latest = arrival;
        }
    }

    pub(super) fn judge(
        &self,
        clients: &Clients,
        gone: impl Fn(u32, u64) -> bool,
        may_have_left: impl Fn(u32) -> bool,
        verdict: &mut Verdict,
    ) {
        for (message, fate) in &self.fates {
            let Some(to) = clients.get(&fate.to) else { continue };
            // What is sent to a member's key is any of its connections'; what was resolved to a
            // key that nobody proved goes to the member when the presence ends.
            let fits = |who: &u32| {
                let same_member = || clients.get(who).is_some_and(|c| c.member == to.member);
                *who == fate.to || (to.kind != Kind::Session && same_member())
            };
            for (who, id) in fate.pushed.iter().filter(|(who, _)| !fits(who)) {
                let text = format!("{} for {}: {id} came to {who}", name(*message), fate.to);
                verdict.add(Breach::Misrouted, fate.acked_ms, text);
            }
            verdict.delivered += u64::from(!fate.pushed.is_empty());
            if let Some(id) = &fate.acked
                && !fate.pushed.iter().any(|(who, _)| fits(who))
                && !gone(fate.to, fate.acked_ms)
            {
                let text = format!("{} for {}: acked as {id}, never came", name(*message), fate.to);
                verdict.add(Breach::Lost, fate.acked_ms, text);
            }
        }
        for (ms, who, message, overtaker) in &self.inverted {
            let Some(to) = self.fates.get(message).map(|fate| fate.to) else { continue };
            let inherited = |kind| match kind {
                Kind::Session => false,
                Kind::Daemon => true,
                Kind::Silent => may_have_left(to),
            };
            if clients.get(&to).is_some_and(|to| inherited(to.kind)) {
                verdict.member_inversions += 1;
            } else {
                let text = format!("{} came to {who} after {overtaker}", name(*message));
                verdict.add(Breach::Inversion, *ms, text);
            }
        }
    }
}

fn name(message: Message) -> String {
    format!("message {} of client {}", message.number, message.from)
}
