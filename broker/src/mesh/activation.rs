//! One epoch after another: taking a mesh over, and starting anew when nobody knows what the store
//! holds.
//!
//! Everything that the store or the edges can tell again is dropped; the edges send again what has
//! no result. The same path as a change of owner.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use protocol::client::Status;
use protocol::{PresenceId, close};

use super::attach::BRIEF_MS;
use super::audit::Chain;
use super::delivery::Delivery;
use super::facts::{Fact, Facts};
use super::io::{Effect, Held, Ms, Now, Question};
use super::pipeline::{Pipeline, Then};
use super::query::Asked;
use super::roster::{Hold, Lease, Record, Roster};
use super::state::{Mesh, Phase};
use super::status::Expiries;
use crate::model::{Activation, StoredLease, Write};

/// First and longest pause between attempts to activate.
const BACKOFF_MS: (Ms, Ms) = (100, 5_000);

impl Mesh {
    pub(super) fn activated(&mut self, now: Now, from: Activation, entropy: u128, held: Vec<Held>) {
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
        self.pipeline = Pipeline::default();
        let before = std::mem::take(&mut self.roster);
        self.delivery = Delivery::load(from.queues, self.delivery.tickets());
        self.arrivals.clear();
        self.late.clear();
        self.asked.clear();
        self.stalled.clear();
        self.inbound.clear();
        self.facts = Facts::default();
        self.expiries = Expiries::default();
        self.news.clear();
        self.beat_at = None;
        let mut held = self.newest(held);
        for stored in from.leases {
            let held = held.remove(&stored.row.presence);
            self.restore(now, stored, held);
        }
        let mut orphans: Vec<_> = held.into_values().map(|held| held.conn).collect();
        orphans.sort_unstable();
        for conn in orphans {
            self.out.push(Effect::Close { conn, close: close::UNAVAILABLE });
        }
        self.out.push(Effect::Reset(self.epoch));
        // Whoever attaches brings its grants along; whoever was here already does not.
        if self.roster.iter().any(|(_, lease)| lease.conn().is_some()) {
            self.facts.await_grants();
            self.ask(Question::Grants, Asked::Fact(Fact::Grants));
        }
        self.keep_beating(now);
        if again {
            self.catch_up(now, before);
        }
    }

    /// A commit of unknown outcome may have brought joins and departures that nobody was told of.
    fn catch_up(&mut self, now: Now, before: Roster) {
        for old in before.into_leases() {
            let Some(no) = self.roster.of_presence(&old.presence) else {
                if old.announced {
                    let draw = self.draw();
                    let told = self.told_of(now, "peer_left", &old, draw);
                    self.out.extend(told);
                }
                continue;
            };
            let Some(lease) = self.roster.get_mut(no) else { continue };
            lease.announced = old.announced;
            lease.greeted = old.greeted;
            lease.saved = old.saved;
            lease.heard = old.heard;
            if self.is_brief(no) {
                self.news.insert((now.mono + BRIEF_MS, no));
            } else if !old.announced {
                self.announce_arrival(now, no);
            }
        }
    }

    /// A line that was displaced may not be gone yet: of those that hold a presence, the newest.
    fn newest(&mut self, all: Vec<Held>) -> HashMap<PresenceId, Held> {
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
        let left = self.limits.grace_ms.saturating_sub(stored.away_ms);
        let hold = match conn {
            Some(conn) => Hold::Online { conn, answered: true },
            None => Hold::Away { until: now.mono + left },
        };
        let lease = Lease::new(stored.row.presence, record, hold, true, now.mono);
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
