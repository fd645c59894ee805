//! Taking over what the reference broker left undelivered.
//!
//! Guarantees: each of its messages that waits for somebody becomes an envelope of ours once, in
//! its order, however often and from however many nodes this runs; it is noted as delivered in the
//! reference's table by the same transaction, so that the reference, should it run again, does not
//! deliver it too. The mesh's epoch is raised as by an activation: an owner that runs meanwhile
//! notices. A retry of the client's is recognized by its own id.
//!
//! What waits for nobody we know (a key that never was here, a topic that is gone) stays where it
//! is, and goes unnoticed after seven days, as the rest would have.

mod directory;

use std::collections::HashSet;
use std::sync::Arc;

use protocol::client::Priority;
use protocol::limits::ID_BYTES;
use protocol::{MeshId, MessageId};
use sha2::{Digest, Sha256};
use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, Row};

use self::directory::{Directory, Meant};
use super::activate::ENDS;
use super::error::{bounded, classify, unstored};
use super::queue::priority;
use super::session::{self, STATEMENT_LIMIT};
use super::{Postgres, commit};
use crate::model::{
    Accept, AcceptKey, Envelope, Epoch, MeshCommit, Outcome, Sender, Seq, Unit, Write,
};
use crate::store::StoreError;

const TASK: &str = "taking the reference's queue over";

/// Messages at a time. All of a mesh are one transaction; this bounds what is held in memory.
const CHUNK: i64 = 256;

/// Names the adoption among advisory locks: "adoption", as a number.
const ADOPTION_KEY: i64 = 0x6164_6f70_7469_6f6e;

/// Who raises the epoch.
const NODE: &str = "adoption";

/// Cheap if there is nothing: one look at the catalogue, or at an index of what waits. A mesh whose
/// messages are refused is logged and left as it is.
pub(super) async fn adopt(store: &Postgres) -> Result<(), StoreError> {
    let mut conn = session::open(&store.options).await?;
    bounded(TASK, STATEMENT_LIMIT, session::take_time(&mut conn)).await?;
    // One node of a cluster after the other: whoever comes second finds nothing left.
    let alone = sqlx::query("SELECT pg_advisory_lock($1)").bind(ADOPTION_KEY);
    bounded(TASK, STATEMENT_LIMIT, alone.execute(&mut conn)).await?;
    let adopted = adopt_all(&mut conn).await;
    // Without a goodbye the connection would end only when the server notices.
    let _ = bounded("disconnecting", STATEMENT_LIMIT, conn.close()).await;
    adopted
}

async fn adopt_all(conn: &mut PgConnection) -> Result<(), StoreError> {
    let there = sqlx::query_scalar::<_, bool>(
        "SELECT to_regclass('mesh.message_queue') IS NOT NULL
            AND to_regclass('mesh.presence') IS NOT NULL",
    );
    if !bounded(TASK, STATEMENT_LIMIT, there.fetch_one(&mut *conn)).await? {
        return Ok(());
    }
    let meshes = sqlx::query_scalar::<_, String>(include_str!("sql/adopt_meshes.sql"));
    for mesh in bounded(TASK, STATEMENT_LIMIT, meshes.fetch_all(&mut *conn)).await? {
        let mesh = MeshId::from(mesh);
        let mut tx = bounded(TASK, STATEMENT_LIMIT, conn.begin()).await?;
        match adopt_mesh(&mut tx, &mesh).await {
            Ok(0) => bounded(TASK, STATEMENT_LIMIT, tx.rollback()).await?,
            Ok(taken) => {
                bounded(TASK, STATEMENT_LIMIT, tx.commit()).await?;
                tracing::info!(mesh.id = %mesh, messages = taken,
                    "took over what the reference broker had not delivered");
            }
            Err(error) => {
                tracing::error!(mesh.id = %mesh, %error,
                    "what the reference broker had not delivered cannot be taken over");
                bounded(TASK, STATEMENT_LIMIT, tx.rollback()).await?;
            }
        }
    }
    Ok(())
}

