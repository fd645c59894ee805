//! Joining by invite. The transaction holds the file's only write lock, so what was checked still
//! holds when it is written.

use sqlx::{Row, SqliteConnection, SqlitePool};

use super::error::StoreResult;
use crate::model::{Joined, Joining};
use crate::store::invites::{InviteRow, MeshKey, Preset, refusal};

pub(super) async fn join(writer: &SqlitePool, joining: &Joining) -> StoreResult<Joined> {
    let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
    let joined = decide(&mut tx, joining).await?;
    match joined {
        Joined::New(_) => tx.commit().await?,
        Joined::Already(_) | Joined::Refused(_) => tx.rollback().await?,
    }
    Ok(joined)
}

async fn decide(connection: &mut SqliteConnection, joining: &Joining) -> StoreResult<Joined> {
    let mesh: Option<(bool, Option<String>)> =
        sqlx::query_as("SELECT archived_at IS NOT NULL, owner_pubkey FROM mesh WHERE id = ?")
            .bind(joining.mesh.as_str())
            .fetch_optional(&mut *connection)
            .await?;
    let mesh = mesh.map(|(archived, owner)| MeshKey { archived, owner });
    let invite = invite(connection, &joining.token).await?;
    let invite = match refusal(joining, mesh.as_ref(), invite) {
        Ok(invite) => invite,
        Err(why) => return Ok(Joined::Refused(why)),
    };
    let known: Option<(String, bool)> = sqlx::query_as(
        "SELECT id, revoked_at IS NOT NULL FROM member \
         WHERE mesh_id = ?1 AND peer_pubkey IN (?2, upper(?2)) \
         ORDER BY revoked_at IS NOT NULL, joined_at, id LIMIT 1",
    )
    .bind(joining.mesh.as_str())
    .bind(&joining.pubkey)
    .fetch_optional(&mut *connection)
    .await?;
    match known {
        Some((_, true)) => return Ok(Joined::Refused("member_banned")),
        Some((id, false)) => return Ok(Joined::Already(id.into())),
        None => {}
    }
    let proven: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM session_key k CROSS JOIN member m ON m.id = k.member_id \
           WHERE k.mesh_id = ? AND k.key = ?)",
    )
    .bind(joining.mesh.as_str())
    .bind(&joining.pubkey)
    .fetch_one(&mut *connection)
    .await?;
    if proven || joining.is_owners_key() {
        return Ok(Joined::Refused("key_taken"));
    }
    let used = sqlx::query(
        "UPDATE invite SET used_count = used_count + 1 WHERE id = ? AND used_count < max_uses",
    )
    .bind(&invite.id)
    .execute(&mut *connection)
    .await?;
    if used.rows_affected() == 0 {
        return Ok(Joined::Refused("invite_exhausted"));
    }
    insert(connection, joining, &invite.preset).await?;
    Ok(Joined::New(joining.member.clone()))
}

async fn invite(connection: &mut SqliteConnection, token: &str) -> StoreResult<Option<InviteRow>> {
    let found = sqlx::query(
        "SELECT id, mesh_id, revoked_at IS NOT NULL, expires_at, preset FROM invite \
         WHERE token = ?",
    )
    .bind(token)
    .fetch_optional(connection)
    .await?;
    let Some(row) = found else { return Ok(None) };
    Ok(Some(InviteRow {
        id: row.try_get(0)?,
        mesh: row.try_get(1)?,
        revoked: row.try_get(2)?,
        expires_at: row.try_get(3)?,
        preset: Preset::read(row.try_get(4)?),
    }))
}

async fn insert(
    connection: &mut SqliteConnection,
    joining: &Joining,
    preset: &Preset,
) -> StoreResult<()> {
    sqlx::query(
        "INSERT INTO member (id, mesh_id, peer_pubkey, display_name, role, joined_at, role_tag, \
           default_groups, message_mode) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(joining.member.as_str())
    .bind(joining.mesh.as_str())
    .bind(&joining.pubkey)
    .bind(preset.display_name.as_ref().unwrap_or(&joining.display_name))
    .bind(&joining.role)
    .bind(joining.now)
    .bind(&preset.role_tag)
    .bind(preset.groups_json())
    .bind(preset.message_mode())
    .execute(connection)
    .await?;
    Ok(())
}
