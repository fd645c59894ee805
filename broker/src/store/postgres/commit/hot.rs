//! Accepts and confirmations: the one statement of the hot path, as arrays.

use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres, Row};

use super::Answer;
use super::plan::{AcceptRow, ConfirmRow, Of, Plan, Stage};
use crate::model::Accepted;

type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// Runs a stage. The first one takes the fences, and later ones hold them by the transaction they
/// share; what is not held is left out from then on by the statement itself.
pub(super) async fn apply(
    conn: &mut PgConnection,
    plan: &Plan<'_>,
    at: usize,
    stage: &Stage<'_>,
    answer: &mut Answer,
) -> Result<(), sqlx::Error> {
    let statement = sqlx::query(include_str!("../sql/commit.sql"));
    let statement = bind_meshes(statement, plan, &answer.held);
    let statement = bind_accepts(statement, plan, &stage.accepts);
    let row = bind_confirms(statement, plan, &stage.confirms).fetch_one(conn).await?;
    let held: Option<Vec<bool>> = row.try_get("held")?;
    if at == 0 {
        answer.held = held.unwrap_or_default();
    }
    let Some(places) = row.try_get::<Option<Vec<i64>>, _>("places")? else { return Ok(()) };
    let originals: Vec<String> = row.try_get("originals")?;
    let fingerprints: Vec<Option<String>> = row.try_get("fingerprints")?;
    for ((place, original), fingerprint) in places.into_iter().zip(originals).zip(fingerprints) {
        let row = usize::try_from(place - 1).map_err(|error| sqlx::Error::Decode(error.into()))?;
        answer.known.insert((at, row), Accepted { message: original.into(), fingerprint });
    }
    Ok(())
}

/// An epoch is never below 1, so 0 stands for a mesh that was found fenced.
fn bind_meshes<'q>(statement: Statement<'q>, plan: &'q Plan<'_>, held: &[bool]) -> Statement<'q> {
    let meshes: Vec<&str> = plan.meshes.iter().map(|(mesh, _)| mesh.as_str()).collect();
    let epochs: Vec<i64> = plan
        .meshes
        .iter()
        .enumerate()
        .map(|(at, (_, epoch))| if held.get(at) == Some(&false) { 0 } else { *epoch })
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

fn column<'q, T, C>(rows: &'q [Of<T>], of: impl Fn(&'q T) -> C) -> Vec<C> {
    rows.iter().map(|(_, row)| of(row)).collect()
}

/// Places count from 1 in Postgres. A batch is far smaller than the numbers reach.
fn places<T>(rows: &[Of<T>]) -> Vec<i32> {
    rows.iter().map(|(mesh, _)| i32::try_from(mesh + 1).unwrap_or(i32::MAX)).collect()
}

fn meshes<'q, T>(plan: &'q Plan<'_>, rows: &[Of<T>]) -> Vec<&'q str> {
    rows.iter().map(|(mesh, _)| plan.mesh_id(*mesh)).collect()
}
