//! The router over a real Redis: each test has a server of its own, which it may kill.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod bus;
mod cluster;
mod leases;
mod members;
mod nodes;
mod server;
mod trust;

use std::time::Duration;

use bytes::Bytes;
use router::membership::{State, Timing};
use router::node::NodeKey;
use router::redis::{Credentials, Event, Inbox, Redis};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// How long anything may take.
const SOON: Duration = Duration::from_secs(20);
const TIMING: Timing = Timing { heartbeat_ms: 100, ttl_ms: 1_000 };

/// A node, which ends when dropped.
struct Node {
    redis: Redis,
    inbox: Inbox,
    tasks: TaskTracker,
    stop: CancellationToken,
    _end: DropGuard,
}

/// The id of the cluster that all of them are.
const CLUSTER: &str = "c1";

fn credentials<'a>(secret: &'a [u8], previous: Option<&'a [u8]>) -> Credentials<'a> {
    Credentials { cluster: CLUSTER, secret, previous }
}

fn key(name: &str, incarnation: u64) -> NodeKey {
    NodeKey { id: name.into(), incarnation }
}

impl Node {
    async fn new(url: &str, name: &str, incarnation: u64) -> Self {
        Self::with_secret(url, name, incarnation, b"secret").await
    }

    async fn with_secret(url: &str, name: &str, incarnation: u64, secret: &[u8]) -> Self {
        Self::with(url, name, incarnation, &credentials(secret, None)).await
    }

    async fn with(url: &str, name: &str, incarnation: u64, credentials: &Credentials<'_>) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let key = key(name, incarnation);
        let connected = Redis::connect(url, key, credentials, TIMING, &tasks, &stop).await;
        let (redis, inbox) = connected.unwrap();
        Self { redis, inbox, tasks, _end: stop.clone().drop_guard(), stop }
    }

    fn key(&self) -> &NodeKey {
        self.redis.me()
    }

    /// A heartbeat as a node that serves.
    async fn beat(&self) -> router::membership::Sighting {
        self.redis.heartbeat(State::Serving, 1, true, b"info").await.unwrap()
    }

    fn send(&self, to: &Self, item: &[u8]) {
        assert!(self.redis.send(to.key(), item.to_vec()));
    }

    /// The next items, with their sender.
    async fn receive(&mut self) -> (NodeKey, Vec<Bytes>) {
        let incoming = timeout(SOON, self.inbox.incoming.recv()).await.unwrap().unwrap();
        (incoming.from, incoming.items)
    }

    async fn told(&mut self) -> Event {
        timeout(SOON, self.inbox.events.recv()).await.unwrap().unwrap()
    }

    /// Waits until what it publishes to itself comes back.
    async fn hears(&self) {
        until("the canary comes back", async || self.redis.hears()).await;
    }

    /// Sends until something arrives, and takes it all in: the way is open.
    async fn reaches(&self, to: &mut Self) {
        until("a message arrives", async || {
            self.send(to, b"hello?");
            timeout(Duration::from_millis(100), to.inbox.incoming.recv()).await.is_ok()
        })
        .await;
        self.send(to, b"last");
        while to.receive().await.1.last().is_none_or(|item| item != "last") {}
    }
}

/// Waits for a condition.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waited = timeout(SOON, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "in vain: {what}");
}
