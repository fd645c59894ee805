//! What a peer was not told of others while it was away: it is told when it is back.
//!
//! Whatever peers are told of each other happens at a point in the order of the mesh's generations,
//! and each lease knows up to which point its peer has surely been told. While it listens that is
//! now, but for events that no pong has confirmed yet: each batch is followed by a ping, so that
//! what was written to a half-open socket counts as not told. A peer that is back is told the
//! difference, behind its `hello_ack`: who came since and is here, who has gone that it may have heard
//! of, and whether somebody was hidden or shown. Nothing of whoever came and went meanwhile.
//!
//! Of those who are here their leases say when they came, across owners, too. Departures are kept in
//! memory for as long as somebody has missed them, and no more than [`GONE_KEPT`]; a new owner knows
//! those that the edges have not heard of yet.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use protocol::PresenceId;
use protocol::server::Frame;

use super::events;
use super::io::{ConnId, Edge, Effect, Generation, Now, Told};
use super::roster::{Hold, Lease, LeaseNo};
use super::state::Mesh;

/// Departures kept for those who have missed them. Beyond it the oldest are told to nobody.
pub const GONE_KEPT: usize = 1_024;
/// Bytes of events that a peer is told when it is back: what has no room, it does not hear of.
pub const MISSED_BYTES: usize = 1024 * 1024;

/// Marks the nonces of pings behind events; those behind envelopes are small numbers.
const EVENT_BIT: u64 = 1 << 63;
/// Below the bit: the epoch's last bits, then so many of the point's number.
const NUMBER_BITS: u32 = 40;

/// Up to which point a lease's peer has been told of others.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Knowledge {
    /// Surely, if it does not listen or has not confirmed what was said last.
    known: Generation,
    /// The last event said to it.
    said: Generation,
    /// A ping behind events is on its way.
    probed: bool,
}

impl Knowledge {
    /// Everything up to there has been told.
    pub(crate) fn up_to(point: Generation) -> Self {
        Self { known: point, said: point, probed: false }
    }
}

/// Who was here once.
#[derive(Debug)]
struct Gone {
    told: Told,
    came: Generation,
    went: Generation,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Missed {
    gone: VecDeque<Gone>,
    /// To be pinged behind the events that they are being told.
    probes: BTreeSet<LeaseNo>,
}

impl Missed {
    /// Another epoch: departures are still missed, pings are not answered any more.
    pub(super) fn begin_epoch(&mut self, again: bool) {
        self.probes.clear();
        if !again {
            self.gone.clear();
        }
    }

    /// Departures that somebody has missed.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.gone.len()
    }
}

impl Lease {
    /// The point up to which its peer has surely been told, if that is not now.
    fn behind(&self) -> Option<Generation> {
        let Knowledge { known, said, .. } = self.knowledge;
        let told = self.listening().is_some() && said <= known;
        (self.greeted && !told && self.hold != Hold::Leaving).then_some(known)
    }

    /// Whether its peer may have been told of what happened at a point: what no pong has confirmed
    /// may have arrived all the same.
    fn may_know(&self, point: Generation) -> bool {
        point <= self.knowledge.known.max(self.knowledge.said)
    }
}

impl Mesh {
    /// Now, in the order of what happens.
    pub(super) fn point(&self) -> Generation {
        Generation { epoch: self.epoch, number: self.generations }
    }

    /// These connections are being told of something that has just happened.
    pub(super) fn note_said(&mut self, conns: &[ConnId]) {
        let point = self.point();
        for conn in conns {
            let Some(no) = self.roster.of_conn(*conn) else { continue };
            if let Some(lease) = self.roster.get_mut(no) {
                lease.knowledge.said = point;
                self.missed.probes.insert(no);
            }
        }
    }

    /// A connection goes on, and its edge is told what its peers have missed: a pong shows whether
    /// that has reached this one.
    pub(super) fn ask_what_is_known(&mut self, no: LeaseNo) {
        let said = self.next_generation();
        if let Some(lease) = self.roster.get_mut(no) {
            (lease.knowledge.said, lease.knowledge.probed) = (said, false);
            self.missed.probes.insert(no);
        }
    }

    /// A lease is about to listen no more. What no pong has confirmed its peer may not have read, even
    /// if it closed in order: that was on its way while events went the other.
    pub(super) fn stops_listening(&mut self, no: LeaseNo) {
        let point = self.point();
        let Some(lease) = self.roster.get_mut(no).filter(|lease| lease.listening().is_some())
        else {
            return;
        };
        if lease.behind().is_none() {
            lease.knowledge.known = point;
        }
        lease.knowledge.probed = false;
        lease.record.known = lease.knowledge.known;
    }

    /// Its peer is back, and has its answer: it is told what it has missed.
    pub(super) fn catch_up(&mut self, now: Now, no: LeaseNo, conn: ConnId) {
        let point = self.point();
        let missed = self.missed_by(now, no);
        if let Some(lease) = self.roster.get_mut(no) {
            lease.knowledge.said = point;
            if missed.is_empty() {
                lease.knowledge.known = point;
            } else {
                self.missed.probes.insert(no);
            }
        }
        let mut bytes = 0;
        for (_, size, frame) in missed {
            bytes += size;
            if bytes > MISSED_BYTES {
                break;
            }
            self.out.push(Effect::Broadcast { conns: vec![conn], frame: Arc::new(frame) });
        }
    }

