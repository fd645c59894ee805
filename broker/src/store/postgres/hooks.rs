//! What hooks say, and whom they are about.

use super::{Postgres, read};
use crate::model::{HookPresence, HookTarget, NewPending, PENDING_MS};
use crate::store::StoreError;

pub(super) async fn presences(
    store: &Postgres,
    target: &HookTarget,
) -> Result<Vec<HookPresence>, StoreError> {
    let (session, cwd, pid) = match target {
        HookTarget::Session(id) => (Some(id.as_str()), None, None),
        HookTarget::Process { cwd, pid } => (None, Some(cwd.as_str()), *pid),
    };
    let query = sqlx::query_as::<_, (String, String, String, String)>(include_str!(
        "sql/hook_presences.sql"
    ))
    .bind(session)
    .bind(cwd)
    .bind(pid);
    let rows = read!(store, "looking presences up", query, fetch_all);
    let presence = |(mesh, presence, member, member_pubkey): (String, String, String, String)| {
        let (mesh, presence, member) = (mesh.into(), presence.into(), member.into());
        HookPresence { mesh, presence, member, member_pubkey }
    };
    Ok(rows.into_iter().map(presence).collect())
}

pub(super) async fn keep_pending(store: &Postgres, pending: &NewPending) -> Result<(), StoreError> {
    let query = sqlx::query(
        "WITH old AS (
            DELETE FROM broker.pending_status
            WHERE created_at < (extract(epoch FROM now()) * 1000)::bigint - $6
         )
         INSERT INTO broker.pending_status (session_id, cwd, pid, status, created_at)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(&pending.session_id)
    .bind(&pending.cwd)
    .bind(pending.pid)
    .bind(pending.status.as_str())
    .bind(pending.created_at)
    .bind(PENDING_MS);
    read!(store, "keeping a status", query, execute);
    Ok(())
}
