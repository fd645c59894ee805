//! SQLite keeps the store's contract, and what one file must survive besides.

use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use broker::model::{
    Accept, AcceptKey, Confirm, Envelope, Epoch, Lane, MeshCommit, NewMesh, Outcome, PageLimit,
    QueueId, Recipient, Sender, Unit, Write,
};
use broker::store::committer::Committer;
use broker::store::contract::{self, Backend};
use broker::store::sqlite::Sqlite;
use broker::store::{Store, StoreError};
use protocol::client::Priority;
use protocol::{MemberId, MeshId, MessageId};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support::SOON;

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

    /// One that is not the store's.
    async fn connection(&self) -> SqliteConnection {
        let url = format!("sqlite://{}", self.place.file().display());
        SqliteConnection::connect(&url).await.unwrap()
    }

    /// What the trait has no word for.
    async fn execute(&self, sql: &'static str, id: &str) {
        let mut connection = self.connection().await;
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

    async fn run(&self, statement: &str) {
        let mut connection = self.connection().await;
        sqlx::raw_sql(AssertSqlSafe(filled(statement))).execute(&mut connection).await.unwrap();
    }

    async fn texts(&self, query: &str) -> Vec<String> {
        let query = sqlx::query_scalar(AssertSqlSafe(filled(query)));
        query.fetch_all(&mut self.connection().await).await.unwrap()
    }
}

fn filled(statement: &str) -> String {
    let ms = "CAST(round(unixepoch('subsec') * 1000) AS INTEGER)";
    statement
        .replace("{mesh}", "")
        .replace("{broker}", "")
        .replace("{now}", ms)
        .replace("{yesterday}", &format!("{ms} - 90000000"))
        .replace("{seven_days_ago}", &format!("{ms} - 604800000"))
        .replace("{nine_days_ago}", &format!("{ms} - 777600000"))
        .replace("{ms}", &format!("CAST({ms} AS TEXT)"))
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

/// As after `kill -9`: nothing is closed, nothing is flushed, the file is opened again.
#[tokio::test]
async fn what_was_committed_is_there_after_a_crash() {
    let place = Place::new();
    let abandoned = open(&place.file()).await;
    abandoned.migrate().await.unwrap();
    let epoch = take(&abandoned, "red").await;
    for seq in 1..=50 {
        write(&abandoned, commit_of("red", epoch, seq..=seq)).await.unwrap();
    }
    // What a process leaves behind: its memory goes without a word.
    std::mem::forget(abandoned);

    let store = open(&place.file()).await;
    store.migrate().await.unwrap();
    let found = store.activate(&"red".into(), "node-2", 0).await.unwrap().unwrap();
    assert_eq!(found.tail, 50);
    assert_eq!(store.queue_depth().await.unwrap(), 50);
    store.close().await;
}

/// A second handle creates meshes while the first commits: both wait, neither fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_may_write_at_once() {
    let file = OneFile::new().await;
    let other = file.another().await;
    let epoch = take(&*file.store, "red").await;
    let store = &file.store;
    let commits = async {
        for seq in 1..=200 {
            write(&**store, commit_of("red", epoch, seq..=seq)).await.unwrap();
        }
    };
    let creates = async {
        for index in 0..50 {
            assert!(other.create_mesh(&mesh(&format!("blue-{index}"))).await.unwrap());
        }
    };
    tokio::join!(commits, creates);
    assert_eq!(file.store.meshes().await.unwrap().len(), 51);
    assert_eq!(other.queue_depth().await.unwrap(), 200);
}

/// A node and a command started with nothing there yet, as after an installation: both wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn processes_may_make_the_file_at_once() {
    for _ in 0..20 {
        let place = Place::new();
        let start = Arc::new(Barrier::new(6));
        let mut opening = JoinSet::new();
        for index in 0..6 {
            let (path, start) = (place.file(), Arc::clone(&start));
            opening.spawn(async move {
                start.wait().await;
                let store = Sqlite::open(&path).await?;
                store.migrate().await?;
                store.create_mesh(&mesh(&format!("blue-{index}"))).await?;
                store.close().await;
                Ok::<_, StoreError>(())
            });
        }
        for opened in opening.join_all().await {
            opened.unwrap();
        }
        assert_eq!(open(&place.file()).await.meshes().await.unwrap().len(), 6);
    }
}

