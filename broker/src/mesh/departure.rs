//! Going: graces, departures, and what the others are told.
//!
//! A departure is one commit, whatever its reason: the audit entry, the lease, what is saved of it.
//! Nothing that others see comes before it is durable.

use std::sync::Arc;

use protocol::server::Frame;
use serde_json::json;

use super::io::{ConnId, Effect, Ms, News, Now, STALL_MS, Told};
use super::missed::concerns;
use super::pipeline::{Left, Then};
use super::roster::{Hold, Lease, LeaseNo};
use super::state::Mesh;
use super::{audit, events};
use crate::model::{Recipient, Write};

/// When the node stood still, sessions in grace have at least so long to come back, in milliseconds:
/// they may have tried meanwhile. Within the lateness that P5 allows.
const RETURN_MS: Ms = 4_000;

impl Mesh {
    /// A lease's connection is gone since `ago_ms`: then its grace has begun.
    pub(super) fn away(&mut self, now: Now, no: LeaseNo, ago_ms: Ms, then: Then) {
        let left = self.limits.grace_ms.saturating_sub(ago_ms);
        self.stops_listening(no);
        self.roster.hold(no, Hold::Away { until: now.mono + left });
        self.delivery.detach(no);
        let Some(lease) = self.roster.get_mut(no) else { return };
        lease.record.uncounted_ms = 0;
        let mut writes = save_state(lease, now.wall).into_iter().collect::<Vec<_>>();
        writes.push(Write::SaveLease(lease.row()));
        self.pipeline.push(writes, then);
        self.keep_beating(now);
    }

    /// Whether the node stood still is told by how late it looks: while anybody is in grace it looks
    /// every second. Time in which nobody could come back does not count, and what they sent
    /// meanwhile may only just be arriving.
    pub(super) fn make_up_for_lateness(&mut self, now: Now) {
        // What may be due at once when it comes up tells nothing: a grace that was over before, doubt.
        let news = self.news.first().map(|(at, _)| *at);
        let due = [self.beat_at, self.expiries.deadline(), news].into_iter().flatten().min();
        let late = due.map_or(0, |due| now.mono.saturating_sub(due));
        if late <= STALL_MS {
            return;
        }
        for (no, by) in self.roster.postpone(late, now.mono + RETURN_MS) {
            if let Some(lease) = self.roster.get_mut(no) {
                lease.record.uncounted_ms += by;
            }
            self.save(no, Then::Settled);
        }
        self.news = self.news.iter().map(|(at, no)| (at + late, *no)).collect();
        for (no, lease) in self.roster.iter_mut() {
            lease.heard = (lease.heard + late).min(now.mono);
            // Nobody could repeat what ended meanwhile.
            if lease.standing().until(self.limits.status).is_some_and(|until| until <= now.mono) {
                lease.status_since = now.mono;
                self.expiries.set(no, lease.standing().until(self.limits.status));
            }
        }
    }

    pub(super) fn save(&mut self, no: LeaseNo, then: Then) {
        if let Some(lease) = self.roster.get(no) {
            self.pipeline.push(vec![Write::SaveLease(lease.row())], then);
        }
    }

    /// The grace is over: write the departure.
    pub(super) fn leave(&mut self, now: Now, no: LeaseNo, left: Left) {
        let writes = self.departure(now, no);
        let left = Left { leases: vec![no], ..left };
        self.pipeline.push(writes, Then::Left(Box::new(left)));
    }

    /// What is written when a presence ends, for whatever reason. From here on nothing reaches it.
    pub(super) fn departure(&mut self, now: Now, no: LeaseNo) -> Vec<Write> {
        self.roster.hold(no, Hold::Leaving);
        self.delivery.detach(no);
        self.expiries.set(no, None);
        let Some(lease) = self.roster.get_mut(no) else { return Vec::new() };
        let mut writes: Vec<_> = save_state(lease, now.wall).into_iter().collect();
        let row = audit::entry("peer_left", &lease.sender, &json!({}), now.wall);
        writes.push(Write::Audit(row));
        writes.push(Write::DropLease(lease.presence.clone()));
        let own = lease.own();
        let to = lease.record.member.clone();
        // What is sealed to a claimed key nobody else can open.
        let sealed = lease.claimed_key().cloned();
        if let Recipient::Presence(from) = own.clone() {
            writes.extend(sealed.map(|key| Write::Undeliverable { presence: from.clone(), key }));
            self.room.inherit(&own, &Recipient::Member(to.clone()));
            writes.push(Write::Inherit { from, to });
        }
        writes
    }

    /// The departure is durable: everything the presence owned is freed, here and nowhere else.
    pub(super) fn left(&mut self, now: Now, no: LeaseNo) {
        let announced = self.roster.get(no).is_some_and(|lease| lease.announced);
        let went = self.next_generation();
        let events = if announced { self.event(now, "peer_left", no) } else { None };
        let Some(lease) = self.roster.remove(no) else { return };
        self.unsure.remove(&no);
        if announced {
            self.note_gone(lease.told(), lease.arrived, went);
            let news = News::Gone(lease.presence.clone());
            let events = events.into_iter().collect();
            self.out.push(Effect::News { process: None, events, news });
        }
        self.delivery.close(no, matches!(lease.own(), Recipient::Presence(_)));
        for conn in self.late.remove(&no).unwrap_or_default() {
            // Much may have changed while it waited: that it was banned, for one.
            self.identify(conn);
        }
    }

    /// What there is to tell, and whom; nothing if it concerns nobody.
    pub(super) fn event(
        &mut self,
        now: Now,
        event: &'static str,
        no: LeaseNo,
    ) -> Option<(Vec<ConnId>, Arc<Frame>)> {
        let subject = self.roster.get(no)?;
        let conns: Vec<_> = self.concerned(event, &subject.told()).collect();
        if conns.is_empty() {
            return None;
        }
        let frame = Arc::new(events::presence(&self.id, event, subject, now));
        self.note_said(&conns);
        Some((conns, frame))
    }

    /// Whom an event concerns, of those who listen.
    pub(super) fn concerned(
        &self,
        event: &'static str,
        subject: &Told,
    ) -> impl Iterator<Item = ConnId> {
        let listening = self.roster.iter().filter(move |(_, l)| concerns(event, subject, l));
        listening.filter_map(|(_, lease)| lease.listening())
    }
}

/// Sessions keep their state to themselves.
fn save_state(lease: &mut Lease, wall: i64) -> Option<Write> {
    (!lease.record.proven).then(|| Write::SaveState(lease.record.save(wall)))
}
