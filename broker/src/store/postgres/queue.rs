//! Reading the durable queue: pages, accepted keys, single messages, depth.

use std::sync::Arc;

use protocol::client::Priority;
use protocol::{MemberId, MeshId, MessageId};
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::error::{bounded, classify, stored, unstored};
use super::session::READ_LIMIT;
use super::{Postgres, read};
use crate::model::{
    AcceptKey, Accepted, Envelope, Page, PageLimit, QUEUE_QUOTA, QueueBytes, QueueId, Recipient,
    Sender, Seq, StoredMessage,
};
use crate::store::StoreError;

pub(super) async fn page(
    store: &Postgres,
    mesh: &MeshId,
    queue: &QueueId,
    after: Seq,
    limit: PageLimit,
) -> Result<Page, StoreError> {
    const TASK: &str = "reading a queue";
    let recipient = queue.recipient.to_string();
    let after = stored(TASK, after)?;
    let rows = sqlx::query(include_str!("sql/page.sql"))
        .bind(mesh.as_str())
        .bind(&recipient)
        .bind(queue.lane.index())
        .bind(after)
        .bind(bound(limit.rows))
        .bind(bound(limit.bytes));
    let depth = sqlx::query_scalar::<_, i64>(
        "SELECT count(*) FROM (
            SELECT FROM broker.delivery WHERE mesh_id = $1 AND recipient = $2 AND lane = $3 LIMIT $4
        ) d",
    )
    .bind(mesh.as_str())
    .bind(&recipient)
    .bind(queue.lane.index())
    .bind(bound(QUEUE_QUOTA));
    let mut reader = store.reader().await?;
    let rows = bounded(TASK, READ_LIMIT, rows.fetch_all(&mut *reader)).await?;
    let depth = bounded(TASK, READ_LIMIT, depth.fetch_one(&mut *reader)).await?;
    reader.release();
    let found: i64 = match rows.first() {
        Some(row) => row.try_get("found").map_err(|error| classify(TASK, &error))?,
        None => 0,
    };
    let envelopes =
        rows.iter().map(|row| envelope(row).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
    Ok(Page {
        more: unstored(TASK, found)? > envelopes.len() as u64,
        envelopes,
        depth: usize::try_from(depth).unwrap_or(QUEUE_QUOTA),
    })
}

/// A bound as Postgres takes it; one beyond its numbers is no bound.
fn bound(limit: usize) -> i64 {
    // One less than the most, since the page asks for one row more.
    i64::try_from(limit).unwrap_or(i64::MAX - 1)
}

fn envelope(row: &PgRow) -> Result<Envelope, StoreError> {
    const TASK: &str = "reading an envelope";
    let columns = || -> Result<(Envelope, i64, &str), sqlx::Error> {
        let sender = Sender {
            member: row.try_get::<&str, _>("sender_member_id")?.into(),
            member_pubkey: row.try_get::<&str, _>("sender_member_pubkey")?.into(),
            session_pubkey: row.try_get::<Option<&str>, _>("sender_session_pubkey")?.map(Arc::from),
            name: row.try_get::<&str, _>("sender_name")?.into(),
        };
        let envelope = Envelope {
            id: row.try_get::<&str, _>("id")?.into(),
            seq: 0,
            sender: Arc::new(sender),
            target: row.try_get("target")?,
            priority: Priority::default(),
            nonce: row.try_get("nonce")?,
            ciphertext: row.try_get("ciphertext")?,
            key: AcceptKey::from_parts(row.try_get("accept_kind")?, row.try_get("accept_key")?),
            fingerprint: row.try_get("fingerprint")?,
            reply_to: row.try_get("reply_to")?,
            subtype: row.try_get("subtype")?,
            topic: row.try_get::<Option<&str>, _>("topic")?.map(Arc::from),
            created_at: row.try_get("created_at")?,
        };
        Ok((envelope, row.try_get("seq")?, row.try_get("priority")?))
    };
    let (mut envelope, seq, word) = columns().map_err(|error| classify(TASK, &error))?;
    envelope.seq = unstored(TASK, seq)?;
    envelope.priority = priority(word)
        .ok_or_else(|| StoreError::Corrupt(format!("{TASK}: a priority cannot be read")))?;
    Ok(envelope)
}

