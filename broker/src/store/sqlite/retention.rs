//! Removing what is old, a little at a time.

use sqlx::{Row, SqliteConnection, SqlitePool};

use super::error::{StoreResult, to_u64};
use super::{now, within};
use crate::model::{HELLO_SEEN_MS, SESSION_KEY_TTL_MS};
use crate::store::Retained;

/// Envelopes looked at in one transaction: some milliseconds, which a commit can wait.
const STRETCH: i64 = 256;

/// Walks every mesh from its oldest envelope, until a stretch holds none that is old.
pub(super) async fn retain(
    writer: &SqlitePool,
    reader: &SqlitePool,
    before: i64,
) -> StoreResult<Retained> {
    let meshes = within(async {
        let meshes = sqlx::query_scalar("SELECT mesh_id FROM mesh_owner").fetch_all(reader);
        Ok::<Vec<String>, _>(meshes.await?)
    })
    .await?;
    let mut removed = Retained::default();
    for mesh in &meshes {
        let mut after = 0;
        while let Some(next) = within(stretch(writer, mesh, after, before, &mut removed)).await? {
            after = next;
        }
        while within(forget_keys(writer, mesh)).await? {}
    }
    within(forget_nodes(writer, before)).await?;
    within(forget_commands(writer)).await?;
    within(forget_hellos(writer)).await?;
    Ok(removed)
}

async fn forget_hellos(writer: &SqlitePool) -> StoreResult<()> {
    sqlx::query(concat!("DELETE FROM hello_seen WHERE seen_at < ", now!(), " - ?"))
        .bind(HELLO_SEEN_MS)
        .execute(writer)
        .await?;
    Ok(())
}

/// Removes what is old of the next stretch above `after`; answers where it ended, if there is a
/// reason to go on.
async fn stretch(
    writer: &SqlitePool,
    mesh: &str,
    after: i64,
    before: i64,
    removed: &mut Retained,
) -> StoreResult<Option<i64>> {
    let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
    let found = sqlx::query(
        "SELECT max(seq), count(*) FILTER (WHERE created_at < ?3), \
           count(*) FILTER (WHERE created_at < ?3 AND delivered_at IS NULL) \
         FROM (SELECT seq, created_at, delivered_at FROM envelope \
               WHERE mesh_id = ?1 AND seq > ?2 ORDER BY seq LIMIT ?4)",
    )
    .bind(mesh)
    .bind(after)
    .bind(before)
    .bind(STRETCH)
    .fetch_one(&mut *tx)
    .await?;
    let (end, old): (Option<i64>, i64) = (found.try_get(0)?, found.try_get(1)?);
    let unconfirmed = to_u64(found.try_get(2)?, "a count")?;
    let Some(end) = end.filter(|_| old > 0) else {
        tx.rollback().await?;
        return Ok(None);
    };
    remove(&mut tx, mesh, (after, end), before).await?;
    tx.commit().await?;
    removed.envelopes += to_u64(old, "a count")?;
    removed.unconfirmed += unconfirmed;
    Ok(Some(end))
}

/// Deliveries and keys are found from their envelopes, so those go last. The tail is noted: a
/// mesh left without envelopes must not number from 1 again.
async fn remove(
    connection: &mut SqliteConnection,
    mesh: &str,
    (after, end): (i64, i64),
    before: i64,
) -> StoreResult<()> {
    for statement in [
        "DELETE FROM delivery WHERE (mesh_id, recipient, lane, seq) IN ( \
           SELECT mesh_id, recipients, lane, seq FROM envelope \
           WHERE mesh_id = ?1 AND seq > ?2 AND seq <= ?3 AND created_at < ?4 \
             AND delivered_at IS NULL AND NOT shared)",
        "DELETE FROM delivery INDEXED BY delivery_shared \
         WHERE shared AND mesh_id = ?1 AND seq IN ( \
           SELECT seq FROM envelope \
           WHERE mesh_id = ?1 AND seq > ?2 AND seq <= ?3 AND created_at < ?4 \
             AND delivered_at IS NULL)",
        "DELETE FROM accepted WHERE (mesh_id, member_id, kind, key) IN ( \
           SELECT mesh_id, sender_member_id, accept_kind, accept_key FROM envelope \
           WHERE mesh_id = ?1 AND seq > ?2 AND seq <= ?3 AND created_at < ?4)",
        "UPDATE mesh_owner SET tail = max(tail, coalesce( \
           (SELECT max(seq) FROM envelope \
            WHERE mesh_id = ?1 AND seq > ?2 AND seq <= ?3 AND created_at < ?4), 0)) \
         WHERE mesh_id = ?1",
        "DELETE FROM envelope WHERE mesh_id = ?1 AND seq > ?2 AND seq <= ?3 AND created_at < ?4",
    ] {
        sqlx::query(statement)
            .bind(mesh)
            .bind(after)
            .bind(end)
            .bind(before)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Nodes that own nothing and have long been silent.
async fn forget_nodes(writer: &SqlitePool, before: i64) -> StoreResult<()> {
    sqlx::query("DELETE FROM node WHERE beat_at < ? AND node NOT IN (SELECT node FROM mesh_owner)")
        .bind(before)
        .execute(writer)
        .await?;
    Ok(())
}

/// A day is as long as an edge may ask again, and much longer. Kicks are over when they say so.
async fn forget_commands(writer: &SqlitePool) -> StoreResult<()> {
    let forget = concat!("DELETE FROM command WHERE done_at < ", now!(), " - 86400000");
    sqlx::query(forget).execute(writer).await?;
    let over = concat!("DELETE FROM kicked WHERE until < ", now!());
    sqlx::query(over).execute(writer).await?;
    Ok(())
}

/// Session keys that nobody has proven for long, that no presence holds and nothing waits for: what
/// waits for a key must not outlive it. Answers whether there may be more.
async fn forget_keys(writer: &SqlitePool, mesh: &str) -> StoreResult<bool> {
    let done = sqlx::query(concat!(
        "DELETE FROM session_key WHERE (mesh_id, key) IN ( \
           SELECT k.mesh_id, k.key FROM session_key k \
           WHERE k.mesh_id = ?1 AND k.proven_at < ",
        now!(),
        " - ?2 AND NOT EXISTS (SELECT 1 FROM delivery d \
             WHERE d.mesh_id = ?1 AND d.recipient = 's:' || k.key) \
           AND NOT EXISTS (SELECT 1 FROM lease l \
             WHERE l.mesh_id = ?1 AND instr(l.body, k.key) > 0) \
           LIMIT ?3)",
    ))
    .bind(mesh)
    .bind(SESSION_KEY_TTL_MS)
    .bind(STRETCH)
    .execute(writer)
    .await?;
    Ok(done.rows_affected() == STRETCH.unsigned_abs())
}
