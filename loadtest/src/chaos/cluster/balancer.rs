//! haproxy in front of the nodes: the very file that `deploy/` has, with the addresses of this run.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use tokio::time::{Duration, Instant, sleep};

use super::child::{Child, Program};
use super::{http_ok, ports};
use crate::Error;

const CONFIG: &str = include_str!("../../../../deploy/haproxy.cfg");

/// Connections that a run may have.
const CONNECTIONS: u32 = 4_000;

/// Until it passes something on.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ends when dropped.
pub(crate) struct Balancer {
    pub(crate) port: u16,
    _child: Child,
}

impl Balancer {
    /// One that passes connections on to whichever of these ports is ready, and knows already that
    /// nobody is at those in `empty`. Its log goes to `out`.
    pub(super) async fn start(out: &Path, servers: &[u16], empty: &[u16]) -> Result<Self, Error> {
        let port = ports::free()?;
        let file = out.join("haproxy.cfg");
        std::fs::write(&file, config(port, servers)?)?;
        let mut program = Program::new(&program()?);
        program.command.arg("-db").arg("-f").arg(&file);
        let log = out.join("haproxy.log");
        let child = program.start(&log)?;
        let balancer = Self { port, _child: child };
        let deadline = Instant::now() + PATIENCE;
        let knows = || {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            empty.iter().all(|port| said.contains(&format!("nodes/{port} is DOWN")))
        };
        while !knows() || !http_ok(port, "/health").await {
            if Instant::now() >= deadline {
                return Err(Error::Cluster(
                    "haproxy passes nothing on; see haproxy.log".to_owned(),
                ));
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(balancer)
    }
}

/// Debian keeps it off a user's path.
fn program() -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    folders.map(|folder| folder.join("haproxy")).find(|path| path.exists()).ok_or_else(|| {
        Error::Cluster("haproxy is not installed (Debian: apt-get install haproxy)".to_owned())
    })
}

/// The deployed file with other addresses, and a word in each answer on which server gave it.
fn config(port: u16, servers: &[u16]) -> Result<String, Error> {
    let mut config = String::new();
    let mut in_resolvers = false;
    let (mut binds, mut found) = (0, 0);
    for line in CONFIG.lines() {
        if !line.starts_with(' ') && !line.is_empty() {
            in_resolvers = line.starts_with("resolvers ");
        }
        let line = match line.split_whitespace().next().unwrap_or_default() {
            _ if in_resolvers => continue,
            "server" => {
                found += 1;
                continue;
            }
            "bind" => {
                binds += 1;
                &format!("    bind 127.0.0.1:{port}")
            }
            // It would take two files each, more than a machine for tests may allow.
            "maxconn" => &format!("    maxconn {CONNECTIONS}"),
            "default-server" => line.split_once(" resolvers ").map_or(line, |(kept, _)| kept),
            _ => line,
        };
        let _ = writeln!(config, "{line}");
    }
    if (binds, found) != (1, 3) || !config.trim_end().contains("backend nodes") {
        return Err(Error::Cluster("deploy/haproxy.cfg is not what it was".to_owned()));
    }
    // The servers were the last thing in the file, and these are of the same section.
    let _ = writeln!(config, "    http-response set-header x-served-by %s");
    for server in servers {
        let _ = writeln!(config, "    server {server} 127.0.0.1:{server}");
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deployed_file_has_what_is_replaced() {
        let config = config(1, &[2, 3]).unwrap();
        assert!(config.contains("bind 127.0.0.1:1\n") && config.contains("server 3 127.0.0.1:3\n"));
        assert!(config.contains("GET /health/ready") && !config.contains("resolvers"));
        assert!(!config.contains("node-a"), "{config}");
    }
}
