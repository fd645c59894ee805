//! The audit chain (protocol-core §7).

use std::sync::Arc;

use protocol::MemberId;

/// One entry of a mesh's audit chain: metadata, never values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// E.g. `peer_joined`.
    pub event: &'static str,
    /// Who did it.
    pub actor: Option<MemberId>,
    /// By which name.
    pub actor_name: Option<Arc<str>>,
    /// Canonical JSON.
    pub payload: String,
    /// The entry before, or `genesis`. Empty until the entry's commit is made up.
    pub prev_hash: String,
    /// SHA-256, hex. Likewise.
    pub hash: String,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// How far a chain has been verified: up to where every entry is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The hash of the last entry, or `genesis`.
    pub last: String,
    /// Its row.
    pub after: i64,
    /// Entries up to there.
    pub entries: u64,
}

impl Default for Verified {
    /// Nothing yet.
    fn default() -> Self {
        Self { last: GENESIS.to_owned(), after: i64::MIN, entries: 0 }
    }
}

/// What verifying another slice of a chain came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedSlice {
    /// How far it is right.
    pub so_far: Verified,
    /// The row where it is not.
    pub broken_at: Option<i64>,
    /// Whether there is no more to verify.
    pub ended: bool,
}

/// What the first entry of a chain names as the one before.
pub const GENESIS: &str = "genesis";

/// Entries one `audit_query` may bring.
pub const AUDIT_ROWS: u32 = 200;

/// How far back one looks: what is asked for seldom must not walk years. Older entries are still
/// verified.
pub const AUDIT_WALK: u32 = 100_000;

/// What an `audit_query` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditQuery {
    /// At most [`AUDIT_ROWS`].
    pub limit: u32,
    /// Of the newest, so many are passed over.
    pub offset: u64,
    /// Only entries of this kind.
    pub event: Option<String>,
    /// Of `message_sent`, only this member's own: whom others write to is not everybody's to know.
    pub reader: Option<MemberId>,
}

/// An entry as stored, by this broker or the reference.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    /// Row id: the order of the chain.
    pub id: i64,
    /// See [`AuditRow::event`].
    pub event: String,
    /// See [`AuditRow::actor`].
    pub actor: Option<String>,
    /// See [`AuditRow::actor_name`].
    pub actor_name: Option<String>,
    /// Any JSON.
    pub payload: serde_json::Value,
    /// See [`AuditRow::prev_hash`].
    pub prev_hash: String,
    /// See [`AuditRow::hash`].
    pub hash: String,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}
