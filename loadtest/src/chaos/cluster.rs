//! The cluster under test: nodes, a Postgres, a Redis, and a proxy on every line between them. All
//! on loopback and ports of their own, all ended with this program.
//!
//! A node has a place: a port that clients know, and lines to the servers. A process that is
//! replaced keeps the place and gets a new name, as on any platform.

mod balancer;
mod child;
mod node;
mod ports;
mod postgres;
mod proxy;
mod redis;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use sqlx::{Connection, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, timeout};

pub(crate) use self::balancer::Balancer;
use self::node::Place;
use self::postgres::Postgres;
pub(crate) use self::proxy::Line;
use self::redis::Redis;
use super::log::What;
use super::shared::{Door, Shared};
use crate::Error;
use crate::mesh::Mesh;

/// Of one command of the broker's, or one query.
const PATIENCE: Duration = Duration::from_secs(10);

/// Places that no node has at first: a replacement's, and one of somebody who joins meanwhile.
const SPARE_PLACES: usize = 2;

/// How to start one.
pub(crate) struct Settings {
    pub(crate) broker: PathBuf,
    pub(crate) out: PathBuf,
    pub(crate) nodes: usize,
    pub(crate) grace_seconds: u64,
}

/// Which server a line leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    Postgres,
    Redis,
}

pub(crate) struct Cluster {
    settings: Settings,
    shared: Arc<Shared>,
    postgres: Postgres,
    redis: Option<Redis>,
    places: Vec<Place>,
    names: u32,
}

impl Cluster {
    /// Starts all of it, and waits until every node is ready.
    pub(crate) async fn start(settings: Settings, shared: Arc<Shared>) -> Result<Self, Error> {
        let postgres = Postgres::start().await?;
        let redis =
            if settings.nodes > 1 { Some(Redis::start(&settings.out).await?) } else { None };
        let mut cluster = Self { settings, shared, postgres, redis, places: Vec::new(), names: 0 };
        for _ in 0..cluster.settings.nodes {
            let at = cluster.add_place().await?;
            cluster.launch(at)?;
            cluster.ready(at).await?;
        }
        Ok(cluster)
    }

    /// Starts a balancer in front of all places there will be; clients know only it from now on.
    pub(crate) async fn put_behind_balancer(&mut self) -> Result<Balancer, Error> {
        for _ in 0..SPARE_PLACES {
            self.add_place().await?;
        }
        let ports = |places: &[Place]| places.iter().map(|place| place.port).collect::<Vec<_>>();
        let empty = ports(&self.places[self.places.len() - SPARE_PLACES..]);
        let balancer = Balancer::start(&self.settings.out, &ports(&self.places), &empty).await?;
        self.shared.put_behind(balancer.port);
        Ok(balancer)
    }

    /// Makes a mesh with the broker's own command.
    pub(crate) async fn mesh(&self, slug: &str, members: u32) -> Result<Mesh, Error> {
        let members = members.to_string();
        let text = self.command(&["mesh", "create", slug, "--members", &members, "--json"]).await?;
        serde_json::from_str(&text).map_err(|error| Error::Cluster(format!("mesh create: {error}")))
    }

    /// The place of the mesh's owner: by the `status` command; else the one that holds the fence.
    pub(crate) async fn owner(&self, mesh: &str) -> Option<usize> {
        let mut name = None;
        if self.redis.is_some() {
            let told = self.command(&["status", "--mesh", mesh, "--json"]).await.ok();
            let told: Option<serde_json::Value> =
                told.and_then(|text| serde_json::from_str(&text).ok());
            name = told.and_then(|told| told["owner"].as_str().map(ToOwned::to_owned));
        }
        if name.is_none() {
            name = self.owners().await.get(mesh).map(|(node, _)| node.clone());
        }
        let name = name?;
        self.places.iter().position(|place| place.is_alive() && is_of(&name, &place.name))
    }

    /// Every mesh's owner and epoch, as the store has them.
    pub(crate) async fn owners(&self) -> BTreeMap<String, (String, u64)> {
        let ask = async {
            let mut conn = PgConnection::connect(&Postgres::url(self.postgres.port)).await?;
            let query = "SELECT mesh_id, node, epoch FROM broker.mesh_owner";
            sqlx::query_as::<_, (String, String, i64)>(query).fetch_all(&mut conn).await
        };
        let rows = timeout(PATIENCE, ask).await.ok().and_then(Result::ok).unwrap_or_default();
        let entry = |(mesh, node, epoch): (String, String, i64)| {
            (mesh, (node, u64::try_from(epoch).unwrap_or_default()))
        };
        rows.into_iter().map(entry).collect()
    }

    /// All epochs together: the difference of two is the number of raises between.
    pub(crate) async fn epochs(&self) -> u64 {
        self.owners().await.values().map(|(_, epoch)| epoch).sum()
    }

