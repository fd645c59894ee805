//! One epoch after another: taking a mesh over, and starting anew when nobody knows what the store
//! holds.
//!
//! Everything that the store or the edges can tell again is dropped; the edges send again what has
//! no result. The same path as a change of owner.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use protocol::client::Status;
use protocol::server::Frame;
use protocol::{PresenceId, close};

use super::attach::SHORT_LIVED_MS;
use super::audit::Chain;
use super::beside::Reinstated;
use super::delivery::Delivery;
use super::events;
use super::facts::{Fact, Facts};
use super::io::{ConnId, Edge, Effect, Generation, Held, Ms, News, Now};
use super::missed::Knowledge;
use super::pipeline::{Pipeline, Then};
use super::query::Asked;
use super::room::Room;
use super::roster::{Hold, Lease, LeaseNo, Record, Roster};
use super::state::{Mesh, Phase};
use super::status::Expiries;
use crate::model::{Activation, StoredLease, Verified, Write};

/// No lease ends before every edge has said what it holds, but for so long at most, in
/// milliseconds: the session may be back at one that has not been heard yet.
pub const ANNOUNCE_MS: Ms = 5_000;
/// First and longest pause between attempts to activate.
const BACKOFF_MS: (Ms, Ms) = (100, 5_000);

impl Mesh {
    pub(super) fn activated(&mut self, now: Now, from: Activation, entropy: u128, edges: &[Edge]) {
        self.phase = Phase::Active;
        // Nobody else has owned it in between: what was told under the epoch before counts.
        let again = self.epoch > 0 && from.epoch == self.epoch + 1;
        self.epoch = from.epoch;
        self.floor = from.epoch;
        self.seq = from.tail;
        self.tail = from.tail;
        self.entropy = (entropy, 0);
        self.generations = 0;
        self.chain = Chain::after(from.audit_hash);
        self.verified = Verified::default();
        self.pipeline = Pipeline::default();
        let before = std::mem::take(&mut self.roster);
        self.delivery = Delivery::load(from.queues, self.delivery.tickets(), self.epoch);
        self.arrivals.clear();
        self.late.clear();
        self.asked.clear();
        self.stalled.clear();
        self.unsaid.clear();
        self.inbound.clear();
        self.facts = Facts::default();
        // Bans that are not durable are no reason to keep anything from anybody.
        self.revoked.clear();
        self.reinstated = Reinstated::default();
        self.cooldowns.load(from.kicked, now.mono);
        self.room = Room::default();
        self.ending.clear();
        self.expiries = Expiries::default();
        self.news.clear();
        self.unsure.clear();
        self.missed.begin_epoch(again);
        self.beat_at = None;
        self.patience = now.mono + ANNOUNCE_MS;
        let mut held = self.newest(edges.iter().flat_map(|edge| edge.held.iter().cloned()));
        for stored in from.leases {
            let held = held.remove(&stored.row.presence);
            self.restore(now, stored, held);
        }
        if let Some(stale) = from.stale_leases {
            self.write_mended(stale);
        }
        let mut orphans: Vec<_> = held.into_values().map(|held| held.conn).collect();
        orphans.sort_unstable();
        for conn in orphans {
            self.out.push(Effect::Close { conn, close: close::UNAVAILABLE });
        }
        self.out.push(Effect::Reset(self.epoch));
        // Whoever attaches brings its grants along; whoever was here already does not.
        if self.roster.iter().any(|(_, lease)| lease.conn().is_some()) {
            self.await_grants();
        }
        self.keep_beating(now);
        self.recall_news(now, edges, again.then_some(before));
        for edge in edges {
            self.tell_missed(now, edge);
        }
    }

    fn await_grants(&mut self) {
        if self.facts.awaits_grants() {
            return;
        }
        self.facts.await_grants();
        let question = self.grants_question();
        self.ask(question, Asked::Fact(Fact::Grants));
    }

