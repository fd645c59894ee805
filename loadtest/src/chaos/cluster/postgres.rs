//! A Postgres of the run's own: a folder, a port, and a process that ends with us.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use sqlx::{Connection, PgConnection};
use tokio::time::{Duration, Instant, sleep};

use super::child::{Child, Program};
use super::ports;
use crate::Error;

const CONFIG: &str = "
listen_addresses = '127.0.0.1'
max_connections = 200
shared_buffers = '64MB'
fsync = on
logging_collector = off
log_min_messages = warning
";

/// Recovery after a crash included.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Postgres {
    folder: PathBuf,
    pub(super) port: u16,
    child: Option<Child>,
}

impl Postgres {
    /// A fresh one that answers.
    pub(super) async fn start() -> Result<Self, Error> {
        let folder = std::env::temp_dir().join(format!("chaos-postgres-{}", std::process::id()));
        fs::create_dir(&folder)?;
        let mut server = Self { folder, port: ports::free()?, child: None };
        fs::set_permissions(&server.folder, fs::Permissions::from_mode(0o700))?;
        let mut init = Command::new(program("initdb")?);
        init.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]);
        init.arg("--no-sync").arg("--pgdata").arg(&server.folder).current_dir("/");
        if let Some((uid, gid)) = servant() {
            chown(&server.folder, Some(uid), Some(gid))?;
            init.uid(uid).gid(gid);
        }
        let output = init.output()?;
        if !output.status.success() {
            return Err(Error::Cluster(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        let config = server.folder.join("postgresql.conf");
        let text = fs::read_to_string(&config)?;
        fs::write(&config, text + CONFIG)?;
        server.resume().await?;
        Ok(server)
    }

    /// Where the database is, through a port of one's own.
    pub(super) fn url(port: u16) -> String {
        format!("postgres://postgres@127.0.0.1:{port}/postgres")
    }

    /// Closes every connection and stops, in order; or at once, as a crash would.
    pub(super) async fn stop(&mut self, crash: bool) {
        let Some(mut child) = self.child.take() else { return };
        child.signal(if crash { "QUIT" } else { "INT" });
        child.end(PATIENCE).await;
    }

    pub(super) async fn resume(&mut self) -> Result<(), Error> {
        if self.child.is_some() {
            return Ok(());
        }
        let mut postgres = Program::new(&program("postgres")?);
        let port = self.port.to_string();
        postgres.command.arg("-D").arg(&self.folder).args(["-p", &port]).arg("-k");
        postgres.command.arg(&self.folder).current_dir("/");
        postgres.end = "QUIT";
        postgres.folder = Some(self.folder.display().to_string());
        self.child = Some(postgres.start(&self.folder.join("log"))?);
        let deadline = Instant::now() + PATIENCE;
        while PgConnection::connect(&Self::url(self.port)).await.is_err() {
            if Instant::now() >= deadline {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                return Err(Error::Cluster(format!("Postgres does not start: {log}")));
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.signal("QUIT");
            // Its own processes end a moment after it was told to.
            for _ in 0..100 {
                if child.ended().is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Where a program of Postgres lies: Debian's newest, else the path's.
fn program(name: &str) -> Result<PathBuf, Error> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> = versions.map(|version| version.path().join("bin").join(name)).collect();
    found.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path: Vec<_> = std::env::split_paths(&path).map(|folder| folder.join(name)).collect();
    let missing =
        || Error::Cluster(format!("{name} is not installed (Debian: apt-get install postgresql)"));
    found.into_iter().rev().chain(path).find(|path| path.exists()).ok_or_else(missing)
}

/// Whom to run as, if we are root, which Postgres refuses to be.
pub(super) fn servant() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").ok()?.uid() != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").ok()?;
    ["postgres", "nobody"].iter().find_map(|name| {
        let user = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = user.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}
