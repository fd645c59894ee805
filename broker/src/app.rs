//! Wires the rooms together; the only file that sees them all.

use std::error::Error;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Duration;

use axum::serve::ListenerExt;
use protocol::close;
use router::membership::{State, Timing};
use router::node::NodeKey;
use router::redis::{Inbox, Redis};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{Clock, wall_ms};
use crate::cluster::Nodes;
use crate::cluster::measures;
use crate::cluster::report::Report;
use crate::config::{Config, OfflineDirect, Secret};
use crate::edge::{self, Edge, HalfOpen, Leave, PerAddress, Readiness};
use crate::lifecycle::{self, Signals};
use crate::mesh::{Limits, StatusLimits, WINDOW_BYTES};
use crate::model::ENVELOPE_TTL_MS;
use crate::seat::handle::Directory;
use crate::seat::{Alone, Cluster, Node};
use crate::store::committer::{Committer, Observe, Round};
use crate::store::{Claim, Store, StoreError, open};
use crate::telemetry::Metrics;

/// How often the store is asked whether it takes writes.
const CANARY: Duration = Duration::from_secs(1);
/// How often the queue is counted.
const QUEUE_GAUGE: Duration = Duration::from_secs(30);
/// How often what is older than its TTL is removed.
const RETENTION: Duration = Duration::from_hours(1);
/// Pause between meshes that are woken after a start, so that waiting clients come first.
const WAKE_PAUSE: Duration = Duration::from_millis(5);
/// Sockets closed per second when there are few: a desk's broker stops at once.
const FEW_PER_SECOND: u32 = 50;
/// How long what was read from closed sockets may take to be executed.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Bytes waiting for one peer, or twice the largest frame: a peer that stalls costs at most this
/// much. Holds a window of envelopes, the replies to a window of commands, and events beside.
const OUTBOX_BYTES: usize = 4 * WINDOW_BYTES;

/// Meshes taken over at once: after a node's end many come together.
const TAKEOVERS: usize = 16;
/// How often a node looks for meshes that hold leases and have no owner, when nothing else tells.
const SWEEP: Duration = Duration::from_secs(30);
/// A node whose store has failed for so long owns nothing that another could.
const STORE_BLIND: Duration = Duration::from_secs(3);

/// Audit chains read at once, of the ten connections (Postgres) or three (SQLite) for reading.
const AUDIT_READERS: usize = 2;

/// Attempts to join by invite that an address may make: far more than people click.
const JOINS_PER_MINUTE: u32 = 60;

type Failure = Box<dyn Error + Send + Sync>;

/// Runs a node until it is told to stop.
pub async fn serve(config: Config) -> Result<(), Failure> {
    let address = SocketAddr::new(config.bind_addr, config.broker_port);
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let mut signals = Signals::listen()?;
    tokio::select! {
        biased;
        () = signals.next() => return Ok(()),
        started = Running::start(&config, listener) => started?,
    }
    .until_stopped(&config, signals)
    .await
}

/// A node at work.
struct Running {
    edge: Arc<Edge>,
    store: Arc<dyn Store>,
    listener: Option<TcpListener>,
    leaving: watch::Sender<Option<Leave>>,
    directory: Directory,
    /// The other nodes, if there may be any.
    nodes: Option<Arc<Nodes>>,
    /// The tasks of sockets, of meshes, and of everything these rest on. They end in this order.
    sockets: TaskTracker,
    meshes: TaskTracker,
    services: TaskTracker,
    /// Ends what only serves: canary, gauges, retention.
    chores: CancellationToken,
    /// Ends the actors, then the committer.
    stop_meshes: CancellationToken,
    stop_committer: CancellationToken,
    stop_redis: CancellationToken,
    superseded: CancellationToken,
    shed: Arc<Notify>,
}

