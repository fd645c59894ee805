//! Wires the rooms together; the only file that sees them all.

use std::error::Error;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::serve::ListenerExt;
use router::node::NodeKey;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{Clock, wall_ms};
use crate::config::{Config, OfflineDirect};
use crate::edge::{self, Edge, HalfOpen, PerAddress, Readiness};
use crate::lifecycle::{self, Signals};
use crate::mesh::{Limits, StatusLimits, WINDOW_BYTES};
use crate::model::ENVELOPE_TTL_MS;
use crate::seat::handle::Directory;
use crate::seat::{Alone, Node};
use crate::store::committer::{Committer, Observe, Round};
use crate::store::{Store, open};
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
    drain: watch::Sender<Option<Duration>>,
    /// The tasks of sockets, of meshes, and of everything these rest on. They end in this order.
    sockets: TaskTracker,
    meshes: TaskTracker,
    services: TaskTracker,
    /// Ends what only serves: canary, gauges, retention.
    chores: CancellationToken,
    /// Ends the actors, then the committer.
    stop_meshes: CancellationToken,
    stop_committer: CancellationToken,
    superseded: CancellationToken,
}

impl Running {
    /// Migrates, makes sure to be alone, and puts everything together. No socket is accepted
    /// before a hello can be answered.
    async fn start(config: &Config, listener: TcpListener) -> Result<Self, Failure> {
        let store = open::open_store(config).await?;
        if !config.skip_migrate {
            store.migrate().await?;
        }
        let claim = lifecycle::claim(&*store, config.lease_grace).await?;
        if let Err(error) = store.adopt().await {
            tracing::error!(%error, "what the reference broker left cannot be looked at");
        }
        for sentence in store.unsafe_settings().await? {
            tracing::warn!("{sentence}");
        }
        let running = Self::assemble(config, listener, store)?;
        let superseded = running.superseded.clone();
        running.chore(lifecycle::keep_claim(running.store.clone(), claim, superseded));
        running.start_chores();
        Ok(running)
    }

    fn assemble(
        config: &Config,
        listener: TcpListener,
        store: Arc<dyn Store>,
    ) -> Result<Self, Failure> {
        let process = random()?;
        let metrics = Metrics::new();
        let (sockets, meshes) = (TaskTracker::new(), TaskTracker::new());
        let services = TaskTracker::new();
        let (chores, stop_meshes) = (CancellationToken::new(), CancellationToken::new());
        let (stop_committer, superseded) = (CancellationToken::new(), CancellationToken::new());
        let observe = Arc::new(CommitMetrics(metrics.clone()));
        let committer =
            Committer::start_observed(store.clone(), observe, &services, stop_committer.clone());
        let clock = Clock::start();
        let me = NodeKey { id: config.node_id.clone().into(), incarnation: process };
        let directory = Directory::new(Node {
            name: format!("{}/{process:016x}", config.node_id).into(),
            process,
            cluster: Arc::new(Alone::new(me, clock)),
            limits: limits(config),
            store: store.clone(),
            committer,
            clock,
            metrics: metrics.clone(),
            tasks: meshes.clone(),
            stop: stop_meshes.clone(),
            superseded: superseded.clone(),
            shed: CancellationToken::new(),
            audits: Semaphore::new(AUDIT_READERS),
            last_beat: AtomicU64::new(0),
        });
        let (drain, draining) = watch::channel(None);
        let edge = Arc::new(Edge {
            process,
            sockets: AtomicU64::new(1),
            meshes: directory,
            half_open: HalfOpen::new(config.half_open_per_address),
            readiness: Readiness::default(),
            draining,
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
            git_sha: config.git_sha.clone().unwrap_or_else(|| "unknown".into()),
        });
        Ok(Self {
            edge,
            store,
            listener: Some(listener),
            drain,
            sockets,
            meshes,
            services,
            chores,
            stop_meshes,
            stop_committer,
            superseded,
        })
    }

    fn chore(&self, task: impl Future<Output = ()> + Send + 'static) {
        let chores = self.chores.clone();
        self.services.spawn(async move { chores.run_until_cancelled(task).await });
    }

    fn start_chores(&self) {
        self.edge.readiness.set_store_up(true);
        self.chore(canary(self.edge.clone(), self.store.clone()));
        self.chore(count_queue(self.edge.clone(), self.store.clone()));
        self.chore(retain(self.edge.clone(), self.store.clone()));
        self.chore(wake_leases(self.edge.clone(), self.store.clone()));
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
        let spread = if superseded { Duration::ZERO } else { self.spread(config.drain) };
        self.drain.send_replace(Some(spread));
        self.sockets.close();
        let mut patient =
            lifecycle::wait(self.sockets.wait(), spread + LAST_WORDS, &mut signals).await;
        stop_accepting.cancel();
        server.abort();
        self.chores.cancel();
        self.stop_meshes.cancel();
        self.meshes.close();
        patient = patient && lifecycle::wait(self.meshes.wait(), LAST_WORDS, &mut signals).await;
        self.stop_committer.cancel();
        self.services.close();
        if patient {
            lifecycle::wait(self.services.wait(), LAST_WORDS, &mut signals).await;
        }
        tracing::info!("stopped");
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

async fn canary(edge: Arc<Edge>, store: Arc<dyn Store>) {
    let mut every = interval(CANARY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was_up = true;
    loop {
        every.tick().await;
        let healthy = store.healthy().await;
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

/// Graces that ran when the last process ended run on, though nobody connects.
async fn wake_leases(edge: Arc<Edge>, store: Arc<dyn Store>) {
    let meshes = loop {
        match store.meshes_with_leases().await {
            Ok(meshes) => break meshes,
            Err(error) => tracing::warn!(%error, "leases cannot be looked up yet"),
        }
        tokio::time::sleep(CANARY).await;
    };
    for mesh in meshes {
        edge.meshes.wake(&mesh).await;
        tokio::time::sleep(WAKE_PAUSE).await;
    }
}
