//! Who there is: identities, grants, topics, and whom moderation is about.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::client::{Group, Status};
use protocol::{MemberId, MeshId};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection, SqlitePool};

use super::error::{StoreResult, corrupt};
use super::now;
use crate::model::{
    Ban, Claim, Grants, HELLO_SEEN_MS, Identity, MATCHES, Member, Membership, Moderation,
    PENDING_MS, Pending, Place, SavedState, Target, Topic, Totals,
};
use crate::store::people::is_topic_id;

/// The columns of a [`Member`], of `member p` in `mesh m`.
macro_rules! member_columns {
    () => {
        "p.id, p.peer_pubkey, p.display_name, p.role, p.role_tag, p.default_groups, \
         p.message_mode, p.revoked_at IS NOT NULL, \
         coalesce(p.user_id = m.owner_user_id, 0) OR \
           coalesce(lower(p.peer_pubkey) = lower(m.owner_pubkey), 0), p.peer_grants"
    };
}

pub(super) async fn identify(
    reader: &SqlitePool,
    mesh: &MeshId,
    claim: &Claim,
) -> StoreResult<Option<Identity>> {
    let mut tx = reader.begin().await?;
    let found = sqlx::query(concat!(
        "SELECT coalesce(nullif(name, ''), nullif(slug, ''), id), archived_at IS NOT NULL, \
           self_editable, \
           (SELECT k.member_id FROM session_key k CROSS JOIN member r ON r.id = k.member_id \
              WHERE k.mesh_id = mesh.id AND k.key = ?2 AND r.revoked_at IS NULL), \
           EXISTS (SELECT 1 FROM member t \
             WHERE t.mesh_id = mesh.id AND t.peer_pubkey IN (?2, upper(?2))) \
             OR EXISTS (SELECT 1 FROM session_key t CROSS JOIN member r ON r.id = t.member_id \
               WHERE t.mesh_id = mesh.id AND t.key = ?2) \
             OR coalesce(lower(owner_pubkey) = ?2, 0), \
           (SELECT conn FROM hello_seen s WHERE s.mesh_id = mesh.id AND s.digest = ?3 \
              AND s.seen_at > ",
        now!(),
        " - ?4), \
           NOT EXISTS (SELECT 1 FROM member o WHERE o.mesh_id = mesh.id \
             AND o.peer_pubkey <> ?5 AND o.revoked_at IS NULL) \
         FROM mesh WHERE id = ?1",
    ))
    .bind(mesh.as_str())
    .bind(claim.session.as_deref())
    .bind(claim.hello.as_deref())
    .bind(HELLO_SEEN_MS)
    .bind(&*claim.pubkey)
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = found else { return Ok(None) };
    let self_editable = row.try_get::<Option<&str>, _>(2)?.map(serde_json::from_str).transpose();
    let mut identity = Identity {
        mesh_name: row.try_get(0)?,
        archived: row.try_get(1)?,
        self_editable: self_editable.map_err(|_| corrupt("mesh.self_editable is no JSON"))?,
        key_member: row.try_get::<Option<&str>, _>(3)?.map(Into::into),
        key_taken: row.try_get(4)?,
        seen_by: row.try_get(5)?,
        alone: row.try_get(6)?,
        member: member(&mut tx, mesh, &claim.pubkey).await?,
        saved: None,
        pending: None,
    };
    if let (Some(place), Some(member)) = (&claim.place, &identity.member) {
        identity.saved = saved(&mut tx, mesh, &member.id).await?;
        if !member.revoked {
            identity.pending = pending(&mut tx, place).await?;
        }
    }
    tx.commit().await?;
    Ok(Some(identity))
}

async fn member(
    connection: &mut SqliteConnection,
    mesh: &MeshId,
    pubkey: &str,
) -> StoreResult<Option<Member>> {
    let found = sqlx::query(concat!(
        "SELECT ",
        member_columns!(),
        " FROM member p JOIN mesh m ON m.id = p.mesh_id \
         WHERE p.mesh_id = ? AND p.peer_pubkey = ? \
         ORDER BY p.revoked_at IS NOT NULL, p.joined_at, p.id LIMIT 1",
    ))
    .bind(mesh.as_str())
    .bind(pubkey)
    .fetch_optional(connection)
    .await?;
    found.map(|row| read_member(&row)).transpose()
}

