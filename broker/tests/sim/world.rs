//! One history: nodes, a store, a Redis, sockets and clients, driven by one seed in virtual time.
//! Sessions, seats, meshes and membership are the production rules; only what carries them is
//! simulated. Some histories know one node (at times two) without a Redis.

mod links;
mod node;
mod ops;
mod process;
mod redis;
mod socket;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use broker::edge::session::Session;
use broker::mesh::io::{ConnId, Input, Now, Question, Ticket};
use broker::mesh::{Limits, StatusLimits};
use broker::model::{Epoch, Grants, Member, MeshCommit};
use broker::seat::item::LinkNo;
use broker::seat::{Seat, SeatInput};
use protocol::MemberId;
use protocol::signature::Keypair;
use router::membership::{Members, Sighting, View};
use router::node::NodeKey;

use crate::beside;
use crate::check::{Checker, Mark};
use crate::client::{Client, Kind, wall};
use crate::faults::{Coverage, Fault, Planted};
use crate::rng::Rng;
use crate::store::{Durable, SimStore};
pub(crate) use process::Let;
use redis::Redis;

pub(crate) const GRACE_MS: u64 = 90_000;
pub(crate) const WORKING_MS: u64 = 25_000;
pub(crate) const COOLDOWN_MS: u64 = 20_000;
const LIMITS: Limits = Limits {
    grace_ms: GRACE_MS,
    capacity: 100,
    message_units: 65_536,
    send_rate: 0,
    send_burst: 10,
    offline_queue: false,
    status: StatusLimits { hook_fresh_ms: 15_000, working_ms: WORKING_MS },
    kick_cooldown_ms: COOLDOWN_MS,
    member_sessions: 100,
    hello_rate: 0,
    kick_session_ms: COOLDOWN_MS,
    mesh_queue_bytes: 256 << 20,
    recipient_queue_bytes: 64 << 20,
};

/// What may happen next.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    MeshStep(u64),
    MeshTick(u64),
    SocketTick(u64),
    ToServer(u64, Up),
    Read(u64),
    ToClient(u64, Down),
    OpBegin(u64),
    OpEnd(u64),
    OpAnswer(u64, Reply),
    ActivationRead(u64),
    ClientWake(usize),
    Chaos,
    /// A process of this node starts.
    Start(usize),
    Thaw(u64),
    /// A process finds that another has its claim on the store.
    ClaimLost(u64),
    Heartbeat(u64),
    /// The answer to a heartbeat, asked then by the clock of its node.
    Sighted(u64, u64, Sighting),
    Sweep(u64),
    /// What a process says to another.
    Carried {
        to: NodeKey,
        from: NodeKey,
        bytes: Vec<u8>,
    },
    /// What a process said to this one reached nobody.
    Unheard(u64, NodeKey),
    /// A process that was cut off has had the time to be heard again.
    Healed(u64),
    /// A process looks how members stand.
    Review(u64),
    /// A mesh that was archived is opened again.
    Unarchive,
    /// A draining process closes its next socket, or leaves.
    DrainNext(u64),
}

/// How many nodes there are, and whether they know of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// One, without a Redis.
    Alone,
    /// So many.
    Cluster(usize),
}

#[derive(Debug, Clone)]
pub(crate) enum Up {
    Text(String),
    Pong(u64),
    /// With a close frame, or without a word.
    Closed {
        clean: bool,
    },
}

#[derive(Debug, Clone)]
pub(crate) enum Down {
    Text(String),
    Ping(u64),
    Closed,
}

#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Input(Input),
    /// An activation's result still needs the shell's share.
    Activated(Option<Box<broker::model::Activation>>),
}

pub(crate) struct Process {
    pub(crate) seat: Seat,
    pub(crate) key: NodeKey,
    slot: usize,
    pub(crate) members: Option<Members>,
    /// What a node sees that knows of no others.
    alone: Arc<View>,
    pub(crate) open: BTreeMap<ConnId, u64>,
    inbox: VecDeque<SeatInput>,
    stepping: bool,
    tick_at: Option<u64>,
    pub(crate) frozen: bool,
    pub(crate) draining: bool,
    /// What came while it was frozen.
    held_back: Vec<(NodeKey, Vec<u8>)>,
    pub(crate) cuts: Cuts,
    /// It is cut off, or was until a moment ago: until then, and since then.
    cut_until: u64,
    cut_since: Option<u64>,
    idle_since: Option<u64>,
    /// By so much its clock is behind the store's, until then.
    pub(crate) clock_behind: (i64, u64),
}

