//! A broker as it runs in production: a process of its own, on a port the system picks, with only
//! the environment a test names.
//!
//! Guarantees: the process ends with its [`Node`]; what it logged is shown when the test fails; a
//! panic inside it fails the test even if nobody noticed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use protocol::signature::Keypair;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::postgres::Server;
use super::{SOON, until};

/// What a broker keeps its state in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
}

/// Makes each promise a test on each store.
macro_rules! on_each_store {
    ($($promise:ident),* $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test]
                async fn $promise() {
                    super::$promise(crate::support::node::Kind::Sqlite).await;
                }
            )*
        }
        mod postgres {
            $(
                #[tokio::test]
                async fn $promise() {
                    super::$promise(crate::support::node::Kind::Postgres).await;
                }
            )*
        }
    };
}
pub(crate) use on_each_store;

/// A store that outlives the processes on it.
pub(crate) struct Ground {
    folder: PathBuf,
    url: Option<String>,
    /// Whether meshes on it may have changed their owner since they were made: a process was
    /// stopped, killed, frozen or started beside. From then on P2 allows a push to come twice.
    unsettled: Arc<AtomicBool>,
    _server: Option<Arc<Server>>,
}

impl Ground {
    fn at(url: Option<String>, server: Option<Arc<Server>>) -> Arc<Self> {
        let unsettled = Arc::default();
        Arc::new(Self { folder: folder(), url, unsettled, _server: server })
    }

    pub(crate) async fn new(kind: Kind) -> Arc<Self> {
        match kind {
            Kind::Sqlite => Self::at(None, None),
            Kind::Postgres => Self::on(Server::shared()).await,
        }
    }

    /// A new database of this server.
    pub(crate) async fn on(server: Arc<Server>) -> Arc<Self> {
        let database = server.database().await;
        let url = Some(server.url(&database));
        Self::at(url, Some(server))
    }

    /// A database of this server that is there already.
    pub(crate) fn of(server: Arc<Server>, database: &str) -> Arc<Self> {
        let url = Some(server.url(database));
        Self::at(url, Some(server))
    }

    /// A new database of this server, reached through another port.
    pub(crate) async fn through(server: Arc<Server>, port: u16) -> Arc<Self> {
        let database = server.database().await;
        let url = Some(format!("postgres://postgres@127.0.0.1:{port}/{database}"));
        Self::at(url, Some(server))
    }

    /// The database, if it is a Postgres.
    pub(crate) fn url(&self) -> Option<&str> {
        self.url.as_deref()
    }

    /// The SQLite file, unless the store is a Postgres.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.join("data/claudemesh.sqlite")
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn folder() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("broker-node-{}-{number}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    path
}

/// A mesh, with the secrets of everybody in it.
pub(crate) struct Mesh {
    pub(crate) id: String,
    pub(crate) invite_url: String,
    pub(crate) members: Vec<Member>,
}

/// One of its members.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) pubkey: String,
    pub(crate) key: Keypair,
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let line = self
            .head
            .lines()
            .find(|line| line.split_once(':').is_some_and(|(n, _)| n.eq_ignore_ascii_case(name)))?;
        Some(line.split_once(':')?.1.trim())
    }
}

/// A broker process and the store below it.
pub(crate) struct Node {
    ground: Arc<Ground>,
    settings: Vec<(String, String)>,
    /// What starts it, if that is not this test.
    starter: &'static [&'static str],
    port: u16,
    process: Option<Process>,
    /// Its panics are the test's.
    pub(crate) may_fail: bool,
}

struct Process {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    listening: watch::Receiver<Option<SocketAddr>>,
}

impl Node {
    /// A serving broker on a fresh store.
    pub(crate) async fn start(kind: Kind, settings: &[(&str, &str)]) -> Self {
        Self::start_on(Ground::new(kind).await, settings).await
    }

    pub(crate) async fn start_on(ground: Arc<Ground>, settings: &[(&str, &str)]) -> Self {
        let mut node = Self::launch(ground, settings);
        node.serving().await;
        node
    }

    /// Settings for commands, and no process.
    pub(crate) fn idle(settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let ground = Ground::at(None, None);
        let (settings, may_fail) = (settings.collect(), false);
        Self { ground, settings, starter: &[], port: 0, process: None, may_fail }
    }

    /// Starts the process and waits for nothing.
    pub(crate) fn launch(ground: Arc<Ground>, settings: &[(&str, &str)]) -> Self {
        Self::launch_by(&[], ground, settings)
    }