impl Running {
    /// Migrates, makes sure to be alone, and puts everything together. No socket is accepted
    /// before a hello can be answered.
    async fn start(config: &Config, listener: TcpListener) -> Result<Self, Failure> {
        let store = open::open_store(config).await?;
        if !config.skip_migrate {
            store.migrate().await?;
        }
        let clustered = config.redis_url.is_some();
        let claim = lifecycle::claim(&*store, clustered, config.lease_grace).await?;
        if let Err(error) = store.adopt().await {
            tracing::error!(%error, "what the reference broker left cannot be looked at");
        }
        for sentence in store.unsafe_settings().await? {
            tracing::warn!("{sentence}");
        }
        let services = TaskTracker::new();
        let stop_redis = CancellationToken::new();
        let process = random()?;
        let id = config.node_id.clone().into();
        let Some(url) = &config.redis_url else {
            let me = NodeKey { id, incarnation: process };
            let running = Self::assemble(config, listener, store, services, (process, me, None))?;
            running.start_chores(claim);
            return Ok(running);
        };
        let me = NodeKey { id, incarnation: store.clock().await? };
        let secret = config.cluster_secret.as_ref().map(Secret::expose).unwrap_or_default();
        let timing =
            Timing { heartbeat_ms: millis(config.node_heartbeat), ttl_ms: millis(config.node_ttl) };
        let (redis, inbox) = loop {
            let (me, secret) = (me.clone(), secret.as_bytes());
            let joined =
                Redis::connect(url.expose(), me, secret, timing, &services, &stop_redis).await;
            match joined {
                Ok(joined) => break joined,
                Err(error @ router::redis::Error::Url(_)) => return Err(error.into()),
                Err(error) => tracing::warn!(%error, "Redis cannot be reached yet"),
            }
            tokio::time::sleep(CANARY).await;
        };
        let mut running = Self::assemble(
            config,
            listener,
            store,
            services,
            (process, me, Some((redis, timing))),
        )?;
        running.stop_redis = stop_redis;
        running.start_chores(claim);
        running.join(config, inbox).await;
        Ok(running)
    }