fn read_member(row: &SqliteRow) -> StoreResult<Member> {
    let groups: Vec<Group> = serde_json::from_str(row.try_get(5)?)
        .map_err(|_| corrupt("member.default_groups is no list of groups"))?;
    let grants = serde_json::from_str(row.try_get(9)?)
        .map_err(|_| corrupt("member.peer_grants is no JSON"))?;
    Ok(Member {
        id: row.try_get::<&str, _>(0)?.into(),
        pubkey: row.try_get::<&str, _>(1)?.into(),
        display_name: row.try_get(2)?,
        role: row.try_get(3)?,
        role_tag: row.try_get(4)?,
        default_groups: groups,
        message_mode: row.try_get(6)?,
        revoked: row.try_get(7)?,
        owner: row.try_get(8)?,
        grants: Grants::from_json(&grants),
    })
}

async fn saved(
    connection: &mut SqliteConnection,
    mesh: &MeshId,
    member: &MemberId,
) -> StoreResult<Option<SavedState>> {
    let found = sqlx::query(
        "SELECT groups, profile, visible, last_summary, last_seen_at, messages_in, messages_out, \
           tool_calls, errors \
         FROM peer_state WHERE mesh_id = ? AND member_id = ?",
    )
    .bind(mesh.as_str())
    .bind(member.as_str())
    .fetch_optional(connection)
    .await?;
    let Some(row) = found else { return Ok(None) };
    let count =
        |column: usize| -> StoreResult<u64> { Ok(row.try_get::<i64, _>(column)?.unsigned_abs()) };
    Ok(Some(SavedState {
        groups: serde_json::from_str(row.try_get(0)?)
            .map_err(|_| corrupt("peer_state.groups is no list of groups"))?,
        profile: serde_json::from_str(row.try_get(1)?)
            .map_err(|_| corrupt("peer_state.profile is none"))?,
        visible: row.try_get(2)?,
        summary: row.try_get(3)?,
        seen_at: row.try_get(4)?,
        stats: Totals {
            messages_in: count(5)?,
            messages_out: count(6)?,
            tool_calls: count(7)?,
            errors: count(8)?,
        },
    }))
}

async fn pending(connection: &mut SqliteConnection, place: &Place) -> StoreResult<Option<Pending>> {
    let found: Option<(i64, String)> = sqlx::query_as(concat!(
        "SELECT id, status FROM ( \
           SELECT id, status, created_at, 1 AS by_session FROM pending_status \
           WHERE session_id = ?1 \
           UNION ALL \
           SELECT id, status, created_at, 0 FROM pending_status WHERE cwd = ?2 AND pid = ?3) \
         WHERE abs(",
        now!(),
        " - created_at) <= ?4 ORDER BY by_session DESC, created_at DESC, id DESC LIMIT 1",
    ))
    .bind(&place.session_id)
    .bind(&place.cwd)
    .bind(place.pid)
    .bind(PENDING_MS)
    .fetch_optional(connection)
    .await?;
    let named = |(id, word): (i64, String)| Some(Pending { id, status: Status::named(&word)? });
    Ok(found.and_then(named))
}

pub(super) async fn grants(
    reader: &SqlitePool,
    mesh: &MeshId,
) -> StoreResult<Vec<(MemberId, Grants)>> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT id, peer_grants FROM member \
         WHERE mesh_id = ? AND revoked_at IS NULL AND peer_grants <> '{}'",
    )
    .bind(mesh.as_str())
    .fetch_all(reader)
    .await?;
    let mut grants = Vec::new();
    for (id, text) in rows {
        let stored =
            serde_json::from_str(&text).map_err(|_| corrupt("member.peer_grants is no JSON"))?;
        grants.push((id.into(), Grants::from_json(&stored)));
    }
    grants.retain(|(_, grants): &(MemberId, Grants)| !grants.is_empty());
    Ok(grants)
}

