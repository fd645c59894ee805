//! The durable side: the trait every backend keeps, in the broker's words.
//!
//! Guarantees: a commit is durable when it answers; a commit under a stale epoch writes nothing; a
//! mesh's units are written in order, each all or nothing. Left to others: what the rows mean
//! (`mesh`), and grouping and isolation of bad rows ([`committer`]).

pub mod committer;
pub mod contract;
mod invites;
mod mentions;
mod migrations;
pub mod open;
mod people;
pub mod postgres;
pub mod sqlite;

use std::sync::Arc;

use async_trait::async_trait;
use protocol::{MemberId, MeshId};

use crate::model::{
    AcceptKey, Accepted, Activation, AuditEntry, AuditQuery, Ban, Claim as Claimed, Epoch, Grants,
    HookPresence, HookTarget, Identity, Joined, Joining, Membership, MeshCommit, MeshRow,
    Moderation, NewInvite, NewMesh, NewPending, Outcome, Page, PageLimit, QueueBytes, QueueId, Seq,
    Standing, StoredMessage, Target, Topic, User,
};

/// Why the store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, took too long, or failed. For a write: the outcome is unknown.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// It was not asked (the committer's queue is full, or it has stopped): nothing was written.
    /// Backends never say so.
    #[error("the store was not asked: {0}")]
    NotAttempted(String),
    /// It refuses the data (SQLSTATE class 22 or 23, or SQLite's constraint and type errors):
    /// nothing of the call was written, and asking again cannot help.
    #[error("the store refuses the data: {0}")]
    BadData(String),
    /// It is there, and cannot be what a node stands on: a wrong password, a pooler that gives each
    /// transaction another session, an encoding that cannot hold every text. Waiting does not help.
    #[error("the store cannot be used: {0}")]
    Unusable(String),
    /// A row makes no sense to us.
    #[error("the store holds an unreadable row: {0}")]
    Corrupt(String),
}

/// For so many seconds what a node has said of itself counts ([`Store::share_health`]).
pub const HEALTH_FRESH_S: i64 = 5;

/// Held as long as a process runs meshes on a store it does not share; see [`Store::claim`].
#[async_trait]
pub trait Claim: Send + Sync {
    /// Whether it still stands. A node that lost it must ask again, or stop.
    async fn held(&mut self) -> bool;
}

