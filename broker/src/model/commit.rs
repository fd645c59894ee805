//! What a commit writes, and what a new owner reads.

use std::sync::Arc;

use protocol::{MemberId, MeshId, MessageId, PresenceId};

use super::{
    AuditRow, Envelope, Epoch, History, Kicked, LeaseRow, QueueId, Recipient, Seq, StateChange,
};

/// What a mesh asks the store to write under one epoch: units in order, each all or nothing.
#[derive(Debug, Clone)]
pub struct MeshCommit {
    /// The mesh.
    pub mesh: MeshId,
    /// The epoch it believes in.
    pub epoch: Epoch,
    /// What to write.
    pub units: Vec<Unit>,
}

/// Writes that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit(pub Vec<Write>);

/// One thing to write.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// An envelope, a delivery for each recipient, and the key that makes a retry recognizable.
    /// Written only if the key is new; see [`Outcome::Known`]. No two of a commit have one key.
    Accept(Accept),
    /// A recipient has the envelope: the delivery goes, and the body with the last one.
    Confirm(Confirm),
    /// A lease as it is now.
    SaveLease(LeaseRow),
    /// A lease that has ended.
    DropLease(PresenceId),
    /// What waited for an ended presence waits for its member.
    Inherit {
        /// The presence that ended.
        from: PresenceId,
        /// Its member.
        to: MemberId,
    },
    /// What waits for an ended presence and was addressed to the key it claimed can be opened by
    /// nobody else: it is delivered to nobody. Before the [`Write::Inherit`] of the presence.
    Undeliverable {
        /// The presence that ended.
        presence: PresenceId,
        /// The key it claimed, as senders wrote it.
        key: Arc<str>,
    },
    /// A hello was accepted: it is not accepted again, from another connection, for
    /// [`HELLO_SEEN_MS`](super::HELLO_SEEN_MS).
    SeeHello {
        /// Of its signature.
        digest: String,
        /// The connection.
        conn: String,
    },
    /// A session key was proven to be this member's. That it was proven again is noted every few
    /// hours.
    RecordKey {
        /// The key, lower-case hex.
        key: Arc<str>,
        /// Its member.
        member: MemberId,
    },
    /// One entry of the audit chain.
    Audit(AuditRow),
    /// What a member's next connection finds again.
    SaveState(StateChange),
    /// An accepted message enters its topic's history. In the unit of its [`Write::Accept`].
    History(History),
    /// A member is removed from the mesh.
    Revoke {
        /// Who.
        member: MemberId,
        /// Milliseconds since the Unix epoch.
        at: i64,
    },
    /// All rows of a member's key are let in again.
    Reinstate {
        /// One of the rows.
        member: MemberId,
    },
    /// A proven session key stays out, by the store's clock. Of a mesh at most [`KICKED_MOST`] are
    /// kept, those with the longest time.
    ///
    /// [`KICKED_MOST`]: super::KICKED_MOST
    Kick(Kicked),
    /// These session keys may come back.
    LiftKicks(Vec<Arc<str>>),
    /// Everything that waits of a member, or for it: for itself, for the session keys it has
    /// proven, for these presences. [`Outcome::Committed`] says how many deliveries.
    Purge {
        /// The member.
        member: MemberId,
        /// Its presences.
        presences: Vec<PresenceId>,
    },
    /// A command that must not be executed again has been, with this result. Kept for a day.
    Done {
        /// The command: its connection and number.
        command: String,
        /// What was answered.
        reply: String,
    },
    /// A status that waited for its presence has found it.
    UsePending(i64),
}

/// See [`Write::Accept`].
#[derive(Debug, Clone, PartialEq)]
pub struct Accept {
    /// The envelope.
    pub envelope: Arc<Envelope>,
    /// Each once. May be empty: then nobody was there, and the body need not be kept.
    pub recipients: Vec<Recipient>,
}

/// See [`Write::Confirm`]. Names the message: after a lost tail a sequence alone could be another's.
#[derive(Debug, Clone, PartialEq)]
pub struct Confirm {
    /// Whose delivery.
    pub queue: QueueId,
    /// At which place.
    pub seq: Seq,
    /// Of which message.
    pub message: MessageId,
}

/// What became of a [`MeshCommit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All units are durable.
    Committed {
        /// Deliveries that a [`Write::Purge`] removed.
        purged: u64,
    },
    /// The keys of these `Accept`s were known: nothing was written, for the audit chain runs
    /// through all units.
    Known(Vec<Duplicate>),
    /// The epoch is not the mesh's: nothing was written.
    Fenced,
    /// One unit was refused. Those before it are durable, those behind not written.
    Stopped {
        /// How many are durable: the index of the refused one.
        committed: usize,
        /// Why it was refused: its data, or a key that was known.
        at: Option<Duplicate>,
    },
}

/// An `Accept` whose key was known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicate {
    /// The place it was to have.
    pub seq: Seq,
    /// What the key belongs to.
    pub original: Accepted,
}

/// What is known of an accepted key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The message it belongs to.
    pub message: MessageId,
    /// The digest it came with.
    pub fingerprint: Option<String>,
}

/// What a new owner of a mesh starts from. Never bodies: it must not grow with the backlog.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Activation {
    /// The epoch just minted.
    pub epoch: Epoch,
    /// The one before, as the store had it; 0 if there was none.
    pub previous: Epoch,
    /// The highest sequence written, 0 if none.
    pub tail: Seq,
    /// The last entry's hash of the audit chain, if it has any.
    pub audit_hash: Option<String>,
    /// Every queue that holds anything, with the highest sequence in it.
    pub queues: Vec<(QueueId, Seq)>,
    /// Every lease.
    pub leases: Vec<StoredLease>,
    /// Session keys that stay out for a while; at most [`KICKED_MOST`](super::KICKED_MOST).
    pub kicked: Vec<Kicked>,
    /// Leases that the store has and should not: it had lost its tail, and `leases` come from
    /// elsewhere. They are to be written, and these dropped.
    pub stale_leases: Option<Vec<PresenceId>>,
}

/// A lease as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLease {
    /// The row.
    pub row: LeaseRow,
    /// For a lease in grace, how much of it had passed when the mesh was last known to have an
    /// owner, by the store's clock. Time without an owner does not count.
    pub away_ms: u64,
}

/// How a mesh stands, as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The process that took it last; empty if none has.
    pub node: String,
    /// Under which epoch.
    pub epoch: Epoch,
    /// Presences that are here.
    pub sessions: u64,
    /// Presences in grace.
    pub in_grace: u64,
    /// Deliveries that wait to be confirmed.
    pub pending: u64,
}
