//! A Redis of the run's own, which remembers nothing when it is killed.

use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, sleep, timeout};

use super::child::{Child, Program};
use super::ports;
use crate::Error;

const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Redis {
    program: PathBuf,
    log: PathBuf,
    pub(super) port: u16,
    child: Option<Child>,
}

impl Redis {
    /// A fresh one that answers; what it says goes to `out`.
    pub(super) async fn start(out: &Path) -> Result<Self, Error> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = std::env::split_paths(&path)
            .flat_map(|folder| ["redis-server", "valkey-server"].map(|name| folder.join(name)))
            .find(|path| path.exists());
        let missing = || {
            let hint = "redis-server is not installed (Debian: apt-get install redis-server)";
            Error::Cluster(hint.to_owned())
        };
        let program = program.ok_or_else(missing)?;
        let log = out.join("redis.log");
        let mut redis = Self { program, log, port: ports::free()?, child: None };
        redis.resume().await?;
        Ok(redis)
    }

    /// Ends it, and all it knows.
    pub(super) async fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        child.signal("KILL");
        child.end(PATIENCE).await;
    }

    /// Starts it again, empty.
    pub(super) async fn resume(&mut self) -> Result<(), Error> {
        if self.child.is_some() {
            return Ok(());
        }
        let mut redis = Program::new(&self.program);
        redis.command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string()]);
        redis.command.args(["--save", "", "--appendonly", "no"]);
        redis.command.arg("--dir").arg(self.log.parent().unwrap_or(&self.log));
        self.child = Some(redis.start(&self.log)?);
        let deadline = Instant::now() + PATIENCE;
        while !self.ask("PING").await.is_some_and(|said| said.starts_with("+PONG")) {
            if Instant::now() >= deadline {
                return Err(Error::Cluster("Redis does not answer".to_owned()));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Sends it a signal, `STOP` for one.
    pub(super) fn signal(&self, name: &str) {
        if let Some(child) = &self.child {
            child.signal(name);
        }
    }

    /// A command's answer, its first line.
    pub(super) async fn ask(&self, command: &str) -> Option<String> {
        let talk = async {
            let mut socket = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
            socket.write_all(format!("{command}\r\n").as_bytes()).await.ok()?;
            let mut said = [0; 256];
            let length = socket.read(&mut said).await.ok()?;
            Some(String::from_utf8_lossy(&said[..length]).trim().to_owned())
        };
        timeout(Duration::from_secs(1), talk).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each fault relies on: drops subscribers, stands still, forgets.
    #[tokio::test]
    async fn a_redis_is_broken_in_all_ways_and_is_back() {
        let out = std::env::temp_dir().join(format!("chaos-redis-{}", std::process::id()));
        std::fs::create_dir(&out).unwrap();
        let mut redis = Redis::start(&out).await.unwrap();
        assert_eq!(redis.ask("SET key value").await.unwrap(), "+OK");

        let mut subscriber = TcpStream::connect(("127.0.0.1", redis.port)).await.unwrap();
        subscriber.write_all(b"SUBSCRIBE channel\r\n").await.unwrap();
        let mut said = [0; 64];
        assert!(subscriber.read(&mut said).await.unwrap() > 0);
        assert_eq!(redis.ask("CLIENT KILL TYPE pubsub").await.unwrap(), ":1");
        assert_eq!(subscriber.read(&mut said).await.unwrap(), 0);

        redis.signal("STOP");
        assert_eq!(redis.ask("PING").await, None);
        redis.signal("CONT");
        assert_eq!(redis.ask("EXISTS key").await.unwrap(), ":1");

        redis.kill().await;
        assert_eq!(redis.ask("PING").await, None);
        redis.resume().await.unwrap();
        assert_eq!(redis.ask("EXISTS key").await.unwrap(), ":0");
        std::fs::remove_dir_all(&out).unwrap();
    }
}
