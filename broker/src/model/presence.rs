//! Presences: leases, status, and what of them is kept.

use protocol::client::{Group, PeerProfile, Status};
use protocol::{MemberId, MeshId, PresenceId, names};
use serde::{Deserialize, Serialize};

/// A lease as stored: opaque but for whether its holder is away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRow {
    /// The presence.
    pub presence: PresenceId,
    /// `mesh`'s own text.
    pub body: String,
    /// In grace. The store notes the time, by its own clock, when this becomes true.
    pub away: bool,
    /// Whose it is.
    pub member: MemberId,
    /// Where the session runs: what hooks name it by.
    pub place: Place,
}

/// Where a session runs, as it says itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The client's id of the session.
    pub session_id: String,
    /// Working directory.
    pub cwd: String,
    /// Process id.
    pub pid: i64,
}

/// What a member's connection finds again: the member's `peer_state`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SavedState {
    /// Its groups.
    pub groups: Vec<Group>,
    /// What it told of itself.
    pub profile: PeerProfile,
    /// Whether broadcasts reach it.
    pub visible: bool,
    /// What it was doing.
    pub summary: Option<String>,
    /// What it counted, over all connections.
    pub stats: Totals,
    /// Milliseconds since the Unix epoch.
    pub seen_at: Option<i64>,
}

impl SavedState {
    /// Makes its texts safe to show.
    pub fn tidy(&mut self) {
        self.groups.iter_mut().for_each(Group::tidy);
        self.profile.tidy();
        self.summary.iter_mut().for_each(names::tidy);
    }
}

/// What a connection changes of its member's state: nothing else is touched, so that siblings do
/// not undo each other's changes.
#[derive(Debug, Clone, PartialEq)]
pub struct StateChange {
    /// Whose.
    pub member: MemberId,
    /// If they were changed.
    pub groups: Option<Vec<Group>>,
    /// If it was changed.
    pub profile: Option<PeerProfile>,
    /// If it was changed.
    pub visible: Option<bool>,
    /// If it was changed.
    pub summary: Option<String>,
    /// The name last in effect.
    pub name: String,
    /// To be added.
    pub stats: Totals,
    /// Milliseconds since the Unix epoch.
    pub seen_at: i64,
}

/// Counted over all connections of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Totals {
    /// Received.
    pub messages_in: u64,
    /// Sent.
    pub messages_out: u64,
    /// Used.
    pub tool_calls: u64,
    /// Met.
    pub errors: u64,
}

/// How long a hook's status waits for the presence it is about.
pub const PENDING_MS: i64 = 10_000;

/// A hook's status that waits for its presence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Row id.
    pub id: i64,
    /// What the hook said.
    pub status: Status,
}

/// A hook's status for a session that is not here yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPending {
    /// The session, if the hook named it.
    pub session_id: Option<String>,
    /// Working directory.
    pub cwd: String,
    /// Process id, if the hook named it.
    pub pid: Option<i64>,
    /// What the hook said.
    pub status: Status,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// What a hook names a presence by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookTarget {
    /// Its session id.
    Session(String),
    /// Working directory and process id; without the latter, the directory alone.
    Process {
        /// Working directory.
        cwd: String,
        /// Process id.
        pid: Option<i64>,
    },
}

/// A presence, online or in grace, that a hook may be about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookPresence {
    /// Where.
    pub mesh: MeshId,
    /// Which.
    pub presence: PresenceId,
    /// Whose.
    pub member: MemberId,
    /// That member's key: the same person in several meshes.
    pub member_pubkey: String,
}
