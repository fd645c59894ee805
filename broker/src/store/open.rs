//! Picks the backend that the configuration asks for.

use std::path::PathBuf;
use std::sync::Arc;

use super::postgres::Postgres;
use super::sqlite::Sqlite;
use super::{Store, StoreError};
use crate::config::Config;

/// The SQLite file's name in `DATA_DIR`.
const SQLITE_FILE: &str = "claudemesh.sqlite";

/// Postgres connections that commit side by side. Two already reach what the machine can do
/// (55–100k rows/s measured with 1–2, fewer with 4), as each takes all that queued meanwhile.
const POSTGRES_LANES: usize = 2;

/// Opens the store: Postgres if there is a `DATABASE_URL`, else SQLite in `DATA_DIR`, which is made
/// if missing. Tables are not touched.
pub async fn open_store(config: &Config) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match &config.database_url {
        Some(url) => Arc::new(Postgres::connect(url.expose(), POSTGRES_LANES).await?),
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

fn sqlite_path(config: &Config) -> PathBuf {
    config.data_dir.join(SQLITE_FILE)
}
