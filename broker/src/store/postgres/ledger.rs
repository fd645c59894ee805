//! Reading the audit chain.

use protocol::MeshId;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::error::{classify, unstored};
use super::{Postgres, read};
use crate::model::{AUDIT_ROWS, AUDIT_WALK, AuditEntry, AuditQuery};
use crate::store::StoreError;

const TASK: &str = "reading the audit chain";

/// The count stops at a million; a chain longer than can be counted in time is `Unavailable`.
pub(super) async fn query(
    store: &Postgres,
    mesh: &MeshId,
    query: &AuditQuery,
) -> Result<(Vec<AuditEntry>, u64), StoreError> {
    let reader = query.reader.as_ref().map(protocol::MemberId::as_str);
    let entries = sqlx::query(include_str!("sql/audit.sql"))
        .bind(mesh.as_str())
        .bind(i64::from(query.limit.min(AUDIT_ROWS)))
        .bind(i64::try_from(query.offset).unwrap_or(i64::MAX))
        .bind(query.event.as_deref())
        .bind(reader)
        .bind(i64::from(AUDIT_WALK));
    let count = sqlx::query_scalar::<_, i64>(include_str!("sql/count_audit.sql"))
        .bind(mesh.as_str())
        .bind(query.event.as_deref())
        .bind(reader)
        .bind(i64::from(AUDIT_WALK));
    let rows = read!(store, "reading the audit chain", entries, fetch_all);
    let total = read!(store, "counting the audit chain", count, fetch_one);
    Ok((rows.iter().map(entry).collect::<Result<_, _>>()?, unstored(TASK, total)?))
}

pub(super) async fn after(
    store: &Postgres,
    mesh: &MeshId,
    after: i64,
    rows: u32,
) -> Result<Vec<AuditEntry>, StoreError> {
    let entries = sqlx::query(include_str!("sql/audit_from.sql"))
        .bind(mesh.as_str())
        .bind(after)
        .bind(i64::from(rows));
    let rows = read!(store, "reading the audit chain", entries, fetch_all);
    rows.iter().map(entry).collect()
}

fn entry(row: &PgRow) -> Result<AuditEntry, StoreError> {
    let columns = || -> Result<(AuditEntry, &str), sqlx::Error> {
        let entry = AuditEntry {
            id: row.try_get("id")?,
            event: row.try_get("event_type")?,
            actor: row.try_get("actor_member_id")?,
            actor_name: row.try_get("actor_display_name")?,
            payload: serde_json::Value::Null,
            prev_hash: row.try_get("prev_hash")?,
            hash: row.try_get("hash")?,
            created_at: row.try_get("created_at")?,
        };
        Ok((entry, row.try_get("payload")?))
    };
    let (mut entry, payload) = columns().map_err(|error| classify(TASK, &error))?;
    entry.payload = serde_json::from_str(payload)
        .map_err(|_| StoreError::Corrupt(format!("{TASK}: a payload cannot be read")))?;
    Ok(entry)
}
