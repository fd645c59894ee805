//! The file: making, opening, locking, migrating, and asking whether it is well.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::error::{StoreResult, unavailable};
use super::{BUSY, READERS, now};
use crate::store::{Claim, migrations};

/// Pages of log that are copied back at once: 16 MiB. SQLite's own 4 MiB makes the writer stop
/// four times as often to copy the same hot pages.
const CHECKPOINT_PAGES: &str = "4096";

/// What a log that once grew shrinks back to.
const LOG_BYTES: &str = "67108864";

/// KiB of pages that the writer keeps; its working set is the ends of a few trees.
const WRITER_CACHE: &str = "-32768";

/// Statements that are kept prepared: each in four sizes, with room.
const STATEMENTS: usize = 200;

/// How long to wait for another process that opens or migrates the file.
const ALONE: Duration = Duration::from_mins(1);

/// The file holds secret keys: only its owner may read it, or anything beside it.
pub(super) fn create(path: &Path) -> StoreResult<()> {
    if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed("create"))?;
    }
    open_private(path).map_err(failed("create")).map(drop)
}

fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> crate::store::StoreError {
    move |error| unavailable(format!("cannot {what} the file: {error}"))
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .busy_timeout(BUSY)
        .statement_cache_capacity(STATEMENTS)
        .pragma("temp_store", "MEMORY")
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(BUSY)
        // A local file needs no ping; a connection keeps its prepared statements for good.
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
}

/// The one connection that writes.
pub(super) async fn writer(path: &Path) -> StoreResult<SqlitePool> {
    let _lock = alone(path).await?;
    let options = options(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
        .pragma("journal_size_limit", LOG_BYTES)
        .pragma("cache_size", WRITER_CACHE)
        // What fsync does not do on macOS; nothing elsewhere.
        .pragma("fullfsync", "ON");
    Ok(pool(1).min_connections(1).connect_with(options).await?)
}

/// Those that read, opened as they are needed.
pub(super) fn readers(path: &Path) -> SqlitePool {
    // A row may hold a whole frame: few are read ahead.
    let options = options(path).pragma("query_only", "ON").row_buffer_size(8);
    pool(READERS).connect_lazy_with(options)
}

/// A lock that ends with its file handle, so with its process too.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

#[async_trait::async_trait]
impl Claim for Lock {
    async fn held(&mut self) -> bool {
        true // a file's lock ends with the process
    }
}

/// Takes the lock `<file>.<name>`, unless someone else has it.
pub(super) fn lock(path: &Path, name: &str) -> StoreResult<Option<Lock>> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".");
    beside.push(name);
    let file = open_private(&PathBuf::from(beside)).map_err(failed("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock { _file: file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(failed("lock")(error)),
    }
}

/// Waits until no other process opens or migrates the file: SQLite does not wait by itself when two
/// turn a new file's log on, and sqlx takes no lock for migrations.
async fn alone(path: &Path) -> StoreResult<Lock> {
    let locked = async {
        loop {
            match lock(path, "migrating")? {
                Some(lock) => return Ok(lock),
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let late = |_| unavailable(format!("another process opens it since {} s", ALONE.as_secs()));
    tokio::time::timeout(ALONE, locked).await.map_err(late)?
}

pub(super) async fn migrate(path: &Path, writer: &SqlitePool) -> StoreResult<()> {
    let _lock = alone(path).await?;
    let migrated = tokio::time::timeout(ALONE, migrations::sqlite().run(writer)).await;
    let late = |_| unavailable(format!("not migrated within {} s", ALONE.as_secs()));
    migrated.map_err(late)?.map_err(|error| unavailable(format!("cannot migrate: {error}")))
}

/// Only a write tells whether writes work: a full disk still reads.
pub(super) async fn canary(writer: &SqlitePool) -> StoreResult<()> {
    sqlx::query(concat!(
        "INSERT INTO canary (id, written_at) VALUES (1, ",
        now!(),
        ") ",
        "ON CONFLICT DO UPDATE SET written_at = excluded.written_at",
    ))
    .execute(writer)
    .await?;
    Ok(())
}

/// Holds for this connection, which is the one that writes.
pub(super) async fn limit_pages(writer: &SqlitePool, pages: i64) -> StoreResult<()> {
    let pragma = format!("PRAGMA max_page_count = {pages}");
    sqlx::query(sqlx::AssertSqlSafe(pragma)).execute(writer).await?;
    Ok(())
}

/// What this connection really runs with: a file that cannot have a log keeps its old mode.
pub(super) async fn unsafe_settings(writer: &SqlitePool) -> StoreResult<Vec<String>> {
    let mut found = Vec::new();
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(writer).await?;
    if mode != "wal" {
        found.push(format!("SQLite runs with journal_mode={mode}, not wal"));
    }
    let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(writer).await?;
    if synchronous < 2 {
        found.push(format!("SQLite runs with synchronous={synchronous}: a power cut loses acks"));
    }
    Ok(found)
}
