//! The statements of a commit, and how each row is bound to them.

use std::sync::{Arc, LazyLock};

use protocol::{MemberId, MeshId, PresenceId};

use super::batch::{Row, Statement};
use super::error::{StoreResult, to_i64};
use super::now;
use crate::model::{Accept, AuditRow, Confirm, LeaseRow, Recipient};

pub(super) static EPOCHS: LazyLock<Statement> = LazyLock::new(|| {
    Statement::new("SELECT mesh_id, epoch FROM mesh_owner WHERE mesh_id IN (", "?", ")")
});

pub(super) static KEYS: LazyLock<Statement> = LazyLock::new(|| {
    Statement::new(
        "INSERT INTO accepted (mesh_id, member_id, kind, key, message_id, fingerprint) VALUES",
        "(?, ?, ?, ?, ?, ?)",
        "ON CONFLICT DO NOTHING",
    )
});

pub(super) static ENVELOPES: LazyLock<Statement> = LazyLock::new(|| {
    Statement::new(
        "INSERT INTO envelope (mesh_id, seq, id, lane, shared, created_at, delivered_at, \
           sender_member_id, accept_kind, accept_key, sender_member_pubkey, \
           sender_session_pubkey, sender_name, priority, fingerprint, reply_to, subtype, target, \
           recipients, nonce, ciphertext, topic) VALUES",
        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        "",
    )
});

pub(super) static DELIVERIES: LazyLock<Statement> = LazyLock::new(|| {
    Statement::new(
        "INSERT INTO delivery (mesh_id, recipient, lane, seq, shared, bytes) VALUES",
        "(?, ?, ?, ?, ?, ?)",
        "",
    )
});

// `CROSS JOIN` keeps the order of the joins: by the rows given, never over the envelopes. Columns
// of the envelope are compared rather than those given, whose lack of a type would keep SQLite
// from using the whole key. The table's trigger removes the body with the last delivery.
pub(super) static CONFIRMS: LazyLock<Statement> = LazyLock::new(|| {
    Statement::new(
        "DELETE FROM delivery WHERE (mesh_id, recipient, lane, seq) IN ( \
           SELECT e.mesh_id, c.column2, e.lane, e.seq FROM (VALUES",
        "(?, ?, ?, ?, ?)",
        ") c CROSS JOIN envelope e ON e.mesh_id = c.column1 AND e.seq = c.column4 \
             AND e.lane = c.column3 AND e.id = c.column5)",
    )
});

pub(super) static LEASES: LazyLock<Statement> = LazyLock::new(|| {
    Statement::new(
        "INSERT INTO lease (mesh_id, presence_id, body, away_at, member_id, session_id, cwd, pid) \
         VALUES",
        concat!("(?, ?, ?, iif(?, ", now!(), ", NULL), ?, ?, ?, ?)"),
        "ON CONFLICT DO UPDATE SET body = excluded.body, away_at = \
           iif(excluded.away_at IS NULL, NULL, coalesce(away_at, excluded.away_at)), \
           member_id = excluded.member_id, session_id = excluded.session_id, \
           cwd = excluded.cwd, pid = excluded.pid",
    )
});

pub(super) static DROPS: LazyLock<Statement> = LazyLock::new(|| {
    Statement::new(
        "DELETE FROM lease WHERE (mesh_id, presence_id) IN ( \
           SELECT column1, column2 FROM (VALUES",
        "(?, ?)",
        "))",
    )
});

pub(super) static SESSION_KEYS: LazyLock<Statement> = LazyLock::new(|| {
    Statement::new(
        "INSERT INTO session_key (mesh_id, key, member_id, proven_at) VALUES",
        concat!("(?, ?, ?, ", now!(), ")"),
        // The first member keeps it, until others delete that member. That it was proven again is noted
        // every six hours.
        "ON CONFLICT DO UPDATE SET member_id = excluded.member_id, proven_at = excluded.proven_at \
         WHERE (member_id = excluded.member_id AND proven_at < excluded.proven_at - 21600000) \
           OR NOT EXISTS (SELECT 1 FROM member m WHERE m.id = session_key.member_id)",
    )
});

pub(super) static AUDIT: LazyLock<Statement> = LazyLock::new(|| {
    Statement::new(
        "INSERT INTO audit_log (mesh_id, event_type, actor_member_id, actor_display_name, \
           payload, prev_hash, hash, created_at) VALUES",
        "(?, ?, ?, ?, ?, ?, ?, ?)",
        "",
    )
});

/// An accept and where it belongs.
pub(super) struct NewEnvelope<'a> {
    pub(super) mesh: &'a MeshId,
    pub(super) accept: &'a Accept,
}