    /// Says to the others that this node is here, and waits until it may own meshes.
    async fn join(&self, config: &Config, inbox: Inbox) {
        let Some(nodes) = self.nodes.clone() else { return };
        let (edge, region) = (self.edge.clone(), config.region.as_deref().unwrap_or_default());
        let region = region.to_owned();
        let report = move || Report {
            region: region.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            meshes: edge.meshes.owned(),
            connections: edge.tasks.len(),
        };
        measures::observe(&self.edge.metrics, &nodes, &self.directory);
        self.chore(nodes.clone().listen(self.directory.clone(), inbox));
        self.chore(nodes.clone().keep_alive(self.directory.clone(), report));
        self.chore(watch_cluster(self.edge.clone(), nodes.clone()));
        self.chore(shed(self.leaving.clone(), self.edge.clone(), self.shed.clone(), config.drain));
        while !nodes.is_well() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn assemble(
        config: &Config,
        listener: TcpListener,
        store: Arc<dyn Store>,
        services: TaskTracker,
        (process, me, redis): (u64, NodeKey, Option<(Redis, Timing)>),
    ) -> Result<Self, Failure> {
        let metrics = Metrics::new();
        let (sockets, meshes) = (TaskTracker::new(), TaskTracker::new());
        let (chores, stop_meshes) = (CancellationToken::new(), CancellationToken::new());
        let (stop_committer, superseded) = (CancellationToken::new(), CancellationToken::new());
        let observe = Arc::new(CommitMetrics(metrics.clone()));
        let committer =
            Committer::start_observed(store.clone(), observe, &services, stop_committer.clone());
        let clock = Clock::start();
        let nodes =
            redis.map(|(redis, timing)| Nodes::new(redis, timing, clock, superseded.clone()));
        let cluster: Arc<dyn Cluster> = match &nodes {
            Some(nodes) => nodes.clone(),
            None => Arc::new(Alone::new(me.clone(), clock)),
        };
        let shed = Arc::new(Notify::new());
        let directory = Directory::new(Node {
            name: me.to_string().into(),
            process,
            cluster,
            limits: limits(config),
            store: store.clone(),
            committer,
            clock,
            metrics: metrics.clone(),
            tasks: meshes.clone(),
            stop: stop_meshes.clone(),
            superseded: superseded.clone(),
            shed: shed.clone(),
            owned: AtomicUsize::new(0),
            takeovers: Semaphore::new(TAKEOVERS),
            audits: Semaphore::new(AUDIT_READERS),
            last_beat: AtomicU64::new(0),
        });
        let (leaving, told) = watch::channel(None);
        let edge = Arc::new(Edge {
            process,
            sockets: AtomicU64::new(1),
            meshes: directory.clone(),
            half_open: HalfOpen::new(config.half_open_per_address),
            readiness: Readiness::default(),
            leaving: told,
            tasks: sockets.clone(),
            clock,
            metrics,
            hello_timeout_ms: millis(config.hello_timeout),
            max_frame_bytes: config.max_frame_bytes,
            outbox_bytes: OUTBOX_BYTES.max(2 * config.max_frame_bytes),
            max_body_bytes: config.max_message_bytes,
            address_header: config.client_address_header.clone(),
            hooks: PerAddress::new(config.hook_rate_per_minute),
            hook_token: config.hook_token.clone(),
            joins: PerAddress::new(JOINS_PER_MINUTE),
            replays: nodes.is_some() && config.fly_machine_id.as_ref() == Some(&config.node_id),
            git_sha: config.git_sha.clone().unwrap_or_else(|| "unknown".into()),
        });
        Ok(Self {
            edge,
            store,
            listener: Some(listener),
            leaving,
            directory,
            nodes,
            sockets,
            meshes,
            services,
            chores,
            stop_meshes,
            stop_committer,
            stop_redis: CancellationToken::new(),
            superseded,
            shed,
        })
    }

    fn chore(&self, task: impl Future<Output = ()> + Send + 'static) {
        let chores = self.chores.clone();
        self.services.spawn(async move { chores.run_until_cancelled(task).await });
    }

    fn start_chores(&self, claim: Box<dyn Claim>) {
        let (store, superseded) = (self.store.clone(), self.superseded.clone());
        self.chore(lifecycle::keep_claim(store, claim, self.nodes.is_some(), superseded));
        self.edge.readiness.set_store_up(true);
        self.chore(canary(self.edge.clone(), self.store.clone(), self.nodes.clone()));
        self.chore(count_queue(self.edge.clone(), self.store.clone()));
        self.chore(retain(self.edge.clone(), self.store.clone()));
        let changes = self.nodes.as_ref().map(|nodes| nodes.changes());
        self.chore(wake_leases(self.directory.clone(), changes));
    }

    async fn until_stopped(mut self, config: &Config, mut signals: Signals) -> Result<(), Failure> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        greet(config, listener.local_addr()?);
        let listener = listener.tap_io(|stream| {
            // Without it, small frames wait for the ack of the one before (RFC 896 and 1122).
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY cannot be set");
            }
        });
        let stop_accepting = CancellationToken::new();
        let service =
            edge::routes(self.edge.clone()).into_make_service_with_connect_info::<SocketAddr>();
        let stopping = stop_accepting.clone().cancelled_owned();
        let server = axum::serve(listener, service).with_graceful_shutdown(stopping);
        let server = self.services.spawn(async move { server.await });
        let superseded = tokio::select! {
            biased;
            () = self.superseded.cancelled() => true,
            () = signals.next() => false,
        };
        tracing::info!(superseded, "stopping");
        self.edge.readiness.set_draining();
        let mut leave = Leave { spread: self.spread(config.drain), close: close::SHUTTING_DOWN };
        match &self.nodes {
            Some(_) if superseded => {
                leave = Leave { spread: Duration::ZERO, close: close::NODE_SUPERSEDED };
            }
            None if superseded => leave.spread = Duration::ZERO,
            Some(nodes) => {
                lifecycle::wait(nodes.drain(&self.directory), LAST_WORDS, &mut signals).await;
            }
            None => {}
        }
        let spread = leave.spread;
        self.leaving.send_replace(Some(leave));
        self.sockets.close();
        let mut patient =
            lifecycle::wait(self.sockets.wait(), spread + LAST_WORDS, &mut signals).await;
        stop_accepting.cancel();
        server.abort();
        self.chores.cancel();
        if let Some(nodes) = self.nodes.as_ref().filter(|_| !superseded) {
            nodes.leave().await;
        }
        self.stop_meshes.cancel();
        self.meshes.close();
        patient = patient && lifecycle::wait(self.meshes.wait(), LAST_WORDS, &mut signals).await;
        self.stop_committer.cancel();
        self.stop_redis.cancel();
        self.services.close();
        if patient {
            lifecycle::wait(self.services.wait(), LAST_WORDS, &mut signals).await;
        }
        tracing::info!("stopped");
        if superseded && self.nodes.is_some() {
            return Err("another process bears this node's name, or has this store alone".into());
        }
        if superseded {
            return Err("another broker has taken over this store".into());
        }
        Ok(())
    }

    /// A few sockets need no spreading.
    fn spread(&self, most: Duration) -> Duration {
        let sockets = u32::try_from(self.sockets.len()).unwrap_or(u32::MAX);
        most.min(Duration::from_secs(1) * sockets / FEW_PER_SECOND)
    }
}

