//! The leases as their rows say, write by write: the model the other checks look at.

use std::collections::{BTreeMap, BTreeSet};

use broker::model::{LeaseRow, Recipient};
use protocol::client::{Group, PeerProfile, Stats, Status};
use protocol::{MemberId, PresenceId};
use serde::Deserialize;

use crate::store::{Durable, OWNER_KEY};

/// What a lease's row says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Body {
    pub(super) key: String,
    pub(super) member: MemberId,
    member_pubkey: String,
    pub(super) session_pubkey: Option<String>,
    pub(super) proven: bool,
    pub(super) name: String,
    pub(super) pid: u64,
    pub(super) groups: Vec<Group>,
    pub(super) visible: bool,
    pub(super) status: Status,
    pub(super) source: String,
    pub(super) summary: Option<String>,
    #[serde(default)]
    pub(super) profile: PeerProfile,
    pub(super) stats: Option<Stats>,
    #[serde(skip)]
    pub(super) away: bool,
}

impl Body {
    /// The key others address it by.
    pub(super) fn address(&self) -> &str {
        self.session_pubkey.as_ref().unwrap_or(&self.member_pubkey)
    }

    /// The queue that belongs to it alone.
    pub(super) fn own(&self, presence: &PresenceId) -> Recipient {
        match &self.session_pubkey {
            Some(key) if self.proven => Recipient::Session(key.as_str().into()),
            _ => Recipient::Presence(presence.clone()),
        }
    }

    /// Once gone, it may be no recipient: whether others have been told of it, no row says.
    pub(super) fn may_be_no_recipient(&self) -> bool {
        self.away && !self.proven && self.session_pubkey.is_some()
    }

    pub(super) fn in_group(&self, wanted: &str) -> bool {
        let below = format!("{wanted}/");
        self.groups.iter().any(|group| group.name == wanted || group.name.starts_with(&below))
    }
}

#[derive(Clone, Default)]
pub(super) struct Leases {
    pub(super) all: BTreeMap<PresenceId, Body>,
    /// Session keys that somebody has proven.
    pub(super) proven: BTreeSet<String>,
}

impl Leases {
    /// Answers what its row said before.
    pub(super) fn save(&mut self, row: &LeaseRow) -> Result<Option<Body>, String> {
        let mut body: Body = serde_json::from_str(&row.body).map_err(|error| error.to_string())?;
        body.away = row.away;
        if body.member != row.member || body.pid != row.place.pid.unsigned_abs() {
            return Err(format!("{} is filed under the wrong member or place", row.presence));
        }
        Ok(self.all.insert(row.presence.clone(), body))
    }

    /// A key that is claimed is no member's, not the owner's, nobody's who has proven it, and no other member's claim.
    pub(super) fn claim(&self, row: &LeaseRow, store: &Durable) -> Result<(), String> {
        let Some(body) = self.all.get(&row.presence).filter(|body| !body.proven) else {
            return Ok(());
        };
        let Some(key) = &body.session_pubkey else { return Ok(()) };
        let other = |body: &&Body| body.member != row.member;
        let named = |body: &&Body| body.session_pubkey.as_ref() == Some(key);
        let whose = if store.member_of(key).is_some() {
            "a member's"
        } else if **key == *OWNER_KEY {
            "the owner's"
        } else if self.proven.contains(key) {
            "proven"
        } else if self.all.values().filter(other).any(|body| named(&body)) {
            "another member's claim"
        } else {
            return Ok(());
        };
        Err(format!("{} claims {key}, which is {whose}", row.presence))
    }
}
