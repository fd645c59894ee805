//! What changes seldom: leases, inheritances, session keys, audit entries. One statement per kind,
//! in the transaction whose first statement took the fences, limited to the meshes that hold theirs.

use sqlx::{PgConnection, Postgres};

use super::plan::{Of, Plan, Stage};

/// The rows of meshes that hold their fence; nothing if there are none.
fn held<'r, T>(rows: &'r [Of<T>], held: &[bool]) -> Option<Vec<&'r Of<T>>> {
    let rows: Vec<_> =
        rows.iter().filter(|(mesh, _)| held.get(*mesh).copied().unwrap_or(false)).collect();
    (!rows.is_empty()).then_some(rows)
}

fn meshes<'p, T>(plan: &'p Plan<'_>, rows: &[&Of<T>]) -> Vec<&'p str> {
    rows.iter().map(|(mesh, _)| plan.mesh_id(*mesh)).collect()
}

fn column<'r, T, C>(rows: &[&'r Of<T>], of: impl Fn(&'r T) -> C) -> Vec<C> {
    rows.iter().map(|(_, row)| of(row)).collect()
}

type Done = Result<(), sqlx::Error>;

async fn execute(
    conn: &mut PgConnection,
    statement: sqlx::query::Query<'_, Postgres, sqlx::postgres::PgArguments>,
) -> Done {
    statement.execute(conn).await.map(|_| ())
}

pub(super) async fn inherit(
    conn: &mut PgConnection,
    plan: &Plan<'_>,
    stage: &Stage<'_>,
    fence: &[bool],
) -> Done {
    let Some(rows) = held(&stage.inherits, fence) else { return Ok(()) };
    let statement = sqlx::query(include_str!("../sql/inherit.sql"))
        .bind(meshes(plan, &rows))
        .bind(column(&rows, |(was, _)| was.as_str()))
        .bind(column(&rows, |(_, becomes)| becomes.as_str()));
    execute(conn, statement).await
}

pub(super) async fn drop_leases(conn: &mut PgConnection, plan: &Plan<'_>, fence: &[bool]) -> Done {
    let Some(rows) = held(&plan.gone, fence) else { return Ok(()) };
    let statement = sqlx::query(include_str!("../sql/drop_leases.sql"))
        .bind(meshes(plan, &rows))
        .bind(column(&rows, |presence| presence.as_str()));
    execute(conn, statement).await
}

pub(super) async fn save_leases(conn: &mut PgConnection, plan: &Plan<'_>, fence: &[bool]) -> Done {
    let Some(rows) = held(&plan.leases, fence) else { return Ok(()) };
    let statement = sqlx::query(include_str!("../sql/save_leases.sql"))
        .bind(meshes(plan, &rows))
        .bind(column(&rows, |lease| lease.presence.as_str()))
        .bind(column(&rows, |lease| lease.body.as_str()))
        .bind(column(&rows, |lease| lease.away));
    execute(conn, statement).await
}

pub(super) async fn record_keys(conn: &mut PgConnection, plan: &Plan<'_>, fence: &[bool]) -> Done {
    let Some(rows) = held(&plan.keys, fence) else { return Ok(()) };
    let statement = sqlx::query(include_str!("../sql/record_keys.sql"))
        .bind(meshes(plan, &rows))
        .bind(column(&rows, |(key, _)| *key))
        .bind(column(&rows, |(_, member)| *member));
    execute(conn, statement).await
}

pub(super) async fn audit(conn: &mut PgConnection, plan: &Plan<'_>, fence: &[bool]) -> Done {
    let Some(rows) = held(&plan.audits, fence) else { return Ok(()) };
    let statement = sqlx::query(include_str!("../sql/audit.sql"))
        .bind(meshes(plan, &rows))
        .bind(column(&rows, |row| row.event))
        .bind(column(&rows, |row| row.actor.as_ref().map(protocol::MemberId::as_str)))
        .bind(column(&rows, |row| row.actor_name.as_deref()))
        .bind(column(&rows, |row| row.payload.as_str()))
        .bind(column(&rows, |row| row.prev_hash.as_str()))
        .bind(column(&rows, |row| row.hash.as_str()))
        .bind(column(&rows, |row| row.created_at));
    execute(conn, statement).await
}
