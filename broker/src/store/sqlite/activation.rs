//! Epochs, beats, and what a new owner starts from.

use protocol::MeshId;
use sqlx::{Row, SqlitePool};

use super::error::{StoreResult, corrupt, to_i64, to_u64};
use super::now;
use crate::model::{
    Activation, EPOCH_STEP, Epoch, KICKED_MOST, Kicked, Lane, LeaseRow, Place, QueueId, Recipient,
    Seq, Standing, StoredLease,
};

pub(super) async fn beat(writer: &SqlitePool, node: &str) -> StoreResult<()> {
    sqlx::query(concat!(
        "INSERT INTO node (node, beat_at) VALUES (?, ",
        now!(),
        ") ",
        "ON CONFLICT DO UPDATE SET beat_at = excluded.beat_at",
    ))
    .bind(node)
    .execute(writer)
    .await?;
    Ok(())
}

/// Raises the epoch; answers it and the one before. Moves absences on by the time that had no owner.
pub(super) async fn take(
    writer: &SqlitePool,
    mesh: &MeshId,
    node: &str,
    floor: Epoch,
) -> StoreResult<Option<(Epoch, Epoch)>> {
    let floor = to_i64(floor)?;
    let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
    // The owner so far was alive when it took the mesh and when it last beat.
    let before = sqlx::query(concat!(
        "SELECT ",
        now!(),
        ", max(o.taken_at, coalesce(n.beat_at, 0)), coalesce(o.epoch, 0) FROM mesh m ",
        "LEFT JOIN mesh_owner o ON o.mesh_id = m.id LEFT JOIN node n ON n.node = o.node ",
        "WHERE m.id = ?",
    ))
    .bind(mesh.as_str())
    .fetch_optional(&mut *tx)
    .await?;
    let Some(before) = before else {
        tx.rollback().await?;
        return Ok(None);
    };
    let (now, alive): (i64, Option<i64>) = (before.try_get(0)?, before.try_get(1)?);
    let previous: i64 = before.try_get(2)?;

    let epoch: i64 = sqlx::query_scalar(
        "INSERT INTO mesh_owner (mesh_id, epoch, node, taken_at) \
         VALUES (?1, min(?2, ?5) + 1, ?3, ?4) ON CONFLICT DO UPDATE SET \
         epoch = max(epoch, min(?2, epoch + ?5)) + 1, node = ?3, taken_at = ?4 \
         RETURNING epoch",
    )
    .bind(mesh.as_str())
    .bind(floor)
    .bind(node)
    .bind(now)
    .bind(to_i64(EPOCH_STEP)?)
    .fetch_one(&mut *tx)
    .await?;
    sqlx::query(
        "UPDATE lease SET away_at = ?2 - max(0, ?3 - away_at) \
         WHERE mesh_id = ?1 AND away_at IS NOT NULL",
    )
    .bind(mesh.as_str())
    .bind(now)
    .bind(alive.unwrap_or(0))
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Some((to_u64(epoch, "an epoch")?, to_u64(previous, "an epoch")?)))
}

/// Everything under the epoch just minted: later than any commit it fences off.
pub(super) async fn read(
    reader: &SqlitePool,
    mesh: &MeshId,
    (epoch, previous): (Epoch, Epoch),
) -> StoreResult<Activation> {
    let mut tx = reader.begin().await?;
    let tail: i64 = sqlx::query_scalar(
        "SELECT max(o.tail, coalesce((SELECT max(seq) FROM envelope WHERE mesh_id = ?1), 0)) \
         FROM mesh_owner o WHERE o.mesh_id = ?1",
    )
    .bind(mesh.as_str())
    .fetch_one(&mut *tx)
    .await?;
    let audit_hash =
        sqlx::query_scalar("SELECT hash FROM audit_log WHERE mesh_id = ? ORDER BY id DESC LIMIT 1")
            .bind(mesh.as_str())
            .fetch_optional(&mut *tx)
            .await?;
    let queues = queues(&mut tx, mesh).await?;
    let leases = leases(&mut tx, mesh).await?;
    let kicked = kicked(&mut tx, mesh).await?;
    tx.commit().await?;
    let tail = to_u64(tail, "a tail")?;
    let stale_leases = None;
    Ok(Activation { epoch, previous, tail, audit_hash, queues, leases, kicked, stale_leases })
}