/// A message as the reference kept it, and whom it is for.
struct Waiting {
    /// Its row.
    id: String,
    envelope: Envelope,
    meant: Meant,
}

/// Answers how many messages were taken.
async fn adopt_mesh(conn: &mut PgConnection, mesh: &MeshId) -> Result<u64, StoreError> {
    let mut directory = Directory::read(conn, mesh).await?;
    let mut owner: Option<(Epoch, Seq)> = None;
    let (mut place, mut last, mut taken) = ("-infinity".to_owned(), String::new(), 0);
    loop {
        let rows = sqlx::query(include_str!("sql/adopt_rows.sql"))
            .bind(mesh.as_str())
            .bind(&place)
            .bind(&last)
            .bind(CHUNK);
        let rows = bounded(TASK, STATEMENT_LIMIT, rows.fetch_all(&mut *conn)).await?;
        let Some(end) = rows.last() else { return Ok(taken) };
        place = end.try_get("place").map_err(|error| classify(TASK, &error))?;
        last = end.try_get("id").map_err(|error| classify(TASK, &error))?;
        let mut waiting = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let targets = waiting.iter().map(|row| row.envelope.target.as_str());
        directory.learn_sessions(conn, mesh, targets).await?;
        waiting.retain_mut(|row| {
            let meant = directory.resolve(&row.envelope.target, &row.envelope.sender.member);
            meant.map(|meant| row.meant = meant).is_some()
        });
        if waiting.is_empty() {
            continue;
        }
        taken += waiting.len() as u64;
        let (epoch, tail) = match owner {
            Some(owner) => owner,
            None => take(conn, mesh).await?,
        };
        owner = Some((epoch, enter(conn, mesh, epoch, tail, waiting).await?));
    }
}

/// Raises the epoch; answers it, and the highest place given out.
async fn take(conn: &mut PgConnection, mesh: &MeshId) -> Result<(Epoch, Seq), StoreError> {
    let raise = sqlx::query_as::<_, (i64, i64)>(include_str!("sql/raise.sql"))
        .bind(mesh.as_str())
        .bind(NODE)
        .bind(0_i64)
        .bind(0_i64);
    let (epoch, _) = bounded(TASK, STATEMENT_LIMIT, raise.fetch_one(&mut *conn)).await?;
    let ends = sqlx::query(ENDS).bind(mesh.as_str());
    let ends = bounded(TASK, STATEMENT_LIMIT, ends.fetch_one(&mut *conn)).await?;
    let tail: i64 = ends.try_get("tail").map_err(|error| classify(TASK, &error))?;
    Ok((unstored(TASK, epoch)?, unstored(TASK, tail)?))
}

/// Makes envelopes of a chunk, and notes all of it as delivered; answers the new end. Of messages
/// with one key the first counts: the others are its retries.
async fn enter(
    conn: &mut PgConnection,
    mesh: &MeshId,
    epoch: Epoch,
    mut tail: Seq,
    waiting: Vec<Waiting>,
) -> Result<Seq, StoreError> {
    let mut known = known(conn, mesh, &waiting).await?;
    let ids: Vec<String> = waiting.iter().map(|row| row.id.clone()).collect();
    let mut units = Vec::new();
    for Waiting { id, mut envelope, meant } in waiting {
        if !known.insert(key_of(&envelope)) {
            continue;
        }
        tail += 1;
        envelope.seq = tail;
        envelope.id = MessageId::at(tail, entropy(&id));
        envelope.topic = meant.topic;
        let mut writes: Vec<_> =
            meant.keys.into_iter().map(|(key, member)| Write::RecordKey { key, member }).collect();
        let recipients = meant.recipients;
        writes.push(Write::Accept(Accept { envelope: Arc::new(envelope), recipients }));
        units.push(Unit(writes));
    }
    let commit = MeshCommit { mesh: mesh.clone(), epoch, units };
    match commit::within(conn, &commit).await? {
        Outcome::Committed { .. } => {}
        other => {
            let why = format!("{TASK}: a commit under the epoch just raised ended as {other:?}");
            return Err(StoreError::Unavailable(why));
        }
    }
    let done = sqlx::query(
        "UPDATE mesh.message_queue SET delivered_at = now() AT TIME ZONE 'UTC' WHERE id = ANY ($1)",
    );
    bounded(TASK, STATEMENT_LIMIT, done.bind(ids).execute(conn)).await?;
    Ok(tail)
}

