//! The leases as their rows say, write by write: the model the other checks look at.

use std::collections::BTreeMap;

use broker::model::{LeaseRow, Recipient};
use protocol::client::{Group, PeerProfile, Stats, Status};
use protocol::{MemberId, PresenceId};
use serde::Deserialize;

/// What a lease's row says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Body {
    pub(super) key: String,
    pub(super) member: MemberId,
    member_pubkey: String,
    pub(super) session_pubkey: Option<String>,
    pub(super) proven: bool,
    pub(super) twin: bool,
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
}

impl Body {
    /// The key others address it by.
    pub(super) fn address(&self) -> &str {
        self.session_pubkey.as_ref().unwrap_or(&self.member_pubkey)
    }

    /// The queue that belongs to it alone.
    pub(super) fn own(&self, presence: &PresenceId) -> Recipient {
        match &self.session_pubkey {
            Some(key) if self.proven && !self.twin => Recipient::Session(key.as_str().into()),
            _ => Recipient::Presence(presence.clone()),
        }
    }

    pub(super) fn in_group(&self, wanted: &str) -> bool {
        let below = format!("{wanted}/");
        self.groups.iter().any(|group| group.name == wanted || group.name.starts_with(&below))
    }
}

#[derive(Clone, Default)]
pub(super) struct Leases(pub(super) BTreeMap<PresenceId, Body>);

impl Leases {
    /// Answers what its row said before.
    pub(super) fn save(&mut self, row: &LeaseRow) -> Result<Option<Body>, String> {
        let body: Body = serde_json::from_str(&row.body).map_err(|error| error.to_string())?;
        if body.member != row.member || body.pid != row.place.pid.unsigned_abs() {
            return Err(format!("{} is filed under the wrong member or place", row.presence));
        }
        Ok(self.0.insert(row.presence.clone(), body))
    }
}
