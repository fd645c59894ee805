//! What a commit writes.

use broker::model::*;
use protocol::{MemberId, PresenceId};

use super::{Gone, Row, SimStore};
use crate::client::wall;
use crate::faults::Planted;

impl SimStore {
    /// Answers how many deliveries were taken back.
    pub(super) fn write(&mut self, at: u64, write: &Write) -> u64 {
        match write {
            Write::Accept(accept) => self.accept(at, accept),
            Write::Confirm(confirm) => self.confirm(at, confirm),
            Write::SaveLease(row) => self.save(at, row),
            Write::DropLease(presence) => {
                self.now.leases.remove(presence);
            }
            Write::Undeliverable { .. } if self.plants(Planted::SealedInherited) => {}
            Write::Undeliverable { presence, key } => self.end_sealed(presence, key),
            Write::SeeHello { digest, conn } => {
                let seen = (conn.clone(), wall(at));
                self.now.hellos.entry(digest.clone()).or_insert(seen);
            }
            Write::Inherit { from, to } => self.inherit(from, to),
            Write::RecordKey { key, member } => {
                self.now.keys.entry(key.clone()).or_insert_with(|| member.clone());
            }
            Write::Audit(row) => self.now.audit.push(row.clone()),
            Write::SaveState(change) => self.save_state(change),
            Write::History(history) => self.now.history.push(history.clone()),
            Write::Revoke { member, at } => {
                self.now.revoked_at.insert(member.clone(), *at);
                self.set_revoked(member, true);
            }
            Write::Reinstate { member } => {
                self.now.revoked_at.remove(member);
                self.set_revoked(member, false);
            }
            Write::Purge { .. } if self.plants(Planted::PurgeSkipped) => {}
            Write::Purge { member, presences } => return self.purge(member, presences),
            Write::Done { command, reply } => {
                if self.now.done.insert(command.clone(), reply.clone()).is_some() {
                    self.clash = Some(format!("the command {command} was executed twice"));
                }
            }
            Write::Kick(kicked) => {
                let until = at + kicked.left_ms;
                self.now.kicked.insert(kicked.key.clone(), (kicked.clone(), until));
            }
            Write::LiftKicks(keys) => self.now.kicked.retain(|key, _| !keys.contains(key)),
            Write::UsePending(id) => self.use_pending(*id),
        }
        0
    }

    fn accept(&mut self, at: u64, accept: &Accept) {
        let envelope = &accept.envelope;
        let key = (envelope.sender.member.clone(), envelope.key.clone());
        let known =
            Accepted { message: envelope.id.clone(), fingerprint: envelope.fingerprint.clone() };
        self.now.accepted.insert(key, known);
        for recipient in &accept.recipients {
            let queue = QueueId { recipient: recipient.clone(), lane: envelope.lane() };
            self.now.wait(queue, envelope.seq);
        }
        let row = Row {
            envelope: envelope.clone(),
            recipients: accept.recipients.clone(),
            body: true,
            delivered_at: accept.recipients.is_empty().then_some(at as i64),
        };
        if let Some(other) = self.now.envelopes.insert(envelope.seq, row) {
            let (first, second) = (&other.envelope.id, &envelope.id);
            self.clash = Some(format!("{first} and {second} have one place"));
        }
    }

    fn confirm(&mut self, at: u64, confirm: &Confirm) {
        let Some(row) = self.now.envelopes.get(&confirm.seq) else { return };
        if row.envelope.id != confirm.message {
            return;
        }
        if self.now.received(&confirm.queue, confirm.seq) {
            self.now.gone.push(Gone { queue: confirm.queue.clone(), seq: confirm.seq });
        }
        if self.planted == Some(Planted::ConfirmedByAnother) {
            self.now.received_by_all(confirm.seq);
        }
        let last = !self.now.waits(confirm.seq);
        let Some(row) = self.now.envelopes.get_mut(&confirm.seq) else { return };
        if last {
            row.delivered_at = Some(at as i64);
        }
        if last || self.planted == Some(Planted::BodyDroppedEarly) {
            row.body = false;
        }
    }

