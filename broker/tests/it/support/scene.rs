//! A mesh on a Postgres store, and short words for what tests do to it.

use std::sync::Arc;

use broker::model::{
    Accept, AcceptKey, Activation, Confirm, Envelope, Epoch, Lane, MeshCommit, NewMesh, Outcome,
    PageLimit, QueueId, Recipient, Sender, Seq, Unit, Write,
};
use broker::store::postgres::Postgres;
use broker::store::{Store, StoreError};
use protocol::client::Priority;
use protocol::{MeshId, MessageId};
use sqlx::{Connection, PgConnection};

use super::postgres::Server;

/// Long past: retention takes it.
pub(crate) const CREATED_AT: i64 = 1_700_000_000_000;

/// A database with a store on it.
pub(crate) struct Scene {
    pub(crate) server: Arc<Server>,
    pub(crate) database: String,
    pub(crate) store: Arc<Postgres>,
}

impl Scene {
    /// Migrated, empty, on the shared server.
    pub(crate) async fn start() -> Self {
        Self::on(Server::shared()).await
    }

    pub(crate) async fn on(server: Arc<Server>) -> Self {
        let database = server.database().await;
        let store = Arc::new(Postgres::connect(&server.url(&database), 2).await.unwrap());
        store.migrate().await.unwrap();
        Self { server, database, store }
    }

    /// A connection that is not the store's.
    pub(crate) async fn connection(&self) -> PgConnection {
        PgConnection::connect(&self.server.url(&self.database)).await.unwrap()
    }

    /// A new mesh, owned by `node-1` at the epoch returned.
    pub(crate) async fn mesh(&self, name: &str) -> (MeshId, Epoch) {
        let mesh = NewMesh {
            id: name.into(),
            slug: name.to_owned(),
            name: name.to_owned(),
            owner_user: "user".to_owned(),
            owner_pubkey: String::new(),
            owner_secret_key: String::new(),
            root_key: String::new(),
            members: Vec::new(),
            created_at: CREATED_AT,
        };
        assert!(self.store.create_mesh(&mesh).await.unwrap());
        let epoch = self.activate(&mesh.id).await.epoch;
        (mesh.id, epoch)
    }

    pub(crate) async fn activate(&self, mesh: &MeshId) -> Activation {
        self.store.activate(mesh, "node-1", 0).await.unwrap().unwrap()
    }

    /// How many rows a query counts.
    pub(crate) async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&mut self.connection().await).await.unwrap()
    }

    /// Whether a statement on this database waits for a lock.
    pub(crate) async fn someone_waits(&self) -> bool {
        self.count(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .await
            > 0
    }
}

/// Commits for one mesh on lane 0.
pub(crate) async fn commit(
    store: &dyn Store,
    mesh: &MeshId,
    epoch: Epoch,
    writes: Vec<Write>,
) -> Result<Outcome, StoreError> {
    let units = writes.into_iter().map(|write| Unit(vec![write])).collect();
    let batch = [MeshCommit { mesh: mesh.clone(), epoch, units }];
    store.commit(0, &batch).await.map(|mut outcomes| outcomes.remove(0))
}

pub(crate) fn committed() -> Outcome {
    Outcome::Committed { purged: 0 }
}

pub(crate) fn ben() -> Recipient {
    Recipient::Session("ben".into())
}

pub(crate) fn envelope(seq: Seq, body: usize) -> Envelope {
    Envelope {
        id: MessageId::at(seq, 7),
        seq,
        sender: Arc::new(Sender {
            member: "ana".into(),
            member_pubkey: "aa".repeat(32).into(),
            session_pubkey: Some("ab".repeat(32).into()),
            name: "Ana".into(),
        }),
        target: "bb".repeat(32),
        priority: Priority::Next,
        nonce: "bm9uY2U=".to_owned(),
        ciphertext: "x".repeat(body),
        key: AcceptKey::Client(format!("key-{seq}")),
        fingerprint: None,
        reply_to: None,
        subtype: None,
        topic: None,
        created_at: CREATED_AT,
    }
}

pub(crate) fn accept(seq: Seq, recipients: &[Recipient]) -> Write {
    Write::Accept(Accept {
        envelope: Arc::new(envelope(seq, 900)),
        recipients: recipients.to_vec(),
    })
}

pub(crate) fn confirm(seq: Seq, recipient: &Recipient) -> Write {
    Write::Confirm(Confirm {
        queue: QueueId { recipient: recipient.clone(), lane: Lane::Normal },
        seq,
        message: MessageId::at(seq, 7),
    })
}

/// The places of what waits for a recipient.
pub(crate) async fn waiting(store: &dyn Store, mesh: &MeshId, recipient: &Recipient) -> Vec<Seq> {
    let queue = QueueId { recipient: recipient.clone(), lane: Lane::Normal };
    let limit = PageLimit { rows: 10_000, bytes: 1 << 30 };
    let page = store.page(mesh, &queue, 0, limit).await.unwrap();
    page.envelopes.iter().map(|envelope| envelope.seq).collect()
}