/// What happens to a lease.
#[derive(Clone, Copy)]
pub(super) enum Change<'a> {
    Save(&'a LeaseRow),
    Drop(&'a PresenceId),
}

pub(super) fn bind_key(row: &mut Row, item: &NewEnvelope<'_>) -> StoreResult<()> {
    let envelope = &item.accept.envelope;
    row.text(item.mesh.as_str())?;
    row.text(envelope.sender.member.as_str())?;
    row.value(envelope.key.kind())?;
    row.text(envelope.key.as_str())?;
    row.text(envelope.id.as_str())?;
    row.maybe_text(envelope.fingerprint.as_deref())
}

pub(super) fn bind_envelope(row: &mut Row, item: &NewEnvelope<'_>) -> StoreResult<()> {
    let (envelope, recipients) = (&item.accept.envelope, &item.accept.recipients);
    let sender = &envelope.sender;
    // Nobody was there: it is delivered, and its body of no use.
    let nobody = recipients.is_empty();
    row.text(item.mesh.as_str())?;
    row.value(to_i64(envelope.seq)?)?;
    row.text(envelope.id.as_str())?;
    row.value(envelope.lane().index())?;
    row.value(recipients.len() > 1)?;
    row.value(envelope.created_at)?;
    row.value(nobody.then_some(envelope.created_at))?;
    row.text(sender.member.as_str())?;
    row.value(envelope.key.kind())?;
    row.text(envelope.key.as_str())?;
    row.value(Arc::clone(&sender.member_pubkey))?;
    row.value(sender.session_pubkey.clone())?;
    row.value(Arc::clone(&sender.name))?;
    row.value(envelope.priority.as_str())?;
    row.maybe_text(envelope.fingerprint.as_deref())?;
    row.maybe_text(envelope.reply_to.as_deref())?;
    row.maybe_text(envelope.subtype.as_deref())?;
    row.text(&envelope.target)?;
    let names: Vec<_> = recipients.iter().map(Recipient::to_string).collect();
    row.value(names.join(" "))?;
    row.text(if nobody { "" } else { &envelope.nonce })?;
    row.text(if nobody { "" } else { &envelope.ciphertext })?;
    row.value(envelope.topic.clone())
}

pub(super) fn bind_delivery(
    row: &mut Row,
    (item, recipient): &(&NewEnvelope<'_>, &Recipient),
) -> StoreResult<()> {
    let envelope = &item.accept.envelope;
    row.text(item.mesh.as_str())?;
    row.value(recipient.to_string())?;
    row.value(envelope.lane().index())?;
    row.value(to_i64(envelope.seq)?)?;
    row.value(item.accept.recipients.len() > 1)?;
    row.value(to_i64(envelope.body_bytes())?)
}

pub(super) fn bind_confirm(
    row: &mut Row,
    (mesh, confirm): &(&MeshId, &Confirm),
) -> StoreResult<()> {
    row.text(mesh.as_str())?;
    row.value(confirm.queue.recipient.to_string())?;
    row.value(confirm.queue.lane.index())?;
    row.value(to_i64(confirm.seq)?)?;
    row.text(confirm.message.as_str())
}

pub(super) fn bind_lease(row: &mut Row, (mesh, change): &(&MeshId, Change<'_>)) -> StoreResult<()> {
    row.text(mesh.as_str())?;
    match change {
        Change::Save(lease) => {
            row.text(lease.presence.as_str())?;
            row.text(&lease.body)?;
            row.value(lease.away)?;
            row.text(lease.member.as_str())?;
            row.text(&lease.place.session_id)?;
            row.text(&lease.place.cwd)?;
            row.value(lease.place.pid)
        }
        Change::Drop(presence) => row.text(presence.as_str()),
    }
}

pub(super) fn bind_audit(row: &mut Row, (mesh, entry): &(&MeshId, &AuditRow)) -> StoreResult<()> {
    row.text(mesh.as_str())?;
    row.value(entry.event)?;
    row.maybe_text(entry.actor.as_ref().map(MemberId::as_str))?;
    row.value(entry.actor_name.clone())?;
    row.text(&entry.payload)?;
    row.text(&entry.prev_hash)?;
    row.text(&entry.hash)?;
    row.value(entry.created_at)
}

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Connection, Row as _, SqliteConnection};

    use super::*;

    /// A statement that walks a table works in every test and fails in the first real backlog.
    #[tokio::test]
    async fn statements_of_a_commit_find_their_rows_by_whole_keys() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        crate::store::migrations::sqlite().run(&mut connection).await.unwrap();
        let all: [&Statement; 9] = [
            &EPOCHS,
            &KEYS,
            &ENVELOPES,
            &DELIVERIES,
            &CONFIRMS,
            &LEASES,
            &DROPS,
            &SESSION_KEYS,
            &AUDIT,
        ];
        let mut plans = Vec::new();
        for text in all.iter().flat_map(|statement| statement.texts()) {
            let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {text}"));
            for row in sqlx::query(explain).fetch_all(&mut connection).await.unwrap() {
                plans.push(row.get::<String, _>(3));
            }
        }
        // What walks the rows given, and what steps to rows by a key.
        for step in plans.iter().filter(|step| step.starts_with("SCAN")) {
            let table = step.split(' ').nth(1).unwrap();
            let constant = step.contains("CONSTANT ROW") || step.contains("VALUES CLAUSE");
            let given = table == "c" || constant || table.starts_with('(');
            assert!(given, "{step}");
        }
        for step in plans.iter().filter(|step| step.starts_with("SEARCH")) {
            let whole = [
                "mesh_owner USING PRIMARY KEY (mesh_id=?)",
                "delivery USING PRIMARY KEY (mesh_id=? AND recipient=? AND lane=? AND seq=?)",
                "e USING INDEX sqlite_autoindex_envelope_1 (mesh_id=? AND seq=?)",
                "lease USING PRIMARY KEY (mesh_id=? AND presence_id=?)",
                "m USING COVERING INDEX sqlite_autoindex_member_1 (id=?)",
            ];
            assert!(whole.iter().any(|key| step.ends_with(key)), "{step}");
        }
        assert!(plans.len() > 10, "{plans:?}");
    }
}