    /// The same by another command, that becomes the broker.
    pub(crate) fn launch_by(
        starter: &'static [&'static str],
        ground: Arc<Ground>,
        settings: &[(&str, &str)],
    ) -> Self {
        let own = [
            ("BIND_ADDR", "127.0.0.1"),
            ("DRAIN_SECONDS", "1"),
            ("NODE_ENV", "test"),
            ("SEND_RATE_PER_MINUTE", "0"),
            ("HELLO_RATE_PER_MINUTE", "0"),
        ];
        let settings = own.iter().chain(settings);
        let settings = settings.map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let mut node = Self { ground, settings, starter, port: 0, process: None, may_fail: false };
        if node.settings.iter().any(|(name, value)| name == "REDIS_URL" && !value.is_empty()) {
            // A node that was slow for a moment may lose a mesh at any time.
            node.unsettle();
        }
        node.spawn();
        node
    }

    /// Meshes may change their owner from now on, or no longer have the one they had.
    pub(crate) fn unsettle(&self) {
        self.ground.unsettled.store(true, Ordering::SeqCst);
    }

    /// Whether [`Node::unsettle`] was called on this store.
    pub(crate) fn unsettled(&self) -> Arc<AtomicBool> {
        self.ground.unsettled.clone()
    }

    /// Another process on the same store, on a port of its own.
    pub(crate) fn rival(&self, settings: &[(&str, &str)]) -> Self {
        self.unsettle();
        Self::launch(self.ground.clone(), settings)
    }

    pub(crate) fn ground(&self) -> &Ground {
        &self.ground
    }

    fn command(&self) -> Command {
        self.command_by(&[])
    }

    fn command_by(&self, starter: &[&str]) -> Command {
        let words: Vec<_> =
            starter.iter().copied().chain([env!("CARGO_BIN_EXE_claudemesh-broker")]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command.env_clear().current_dir(&self.ground.folder);
        command.env("DATA_DIR", "data").env("BROKER_PORT", self.port.to_string());
        if let Some(url) = &self.ground.url {
            command.env("DATABASE_URL", url);
        }
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }

    fn spawn(&mut self) {
        let mut command = self.command_by(self.starter);
        command.arg("serve").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (listens, listening) = watch::channel(None);
        let stderr = child.stderr.take().unwrap();
        let lines = log.clone();
        std::thread::spawn(move || listen(stderr, &lines, &listens));
        self.process = Some(Process { child, log, listening });
    }

    /// Waits until it listens.
    pub(crate) async fn serving(&mut self) {
        let process = self.process.as_mut().expect("the process runs");
        let said = timeout(SOON, process.listening.wait_for(Option::is_some)).await;
        let address = said.ok().and_then(Result::ok).and_then(|address| *address);
        let address = address.unwrap_or_else(|| panic!("the broker does not listen"));
        self.port = address.port();
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Ends the process as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.unsettle();
        if let Some(process) = &mut self.process {
            let _ = process.child.kill();
            process.child.wait().unwrap();
        }
    }

    /// Starts it again: same store, same port.
    pub(crate) async fn restart(&mut self) {
        self.check();
        self.spawn();
        self.serving().await;
    }

    /// Sends a signal, `TERM` for one.
    pub(crate) fn signal(&self, name: &str) {
        self.unsettle();
        let pid = self.process.as_ref().unwrap().child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until the process has ended by itself; its exit code.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let process = self.process.as_mut().unwrap();
        let mut status = None;
        until("the broker ends", async || {
            status = process.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.and_then(|status| status.code())
    }

    /// Asks it to stop, as a platform does; its exit code.
    pub(crate) async fn terminate(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.ended().await
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        self.process.as_ref().map(|p| p.log.lock().unwrap().join("\n")).unwrap_or_default()
    }

    /// Resident memory in KiB.
    pub(crate) fn rss_kb(&self) -> u64 {
        let pid = self.process.as_ref().unwrap().child.id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// From now on it may open so many files more than it has.
    pub(crate) fn allow_more_files(&self, more: usize) {
        let pid = self.process.as_ref().unwrap().child.id();
        let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let open: Vec<usize> =
            open.filter_map(|file| file.ok()?.file_name().to_str()?.parse().ok()).collect();
        // The limit is of numbers, and the lowest that is free is taken.
        let free = (0..=open.len()).find(|number| !open.contains(number)).unwrap();
        let limit = format!("--nofile={}:", free + more);
        let set = Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status();
        assert!(set.unwrap().success());
    }

    /// Makes a mesh likewise; the file that tells of it.
    pub(crate) async fn mesh_file(&self, slug: &str, members: &[&str]) -> PathBuf {
        let path = self.ground.folder.join(format!("{slug}.json"));
        fs::write(&path, self.create_mesh(slug, members).await).unwrap();
        path
    }

    /// Makes a mesh with the command line, on the same store.
    pub(crate) async fn mesh(&self, slug: &str, members: &[&str]) -> Mesh {
        let made: Value = serde_json::from_slice(&self.create_mesh(slug, members).await).unwrap();
        let text = |value: &Value, field: &str| value[field].as_str().unwrap().to_owned();
        let member = |value: &Value| Member {
            id: text(value, "member_id"),
            name: text(value, "display_name"),
            pubkey: text(value, "pubkey"),
            key: Keypair::from_secret_hex(&text(value, "secret_key")).unwrap(),
        };
        let members = made["members"].as_array().unwrap().iter().map(member).collect();
        Mesh { id: text(&made, "mesh_id"), invite_url: text(&made, "invite_url"), members }
    }

    async fn create_mesh(&self, slug: &str, members: &[&str]) -> Vec<u8> {
        let mut command = self.command();
        command.args(["mesh", "create", slug, "--json"]);
        for name in members {
            command.args(["--member", name]);
        }
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// What the command line answers, with this node's settings.
    pub(crate) async fn run(&self, args: &[&str]) -> Vec<u8> {
        let mut command = self.command();
        command.args(args);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// The same where it fails: its exit code, and all that it says.
    pub(crate) async fn run_to_fail(&self, args: &[&str]) -> (i32, String) {
        let mut command = self.command();
        command.args(args);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(0), String::from_utf8_lossy(&said).into_owned())
    }

    /// Writes to the store, as another program would: in the words of Postgres' schema `mesh`.
    /// Answers how many rows it was.
    pub(crate) async fn sql(&self, statement: &str) -> u64 {
        if let Some(url) = self.ground.url() {
            let mut conn = PgConnection::connect(url).await.unwrap();
            let done = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut conn).await.unwrap();
            done.rows_affected()
        } else {
            let url = format!("sqlite://{}", self.ground.file().display());
            let mut conn = SqliteConnection::connect(&url).await.unwrap();
            let statement =
                statement.replace("mesh.", "").replace("broker.", "").replace("now()", "1");
            let done = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut conn).await.unwrap();
            done.rows_affected()
        }
    }

    /// How many rows a query counts, likewise.
    pub(crate) async fn count(&self, query: &str) -> i64 {
        if let Some(url) = self.ground.url() {
            let mut conn = PgConnection::connect(url).await.unwrap();
            sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut conn).await.unwrap()
        } else {
            let url = format!("sqlite://{}", self.ground.file().display());
            let mut conn = SqliteConnection::connect(&url).await.unwrap();
            let query = query.replace("mesh.", "").replace("broker.", "");
            sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut conn).await.unwrap()
        }
    }

    /// Removes a member, as another program on the same store would.
    pub(crate) async fn revoke(&self, mesh: &Mesh, name: &str) {
        let id = &mesh.member(name).id;
        let revoke = format!("UPDATE mesh.member SET revoked_at = now() WHERE id = '{id}'");
        assert_eq!(self.sql(&revoke).await, 1);
    }

    /// What a member lets others do from now on, written beside the broker.
    pub(crate) async fn grant(&self, mesh: &Mesh, name: &str, grants: &Value) {
        let id = &mesh.member(name).id;
        let grant = format!("UPDATE mesh.member SET peer_grants = '{grants}' WHERE id = '{id}'");
        assert_eq!(self.sql(&grant).await, 1);
    }

    /// One HTTP request.
    pub(crate) async fn http(&self, method: &str, path: &str) -> Answer {
        self.request(method, path, "", "").await
    }

    /// A JSON text, posted.
    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        self.request("POST", path, "Content-Type: application/json\r\n", body).await
    }

    /// One HTTP request with more headers, each with its line end, and a body.
    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Answer {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\
             Content-Length: {length}\r\n{headers}\r\n{body}"
        );
        let mut stream = TcpStream::connect(self.address()).await.unwrap();
        // A body that is too large need not be read to the end.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let read = timeout(SOON, stream.read_to_end(&mut answer)).await;
        let read = read.unwrap_or_else(|_| panic!("{method} {path} is not answered"));
        assert!(read.is_ok() || !answer.is_empty(), "{method} {path}: {read:?}");
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// A metric's value: `name` with its labels, as Prometheus writes it.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let text = self.http("GET", "/metrics").await.body;
        let line =
            text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(n, _)| n == name))?;
        line.rsplit_once(' ')?.1.parse().ok()
    }

    fn check(&self) {
        let log = self.log();
        assert!(self.may_fail || !log.contains("panicked at"), "the broker panicked:\n{log}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the broker's log ---\n{}", self.log());
        } else {
            self.check();
        }
    }
}

/// Keeps what the process says, and finds in it where it listens.
fn listen(
    stderr: ChildStderr,
    log: &Mutex<Vec<String>>,
    listens: &watch::Sender<Option<SocketAddr>>,
) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        if let Ok(entry) = serde_json::from_str::<Value>(&line)
            && entry["msg"] == "listening"
        {
            let address = entry["addr"].as_str().and_then(|text| text.parse().ok());
            listens.send_replace(address);
        }
        log.lock().unwrap().push(line);
    }
}
