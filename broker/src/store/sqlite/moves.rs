//! Deliveries that change hands, or are taken back.

use protocol::{MemberId, MeshId, PresenceId};
use sqlx::sqlite::SqliteConnection;

use super::error::StoreResult;
use super::now;
use crate::model::Recipient;

/// Moved deliveries are found from their envelope, as shared ones are: their recipient is not the
/// one that the envelope names.
pub(super) async fn inherit(
    connection: &mut SqliteConnection,
    mesh: &MeshId,
    from: &PresenceId,
    to: &MemberId,
) -> StoreResult<()> {
    let from = Recipient::Presence(from.clone()).to_string();
    sqlx::query(
        "UPDATE OR IGNORE delivery SET recipient = ?3, shared = 1 \
         WHERE mesh_id = ?1 AND recipient = ?2",
    )
    .bind(mesh.as_str())
    .bind(&from)
    .bind(Recipient::Member(to.clone()).to_string())
    .execute(&mut *connection)
    .await?;
    // What is left waits for the member already.
    sqlx::query("DELETE FROM delivery WHERE mesh_id = ?1 AND recipient = ?2")
        .bind(mesh.as_str())
        .bind(&from)
        .execute(connection)
        .await?;
    Ok(())
}

/// What waits for a presence and was addressed to the key it claimed reaches nobody any more. Such an
/// envelope has one recipient.
pub(super) async fn undeliverable(
    connection: &mut SqliteConnection,
    mesh: &MeshId,
    presence: &PresenceId,
    key: &str,
) -> StoreResult<()> {
    let recipient = Recipient::Presence(presence.clone()).to_string();
    let found: Vec<i64> = sqlx::query_scalar(
        "SELECT d.seq FROM delivery d \
           CROSS JOIN envelope e ON e.mesh_id = d.mesh_id AND e.seq = d.seq \
         WHERE d.mesh_id = ?1 AND d.recipient = ?2 AND e.target = ?3",
    )
    .bind(mesh.as_str())
    .bind(&recipient)
    .bind(key)
    .fetch_all(&mut *connection)
    .await?;
    for seq in found {
        sqlx::query("DELETE FROM delivery WHERE mesh_id = ? AND recipient = ? AND seq = ?")
            .bind(mesh.as_str())
            .bind(&recipient)
            .bind(seq)
            .execute(&mut *connection)
            .await?;
        // The delivery took the body along, and left a time of delivery.
        sqlx::query(concat!(
            "UPDATE envelope SET delivered_at = NULL, undeliverable_at = ",
            now!(),
            " WHERE mesh_id = ? AND seq = ?"
        ))
        .bind(mesh.as_str())
        .bind(seq)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Everything that waits of a member, or for it; answers how many deliveries. What then waits for
/// nobody loses its body, and is not noted as delivered: it was not.
///
/// What the member has sent is found by walking all that waits in the mesh: an index of senders
/// would cost every message, and a member is seldom removed.
pub(super) async fn purge(
    connection: &mut SqliteConnection,
    mesh: &MeshId,
    member: &MemberId,
    presences: &[PresenceId],
) -> StoreResult<u64> {
    let presences: Vec<_> =
        presences.iter().map(|id| Recipient::Presence(id.clone()).to_string()).collect();
    let recipients = serde_json::Value::from(presences).to_string();
    let found: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT d.recipient, d.lane, d.seq FROM delivery d \
         WHERE d.mesh_id = ?1 AND d.recipient IN ( \
           SELECT 'm:' || ?2 UNION SELECT value FROM json_each(?3) \
           UNION SELECT 's:' || key FROM session_key WHERE mesh_id = ?1 AND member_id = ?2) \
         UNION \
         SELECT d.recipient, d.lane, d.seq FROM delivery d \
           CROSS JOIN envelope e ON e.mesh_id = d.mesh_id AND e.seq = d.seq \
         WHERE d.mesh_id = ?1 AND e.sender_member_id = ?2",
    )
    .bind(mesh.as_str())
    .bind(member.as_str())
    .bind(recipients)
    .fetch_all(&mut *connection)
    .await?;
    for (recipient, lane, seq) in &found {
        sqlx::query(
            "DELETE FROM delivery WHERE mesh_id = ? AND recipient = ? AND lane = ? AND seq = ?",
        )
        .bind(mesh.as_str())
        .bind(recipient)
        .bind(lane)
        .bind(seq)
        .execute(&mut *connection)
        .await?;
        // The last delivery took the body along, and left a time of delivery.
        sqlx::query("UPDATE envelope SET delivered_at = NULL WHERE mesh_id = ? AND seq = ?")
            .bind(mesh.as_str())
            .bind(seq)
            .execute(&mut *connection)
            .await?;
    }
    Ok(found.len() as u64)
}
