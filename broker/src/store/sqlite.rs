//! The store of a node that was configured with none: one SQLite file.
//!
//! Guarantees: what the trait says, for one machine. A commit is on disk (write-ahead log,
//! `synchronous=FULL`) when it answers. There is one writing connection, so one lane; readers see
//! the last commit and never wait for the writer. A second process may open the same file: the
//! fence keeps them apart, [`Store::claim`] tells them of each other.
//!
//! Left to others: the words (`model`), grouping (`committer`). The file grows to what was held at
//! most and stays there; it must not lie on a network file system, whose locks SQLite cannot trust.

mod activation;
mod batch;
mod commit;
mod error;
mod file;
mod hooks;
mod identity;
mod join;
mod ledger;
mod meshes;
mod moves;
mod people;
mod queue;
mod retention;
mod rows;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use protocol::{MemberId, MeshId};
use sqlx::SqlitePool;

use self::error::{StoreResult, unavailable};
use super::{Claim, Retained, Store, StoreError};
use crate::clock::wall_ms;
use crate::model::{
    AcceptKey, Accepted, Activation, AuditEntry, AuditQuery, Ban, Claim as Claimed, Epoch, Grants,
    HookPresence, HookTarget, Identity, Joined, Joining, Membership, MeshCommit, MeshRow,
    Moderation, NewInvite, NewMesh, NewPending, Outcome, Page, PageLimit, QueueBytes, QueueId, Seq,
    Standing, StoredMessage, Target, Topic, User,
};

/// How long a statement waits for another process that writes.
const BUSY: Duration = Duration::from_secs(5);

/// How long a call may take in all: waiting for the writing connection, for another process, and a
/// second of work each.
const CALL: Duration = Duration::from_secs(12);

/// Connections that read: a page of a backlog must not wait for another one.
const READERS: u32 = 3;

/// The store's clock, in milliseconds since the Unix epoch.
macro_rules! now {
    () => {
        "CAST(round(unixepoch('subsec') * 1000) AS INTEGER)"
    };
}
use now;

/// See the module.
#[derive(Debug)]
pub struct Sqlite {
    path: PathBuf,
    writer: SqlitePool,
    reader: SqlitePool,
}

impl Sqlite {
    /// Opens the file, and creates it and its directory, for its owner alone, if need be.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        file::create(path)?;
        let writer = file::writer(path).await?;
        let reader = file::readers(path);
        Ok(Self { path: path.to_owned(), writer, reader })
    }

    /// Refuses to let the file grow beyond so many pages, as a full disk would. For tests: no
    /// disk can be filled at will. Pages in use stay.
    pub async fn limit_pages(&self, pages: i64) -> Result<(), StoreError> {
        within(file::limit_pages(&self.writer, pages)).await
    }

    /// Waits for what is being written and closes the file. Optional: a file that was not closed
    /// is as good.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

/// Bounds a call.
async fn within<T>(call: impl Future<Output = StoreResult<T>>) -> StoreResult<T> {
    match tokio::time::timeout(CALL, call).await {
        Ok(answer) => answer,
        Err(_) => Err(unavailable(format!("no answer within {} s", CALL.as_secs()))),
    }
}

#[async_trait]
impl Store for Sqlite {
    async fn migrate(&self) -> StoreResult<()> {
        file::migrate(&self.path, &self.writer).await
    }

