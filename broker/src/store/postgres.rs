//! The store of a cluster: Postgres 14 or later.
//!
//! Guarantees: what [`Store`] promises. A batch of accepts, confirmations and audit entries is one
//! statement and one round trip; a new owner's start does not grow with what waits; a row is found by key however
//! stale the statistics are; retention never waits for a commit. Left to others: grouping and
//! isolation of bad rows ([`committer`](super::committer)); keeping a mesh's commits in one lane.
//!
//! Connect to Postgres itself or through a pooler in session mode: the settings of a connection and
//! the claim belong to a session.

mod activate;
mod adopt;
mod commit;
mod error;
mod health;
mod hooks;
mod identity;
mod join;
mod ledger;
mod meshes;
pub mod probe;
mod queue;
mod retain;
mod session;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use protocol::{MemberId, MeshId};
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;

use self::commit::Lane;
use self::session::Reader;
use super::{Claim, Retained, Store, StoreError};
use crate::model::{
    AcceptKey, Accepted, Activation, AuditEntry, AuditQuery, Ban, Claim as Claimed, Epoch, Grants,
    HookPresence, HookTarget, Identity, Joined, Joining, Membership, MeshCommit, MeshRow,
    Moderation, NewInvite, NewMesh, NewPending, Outcome, Page, PageLimit, QueueBytes, QueueId, Seq,
    Standing, StoredMessage, Target, Topic, User,
};

/// See the module.
pub struct Postgres {
    options: PgConnectOptions,
    pool: PgPool,
    lanes: Vec<Lane>,
    /// The age at which a connection that is kept is replaced.
    renew_after: Option<Duration>,
}

impl Postgres {
    /// A store at `url` that commits over `lanes` connections. Tries the address once, so that a
    /// mistake in it shows at the start and not at the first hello.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unusable`]: trying again does not help, see [`probe`](mod@probe).
    pub async fn connect(url: &str, lanes: usize) -> Result<Self, StoreError> {
        Self::renewing(url, lanes, Duration::ZERO).await
    }

    /// The same; no connection grows older than `max_age`, unless that is zero: proxies cut those that
    /// do, and a database may have moved behind its name.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn renewing(url: &str, lanes: usize, max_age: Duration) -> Result<Self, StoreError> {
        let options = session::options(url)?;
        probe::refuse_unusable(&options).await?;
        let renew_after = (!max_age.is_zero()).then_some(max_age * 9 / 10);
        let pool = session::pool(options.clone(), renew_after);
        let lanes = (0..lanes.max(1)).map(|_| Lane::new(options.clone())).collect();
        let store = Self { options, pool, lanes, renew_after };
        Reader::acquire(&store.pool).await?.release();
        Ok(store)
    }

    /// Replaces the connections of lanes that have grown old. Another time, if that fails: the old one
    /// goes on.
    async fn renew_lanes(&self) -> Result<(), StoreError> {
        for lane in &self.lanes {
            if let Some(age) = self.renew_after
                && let Err(error) = lane.renew(age).await
            {
                tracing::warn!(%error, "a connection to the store cannot be renewed yet");
            }
        }
        Ok(())
    }

    /// A connection for reading.
    async fn reader(&self) -> Result<Reader, StoreError> {
        Reader::acquire(&self.pool).await
    }
}

/// Runs one query on a reader and gives the reader back if it answered.
macro_rules! read {
    ($store:expr, $task:literal, $query:expr, $fetch:ident) => {{
        let mut reader = $store.reader().await?;
        let query = $query.$fetch(&mut *reader);
        let answer = $crate::store::postgres::error::bounded(
            $task,
            $crate::store::postgres::session::READ_LIMIT,
            query,
        )
        .await?;
        reader.release();
        answer
    }};
}
use read;

#[async_trait]
impl Store for Postgres {
    async fn migrate(&self) -> Result<(), StoreError> {
        health::migrate(&self.options).await
    }

    async fn adopt(&self) -> Result<(), StoreError> {
        adopt::adopt(self).await
    }

    async fn healthy(&self) -> Result<(), StoreError> {
        health::healthy(self).await
    }

    async fn unsafe_settings(&self) -> Result<Vec<String>, StoreError> {
        health::unsafe_settings(self).await
    }

    async fn claim(&self, shared: bool) -> Result<Option<Box<dyn Claim>>, StoreError> {
        health::claim(self, shared).await
    }

    async fn share_health(&self, node: &str, reaches_redis: bool) -> Result<bool, StoreError> {
        health::share_health(self, node, reaches_redis).await
    }

    async fn cluster(&self) -> Result<String, StoreError> {
        health::cluster(self).await
    }

    async fn clock(&self) -> Result<u64, StoreError> {
        health::clock(self).await
    }

