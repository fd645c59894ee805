//! Accepts, confirmations and audit entries: the one statement of the hot path, as arrays.

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres, Row};

use super::Answer;
use super::plan::{AcceptRow, ConfirmRow, Of, Plan};
use crate::model::{Accepted, AuditRow, Duplicate};

type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// Runs a stage. The first statement of a batch takes the fences, and later ones hold them by the
/// transaction they share; what must not write is left out from then on by the statement itself.
pub(super) async fn apply(
    conn: &mut PgConnection,
    plan: &Plan<'_>,
    at: usize,
    answer: &mut Answer,
) -> Result<(), sqlx::Error> {
    let Some(stage) = plan.stages.get(at) else { return Ok(()) };
    let audits = if at == 0 { plan.audits.as_slice() } else { &[] };
    let statement = sqlx::query(include_str!("../sql/commit.sql"));
    let statement = bind_meshes(statement, plan, answer);
    let statement = bind_accepts(statement, plan, &stage.accepts);
    let statement = bind_confirms(statement, plan, &stage.confirms);
    let row = bind_audits(statement, plan, audits).fetch_one(conn).await?;
    if at == 0 && answer.held.is_empty() {
        note(&row, &stage.accepts.iter().collect::<Vec<_>>(), answer)?;
    }
    Ok(())
}

/// Takes the fences of a batch of several stages, and finds which of all its keys are known.
pub(super) async fn look_up(
    conn: &mut PgConnection,
    plan: &Plan<'_>,
    answer: &mut Answer,
) -> Result<(), sqlx::Error> {
    let accepts: Vec<_> = plan.accepts().collect();
    let column = |of: fn(&AcceptRow<'_>) -> String| -> Vec<String> {
        accepts.iter().map(|(_, row)| of(row)).collect()
    };
    let statement = sqlx::query(include_str!("../sql/known.sql"));
    let statement = bind_meshes(statement, plan, answer)
        .bind(accepts.iter().map(|(mesh, _)| place(*mesh)).collect::<Vec<_>>())
        .bind(accepts.iter().map(|(mesh, _)| plan.mesh_id(*mesh)).collect::<Vec<_>>())
        .bind(column(|row| row.envelope.sender.member.to_string()))
        .bind(column(|row| row.envelope.key.kind().to_owned()))
        .bind(column(|row| row.envelope.key.as_str().to_owned()));
    let row = statement.fetch_one(conn).await?;
    note(&row, &accepts, answer)
}

/// Reads which fences are held and which keys were known.
fn note(
    row: &PgRow,
    accepts: &[&Of<AcceptRow<'_>>],
    answer: &mut Answer,
) -> Result<(), sqlx::Error> {
    answer.held = row.try_get::<Option<_>, _>("held")?.unwrap_or_default();
    let Some(places) = row.try_get::<Option<Vec<i64>>, _>("places")? else { return Ok(()) };
    let originals: Vec<String> = row.try_get("originals")?;
    let fingerprints: Vec<Option<String>> = row.try_get("fingerprints")?;
    for ((place, original), fingerprint) in places.into_iter().zip(originals).zip(fingerprints) {
        let at = usize::try_from(place - 1).ok();
        let Some((mesh, accept)) = at.and_then(|at| accepts.get(at)) else {
            return Err(sqlx::Error::Decode("a place that was not given".into()));
        };
        let original = Accepted { message: original.into(), fingerprint };
        let duplicate = Duplicate { seq: accept.envelope.seq, original };
        answer.known.entry(*mesh).or_default().push(duplicate);
    }
    Ok(())
}

/// An epoch is never below 1, so 0 stands for a mesh that is known not to write.
fn bind_meshes<'q>(statement: Statement<'q>, plan: &'q Plan<'_>, answer: &Answer) -> Statement<'q> {
    let meshes: Vec<&str> = plan.meshes.iter().map(|(mesh, _)| mesh.as_str()).collect();
    let asked = !answer.held.is_empty();
    let epochs: Vec<i64> = plan
        .meshes
        .iter()
        .enumerate()
        .map(|(at, (_, epoch))| if asked && !answer.writes(at) { 0 } else { *epoch })
        .collect();
    statement.bind(meshes).bind(epochs)
}