    /// The reference kept nothing in files of ours.
    async fn adopt(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn healthy(&self) -> StoreResult<()> {
        within(file::canary(&self.writer)).await
    }

    async fn unsafe_settings(&self) -> StoreResult<Vec<String>> {
        within(file::unsafe_settings(&self.writer)).await
    }

    /// A file is never shared: whoever runs a cluster has a Postgres.
    async fn claim(&self, _shared: bool) -> StoreResult<Option<Box<dyn Claim>>> {
        let claim = file::lock(&self.path, "lock")?;
        Ok(claim.map(|claim| Box::new(claim) as Box<dyn Claim>))
    }

    /// There are no others.
    async fn share_health(&self, _node: &str, _reaches_redis: bool) -> StoreResult<bool> {
        Ok(false)
    }

    /// It is never shared.
    async fn cluster(&self) -> StoreResult<String> {
        Ok("alone".to_owned())
    }

    /// The file has no clock but its machine's.
    async fn clock(&self) -> StoreResult<u64> {
        Ok(u64::try_from(wall_ms()).unwrap_or(0) * 1_000)
    }

    async fn beat(&self, node: &str) -> StoreResult<()> {
        within(activation::beat(&self.writer, node)).await
    }

    async fn activate(
        &self,
        mesh: &MeshId,
        node: &str,
        floor: Epoch,
    ) -> StoreResult<Option<Activation>> {
        within(async {
            match activation::take(&self.writer, mesh, node, floor).await? {
                Some(epochs) => activation::read(&self.reader, mesh, epochs).await.map(Some),
                None => Ok(None),
            }
        })
        .await
    }

    async fn standing(&self, mesh: &MeshId) -> StoreResult<Option<Standing>> {
        within(activation::standing(&self.reader, mesh)).await
    }

    async fn meshes_with_leases(&self) -> StoreResult<Vec<MeshId>> {
        within(activation::meshes_with_leases(&self.reader)).await
    }

    fn lanes(&self) -> usize {
        1
    }

    async fn commit(&self, _lane: usize, batch: &[MeshCommit]) -> StoreResult<Vec<Outcome>> {
        within(commit::commit(&self.writer, batch)).await
    }

    async fn page(
        &self,
        mesh: &MeshId,
        queue: &QueueId,
        after: Seq,
        limit: PageLimit,
    ) -> StoreResult<Page> {
        within(queue::page(&self.reader, mesh, queue, after, limit)).await
    }

    async fn accepted(
        &self,
        mesh: &MeshId,
        member: &MemberId,
        key: &AcceptKey,
    ) -> StoreResult<Option<Accepted>> {
        within(queue::accepted(&self.reader, mesh, member, key)).await
    }

    async fn identify(&self, mesh: &MeshId, claim: &Claimed) -> StoreResult<Option<Identity>> {
        within(identity::identify(&self.reader, mesh, claim)).await
    }

    async fn memberships(&self, meshes: &[MeshId]) -> StoreResult<Vec<(MeshId, Membership)>> {
        within(identity::memberships(&self.reader, meshes)).await
    }

    async fn grants(&self, mesh: &MeshId) -> StoreResult<Vec<(MemberId, Grants)>> {
        within(identity::grants(&self.reader, mesh)).await
    }

    async fn taken_keys(&self, mesh: &MeshId, keys: &[Arc<str>]) -> StoreResult<Vec<Arc<str>>> {
        within(identity::taken_keys(&self.reader, mesh, keys)).await
    }

    async fn topic(&self, mesh: &MeshId, spec: &str) -> StoreResult<Option<Topic>> {
        within(identity::topic(&self.reader, mesh, spec)).await
    }

    async fn moderation(
        &self,
        mesh: &MeshId,
        caller: &MemberId,
        command: &str,
        target: Option<&Target>,
    ) -> StoreResult<Moderation> {
        within(identity::moderation(&self.reader, mesh, caller, command, target)).await
    }

    async fn bans(&self, mesh: &MeshId) -> StoreResult<Vec<Ban>> {
        within(identity::bans(&self.reader, mesh)).await
    }

    async fn audit(
        &self,
        mesh: &MeshId,
        query: &AuditQuery,
    ) -> StoreResult<(Vec<AuditEntry>, u64)> {
        within(ledger::query(&self.reader, mesh, query)).await
    }

    async fn audit_from(
        &self,
        mesh: &MeshId,
        after: i64,
        rows: u32,
    ) -> StoreResult<Vec<AuditEntry>> {
        within(ledger::after(&self.reader, mesh, after, rows)).await
    }

    async fn hook_presences(&self, target: &HookTarget) -> StoreResult<Vec<HookPresence>> {
        within(hooks::presences(&self.reader, target)).await
    }

    async fn keep_pending(&self, pending: &NewPending) -> StoreResult<()> {
        within(hooks::keep_pending(&self.writer, pending)).await
    }

    async fn join(&self, joining: &Joining) -> StoreResult<Joined> {
        within(join::join(&self.writer, joining)).await
    }

    async fn users(&self) -> StoreResult<Vec<User>> {
        Ok(Vec::new()) // nobody shares a file with a web application
    }

    async fn messages(&self, mesh: &MeshId, prefix: &str) -> StoreResult<Vec<StoredMessage>> {
        within(queue::messages(&self.reader, mesh, prefix)).await
    }

    async fn queue_bytes(&self, mesh: &MeshId) -> StoreResult<QueueBytes> {
        within(queue::bytes(&self.reader, mesh)).await
    }

    async fn queue_depth(&self) -> StoreResult<u64> {
        within(queue::depth(&self.reader)).await
    }

    async fn retain(&self, before: i64) -> StoreResult<Retained> {
        // Bounds each transaction by itself: a pass takes as long as there is something to remove.
        retention::retain(&self.writer, &self.reader, before).await
    }

    async fn create_mesh(&self, mesh: &NewMesh) -> StoreResult<bool> {
        within(meshes::create(&self.writer, mesh)).await
    }

    async fn meshes(&self) -> StoreResult<Vec<MeshRow>> {
        within(meshes::list(&self.reader)).await
    }

    async fn create_invite(&self, invite: &NewInvite) -> StoreResult<()> {
        within(meshes::create_invite(&self.writer, invite)).await
    }
}
