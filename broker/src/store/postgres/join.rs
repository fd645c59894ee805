//! Joining by invite. Joins of one mesh take turns, so what was checked still holds when it is
//! written: neither a key nor the last use of an invite makes two members.

use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, Row};

use super::Postgres;
use super::error::bounded;
use super::session::READ_LIMIT;
use crate::model::{Joined, Joining};
use crate::store::StoreError;
use crate::store::invites::{InviteRow, MeshKey, Preset, refusal};

const TASK: &str = "joining a mesh";

pub(super) async fn join(store: &Postgres, joining: &Joining) -> Result<Joined, StoreError> {
    let mut reader = store.reader().await?;
    let work = async {
        let mut tx = reader.begin().await?;
        let joined = decide(&mut tx, joining).await?;
        match joined {
            Joined::New(_) => tx.commit().await?,
            Joined::Already(_) | Joined::Refused(_) => tx.rollback().await?,
        }
        Ok::<_, sqlx::Error>(joined)
    };
    let joined = bounded(TASK, READ_LIMIT, work).await?;
    reader.release();
    Ok(joined)
}

async fn decide(conn: &mut PgConnection, joining: &Joining) -> Result<Joined, sqlx::Error> {
    let mesh = sqlx::query_as::<_, (bool, Option<String>)>(
        "SELECT archived_at IS NOT NULL, owner_pubkey FROM mesh.mesh WHERE id = $1
         FOR NO KEY UPDATE",
    );
    let mesh = mesh.bind(joining.mesh.as_str()).fetch_optional(&mut *conn).await?;
    let mesh = mesh.map(|(archived, owner)| MeshKey { archived, owner });
    let invite = sqlx::query(
        "SELECT id, mesh_id, revoked_at IS NOT NULL AS revoked,
            (extract(epoch FROM expires_at) * 1000)::bigint AS expires_at, preset::text AS preset
         FROM mesh.invite WHERE token = $1",
    );
    let invite = invite.bind(&joining.token).fetch_optional(&mut *conn).await?;
    let invite = invite.map(|row| invite_row(&row)).transpose()?;
    let invite = match refusal(joining, mesh.as_ref(), invite) {
        Ok(invite) => invite,
        Err(why) => return Ok(Joined::Refused(why)),
    };
    let known = sqlx::query_as::<_, (String, bool)>(
        "SELECT id, revoked_at IS NOT NULL FROM mesh.member
         WHERE mesh_id = $1 AND peer_pubkey IN ($2, upper($2))
         ORDER BY revoked_at IS NOT NULL, joined_at, id LIMIT 1",
    );
    let known = known.bind(joining.mesh.as_str()).bind(&joining.pubkey);
    match known.fetch_optional(&mut *conn).await? {
        Some((_, true)) => return Ok(Joined::Refused("member_banned")),
        Some((id, false)) => return Ok(Joined::Already(id.into())),
        None => {}
    }
    let proven = sqlx::query_scalar::<_, bool>(
        "SELECT EXISTS (
            SELECT FROM broker.session_key k
            WHERE k.mesh_id = $1 AND k.key = $2 AND (
                SELECT true FROM mesh.member m
                WHERE m.id = k.member_id COLLATE \"default\" LIMIT 1
            )
         )",
    );
    let proven = proven.bind(joining.mesh.as_str()).bind(&joining.pubkey);
    if proven.fetch_one(&mut *conn).await? || joining.is_owners_key() {
        return Ok(Joined::Refused("key_taken"));
    }
    let used = sqlx::query(
        "UPDATE mesh.invite SET used_count = used_count + 1
         WHERE id = $1 AND used_count < max_uses AND revoked_at IS NULL",
    );
    if used.bind(&invite.id).execute(&mut *conn).await?.rows_affected() == 0 {
        return Ok(Joined::Refused("invite_exhausted"));
    }
    insert(conn, joining, &invite.preset).await?;
    Ok(Joined::New(joining.member.clone()))
}

fn invite_row(row: &PgRow) -> Result<InviteRow, sqlx::Error> {
    Ok(InviteRow {
        id: row.try_get("id")?,
        mesh: row.try_get("mesh_id")?,
        revoked: row.try_get("revoked")?,
        expires_at: row.try_get("expires_at")?,
        preset: Preset::read(row.try_get("preset")?),
    })
}

async fn insert(
    conn: &mut PgConnection,
    joining: &Joining,
    preset: &Preset,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO mesh.member (id, mesh_id, peer_pubkey, display_name, role, joined_at,
            role_tag, default_groups, message_mode)
         VALUES ($1, $2, $3, $4, $5::text::mesh.role,
            timestamp '1970-01-01' + $6::bigint * interval '1 millisecond',
            $7, $8::text::jsonb, $9)",
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
    .execute(conn)
    .await?;
    Ok(())
}