fn bind_accepts<'q>(
    statement: Statement<'q>,
    plan: &'q Plan<'_>,
    rows: &'q [Of<AcceptRow<'_>>],
) -> Statement<'q> {
    statement
        .bind(places(rows))
        .bind(meshes(plan, rows))
        .bind(column(rows, |row| row.seq))
        .bind(column(rows, |row| row.envelope.id.as_str()))
        .bind(column(rows, |row| row.envelope.sender.member.as_str()))
        .bind(column(rows, |row| &*row.envelope.sender.member_pubkey))
        .bind(column(rows, |row| row.envelope.sender.session_pubkey.as_deref()))
        .bind(column(rows, |row| &*row.envelope.sender.name))
        .bind(column(rows, |row| row.envelope.target.as_str()))
        .bind(column(rows, |row| row.envelope.priority.as_str()))
        .bind(column(rows, |row| row.envelope.lane().index()))
        .bind(column(rows, |row| row.body(&row.envelope.nonce)))
        .bind(column(rows, |row| row.body(&row.envelope.ciphertext)))
        .bind(column(rows, |row| row.envelope.key.kind()))
        .bind(column(rows, |row| row.envelope.key.as_str()))
        .bind(column(rows, |row| row.envelope.fingerprint.as_deref()))
        .bind(column(rows, |row| row.envelope.reply_to.as_deref()))
        .bind(column(rows, |row| row.envelope.subtype.as_deref()))
        .bind(column(rows, |row| row.envelope.topic.as_deref()))
        .bind(column(rows, |row| row.envelope.created_at))
        .bind(column(rows, |row| row.recipients.as_str()))
}

fn bind_confirms<'q>(
    statement: Statement<'q>,
    plan: &'q Plan<'_>,
    rows: &'q [Of<ConfirmRow<'_>>],
) -> Statement<'q> {
    statement
        .bind(places(rows))
        .bind(meshes(plan, rows))
        .bind(column(rows, |row| row.recipient.as_str()))
        .bind(column(rows, |row| row.confirm.queue.lane.index()))
        .bind(column(rows, |row| row.seq))
        .bind(column(rows, |row| row.confirm.message.as_str()))
}

fn bind_audits<'q>(
    statement: Statement<'q>,
    plan: &'q Plan<'_>,
    rows: &'q [Of<&'q AuditRow>],
) -> Statement<'q> {
    statement
        .bind(places(rows))
        .bind(meshes(plan, rows))
        .bind(column(rows, |row| row.event))
        .bind(column(rows, |row| row.actor.as_ref().map(protocol::MemberId::as_str)))
        .bind(column(rows, |row| row.actor_name.as_deref()))
        .bind(column(rows, |row| row.payload.as_str()))
        .bind(column(rows, |row| row.prev_hash.as_str()))
        .bind(column(rows, |row| row.hash.as_str()))
        .bind(column(rows, |row| row.created_at))
}

fn column<'q, T, C>(rows: &'q [Of<T>], of: impl Fn(&'q T) -> C) -> Vec<C> {
    rows.iter().map(|(_, row)| of(row)).collect()
}

fn places<T>(rows: &[Of<T>]) -> Vec<i32> {
    rows.iter().map(|(mesh, _)| place(*mesh)).collect()
}

/// Places count from 1 in Postgres. A batch is far smaller than the numbers reach.
fn place(mesh: usize) -> i32 {
    i32::try_from(mesh + 1).unwrap_or(i32::MAX)
}

fn meshes<'q, T>(plan: &'q Plan<'_>, rows: &[Of<T>]) -> Vec<&'q str> {
    rows.iter().map(|(mesh, _)| plan.mesh_id(*mesh)).collect()
}
