//! The store's contract, on a real Postgres.

use std::sync::Arc;

use async_trait::async_trait;
use broker::store::Store;
use broker::store::contract::{self, Backend};
use broker::store::postgres::Postgres;
use protocol::{MemberId, MeshId};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::support::postgres::Server;

/// A database of its own on the shared server.
struct Fresh {
    server: Arc<Server>,
    database: String,
    store: Arc<Postgres>,
}

impl Fresh {
    async fn start() -> Self {
        let server = Server::shared();
        let database = server.database().await;
        let store = Arc::new(Postgres::connect(&server.url(&database), 2).await.unwrap());
        store.migrate().await.unwrap();
        Self { server, database, store }
    }

    async fn set_now(&self, statement: &'static str, id: &str) {
        let mut conn = PgConnection::connect(&self.server.url(&self.database)).await.unwrap();
        let done = sqlx::query(statement).bind(id).execute(&mut conn).await.unwrap();
        assert_eq!(done.rows_affected(), 1);
    }
}

#[async_trait]
impl Backend for Fresh {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn another(&self) -> Arc<dyn Store> {
        let url = self.server.url(&self.database);
        Arc::new(Postgres::connect(&url, 2).await.unwrap())
    }

    async fn revoke(&self, member: &MemberId) {
        let statement = "UPDATE mesh.member SET revoked_at = now() WHERE id = $1";
        self.set_now(statement, member.as_str()).await;
    }

    async fn archive(&self, mesh: &MeshId) {
        let statement = "UPDATE mesh.mesh SET archived_at = now() WHERE id = $1";
        self.set_now(statement, mesh.as_str()).await;
    }

    async fn run(&self, statement: &str) {
        let mut conn = PgConnection::connect(&self.server.url(&self.database)).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(filled(statement))).execute(&mut conn).await.unwrap();
    }

    async fn texts(&self, query: &str) -> Vec<String> {
        let mut conn = PgConnection::connect(&self.server.url(&self.database)).await.unwrap();
        sqlx::query_scalar(AssertSqlSafe(filled(query))).fetch_all(&mut conn).await.unwrap()
    }
}

fn filled(statement: &str) -> String {
    statement
        .replace("{mesh}", "mesh.")
        .replace("{broker}", "broker.")
        .replace("{now}", "now()")
        .replace("{yesterday}", "now() - interval '25 hours'")
        .replace("{seven_days_ago}", "now() - interval '7 days'")
        .replace("{nine_days_ago}", "now() - interval '9 days'")
        .replace("{ms}", "(extract(epoch FROM now()) * 1000)::bigint::text")
}

macro_rules! kept {
    ($($promise:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $promise() {
                contract::$promise(&Fresh::start().await).await;
            }
        )*
    };
}

broker::each_store_promise!(kept);
