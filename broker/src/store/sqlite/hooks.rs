//! What hooks say, and whom they are about.

use sqlx::SqlitePool;

use super::error::StoreResult;
use super::now;
use crate::model::{HookPresence, HookTarget, NewPending, PENDING_MS};

pub(super) async fn presences(
    reader: &SqlitePool,
    target: &HookTarget,
) -> StoreResult<Vec<HookPresence>> {
    let (session, cwd, pid) = match target {
        HookTarget::Session(id) => (Some(id), None, None),
        HookTarget::Process { cwd, pid } => (None, Some(cwd), *pid),
    };
    let rows: Vec<(String, String, String, String)> = sqlx::query_as(
        "SELECT l.mesh_id, l.presence_id, l.member_id, m.peer_pubkey FROM ( \
           SELECT mesh_id, presence_id, member_id FROM lease WHERE session_id = ?1 \
           UNION ALL \
           SELECT mesh_id, presence_id, member_id FROM lease \
           WHERE cwd = ?2 AND (?3 IS NULL OR pid = ?3)) l \
         JOIN member m ON m.id = l.member_id \
         ORDER BY l.mesh_id, l.presence_id LIMIT 64",
    )
    .bind(session)
    .bind(cwd)
    .bind(pid)
    .fetch_all(reader)
    .await?;
    let presence = |(mesh, presence, member, member_pubkey): (String, String, String, String)| {
        let (mesh, presence, member) = (mesh.into(), presence.into(), member.into());
        HookPresence { mesh, presence, member, member_pubkey }
    };
    Ok(rows.into_iter().map(presence).collect())
}

pub(super) async fn keep_pending(writer: &SqlitePool, pending: &NewPending) -> StoreResult<()> {
    let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query(concat!("DELETE FROM pending_status WHERE created_at < ", now!(), " - ?"))
        .bind(PENDING_MS)
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "INSERT INTO pending_status (session_id, cwd, pid, status, created_at) \
         VALUES (?, ?, ?, ?, ?)",
    )
    .bind(&pending.session_id)
    .bind(&pending.cwd)
    .bind(pending.pid)
    .bind(pending.status.as_str())
    .bind(pending.created_at)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}
