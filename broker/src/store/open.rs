//! Picks the backend that the configuration asks for.

use std::sync::Arc;

use super::{Store, StoreError};
use crate::config::Config;

/// The SQLite file's name in `DATA_DIR`.
const SQLITE_FILE: &str = "claudemesh.sqlite";

/// Opens the store: Postgres if there is a `DATABASE_URL`, else SQLite in `DATA_DIR`, which is made
/// if missing. Tables are not touched.
pub async fn open_store(config: &Config) -> Result<Arc<dyn Store>, StoreError> {
    Err(StoreError::Unavailable(format!("{} cannot be opened yet", describe(config))))
}

/// The store in a few words, without its password.
pub fn describe(config: &Config) -> String {
    match &config.database_url {
        Some(url) => format!("Postgres at {url}"),
        None => format!("SQLite at {}", config.data_dir.join(SQLITE_FILE).display()),
    }
}
