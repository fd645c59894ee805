//! Commits: a batch of many meshes as one statement, or as few as its order allows.
//!
//! Guarantees: a mesh whose epoch is not the stored one, or that knows one of its keys already,
//! writes nothing; the others of the batch commit in the same transaction; a mesh's writes take effect in their order. After any failure
//! the connection is given up, so what one batch did wrong cannot reach the next.

mod cold;
mod hot;
mod plan;

use std::collections::HashMap;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::plan::Plan;
use super::error::bounded;
use super::session;
use crate::model::{Duplicate, MeshCommit, Outcome};
use crate::store::StoreError;

/// A batch, with the wait for the one before it on the lane and a new connection if it needs one.
/// Shorter than the 8 s after which an edge tells a sender that it does not know.
const COMMIT_LIMIT: Duration = Duration::from_secs(6);

const TASK: &str = "committing";

/// One commit connection, and the place of one batch at a time.
pub(super) struct Lane {
    options: PgConnectOptions,
    /// Taken out while in use: a batch that fails or is abandoned takes it along. With the time of its
    /// making.
    conn: Mutex<Option<(PgConnection, Instant)>>,
}

impl Lane {
    pub(super) fn new(options: PgConnectOptions) -> Self {
        Self { options, conn: Mutex::new(None) }
    }

    pub(super) async fn commit(&self, batch: &[MeshCommit]) -> Result<Vec<Outcome>, StoreError> {
        let plan = Plan::of(batch)?;
        let limit = tokio::time::timeout(COMMIT_LIMIT, async {
            let mut place = self.conn.lock().await;
            let (mut conn, since) = match place.take() {
                Some(open) => open,
                None => (session::open(&self.options).await?, Instant::now()),
            };
            let answer = bounded(TASK, COMMIT_LIMIT, run(&mut conn, &plan)).await?;
            *place = Some((conn, since));
            Ok(answer)
        });
        let answer = limit
            .await
            .map_err(|_| StoreError::Unavailable(format!("{TASK}: no answer in {COMMIT_LIMIT:?}")))
            .flatten()?;
        Ok(answer.outcomes(&plan))
    }
}

impl Lane {
    /// Puts a new connection into the place of one that is older than `age`, between two batches.
    pub(super) async fn renew(&self, age: Duration) -> Result<(), StoreError> {
        let is_old = |open: &Option<(_, Instant)>| {
            open.as_ref().is_some_and(|(_, since)| since.elapsed() >= age)
        };
        // One that is at work is old a second later, too.
        if !self.conn.try_lock().is_ok_and(|place| is_old(&place)) {
            return Ok(());
        }
        let new = (session::open(&self.options).await?, Instant::now());
        let old = self.conn.lock().await.replace(new);
        if let Some((conn, _)) = old {
            let _ = bounded("disconnecting", COMMIT_LIMIT, conn.close()).await;
        }
        Ok(())
    }
}

/// What became of each mesh of a plan, by its place there.
#[derive(Default)]
struct Answer {
    /// Whether it held its fence. Empty until the first statement has told.
    held: Vec<bool>,
    /// Its accepts whose key was known. It must not write anything if there are any.
    known: HashMap<usize, Vec<Duplicate>>,
    /// Deliveries of it that were taken back.
    purged: HashMap<usize, u64>,
}

impl Answer {
    fn writes(&self, mesh: usize) -> bool {
        self.held.get(mesh) == Some(&true) && !self.known.contains_key(&mesh)
    }

    fn outcomes(&self, plan: &Plan<'_>) -> Vec<Outcome> {
        let outcome = |mesh: &usize| match self.known.get(mesh) {
            Some(known) => Outcome::Known(known.clone()),
            None if self.writes(*mesh) => {
                Outcome::Committed { purged: self.purged.get(mesh).copied().unwrap_or(0) }
            }
            None => Outcome::Fenced,
        };
        plan.mesh_of.iter().map(outcome).collect()
    }
}

async fn run(conn: &mut PgConnection, plan: &Plan<'_>) -> Result<Answer, sqlx::Error> {
    if plan.is_hot() {
        let mut answer = Answer::default();
        hot::apply(conn, plan, 0, &mut answer).await?;
        return Ok(answer);
    }
    let mut tx = conn.begin().await?;
    let answer = write(&mut tx, plan).await?;
    tx.commit().await?;
    Ok(answer)
}

/// Writes a plan of any kind, within a transaction.
async fn write(conn: &mut PgConnection, plan: &Plan<'_>) -> Result<Answer, sqlx::Error> {
    let mut answer = Answer::default();
    if plan.stages.len() > 1 {
        hot::look_up(conn, plan, &mut answer).await?;
    }
    for (at, stage) in plan.stages.iter().enumerate() {
        hot::apply(conn, plan, at, &mut answer).await?;
        cold::move_deliveries(conn, plan, stage, &mut answer).await?;
    }
    cold::apply(conn, plan, &answer).await?;
    Ok(answer)
}

/// Writes one mesh's commit as part of the caller's transaction.
pub(super) async fn within(
    conn: &mut PgConnection,
    commit: &MeshCommit,
) -> Result<Outcome, StoreError> {
    let plan = Plan::of(std::slice::from_ref(commit))?;
    let answer = bounded(TASK, COMMIT_LIMIT, write(conn, &plan)).await?;
    Ok(answer.outcomes(&plan).pop().unwrap_or(Outcome::Fenced))
}
