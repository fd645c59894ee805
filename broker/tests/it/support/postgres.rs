//! Private Postgres servers: initialized in a folder of their own, on a port the system picks,
//! reachable from this machine only, with fsync on.
//!
//! Guarantees: a server ends with the test process, however that ends (a shell between the two
//! notices the closed pipe), and its folder with it; no other server is ever touched.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::until;

/// Starts the server, tells its pid, and ends it when standard input does. Unless a line came
/// before, the test has died: nobody will need the folder.
const KEEPER: &str = r#"
"$1" -D "$2" -p "$3" -k "$2" >>"$2/log" 2>&1 </dev/null &
pid=$!
echo "$pid"
read -r line || gone=1
kill -QUIT "$pid" 2>/dev/null
wait "$pid"
if [ "$gone" ]; then rm -rf "$2"; fi
"#;

/// Settings of a server that many tests share.
const CONFIG: &str = "
listen_addresses = '127.0.0.1'
max_connections = 200
shared_buffers = '64MB'
fsync = on
logging_collector = off
log_min_messages = warning
";

static SERVERS: AtomicU32 = AtomicU32::new(0);
static DATABASES: AtomicU32 = AtomicU32::new(0);
static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());

/// A server of our own.
pub(crate) struct Server {
    folder: PathBuf,
    port: u16,
    running: Mutex<Option<Running>>,
}

/// A started server: its pid, and the shell that ends it when the pipe closes.
struct Running {
    pid: u32,
    keeper: Child,
    pipe: Option<ChildStdin>,
}

impl Running {
    /// Ends the shell and leaves the folder.
    fn dismiss(mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            let _ = pipe.write_all(b"\n");
        }
        self.keeper.wait().unwrap();
    }
}

impl Server {
    /// The server that tests share, each with a database of its own. Ends with the last user.
    pub(crate) fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap();
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(Self::own());
        *shared = Arc::downgrade(&server);
        server
    }

    /// A server for one test, to be stopped and killed.
    pub(crate) fn own() -> Self {
        let number = SERVERS.fetch_add(1, Ordering::Relaxed);
        let name = format!("broker-pg-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        give_to_servant(&folder);
        run(as_servant(program("initdb")).args([
            "--pgdata",
            folder.to_str().unwrap(),
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]));
        let config = folder.join("postgresql.conf");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text + CONFIG).unwrap();
        let mut server = Self { folder, port: 0, running: Mutex::new(None) };
        // Another program may take the port between our asking for it and the server's: ask again.
        for _ in 0..5 {
            server.port = free_port();
            server.start();
            if server.answers() {
                return server;
            }
            server.kill();
        }
        panic!("Postgres does not start: {}", server.log());
    }

    /// Starts it on its port. Returns before it answers.
    pub(crate) fn start(&self) {
        let mut command = as_servant(PathBuf::from("/bin/sh"));
        command.arg("-c").arg(KEEPER).arg("keeper");
        command.arg(program("postgres")).arg(&self.folder).arg(self.port.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut keeper = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = line.trim().parse().unwrap();
        let pipe = keeper.stdin.take();
        *self.running.lock().unwrap() = Some(Running { pid, keeper, pipe });
    }

    /// Ends it at once, every process of it, as a power cut would.
    pub(crate) fn kill(&self) {
        let Some(running) = self.running.lock().unwrap().take() else { return };
        // The children first found, the parent first killed: it would start a recovery.
        let children = children(running.pid);
        for pid in std::iter::once(running.pid).chain(children) {
            let _ = signal("-KILL", pid);
        }
        running.dismiss();
        let _ = fs::remove_file(self.folder.join("postmaster.pid"));
    }

    /// Stops it in order: connections are closed, all is written.
    pub(crate) fn stop(&self) {
        let Some(running) = self.running.lock().unwrap().take() else { return };
        signal("-INT", running.pid).unwrap();
        // Waits for the server by its own wait; the pipe closes afterwards.
        while Path::new(&format!("/proc/{}", running.pid)).exists() && !zombie(running.pid) {
            std::thread::sleep(Duration::from_millis(5));
        }
        running.dismiss();
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Waits until it takes connections.
    pub(crate) async fn ready(&self) {
        until("Postgres answers", async || {
            PgConnection::connect(&self.url("postgres")).await.is_ok()
        })
        .await;
    }

    /// A new database.
    pub(crate) async fn database(&self) -> String {
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let mut conn = PgConnection::connect(&self.url("postgres")).await.unwrap();
        let statement = format!("CREATE DATABASE {name} TEMPLATE template0");
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut conn).await.unwrap();
        name
    }

    /// The address of a database.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    fn answers(&self) -> bool {
        let deadline = std::time::SystemTime::now() + super::SOON;
        let mut check = Command::new(program("pg_isready"));
        check.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        while std::time::SystemTime::now() < deadline {
            if check.status().is_ok_and(|status| status.success()) {
                return true;
            }
            let pid = self.running.lock().unwrap().as_ref().map_or(0, |running| running.pid);
            if zombie(pid) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Whether a process has ended, waited for or not.
fn zombie(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
        || !Path::new(&format!("/proc/{pid}")).exists()
}

/// Processes started by `parent`.
fn children(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit(") ").next().unwrap_or_default().to_owned();
        after_name.split(' ').nth(1) == Some(parent.to_string().as_str())
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(is_child).collect()
}

fn signal(signal: &str, pid: u32) -> std::io::Result<std::process::Output> {
    Command::new("kill").args([signal, &pid.to_string()]).output()
}

/// A port nobody listens on at the moment.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Where a program of Postgres lies: Debian's newest, else pg_config's, else the path's.
fn program(name: &str) -> PathBuf {
    let told = Command::new("pg_config").arg("--bindir").output();
    let told = told
        .ok()
        .filter(|o| o.status.success())
        .map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()).join(name));
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin").join(name))
        .collect();
    found.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path: Vec<_> = std::env::split_paths(&path).map(|folder| folder.join(name)).collect();
    let places = found.into_iter().rev().chain(told).chain(path);
    places.into_iter().find(|path| path.exists()).expect("Postgres is installed")
}

/// Whom to run as, if we are root, which Postgres refuses to be.
fn servant() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    ["postgres", "nobody"].iter().find_map(|name| {
        let user = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = user.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}

/// Lets that user write there.
pub(crate) fn give_to_servant(folder: &Path) {
    if let Some((uid, gid)) = servant() {
        chown(folder, Some(uid), Some(gid)).unwrap();
    }
}

pub(crate) fn as_servant(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/");
    if let Some((uid, gid)) = servant() {
        command.uid(uid).gid(gid);
    }
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