/// The priority of this word.
pub(super) fn priority(word: &str) -> Option<Priority> {
    [Priority::Now, Priority::Next, Priority::Low].into_iter().find(|p| p.as_str() == word)
}

pub(super) async fn accepted(
    store: &Postgres,
    mesh: &MeshId,
    member: &MemberId,
    key: &AcceptKey,
) -> Result<Option<Accepted>, StoreError> {
    let query = sqlx::query_as::<_, (String, Option<String>)>(
        "SELECT message_id, fingerprint FROM broker.accepted
         WHERE mesh_id = $1 AND member_id = $2 AND kind = $3 AND key = $4",
    )
    .bind(mesh.as_str())
    .bind(member.as_str())
    .bind(key.kind())
    .bind(key.as_str());
    let row = read!(store, "looking an accepted key up", query, fetch_optional);
    Ok(row.map(|(message, fingerprint)| Accepted { message: message.into(), fingerprint }))
}

/// The id spells its place, so there is at most one, found without an index of ids.
pub(super) async fn messages(
    store: &Postgres,
    mesh: &MeshId,
    prefix: &str,
) -> Result<Vec<StoredMessage>, StoreError> {
    const TASK: &str = "looking a message up";
    let Some(seq) = MessageId::position(prefix) else { return Ok(Vec::new()) };
    let query =
        sqlx::query(include_str!("sql/message.sql")).bind(mesh.as_str()).bind(stored(TASK, seq)?);
    let row = read!(store, "looking a message up", query, fetch_optional);
    let Some(row) = row else { return Ok(Vec::new()) };
    let columns = || -> Result<_, sqlx::Error> {
        let id: &str = row.try_get("id")?;
        let recipients: &str = row.try_get("recipients")?;
        let waiting: Vec<String> = row.try_get("waiting")?;
        let members: Vec<String> = row.try_get("members")?;
        let people = (row.try_get::<&str, _>("sender_member_id")?, members);
        let ends = (row.try_get("delivered_at")?, row.try_get("undeliverable")?);
        Ok((id, people, row.try_get("target")?, recipients, waiting, ends))
    };
    let (id, (sender, members), target, recipients, waiting, (delivered_at, undeliverable)) =
        columns().map_err(|error| classify(TASK, &error))?;
    if !id.starts_with(prefix) {
        return Ok(Vec::new());
    }
    let parse = |text: &str| {
        Recipient::parse(text)
            .ok_or_else(|| StoreError::Corrupt(format!("{TASK}: a recipient cannot be read")))
    };
    Ok(vec![StoredMessage {
        id: id.into(),
        sender: sender.into(),
        members: members.into_iter().map(MemberId::from).collect(),
        target,
        recipients: recipients.split_terminator(' ').map(parse).collect::<Result<_, _>>()?,
        waiting: waiting.iter().map(String::as_str).map(parse).collect::<Result<_, _>>()?,
        delivered_at,
        undeliverable,
    }])
}

pub(super) async fn depth(store: &Postgres) -> Result<u64, StoreError> {
    const TASK: &str = "counting what waits";
    let query = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM broker.delivery");
    let count = read!(store, "counting what waits", query, fetch_one);
    unstored(TASK, count)
}

pub(super) async fn bytes(store: &Postgres, mesh: &MeshId) -> Result<QueueBytes, StoreError> {
    const TASK: &str = "measuring what waits";
    let query = sqlx::query_as::<_, (Option<String>, i64)>(include_str!("sql/queue_bytes.sql"));
    let rows = read!(store, "measuring what waits", query.bind(mesh.as_str()), fetch_all);
    let mut found = QueueBytes::default();
    for (recipient, bytes) in rows {
        let bytes = unstored(TASK, bytes)?;
        match recipient.map(|text| Recipient::parse(&text)) {
            None => found.mesh = bytes,
            Some(Some(recipient)) => found.recipients.push((recipient, bytes)),
            Some(None) => {
                return Err(StoreError::Corrupt(format!("{TASK}: a recipient cannot be read")));
            }
        }
    }
    Ok(found)
}
