//! Reading the audit chain.

use protocol::{MemberId, MeshId};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqlitePool};

use super::error::{StoreResult, corrupt, to_u64};
use crate::model::{AUDIT_ROWS, AUDIT_WALK, AuditEntry, AuditQuery};

pub(super) async fn query(
    reader: &SqlitePool,
    mesh: &MeshId,
    query: &AuditQuery,
) -> StoreResult<(Vec<AuditEntry>, u64)> {
    let own = query.reader.as_ref().map(MemberId::as_str);
    let mut tx = reader.begin().await?;
    let rows = sqlx::query(
        "SELECT id, event_type, actor_member_id, actor_display_name, payload, prev_hash, hash, \
           created_at \
         FROM (SELECT * FROM audit_log WHERE mesh_id = ?1 ORDER BY id DESC LIMIT ?6) \
         WHERE (?2 IS NULL OR event_type = ?2) \
           AND (?3 IS NULL OR event_type <> 'message_sent' OR actor_member_id IS ?3) \
         ORDER BY id DESC LIMIT ?4 OFFSET ?5",
    )
    .bind(mesh.as_str())
    .bind(&query.event)
    .bind(own)
    .bind(query.limit.min(AUDIT_ROWS))
    .bind(i64::try_from(query.offset).unwrap_or(i64::MAX))
    .bind(AUDIT_WALK)
    .fetch_all(&mut *tx)
    .await?;
    let total: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT event_type, actor_member_id FROM audit_log \
           WHERE mesh_id = ?1 ORDER BY id DESC LIMIT ?4) \
         WHERE (?2 IS NULL OR event_type = ?2) \
           AND (?3 IS NULL OR event_type <> 'message_sent' OR actor_member_id IS ?3)",
    )
    .bind(mesh.as_str())
    .bind(&query.event)
    .bind(own)
    .bind(AUDIT_WALK)
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok((rows.iter().map(entry).collect::<Result<_, _>>()?, to_u64(total, "a count")?))
}

pub(super) async fn after(
    reader: &SqlitePool,
    mesh: &MeshId,
    after: i64,
    rows: u32,
) -> StoreResult<Vec<AuditEntry>> {
    let rows = sqlx::query(
        "SELECT id, event_type, actor_member_id, actor_display_name, payload, prev_hash, hash, \
           created_at \
         FROM audit_log WHERE mesh_id = ? AND id > ? ORDER BY id LIMIT ?",
    )
    .bind(mesh.as_str())
    .bind(after)
    .bind(rows)
    .fetch_all(reader)
    .await?;
    rows.iter().map(entry).collect()
}

fn entry(row: &SqliteRow) -> StoreResult<AuditEntry> {
    Ok(AuditEntry {
        id: row.try_get(0)?,
        event: row.try_get(1)?,
        actor: row.try_get(2)?,
        actor_name: row.try_get(3)?,
        payload: serde_json::from_str(row.try_get(4)?)
            .map_err(|_| corrupt("audit_log.payload is no JSON"))?,
        prev_hash: row.try_get(5)?,
        hash: row.try_get(6)?,
        created_at: row.try_get(7)?,
    })
}
