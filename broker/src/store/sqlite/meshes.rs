//! Meshes, members and invites.

use protocol::MeshId;
use protocol::client::Group;
use sqlx::{Row, SqliteConnection, SqlitePool};

use super::error::{StoreResult, corrupt, to_u64};
use crate::model::{Identity, Member, MeshRow, NewInvite, NewMesh};

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
            "INSERT INTO member (id, mesh_id, peer_pubkey, display_name, role, joined_at) \
             VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(member.id.as_str())
        .bind(mesh.id.as_str())
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

pub(super) async fn identify(
    reader: &SqlitePool,
    mesh: &MeshId,
    pubkey: &str,
    session_key: Option<&str>,
) -> StoreResult<Option<Identity>> {
    let mut tx = reader.begin().await?;
    let found = sqlx::query(
        "SELECT coalesce(nullif(name, ''), nullif(slug, ''), id), archived_at IS NOT NULL, \
           self_editable, \
           (SELECT member_id FROM session_key WHERE mesh_id = mesh.id AND key = ?2) \
         FROM mesh WHERE id = ?1",
    )
    .bind(mesh.as_str())
    .bind(session_key)
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = found else { return Ok(None) };
    let self_editable = row.try_get::<Option<&str>, _>(2)?.map(serde_json::from_str).transpose();
    let identity = Identity {
        mesh_name: row.try_get(0)?,
        archived: row.try_get(1)?,
        self_editable: self_editable.map_err(|_| corrupt("mesh.self_editable is no JSON"))?,
        key_member: row.try_get::<Option<&str>, _>(3)?.map(Into::into),
        member: member(&mut tx, mesh, pubkey).await?,
    };
    tx.commit().await?;
    Ok(Some(identity))
}

async fn member(
    connection: &mut SqliteConnection,
    mesh: &MeshId,
    pubkey: &str,
) -> StoreResult<Option<Member>> {
    let found = sqlx::query(
        "SELECT id, peer_pubkey, display_name, role, role_tag, default_groups, message_mode, \
           revoked_at IS NOT NULL \
         FROM member WHERE mesh_id = ? AND peer_pubkey = ? \
         ORDER BY revoked_at IS NOT NULL, joined_at DESC, id LIMIT 1",
    )
    .bind(mesh.as_str())
    .bind(pubkey)
    .fetch_optional(connection)
    .await?;
    let Some(row) = found else { return Ok(None) };
    let groups: Vec<Group> = serde_json::from_str(row.try_get(5)?)
        .map_err(|_| corrupt("member.default_groups is no list of groups"))?;
    Ok(Some(Member {
        id: row.try_get::<&str, _>(0)?.into(),
        pubkey: row.try_get::<&str, _>(1)?.into(),
        display_name: row.try_get(2)?,
        role: row.try_get(3)?,
        role_tag: row.try_get(4)?,
        default_groups: groups,
        message_mode: row.try_get(6)?,
        revoked: row.try_get(7)?,
    }))
}