/// Until when a node is cut off from what.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cuts {
    /// From Redis.
    pub(crate) blind: u64,
    /// Nothing that is said to it arrives.
    pub(crate) deaf: u64,
    /// Nothing that it says arrives, nor do its heartbeats.
    pub(crate) mute: u64,
    /// Its heartbeats arrive, and their answers do not.
    pub(crate) unanswered: u64,
    /// Its heartbeats arrive, and what it says to others does not.
    pub(crate) gagged: u64,
    /// From the store: since when, and until when.
    pub(crate) store: (u64, u64),
}

pub(crate) struct Socket {
    pub(crate) process: u64,
    pub(crate) client: usize,
    /// Of the client, in the life in which it connected.
    pub(crate) identity: u64,
    session: Session,
    /// Whether the client still holds its end, and listens.
    pub(crate) client_end: bool,
    pub(crate) stalled: bool,
    /// When it last began to stall.
    pub(crate) stalled_at: Option<u64>,
    /// When its hello was answered, last.
    opened_at: u64,
    pub(crate) greeted_at: Option<u64>,
    /// Hellos that it has not been answered yet, and when they were said.
    pub(crate) hellos: VecDeque<(u64, String)>,
    /// Its process froze then: as far as others can tell, it left then.
    pub(crate) lost_at: Option<u64>,
    /// What TCP holds back while the node does not read, and while the client does not.
    unread: VecDeque<Up>,
    pub(crate) unseen: VecDeque<Down>,
    up_at: u64,
    down_at: u64,
    tick_at: Option<u64>,
}

enum Work {
    Commit(MeshCommit),
    Activate {
        floor: Epoch,
        snapshot: Option<Box<Durable>>,
        raised: Option<Epoch>,
    },
    Ask(Ticket, Question),
    Beat,
    /// Since then by the process's clock.
    Review(u64),
}

struct Op {
    process: u64,
    /// To be given back with the answer.
    term: u64,
    work: Work,
    /// The process gave up on it: what it does, nobody hears.
    orphan: bool,
    /// A commit past the fence and not yet through.
    running: bool,
}

pub(crate) struct World {
    pub(crate) mode: Mode,
    pub(crate) rng: Rng,
    pub(crate) now: u64,
    order: u64,
    events: BTreeMap<(u64, u64), Event>,
    pub(crate) store: SimStore,
    pub(crate) processes: BTreeMap<u64, Process>,
    next_process: u64,
    pub(crate) sockets: BTreeMap<u64, Socket>,
    next_socket: u64,
    ops: BTreeMap<u64, Op>,
    next_op: u64,
    /// Activations waiting for row locks.
    waiting: Vec<u64>,
    /// Processes whose mesh another one has just taken.
    lost: Vec<u64>,
    pub(crate) redis: Redis,
    /// When the last thing said between two processes arrives.
    carried_at: BTreeMap<(NodeKey, NodeKey), u64>,
    /// What a process has said on a link: so much of its stream was seen to leave it.
    streamed: BTreeMap<(u64, NodeKey, LinkNo), u64>,
    pub(crate) links: crate::plant::Links,
    /// Whether somebody runs the mesh.
    owned: bool,
    /// What was durable before each commit, if a replica may be promoted.
    pub(crate) past: Option<Vec<(Durable, Mark)>>,
    /// Messages that a promoted replica has never seen.
    pub(crate) lost_tail: BTreeSet<String>,
    /// How long until a node starts again, if chance does not say so.
    pub(crate) restart_after: Option<u64>,
    /// A socket's deadline has passed, and nothing else.
    ticking: bool,
    pub(crate) clients: Vec<Client>,
    pub(crate) chaos: bool,
    pub(crate) calm_since: u64,
    pub(crate) store_down_since: u64,
    pub(crate) store_down_until: u64,
    store_slow_until: u64,
    pub(crate) coverage: Coverage,
    pub(crate) check: Checker,
    pub(crate) planted: Option<Planted>,
    /// What each member lets others do.
    pub(crate) grants: BTreeMap<MemberId, BTreeMap<MemberId, serde_json::Value>>,
    /// `SIM_TRACE=text` prints whatever concerns that text.
    limits: Limits,
    pub(crate) crashes: usize,
    /// The end of the chain that a commit was to write, for [`Planted::HoleInChain`].
    pub(crate) sealed: Option<String>,
    trace: Option<String>,
}