/// A writer that holds the file for longer than we wait: `Unavailable`, in bounded time, and
/// afterwards all is as before. Readers do not notice.
#[tokio::test]
async fn a_locked_file_is_unavailable_and_recovers() {
    let file = OneFile::new().await;
    let epoch = take(&*file.store, "red").await;
    let url = format!("sqlite://{}", file.place.file().display());
    let mut intruder = SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut intruder).await.unwrap();

    let refused = timeout(SOON, write(&*file.store, commit_of("red", epoch, 1..=1))).await;
    let refused = refused.expect("after the busy timeout");
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert_eq!(file.store.queue_depth().await.unwrap(), 0);

    sqlx::query("ROLLBACK").execute(&mut intruder).await.unwrap();
    write(&*file.store, commit_of("red", epoch, 1..=1)).await.unwrap();
    assert_eq!(file.store.queue_depth().await.unwrap(), 1);
}

#[tokio::test]
async fn a_full_disk_is_unavailable_and_recovers() {
    let file = OneFile::new().await;
    let epoch = take(&*file.store, "red").await;
    // No disk here can be filled at will; a file that may not grow answers the same (SQLITE_FULL).
    file.store.limit_pages(1).await.unwrap();
    let refused = write(&*file.store, commit_of("red", epoch, 1..=1000)).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    file.store.limit_pages(i64::from(i32::MAX)).await.unwrap();
    write(&*file.store, commit_of("red", epoch, 1..=1000)).await.unwrap();
    assert_eq!(file.store.queue_depth().await.unwrap(), 1000);
}

#[tokio::test]
async fn a_caller_that_gives_up_leaves_the_store_usable() {
    let file = OneFile::new().await;
    let epoch = take(&*file.store, "red").await;
    for seq in 1..=40 {
        let patience = Duration::from_micros(40 * seq);
        let commit = write(&*file.store, commit_of("red", epoch, seq..=seq));
        let _ = timeout(patience, commit).await;
    }
    write(&*file.store, commit_of("red", epoch, 100..=100)).await.unwrap();
    let found = file.store.activate(&"red".into(), "node-2", 0).await.unwrap().unwrap();
    assert_eq!(found.tail, 100);
}

#[tokio::test]
async fn nobody_else_can_read_the_file() {
    let file = OneFile::new().await;
    take(&*file.store, "red").await;
    let directory = file.place.file().parent().unwrap().to_owned();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&directory).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(mode(&entry.path()), 0o600, "{:?}", entry.path());
        names.push(entry.file_name().into_string().unwrap());
    }
    assert!(names.contains(&"broker.db-wal".to_owned()), "{names:?}");
}

#[tokio::test]
async fn a_fresh_file_has_safe_settings() {
    let settings = OneFile::new().await.store.unsafe_settings().await.unwrap();
    assert!(settings.is_empty(), "{settings:?}");
}

/// The committer and a row that SQLite really refuses: a place that is taken.
#[tokio::test]
async fn a_refused_unit_poisons_its_own_mesh_only() {
    let file = OneFile::new().await;
    let (red, blue) = (take(&*file.store, "red").await, take(&*file.store, "blue").await);
    write(&*file.store, commit_of("red", red, 3..=3)).await.unwrap();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let committer = Committer::start(file.store(), &tasks, stop.clone());

    let mut poisoned = commit_of("red", red, 1..=5);
    if let Write::Accept(accept) = &mut poisoned.units[2].0[0] {
        let mut taken = (*accept.envelope).clone();
        taken.key = AcceptKey::Client("another".to_owned());
        accept.envelope = Arc::new(taken);
    }
    // The first keeps the lane busy, so that the two behind it share a round.
    let first = committer.submit(commit_of("blue", blue, 1..=1));
    let (poisoned, other) =
        (committer.submit(poisoned), committer.submit(commit_of("blue", blue, 2..=9)));
    let none = Outcome::Committed { purged: 0 };
    assert_eq!(first.await.unwrap().unwrap(), none);
    let expected = Outcome::Stopped { committed: 2, at: None };
    assert_eq!(poisoned.await.unwrap().unwrap(), expected);
    assert_eq!(other.await.unwrap().unwrap(), none);
    stop.cancel();
    tasks.close();
    tasks.wait().await;

    let queue = QueueId { recipient: ben(), lane: Lane::Normal };
    let limit = PageLimit { rows: 100, bytes: 1 << 20 };
    let page = file.store.page(&"red".into(), &queue, 0, limit).await.unwrap();
    let seqs: Vec<_> = page.envelopes.iter().map(|envelope| envelope.seq).collect();
    assert_eq!(seqs, [1, 2, 3], "those before the refused one, and the one that was there");
    let page = file.store.page(&"blue".into(), &queue, 0, limit).await.unwrap();
    assert_eq!(page.envelopes.len(), 9);
}

