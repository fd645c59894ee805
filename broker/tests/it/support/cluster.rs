//! Several brokers that form one: on a database of their own, with a Redis of their own.

use std::sync::Arc;

use serde_json::{Value, json};

use super::node::{Ground, Kind, Mesh, Node};
use super::peer::{Hello, TestPeer, fresh_key};
use super::postgres;
use super::proxy::ChaosProxy;
use super::redis::Server;
use super::until;

/// What the nodes know.
pub(crate) const SECRET: &str = "a secret of the tests, of enough characters";

/// See the module. What no settings name is as in production, but for quicker signs of life.
pub(crate) struct Cluster {
    pub(crate) redis: Arc<Server>,
    pub(crate) nodes: Vec<Node>,
    ground: Arc<Ground>,
    settings: Vec<(String, String)>,
}

impl Cluster {
    /// So many nodes, `n0` first, all ready.
    pub(crate) async fn of(count: usize, settings: &[(&str, &str)]) -> Self {
        Self::on(Ground::new(Kind::Postgres).await, count, settings).await
    }

    /// Likewise, with a proxy before the database.
    pub(crate) async fn through(
        count: usize,
        proxy: &ChaosProxy,
        settings: &[(&str, &str)],
    ) -> Self {
        let ground = Ground::through(postgres::Server::shared(), proxy.port()).await;
        Self::on(ground, count, settings).await
    }

    async fn on(ground: Arc<Ground>, count: usize, settings: &[(&str, &str)]) -> Self {
        let redis = tokio::task::spawn_blocking(|| Arc::new(Server::new())).await.unwrap();
        let settings = settings.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let settings = settings.collect();
        let mut cluster = Self { redis, nodes: Vec::new(), ground, settings };
        for number in 0..count {
            let node = cluster.launch(&format!("n{number}"), &[]);
            cluster.nodes.push(node);
        }
        for node in &mut cluster.nodes {
            node.serving().await;
        }
        cluster.all_see(count).await;
        cluster
    }

    /// Another process, not waited for. `more` outranks the settings of all.
    pub(crate) fn launch(&self, name: &str, more: &[(&str, &str)]) -> Node {
        let url = self.redis.url();
        let own = [
            ("REDIS_URL", url.as_str()),
            ("CLUSTER_SECRET", SECRET),
            ("NODE_ID", name),
            ("NODE_HEARTBEAT_MS", "100"),
            ("NODE_TTL_MS", "2000"),
            ("DRAIN_ACCEPT_SECONDS", "0"),
        ];
        let common = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let settings: Vec<_> = own.into_iter().chain(common).chain(more.iter().copied()).collect();
        Node::launch(self.ground.clone(), &settings)
    }

    /// Adds a node and waits until all see it.
    pub(crate) async fn join(&mut self, name: &str) {
        let mut node = self.launch(name, &[]);
        node.serving().await;
        self.nodes.push(node);
        self.all_see(self.nodes.len()).await;
    }

    /// Waits until so many nodes live.
    pub(crate) async fn all_see(&self, count: usize) {
        until("all nodes are seen", async || {
            self.status(&[]).await.as_array().unwrap().len() == count
        })
        .await;
    }

    /// What `status --json` says.
    pub(crate) async fn status(&self, more: &[&str]) -> Value {
        let node = self.nodes.first().expect("a cluster has nodes");
        let args: Vec<_> = ["status", "--json"].iter().chain(more).copied().collect();
        serde_json::from_slice(&node.run(&args).await).unwrap()
    }

    /// A mesh that runs on node `owner`: made again until the ring says so.
    pub(crate) async fn mesh_on(&self, owner: usize, members: &[&str]) -> Mesh {
        for attempt in 0..64 {
            let mesh = self.nodes[0].mesh(&format!("red-{attempt}"), members).await;
            // A command that is gone at once leaves nothing behind.
            let key = fresh_key().public_hex();
            let once = json!({"sessionPubkey": key, "channel": "claude-code"});
            let hello = Hello::member(&mesh, members[0]).with(&once);
            TestPeer::join(&self.nodes[owner], hello).await.leave().await;
            if self.owner(&mesh).await == Some(owner) {
                // Its place, too, is free once its departure is durable.
                until("the command has left", async || {
                    let status = self.status(&["--mesh", &mesh.id]).await;
                    (&status["sessions"], &status["in_grace"]) == (&json!(0), &json!(0))
                })
                .await;
                return mesh;
            }
        }
        panic!("no mesh came to node {owner}");
    }

    /// Which node runs a mesh, as `status` says it.
    pub(crate) async fn owner(&self, mesh: &Mesh) -> Option<usize> {
        let status = self.status(&["--mesh", &mesh.id]).await;
        status["owner"].as_str()?.strip_prefix('n')?.parse().ok()
    }
}
