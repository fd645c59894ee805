//! What is seldom written of people: their states, histories, removals, and what was done.

use protocol::MeshId;
use sqlx::SqliteConnection;

use super::error::{StoreResult, bad_data, to_i64};
use super::now;
use crate::model::{HELLO_SEEN_MS, History, KICKED_MOST, Kicked, StateChange, Write};
use crate::store::mentions::mentioned;

/// One write of the kinds that have statements of their own; nothing for the others.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    mesh: &MeshId,
    write: &Write,
) -> StoreResult<()> {
    let statement = match write {
        Write::SaveState(change) => return save_state(connection, mesh, change).await,
        Write::History(history) => return enter(connection, mesh, history).await,
        // All rows of the key: with one of them left, nobody would be removed.
        Write::Revoke { member, at } => sqlx::query(
            "UPDATE member SET revoked_at = ?3 \
             WHERE mesh_id = ?1 AND revoked_at IS NULL AND peer_pubkey = ( \
               SELECT peer_pubkey FROM member WHERE id = ?2 AND mesh_id = ?1)",
        )
        .bind(mesh.as_str())
        .bind(member.as_str())
        .bind(at),
        Write::Reinstate { member } => sqlx::query(
            "UPDATE member SET revoked_at = NULL \
             WHERE mesh_id = ?1 AND revoked_at IS NOT NULL AND peer_pubkey = ( \
               SELECT peer_pubkey FROM member WHERE id = ?2 AND mesh_id = ?1)",
        )
        .bind(mesh.as_str())
        .bind(member.as_str()),
        Write::Done { command, reply } => sqlx::query(concat!(
            "INSERT INTO command (mesh_id, command, reply, done_at) VALUES (?, ?, ?, ",
            now!(),
            ") ON CONFLICT DO NOTHING",
        ))
        .bind(mesh.as_str())
        .bind(command)
        .bind(reply),
        Write::SeeHello { digest, conn } => return see_hello(connection, mesh, digest, conn).await,
        Write::Kick(kicked) => return kick(connection, mesh, kicked).await,
        Write::LiftKicks(keys) => {
            let keys: Vec<_> = keys.iter().map(|key| &**key).collect();
            sqlx::query(
                "DELETE FROM kicked WHERE mesh_id = ? AND key IN (SELECT value FROM json_each(?))",
            )
            .bind(mesh.as_str())
            .bind(serde_json::Value::from(keys).to_string())
        }
        Write::UsePending(id) => sqlx::query("DELETE FROM pending_status WHERE id = ?").bind(id),
        Write::Accept(_)
        | Write::Confirm(_)
        | Write::SaveLease(_)
        | Write::DropLease(_)
        | Write::Inherit { .. }
        | Write::Undeliverable { .. }
        | Write::Purge { .. }
        | Write::RecordKey { .. }
        | Write::Audit(_) => return Ok(()),
    };
    statement.execute(connection).await?;
    Ok(())
}

/// What is too old to be shown again goes.
async fn see_hello(
    connection: &mut SqliteConnection,
    mesh: &MeshId,
    digest: &str,
    conn: &str,
) -> StoreResult<()> {
    sqlx::query(concat!("DELETE FROM hello_seen WHERE mesh_id = ? AND seen_at < ", now!(), " - ?"))
        .bind(mesh.as_str())
        .bind(HELLO_SEEN_MS)
        .execute(&mut *connection)
        .await?;
    sqlx::query(concat!(
        "INSERT INTO hello_seen (mesh_id, digest, conn, seen_at) VALUES (?, ?, ?, ",
        now!(),
        ") ON CONFLICT DO NOTHING",
    ))
    .bind(mesh.as_str())
    .bind(digest)
    .bind(conn)
    .execute(connection)
    .await?;
    Ok(())
}

/// Of a mesh no more than so many are kept; those whose time is over go at the same occasion.
async fn kick(
    connection: &mut SqliteConnection,
    mesh: &MeshId,
    kicked: &Kicked,
) -> StoreResult<()> {
    let key = &*kicked.key;
    sqlx::query(concat!(
        "DELETE FROM kicked WHERE mesh_id = ?1 AND key <> ?2 AND (until <= ",
        now!(),
        " OR key IN (SELECT key FROM kicked WHERE mesh_id = ?1 AND key <> ?2 \
           ORDER BY until DESC LIMIT -1 OFFSET ?3))",
    ))
    .bind(mesh.as_str())
    .bind(key)
    .bind(i64::try_from(KICKED_MOST).unwrap_or(i64::MAX) - 1)
    .execute(&mut *connection)
    .await?;
    sqlx::query(concat!(
        "INSERT INTO kicked (mesh_id, key, member_id, name, until) VALUES (?, ?, ?, ?, ",
        now!(),
        " + ?) ON CONFLICT DO UPDATE SET member_id = excluded.member_id, name = excluded.name, \
           until = excluded.until",
    ))
    .bind(mesh.as_str())
    .bind(key)
    .bind(kicked.member.as_str())
    .bind(&kicked.name)
    .bind(to_i64(kicked.left_ms)?)
    .execute(connection)
    .await?;
    Ok(())
}