pub(super) async fn taken_keys(
    reader: &SqlitePool,
    mesh: &MeshId,
    keys: &[Arc<str>],
) -> StoreResult<Vec<Arc<str>>> {
    let keys = serde_json::Value::from(keys.iter().map(|key| &**key).collect::<Vec<_>>());
    let taken: Vec<String> = sqlx::query_scalar(
        "SELECT k.value FROM json_each(?2) k \
         WHERE EXISTS (SELECT 1 FROM member m \
             WHERE m.mesh_id = ?1 AND m.peer_pubkey IN (k.value, upper(k.value))) \
           OR EXISTS (SELECT 1 FROM session_key s CROSS JOIN member r ON r.id = s.member_id \
             WHERE s.mesh_id = ?1 AND s.key = k.value) \
           OR EXISTS (SELECT 1 FROM mesh o WHERE o.id = ?1 AND lower(o.owner_pubkey) = k.value)",
    )
    .bind(mesh.as_str())
    .bind(keys.to_string())
    .fetch_all(reader)
    .await?;
    Ok(taken.into_iter().map(Into::into).collect())
}

pub(super) async fn topic(
    reader: &SqlitePool,
    mesh: &MeshId,
    spec: &str,
) -> StoreResult<Option<Topic>> {
    let mut tx = reader.begin().await?;
    let found: Option<(String, String)> = sqlx::query_as(
        "SELECT id, name FROM topic \
         WHERE mesh_id = ?1 AND archived_at IS NULL AND (id = ?2 OR name = ?3) \
         ORDER BY id = ?2 DESC LIMIT 1",
    )
    .bind(mesh.as_str())
    .bind(is_topic_id(spec).then_some(spec))
    .bind(spec)
    .fetch_optional(&mut *tx)
    .await?;
    let Some((id, name)) = found else { return Ok(None) };
    let members: Vec<String> = sqlx::query_scalar(
        "SELECT t.member_id FROM topic_member t JOIN member m ON m.id = t.member_id \
         WHERE t.topic_id = ? AND m.mesh_id = ? AND m.revoked_at IS NULL \
         ORDER BY t.joined_at, t.member_id",
    )
    .bind(&id)
    .bind(mesh.as_str())
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    let members = members.into_iter().map(MemberId::from).collect();
    Ok(Some(Topic { id: id.into(), name: name.into(), members }))
}

pub(super) async fn moderation(
    reader: &SqlitePool,
    mesh: &MeshId,
    caller: &MemberId,
    command: &str,
    target: Option<&Target>,
) -> StoreResult<Moderation> {
    let mut tx = reader.begin().await?;
    let found = sqlx::query(concat!(
        "SELECT ",
        member_columns!(),
        " FROM member p JOIN mesh m ON m.id = p.mesh_id WHERE p.id = ? AND p.mesh_id = ?",
    ))
    .bind(caller.as_str())
    .bind(mesh.as_str())
    .fetch_optional(&mut *tx)
    .await?;
    let done = sqlx::query_scalar("SELECT reply FROM command WHERE mesh_id = ? AND command = ?")
        .bind(mesh.as_str())
        .bind(command)
        .fetch_optional(&mut *tx)
        .await?;
    let matching = match target {
        Some(target) => matching(&mut tx, mesh, target).await?,
        None => Vec::new(),
    };
    tx.commit().await?;
    Ok(Moderation { caller: found.map(|row| read_member(&row)).transpose()?, done, matching })
}

