//! Going: graces, departures, and what the others are told.
//!
//! A departure is one commit, whatever its reason: the audit entry, the lease, what is saved of it.
//! Nothing that others see comes before it is durable.

use std::sync::Arc;

use protocol::server::Frame;
use serde_json::json;

use super::io::{ConnId, Effect, Ms, News, Now, Told};
use super::pipeline::{Left, Then};
use super::roster::{Hold, Lease, LeaseNo};
use super::state::Mesh;
use super::{audit, events};
use crate::model::{Recipient, Write};

impl Mesh {
    /// A lease's connection is gone since `ago_ms`: then its grace has begun.
    pub(super) fn away(&mut self, now: Now, no: LeaseNo, ago_ms: Ms, then: Then) {
        let left = self.limits.grace_ms.saturating_sub(ago_ms);
        self.roster.hold(no, Hold::Away { until: now.mono + left });
        self.delivery.detach(no);
        let Some(lease) = self.roster.get_mut(no) else { return };
        let mut writes = save_state(lease, now.wall).into_iter().collect::<Vec<_>>();
        writes.push(Write::SaveLease(lease.row()));
        self.pipeline.push(writes, then);
        self.keep_beating(now);
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
        if let Recipient::Presence(from) = own.clone() {
            self.room.inherit(&own, &Recipient::Member(to.clone()));
            writes.push(Write::Inherit { from, to });
        }
        writes
    }

    /// The departure is durable: everything the presence owned is freed, here and nowhere else.
    pub(super) fn left(&mut self, now: Now, no: LeaseNo) {
        let announced = self.roster.get(no).is_some_and(|lease| lease.announced);
        let events = self.event(now, "peer_left", no).filter(|_| announced);
        let Some(lease) = self.roster.remove(no) else { return };
        self.unsure.remove(&no);
        if announced {
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

    /// Tells the others.
    pub(super) fn announce(&mut self, now: Now, event: &'static str, no: LeaseNo) {
        if let Some((conns, frame)) = self.event(now, event, no) {
            self.out.push(Effect::Broadcast { conns, frame });
        }
    }

    /// What there is to tell, and whom; nothing if it concerns nobody.
    pub(super) fn event(
        &mut self,
        now: Now,
        event: &'static str,
        no: LeaseNo,
    ) -> Option<(Vec<ConnId>, Arc<Frame>)> {
        let draw = self.draw();
        let subject = self.roster.get(no)?;
        let conns: Vec<_> = self.concerned(event, &subject.told()).collect();
        let frame = || Arc::new(events::presence(&self.id, event, subject, draw, now));
        (!conns.is_empty()).then(|| (conns, frame()))
    }

    /// Whom an event concerns. A session concerns everybody, and so does who can be seen; a member's
    /// own connection that comes or goes is no news to its siblings.
    pub(super) fn concerned(
        &self,
        event: &'static str,
        subject: &Told,
    ) -> impl Iterator<Item = ConnId> {
        let all = subject.session || matches!(event, "peer_visible" | "peer_hidden");
        self.roster.iter().filter_map(move |(_, lease)| {
            let other = lease.presence != subject.presence;
            let concerned = all || lease.record.member != subject.member;
            lease.listening().filter(|_| other && concerned)
        })
    }
}

/// Sessions keep their state to themselves.
fn save_state(lease: &mut Lease, wall: i64) -> Option<Write> {
    (!lease.record.proven).then(|| Write::SaveState(lease.record.save(wall)))
}
