//! PgBouncer in front of a Postgres, on a port the system picks; ends with the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::postgres::{Server, as_servant, free_port, give_to_servant};

/// Ends the pooler when standard input does, however the test ends.
const KEEPER: &str = r#"
"$1" "$2/pgbouncer.ini" >"$2/log" 2>&1 </dev/null &
pid=$!
read -r line
kill -TERM "$pid" 2>/dev/null
wait "$pid"
"#;

/// See the module.
pub(crate) struct Pooler {
    folder: PathBuf,
    keeper: Child,
    port: u16,
}

impl Pooler {
    /// One in `mode`, `session` or `transaction`. Returns before it answers.
    pub(crate) fn start(server: &Server, mode: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("broker-pooler-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).unwrap();
        let port = free_port();
        let settings = format!(
            "[databases]
             * = host=127.0.0.1 port={} user=postgres
             [pgbouncer]
             listen_addr = 127.0.0.1
             listen_port = {port}
             unix_socket_dir =
             auth_type = any
             pool_mode = {mode}
             ignore_startup_parameters = extra_float_digits
             ",
            server.port(),
        );
        // A line that begins with a space goes on the one before.
        let settings: Vec<&str> = settings.lines().map(str::trim).collect();
        fs::write(folder.join("pgbouncer.ini"), settings.join("\n")).unwrap();
        give_to_servant(&folder);
        // Debian keeps the servers' programs off a user's path.
        let program = Path::new("/usr/sbin/pgbouncer");
        let program = if program.exists() { program } else { Path::new("pgbouncer") };
        let mut command = as_servant(PathBuf::from("/bin/sh"));
        command.arg("-c").arg(KEEPER).arg("keeper").arg(program).arg(&folder);
        let keeper = command.stdin(Stdio::piped()).spawn().unwrap();
        Self { folder, keeper, port }
    }

    /// The address of a database behind it.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