/// Each key once: those with that key, else those with that name, else those whose key begins so.
async fn matching(
    connection: &mut SqliteConnection,
    mesh: &MeshId,
    target: &Target,
) -> StoreResult<Vec<Member>> {
    let rows = sqlx::query(concat!(
        "SELECT ",
        member_columns!(),
        " FROM member p JOIN mesh m ON m.id = p.mesh_id \
         WHERE p.mesh_id = ?1 AND (p.revoked_at IS NOT NULL) = ?2 \
           AND NOT (?2 AND EXISTS (SELECT 1 FROM member l WHERE l.mesh_id = ?1 \
             AND l.peer_pubkey = p.peer_pubkey AND l.revoked_at IS NULL)) \
           AND (p.display_name = ?3 OR p.peer_pubkey IN (?3, lower(?3)) \
             OR (NOT ?2 AND ?3 <> '' AND substr(p.peer_pubkey, 1, length(?3)) = lower(?3))) \
         ORDER BY p.joined_at, p.id",
    ))
    .bind(mesh.as_str())
    .bind(target.revoked)
    .bind(&target.text)
    .fetch_all(connection)
    .await?;
    let lower = target.text.to_ascii_lowercase();
    let rank = |member: &Member| {
        if *member.pubkey == target.text || *member.pubkey == lower {
            0
        } else if member.display_name == target.text {
            1
        } else {
            2
        }
    };
    let mut members = rows.iter().map(read_member).collect::<Result<Vec<_>, _>>()?;
    // A key by its best row.
    members.sort_by_key(rank);
    let mut keys = std::collections::HashSet::new();
    members.retain(|member| keys.insert(member.pubkey.clone()));
    let best = members.first().map(rank);
    members.retain(|member| Some(rank(member)) == best);
    members.truncate(MATCHES);
    Ok(members)
}

pub(super) async fn bans(reader: &SqlitePool, mesh: &MeshId) -> StoreResult<Vec<Ban>> {
    // Of the rows of a group, SQLite takes the other columns from the one with the maximum.
    let rows: Vec<(String, String, i64)> = sqlx::query_as(
        "SELECT display_name, peer_pubkey, max(revoked_at) FROM member p \
         WHERE mesh_id = ?1 AND revoked_at IS NOT NULL \
           AND NOT EXISTS (SELECT 1 FROM member l WHERE l.mesh_id = ?1 \
             AND l.peer_pubkey = p.peer_pubkey AND l.revoked_at IS NULL) \
         GROUP BY peer_pubkey ORDER BY 3 DESC, id LIMIT 1000",
    )
    .bind(mesh.as_str())
    .fetch_all(reader)
    .await?;
    let ban = |(name, pubkey, revoked_at)| Ban { name, pubkey, revoked_at };
    Ok(rows.into_iter().map(ban).collect())
}

/// A lease without a member was written by a version that did not note whose it is.
pub(super) async fn memberships(
    reader: &SqlitePool,
    meshes: &[MeshId],
) -> StoreResult<Vec<(MeshId, Membership)>> {
    type Row = (String, bool, Option<String>, bool, bool);
    let meshes: Vec<_> = meshes.iter().map(MeshId::as_str).collect();
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT g.value, m.id IS NULL OR m.archived_at IS NOT NULL, nullif(l.member_id, ''), \
           p.id IS NULL OR p.revoked_at IS NOT NULL, \
           coalesce(p.role = 'admin', 0) OR coalesce(p.user_id = m.owner_user_id, 0) OR \
             coalesce(lower(p.peer_pubkey) = lower(m.owner_pubkey), 0) \
         FROM json_each(?) g LEFT JOIN mesh m ON m.id = g.value \
           LEFT JOIN lease l ON l.mesh_id = g.value \
           LEFT JOIN member p ON p.id = l.member_id AND p.mesh_id = g.value",
    )
    .bind(serde_json::Value::from(meshes).to_string())
    .fetch_all(reader)
    .await?;
    let mut found: BTreeMap<String, Membership> = BTreeMap::new();
    for (mesh, archived, member, removed, moderates) in rows {
        let membership = found.entry(mesh).or_default();
        membership.archived |= archived;
        if let Some(member) = member {
            membership.add(member.into(), removed, moderates);
        }
    }
    Ok(found.into_iter().map(|(mesh, membership)| (mesh.into(), membership)).collect())
}
