//! Removals and roles that others wrote to the store, beside the broker.
//!
//! The node asks the store every second how the members stand that hold leases. Whoever has been
//! removed leaves as if it had been banned, and everybody leaves an archived mesh; nothing is
//! written about the removal itself, which others have recorded. From the moment this is noticed
//! the member has no say, though its departure is not durable yet.

use std::sync::Arc;

use protocol::{MemberId, close};

use super::io::{Ms, Now};
use super::moderation::REVOKED_MS;
use super::pipeline::{Left, Then};
use super::roster::{Lease, LeaseNo};
use super::state::Mesh;
use crate::model::{Membership, Seq, Write};

/// A member that was removed a moment ago.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Removal {
    /// Until when what was read of it before may still be on its way.
    pub(super) until: Ms,
    /// What it sent up to here is not delivered any more.
    pub(super) up_to: Seq,
    /// Its hellos are refused, whatever was read of it: the removal is not durable yet.
    pub(super) by_command: bool,
}

/// Reinstatements by command: what was read before one is durable says nothing of that member.
#[derive(Debug, Default)]
pub(crate) struct Reinstated {
    under_way: u32,
    last: Option<Ms>,
}

impl Reinstated {
    pub(super) fn begin(&mut self) {
        self.under_way += 1;
    }

    pub(super) fn durable(&mut self, now: Ms) {
        self.under_way = self.under_way.saturating_sub(1);
        self.last = Some(now);
    }

    fn outdates(&self, asked: Ms) -> bool {
        self.under_way > 0 || self.last.is_some_and(|last| asked <= last)
    }
}

impl Mesh {
    /// The store has told how members stand. A presence whose hello was checked later than that is
    /// passed over: it may have been let in again, and the next answer will tell.
    pub(super) fn reviewed(&mut self, now: Now, asked: Ms, membership: &Arc<Membership>) {
        if self.reinstated.outdates(asked) {
            return;
        }
        if membership.archived {
            return self.close_archived(now, asked);
        }
        for member in &membership.removed {
            self.remove_member(now, asked, member);
        }
        let differs = |lease: &Lease| {
            let other =
                if lease.record.moderator { &membership.plain } else { &membership.moderators };
            other.contains(&lease.record.member)
        };
        let changed: Vec<LeaseNo> = self
            .roster
            .iter()
            .filter(|(_, lease)| lease.is_eligible() && lease.checked_at < asked)
            .filter(|(_, lease)| differs(lease))
            .map(|(no, _)| no)
            .collect();
        for no in changed {
            if let Some(lease) = self.roster.get_mut(no) {
                lease.record.moderator = !lease.record.moderator;
            }
            self.save(no, Then::Settled);
        }
    }

    /// Mail stays where it is: the mesh may be opened again.
    fn close_archived(&mut self, now: Now, asked: Ms) {
        let here = self.roster.iter().filter(|(_, l)| l.is_eligible() && l.checked_at < asked);
        let here: Vec<_> = here.map(|(no, _)| no).collect();
        for no in here {
            let (writes, left) = self.end(now, vec![no], close::UNAUTHORIZED, Left::default());
            self.pipeline.push(writes, Then::Left(Box::new(left)));
        }
    }

    fn remove_member(&mut self, now: Now, asked: Ms, member: &MemberId) {
        let theirs = |lease: &Lease| lease.record.member == *member && lease.is_eligible();
        let theirs: Vec<_> = self.roster.iter().filter(|(_, lease)| theirs(lease)).collect();
        if theirs.is_empty() || theirs.iter().any(|(_, lease)| lease.checked_at >= asked) {
            return;
        }
        let (leases, presences): (Vec<_>, Vec<_>) =
            theirs.into_iter().map(|(no, lease)| (no, lease.presence.clone())).unzip();
        let left = Left { banned: vec![member.clone()], ..Left::default() };
        let (mut writes, left) = self.end(now, leases, close::BANNED, left);
        writes.push(Write::Purge { member: member.clone(), presences });
        let removal = Removal { until: now.mono + REVOKED_MS, up_to: self.seq, by_command: false };
        self.revoked.insert(member.clone(), removal);
        self.pipeline.push(writes, Then::Left(Box::new(left)));
    }

    /// Whether a hello of this member is refused, whatever was read of it.
    pub(super) fn is_barred(&self, member: &MemberId) -> bool {
        self.revoked.get(member).is_some_and(|removal| removal.by_command)
    }

    /// Whether a member may not moderate, whatever was read of it. One that was removed beside the
    /// broker may if it has said hello since, on this connection.
    pub(super) fn may_not_moderate(&self, member: &MemberId, is_here: bool) -> bool {
        self.revoked.get(member).is_some_and(|removal| removal.by_command || !is_here)
    }
}
