//! Reading queues, keys and messages.

use std::sync::Arc;

use futures_util::TryStreamExt;
use protocol::client::Priority;
use protocol::{MemberId, MeshId, MessageId};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection, SqlitePool};

use super::error::{StoreResult, corrupt, to_i64, to_u64};
use crate::model::{
    AcceptKey, Accepted, Envelope, Page, PageLimit, QUEUE_QUOTA, QueueBytes, QueueId, Recipient,
    Sender, Seq, StoredMessage,
};

pub(super) async fn page(
    reader: &SqlitePool,
    mesh: &MeshId,
    queue: &QueueId,
    after: Seq,
    limit: PageLimit,
) -> StoreResult<Page> {
    // One snapshot, so that depth and rows agree.
    let mut tx = reader.begin().await?;
    let mut page = rows(&mut tx, mesh, queue, to_i64(after)?, limit).await?;
    let quota = i64::try_from(QUEUE_QUOTA).unwrap_or(i64::MAX);
    let depth: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT 1 FROM delivery \
           WHERE mesh_id = ? AND recipient = ? AND lane = ? LIMIT ?)",
    )
    .bind(mesh.as_str())
    .bind(queue.recipient.to_string())
    .bind(queue.lane.index())
    .bind(quota)
    .fetch_one(&mut *tx)
    .await?;
    page.depth = usize::try_from(depth).unwrap_or(QUEUE_QUOTA);
    tx.commit().await?;
    Ok(page)
}

/// Streams, so that a page of large bodies holds little more than its own bytes.
async fn rows(
    connection: &mut SqliteConnection,
    mesh: &MeshId,
    queue: &QueueId,
    after: i64,
    limit: PageLimit,
) -> StoreResult<Page> {
    let mut found = sqlx::query(
        "SELECT e.seq, e.id, e.sender_member_id, e.sender_member_pubkey, \
           e.sender_session_pubkey, e.sender_name, e.target, e.priority, e.accept_kind, \
           e.accept_key, e.fingerprint, e.reply_to, e.subtype, e.created_at, e.nonce, \
           e.ciphertext, e.topic \
         FROM delivery d CROSS JOIN envelope e ON e.mesh_id = d.mesh_id AND e.seq = d.seq \
         WHERE d.mesh_id = ? AND d.recipient = ? AND d.lane = ? AND d.seq > ? \
         ORDER BY d.seq LIMIT ?",
    )
    .bind(mesh.as_str())
    .bind(queue.recipient.to_string())
    .bind(queue.lane.index())
    .bind(after)
    // One more tells whether more follow.
    .bind(i64::try_from(limit.rows.saturating_add(1)).unwrap_or(i64::MAX))
    .fetch(connection);
    let mut page = Page::default();
    let mut bytes = 0;
    while let Some(row) = found.try_next().await? {
        let envelope = envelope(&row)?;
        bytes += envelope.nonce.len() + envelope.ciphertext.len();
        let first = page.envelopes.is_empty();
        if page.envelopes.len() >= limit.rows || (bytes > limit.bytes && !first) {
            page.more = true;
            break;
        }
        page.envelopes.push(Arc::new(envelope));
    }
    Ok(page)
}

fn envelope(row: &SqliteRow) -> StoreResult<Envelope> {
    let sender = Sender {
        member: row.try_get::<&str, _>(2)?.into(),
        member_pubkey: row.try_get::<&str, _>(3)?.into(),
        session_pubkey: row.try_get::<Option<&str>, _>(4)?.map(Into::into),
        name: row.try_get::<&str, _>(5)?.into(),
    };
    Ok(Envelope {
        seq: to_u64(row.try_get(0)?, "envelope.seq")?,
        id: row.try_get::<&str, _>(1)?.into(),
        sender: Arc::new(sender),
        target: row.try_get(6)?,
        priority: priority(row.try_get(7)?)?,
        key: AcceptKey::from_parts(row.try_get(8)?, row.try_get(9)?),
        fingerprint: row.try_get(10)?,
        reply_to: row.try_get(11)?,
        subtype: row.try_get(12)?,
        created_at: row.try_get(13)?,
        nonce: row.try_get(14)?,
        ciphertext: row.try_get(15)?,
        topic: row.try_get::<Option<&str>, _>(16)?.map(Into::into),
    })
}

fn priority(word: &str) -> StoreResult<Priority> {
    [Priority::Now, Priority::Next, Priority::Low]
        .into_iter()
        .find(|priority| priority.as_str() == word)
        .ok_or_else(|| corrupt("envelope.priority is none"))
}

pub(super) async fn accepted(
    reader: &SqlitePool,
    mesh: &MeshId,
    member: &MemberId,
    key: &AcceptKey,
) -> StoreResult<Option<Accepted>> {
    let mut connection = reader.acquire().await?;
    known(&mut connection, mesh, member, key).await
}

