//! SQLite keeps the store's contract, and what one file must survive besides.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use broker::store::Store;
use broker::store::contract::{self, Backend};
use broker::store::sqlite::Sqlite;
use protocol::{MemberId, MeshId};
use sqlx::{Connection, SqliteConnection};

/// A directory of its own, gone with it.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("claudemesh-sqlite-{}-{count}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn file(&self) -> PathBuf {
        self.0.join("data").join("broker.db")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Dropped in this order: the store before its directory.
struct OneFile {
    store: Arc<Sqlite>,
    place: Place,
}

impl OneFile {
    async fn new() -> Self {
        let place = Place::new();
        let store = Arc::new(open(&place.file()).await);
        store.migrate().await.unwrap();
        Self { store, place }
    }

    /// What the trait has no word for.
    async fn execute(&self, sql: &'static str, id: &str) {
        let url = format!("sqlite://{}", self.place.file().display());
        let mut connection = SqliteConnection::connect(&url).await.unwrap();
        let done = sqlx::query(sql).bind(id).execute(&mut connection).await.unwrap();
        assert_eq!(done.rows_affected(), 1, "{id} exists");
    }
}

async fn open(path: &Path) -> Sqlite {
    Sqlite::open(path).await.unwrap()
}

#[async_trait]
impl Backend for OneFile {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    async fn another(&self) -> Arc<dyn Store> {
        Arc::new(open(&self.place.file()).await)
    }

    async fn revoke(&self, member: &MemberId) {
        self.execute("UPDATE member SET revoked_at = 1 WHERE id = ?", member.as_str()).await;
    }

    async fn archive(&self, mesh: &MeshId) {
        self.execute("UPDATE mesh SET archived_at = 1 WHERE id = ?", mesh.as_str()).await;
    }
}

macro_rules! on_sqlite {
    ($($promise:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $promise() {
                contract::$promise(&OneFile::new().await).await;
            }
        )*
    };
}

broker::each_store_promise!(on_sqlite);