    fn save(&mut self, at: u64, row: &LeaseRow) {
        if self.plants(Planted::LeaseNotSaved) && !self.now.leases.contains_key(&row.presence) {
            return;
        }
        let since = self.now.leases.get(&row.presence).and_then(|(_, since)| *since);
        let since = row.away.then(|| since.unwrap_or(at));
        self.now.leases.insert(row.presence.clone(), (row.clone(), since));
    }

    fn inherit(&mut self, from: &PresenceId, to: &MemberId) {
        let from = Recipient::Presence(from.clone());
        let moved: Vec<_> =
            self.now.deliveries.iter().filter(|(q, _)| q.recipient == from).cloned().collect();
        for (queue, seq) in moved {
            self.now.received(&queue, seq);
            let queue = QueueId { recipient: Recipient::Member(to.clone()), lane: queue.lane };
            self.now.wait(queue, seq);
        }
    }

    fn end_sealed(&mut self, presence: &PresenceId, key: &str) {
        let from = Recipient::Presence(presence.clone());
        let sealed = |seq: &Seq| self.now.envelopes[seq].envelope.target == *key;
        let ended =
            self.now.deliveries.iter().filter(|(q, seq)| q.recipient == from && sealed(seq));
        for (queue, seq) in ended.cloned().collect::<Vec<_>>() {
            self.now.received(&queue, seq);
            self.now.undeliverable.insert(seq);
        }
    }

    fn save_state(&mut self, change: &StateChange) {
        let fresh = SavedState { visible: true, ..SavedState::default() };
        let saved = self.now.saved.entry(change.member.clone()).or_insert(fresh);
        if let Some(groups) = &change.groups {
            saved.groups.clone_from(groups);
        }
        if let Some(profile) = &change.profile {
            saved.profile = profile.clone();
        }
        saved.visible = change.visible.unwrap_or(saved.visible);
        if change.summary.is_some() {
            saved.summary.clone_from(&change.summary);
        }
        saved.stats.messages_in += change.stats.messages_in;
        saved.stats.messages_out += change.stats.messages_out;
        saved.stats.tool_calls += change.stats.tool_calls;
        saved.stats.errors += change.stats.errors;
        saved.seen_at = Some(change.seen_at);
    }

    fn set_revoked(&mut self, member: &MemberId, revoked: bool) {
        if let Some(member) = self.now.members.get_mut(member) {
            member.revoked = revoked;
        }
    }

    fn purge(&mut self, member: &MemberId, presences: &[PresenceId]) -> u64 {
        let now = &mut self.now;
        let theirs = |recipient: &Recipient| match recipient {
            Recipient::Member(id) => id == member,
            Recipient::Session(key) => now.keys.get(key) == Some(member),
            Recipient::Presence(id) => presences.contains(id),
        };
        let sent = |seq: &Seq| now.envelopes[seq].envelope.sender.member == *member;
        let gone: Vec<_> = now
            .deliveries
            .iter()
            .filter(|(queue, seq)| theirs(&queue.recipient) || sent(seq))
            .cloned()
            .collect();
        for (queue, seq) in &gone {
            now.received(queue, *seq);
            now.purged.insert((queue.recipient.clone(), *seq));
        }
        for (_, seq) in &gone {
            if !now.waits(*seq)
                && let Some(row) = now.envelopes.get_mut(seq)
            {
                row.body = false;
            }
        }
        gone.len() as u64
    }

    fn use_pending(&mut self, id: i64) {
        match self.now.pendings.iter_mut().find(|pending| pending.id == id) {
            Some(pending) if !pending.used => pending.used = true,
            _ => self.clash = Some(format!("the pending status {id} was used twice")),
        }
    }
}
