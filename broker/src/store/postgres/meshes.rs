//! Meshes as the command line makes and lists them, invites, and users of a web application.

use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, Row};

use super::error::{bounded, classify, unstored};
use super::session::READ_LIMIT;
use super::{Postgres, read};
use crate::model::{MeshRow, NewInvite, NewMesh, User};
use crate::store::StoreError;

/// Slugs carry no unique index, so creators of one slug take turns.
pub(super) async fn create_mesh(store: &Postgres, mesh: &NewMesh) -> Result<bool, StoreError> {
    let mut reader = store.reader().await?;
    let work = async {
        let mut tx = reader.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
            .bind(&mesh.slug)
            .execute(&mut *tx)
            .await?;
        let created = insert_mesh(&mut tx, mesh).await?;
        if created {
            insert_members(&mut tx, mesh).await?;
        }
        tx.commit().await?;
        Ok::<_, sqlx::Error>(created)
    };
    let created = bounded("creating a mesh", READ_LIMIT, work).await?;
    reader.release();
    Ok(created)
}

async fn insert_mesh(conn: &mut PgConnection, mesh: &NewMesh) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "INSERT INTO mesh.mesh (id, slug, name, owner_user_id, owner_pubkey, owner_secret_key,
            root_key, created_at)
         SELECT $1, $2::text, $3, $4, $5, $6, $7,
            timestamp '1970-01-01' + $8::bigint * interval '1 millisecond'
         WHERE NOT EXISTS (
            SELECT FROM mesh.mesh WHERE slug = $2::text AND archived_at IS NULL)",
    )
    .bind(mesh.id.as_str())
    .bind(&mesh.slug)
    .bind(&mesh.name)
    .bind(&mesh.owner_user)
    .bind(&mesh.owner_pubkey)
    .bind(&mesh.owner_secret_key)
    .bind(&mesh.root_key)
    .bind(mesh.created_at)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

async fn insert_members(conn: &mut PgConnection, mesh: &NewMesh) -> Result<(), sqlx::Error> {
    for member in &mesh.members {
        sqlx::query(
            "INSERT INTO mesh.member (id, mesh_id, user_id, peer_pubkey, display_name, role,
                joined_at)
             VALUES ($1, $2, $3, $4, $5, $6::text::mesh.role,
                timestamp '1970-01-01' + $7::bigint * interval '1 millisecond')",
        )
        .bind(member.id.as_str())
        .bind(mesh.id.as_str())
        .bind(&member.user)
        .bind(&member.pubkey)
        .bind(&member.display_name)
        .bind(member.role)
        .bind(mesh.created_at)
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

pub(super) async fn meshes(store: &Postgres) -> Result<Vec<MeshRow>, StoreError> {
    let query = sqlx::query(
        "SELECT m.id, m.slug, m.name, m.owner_pubkey, m.owner_secret_key, m.root_key,
            m.owner_user_id,
            (extract(epoch FROM m.created_at) * 1000)::bigint AS created_at,
            (SELECT count(*) FROM mesh.member p
                WHERE p.mesh_id = m.id AND p.revoked_at IS NULL) AS members
         FROM mesh.mesh m
         WHERE m.archived_at IS NULL
         ORDER BY m.created_at, m.id",
    );
    let rows = read!(store, "listing meshes", query, fetch_all);
    rows.iter().map(mesh_row).collect()
}

fn mesh_row(row: &PgRow) -> Result<MeshRow, StoreError> {
    const TASK: &str = "listing meshes";
    let columns = || -> Result<(MeshRow, i64), sqlx::Error> {
        let mesh = MeshRow {
            id: row.try_get::<&str, _>("id")?.into(),
            slug: row.try_get("slug")?,
            name: row.try_get("name")?,
            members: 0,
            owner_pubkey: row.try_get("owner_pubkey")?,
            owner_secret_key: row.try_get("owner_secret_key")?,
            root_key: row.try_get("root_key")?,
            owner_user: row.try_get("owner_user_id")?,
            created_at: row.try_get("created_at")?,
        };
        Ok((mesh, row.try_get("members")?))
    };
    let (mut mesh, members) = columns().map_err(|error| classify(TASK, &error))?;
    mesh.members = unstored(TASK, members)?;
    Ok(mesh)
}

pub(super) async fn create_invite(store: &Postgres, invite: &NewInvite) -> Result<(), StoreError> {
    let max_uses = i32::try_from(invite.max_uses)
        .map_err(|_| StoreError::BadData("creating an invite: too many uses".to_owned()))?;
    let query = sqlx::query(
        "INSERT INTO mesh.invite (id, mesh_id, token, max_uses, role, expires_at, created_by,
            created_at)
         VALUES ($1, $2, $3, $4, $5::text::mesh.role,
            timestamp '1970-01-01' + $6::bigint * interval '1 millisecond', $7,
            timestamp '1970-01-01' + $8::bigint * interval '1 millisecond')",
    )
    .bind(&invite.id)
    .bind(invite.mesh.as_str())
    .bind(&invite.token)
    .bind(max_uses)
    .bind(&invite.role)
    .bind(invite.expires_at)
    .bind(&invite.created_by)
    .bind(invite.created_at);
    read!(store, "creating an invite", query, execute);
    Ok(())
}

/// Only where there is such a table, with these columns.
pub(super) async fn users(store: &Postgres) -> Result<Vec<User>, StoreError> {
    let there = sqlx::query_scalar::<_, bool>(
        "SELECT count(*) = 3 FROM pg_attribute
         WHERE attrelid = to_regclass('public.\"user\"') AND attnum > 0 AND NOT attisdropped
            AND attname IN ('id', 'name', 'email')",
    );
    if !read!(store, "looking for users", there, fetch_one) {
        return Ok(Vec::new());
    }
    let query = sqlx::query_as::<_, (String, String, String)>(
        "SELECT id::text, coalesce(name::text, ''), coalesce(email::text, '')
         FROM public.\"user\" ORDER BY 2, 1 LIMIT 50",
    );
    let rows = read!(store, "listing users", query, fetch_all);
    Ok(rows.into_iter().map(|(id, name, email)| User { id, name, email }).collect())
}
