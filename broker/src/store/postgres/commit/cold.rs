//! What changes seldom: leases, inheritances, session keys, histories. One statement per kind, in
//! the transaction whose first statement took the fences, limited to the meshes that may write.

use std::collections::HashMap;

use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres};

use super::Answer;
use super::plan::{Of, Plan, Seldom, Stage};
use crate::model::{HELLO_SEEN_MS, KICKED_MOST};
use crate::store::mentions::mentioned;

/// The rows of meshes that may write; nothing if there are none.
fn written<'r, T>(rows: &'r [Of<T>], answer: &Answer) -> Option<Vec<&'r Of<T>>> {
    let rows: Vec<_> = rows.iter().filter(|(mesh, _)| answer.writes(*mesh)).collect();
    (!rows.is_empty()).then_some(rows)
}

fn meshes<'p, T>(plan: &'p Plan<'_>, rows: &[&Of<T>]) -> Vec<&'p str> {
    rows.iter().map(|(mesh, _)| plan.mesh_id(*mesh)).collect()
}

fn column<'r, T, C>(rows: &[&'r Of<T>], of: impl Fn(&'r T) -> C) -> Vec<C> {
    rows.iter().map(|(_, row)| of(row)).collect()
}

type Done = Result<(), sqlx::Error>;
type Statement<'q> = Query<'q, Postgres, PgArguments>;

async fn execute(conn: &mut PgConnection, statement: Statement<'_>) -> Done {
    statement.execute(conn).await.map(|_| ())
}

/// What is done to deliveries between this stage and the next.
pub(super) async fn move_deliveries(
    conn: &mut PgConnection,
    plan: &Plan<'_>,
    stage: &Stage<'_>,
    answer: &mut Answer,
) -> Done {
    if let Some(rows) = written(&stage.undeliverables, answer) {
        let statement = sqlx::query(include_str!("../sql/undeliverable.sql"))
            .bind(meshes(plan, &rows))
            .bind(column(&rows, |(was, _)| was.as_str()))
            .bind(column(&rows, |(_, key)| *key));
        execute(conn, statement).await?;
    }
    if let Some(rows) = written(&stage.inherits, answer) {
        let statement = sqlx::query(include_str!("../sql/inherit.sql"))
            .bind(meshes(plan, &rows))
            .bind(column(&rows, |(was, _)| was.as_str()))
            .bind(column(&rows, |(_, becomes)| becomes.as_str()));
        execute(conn, statement).await?;
    }
    for (mesh, (member, presences)) in &stage.purges {
        if answer.writes(*mesh) {
            // It walks all that waits in the mesh. A commit may take a little longer than that.
            sqlx::raw_sql("SET LOCAL statement_timeout = '5500ms'").execute(&mut *conn).await?;
            let purged: i64 = sqlx::query_scalar(include_str!("../sql/purge.sql"))
                .bind(plan.mesh_id(*mesh))
                .bind(member.as_str())
                .bind(presences)
                .fetch_one(&mut *conn)
                .await?;
            *answer.purged.entry(*mesh).or_default() += purged.unsigned_abs();
        }
    }
    Ok(())
}

/// Everything else of a batch.
pub(super) async fn apply(conn: &mut PgConnection, plan: &Plan<'_>, answer: &Answer) -> Done {
    leases(conn, plan, answer).await?;
    if let Some(rows) = written(&plan.keys, answer) {
        let statement = sqlx::query(include_str!("../sql/record_keys.sql"))
            .bind(meshes(plan, &rows))
            .bind(column(&rows, |(key, _)| *key))
            .bind(column(&rows, |(_, member)| *member));
        execute(conn, statement).await?;
    }
    if let Some(rows) = written(&plan.hellos, answer) {
        let statement = sqlx::query(include_str!("../sql/see_hellos.sql"))
            .bind(meshes(plan, &rows))
            .bind(column(&rows, |(digest, _)| *digest))
            .bind(column(&rows, |(_, conn)| *conn))
            .bind(HELLO_SEEN_MS);
        execute(conn, statement).await?;
    }
    states(conn, plan, answer).await?;
    histories(conn, plan, answer).await?;
    for (mesh, write) in &plan.seldom {
        if answer.writes(*mesh) {
            execute(conn, seldom(plan.mesh_id(*mesh), write)).await?;
        }
    }
    Ok(())
}

async fn leases(conn: &mut PgConnection, plan: &Plan<'_>, answer: &Answer) -> Done {
    if let Some(rows) = written(&plan.gone, answer) {
        let statement = sqlx::query(include_str!("../sql/drop_leases.sql"))
            .bind(meshes(plan, &rows))
            .bind(column(&rows, |presence| presence.as_str()));
        execute(conn, statement).await?;
    }
    let Some(rows) = written(&plan.leases, answer) else { return Ok(()) };
    let statement = sqlx::query(include_str!("../sql/save_leases.sql"))
        .bind(meshes(plan, &rows))
        .bind(column(&rows, |lease| lease.presence.as_str()))
        .bind(column(&rows, |lease| lease.body.as_str()))
        .bind(column(&rows, |lease| lease.away))
        .bind(column(&rows, |lease| lease.member.as_str()))
        .bind(column(&rows, |lease| lease.place.session_id.as_str()))
        .bind(column(&rows, |lease| lease.place.cwd.as_str()))
        .bind(column(&rows, |lease| lease.place.pid));
    execute(conn, statement).await
}