    /// Whom the peers know of is what the edges say they were told. Nobody says so of a command
    /// that has only just come: it may be gone before it is anybody's news. Of one that looks like
    /// that, an heir is unsure until the edges have spoken.
    fn recall_news(&mut self, now: Now, edges: &[Edge], before: Option<Roster>) {
        let remembers = |edge: &&Edge| !edge.told.is_empty();
        self.recalling = edges.iter().filter(remembers).map(|edge| edge.process).collect();
        let again = before.is_some();
        let mut before: HashMap<_, _> = before
            .into_iter()
            .flat_map(Roster::into_leases)
            .map(|lease| (lease.presence.clone(), lease))
            .collect();
        let told: HashSet<_> = edges.iter().flat_map(|e| &e.told).map(|t| &t.presence).collect();
        let leases: Vec<_> = self.roster.iter().map(|(no, _)| no).collect();
        for no in leases {
            let Some(lease) = self.roster.get_mut(no) else { continue };
            if let Some(old) = before.remove(&lease.presence) {
                (lease.arrived, lease.shown) = (old.arrived, old.shown);
                if lease.conn().is_none() && old.listening().is_none() {
                    lease.knowledge = old.knowledge;
                }
                (lease.greeted, lease.saved, lease.heard) = (old.greeted, old.saved, old.heard);
                // What of the absence does not count, the store may not have been told.
                if let (Hold::Away { until: then }, Hold::Away { until }) = (old.hold, lease.hold)
                    && until < then
                {
                    self.roster.hold(no, Hold::Away { until: then });
                }
            }
            let Some(lease) = self.roster.get_mut(no) else { continue };
            if told.contains(&lease.presence) {
                continue;
            }
            self.set_announced(no, false);
            let short_lived = self.roster.get(no).is_some_and(Lease::is_short_lived);
            if short_lived && again {
                self.news.insert((now.mono + SHORT_LIVED_MS, no));
            } else if short_lived {
                self.unsure.insert(no);
            } else {
                // Whoever remembers has not been told: it is news, to those who are away as well.
                let news = !self.recalling.is_empty();
                let point = self.next_generation();
                self.set_announced(no, true);
                if let Some(lease) = self.roster.get_mut(no).filter(|_| news) {
                    lease.arrived = point;
                }
            }
        }
        let differs = |lease: &Lease| lease.shown.visible != lease.record.visible;
        let held_back = self.roster.iter().filter(|(_, lease)| differs(lease)).map(|(no, _)| no);
        self.visibility.begin_epoch(now.mono, held_back.collect());
        for (_, old) in before.into_iter().filter(|(_, old)| old.announced) {
            let went = self.next_generation();
            self.note_gone(old.told(), old.arrived, went);
        }
        self.note_gone_before(edges);
    }

    /// Every edge there is has said what its peers know.
    pub(super) fn all_announced(&mut self, now: Now) {
        self.patience = 0;
        if self.recalling.is_empty() {
            return self.assume_known();
        }
        let roster = &self.roster;
        let unknown = |no: &LeaseNo| roster.get(*no).is_some_and(|lease| !lease.announced);
        let unknown = self.unsure.extract_if(.., unknown);
        self.news.extend(unknown.map(|no| (now.mono + SHORT_LIVED_MS, no)));
    }

    /// Who remembers has not spoken in time, or is dead: of two mistakes, it is better to keep quiet
    /// about a command than to tell peers of somebody they know.
    pub(super) fn assume_known(&mut self) {
        for no in self.unsure.clone() {
            if !self.set_announced(no, true)
                && let Some(lease) = self.roster.get_mut(no)
            {
                lease.arrived = Generation::default();
                let (process, events, news) = (None, Vec::new(), News::Here(lease.told()));
                self.out.push(Effect::News { process, events, news });
            }
        }
    }

    /// A commit of unknown outcome, or an owner that died behind its commit, may have brought joins
    /// and departures that not everybody was told of.
    fn tell_missed(&mut self, now: Now, edge: &Edge) {
        let ours = |conn: &ConnId| conn.process == edge.process;
        let told: HashSet<_> = edge.told.iter().map(|told| &told.presence).collect();
        let mut events: Vec<(Vec<ConnId>, Arc<Frame>)> = Vec::new();
        for gone in &edge.told {
            if self.roster.of_presence(&gone.presence).is_some() {
                continue;
            }
            let conns: Vec<_> = self.concerned("peer_left", gone).filter(ours).collect();
            if !conns.is_empty() {
                events.push((conns, Arc::new(events::left(&self.id, gone, now))));
            }
        }
        for (no, lease) in self.roster.iter() {
            let missed = lease.announced && !self.unsure.contains(&no);
            if !missed || told.contains(&lease.presence) {
                continue;
            }
            let event = lease.arrival();
            let conns: Vec<_> = self.concerned(event, &lease.told()).filter(ours).collect();
            if !conns.is_empty() {
                let frame = events::presence(&self.id, event, lease, now);
                events.push((conns, Arc::new(frame)));
            }
        }
        let announced = self.roster.iter().filter(|(_, lease)| lease.announced);
        let news = News::All(announced.map(|(_, lease)| lease.told()).collect());
        self.next_generation();
        for (conns, _) in &events {
            self.note_said(conns);
        }
        self.out.push(Effect::News { process: Some(edge.process), events, news });
    }

    /// The store lacks what it is started from.
    fn write_mended(&mut self, stale: Vec<PresenceId>) {
        let rows = self.roster.iter().map(|(_, lease)| Write::SaveLease(lease.row()));
        let writes: Vec<_> = rows.chain(stale.into_iter().map(Write::DropLease)).collect();
        self.pipeline.push(writes, Then::Settled);
    }

