//! Who sent what, and who received it.

use std::collections::{BTreeMap, BTreeSet};

use broker::model::{Envelope, Lane, Recipient, Seq};
use protocol::{MemberId, MessageId};

use super::Checker;
use super::windows::{KNOWN_MS, at};
use crate::client::{Client, Kind};
use crate::world::World;

/// A hello may wait so long for the store before it is answered: what was read may be as old.
const HELLO_MS: u64 = 9_000;

/// Whom a push goes to.
pub(crate) struct Outlet {
    pub(crate) socket: u64,
    pub(crate) identity: u64,
    pub(crate) client: usize,
}

#[derive(Default)]
pub(super) struct Traffic {
    /// By body: who wrote it.
    senders: BTreeMap<String, u64>,
    /// By message: who has it.
    holders: BTreeMap<String, BTreeSet<u64>>,
    clients: BTreeMap<u64, (usize, MemberId)>,
    sessions: BTreeMap<String, u64>,
    withheld: BTreeSet<(Recipient, Seq)>,
    attached_at: BTreeMap<u64, u64>,
    /// Pushed before on this socket.
    pushed: BTreeSet<(u64, Seq)>,
}

impl Traffic {
    pub(super) fn introduce(&mut self, client: &Client) {
        let member = MemberId::from(client.member_id().as_str());
        self.clients.insert(client.identity, (client.index, member));
        if client.kind == Kind::Session {
            self.sessions.insert(client.address(), client.identity);
        }
    }

    pub(super) fn sender(&self, body: &str) -> Option<u64> {
        self.senders.get(body).copied()
    }

    pub(super) fn has(&self, identity: u64, id: &str) -> bool {
        self.holders.get(id).is_some_and(|holders| holders.contains(&identity))
    }

    pub(super) fn session_has(&self, key: &str, id: &str) -> bool {
        self.sessions.get(key).is_some_and(|identity| self.has(*identity, id))
    }

    pub(super) fn member_has(&self, member: &MemberId, id: &str) -> bool {
        let holders = self.holders.get(id).into_iter().flatten();
        holders.into_iter().any(|who| self.member(*who) == Some(member))
    }

    pub(super) fn member(&self, identity: u64) -> Option<&MemberId> {
        self.clients.get(&identity).map(|(_, member)| member)
    }

    pub(super) fn withheld(&mut self, recipient: &Recipient, seq: Seq) {
        self.withheld.insert((recipient.clone(), seq));
    }

    /// By its own queue, or by the member's that inherited it.
    pub(super) fn was_withheld(&self, recipient: &Recipient, seq: Seq) -> bool {
        self.withheld.contains(&(recipient.clone(), seq))
            || matches!(recipient, Recipient::Presence(_))
                && self.withheld.iter().any(|(_, other)| *other == seq)
    }
}

impl Checker {
    /// Whether a recipient of this message, or a sibling that inherited from it, has it.
    pub(crate) fn has(&self, recipient: &Recipient, id: &str) -> bool {
        match recipient {
            Recipient::Session(key) => self.traffic.session_has(key, id),
            Recipient::Member(member) => self.traffic.member_has(member, id),
            Recipient::Presence(presence) => {
                let identity = self.presences.identity(presence.as_str());
                let member = identity.and_then(|identity| self.traffic.member(identity));
                member.is_some_and(|member| self.traffic.member_has(member, id))
            }
        }
    }

    /// Whoever gets what waits for a presence when that ends.
    pub(crate) fn heir(&self, recipient: &Recipient) -> Option<Recipient> {
        let Recipient::Presence(presence) = recipient else { return None };
        let identity = self.presences.identity(presence.as_str())?;
        Some(Recipient::Member(self.traffic.member(identity)?.clone()))
    }

    /// Whether grants may have kept a message from a client for a while.
    pub(crate) fn may_have_waited(&self, id: &str, to: &Client, world: &World) -> bool {
        let row = MessageId::position(id).and_then(|seq| world.store.now.envelopes.get(&seq));
        let member = MemberId::from(to.member_id().as_str());
        row.is_some_and(|row| self.windows.may_withhold(&member, &row.envelope, world.now))
    }

    pub(crate) fn was_withheld(&self, recipient: &Recipient, seq: Seq) -> bool {
        self.traffic.was_withheld(recipient, seq)
    }

    /// Somebody who may connect.
    pub(crate) fn introduce(&mut self, client: &Client) {
        self.traffic.introduce(client);
        if client.kind == Kind::OneShot {
            // Events name whoever claims another's key by its member's, like others.
            let key = client.claims.as_ref().map(|_| format!("of {}", client.identity));
            self.presences.one_shot(client.identity, key.unwrap_or_else(|| client.address()));
        }
    }

    pub(crate) fn composed(&mut self, body: &str, identity: u64) {
        self.traffic.senders.insert(body.to_owned(), identity);
    }

    pub(crate) fn received(&mut self, id: &str, identity: u64) {
        self.traffic.holders.entry(id.to_owned()).or_default().insert(identity);
    }

    pub(crate) fn line_attached(&mut self, now: u64, socket: u64) {
        self.traffic.attached_at.insert(socket, now);
    }

    /// An envelope leaves for a peer. Answers whether for the first time on this line, and not
    /// urgent.
    pub(crate) fn leaves(&mut self, now: u64, to: &Outlet, envelope: &Envelope) -> bool {
        let Some(member) = self.traffic.member(to.identity).cloned() else { return false };
        let from = &envelope.sender.member;
        let verdict = self.removals.pushed(now, from, &member);
        self.note("bans", now, verdict);
        if self.presences.is_claimed_by_another(&envelope.target, to.identity) {
            let (id, to) = (&envelope.id, to.client);
            self.fail(|| format!("claims: {now}: {id}, sealed to a command, goes to client {to}"));
        }
        let verdict = self.may_act(now, &member, "receives");
        self.note("removals", now, verdict);
        if let Some(capability) = envelope.capability() {
            let grant = (&member, from, capability);
            let attached = self.traffic.attached_at.get(&to.socket).copied().unwrap_or(now);
            let accepted = at(envelope).saturating_sub(KNOWN_MS);
            let read = attached.saturating_sub(HELLO_MS);
            let denied = |since| self.windows.denied_throughout(grant, since, now);
            if member != *from && (denied(accepted) || denied(read)) {
                let (id, to) = (&envelope.id, to.client);
                self.fail(|| format!("grants: {now}: {id} goes to client {to}, which forbids it"));
            }
        }
        let first = self.traffic.pushed.insert((to.socket, envelope.seq));
        first && envelope.lane() == Lane::Normal
    }
}
