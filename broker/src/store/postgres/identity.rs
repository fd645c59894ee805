//! Who there is: schema `mesh`, which others may write as well.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::client::{Group, PeerProfile, Status};
use protocol::{MemberId, MeshId};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::error::classify;
use super::{Postgres, read};
use crate::model::{
    Ban, Claim, Grants, HELLO_SEEN_MS, Identity, MATCHES, Member, Membership, Moderation,
    PENDING_MS, Pending, Place, SavedState, Target, Topic,
};
use crate::store::StoreError;
use crate::store::people::totals;

const TASK: &str = "looking an identity up";

pub(super) async fn identify(
    store: &Postgres,
    mesh: &MeshId,
    claim: &Claim,
) -> Result<Option<Identity>, StoreError> {
    let nowhere = Place::default();
    let place = claim.place.as_ref().unwrap_or(&nowhere);
    let query = sqlx::query(include_str!("sql/identify.sql"))
        .bind(mesh.as_str())
        .bind(&*claim.pubkey)
        .bind(claim.session.as_deref())
        .bind(claim.place.is_some())
        .bind(&place.session_id)
        .bind(&place.cwd)
        .bind(place.pid)
        .bind(PENDING_MS)
        .bind(claim.hello.as_deref())
        .bind(HELLO_SEEN_MS);
    let row = read!(store, "looking an identity up", query, fetch_optional);
    row.map(|row| identity(&row)).transpose()
}

fn identity(row: &PgRow) -> Result<Identity, StoreError> {
    let columns = || -> Result<(Identity, Option<&str>), sqlx::Error> {
        let identity = Identity {
            mesh_name: row.try_get("mesh_name")?,
            archived: row.try_get("archived")?,
            self_editable: None,
            member: None,
            key_member: row.try_get::<Option<&str>, _>("key_member")?.map(Into::into),
            key_taken: row.try_get("key_taken")?,
            seen_by: row.try_get("seen_by")?,
            alone: row.try_get("alone")?,
            saved: None,
            pending: pending(row)?,
        };
        Ok((identity, row.try_get("self_editable")?))
    };
    let (mut identity, editable) = columns().map_err(|error| classify(TASK, &error))?;
    identity.self_editable = json(editable)?;
    identity.member = member(row)?;
    identity.saved = saved(row)?;
    Ok(identity)
}

/// A status that this version does not know is as if nobody had told it.
fn pending(row: &PgRow) -> Result<Option<Pending>, sqlx::Error> {
    let Some(id) = row.try_get::<Option<i64>, _>("pending_id")? else { return Ok(None) };
    let status = Status::named(row.try_get("pending_status")?);
    Ok(status.map(|status| Pending { id, status }))
}

/// Written by clients of the reference broker, too: what is not of the shape counts as not there.
fn saved(row: &PgRow) -> Result<Option<SavedState>, StoreError> {
    let columns = || -> Result<_, sqlx::Error> {
        let state = SavedState {
            visible: row.try_get::<Option<bool>, _>("saved_visible")?.unwrap_or(true),
            summary: row.try_get("saved_summary")?,
            seen_at: row.try_get("saved_seen_at")?,
            ..SavedState::default()
        };
        let found: bool = row.try_get("saved")?;
        let texts: (Option<&str>, Option<&str>, Option<&str>) = (
            row.try_get("saved_groups")?,
            row.try_get("saved_profile")?,
            row.try_get("saved_stats")?,
        );
        Ok(found.then_some((state, texts)))
    };
    let found = columns().map_err(|error| classify(TASK, &error))?;
    Ok(found.map(|(mut state, (groups, profile, stats))| {
        state.groups = lenient::<Vec<Group>>(groups);
        state.profile = lenient::<PeerProfile>(profile);
        state.stats = totals(&lenient::<Value>(stats));
        state
    }))
}

/// The member of the row, if there is one.
fn member(row: &PgRow) -> Result<Option<Member>, StoreError> {
    let columns = || -> Result<Option<Member>, sqlx::Error> {
        let Some(id) = row.try_get::<Option<&str>, _>("id")? else { return Ok(None) };
        Ok(Some(Member {
            id: id.into(),
            pubkey: row.try_get::<&str, _>("peer_pubkey")?.into(),
            display_name: row.try_get("display_name")?,
            role: row.try_get("role")?,
            role_tag: row.try_get("role_tag")?,
            default_groups: lenient(row.try_get("default_groups")?),
            message_mode: row
                .try_get::<Option<String>, _>("message_mode")?
                .unwrap_or_else(|| "push".to_owned()),
            revoked: row.try_get("revoked")?,
            owner: row.try_get("owner")?,
            grants: Grants::from_json(&lenient(row.try_get("grants")?)),
        }))
    };
    columns().map_err(|error| classify(TASK, &error))
}

fn json<T: DeserializeOwned>(text: Option<&str>) -> Result<Option<T>, StoreError> {
    text.map(serde_json::from_str)
        .transpose()
        .map_err(|_| StoreError::Corrupt(format!("{TASK}: a JSON column has another shape")))
}