/// One history in four knows one node; of the others some two, some four, and most three.
fn mode(seed: u64) -> Mode {
    match seed % 8 {
        0 | 4 => Mode::Alone,
        1 if seed % 16 == 1 => Mode::Cluster(2),
        1 => Mode::Cluster(4),
        _ => Mode::Cluster(3),
    }
}

/// Some histories know a rate limit, some a mesh that is just large enough, some short queues.
fn limits(seed: u64) -> Limits {
    match seed % 5 {
        1 => Limits { send_rate: 120, send_burst: 5, ..LIMITS },
        2 => Limits { capacity: KINDS.len() + 4, ..LIMITS },
        3 => Limits { mesh_queue_bytes: 1_500, recipient_queue_bytes: 300, ..LIMITS },
        _ => LIMITS,
    }
}

const KINDS: [(Kind, usize); 13] = [
    (Kind::Session, ADMIN),
    (Kind::Session, ADMIN),
    (Kind::Session, OWNER),
    (Kind::Session, 2),
    (Kind::Daemon, OWNER),
    (Kind::Silent, 3),
    (Kind::Session, 3),
    (Kind::Daemon, 2),
    (Kind::Daemon, 2),
    (Kind::Session, 4),
    (Kind::Daemon, 4),
    (Kind::OneShot, ADMIN),
    (Kind::OneShot, 3),
];
const MEMBERS: usize = 5;
/// After so long without a heartbeat a node is lost.
pub(crate) const TTL_MS: u64 = 3_000;
pub(crate) const ADMIN: usize = 0;
pub(crate) const OWNER: usize = 1;

fn member(index: usize, keys: &Keypair) -> Member {
    Member {
        id: format!("member-{index}").into(),
        pubkey: keys.public_hex().into(),
        display_name: format!("m{index}"),
        role: if index == ADMIN { "admin" } else { "member" }.to_owned(),
        role_tag: None,
        default_groups: Vec::new(),
        message_mode: "push".to_owned(),
        revoked: false,
        owner: index == OWNER,
        grants: Grants::default(),
    }
}

/// The members, the topics, and the clients that there will be.
fn populate(store: &mut SimStore, rng: &mut Rng) -> Vec<Client> {
    let members: Vec<Keypair> = (0..MEMBERS).map(|_| Keypair::from_seed(&rng.bytes32())).collect();
    for (index, keys) in members.iter().enumerate() {
        let member = member(index, keys);
        store.now.members.insert(member.id.clone(), member);
    }
    store.now.topics = beside::topics();
    let client = |(index, (kind, member)): (usize, &(Kind, usize))| {
        Client::new(index, *kind, *member, members[*member].clone(), rng)
    };
    KINDS.iter().enumerate().map(client).collect()
}

/// What a process's clock is ahead of the history's.
pub(crate) fn skew(process: u64) -> u64 {
    process.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40
}

fn next_conn(conn: ConnId) -> ConnId {
    ConnId { number: conn.number + 1_000_000, ..conn }
}

impl World {
    pub(crate) fn new(seed: u64, planted: Option<Planted>) -> Self {
        Self::with(seed, mode(seed), planted)
    }