    /// Places whose process runs, frozen ones left out.
    pub(crate) fn working(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|at| self.places[*at].is_working()).collect()
    }

    fn label(&self, at: usize) -> String {
        self.places[at].label.clone()
    }

    /// Meshes whose fence this place's node holds.
    pub(crate) async fn owned_by(&self, at: usize) -> Vec<String> {
        let name = &self.places[at].name;
        let owners = self.owners().await;
        owners
            .into_iter()
            .filter(|(_, (node, _))| is_of(node, name))
            .map(|(mesh, _)| mesh)
            .collect()
    }

    /// A place without a process: an old one, or a new one.
    pub(crate) async fn empty_place(&mut self) -> Result<usize, Error> {
        match self.places.iter().position(|place| !place.is_alive()) {
            Some(at) => Ok(at),
            None => self.add_place().await,
        }
    }

    pub(crate) fn has_redis(&self) -> bool {
        self.redis.is_some()
    }

    // --- servers ---------------------------------------------------------------------------

    pub(crate) async fn stop_postgres(&mut self, crash: bool) {
        self.postgres.stop(crash).await;
    }

    pub(crate) async fn resume_postgres(&mut self) -> Result<(), Error> {
        self.postgres.resume().await
    }

    pub(crate) async fn kill_redis(&mut self) {
        if let Some(redis) = &mut self.redis {
            redis.kill().await;
        }
    }

    pub(crate) async fn resume_redis(&mut self) -> Result<(), Error> {
        match &mut self.redis {
            Some(redis) => redis.resume().await,
            None => Ok(()),
        }
    }

    /// Freezes Redis with `STOP`, thaws it with `CONT`.
    pub(crate) fn signal_redis(&self, name: &str) {
        if let Some(redis) = &self.redis {
            redis.signal(name);
        }
    }

    /// Has Redis drop every subscriber's connection.
    pub(crate) async fn drop_subscribers(&self) {
        if let Some(redis) = &self.redis
            && redis.ask("CLIENT KILL TYPE pubsub").await.is_none_or(|said| said.starts_with('-'))
        {
            self.shared.complain("Redis does not drop its subscribers".to_owned());
        }
    }

    pub(crate) fn cut(&self, at: usize, server: Server, line: Line) {
        let place = &self.places[at];
        match server {
            Server::Postgres => place.to_postgres.cut(line),
            Server::Redis => {
                // The others do not hear of it any more.
                self.shared.note(What::NodeLost { node: place.label.clone() });
                if let Some(proxy) = &place.to_redis {
                    proxy.cut(line);
                }
            }
        }
    }

    pub(crate) fn mend(&self, at: usize, server: Server) {
        let place = &self.places[at];
        match server {
            Server::Postgres => place.to_postgres.mend(),
            Server::Redis => {
                if let Some(proxy) = &place.to_redis {
                    proxy.mend();
                }
                self.shared.note(What::NodeBack { node: place.label.clone() });
            }
        }
    }

    // --- doors -----------------------------------------------------------------------------

    fn open_door(&self, at: usize) {
        let place = &self.places[at];
        let door = Door { node: place.label.clone(), port: place.port };
        let mut doors = self.shared.doors();
        doors.retain(|known| known.port != door.port);
        doors.push(door);
    }

    fn close_door(&self, at: usize) {
        let port = self.places[at].port;
        self.shared.doors().retain(|door| door.port != port);
    }

    /// Does one of the broker's commands, beside the nodes.
    async fn command(&self, arguments: &[&str]) -> Result<String, Error> {
        let mut command = Command::new(&self.settings.broker);
        command.env_clear().args(arguments);
        command.env("DATABASE_URL", Postgres::url(self.postgres.port));
        if let Some(redis) = &self.redis {
            command.env("REDIS_URL", format!("redis://127.0.0.1:{}", redis.port));
            command.env("CLUSTER_SECRET", node::SECRET);
        }
        let work = tokio::task::spawn_blocking(move || command.output());
        let output = timeout(PATIENCE, work).await;
        let said = |why: String| Error::Cluster(format!("{}: {why}", arguments.join(" ")));
        let output = output
            .map_err(|_| said("no answer".to_owned()))?
            .map_err(|error| said(error.to_string()))??;
        if !output.status.success() {
            return Err(said(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Whether a GET of this path at this port of the loopback is answered with 200 within a second.
async fn http_ok(port: u16, path: &str) -> bool {
    let ask = async {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.ok()?;
        let mut head = [0; 12];
        socket.read_exact(&mut head).await.ok()?;
        Some(head == *b"HTTP/1.1 200")
    };
    timeout(Duration::from_secs(1), ask).await.ok().flatten() == Some(true)
}

/// Whether a node is the one of this name: its incarnation may follow.
fn is_of(node: &str, name: &str) -> bool {
    let rest = node.strip_prefix(name).map(|rest| rest.chars().next());
    rest.is_some_and(|next| next.is_none_or(|next| !next.is_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::is_of;

    #[test]
    fn a_node_is_known_by_its_name_and_not_by_the_beginning_of_it() {
        assert!(is_of("node-1", "node-1") && is_of("node-1/7f", "node-1"));
        assert!(!is_of("node-12", "node-1") && !is_of("node-1", "node-12"));
    }
}