    async fn beat(&self, node: &str) -> Result<(), StoreError> {
        health::beat(self, node).await
    }

    async fn activate(
        &self,
        mesh: &MeshId,
        node: &str,
        floor: Epoch,
    ) -> Result<Option<Activation>, StoreError> {
        activate::activate(self, mesh, node, floor).await
    }

    async fn standing(&self, mesh: &MeshId) -> Result<Option<Standing>, StoreError> {
        activate::standing(self, mesh).await
    }

    async fn meshes_with_leases(&self) -> Result<Vec<MeshId>, StoreError> {
        activate::meshes_with_leases(self).await
    }

    fn lanes(&self) -> usize {
        self.lanes.len()
    }

    async fn commit(&self, lane: usize, batch: &[MeshCommit]) -> Result<Vec<Outcome>, StoreError> {
        match self.lanes.get(lane % self.lanes.len()) {
            Some(lane) => lane.commit(batch).await,
            None => Err(StoreError::Unavailable("committing: no lane".to_owned())),
        }
    }

    async fn page(
        &self,
        mesh: &MeshId,
        queue: &QueueId,
        after: Seq,
        limit: PageLimit,
    ) -> Result<Page, StoreError> {
        queue::page(self, mesh, queue, after, limit).await
    }

    async fn accepted(
        &self,
        mesh: &MeshId,
        member: &MemberId,
        key: &AcceptKey,
    ) -> Result<Option<Accepted>, StoreError> {
        queue::accepted(self, mesh, member, key).await
    }

    async fn identify(
        &self,
        mesh: &MeshId,
        claim: &Claimed,
    ) -> Result<Option<Identity>, StoreError> {
        identity::identify(self, mesh, claim).await
    }

    async fn memberships(
        &self,
        meshes: &[MeshId],
    ) -> Result<Vec<(MeshId, Membership)>, StoreError> {
        identity::memberships(self, meshes).await
    }

    async fn grants(&self, mesh: &MeshId) -> Result<Vec<(MemberId, Grants)>, StoreError> {
        identity::grants(self, mesh).await
    }

    async fn taken_keys(
        &self,
        mesh: &MeshId,
        keys: &[Arc<str>],
    ) -> Result<Vec<Arc<str>>, StoreError> {
        identity::taken_keys(self, mesh, keys).await
    }

    async fn topic(&self, mesh: &MeshId, spec: &str) -> Result<Option<Topic>, StoreError> {
        identity::topic(self, mesh, spec).await
    }

    async fn moderation(
        &self,
        mesh: &MeshId,
        caller: &MemberId,
        command: &str,
        target: Option<&Target>,
    ) -> Result<Moderation, StoreError> {
        identity::moderation(self, mesh, caller, command, target).await
    }

    async fn bans(&self, mesh: &MeshId) -> Result<Vec<Ban>, StoreError> {
        identity::bans(self, mesh).await
    }

    async fn audit(
        &self,
        mesh: &MeshId,
        query: &AuditQuery,
    ) -> Result<(Vec<AuditEntry>, u64), StoreError> {
        ledger::query(self, mesh, query).await
    }

    async fn audit_from(
        &self,
        mesh: &MeshId,
        after: i64,
        rows: u32,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        ledger::after(self, mesh, after, rows).await
    }

    async fn hook_presences(&self, target: &HookTarget) -> Result<Vec<HookPresence>, StoreError> {
        hooks::presences(self, target).await
    }

    async fn keep_pending(&self, pending: &NewPending) -> Result<(), StoreError> {
        hooks::keep_pending(self, pending).await
    }

    async fn join(&self, joining: &Joining) -> Result<Joined, StoreError> {
        join::join(self, joining).await
    }

    async fn users(&self) -> Result<Vec<User>, StoreError> {
        meshes::users(self).await
    }

    async fn messages(
        &self,
        mesh: &MeshId,
        prefix: &str,
    ) -> Result<Vec<StoredMessage>, StoreError> {
        queue::messages(self, mesh, prefix).await
    }

    async fn queue_bytes(&self, mesh: &MeshId) -> Result<QueueBytes, StoreError> {
        queue::bytes(self, mesh).await
    }

    async fn queue_depth(&self) -> Result<u64, StoreError> {
        queue::depth(self).await
    }

    async fn retain(&self, before: i64) -> Result<Retained, StoreError> {
        retain::retain(self, before).await
    }

    async fn create_mesh(&self, mesh: &NewMesh) -> Result<bool, StoreError> {
        meshes::create_mesh(self, mesh).await
    }

    async fn meshes(&self) -> Result<Vec<MeshRow>, StoreError> {
        meshes::meshes(self).await
    }

    async fn create_invite(&self, invite: &NewInvite) -> Result<(), StoreError> {
        meshes::create_invite(self, invite).await
    }
}
