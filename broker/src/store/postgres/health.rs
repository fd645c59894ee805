//! The server itself: its schema, whether it writes, whether it can keep the promises, who is alone.

use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, Row};

use tokio::time::Instant;

use super::error::{bounded, classify, unstored};
use super::session::{self, READ_LIMIT};
use super::{Postgres, read};
use crate::store::{Claim, HEALTH_FRESH_S, StoreError, migrations};

/// Longest wait for our own and other nodes' migrations together.
const MIGRATE_LIMIT: Duration = Duration::from_mins(2);

/// Tries, as two nodes may be the first to touch an empty database at the same moment.
const MIGRATE_TRIES: u32 = 3;

/// Names the claim among advisory locks: "claudeme", as a number.
const CLAIM_KEY: i64 = 0x636c_6175_6465_6d65;

pub(super) async fn migrate(options: &PgConnectOptions) -> Result<(), StoreError> {
    const TASK: &str = "migrating";
    let mut last = StoreError::Unavailable(format!("{TASK}: not tried"));
    for _ in 0..MIGRATE_TRIES {
        let mut conn = session::open(options).await?;
        let work = async {
            // Another node's migration may take longer than any statement of ours should.
            session::take_time(&mut conn).await?;
            let done = migrations::postgres().run_direct(None, &mut conn, false).await;
            done.map_err(plain)
        };
        match bounded(TASK, MIGRATE_LIMIT, work).await {
            Ok(()) => {
                // Without a goodbye the lock would end only when the server notices.
                let _ = bounded("disconnecting", READ_LIMIT, conn.close()).await;
                return Ok(());
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What a migration failed on, if it was the database; else that it failed.
fn plain(error: MigrateError) -> sqlx::Error {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error,
        other => sqlx::Error::Protocol(other.to_string()),
    }
}

/// Commits something that leaves nothing behind: a record in the log that no one reads. It waits
/// for whatever a commit waits for, a synchronous standby included. It is asked every second: what is
/// to be done now and then is done here.
pub(super) async fn healthy(store: &Postgres) -> Result<(), StoreError> {
    let query = sqlx::query_scalar::<_, String>(
        "SELECT current_setting('transaction_read_only')
         FROM pg_logical_emit_message(true, 'claudemesh', 'healthy')",
    );
    let read_only = read!(store, "checking the store", query, fetch_one);
    if read_only == "off" {
        store.renew_lanes().await
    } else {
        Err(StoreError::Unavailable("checking the store: it is read-only".to_owned()))
    }
}

pub(super) async fn unsafe_settings(store: &Postgres) -> Result<Vec<String>, StoreError> {
    let mut reader = store.reader().await?;
    let found = unsafe_settings_of(&mut reader).await?;
    reader.release();
    Ok(found)
}

/// What this connection's server runs with and should not.
pub(super) async fn unsafe_settings_of(conn: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    const TASK: &str = "reading the store's settings";
    let query = sqlx::query(
        "SELECT current_setting('fsync') = 'off' AS fsync,
            current_setting('full_page_writes') = 'off' AS pages,
            current_setting('synchronous_commit') IN ('off', 'local') AS commit,
            current_setting('synchronous_standby_names') = ''
                AND EXISTS (SELECT FROM pg_stat_replication
                    WHERE coalesce(application_name, '') <> 'pg_basebackup') AS standby",
    );
    let row = bounded(TASK, READ_LIMIT, query.fetch_one(conn)).await?;
    let found = [
        ("fsync", "fsync is off: a crash of its host may lose or damage what was acknowledged"),
        ("pages", "full_page_writes is off: a crash of its host may damage the database"),
        ("commit", "synchronous_commit is not on: a crash may lose what was acknowledged"),
        (
            "standby",
            "a standby is attached and none is synchronous: a failover may lose what was \
             acknowledged (set synchronous_standby_names)",
        ),
    ];
    let mut sentences = Vec::new();
    for (column, sentence) in found {
        if row.try_get::<bool, _>(column).map_err(|error| classify(TASK, &error))? {
            sentences.push(format!("Postgres: {sentence}"));
        }
    }
    Ok(sentences)
}

pub(super) async fn beat(store: &Postgres, node: &str) -> Result<(), StoreError> {
    let query = sqlx::query(
        "INSERT INTO broker.node AS n (node, beat_at) VALUES ($1, now())
         ON CONFLICT (node) DO UPDATE SET beat_at = greatest(n.beat_at, excluded.beat_at)",
    );
    read!(store, "noting that the node is alive", query.bind(node), execute);
    Ok(())
}

pub(super) async fn share_health(
    store: &Postgres,
    node: &str,
    reaches_redis: bool,
) -> Result<bool, StoreError> {
    let query = sqlx::query_scalar::<_, bool>(
        "WITH said AS (
             INSERT INTO broker.node_health (node, reaches_redis, said_at) VALUES ($1, $2, now())
             ON CONFLICT (node) DO UPDATE SET reaches_redis = $2, said_at = now())
         SELECT EXISTS (SELECT FROM broker.node_health
             WHERE node <> $1 AND reaches_redis AND said_at > now() - $3::bigint * interval '1 second')",
    );
    let query = query.bind(node).bind(reaches_redis).bind(HEALTH_FRESH_S);
    Ok(read!(store, "saying whether Redis is reached", query, fetch_one))
}

/// The lock lives as long as this connection, which nothing else uses.
struct Session {
    conn: PgConnection,
    since: Instant,
    options: PgConnectOptions,
    shared: bool,
    /// When another connection is to carry the claim on.
    renew_after: Option<Duration>,
}

impl Session {
    /// Moves the claim to a new connection. There is no moment in which neither stands against another
    /// process: an exclusive claim is shared between the two connections while it moves.
    async fn renew(&mut self) -> Result<(), sqlx::Error> {
        let Ok(mut new) = session::open(&self.options).await else { return Ok(()) };
        if !self.shared {
            lock(&mut self.conn, Lock::Shared).await?;
            lock(&mut self.conn, Lock::Release).await?;
        }
        if !lock(&mut new, Lock::Shared).await? {
            return Ok(());
        }
        let mut old = std::mem::replace(&mut self.conn, new);
        self.since = Instant::now();
        // Said, since a server takes its time to end a session that has said goodbye.
        lock(&mut old, Lock::ReleaseShared).await?;
        old.close().await?;
        if !self.shared {
            // Nobody but nodes of a cluster can have come between, and then this one has to go.
            if !lock(&mut self.conn, Lock::Exclusive).await? {
                return Err(sqlx::Error::WorkerCrashed);
            }
            lock(&mut self.conn, Lock::ReleaseShared).await?;
        }
        Ok(())
    }
}

/// What is done with the claim's advisory lock. One session may hold it in both modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lock {
    Shared,
    Exclusive,
    Release,
    ReleaseShared,
}

/// Whether it was done.
async fn lock(conn: &mut PgConnection, what: Lock) -> Result<bool, sqlx::Error> {
    let query = match what {
        Lock::Shared => "SELECT pg_try_advisory_lock_shared($1)",
        Lock::Exclusive => "SELECT pg_try_advisory_lock($1)",
        Lock::Release => "SELECT pg_advisory_unlock($1)",
        Lock::ReleaseShared => "SELECT pg_advisory_unlock_shared($1)",
    };
    sqlx::query_scalar(query).bind(CLAIM_KEY).fetch_one(conn).await
}

#[async_trait::async_trait]
impl Claim for Session {
    async fn held(&mut self) -> bool {
        // The lock is the session's: while the session answers, the lock is held.
        let held = bounded("keeping the claim", READ_LIMIT, self.conn.ping()).await.is_ok();
        if held && self.renew_after.is_some_and(|age| self.since.elapsed() >= age) {
            return bounded("renewing the claim", READ_LIMIT, self.renew()).await.is_ok();
        }
        held
    }
}

pub(super) async fn claim(
    store: &Postgres,
    shared: bool,
) -> Result<Option<Box<dyn Claim>>, StoreError> {
    let (options, since) = (store.options.clone(), Instant::now());
    let mut conn = session::open(&options).await?;
    let how = if shared { Lock::Shared } else { Lock::Exclusive };
    let held = bounded("claiming the store", READ_LIMIT, lock(&mut conn, how)).await?;
    let renew_after = store.renew_after;
    let session = || Session { conn, since, options, shared, renew_after };
    Ok(held.then(|| Box::new(session()) as Box<dyn Claim>))
}

pub(super) async fn cluster(store: &Postgres) -> Result<String, StoreError> {
    let query = sqlx::query_scalar("SELECT id FROM broker.cluster");
    Ok(read!(store, "reading which cluster this is", query, fetch_one))
}

pub(super) async fn clock(store: &Postgres) -> Result<u64, StoreError> {
    const TASK: &str = "reading the clock";
    let query = sqlx::query_scalar::<_, i64>(
        "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
    );
    unstored(TASK, read!(store, "reading the clock", query, fetch_one))
}
