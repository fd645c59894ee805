//! What others changed beside us, and since when: the rules may know of it a moment later.

use std::collections::BTreeMap;

use broker::mesh::FRESH_MS;
use broker::model::{Capability, Envelope};
use protocol::MemberId;

/// Beyond [`FRESH_MS`]: a question to the store, asked again after a failure, and its answer.
pub(super) const KNOWN_MS: u64 = FRESH_MS + 4_000;

/// Whom a member lets write to it how.
pub(crate) type Grant<'a> = (&'a MemberId, &'a MemberId, Capability);

type Key = (MemberId, MemberId, &'static str);

#[derive(Default)]
pub(super) struct Windows {
    /// Denied from, and until if that is over.
    denied: BTreeMap<Key, Vec<(u64, Option<u64>)>>,
    /// When a member was last put into a topic, or taken out.
    topics: BTreeMap<(String, MemberId), u64>,
    /// Removed in the store beside us, and since when.
    pub(super) removed: BTreeMap<MemberId, u64>,
    /// When a member's role last changed.
    pub(super) roles: BTreeMap<MemberId, u64>,
    /// When the mesh was last archived or opened again.
    pub(super) archived: Option<u64>,
    /// Queues are short: recipients may be left out.
    pub(super) short_queues: bool,
}

impl Windows {
    pub(super) fn granted(&mut self, now: u64, grant: Grant<'_>, denied: bool) {
        let spans = self.denied.entry(key(grant)).or_default();
        match spans.last_mut() {
            Some((_, until @ None)) if !denied => *until = Some(now),
            Some((_, None)) => {}
            _ if denied => spans.push((now, None)),
            _ => {}
        }
    }

    /// Denied without a break through all of this time.
    pub(super) fn denied_throughout(&self, grant: Grant<'_>, from: u64, until: u64) -> bool {
        let spans = self.denied.get(&key(grant)).into_iter().flatten();
        spans.into_iter().any(|(since, end)| *since <= from && end.is_none_or(|end| end > until))
    }

    /// Denied at some moment of this time.
    pub(super) fn denied_within(&self, grant: Grant<'_>, from: u64, until: u64) -> bool {
        let spans = self.denied.get(&key(grant)).into_iter().flatten();
        spans.into_iter().any(|(since, end)| *since <= until && end.is_none_or(|end| end >= from))
    }

    /// Whether an envelope may have been kept from a member that it was accepted for.
    pub(super) fn may_withhold(&self, to: &MemberId, envelope: &Envelope, now: u64) -> bool {
        let Some(capability) = envelope.capability() else { return false };
        let from = (to, &envelope.sender.member, capability);
        self.denied_within(from, at(envelope).saturating_sub(KNOWN_MS), now)
    }

    pub(super) fn topic_changed(&mut self, now: u64, topic: &str, member: &MemberId) {
        self.topics.insert((topic.to_owned(), member.clone()), now);
    }

    /// Whether the rules must know by now whether a member is in a topic.
    pub(super) fn topic_settled(&self, now: u64, topic: &str, member: &MemberId) -> bool {
        let changed = self.topics.get(&(topic.to_owned(), member.clone()));
        changed.is_none_or(|at| at + KNOWN_MS < now)
    }
}

impl Windows {
    /// Whether a member's role has been what it is for long enough.
    pub(super) fn role_settled(&self, now: u64, member: &MemberId) -> bool {
        self.roles.get(member).is_none_or(|at| at + KNOWN_MS < now)
    }

    /// Whether the rules must know by now whether this member was removed beside us.
    pub(super) fn removal_settled(&self, now: u64, member: &MemberId) -> bool {
        self.removed.get(member).is_none_or(|at| at + KNOWN_MS < now)
    }
}

fn key((to, from, capability): Grant<'_>) -> Key {
    (to.clone(), from.clone(), capability.as_str())
}

/// When an envelope was accepted.
pub(super) fn at(envelope: &Envelope) -> u64 {
    (envelope.created_at - crate::client::wall(0)).unsigned_abs()
}