/// What is not given stays as it is, counts are added up. Whoever is no member any more has
/// nothing to keep.
async fn save_state(
    connection: &mut SqliteConnection,
    mesh: &MeshId,
    change: &StateChange,
) -> StoreResult<()> {
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let wrong = |_| bad_data("a state could not be written as JSON");
    let groups = change.groups.as_ref().map(serde_json::to_string).transpose().map_err(wrong)?;
    let profile = change.profile.as_ref().map(serde_json::to_string).transpose().map_err(wrong)?;
    // A sum of integers that overflows becomes a float, which the table would refuse.
    sqlx::query(
        "INSERT INTO peer_state (mesh_id, member_id, groups, profile, visible, last_summary, \
           last_display_name, messages_in, messages_out, tool_calls, errors, last_seen_at) \
         SELECT mesh_id, id, coalesce(?3, '[]'), coalesce(?4, '{}'), coalesce(?5, 1), ?6, ?7, \
           ?8, ?9, ?10, ?11, ?12 \
         FROM member WHERE id = ?2 AND mesh_id = ?1 \
         ON CONFLICT DO UPDATE SET groups = coalesce(?3, groups), \
           profile = coalesce(?4, profile), visible = coalesce(?5, visible), \
           last_summary = coalesce(?6, last_summary), last_display_name = ?7, \
           messages_in = messages_in + min(?8, 9223372036854775807 - messages_in), \
           messages_out = messages_out + min(?9, 9223372036854775807 - messages_out), \
           tool_calls = tool_calls + min(?10, 9223372036854775807 - tool_calls), \
           errors = errors + min(?11, 9223372036854775807 - errors), last_seen_at = ?12",
    )
    .bind(mesh.as_str())
    .bind(change.member.as_str())
    .bind(groups)
    .bind(profile)
    .bind(change.visible)
    .bind(&change.summary)
    .bind(&change.name)
    .bind(count(change.stats.messages_in))
    .bind(count(change.stats.messages_out))
    .bind(count(change.stats.tool_calls))
    .bind(count(change.stats.errors))
    .bind(change.seen_at)
    .execute(connection)
    .await?;
    Ok(())
}

/// What a message answers is kept if it is of the same topic. A topic or member that is gone
/// meanwhile takes its history along.
async fn enter(
    connection: &mut SqliteConnection,
    mesh: &MeshId,
    history: &History,
) -> StoreResult<()> {
    let envelope = &history.envelope;
    let done = sqlx::query(
        "INSERT INTO topic_message (id, topic_id, sender_member_id, sender_session_pubkey, \
           nonce, ciphertext, body_version, reply_to_id, created_at) \
         SELECT ?3, t.id, m.id, ?5, ?6, ?7, ?8, \
           (SELECT id FROM topic_message WHERE id = ?9 AND topic_id = t.id), ?10 \
         FROM topic t CROSS JOIN member m \
         WHERE t.id = ?2 AND t.mesh_id = ?1 AND m.id = ?4",
    )
    .bind(mesh.as_str())
    .bind(&*history.topic)
    .bind(envelope.id.as_str())
    .bind(envelope.sender.member.as_str())
    .bind(envelope.sender.session_pubkey.as_deref())
    .bind(&envelope.nonce)
    .bind(&envelope.ciphertext)
    .bind(history.body_version)
    .bind(&envelope.reply_to)
    .bind(envelope.created_at)
    .execute(&mut *connection)
    .await?;
    if done.rows_affected() == 0 || history.mentions.is_empty() {
        return Ok(());
    }
    let members: Vec<(String, String)> = sqlx::query_as(
        "SELECT id, display_name FROM member WHERE mesh_id = ? AND revoked_at IS NULL \
         ORDER BY joined_at, id",
    )
    .bind(mesh.as_str())
    .fetch_all(&mut *connection)
    .await?;
    for recipient in mentioned(history, &members) {
        sqlx::query(
            "INSERT INTO notification (id, mesh_id, topic_id, message_id, recipient_member_id, \
               sender_member_id, created_at) VALUES (lower(hex(randomblob(16))), ?, ?, ?, ?, ?, ?)",
        )
        .bind(mesh.as_str())
        .bind(&*history.topic)
        .bind(envelope.id.as_str())
        .bind(recipient)
        .bind(envelope.sender.member.as_str())
        .bind(envelope.created_at)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}