fn limits(config: &Config) -> Limits {
    Limits {
        grace_ms: millis(config.lease_grace),
        capacity: config.max_connections_per_mesh,
        message_units: config.max_message_bytes,
        send_rate: config.send_rate_per_minute,
        send_burst: config.send_burst,
        offline_queue: config.offline_direct == OfflineDirect::Queue,
        status: StatusLimits {
            hook_fresh_ms: millis(config.hook_fresh),
            working_ms: millis(config.status_ttl),
        },
        kick_cooldown_ms: millis(config.kick_cooldown),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn random() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// People at a terminal are told what to do next; everybody else gets a log line.
fn greet(config: &Config, address: SocketAddr) {
    let store = open::describe(config);
    if std::io::stderr().is_terminal() {
        let program = std::env::args().next().unwrap_or_else(|| "claudemesh-broker".to_owned());
        eprintln!(
            "\n  claudemesh broker on {}\n  {store}\n\n  \
             Make a mesh:  {program} mesh create demo --members 2\n",
            config.broker_ws_url
        );
    } else {
        tracing::info!(addr = %address, store = %store, "listening");
    }
}

struct CommitMetrics(Metrics);

impl Observe for CommitMetrics {
    fn committed(&self, round: Round) {
        self.0.commit(round.units, round.took);
    }
}

// --- chores --------------------------------------------------------------------------------

async fn canary(edge: Arc<Edge>, store: Arc<dyn Store>, nodes: Option<Arc<Nodes>>) {
    let mut failed_since: Option<Instant> = None;
    let mut every = interval(CANARY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was_up = true;
    loop {
        every.tick().await;
        let asked = Instant::now();
        let late = |_| Err(StoreError::Unavailable(format!("no answer in {STORE_BLIND:?}")));
        let healthy = timeout(STORE_BLIND, store.healthy()).await.unwrap_or_else(late);
        let up = healthy.is_ok();
        if up != was_up {
            match healthy {
                Ok(()) => tracing::info!("the store takes writes again"),
                Err(error) => tracing::error!(%error, "the store takes no writes"),
            }
        }
        was_up = up;
        edge.readiness.set_store_up(up);
        edge.metrics.set_db_healthy(up);
        failed_since = if up { None } else { failed_since.or(Some(asked)) };
        if let Some(nodes) = &nodes {
            let blind = failed_since.is_some_and(|at| at.elapsed() >= STORE_BLIND);
            nodes.set_state(if blind { State::StoreBlind } else { State::Serving });
        }
    }
}

async fn count_queue(edge: Arc<Edge>, store: Arc<dyn Store>) {
    let mut every = interval(QUEUE_GAUGE);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if let Ok(depth) = store.queue_depth().await {
            edge.metrics.set_queue_depth(depth);
        }
    }
}

async fn retain(edge: Arc<Edge>, store: Arc<dyn Store>) {
    let mut every = interval(RETENTION);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        match store.retain(wall_ms() - ENVELOPE_TTL_MS).await {
            Ok(removed) => {
                let expired = crate::telemetry::labels::MessageDropped::Expired;
                edge.metrics.messages_dropped(expired, removed.unconfirmed);
                if removed.envelopes > 0 {
                    tracing::info!(
                        envelopes = removed.envelopes,
                        unconfirmed = removed.unconfirmed,
                        "removed what is older than its time to live"
                    );
                }
            }
            Err(error) => tracing::warn!(%error, "old envelopes cannot be removed now"),
        }
    }
}

/// Whether the node can be reached by the others.
async fn watch_cluster(edge: Arc<Edge>, nodes: Arc<Nodes>) {
    let mut every = interval(CANARY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        edge.readiness.set_cut_off(!nodes.is_well());
    }
}

/// Meshes have gone to nodes that this one does not see: its sockets are better off elsewhere.
async fn shed(
    leaving: watch::Sender<Option<Leave>>,
    edge: Arc<Edge>,
    wanted: Arc<Notify>,
    spread: Duration,
) {
    loop {
        wanted.notified().await;
        if edge.readiness.draining() {
            return;
        }
        tracing::warn!("others have taken meshes of this node, which does not see them");
        leaving.send_replace(Some(Leave { spread, close: close::SHUTTING_DOWN }));
        tokio::time::sleep(spread).await;
        if edge.readiness.draining() {
            return;
        }
        leaving.send_replace(None);
    }
}

/// Graces that ran when an owner ended run on, though nobody connects.
async fn wake_leases(meshes: Directory, changes: Option<watch::Receiver<u64>>) {
    loop {
        let swept = meshes.sweep(WAKE_PAUSE).await;
        let Some(mut changes) = changes.clone() else {
            if swept.is_ok() {
                return;
            }
            tokio::time::sleep(CANARY).await;
            continue;
        };
        if let Err(error) = swept {
            tracing::warn!(%error, "leases cannot be looked up yet");
            tokio::time::sleep(CANARY).await;
            continue;
        }
        changes.mark_unchanged();
        let _ = timeout(SWEEP, changes.changed()).await;
        tokio::time::sleep(CANARY).await;
    }
}