    pub(crate) fn with(seed: u64, mode: Mode, planted: Option<Planted>) -> Self {
        let mut rng = Rng::new(seed);
        let mut store = SimStore::new(planted);
        let clients = populate(&mut store, &mut rng);
        let mut world = Self {
            mode,
            rng,
            now: 1_000,
            order: 0,
            events: BTreeMap::new(),
            store,
            processes: BTreeMap::new(),
            next_process: 1,
            sockets: BTreeMap::new(),
            next_socket: 1,
            ops: BTreeMap::new(),
            next_op: 1,
            waiting: Vec::new(),
            lost: Vec::new(),
            redis: Redis::default(),
            carried_at: BTreeMap::new(),
            streamed: BTreeMap::new(),
            links: crate::plant::Links::default(),
            owned: false,
            past: None,
            lost_tail: BTreeSet::new(),
            restart_after: None,
            ticking: false,
            clients,
            chaos: true,
            calm_since: 0,
            store_down_since: 0,
            store_down_until: 0,
            store_slow_until: 0,
            coverage: Coverage::new(),
            check: Checker::new(seed),
            planted,
            grants: BTreeMap::new(),
            limits: limits(seed),
            crashes: 0,
            sealed: None,
            trace: crate::text("SIM_TRACE"),
        };
        for client in &world.clients {
            world.check.introduce(client);
        }
        world.check.limits(&world.limits);
        world.check.owner_lost(world.now);
        (0..world.nodes()).for_each(|slot| world.start(slot));
        for client in 0..world.clients.len() {
            world.at(5 + client as u64, Event::ClientWake(client));
        }
        world.at(500, Event::Chaos);
        world
    }

    pub(crate) fn fire(&mut self, fault: Fault) {
        *self.coverage.entry(fault).or_default() += 1;
    }

    pub(crate) fn at(&mut self, after: u64, event: Event) {
        self.order += 1;
        self.events.insert((self.now + after, self.order), event);
    }

    pub(crate) fn is_rate_limited(&self) -> bool {
        self.limits.send_rate > 0
    }

    /// A number not used before.
    pub(crate) fn fresh(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    pub(crate) fn trace(&self, what: impl FnOnce() -> String) {
        if let Some(wanted) = &self.trace {
            let what = what();
            if wanted.split(',').any(|word| what.contains(word)) {
                println!("{:>7} {what}", self.now);
            }
        }
    }

    /// The time as a process knows it: no two clocks agree.
    pub(crate) fn time(&self, process: u64) -> Now {
        Now { mono: self.now + skew(process), wall: wall(self.now) }
    }

    /// The same, as it reads hellos by: it may not have followed the store's clock yet.
    fn reading_time(&self, process: u64) -> Now {
        let now = self.time(process);
        let behind = self.processes.get(&process).map_or((0, 0), |p| p.clock_behind);
        let behind = if self.now < behind.1 { behind.0 } else { 0 };
        Now { wall: now.wall - behind, ..now }
    }

    pub(crate) fn run_until(&mut self, end: u64) {
        while let Some(((at, _), event)) = self.events.pop_first() {
            if at > end {
                self.events.insert((at, 0), event);
                break;
            }
            self.now = at;
            self.handle(event);
            if self.check.failed() {
                return;
            }
        }
        self.now = end;
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Heartbeat(process) => self.heartbeat(process),
            Event::Sighted(process, asked, sighting) => self.sighted(process, asked, &sighting),
            Event::Sweep(process) => self.sweep(process),
            Event::Carried { to, from, bytes } => self.carried(&to, from, bytes),
            Event::Unheard(process, other) => self.unheard(process, &other),
            Event::Healed(process) => self.healed(process),
            Event::DrainNext(process) => self.drain_next(process),
            Event::MeshStep(process) => self.mesh_step(process),
            Event::MeshTick(process) => self.mesh_tick(process),
            Event::SocketTick(socket) => self.socket_tick(socket),
            Event::ToServer(socket, up) => self.arrive(socket, up),
            Event::Read(socket) => self.read(socket),
            Event::ToClient(socket, down) => {
                self.trace(|| format!("{} <- {down:?}", self.line(socket)));
                self.receive(socket, down);
            }
            Event::OpBegin(op) => self.op_begin(op),
            Event::OpEnd(op) => self.op_end(op),
            Event::OpAnswer(op, reply) => self.op_answer(op, reply),
            Event::ActivationRead(op) => self.activation_read(op),
            Event::ClientWake(client) => self.client_wake(client),
            Event::Chaos => self.chaos(),
            Event::Start(slot) => self.start_if_wanted(slot),
            Event::ClaimLost(process) => {
                if self.processes.keys().any(|other| *other > process) {
                    self.kill(process);
                }
            }
            Event::Thaw(process) => self.thaw(process),
            Event::Review(process) => self.review(process),
            Event::Unarchive => self.archive(false),
        }
    }
}