    /// What a lease's peer has missed, in order: at which point, how large, and what it is told.
    fn missed_by(&self, now: Now, no: LeaseNo) -> Vec<(Generation, usize, Frame)> {
        let Some(lease) = self.roster.get(no) else { return Vec::new() };
        let known = lease.knowledge.known;
        let mut missed = Vec::new();
        for (other, subject) in self.roster.iter() {
            if !subject.announced || self.unsure.contains(&other) {
                continue;
            }
            let shown = if subject.record.visible { "peer_visible" } else { "peer_hidden" };
            let happened = [(subject.shown.at, shown), (subject.arrived, subject.arrival())];
            for (at, event) in happened {
                if known < at && concerns(event, &subject.told(), lease) {
                    let frame = events::presence(&self.id, event, subject, now);
                    missed.push((at, subject.event_bytes(), frame));
                }
            }
        }
        for Gone { told, came, went } in &self.missed.gone {
            // To its peers it is the same that comes again under its key and name.
            let again = self.roster.addressed(&told.pubkey).map(|(_, lease)| lease);
            let again = again.filter(|other| other.announced && other.record.name == told.name);
            let back_at = again.map(|other| other.arrived).max();
            let returned = back_at.is_some_and(|at| at <= known);
            if lease.may_know(*came)
                && known < *went
                && !returned
                && concerns("peer_left", told, lease)
            {
                let at = back_at.map_or(*went, |at| at.min(*went));
                missed.push((at, 1024, events::left(&self.id, told, now)));
            }
        }
        // Of what is said to be at one point, the departure comes first.
        missed.reverse();
        missed.sort_by_key(|(at, ..)| *at);
        missed
    }

    /// Somebody who was announced has left: that is kept for those who are not told now.
    pub(super) fn note_gone(&mut self, told: Told, came: Generation, went: Generation) {
        let behind = || self.roster.iter().filter_map(|(_, lease)| lease.behind());
        let Some(oldest) = behind().min() else { return self.missed.gone.clear() };
        let is_missed = self.roster.iter().any(|(_, lease)| {
            lease.behind().is_some_and(|known| lease.may_know(came) && known < went)
        });
        let gone = &mut self.missed.gone;
        while gone.front().is_some_and(|first| first.went <= oldest) || gone.len() >= GONE_KEPT {
            gone.pop_front();
        }
        if is_missed {
            gone.push_back(Gone { told, came, went });
        }
    }

    /// Whom every edge that remembers knows, and who is not here, has left unsaid: its owner died
    /// behind the commit.
    pub(super) fn note_gone_before(&mut self, edges: &[Edge]) {
        let mut remembering = edges.iter().filter(|edge| !edge.told.is_empty());
        let Some(first) = remembering.next() else { return };
        let others: Vec<BTreeSet<&PresenceId>> =
            remembering.map(|edge| edge.told.iter().map(|told| &told.presence).collect()).collect();
        for told in &first.told {
            let noted = self.missed.gone.iter().any(|gone| gone.told.presence == told.presence);
            let here = self.roster.of_presence(&told.presence).is_some();
            if !noted && !here && others.iter().all(|known| known.contains(&told.presence)) {
                let went = self.next_generation();
                self.note_gone(told.clone(), Generation::default(), went);
            }
        }
    }

    /// Pings whoever was told something, behind that; one ping at a time.
    pub(super) fn probe_listeners(&mut self) {
        for no in std::mem::take(&mut self.missed.probes) {
            let Some(lease) = self.roster.get_mut(no) else { continue };
            let Some(conn) = lease.listening().filter(|_| lease.behind().is_some()) else {
                continue;
            };
            if !std::mem::replace(&mut lease.knowledge.probed, true) {
                let nonce = nonce(lease.knowledge.said);
                self.out.push(Effect::Probe { conn, nonce });
            }
        }
    }

    /// A pong came back; whether it was one behind events. What was said before the ping has
    /// arrived.
    pub(super) fn ponged_behind_events(&mut self, conn: ConnId, answered: u64) -> bool {
        if answered & EVENT_BIT == 0 {
            return false;
        }
        let point = Generation { epoch: self.epoch, number: answered & ((1 << NUMBER_BITS) - 1) };
        let lease = self.roster.of_conn(conn).and_then(|no| Some((no, self.roster.get_mut(no)?)));
        let Some((no, lease)) = lease else { return true };
        let knowledge = &mut lease.knowledge;
        if nonce(point) == answered && point <= knowledge.said && knowledge.probed {
            knowledge.probed = false;
            knowledge.known = knowledge.known.max(point);
            self.missed.probes.insert(no);
        }
        true
    }
}

fn nonce(point: Generation) -> u64 {
    let epoch = point.epoch & ((1 << (63 - NUMBER_BITS)) - 1);
    EVENT_BIT | epoch << NUMBER_BITS | point.number & ((1 << NUMBER_BITS) - 1)
}

/// Whether an event concerns a lease's peer. A session concerns everybody, and so does who can be
/// seen; a member's own connection that comes or goes is no news to its siblings.
pub(super) fn concerns(event: &'static str, subject: &Told, lease: &Lease) -> bool {
    let all = subject.session || matches!(event, "peer_visible" | "peer_hidden");
    lease.presence != subject.presence && (all || lease.record.member != subject.member)
}