    /// Whether something that connections of a process asked for may still come to an end.
    fn is_under_way(&self, process: u64) -> bool {
        let theirs = |conn: &ConnId| conn.process == process;
        let waits = !self.pipeline.is_empty() || !self.asked.is_empty();
        (waits || self.stalled.keys().any(theirs)) && self.inbound.keys().any(theirs)
    }

    /// An edge comes, or comes back: what it holds goes on, and it asks again for what it has no
    /// result of. Should some of that be under way here, a new epoch keeps the two apart.
    pub(super) fn announced(&mut self, now: Now, edge: &Edge) {
        if self.is_under_way(edge.process) {
            return self.reactivate(now);
        }
        let ours = |conn: &ConnId| conn.process == edge.process;
        if !edge.told.is_empty() {
            self.recalling.insert(edge.process);
        }
        self.forget_unheard(edge.process);
        self.inbound.retain(|conn, _| !ours(conn));
        self.arrivals.retain(|conn, _| !ours(conn));
        let mut held: HashMap<_, _> = self.newest(edge.held.iter().cloned()).into_iter().collect();
        let leases: Vec<_> = self.roster.iter().map(|(no, _)| no).collect();
        let mut resumed = false;
        for no in leases {
            let Some(lease) = self.roster.get(no) else { continue };
            let claim = held.remove(&lease.presence);
            let current = lease.record.generation;
            match (lease.hold, claim) {
                (Hold::Leaving, Some(held)) => {
                    self.out.push(Effect::Close { conn: held.conn, close: close::UNAVAILABLE });
                }
                (_, Some(held)) if held.generation < current => {
                    self.out
                        .push(Effect::Close { conn: held.conn, close: close::SESSION_REPLACED });
                }
                (before, Some(held)) => {
                    self.resume(now, no, before, held.conn);
                    resumed = true;
                }
                // Its hello is still being answered, or comes again.
                (Hold::Online { conn, answered: true }, None) if ours(&conn) => {
                    self.away(now, no, 0, Then::Settled);
                }
                (_, None) => {}
            }
        }
        let mut orphans: Vec<_> = held.into_values().map(|held| held.conn).collect();
        orphans.sort_unstable();
        for conn in orphans {
            self.out.push(Effect::Close { conn, close: close::UNAVAILABLE });
        }
        if resumed && !self.facts.knows_grants() {
            self.await_grants();
        }
        for told in &edge.told {
            let Some(no) = self.roster.of_presence(&told.presence) else { continue };
            self.unsure.remove(&no);
            if !self.set_announced(no, true) {
                self.news.retain(|(_, other)| *other != no);
                self.tell_arrival_elsewhere(now, no, edge.process);
            }
        }
        self.tell_missed(now, edge);
    }

    /// The peers of one edge know already. So may those of an edge that remembers nothing: they may
    /// have come from one that died.
    fn tell_arrival_elsewhere(&mut self, now: Now, no: LeaseNo, process: u64) {
        let Some(lease) = self.roster.get(no) else { return };
        let (event, told) = (lease.arrival(), lease.told());
        let mut events: Vec<_> = self.event(now, event, no).into_iter().collect();
        let tells =
            |conn: &ConnId| conn.process != process && self.recalling.contains(&conn.process);
        for (conns, _) in &mut events {
            conns.retain(tells);
        }
        events.retain(|(conns, _)| !conns.is_empty());
        self.out.push(Effect::News { process: None, events, news: News::Here(told) });
    }

    /// A connection that was here goes on; so does one that comes back from a node thought lost.
    fn resume(&mut self, now: Now, no: LeaseNo, before: Hold, conn: ConnId) {
        self.roster.hold(no, Hold::Online { conn, answered: true });
        self.ask_what_is_known(no);
        if let Some(lease) = self.roster.get_mut(no) {
            lease.heard = now.mono;
            let short_lived = lease.is_short_lived() && !self.unsure.contains(&no);
            if short_lived && !self.news.iter().any(|(_, other)| *other == no) {
                self.news.insert((now.mono + SHORT_LIVED_MS, no));
            }
        }
        match before {
            Hold::Online { conn: old, .. } if old != conn => {
                self.out.push(Effect::Close { conn: old, close: close::SESSION_REPLACED });
            }
            Hold::Online { .. } => {}
            Hold::Away { .. } | Hold::Leaving => self.save(no, Then::Settled),
        }
        self.delivery.detach(no);
        self.delivery.attach(no, self.may_confirm_by_pong(no));
    }