async fn kicked(
    connection: &mut sqlx::SqliteConnection,
    mesh: &MeshId,
) -> StoreResult<Vec<Kicked>> {
    let rows: Vec<(String, String, String, i64)> = sqlx::query_as(concat!(
        "SELECT key, member_id, name, until - ",
        now!(),
        " AS left_ms FROM kicked WHERE mesh_id = ? AND left_ms > 0 ORDER BY left_ms DESC LIMIT ?",
    ))
    .bind(mesh.as_str())
    .bind(i64::try_from(KICKED_MOST).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await?;
    let kicked = |(key, member, name, left): (String, String, String, i64)| {
        let left_ms = to_u64(left, "the rest of a kick")?;
        Ok(Kicked { key: key.into(), member: member.into(), name, left_ms })
    };
    rows.into_iter().map(kicked).collect()
}

/// Steps from one recipient to the next by the key, over however many rows lie between.
async fn queues(
    connection: &mut sqlx::SqliteConnection,
    mesh: &MeshId,
) -> StoreResult<Vec<(QueueId, Seq)>> {
    let rows = sqlx::query(
        "WITH RECURSIVE r (recipient) AS ( \
           SELECT min(recipient) FROM delivery WHERE mesh_id = ?1 \
           UNION ALL \
           SELECT (SELECT min(recipient) FROM delivery \
                   WHERE mesh_id = ?1 AND recipient > r.recipient) \
           FROM r WHERE r.recipient IS NOT NULL), \
         q (recipient, lane, seq) AS ( \
           SELECT r.recipient, l.column1, \
             (SELECT max(seq) FROM delivery \
              WHERE mesh_id = ?1 AND recipient = r.recipient AND lane = l.column1) \
           FROM r CROSS JOIN (VALUES (0), (1)) l WHERE r.recipient IS NOT NULL) \
         SELECT recipient, lane, seq FROM q WHERE seq IS NOT NULL",
    )
    .bind(mesh.as_str())
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let recipient = Recipient::parse(row.try_get(0)?)
                .ok_or_else(|| corrupt("delivery.recipient is none"))?;
            let lane = Lane::from_index(row.try_get(1)?);
            Ok((QueueId { recipient, lane }, to_u64(row.try_get(2)?, "delivery.seq")?))
        })
        .collect()
}

async fn leases(
    connection: &mut sqlx::SqliteConnection,
    mesh: &MeshId,
) -> StoreResult<Vec<StoredLease>> {
    let rows = sqlx::query(
        "SELECT l.presence_id, l.body, l.away_at IS NOT NULL, \
           max(0, coalesce(o.taken_at - l.away_at, 0)), \
           l.member_id, l.session_id, l.cwd, l.pid \
         FROM lease l JOIN mesh_owner o ON o.mesh_id = l.mesh_id WHERE l.mesh_id = ?",
    )
    .bind(mesh.as_str())
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let presence = row.try_get::<&str, _>(0)?.into();
            let lease = LeaseRow {
                presence,
                body: row.try_get(1)?,
                away: row.try_get(2)?,
                member: row.try_get::<&str, _>(4)?.into(),
                place: Place {
                    session_id: row.try_get(5)?,
                    cwd: row.try_get(6)?,
                    pid: row.try_get(7)?,
                },
            };
            Ok(StoredLease { row: lease, away_ms: to_u64(row.try_get(3)?, "an absence")? })
        })
        .collect()
}

pub(super) async fn meshes_with_leases(reader: &SqlitePool) -> StoreResult<Vec<MeshId>> {
    let meshes: Vec<String> =
        sqlx::query_scalar("SELECT DISTINCT mesh_id FROM lease").fetch_all(reader).await?;
    Ok(meshes.into_iter().map(MeshId::from).collect())
}

pub(super) async fn standing(reader: &SqlitePool, mesh: &MeshId) -> StoreResult<Option<Standing>> {
    let row = sqlx::query(
        "SELECT coalesce(o.node, ''), coalesce(o.epoch, 0), \
           (SELECT count(*) FROM lease l WHERE l.mesh_id = m.id AND l.away_at IS NULL), \
           (SELECT count(*) FROM lease l WHERE l.mesh_id = m.id AND l.away_at IS NOT NULL), \
           (SELECT count(*) FROM delivery d WHERE d.mesh_id = m.id) \
         FROM mesh m LEFT JOIN mesh_owner o ON o.mesh_id = m.id WHERE m.id = ?",
    )
    .bind(mesh.as_str())
    .fetch_optional(reader)
    .await?;
    row.map(|row| {
        Ok(Standing {
            node: row.try_get(0)?,
            epoch: to_u64(row.try_get(1)?, "an epoch")?,
            sessions: to_u64(row.try_get(2)?, "a count")?,
            in_grace: to_u64(row.try_get(3)?, "a count")?,
            pending: to_u64(row.try_get(4)?, "a count")?,
        })
    })
    .transpose()
}