type Key = (String, String, String);

fn key_of(envelope: &Envelope) -> Key {
    let member = envelope.sender.member.to_string();
    (member, envelope.key.kind().to_owned(), envelope.key.as_str().to_owned())
}

/// Keys that were accepted already.
async fn known(
    conn: &mut PgConnection,
    mesh: &MeshId,
    waiting: &[Waiting],
) -> Result<HashSet<Key>, StoreError> {
    let keys: Vec<Key> = waiting.iter().map(|row| key_of(&row.envelope)).collect();
    let column = |of: fn(&Key) -> &str| keys.iter().map(of).collect::<Vec<_>>();
    let found = sqlx::query_as::<_, Key>(
        "SELECT a.member_id, a.kind, a.key
         FROM unnest($2::text[], $3::text[], $4::text[]) AS w (member_id, kind, key)
         JOIN broker.accepted a
            ON a.mesh_id = $1 AND a.member_id = w.member_id AND a.kind = w.kind AND a.key = w.key",
    )
    .bind(mesh.as_str())
    .bind(column(|key| &key.0))
    .bind(column(|key| &key.1))
    .bind(column(|key| &key.2));
    let found = bounded(TASK, STATEMENT_LIMIT, found.fetch_all(conn)).await?;
    Ok(found.into_iter().collect())
}

/// Without its place, which it gets when it is taken.
fn read(row: &PgRow) -> Result<Waiting, StoreError> {
    let columns = || -> Result<Waiting, sqlx::Error> {
        let id: String = row.try_get("id")?;
        let text = |name: &str| -> Result<Option<String>, sqlx::Error> {
            let text = row.try_get::<Option<String>, _>(name)?;
            Ok(text.filter(|text| !text.is_empty()))
        };
        let sender = Sender {
            member: row.try_get::<&str, _>("sender_member_id")?.into(),
            member_pubkey: row.try_get::<&str, _>("peer_pubkey")?.into(),
            session_pubkey: text("sender_session_pubkey")?.map(Into::into),
            name: row.try_get::<&str, _>("display_name")?.into(),
        };
        let key = match text("client_message_id")? {
            // The reference knew no bound, and an index does.
            Some(key) if key.len() <= ID_BYTES => AcceptKey::Client(key),
            _ => AcceptKey::Link(format!("{NODE}/{id}")),
        };
        let envelope = Envelope {
            id: MessageId::from(""),
            seq: 0,
            sender: Arc::new(sender),
            target: row.try_get("target_spec")?,
            priority: priority(row.try_get("priority")?).unwrap_or(Priority::Next),
            nonce: row.try_get("nonce")?,
            ciphertext: row.try_get("ciphertext")?,
            key,
            fingerprint: text("request_fingerprint")?,
            reply_to: None,
            subtype: None,
            topic: None,
            created_at: row.try_get("created_at")?,
        };
        Ok(Waiting { id, envelope, meant: Meant::default() })
    };
    columns().map_err(|error| classify(TASK, &error))
}

/// What tells this message's id from any other's at its place: its row's own id, digested.
fn entropy(id: &str) -> u128 {
    let digest = Sha256::digest(id.as_bytes());
    digest.iter().take(16).fold(0, |sum, byte| sum << 8 | u128::from(*byte))
}
