//! Meshes, their first members and invites, as the command line makes and lists them.

use sqlx::{Row, SqlitePool};

use super::error::{StoreResult, to_u64};
use crate::model::{MeshRow, NewInvite, NewMesh};

pub(super) async fn create(writer: &SqlitePool, mesh: &NewMesh) -> StoreResult<bool> {
    let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
    let done = sqlx::query(
        "INSERT INTO mesh (id, name, slug, owner_user_id, owner_pubkey, owner_secret_key, \
           root_key, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?) \
         ON CONFLICT (slug) WHERE archived_at IS NULL DO NOTHING",
    )
    .bind(mesh.id.as_str())
    .bind(&mesh.name)
    .bind(&mesh.slug)
    .bind(&mesh.owner_user)
    .bind(&mesh.owner_pubkey)
    .bind(&mesh.owner_secret_key)
    .bind(&mesh.root_key)
    .bind(mesh.created_at)
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() == 0 {
        tx.rollback().await?;
        return Ok(false);
    }
    for member in &mesh.members {
        sqlx::query(
            "INSERT INTO member (id, mesh_id, user_id, peer_pubkey, display_name, role, \
               joined_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(member.id.as_str())
        .bind(mesh.id.as_str())
        .bind(&member.user)
        .bind(&member.pubkey)
        .bind(&member.display_name)
        .bind(member.role)
        .bind(mesh.created_at)
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok(true)
}

pub(super) async fn list(reader: &SqlitePool) -> StoreResult<Vec<MeshRow>> {
    let rows = sqlx::query(
        "SELECT id, slug, name, owner_pubkey, owner_secret_key, root_key, owner_user_id, \
           created_at, \
           (SELECT count(*) FROM member WHERE mesh_id = mesh.id AND revoked_at IS NULL) \
         FROM mesh WHERE archived_at IS NULL ORDER BY created_at, id",
    )
    .fetch_all(reader)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(MeshRow {
                id: row.try_get::<&str, _>(0)?.into(),
                slug: row.try_get(1)?,
                name: row.try_get(2)?,
                owner_pubkey: row.try_get(3)?,
                owner_secret_key: row.try_get(4)?,
                root_key: row.try_get(5)?,
                owner_user: row.try_get(6)?,
                created_at: row.try_get(7)?,
                members: to_u64(row.try_get(8)?, "a count")?,
            })
        })
        .collect()
}

pub(super) async fn create_invite(writer: &SqlitePool, invite: &NewInvite) -> StoreResult<()> {
    sqlx::query(
        "INSERT INTO invite (id, mesh_id, token, max_uses, role, expires_at, created_by, \
           created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&invite.id)
    .bind(invite.mesh.as_str())
    .bind(&invite.token)
    .bind(invite.max_uses)
    .bind(&invite.role)
    .bind(invite.expires_at)
    .bind(&invite.created_by)
    .bind(invite.created_at)
    .execute(writer)
    .await?;
    Ok(())
}