/// What a key was accepted as, as this connection sees it.
pub(super) async fn known(
    connection: &mut SqliteConnection,
    mesh: &MeshId,
    member: &MemberId,
    key: &AcceptKey,
) -> StoreResult<Option<Accepted>> {
    let row = sqlx::query(
        "SELECT message_id, fingerprint FROM accepted \
         WHERE mesh_id = ? AND member_id = ? AND kind = ? AND key = ?",
    )
    .bind(mesh.as_str())
    .bind(member.as_str())
    .bind(key.kind())
    .bind(key.as_str())
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Accepted { message: row.try_get::<&str, _>(0)?.into(), fingerprint: row.try_get(1)? }))
}

/// The id spells the place, so the place finds the message.
pub(super) async fn messages(
    reader: &SqlitePool,
    mesh: &MeshId,
    prefix: &str,
) -> StoreResult<Vec<StoredMessage>> {
    let shaped = MessageId::is_prefix_shaped(prefix);
    let Some(seq) = MessageId::position(prefix).filter(|_| shaped) else { return Ok(Vec::new()) };
    let seq = to_i64(seq)?;
    let mut tx = reader.begin().await?;
    let found = sqlx::query(
        "SELECT id, target, recipients, delivered_at, sender_member_id, \
           undeliverable_at IS NOT NULL FROM envelope \
         WHERE mesh_id = ?1 AND seq = ?2 AND substr(id, 1, length(?3)) = ?3",
    )
    .bind(mesh.as_str())
    .bind(seq)
    .bind(prefix)
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = found else { return Ok(Vec::new()) };
    // A delivery that is not shared has no index but its key, and then the recipient is known.
    let waiting: Vec<String> = sqlx::query_scalar(
        "SELECT recipient FROM delivery INDEXED BY delivery_shared \
         WHERE mesh_id = ?1 AND seq = ?2 AND shared \
         UNION \
         SELECT d.recipient FROM envelope e CROSS JOIN delivery d \
           ON d.mesh_id = e.mesh_id AND d.recipient = e.recipients AND d.lane = e.lane \
           AND d.seq = e.seq \
         WHERE e.mesh_id = ?1 AND e.seq = ?2 AND NOT e.shared",
    )
    .bind(mesh.as_str())
    .bind(seq)
    .fetch_all(&mut *tx)
    .await?;
    let recipients: &str = row.try_get(2)?;
    let mut members = Vec::new();
    for key in recipients.split_whitespace().filter_map(|to| to.strip_prefix("s:")) {
        let member: Option<String> =
            sqlx::query_scalar("SELECT member_id FROM session_key WHERE mesh_id = ? AND key = ?")
                .bind(mesh.as_str())
                .bind(key)
                .fetch_optional(&mut *tx)
                .await?;
        members.extend(member.map(MemberId::from));
    }
    tx.commit().await?;
    Ok(vec![StoredMessage {
        id: row.try_get::<&str, _>(0)?.into(),
        sender: row.try_get::<&str, _>(4)?.into(),
        members,
        target: row.try_get(1)?,
        recipients: recipients.split_whitespace().map(recipient).collect::<Result<_, _>>()?,
        waiting: waiting.iter().map(|text| recipient(text)).collect::<Result<_, _>>()?,
        delivered_at: row.try_get(3)?,
        undeliverable: row.try_get(5)?,
    }])
}

fn recipient(text: &str) -> StoreResult<Recipient> {
    Recipient::parse(text).ok_or_else(|| corrupt("a recipient is none"))
}

pub(super) async fn depth(reader: &SqlitePool) -> StoreResult<u64> {
    let depth: i64 = sqlx::query_scalar("SELECT count(*) FROM delivery").fetch_one(reader).await?;
    to_u64(depth, "a count")
}

/// A row that a version before has written does not say how many bytes wait: its envelope does.
pub(super) async fn bytes(reader: &SqlitePool, mesh: &MeshId) -> StoreResult<QueueBytes> {
    let rows: Vec<(Option<String>, i64)> = sqlx::query_as(
        "WITH waiting AS MATERIALIZED ( \
           SELECT d.recipient, d.seq, d.shared, coalesce(d.bytes, ( \
             SELECT length(CAST(e.nonce AS BLOB)) + length(CAST(e.ciphertext AS BLOB)) \
             FROM envelope e WHERE e.mesh_id = d.mesh_id AND e.seq = d.seq), 0) AS bytes \
           FROM delivery d WHERE d.mesh_id = ?) \
         SELECT NULL, coalesce(sum(bytes) FILTER (WHERE NOT shared), 0) + ( \
           SELECT coalesce(sum(bytes), 0) \
           FROM (SELECT max(bytes) AS bytes FROM waiting WHERE shared GROUP BY seq)) \
         FROM waiting \
         UNION ALL \
         SELECT recipient, sum(bytes) FROM waiting GROUP BY recipient",
    )
    .bind(mesh.as_str())
    .fetch_all(reader)
    .await?;
    let mut found = QueueBytes::default();
    for (recipient, bytes) in rows {
        let bytes = to_u64(bytes, "a sum of bytes")?;
        match recipient {
            None => found.mesh = bytes,
            Some(text) => {
                let recipient = Recipient::parse(&text);
                let recipient = recipient.ok_or_else(|| corrupt("delivery.recipient is none"))?;
                found.recipients.push((recipient, bytes));
            }
        }
    }
    Ok(found)
}
