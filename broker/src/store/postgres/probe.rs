//! What a database is like before a node stands on it.
//!
//! A node's promises rest on sessions: the claim and the migrations' lock are a session's, and so are
//! the settings with which a commit is durable. A pooler in transaction mode gives each transaction
//! another session, and a node behind one would run beside a second that has the same claim.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, Row};
use tokio::time::Instant;

use super::error::{bounded, classify};
use super::session::{self, READ_LIMIT, READERS};
use crate::store::StoreError;

/// Round trips of which the median is told.
const ROUND_TRIPS: usize = 11;

/// Connections beside a lane's and the readers': the claim's, and a migration's at the start.
const OTHERS: u32 = 2;

/// What is there.
#[derive(Debug)]
pub struct Facts {
    /// As the server calls it.
    pub version: String,
    /// The median of a few.
    pub round_trip: Duration,
    /// Nothing can be written.
    pub is_read_only: bool,
    /// What this user may not do and a node must, a sentence each.
    pub missing_rights: Vec<String>,
    /// Connections that the server, the database and the user have left for us now.
    pub connections_left: i64,
    /// Settings with which a promise does not hold, a sentence each.
    pub unsafe_settings: Vec<String>,
}

/// Connections that a node with so many lanes opens at most.
pub fn connections_of_a_node(lanes: usize) -> i64 {
    i64::from(READERS + OTHERS) + i64::try_from(lanes).unwrap_or(i64::MAX / 2)
}

/// Finds out. Changes nothing in the database.
///
/// # Errors
///
/// [`StoreError::Unusable`]: the address, the user, the encoding or a pooler is not right.
/// [`StoreError::Unavailable`]: nobody answers.
pub async fn facts(url: &str) -> Result<Facts, StoreError> {
    let options = session::options(url)?;
    refuse_unusable(&options).await?;
    let mut conn = session::open(&options).await?;
    let (version, is_read_only, connections_left) =
        ask("reading what the server is", server(&mut conn)).await?;
    Ok(Facts {
        version,
        is_read_only,
        connections_left,
        missing_rights: ask("reading the user's rights", missing_rights(&mut conn)).await?,
        unsafe_settings: super::health::unsafe_settings_of(&mut conn).await?,
        round_trip: ask("measuring the round trip", round_trip(&mut conn)).await?,
    })
}

/// Fails for a database that a node must not stand on, in words.
pub(super) async fn refuse_unusable(options: &PgConnectOptions) -> Result<(), StoreError> {
    let mut conn = session::first(options).await?;
    if is_pooled(options, &mut conn).await? {
        return Err(StoreError::Unusable(
            "this address is a pooler's in transaction mode, which gives each transaction another \
             session; use Postgres' own address, or a pooler in session mode"
                .to_owned(),
        ));
    }
    let encoding: String = simply(&mut conn, "SELECT current_setting('server_encoding')").await?;
    if encoding != "UTF8" {
        return Err(StoreError::Unusable(format!(
            "the database's encoding is {encoding}, which cannot hold every text; make one with \
             CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )));
    }
    let _ = bounded("disconnecting", READ_LIMIT, conn.close()).await;
    Ok(())
}

/// Whether a session of ours is not one of the server's: while others are within transactions, either
/// one of them got the server's session that we had, or we get another one.
async fn is_pooled(
    options: &PgConnectOptions,
    conn: &mut PgConnection,
) -> Result<bool, StoreError> {
    let before = backend(conn).await?;
    let mut other = session::first(options).await?;
    let (theirs, after) = {
        let begun = bounded("looking for a pooler", READ_LIMIT, other.begin()).await;
        let mut begun = begun?;
        let theirs = backend(&mut begun).await?;
        let after = backend(conn).await?;
        let _ = bounded("looking for a pooler", READ_LIMIT, begun.rollback()).await;
        (theirs, after)
    };
    let _ = bounded("disconnecting", READ_LIMIT, other.close()).await;
    Ok(before != after || before == theirs)
}

/// The server's process behind a connection.
async fn backend(conn: &mut PgConnection) -> Result<i32, StoreError> {
    simply(conn, "SELECT pg_backend_pid()").await
}

/// Asks without a prepared statement, of which behind a pooler there may be another's of that name.
async fn simply<T>(conn: &mut PgConnection, query: &'static str) -> Result<T, StoreError>
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    const TASK: &str = "asking what the server is";
    let row = ask(TASK, sqlx::raw_sql(query).fetch_one(conn)).await?;
    row.try_get(0).map_err(|error| classify(TASK, &error))
}

async fn server(conn: &mut PgConnection) -> Result<(String, bool, i64), sqlx::Error> {
    let row = sqlx::query(
        "WITH mine AS (SELECT rolconnlimit, rolsuper FROM pg_roles WHERE rolname = current_user),
              here AS (SELECT datconnlimit FROM pg_database WHERE datname = current_database()),
              used AS (SELECT count(*) AS all,
                              count(*) FILTER (WHERE datname = current_database()) AS here,
                              count(*) FILTER (WHERE usename = current_user) AS mine
                       FROM pg_stat_activity WHERE backend_type = 'client backend')
         SELECT current_setting('server_version'),
                current_setting('transaction_read_only') = 'on',
                least(
                    current_setting('max_connections')::bigint - used.all - CASE
                        WHEN rolsuper THEN 0
                        ELSE current_setting('superuser_reserved_connections')::bigint END,
                    CASE WHEN rolconnlimit < 0 THEN NULL ELSE rolconnlimit - used.mine END,
                    CASE WHEN datconnlimit < 0 THEN NULL ELSE datconnlimit - used.here END)
                    -- This one is ours, and will be free again.
                    + 1
         FROM mine, here, used",
    )
    .fetch_one(conn)
    .await?;
    Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
}

async fn missing_rights(conn: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT 'may not create the schemas broker and mesh: GRANT CREATE ON DATABASE' AS lacks
         WHERE (SELECT count(*) FROM pg_namespace WHERE nspname IN ('broker', 'mesh')) < 2
           AND NOT has_database_privilege(current_database(), 'CREATE')
         UNION ALL
         SELECT 'may not make tables in the schema ' || nspname || ': GRANT CREATE ON SCHEMA'
         FROM pg_namespace
         WHERE nspname IN ('broker', 'mesh') AND NOT has_schema_privilege(oid, 'CREATE')
         UNION ALL
         SELECT 'may not read and write ' || nspname || '.' || relname || ': GRANT ALL ON TABLE'
         FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
         WHERE nspname IN ('broker', 'mesh') AND relkind IN ('r', 'p')
           AND NOT (has_schema_privilege(n.oid, 'USAGE')
               AND has_table_privilege(pg_class.oid, 'SELECT')
               AND has_table_privilege(pg_class.oid, 'INSERT')
               AND has_table_privilege(pg_class.oid, 'UPDATE')
               AND has_table_privilege(pg_class.oid, 'DELETE'))",
    )
    .fetch_all(conn)
    .await
}

async fn round_trip(conn: &mut PgConnection) -> Result<Duration, sqlx::Error> {
    let mut took = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let start = Instant::now();
        sqlx::query("SELECT 1").execute(&mut *conn).await?;
        took.push(start.elapsed());
    }
    took.sort_unstable();
    Ok(took[ROUND_TRIPS / 2])
}

async fn ask<T>(
    task: &'static str,
    question: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    bounded(task, READ_LIMIT, question).await
}
