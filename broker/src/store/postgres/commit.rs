//! Commits: a batch of many meshes as one statement, or as few as its order allows.
//!
//! Guarantees: a mesh whose epoch is not the stored one writes nothing; the others of the batch
//! commit in the same transaction; a mesh's writes take effect in their order. After any failure
//! the connection is given up, so what one batch did wrong cannot reach the next.

mod cold;
mod hot;
mod plan;

use std::collections::HashMap;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::sync::Mutex;

use self::plan::{Entry, Plan, Source};
use super::error::bounded;
use super::session;
use crate::model::{Accepted, Duplicate, MeshCommit, Outcome};
use crate::store::StoreError;

/// A batch, with the wait for the one before it on the lane and a new connection if it needs one.
/// Shorter than the 8 s after which an edge tells a sender that it does not know.
const COMMIT_LIMIT: Duration = Duration::from_secs(6);

const TASK: &str = "committing";

/// One commit connection, and the place of one batch at a time.
pub(super) struct Lane {
    options: PgConnectOptions,
    /// Taken out while in use: a batch that fails or is abandoned takes it along.
    conn: Mutex<Option<PgConnection>>,
}

impl Lane {
    pub(super) fn new(options: PgConnectOptions) -> Self {
        Self { options, conn: Mutex::new(None) }
    }

    pub(super) async fn commit(&self, batch: &[MeshCommit]) -> Result<Vec<Outcome>, StoreError> {
        let plan = Plan::of(batch)?;
        let limit = tokio::time::timeout(COMMIT_LIMIT, async {
            let mut place = self.conn.lock().await;
            let mut conn = match place.take() {
                Some(conn) => conn,
                None => session::open(&self.options).await?,
            };
            let answer = bounded(TASK, COMMIT_LIMIT, run(&mut conn, &plan)).await?;
            *place = Some(conn);
            Ok(answer)
        });
        let answer = limit
            .await
            .map_err(|_| StoreError::Unavailable(format!("{TASK}: no answer in {COMMIT_LIMIT:?}")))
            .flatten()?;
        Ok(answer.outcomes(&plan))
    }
}

/// Which meshes held their fence, and what was known already.
#[derive(Default)]
struct Answer {
    /// By mesh, in the plan's order.
    held: Vec<bool>,
    /// By stage and row: the original of a known accept.
    known: HashMap<(usize, usize), Accepted>,
}

impl Answer {
    fn outcomes(&self, plan: &Plan<'_>) -> Vec<Outcome> {
        let held = |mesh: &usize| self.held.get(*mesh).copied().unwrap_or(false);
        let committed = || Outcome::Committed { duplicates: Vec::new() };
        let mut outcomes: Vec<Outcome> = plan
            .mesh_of
            .iter()
            .map(|mesh| if held(mesh) { committed() } else { Outcome::Fenced })
            .collect();
        for entry in &plan.accepts {
            let Some(original) = self.original(plan, entry) else { continue };
            if let Some(Outcome::Committed { duplicates }) = outcomes.get_mut(entry.batch) {
                duplicates.push(Duplicate { seq: entry.envelope.seq, original });
            }
        }
        outcomes
    }

    fn original(&self, plan: &Plan<'_>, entry: &Entry<'_>) -> Option<Accepted> {
        match entry.source {
            Source::Row { stage, row } => self.known.get(&(stage, row)).cloned(),
            Source::Twin { first } => {
                let first = plan.accepts.get(first)?;
                self.original(plan, first).or_else(|| {
                    Some(Accepted {
                        message: first.envelope.id.clone(),
                        fingerprint: first.envelope.fingerprint.clone(),
                    })
                })
            }
        }
    }
}

async fn run(conn: &mut PgConnection, plan: &Plan<'_>) -> Result<Answer, sqlx::Error> {
    let mut answer = Answer::default();
    if let [stage] = plan.stages.as_slice()
        && plan.is_hot()
    {
        hot::apply(conn, plan, 0, stage, &mut answer).await?;
        return Ok(answer);
    }
    let mut tx = conn.begin().await?;
    for (at, stage) in plan.stages.iter().enumerate() {
        hot::apply(&mut tx, plan, at, stage, &mut answer).await?;
        cold::inherit(&mut tx, plan, stage, &answer.held).await?;
    }
    cold::drop_leases(&mut tx, plan, &answer.held).await?;
    cold::save_leases(&mut tx, plan, &answer.held).await?;
    cold::record_keys(&mut tx, plan, &answer.held).await?;
    cold::audit(&mut tx, plan, &answer.held).await?;
    tx.commit().await?;
    Ok(answer)
}