async fn states(conn: &mut PgConnection, plan: &Plan<'_>, answer: &Answer) -> Done {
    let Some(rows) = written(&plan.states, answer) else { return Ok(()) };
    let json = |value: Option<Result<String, serde_json::Error>>| {
        value.transpose().map_err(|error| sqlx::Error::Encode(error.into()))
    };
    let (mut groups, mut profiles) = (Vec::new(), Vec::new());
    for (_, state) in &rows {
        groups.push(json(state.groups.as_ref().map(serde_json::to_string))?);
        profiles.push(json(state.profile.as_ref().map(serde_json::to_string))?);
    }
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let statement = sqlx::query(include_str!("../sql/save_states.sql"))
        .bind(meshes(plan, &rows))
        .bind(column(&rows, |state| state.member.as_str()))
        .bind(groups)
        .bind(profiles)
        .bind(column(&rows, |state| state.visible))
        .bind(column(&rows, |state| state.summary.as_deref()))
        .bind(column(&rows, |state| state.name.as_str()))
        .bind(column(&rows, |state| count(state.stats.messages_in)))
        .bind(column(&rows, |state| count(state.stats.messages_out)))
        .bind(column(&rows, |state| count(state.stats.tool_calls)))
        .bind(column(&rows, |state| count(state.stats.errors)))
        .bind(column(&rows, |state| state.seen_at));
    execute(conn, statement).await
}

async fn histories(conn: &mut PgConnection, plan: &Plan<'_>, answer: &Answer) -> Done {
    let Some(rows) = written(&plan.histories, answer) else { return Ok(()) };
    let statement = sqlx::query(include_str!("../sql/history.sql"))
        .bind(meshes(plan, &rows))
        .bind(column(&rows, |history| history.envelope.id.as_str()))
        .bind(column(&rows, |history| &*history.topic))
        .bind(column(&rows, |history| history.envelope.sender.member.as_str()))
        .bind(column(&rows, |history| history.envelope.sender.session_pubkey.as_deref()))
        .bind(column(&rows, |history| history.envelope.nonce.as_str()))
        .bind(column(&rows, |history| history.envelope.ciphertext.as_str()))
        .bind(column(&rows, |history| history.body_version))
        .bind(column(&rows, |history| history.envelope.reply_to.as_deref()))
        .bind(column(&rows, |history| history.envelope.created_at));
    execute(conn, statement).await?;
    let mentioning: Vec<_> =
        rows.into_iter().filter(|(_, history)| !history.mentions.is_empty()).collect();
    if mentioning.is_empty() {
        return Ok(());
    }
    let mut members: HashMap<usize, Vec<(String, String)>> = HashMap::new();
    let (mut of, mut messages, mut recipients) = (Vec::new(), Vec::new(), Vec::new());
    for (mesh, history) in mentioning {
        if !members.contains_key(mesh) {
            let names = sqlx::query_as(
                "SELECT id, display_name FROM mesh.member
                 WHERE mesh_id = $1 AND revoked_at IS NULL
                 ORDER BY joined_at, id",
            );
            let names = names.bind(plan.mesh_id(*mesh)).fetch_all(&mut *conn).await?;
            members.insert(*mesh, names);
        }
        for member in mentioned(history, members.get(mesh).map_or(&[], Vec::as_slice)) {
            of.push(plan.mesh_id(*mesh));
            messages.push(history.envelope.id.as_str());
            recipients.push(member.to_owned());
        }
    }
    let statement = sqlx::query(include_str!("../sql/notify.sql"));
    execute(conn, statement.bind(of).bind(messages).bind(recipients)).await
}

fn seldom<'q>(mesh: &'q str, write: &'q Seldom<'_>) -> Statement<'q> {
    match write {
        // All rows of the key: with one of them left, nobody would be removed.
        Seldom::Revoke { member, at } => sqlx::query(
            "UPDATE mesh.member
             SET revoked_at = timestamp '1970-01-01' + $3::bigint * interval '1 millisecond'
             WHERE mesh_id = $1 AND revoked_at IS NULL AND peer_pubkey = (
                SELECT peer_pubkey FROM mesh.member WHERE id = $2 AND mesh_id = $1)",
        )
        .bind(mesh)
        .bind(member.as_str())
        .bind(at),
        Seldom::Reinstate { member } => sqlx::query(
            "UPDATE mesh.member SET revoked_at = NULL
             WHERE mesh_id = $1 AND revoked_at IS NOT NULL AND peer_pubkey = (
                SELECT peer_pubkey FROM mesh.member WHERE id = $2 AND mesh_id = $1)",
        )
        .bind(mesh)
        .bind(member.as_str()),
        Seldom::Done { command, reply } => sqlx::query(
            "INSERT INTO broker.command (mesh_id, command, reply) VALUES ($1, $2, $3)
             ON CONFLICT DO NOTHING",
        )
        .bind(mesh)
        .bind(command)
        .bind(reply),
        Seldom::Kick(kicked) => sqlx::query(include_str!("../sql/kick.sql"))
            .bind(mesh)
            .bind(&*kicked.key)
            .bind(kicked.member.as_str())
            .bind(&kicked.name)
            .bind(i64::try_from(kicked.left_ms).unwrap_or(i64::MAX))
            .bind(i64::try_from(KICKED_MOST).unwrap_or(i64::MAX)),
        Seldom::LiftKicks(keys) => {
            sqlx::query("DELETE FROM broker.kicked WHERE mesh_id = $1 AND key = ANY ($2)")
                .bind(mesh)
                .bind(keys)
        }
        Seldom::UsePending(id) => {
            sqlx::query("DELETE FROM broker.pending_status WHERE id = $1").bind(id)
        }
    }
}
