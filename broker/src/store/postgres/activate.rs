//! Taking a mesh over: one statement that raises the fence, then reads with later snapshots.
//!
//! In one statement the reads would use a snapshot older than the wait for the commit in progress,
//! and miss what that commit wrote.

use protocol::MeshId;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::error::{bounded, classify, stored, unstored};
use super::session::{READ_LIMIT, Reader};
use super::{Postgres, read};
use crate::model::{
    Activation, EPOCH_STEP, Epoch, KICKED_MOST, Kicked, Lane, LeaseRow, Place, QueueId, Recipient,
    Seq, Standing, StoredLease,
};
use crate::store::StoreError;

const TASK: &str = "activating a mesh";

pub(super) const ENDS: &str = "
    SELECT
        greatest(
            (SELECT seq FROM broker.envelope WHERE mesh_id = $1
                ORDER BY mesh_id DESC, seq DESC LIMIT 1),
            (SELECT seq FROM broker.retired WHERE mesh_id = $1),
            0
        ) AS tail,
        (SELECT hash FROM mesh.audit_log WHERE mesh_id = $1
            ORDER BY mesh_id DESC, id DESC LIMIT 1) AS audit_hash";

const LEASES: &str = "
    SELECT l.presence_id, l.body, l.away_at IS NOT NULL AS away,
        l.member_id, l.session_id, l.cwd, l.pid,
        coalesce((extract(epoch FROM o.raised_at - l.away_at) * 1000)::bigint, 0) AS away_ms
    FROM broker.lease l
    JOIN broker.mesh_owner o ON o.mesh_id = l.mesh_id
    WHERE l.mesh_id = $1
    ORDER BY l.mesh_id, l.presence_id";

const KICKED: &str = "
    SELECT key, member_id, name, ceil(extract(epoch FROM until - now()) * 1000)::bigint
    FROM broker.kicked
    WHERE mesh_id = $1 AND until > now()
    ORDER BY until DESC
    LIMIT $2";

pub(super) async fn activate(
    store: &Postgres,
    mesh: &MeshId,
    node: &str,
    floor: Epoch,
) -> Result<Option<Activation>, StoreError> {
    let floor = stored(TASK, floor)?;
    let mut reader = store.reader().await?;
    let raise = sqlx::query_as::<_, (i64, i64)>(include_str!("sql/raise.sql"))
        .bind(mesh.as_str())
        .bind(node)
        .bind(floor)
        .bind(stored(TASK, EPOCH_STEP)?);
    let epoch = bounded(TASK, READ_LIMIT, raise.fetch_optional(&mut *reader)).await?;
    let Some((epoch, previous)) = epoch else {
        reader.release();
        return Ok(None);
    };
    let mut activation = start(&mut reader, mesh).await?;
    reader.release();
    activation.epoch = unstored(TASK, epoch)?;
    activation.previous = unstored(TASK, previous)?;
    Ok(Some(activation))
}

/// What the owner starts from. No transaction around it: the fence is ours, nobody else writes.
async fn start(reader: &mut Reader, mesh: &MeshId) -> Result<Activation, StoreError> {
    let ends = sqlx::query(ENDS).bind(mesh.as_str()).fetch_one(&mut **reader);
    let ends = bounded(TASK, READ_LIMIT, ends).await?;
    let queues = sqlx::query(include_str!("sql/queues.sql")).bind(mesh.as_str());
    let queues = bounded(TASK, READ_LIMIT, queues.fetch_all(&mut **reader)).await?;
    let leases = sqlx::query(LEASES).bind(mesh.as_str()).fetch_all(&mut **reader);
    let leases = bounded(TASK, READ_LIMIT, leases).await?;
    let kicked = sqlx::query_as::<_, (String, String, String, i64)>(KICKED)
        .bind(mesh.as_str())
        .bind(i64::try_from(KICKED_MOST).unwrap_or(i64::MAX));
    let kicked = bounded(TASK, READ_LIMIT, kicked.fetch_all(&mut **reader)).await?;
    let kicked = kicked.into_iter().map(|(key, member, name, left)| Kicked {
        key: key.into(),
        member: member.into(),
        name,
        left_ms: left.unsigned_abs(),
    });
    Ok(Activation {
        epoch: 0,
        previous: 0,
        tail: unstored(TASK, ends.try_get("tail").map_err(|e| classify(TASK, &e))?)?,
        audit_hash: ends.try_get("audit_hash").map_err(|e| classify(TASK, &e))?,
        queues: queues.iter().map(queue).collect::<Result<_, _>>()?,
        leases: leases
            .iter()
            .map(lease)
            .collect::<Result<_, _>>()
            .map_err(|e| classify(TASK, &e))?,
        kicked: kicked.collect(),
        stale_leases: None,
    })
}

fn queue(row: &PgRow) -> Result<(QueueId, Seq), StoreError> {
    let columns = || -> Result<(&str, i16, i64), sqlx::Error> {
        Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
    };
    let (recipient, lane, seq) = columns().map_err(|error| classify(TASK, &error))?;
    let recipient = Recipient::parse(recipient)
        .ok_or_else(|| StoreError::Corrupt(format!("{TASK}: a recipient cannot be read")))?;
    Ok((QueueId { recipient, lane: Lane::from_index(lane) }, unstored(TASK, seq)?))
}

fn lease(row: &PgRow) -> Result<StoredLease, sqlx::Error> {
    let away_ms: i64 = row.try_get("away_ms")?;
    Ok(StoredLease {
        row: LeaseRow {
            presence: row.try_get::<&str, _>("presence_id")?.into(),
            body: row.try_get("body")?,
            away: row.try_get("away")?,
            member: row.try_get::<&str, _>("member_id")?.into(),
            place: Place {
                session_id: row.try_get("session_id")?,
                cwd: row.try_get("cwd")?,
                pid: row.try_get("pid")?,
            },
        },
        away_ms: u64::try_from(away_ms).unwrap_or(0),
    })
}

pub(super) async fn meshes_with_leases(store: &Postgres) -> Result<Vec<MeshId>, StoreError> {
    let query = sqlx::query_scalar::<_, String>("SELECT DISTINCT mesh_id FROM broker.lease");
    let meshes = read!(store, "listing meshes with leases", query, fetch_all);
    Ok(meshes.into_iter().map(MeshId::from).collect())
}

pub(super) async fn standing(
    store: &Postgres,
    mesh: &MeshId,
) -> Result<Option<Standing>, StoreError> {
    const TASK: &str = "looking at a mesh";
    let query = sqlx::query_as::<_, (String, i64, i64, i64, i64)>(
        "SELECT coalesce(o.node, ''), coalesce(o.epoch, 0),
            (SELECT count(*) FROM broker.lease l WHERE l.mesh_id = m.id AND l.away_at IS NULL),
            (SELECT count(*) FROM broker.lease l WHERE l.mesh_id = m.id AND l.away_at IS NOT NULL),
            (SELECT count(*) FROM broker.delivery d WHERE d.mesh_id = m.id)
         FROM mesh.mesh m LEFT JOIN broker.mesh_owner o ON o.mesh_id = m.id WHERE m.id = $1",
    );
    let row = read!(store, "looking at a mesh", query.bind(mesh.as_str()), fetch_optional);
    row.map(|(node, epoch, sessions, in_grace, pending)| {
        Ok(Standing {
            node,
            epoch: unstored(TASK, epoch)?,
            sessions: unstored(TASK, sessions)?,
            in_grace: unstored(TASK, in_grace)?,
            pending: unstored(TASK, pending)?,
        })
    })
    .transpose()
}