fn lenient<T: DeserializeOwned + Default>(text: Option<&str>) -> T {
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

pub(super) async fn grants(
    store: &Postgres,
    mesh: &MeshId,
) -> Result<Vec<(MemberId, Grants)>, StoreError> {
    let query = sqlx::query_as::<_, (String, String)>(
        "SELECT id, peer_grants::text FROM mesh.member
         WHERE mesh_id = $1 AND revoked_at IS NULL AND peer_grants <> '{}'",
    )
    .bind(mesh.as_str());
    let rows = read!(store, "reading grants", query, fetch_all);
    let read = |(id, text): (String, String)| {
        let grants = Grants::from_json(&lenient(Some(&text)));
        (!grants.is_empty()).then(|| (id.into(), grants))
    };
    Ok(rows.into_iter().filter_map(read).collect())
}

pub(super) async fn taken_keys(
    store: &Postgres,
    mesh: &MeshId,
    keys: &[Arc<str>],
) -> Result<Vec<Arc<str>>, StoreError> {
    let keys: Vec<&str> = keys.iter().map(|key| &**key).collect();
    let query = sqlx::query_scalar::<_, String>(
        "SELECT k.key FROM unnest($2::text[]) AS k (key)
         WHERE EXISTS (
             SELECT FROM mesh.member m
             WHERE m.mesh_id = $1 AND m.peer_pubkey IN (k.key, upper(k.key))
         ) OR EXISTS (
             SELECT FROM broker.session_key s
             WHERE s.mesh_id = $1 AND s.key = k.key
                AND (
                    SELECT true FROM mesh.member r
                    WHERE r.id = s.member_id COLLATE \"default\" LIMIT 1
                )
         ) OR EXISTS (
             SELECT FROM mesh.mesh o WHERE o.id = $1 AND lower(o.owner_pubkey) = k.key
         )",
    )
    .bind(mesh.as_str())
    .bind(keys);
    let taken = read!(store, "looking claimed keys up", query, fetch_all);
    Ok(taken.into_iter().map(Into::into).collect())
}

pub(super) async fn topic(
    store: &Postgres,
    mesh: &MeshId,
    spec: &str,
) -> Result<Option<Topic>, StoreError> {
    let query = sqlx::query_as::<_, (String, String, Vec<String>)>(include_str!("sql/topic.sql"))
        .bind(mesh.as_str())
        .bind(crate::store::people::is_topic_id(spec).then_some(spec))
        .bind(spec);
    let row = read!(store, "looking a topic up", query, fetch_optional);
    Ok(row.map(|(id, name, members)| Topic {
        id: id.into(),
        name: name.into(),
        members: members.into_iter().map(MemberId::from).collect(),
    }))
}

pub(super) async fn moderation(
    store: &Postgres,
    mesh: &MeshId,
    caller: &MemberId,
    command: &str,
    target: Option<&Target>,
) -> Result<Moderation, StoreError> {
    let query = sqlx::query(include_str!("sql/moderation.sql"))
        .bind(mesh.as_str())
        .bind(caller.as_str())
        .bind(command);
    let row = read!(store, "looking a moderator up", query, fetch_one);
    let matching = match target {
        Some(target) => {
            let query = sqlx::query(include_str!("sql/members.sql"))
                .bind(mesh.as_str())
                .bind(&target.text)
                .bind(target.revoked)
                .bind(i64::try_from(MATCHES).unwrap_or(i64::MAX));
            read!(store, "looking members up", query, fetch_all)
        }
        None => Vec::new(),
    };
    Ok(Moderation {
        caller: member(&row)?,
        done: row.try_get("done").map_err(|error| classify(TASK, &error))?,
        matching: matching
            .iter()
            .filter_map(|row| member(row).transpose())
            .collect::<Result<_, _>>()?,
    })
}

pub(super) async fn bans(store: &Postgres, mesh: &MeshId) -> Result<Vec<Ban>, StoreError> {
    let query = sqlx::query_as::<_, (String, String, i64)>(include_str!("sql/bans.sql"))
        .bind(mesh.as_str());
    let rows = read!(store, "listing removed members", query, fetch_all);
    let ban = |(name, pubkey, revoked_at)| Ban { name, pubkey, revoked_at };
    Ok(rows.into_iter().map(ban).collect())
}

pub(super) async fn memberships(
    store: &Postgres,
    meshes: &[MeshId],
) -> Result<Vec<(MeshId, Membership)>, StoreError> {
    type Row = (String, bool, Option<String>, Option<bool>, Option<bool>);
    let meshes: Vec<_> = meshes.iter().map(MeshId::as_str).collect();
    let query = sqlx::query_as::<_, Row>(include_str!("sql/memberships.sql")).bind(meshes);
    let rows = read!(store, "looking members up that are here", query, fetch_all);
    let mut found: BTreeMap<String, Membership> = BTreeMap::new();
    for (mesh, archived, member, removed, moderates) in rows {
        let membership = found.entry(mesh).or_default();
        membership.archived |= archived;
        if let (Some(member), Some(removed), Some(moderates)) = (member, removed, moderates) {
            membership.add(member.into(), removed, moderates);
        }
    }
    Ok(found.into_iter().map(|(mesh, membership)| (mesh.into(), membership)).collect())
}
