//! Retention: what has outlived the TTL goes, a few hundred rows at a time.
//!
//! Guarantees: a pass never waits for a commit, holds its locks for one small transaction, and
//! looks at each envelope at most once however long a transaction elsewhere keeps removed rows
//! from being cleaned up: it walks each mesh in order and does not turn back.

use protocol::MeshId;
use sqlx::{Connection, Row};

use super::error::{bounded, classify};
use super::session::READ_LIMIT;
use super::{Postgres, read};
use crate::model::{HELLO_SEEN_MS, SESSION_KEY_TTL_MS};
use crate::store::{Retained, StoreError};

const TASK: &str = "removing expired messages";

/// Envelopes looked at first in each mesh: most passes find nothing expired there.
const FIRST: i64 = 16;

/// Envelopes a transaction: some milliseconds of locks and of log.
const CHUNK: i64 = 500;

/// Meshes listed at a time.
const MESHES: i64 = 1_000;

pub(super) async fn retain(store: &Postgres, before: i64) -> Result<Retained, StoreError> {
    let mut total = Retained::default();
    let mut last = String::new();
    loop {
        // Whoever has envelopes has had an owner.
        let query = sqlx::query_scalar::<_, String>(
            "SELECT mesh_id FROM broker.mesh_owner WHERE mesh_id > $1 ORDER BY mesh_id LIMIT $2",
        );
        let query = query.bind(&last).bind(MESHES);
        let meshes = read!(store, "listing meshes", query, fetch_all);
        let Some(end) = meshes.last() else { break };
        last.clone_from(end);
        for mesh in meshes {
            let mesh = mesh.into();
            retain_mesh(store, &mesh, before, &mut total).await?;
            forget_keys(store, &mesh).await?;
        }
    }
    // Each start of a node beats under a name of its own. A mesh last owned by one forgotten here
    // counts none of the time before its next owner.
    let forget = sqlx::query("DELETE FROM broker.node WHERE beat_at < now() - interval '7 days'");
    read!(store, "forgetting nodes", forget, execute);
    let forget =
        sqlx::query("DELETE FROM broker.node_health WHERE said_at < now() - interval '1 day'");
    read!(store, "forgetting what nodes said", forget, execute);
    // As long as an edge may ask again, and much longer.
    let forget = sqlx::query("DELETE FROM broker.command WHERE done_at < now() - interval '1 day'");
    read!(store, "forgetting commands", forget, execute);
    let forget = sqlx::query(
        "DELETE FROM broker.hello_seen
         WHERE seen_at < clock_timestamp() - $1::bigint * interval '1 millisecond'",
    );
    read!(store, "forgetting hellos", forget.bind(HELLO_SEEN_MS), execute);
    let forget = sqlx::query("DELETE FROM broker.kicked WHERE until < now()");
    read!(store, "forgetting kicks", forget, execute);
    Ok(total)
}

async fn retain_mesh(
    store: &Postgres,
    mesh: &MeshId,
    before: i64,
    total: &mut Retained,
) -> Result<(), StoreError> {
    let (mut after, mut look) = (0, FIRST);
    loop {
        let query = sqlx::query_as::<_, (i64, bool)>(include_str!("sql/expired.sql"))
            .bind(mesh.as_str())
            .bind(after)
            .bind(before)
            .bind(look);
        let rows = read!(store, "looking for expired messages", query, fetch_all);
        let expired: Vec<i64> = rows.iter().filter(|row| row.1).map(|row| row.0).collect();
        // Owners' clocks differ by seconds, so order by sequence is order by time but for that.
        let Some(end) = rows.last().filter(|_| !expired.is_empty()) else { return Ok(()) };
        after = end.0;
        look = CHUNK;
        let removed = remove(store, mesh, &expired).await?;
        total.envelopes += removed.envelopes;
        total.unconfirmed += removed.unconfirmed;
    }
}

async fn forget_keys(store: &Postgres, mesh: &MeshId) -> Result<(), StoreError> {
    loop {
        let forget = sqlx::query(include_str!("sql/forget_keys.sql"))
            .bind(mesh.as_str())
            .bind(SESSION_KEY_TTL_MS)
            .bind(CHUNK);
        let done = read!(store, "forgetting session keys", forget, execute);
        if done.rows_affected() < CHUNK.unsigned_abs() {
            return Ok(());
        }
    }
}

/// In two statements, the second with a snapshot that sees what moved while the first ran.
async fn remove(store: &Postgres, mesh: &MeshId, seqs: &[i64]) -> Result<Retained, StoreError> {
    let mut reader = store.reader().await?;
    let work = async {
        let mut tx = reader.begin().await?;
        sqlx::query(include_str!("sql/retain_deliveries.sql"))
            .bind(mesh.as_str())
            .bind(seqs)
            .execute(&mut *tx)
            .await?;
        let row = sqlx::query(include_str!("sql/retain_envelopes.sql"))
            .bind(mesh.as_str())
            .bind(seqs)
            .fetch_one(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok::<_, sqlx::Error>(row)
    };
    let row = bounded(TASK, READ_LIMIT, work).await?;
    reader.release();
    let count = |column| -> Result<u64, StoreError> {
        let count: i64 = row.try_get(column).map_err(|error| classify(TASK, &error))?;
        Ok(count.unsigned_abs())
    };
    Ok(Retained { envelopes: count("envelopes")?, unconfirmed: count("unconfirmed")? })
}
