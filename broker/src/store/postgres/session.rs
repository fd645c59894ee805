//! Connections: how each is set up, and what happens to one that failed.
//!
//! Guarantees: nothing waits longer than the limits below, on our side or (where Postgres can) on
//! the server's; a connection on which anything went wrong or was given up is closed, never reused.

use std::ops::{Deref, DerefMut};
use std::str::FromStr;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool, Postgres};

use super::error::{bounded, classify, is_final};
use crate::store::StoreError;

/// Connecting, TLS included. Two tries fit into the 5 s that a client gives a hello.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// A read, with the wait for a connection. Longer than the server's own limit, so that normally
/// the server gives up first and says why.
pub(super) const READ_LIMIT: Duration = Duration::from_secs(4);

/// A statement of a migration: as long as the server gives it there, and then some.
pub(super) const STATEMENT_LIMIT: Duration = Duration::from_mins(2);

/// Connections for reads: hellos, pages and activations are short, and a hundred nodes with ten
/// connections and two lanes each still fit under a server's thousand.
pub(super) const READERS: u32 = 10;

/// Makes what the promises rest on explicit, and the server notice what we cannot tell it.
///
/// * 3 s a statement: an activation waits for the commit in progress, and clients give a hello 5 s.
/// * A client that dies inside a transaction holds its meshes' fence: 2 s, and for one whose host
///   has died about 5 s of silence (`tcp_*`; they mean nothing on a Unix socket and are ignored).
/// * The planner is told to keep to the indexes. Every statement of ours addresses rows by key, and
///   what statistics say of tables that fill and empty all day is wrong at any given time; a plan
///   made while a table was empty is kept for as long as the connection.
/// * A batch is held once in memory on its way to the tables: 32 MiB before it spills to disk.
const SETTINGS: &str = "
    SET synchronous_commit = on;
    SET default_transaction_isolation = 'read committed';
    SET TimeZone = 'UTC';
    SET statement_timeout = '3s';
    SET idle_in_transaction_session_timeout = '2s';
    SET tcp_keepalives_idle = 2;
    SET tcp_keepalives_interval = 1;
    SET tcp_keepalives_count = 3;
    SET tcp_user_timeout = '5s';
    SET plan_cache_mode = force_generic_plan;
    SET enable_seqscan = off;
    SET enable_hashjoin = off;
    SET enable_mergejoin = off;
    SET jit = off;
    SET work_mem = '32MB';
    SELECT set_config(name, '5s', false) FROM pg_settings WHERE name = 'transaction_timeout';
";

/// For work that comes once: longer than any statement of ours should take, on plans of its own.
const PATIENCE: &str = "
    SET statement_timeout = '110s';
    SET idle_in_transaction_session_timeout = '30s';
    RESET enable_seqscan;
    SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout';
";

/// Lets a connection take its time.
pub(super) async fn take_time(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(PATIENCE).execute(conn).await.map(|_| ())
}

/// Reads the URL. Its text never appears in an error.
pub(super) fn options(url: &str) -> Result<PgConnectOptions, StoreError> {
    let options = PgConnectOptions::from_str(url)
        .map_err(|error| classify("reading the database address", &error))?;
    // sqlx takes the brackets of an IPv6 address for a part of the name that it looks up.
    let bare = options.get_host().strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let options = match bare.map(str::to_owned) {
        Some(host) => options.host(&host),
        None => options,
    };
    // What to log is decided where an error is handled; sqlx would quote statements.
    Ok(options.application_name("claudemesh-broker").disable_statement_logging())
}

/// The pool that reads use. It connects when first asked, so a broker can start before its store.
pub(super) fn pool(options: PgConnectOptions, max_age: Option<Duration>) -> PgPool {
    PgPoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(CONNECT_LIMIT)
        .max_lifetime(max_age)
        .after_connect(|conn, _| Box::pin(prepare(conn)))
        .connect_lazy_with(options)
}

/// A connection of its own, for a lane or a claim.
pub(super) async fn open(options: &PgConnectOptions) -> Result<PgConnection, StoreError> {
    bounded("connecting", CONNECT_LIMIT, connect(options)).await
}

/// A connection, with a word on whether to try again if there is none: [`StoreError::Unusable`] is
/// final.
pub(super) async fn first(options: &PgConnectOptions) -> Result<PgConnection, StoreError> {
    let opened = bounded("connecting", CONNECT_LIMIT, async {
        Ok::<_, sqlx::Error>(match connect(options).await {
            Err(error) if is_final(&error) => Err(classify("connecting", &error)),
            opened => Ok(opened?),
        })
    });
    opened.await?.map_err(|error| match error {
        StoreError::Unavailable(why) => StoreError::Unusable(why),
        other => other,
    })
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let mut conn = PgConnection::connect_with(options).await?;
    prepare(&mut conn).await?;
    Ok(conn)
}

async fn prepare(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(SETTINGS).execute(conn).await.map(|_| ())
}

/// A pooled connection that goes back only when told that all went well. Given back in the middle
/// of an answer, it would occupy its place for as long as the network is silent.
pub(super) struct Reader {
    conn: PoolConnection<Postgres>,
    well: bool,
}

impl Reader {
    /// Waits for one to be free.
    pub(super) async fn acquire(pool: &PgPool) -> Result<Self, StoreError> {
        let conn = pool.acquire().await.map_err(|error| classify("connecting", &error))?;
        Ok(Self { conn, well: false })
    }

    /// Gives it back for others to use.
    pub(super) fn release(mut self) {
        self.well = true;
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !self.well {
            self.conn.close_on_drop();
        }
    }
}

impl Deref for Reader {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.conn
    }
}

impl DerefMut for Reader {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.conn
    }
}

#[cfg(test)]
mod tests {
    use super::options;

    #[test]
    fn hosts_are_understood_in_every_form() {
        for (url, host, port) in [
            ("postgres://u:p@db.example/x", "db.example", 5432),
            ("postgres://u@127.0.0.1:6000/x", "127.0.0.1", 6000),
            ("postgres://u@[::1]:6000/x", "::1", 6000),
            ("postgresql://u@[fdaa:0:1::3]/x?sslmode=disable", "fdaa:0:1::3", 5432),
        ] {
            let options = options(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!((options.get_host(), options.get_port()), (host, port), "{url}");
        }
    }
}
