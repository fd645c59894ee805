//! What a peer says of itself (protocol-core §5), and what hooks say of it.
//!
//! A change is answered when it is durable; until then the edge would ask again, should the mesh
//! change its epoch. It shows at once: in `peers_list`, and in what is delivered.

use protocol::client::{Group, PeerProfile, Stats, Status};
use protocol::limits::GROUPS;
use protocol::server::{Ack, Frame};
use protocol::{EchoId, PresenceId};

use super::io::{ConnId, Count, Effect, Ms, Now};
use super::pipeline::Then;
use super::query::error;
use super::roster::{Lease, LeaseNo};
use super::state::Mesh;
use super::status::Source;
use crate::model::Write;

/// A change a peer makes to its own presence.
pub(super) enum Change<'a> {
    Summary(&'a str),
    Visible(bool),
    Profile(&'a PeerProfile),
    Stats(&'a Stats),
    Join(&'a Group),
    Leave(&'a str),
}

impl Mesh {
    pub(super) fn set_status(&mut self, now: Now, conn: ConnId, number: u64, status: Status) {
        if let Some(no) = self.roster.of_conn(conn) {
            self.tell_status(now.mono, no, status, Source::Manual);
            self.keep(no, Then::Done { conn, number, frame: None, tell: None });
        } else {
            self.too_late(conn, number, None);
        }
    }

    /// A hook tells a session's status. Nobody waits for it to be durable.
    pub(super) fn hook(&mut self, now: Now, presence: &PresenceId, status: Status) {
        if let Some(no) = self.roster.of_presence(presence)
            && self.tell_status(now.mono, no, status, Source::Hook)
        {
            self.keep(no, Then::Settled);
        }
    }

    /// Somebody's `working` has lasted too long. Answers whether there was one.
    pub(super) fn end_working(&mut self, now: Ms) -> bool {
        let Some(no) = self.expiries.over(now) else { return false };
        let hooked = self.roster.get(no).is_some_and(|l| l.record.source == Source::Hook);
        if !hooked {
            self.out.push(Effect::Count(Count::StatusExpired));
        }
        if let Some(lease) = self.roster.get_mut(no) {
            lease.record.source = Source::Jsonl;
        }
        self.tell_status(now, no, Status::Idle, Source::Jsonl);
        self.keep(no, Then::Settled);
        true
    }

    /// Answers whether anything changed.
    fn tell_status(&mut self, now: Ms, no: LeaseNo, status: Status, source: Source) -> bool {
        let limits = self.limits.status;
        let Some(lease) = self.roster.get_mut(no) else { return false };
        let before = lease.standing();
        let stands = before.told(status, source, now, limits);
        lease.record.status = stands.status;
        lease.record.source = stands.source;
        lease.status_since = stands.since;
        self.expiries.set(no, stands.until(limits));
        self.delivery.set_busy(no, stands.status != Status::Idle);
        (before.status, before.source) != (stands.status, stands.source)
    }

    pub(super) fn change(
        &mut self,
        conn: ConnId,
        number: u64,
        req_id: Option<EchoId>,
        to: &Change<'_>,
    ) {
        let Some(lease) = self.roster.of_conn(conn).and_then(|no| self.roster.get_mut(no)) else {
            return self.too_late(conn, number, None);
        };
        if let Err(text) = lease.change(to) {
            let frame = req_id.map(|id| error("invalid", &text, Some(id)));
            return self.out.push(Effect::Result { conn, number, frame });
        }
        let Some(no) = self.roster.of_conn(conn) else { return };
        let acked = matches!(to, Change::Visible(_) | Change::Profile(_));
        let frame = acked.then(|| Frame::Ack(Ack::done(req_id)));
        let tell = matches!(to, Change::Visible(_)).then_some(no);
        self.keep(no, Then::Done { conn, number, frame, tell });
    }

    /// The lease is leaving, by a moderator's word. Should that not become durable, it stays, and
    /// its edge asks again.
    pub(super) fn too_late(&mut self, conn: ConnId, number: u64, frame: Option<Frame>) {
        self.pipeline.push(Vec::new(), Then::Done { conn, number, frame, tell: None });
    }

    /// Saves a lease, unless it is leaving: then there is nothing to come back to.
    fn keep(&mut self, no: LeaseNo, then: Then) {
        let kept = self.roster.get(no).filter(|lease| lease.is_eligible());
        let writes = kept.map(|lease| Write::SaveLease(lease.row()));
        self.pipeline.push(writes.into_iter().collect(), then);
    }
}

impl Lease {
    /// Changes the record, or says why not.
    fn change(&mut self, to: &Change<'_>) -> Result<(), String> {
        let record = &mut self.record;
        match to {
            Change::Summary(text) => {
                record.summary = Some((*text).to_owned());
                record.unsaved.summary = true;
            }
            Change::Visible(visible) => {
                record.visible = *visible;
                record.unsaved.visible = true;
            }
            Change::Profile(given) => {
                record.profile.get_or_insert_default().merge(given);
                record.unsaved.profile = true;
            }
            Change::Stats(stats) => record.count(stats),
            Change::Join(group) => {
                let role = group.role.clone().filter(|role| !role.is_empty());
                let group = Group { name: group.name.clone(), role };
                let full = record.groups.len() >= GROUPS;
                match record.groups.iter_mut().find(|own| own.name == group.name) {
                    Some(own) => *own = group,
                    None if full => return Err(format!("groups: at most {GROUPS} are allowed")),
                    None => record.groups.push(group),
                }
                record.unsaved.groups = true;
            }
            Change::Leave(name) => {
                let before = record.groups.len();
                record.groups.retain(|own| own.name != *name);
                record.unsaved.groups |= record.groups.len() < before;
            }
        }
        Ok(())
    }
}
