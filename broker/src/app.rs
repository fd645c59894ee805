//! Wires the rooms together; the only file that sees them all.

mod chores;

use std::error::Error;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use protocol::close;
use router::membership::Timing;
use router::node::NodeKey;
use router::redis::{Credentials, Inbox, Redis};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::chores::{CANARY, canary, count_queue, retain, review, shed, wake_leases, watch_cluster};
use crate::clock::Clock;
use crate::cluster::Nodes;
use crate::cluster::measures;
use crate::cluster::report::Report;
use crate::config::{Config, OfflineDirect, Secret};
use crate::edge::{self, Edge, HalfOpen, Leave, PerAddress, Readiness, Unfinished};
use crate::lifecycle::{self, Signals};
use crate::mesh::{Limits, StatusLimits, WINDOW_BYTES};
use crate::seat::handle::Directory;
use crate::seat::{Alone, Cluster, Node};
use crate::store::committer::{Committer, Observe, Round};
use crate::store::{Claim, Store, open};
use crate::telemetry::Metrics;

/// Sockets closed per second when there are few: a desk's broker stops at once.
const FEW_PER_SECOND: u32 = 50;
/// More than `DRAIN_ACCEPT_SECONDS` can be.
const LONGEST_ACCEPT: Duration = Duration::from_mins(10);
/// How long what was read from closed sockets may take to be executed.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Bytes waiting for one peer, or twice the largest frame: a peer that stalls costs at most this
/// much. Holds a window of envelopes, the replies to a window of commands, and events beside.
const OUTBOX_BYTES: usize = 4 * WINDOW_BYTES;

/// Meshes taken over at once: after a node's end many come together.
const TAKEOVERS: usize = 16;

/// Audit chains read at once: one, of the ten connections (Postgres) or three (SQLite) for reading.
const AUDIT_READERS: usize = 1;

/// Other questions of peers asked of the store at once.
const QUESTIONS: usize = 2;

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
        let store = open::wait_for_store(config).await?;
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
        let ground = Ground::find(config, &*store).await?;
        let (running, inbox) = Self::assemble(config, listener, store, ground);
        running.start_chores(claim);
        if let Some(inbox) = inbox {
            running.join(config, inbox).await;
        }
        Ok(running)
    }

    /// Says to the others that this node is here, and waits until it may own meshes.
    async fn join(&self, config: &Config, inbox: Inbox) {
        let Some(nodes) = self.nodes.clone() else { return };
        let edge = self.edge.clone();
        let beside = nodes.clone();
        let report = move || {
            let refused = beside.redis().refused();
            Report { refused, ..edge.report() }
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
        ground: Ground,
    ) -> (Self, Option<Inbox>) {
        let Ground { process, me, services, stop_redis, redis } = ground;
        let (redis, inbox) = redis.unzip();
        let metrics = Metrics::new();
        let (sockets, meshes) = (TaskTracker::new(), TaskTracker::new());
        let (chores, stop_meshes) = (CancellationToken::new(), CancellationToken::new());
        let (stop_committer, superseded) = (CancellationToken::new(), CancellationToken::new());
        let observe = Arc::new(CommitMetrics(metrics.clone()));
        let committer =
            Committer::start_observed(store.clone(), observe, &services, stop_committer.clone());
        let clock = Clock::start();
        let nodes = redis.map(|redis| {
            Nodes::new(redis, timing(config), config.is_home(), clock, superseded.clone())
        });
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
            owned: Mutex::default(),
            takeovers: Semaphore::new(TAKEOVERS),
            audits: Arc::new(Semaphore::new(AUDIT_READERS)),
            questions: Semaphore::new(QUESTIONS),
            last_beat: AtomicU64::new(0),
        });
        let (leaving, told) = watch::channel(None);
        let mut edge = edge_of(config, directory.clone(), told, (clock, metrics, sockets.clone()));
        edge.process = process;
        edge.replays &= nodes.is_some();
        let running = Self {
            edge: Arc::new(edge),
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
            stop_redis,
            superseded,
            shed,
        };
        (running, inbox)
    }

    fn chore(&self, task: impl Future<Output = ()> + Send + 'static) {
        let chores = self.chores.clone();
        self.services.spawn(async move { chores.run_until_cancelled(task).await });
    }

    fn start_chores(&self, claim: Box<dyn Claim>) {
        let (store, superseded) = (self.store.clone(), self.superseded.clone());
        self.chore(lifecycle::keep_claim(store, claim, self.nodes.is_some(), superseded));
        self.edge.readiness.set_started();
        self.chore(canary(self.edge.clone(), self.store.clone(), self.nodes.clone()));
        self.chore(count_queue(self.edge.clone(), self.store.clone()));
        self.chore(retain(self.edge.clone(), self.store.clone()));
        self.chore(review(self.directory.clone()));
        let changes = self.nodes.as_ref().map(|nodes| nodes.changes());
        self.chore(wake_leases(self.directory.clone(), changes));
    }

    async fn until_stopped(mut self, config: &Config, mut signals: Signals) -> Result<(), Failure> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        greet(config, listener.local_addr()?);
        let stop_accepting = CancellationToken::new();
        self.services.spawn(edge::accept(self.edge.clone(), listener, stop_accepting.clone()));
        let superseded = tokio::select! {
            biased;
            () = self.superseded.cancelled() => true,
            () = signals.next() => false,
        };
        tracing::info!(superseded, "stopping");
        self.edge.readiness.set_draining();
        let accepts_until = Instant::now() + self.accepts_for(config, superseded);
        let leave = self.goodbye(config, superseded, &mut signals).await;
        let spread = leave.spread;
        // A balancer sends new sockets until its next checks have failed. They are served until then,
        // and those that are closed would come back here before.
        let accepted =
            lifecycle::wait(sleep_until(accepts_until), LONGEST_ACCEPT, &mut signals).await;
        self.edge.refuses.store(true, Ordering::Relaxed);
        self.leaving.send_replace(Some(leave));
        self.sockets.close();
        let mut patient = accepted
            && lifecycle::wait(self.sockets.wait(), spread + LAST_WORDS, &mut signals).await;
        stop_accepting.cancel();
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

    /// Hands the meshes over, if there is somebody to have them; says how the sockets are to go.
    async fn goodbye(&self, config: &Config, superseded: bool, signals: &mut Signals) -> Leave {
        match &self.nodes {
            Some(_) if superseded => {
                Leave { spread: Duration::ZERO, close: close::NODE_SUPERSEDED }
            }
            None if superseded => Leave { spread: Duration::ZERO, close: close::SHUTTING_DOWN },
            nodes => {
                if let Some(nodes) = nodes {
                    lifecycle::wait(nodes.drain(&self.directory), LAST_WORDS, signals).await;
                }
                Leave { spread: self.spread(config.drain), close: close::SHUTTING_DOWN }
            }
        }
    }

    /// How long new sockets are still accepted. Where there are no other nodes, or this one must not
    /// speak any more, there is no reason to.
    fn accepts_for(&self, config: &Config, superseded: bool) -> Duration {
        if self.nodes.is_some() && !superseded { config.drain_accept } else { Duration::ZERO }
    }

    /// A few sockets need no spreading.
    fn spread(&self, most: Duration) -> Duration {
        let sockets = u32::try_from(self.sockets.len()).unwrap_or(u32::MAX);
        most.min(Duration::from_secs(1) * sockets / FEW_PER_SECOND)
    }
}