/// What a backend does. Every method bounds its own waiting (seconds, not minutes).
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Brings the tables up to date. Safe to run twice, at the same time, and beside older nodes.
    async fn migrate(&self) -> Result<(), StoreError>;

    /// Takes over what the reference broker left undelivered on its database. It raises epochs: to
    /// be called by who has claimed the store, before it runs meshes. What cannot be taken over is
    /// logged and left.
    async fn adopt(&self) -> Result<(), StoreError>;

    /// Whether it accepts writes now.
    async fn healthy(&self) -> Result<(), StoreError>;

    /// Sentences about a set-up that cannot keep the promises (`fsync=off`, asynchronous standby).
    async fn unsafe_settings(&self) -> Result<Vec<String>, StoreError>;

    /// Asks to be the only node on this store, or (`shared`) one of a cluster that has it. Nothing if
    /// another process stands against that. Given back when the claim is dropped or the process
    /// dies, however it dies. A hint: safety rests on the fence.
    async fn claim(&self, shared: bool) -> Result<Option<Box<dyn Claim>>, StoreError>;

    /// Microseconds since the Unix epoch, by the store's clock: all nodes have the same.
    async fn clock(&self) -> Result<u64, StoreError>;

    /// The cluster whose store this is: an id that was drawn when the tables were made. Of a store that
    /// is not shared, any text.
    async fn cluster(&self) -> Result<String, StoreError>;

    /// Says whether this node of a cluster reaches Redis; answers whether another node that said so
    /// in the last [`HEALTH_FRESH_S`] seconds does.
    async fn share_health(&self, node: &str, reaches_redis: bool) -> Result<bool, StoreError>;

    /// This node is alive: notes the time by the store's clock. Called while leases are in grace.
    /// `node`, here and in [`Store::activate`], names one incarnation: were a restarted process to
    /// beat under its old name, the time it was down would count for the meshes it has yet to take.
    async fn beat(&self, node: &str) -> Result<(), StoreError>;

    /// Takes a mesh over: raises its epoch above its own and `floor`, in one statement, by
    /// [`EPOCH_STEP`](crate::model::EPOCH_STEP) and one at most; then, in
    /// another with a later snapshot, reads what the owner starts from. Nothing if there is no
    /// such mesh.
    async fn activate(
        &self,
        mesh: &MeshId,
        node: &str,
        floor: Epoch,
    ) -> Result<Option<Activation>, StoreError>;

    /// How a mesh stands, for people. Nothing if there is no such mesh. Counts rows: not for the hot
    /// path.
    async fn standing(&self, mesh: &MeshId) -> Result<Option<Standing>, StoreError>;

    /// Meshes that hold leases: after a start their graces must run on.
    async fn meshes_with_leases(&self) -> Result<Vec<MeshId>, StoreError>;

    /// Connections that may commit side by side.
    fn lanes(&self) -> usize;

    /// Writes a batch: each mesh all or nothing, in one transaction. `BadData` means that nothing
    /// of the whole batch was written; `Unavailable` that nobody knows. Never answers
    /// [`Outcome::Stopped`]: isolating bad units is [`committer`]'s.
    async fn commit(&self, lane: usize, batch: &[MeshCommit]) -> Result<Vec<Outcome>, StoreError>;

    /// The next stretch of a queue above `after`.
    async fn page(
        &self,
        mesh: &MeshId,
        queue: &QueueId,
        after: Seq,
        limit: PageLimit,
    ) -> Result<Page, StoreError>;

    /// What a key was accepted as.
    async fn accepted(
        &self,
        mesh: &MeshId,
        member: &MemberId,
        key: &AcceptKey,
    ) -> Result<Option<Accepted>, StoreError>;

    /// Who is behind a key. Nothing if there is no such mesh.
    async fn identify(
        &self,
        mesh: &MeshId,
        claim: &Claimed,
    ) -> Result<Option<Identity>, StoreError>;

    /// How the members stand that hold leases in these meshes: an answer for each mesh. One query,
    /// by keys alone: a node asks it every second.
    async fn memberships(&self, meshes: &[MeshId])
    -> Result<Vec<(MeshId, Membership)>, StoreError>;

    /// What members let others do: of those that restrict anybody.
    async fn grants(&self, mesh: &MeshId) -> Result<Vec<(MemberId, Grants)>, StoreError>;

    /// Of these session keys, those that are a member's own or that somebody has proven; removed members
    /// included.
    async fn taken_keys(
        &self,
        mesh: &MeshId,
        keys: &[Arc<str>],
    ) -> Result<Vec<Arc<str>>, StoreError>;

    /// The living topic of this id, else of this name.
    async fn topic(&self, mesh: &MeshId, spec: &str) -> Result<Option<Topic>, StoreError>;

    /// Who asks, whether `command` was executed before, and whom it is about.
    async fn moderation(
        &self,
        mesh: &MeshId,
        caller: &MemberId,
        command: &str,
        target: Option<&Target>,
    ) -> Result<Moderation, StoreError>;

    /// Removed members, the last one first; at most 1,000.
    async fn bans(&self, mesh: &MeshId) -> Result<Vec<Ban>, StoreError>;

    /// Entries of the audit chain, newest first, and how many there are of them in all.
    async fn audit(
        &self,
        mesh: &MeshId,
        query: &AuditQuery,
    ) -> Result<(Vec<AuditEntry>, u64), StoreError>;

    /// The next entries of the chain above row `after`, oldest first, at most `rows`.
    async fn audit_from(
        &self,
        mesh: &MeshId,
        after: i64,
        rows: u32,
    ) -> Result<Vec<AuditEntry>, StoreError>;

    /// Presences of all meshes, online or in grace, that a hook may be about; at most 64.
    async fn hook_presences(&self, target: &HookTarget) -> Result<Vec<HookPresence>, StoreError>;

    /// Keeps a hook's status for a presence that may come; older ones nobody came for go.
    async fn keep_pending(&self, pending: &NewPending) -> Result<(), StoreError>;

    /// Makes somebody a member by invite, in one transaction, checks in their order.
    async fn join(&self, joining: &Joining) -> Result<Joined, StoreError>;

    /// Users of the web application that shares the database, at most 50; none without one.
    async fn users(&self) -> Result<Vec<User>, StoreError>;

    /// At most two messages whose id begins with `prefix` (8 to 32 base62 characters).
    async fn messages(&self, mesh: &MeshId, prefix: &str)
    -> Result<Vec<StoredMessage>, StoreError>;

    /// Bytes of the bodies that wait in a mesh. Reads all deliveries of the mesh, and no body.
    async fn queue_bytes(&self, mesh: &MeshId) -> Result<QueueBytes, StoreError>;

    /// Deliveries waiting in all meshes.
    async fn queue_depth(&self) -> Result<u64, StoreError>;

    /// Removes envelopes accepted before `before` (milliseconds since the Unix epoch) with their
    /// keys and deliveries, in small transactions; answers how many, and how many of those nobody
    /// had confirmed. Forgets as well what else is too old: by the store's clock, session keys that
    /// nobody has proven for [`SESSION_KEY_TTL_MS`](crate::model::SESSION_KEY_TTL_MS), kicks that
    /// are over, executed commands, nodes that are gone.
    async fn retain(&self, before: i64) -> Result<Retained, StoreError>;

    /// Creates a mesh with its members. False, and nothing written, if a living mesh has the slug.
    async fn create_mesh(&self, mesh: &NewMesh) -> Result<bool, StoreError>;

    /// Living meshes, oldest first.
    async fn meshes(&self) -> Result<Vec<MeshRow>, StoreError>;

    /// Records an invite.
    async fn create_invite(&self, invite: &NewInvite) -> Result<(), StoreError>;
}

/// What [`Store::retain`] removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retained {
    /// Envelopes.
    pub envelopes: u64,
    /// Those among them that some recipient never confirmed.
    pub unconfirmed: u64,
}
