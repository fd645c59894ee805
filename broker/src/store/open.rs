//! Picks the backend that the configuration asks for.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::postgres::Postgres;
use super::sqlite::Sqlite;
use super::{Store, StoreError};
use crate::config::Config;

/// The SQLite file's name in `DATA_DIR`.
const SQLITE_FILE: &str = "claudemesh.sqlite";

/// Postgres connections that commit side by side. Two already reach what the machine can do
/// (55–100k rows/s measured with 1–2, fewer with 4), as each takes all that queued meanwhile.
pub const POSTGRES_LANES: usize = 2;

/// Between two tries to reach a store that is not there yet.
const RETRY: Duration = Duration::from_millis(500);

/// Opens the store as soon as it is there, within `STORE_WAIT_SECONDS`: a database that starts
/// together with its node takes a while.
///
/// # Errors
///
/// [`StoreError::Unavailable`] of the last try; [`StoreError::Unusable`] at once.
pub async fn wait_for_store(config: &Config) -> Result<Arc<dyn Store>, StoreError> {
    let deadline = Instant::now() + config.store_wait;
    let mut told = false;
    loop {
        match open_store(config).await {
            Err(error @ StoreError::Unavailable(_)) if Instant::now() < deadline => {
                if !std::mem::replace(&mut told, true) {
                    let patience_s = config.store_wait.as_secs();
                    tracing::warn!(%error, patience_s, "waiting for the store");
                }
                sleep(RETRY).await;
            }
            opened => return opened,
        }
    }
}

/// Opens the store: Postgres if there is a `DATABASE_URL`, else SQLite in `DATA_DIR`, which is made
/// if missing. Tables are not touched.
pub async fn open_store(config: &Config) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match &config.database_url {
        Some(url) => {
            let max_age = config.db_connection_max_age;
            Arc::new(Postgres::renewing(url.expose(), POSTGRES_LANES, max_age).await?)
        }
        None => Arc::new(Sqlite::open(&sqlite_path(config)).await?),
    })
}

/// The store in a few words, without its password.
pub fn describe(config: &Config) -> String {
    match &config.database_url {
        Some(url) => format!("Postgres at {url}"),
        None => format!("SQLite at {}", sqlite_path(config).display()),
    }
}

/// Where the SQLite file lies.
pub fn sqlite_path(config: &Config) -> PathBuf {
    config.data_dir.join(SQLITE_FILE)
}