/// What a node stands on before it is put together.
struct Ground {
    process: u64,
    me: NodeKey,
    services: TaskTracker,
    stop_redis: CancellationToken,
    redis: Option<(Redis, Inbox)>,
}

impl Ground {
    /// Finds out who this node is; in a cluster waits for Redis.
    async fn find(config: &Config, store: &dyn Store) -> Result<Self, Failure> {
        let process = random()?;
        let (services, stop_redis) = (TaskTracker::new(), CancellationToken::new());
        let id = config.node_id.clone().into();
        let Some(url) = &config.redis_url else {
            let me = NodeKey { id, incarnation: process };
            return Ok(Self { process, me, services, stop_redis, redis: None });
        };
        let me = NodeKey { id, incarnation: store.clock().await? };
        let cluster = store.cluster().await?;
        let credentials = credentials(config, &cluster);
        loop {
            let (me, url, timing) = (me.clone(), url.expose(), timing(config));
            let connecting =
                Redis::connect(url, me.clone(), &credentials, timing, &services, &stop_redis);
            match connecting.await {
                Ok(redis) => {
                    lifecycle::have_the_name(&redis.0, config.lease_grace).await?;
                    return Ok(Self { process, me, services, stop_redis, redis: Some(redis) });
                }
                Err(error @ router::redis::Error::Url(_)) => return Err(error.into()),
                Err(error) => tracing::warn!(%error, "Redis cannot be reached yet"),
            }
            tokio::time::sleep(CANARY).await;
        }
    }
}

fn edge_of(
    config: &Config,
    meshes: Directory,
    leaving: watch::Receiver<Option<Leave>>,
    (clock, metrics, tasks): (Clock, Metrics, TaskTracker),
) -> Edge {
    Edge {
        process: 0,
        sockets: AtomicU64::new(1),
        meshes,
        half_open: HalfOpen::new(config.half_open_per_address, edge::most_half_open()),
        unfinished: Unfinished::new(config.max_frame_bytes),
        readiness: Readiness::new(config.redis_url.is_some()),
        refuses: AtomicBool::new(false),
        leaving,
        tasks,
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
        replays: config.fly_replay && config.fly_machine_id.as_ref() == Some(&config.node_id),
        git_sha: config.git_sha.clone().unwrap_or_else(|| "unknown".into()),
        node_id: config.node_id.clone(),
        region: config.region.clone().unwrap_or_default(),
    }
}

/// What a node shows for being one of a cluster.
pub(crate) fn credentials<'a>(config: &'a Config, cluster: &'a str) -> Credentials<'a> {
    let bytes = |secret: &'a Secret| secret.expose().as_bytes();
    Credentials {
        cluster,
        secret: config.cluster_secret.as_ref().map(bytes).unwrap_or_default(),
        previous: config.cluster_secret_previous.as_ref().map(bytes),
    }
}

fn timing(config: &Config) -> Timing {
    Timing { heartbeat_ms: millis(config.node_heartbeat), ttl_ms: millis(config.node_ttl) }
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
        member_sessions: config.max_sessions_per_member,
        hello_rate: config.hello_rate_per_minute,
        kick_session_ms: millis(config.kick_session),
        mesh_queue_bytes: config.queue_bytes_per_mesh,
        recipient_queue_bytes: config.queue_bytes_per_recipient,
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