    /// Nobody will hear what was refused there: it is asked again, with what came behind it.
    fn forget_unheard(&mut self, process: u64) {
        let unheard = self.unsaid.extract_if(|conn, _| conn.process == process);
        for (conn, _) in unheard {
            self.stalled.remove(&conn);
            self.inbound.remove(&conn);
        }
    }

    /// A whole process is gone: its connections with it, since it was last heard of.
    pub(super) fn edge_lost(&mut self, now: Now, process: u64, ago_ms: Ms) {
        let theirs = |conn: &ConnId| conn.process == process;
        if !self.is_under_way(process) {
            self.inbound.retain(|conn, _| !theirs(conn));
        }
        self.arrivals.retain(|conn, _| !theirs(conn));
        self.forget_unheard(process);
        let held = self.roster.iter().filter(|(_, lease)| lease.conn().is_some_and(|c| theirs(&c)));
        let held: Vec<_> = held.map(|(no, _)| no).collect();
        for no in held {
            // The process may only be thought lost: what is held there may be held again.
            self.news.retain(|(_, other)| *other != no);
            // Whoever was heard of since, through that node, was not gone yet.
            let heard = self.roster.get(no).map_or(0, |lease| now.mono.saturating_sub(lease.heard));
            self.away(now, no, ago_ms.min(heard), Then::Settled);
        }
    }

    /// A line that was displaced may not be gone yet: of those that hold a presence, the newest.
    fn newest(&mut self, all: impl Iterator<Item = Held>) -> HashMap<PresenceId, Held> {
        let mut newest: HashMap<PresenceId, Held> = HashMap::new();
        for held in all {
            let older = match newest.entry(held.presence.clone()) {
                Entry::Vacant(vacant) => {
                    vacant.insert(held);
                    continue;
                }
                Entry::Occupied(mut other) if other.get().generation < held.generation => {
                    other.insert(held)
                }
                Entry::Occupied(_) => held,
            };
            let close = close::SESSION_REPLACED;
            self.out.push(Effect::Close { conn: older.conn, close });
        }
        newest
    }

    /// A lease as the store has it, and as an edge holds it.
    fn restore(&mut self, now: Now, stored: StoredLease, edge: Option<Held>) {
        let Ok(record) = serde_json::from_str::<Record>(&stored.row.body) else {
            self.pipeline.push(vec![Write::DropLease(stored.row.presence)], Then::Settled);
            return;
        };
        let conn = edge.and_then(|held| {
            let current = held.generation >= record.generation;
            if !current {
                let close = close::SESSION_REPLACED;
                self.out.push(Effect::Close { conn: held.conn, close });
            }
            current.then_some(held.conn)
        });
        // Time without an owner does not count: the grace goes on where it stood.
        let away_ms = stored.away_ms.saturating_sub(record.uncounted_ms);
        let left = self.limits.grace_ms.saturating_sub(away_ms);
        let hold = match conn {
            Some(conn) => Hold::Online { conn, answered: true },
            None => Hold::Away { until: now.mono + left },
        };
        // Whoever was here when the owner died knew what there was to know.
        let known = if stored.row.away { record.known } else { self.point() };
        let mut lease = Lease::new(stored.row.presence, record, hold, true, now.mono);
        lease.record.known = known;
        let known = if conn.is_some() { self.point() } else { known };
        lease.knowledge = Knowledge::up_to(known);
        let standing = lease.standing();
        let changed = lease.conn().is_none() != stored.row.away;
        let no = self.admit(lease);
        self.expiries.set(no, standing.until(self.limits.status));
        self.delivery.set_busy(no, standing.status != Status::Idle);
        if conn.is_some() {
            self.delivery.attach(no, self.may_confirm_by_pong(no));
        }
        if changed {
            self.save(no, Then::Settled);
        }
    }

    pub(super) fn missing(&mut self) {
        self.phase = Phase::Missing;
        self.epoch = 0;
        self.out.push(Effect::Reset(0));
    }

    pub(super) fn not_activated(&mut self, now: Now) {
        if self.phase == Phase::Activating {
            self.pause = self.pause.max(BACKOFF_MS.0);
            self.pause(now);
        }
    }

    /// Nobody knows what the store holds: ask it, under a new epoch. At once, unless the epoch
    /// before has brought no commit either.
    pub(super) fn reactivate(&mut self, now: Now) {
        if self.pause == 0 {
            self.pause = BACKOFF_MS.0;
            self.activate();
        } else {
            self.pause(now);
        }
    }

    fn pause(&mut self, now: Now) {
        self.phase = Phase::Pausing { until: now.mono + self.pause };
        self.pause = (self.pause * 2).min(BACKOFF_MS.1);
    }

    pub(super) fn activate(&mut self) {
        self.phase = Phase::Activating;
        self.out.push(Effect::Activate { floor: self.floor });
    }
}
