//! What a member's state becomes: what its connections changed, field by field, and what they
//! counted, once.

use std::collections::{BTreeMap, BTreeSet};

use broker::model::{StateChange, Write};
use protocol::PresenceId;

use super::leases::{Body, Leases};

/// What a presence has not saved yet.
#[derive(Clone, Default)]
struct Own {
    groups: bool,
    profile: bool,
    summary: bool,
    /// What it has saved before: an edge may repeat what it has had done.
    last: Option<StateChange>,
    /// From where it counts on, as its client was told; what it last said, and what of it is saved.
    base: u64,
    told: Option<u64>,
    saved: u64,
}

#[derive(Clone, Default)]
pub(super) struct Saved {
    own: BTreeMap<PresenceId, Own>,
    /// Whoever may have left a group that it was not in: that is a change, too.
    leavers: BTreeSet<u64>,
}

impl Saved {
    /// A client was told what its member has counted so far.
    pub(super) fn told(&mut self, presence: &PresenceId, base: u64) {
        self.own.entry(presence.clone()).or_default().base = base;
    }

    /// A lease's row has changed.
    pub(super) fn changed(&mut self, presence: &PresenceId, before: Option<&Body>, now: &Body) {
        let own = self.own.entry(presence.clone()).or_default();
        if let Some(before) = before {
            own.groups |= before.groups != now.groups;
            own.profile |= before.profile != now.profile;
            own.summary |= before.summary != now.summary;
        }
        let stats = now.stats.as_ref().and_then(|stats| stats.messages_in.as_ref());
        own.told = stats.and_then(serde_json::Number::as_u64).or(own.told);
        // A counter below what was known has started anew.
        if own.told.is_some_and(|told| told < own.base + own.saved) {
            (own.base, own.saved) = (0, 0);
        }
    }

    /// A state is saved, of the lease whose row is written behind it.
    pub(super) fn saved(
        &mut self,
        change: &StateChange,
        behind: &Write,
        leases: &Leases,
    ) -> Result<(), String> {
        let (presence, ends) = match behind {
            Write::SaveLease(row) => (&row.presence, false),
            Write::DropLease(presence) => (presence, true),
            other => return Err(format!("a state is saved before {other:?}")),
        };
        let Some(body) = leases.all.get(presence) else {
            return Err(format!("{presence} saves its state and is not here"));
        };
        let own = self.own.entry(presence.clone()).or_default();
        let silent = String::new();
        let summary = body.summary.as_ref().unwrap_or(&silent);
        let last = own.last.as_ref();
        let left = change.groups.is_some() && self.leavers.remove(&body.pid);
        let again = last.and_then(|last| last.groups.as_ref()) == change.groups.as_ref();
        let right = body.member == change.member
            && only(own.groups, change.groups.as_ref(), &body.groups, left || again)
            && only(
                own.profile,
                change.profile.as_ref(),
                &body.profile,
                last.and_then(|last| last.profile.as_ref()) == change.profile.as_ref(),
            )
            && only(
                own.summary,
                change.summary.as_ref(),
                summary,
                last.and_then(|last| last.summary.as_ref()) == change.summary.as_ref(),
            )
            && change.visible.is_none_or(|visible| visible == body.visible);
        if !right {
            return Err(format!("{presence} saves {change:?}, its row says {body:?}"));
        }
        (own.groups, own.profile, own.summary) = (false, false, false);
        let last = own.last.get_or_insert_with(|| change.clone());
        last.groups = change.groups.clone().or(last.groups.take());
        last.profile = change.profile.clone().or(last.profile.take());
        last.summary = change.summary.clone().or(last.summary.take());
        own.saved += change.stats.messages_in;
        let counted = own.told.map_or(0, |told| told.saturating_sub(own.base));
        if own.saved != counted {
            return Err(format!("{presence} has counted {counted} and saved {}", own.saved));
        }
        if ends {
            self.own.remove(presence);
        }
        Ok(())
    }

    pub(super) fn left_group(&mut self, identity: u64) {
        self.leavers.insert(identity);
    }
}

/// Given if it was changed, and then as it is.
fn only<T: PartialEq>(changed: bool, given: Option<&T>, is: &T, repeated: bool) -> bool {
    match given {
        Some(given) => given == is && (changed || repeated),
        None => !changed,
    }
}
