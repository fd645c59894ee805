//! Meshes, members and invites: schema `mesh`, which others may write as well.

use protocol::MeshId;
use protocol::client::Group;
use serde::de::DeserializeOwned;
use sqlx::postgres::PgRow;
use sqlx::{Connection, Row};

use super::error::{bounded, classify, unstored};
use super::session::READ_LIMIT;
use super::{Postgres, read};
use crate::model::{Identity, Member, MeshRow, NewInvite, NewMesh};
use crate::store::StoreError;

const TASK: &str = "looking an identity up";

pub(super) async fn identify(
    store: &Postgres,
    mesh: &MeshId,
    pubkey: &str,
    session_key: Option<&str>,
) -> Result<Option<Identity>, StoreError> {
    let query = sqlx::query(include_str!("sql/identify.sql"))
        .bind(mesh.as_str())
        .bind(pubkey)
        .bind(session_key);
    let row = read!(store, "looking an identity up", query, fetch_optional);
    let Some(row) = row else { return Ok(None) };
    let columns = || -> Result<(Identity, Option<&str>), sqlx::Error> {
        let identity = Identity {
            mesh_name: row.try_get("mesh_name")?,
            archived: row.try_get("archived")?,
            self_editable: None,
            member: member(&row)?,
            key_member: row.try_get::<Option<&str>, _>("key_member")?.map(Into::into),
        };
        Ok((identity, row.try_get("self_editable")?))
    };
    let (mut identity, editable) = columns().map_err(|error| classify(TASK, &error))?;
    identity.self_editable = json(editable)?;
    if let Some(member) = &mut identity.member {
        let groups: Option<&str> =
            row.try_get("default_groups").map_err(|error| classify(TASK, &error))?;
        member.default_groups = json::<Option<Vec<Group>>>(groups)?.flatten().unwrap_or_default();
    }
    Ok(Some(identity))
}

/// The member of the row, without its groups.
fn member(row: &PgRow) -> Result<Option<Member>, sqlx::Error> {
    let Some(id) = row.try_get::<Option<&str>, _>("id")? else { return Ok(None) };
    Ok(Some(Member {
        id: id.into(),
        pubkey: row.try_get::<&str, _>("peer_pubkey")?.into(),
        display_name: row.try_get("display_name")?,
        role: row.try_get("role")?,
        role_tag: row.try_get("role_tag")?,
        default_groups: Vec::new(),
        message_mode: row
            .try_get::<Option<String>, _>("message_mode")?
            .unwrap_or_else(|| "push".to_owned()),
        revoked: row.try_get("revoked")?,
    }))
}

fn json<T: DeserializeOwned>(text: Option<&str>) -> Result<Option<T>, StoreError> {
    text.map(serde_json::from_str)
        .transpose()
        .map_err(|_| StoreError::Corrupt(format!("{TASK}: a JSON column has another shape")))
}

/// Slugs carry no unique index, so creators of one slug take turns.
pub(super) async fn create_mesh(store: &Postgres, mesh: &NewMesh) -> Result<bool, StoreError> {
    let mut reader = store.reader().await?;
    let work = async {
        let mut tx = reader.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
            .bind(&mesh.slug)
            .execute(&mut *tx)
            .await?;
        let created = sqlx::query(
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
        .execute(&mut *tx)
        .await?
        .rows_affected()
            == 1;
        for member in mesh.members.iter().filter(|_| created) {
            sqlx::query(
                "INSERT INTO mesh.member (id, mesh_id, peer_pubkey, display_name, role, joined_at)
                 VALUES ($1, $2, $3, $4, $5::text::mesh.role,
                    timestamp '1970-01-01' + $6::bigint * interval '1 millisecond')",
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
        Ok::<_, sqlx::Error>(created)
    };
    let created = bounded("creating a mesh", READ_LIMIT, work).await?;
    reader.release();
    Ok(created)
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