/// Not a promise but a figure: `cargo test --release -- --ignored --nocapture speed`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn speed_of_accepting_and_confirming() {
    for size in [1, 64, 128, 256] {
        let file = OneFile::new().await;
        let epoch = take(&*file.store, "red").await;
        let total: u64 = if size == 1 { 5000 } else { 200_000 };
        let started = tokio::time::Instant::now();
        let mut seq = 1;
        while seq <= total {
            let mut batch = commit_of("red", epoch, seq..=seq + size - 1);
            if seq > size {
                batch.units.extend(confirms_of("red", seq - size..=seq - 1));
            }
            write(&*file.store, batch).await.unwrap();
            seq += size;
        }
        let took = started.elapsed();
        let rate = u128::from(total) * 1000 / took.as_millis();
        println!("batches of {size}: {rate} msg/s accepted and confirmed, {took:?} in all");
    }
}

/// Creates a mesh and owns it.
async fn take(store: &dyn Store, id: &str) -> Epoch {
    assert!(store.create_mesh(&mesh(id)).await.unwrap());
    store.activate(&id.into(), "node-1", 0).await.unwrap().expect("it was created").epoch
}

fn mesh(id: &str) -> NewMesh {
    NewMesh {
        id: id.into(),
        slug: id.to_owned(),
        name: id.to_owned(),
        owner_user: "user-1".to_owned(),
        owner_pubkey: String::new(),
        owner_secret_key: String::new(),
        root_key: String::new(),
        members: vec![],
        created_at: 0,
    }
}

fn ben() -> Recipient {
    Recipient::Session("b".repeat(64).into())
}

/// A unit for each place: 900 bytes from Ana to Ben.
fn commit_of(mesh: &str, epoch: Epoch, seqs: RangeInclusive<u64>) -> MeshCommit {
    let units = seqs.map(|seq| {
        let accept = Accept { envelope: envelope(mesh, seq), recipients: vec![ben()] };
        Unit(vec![Write::Accept(accept)])
    });
    MeshCommit { mesh: mesh.into(), epoch, units: units.collect() }
}

fn confirms_of(mesh: &str, seqs: RangeInclusive<u64>) -> impl Iterator<Item = Unit> {
    seqs.map(move |seq| {
        let envelope = envelope(mesh, seq);
        let queue = QueueId { recipient: ben(), lane: envelope.lane() };
        let confirm = Confirm { queue, seq, message: envelope.id.clone() };
        Unit(vec![Write::Confirm(confirm)])
    })
}

fn envelope(mesh: &str, seq: u64) -> Arc<Envelope> {
    let sender = Sender {
        member: format!("{mesh}-ana").into(),
        member_pubkey: "a".repeat(64).into(),
        session_pubkey: None,
        name: "ana".into(),
    };
    Arc::new(Envelope {
        id: MessageId::at(seq, u128::from(seq)),
        seq,
        sender: Arc::new(sender),
        target: "b".repeat(64),
        priority: Priority::Next,
        nonce: "n".repeat(32),
        ciphertext: "c".repeat(900),
        key: AcceptKey::Client(format!("01J{seq:023}")),
        fingerprint: None,
        reply_to: None,
        subtype: None,
        topic: None,
        created_at: 1_750_000_000_000,
    })
}

async fn write(store: &dyn Store, commit: MeshCommit) -> Result<Outcome, StoreError> {
    Ok(store.commit(0, &[commit]).await?.remove(0))
}
