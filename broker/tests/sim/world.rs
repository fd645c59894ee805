//! One history: a node (at times two), a store, sockets and clients, driven by one seed in virtual
//! time. Sessions and the mesh are the production rules; only what carries them is simulated.

mod ops;
mod process;
mod socket;

use std::collections::{BTreeMap, VecDeque};

use broker::edge::session::Session;
use broker::mesh::io::{ConnId, Held, Input, Now, Question, Ticket};
use broker::mesh::{Limits, Mesh, StatusLimits};
use broker::model::{Epoch, Grants, Member, MeshCommit};
use protocol::MemberId;
use protocol::signature::Keypair;

use crate::beside;
use crate::check::Checker;
use crate::client::{Client, Kind, wall};
use crate::faults::{Coverage, Fault, Planted};
use crate::rng::Rng;
use crate::store::{Durable, SimStore};

pub(crate) const GRACE_MS: u64 = 90_000;
pub(crate) const WORKING_MS: u64 = 25_000;
pub(crate) const COOLDOWN_MS: u64 = 10_000;
const LIMITS: Limits = Limits {
    grace_ms: GRACE_MS,
    capacity: 100,
    message_units: 65_536,
    send_rate: 0,
    send_burst: 10,
    offline_queue: false,
    status: StatusLimits { hook_fresh_ms: 15_000, working_ms: WORKING_MS },
    kick_cooldown_ms: COOLDOWN_MS,
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
    Start,
    Thaw(u64),
    /// A process finds that another has its claim on the store.
    ClaimLost(u64),
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
    pub(crate) mesh: Mesh,
    pub(crate) open: BTreeMap<ConnId, u64>,
    held: BTreeMap<ConnId, Held>,
    inbox: VecDeque<Input>,
    stepping: bool,
    tick_at: Option<u64>,
    frozen: bool,
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
    Activate { floor: Epoch, snapshot: Option<Box<Durable>>, raised: Option<Epoch> },
    Ask(Ticket, Question),
    Beat,
}

struct Op {
    process: u64,
    work: Work,
    /// The process gave up on it: what it does, nobody hears.
    orphan: bool,
    /// A commit past the fence and not yet through.
    running: bool,
}

pub(crate) struct World {
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
    pub(crate) clients: Vec<Client>,
    pub(crate) chaos: bool,
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

/// Some histories know a rate limit, some a mesh that is just large enough.
fn limits(seed: u64) -> Limits {
    match seed % 5 {
        1 => Limits { send_rate: 120, send_burst: 5, ..LIMITS },
        2 => Limits { capacity: KINDS.len() + 4, ..LIMITS },
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

fn next_conn(conn: ConnId) -> ConnId {
    ConnId { number: conn.number + 1_000_000, ..conn }
}

impl World {
    pub(crate) fn new(seed: u64, planted: Option<Planted>) -> Self {
        let mut rng = Rng::new(seed);
        let mut store = SimStore::new(planted);
        let members: Vec<Keypair> =
            (0..MEMBERS).map(|_| Keypair::from_seed(&rng.bytes32())).collect();
        for (index, keys) in members.iter().enumerate() {
            let member = member(index, keys);
            store.now.members.insert(member.id.clone(), member);
        }
        store.now.topics = beside::topics();
        let clients = KINDS
            .iter()
            .enumerate()
            .map(|(i, (kind, member))| {
                Client::new(i, *kind, *member, members[*member].clone(), &mut rng)
            })
            .collect::<Vec<_>>();
        let mut world = Self {
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
            clients,
            chaos: true,
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
        world.start();
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

    fn time(&self) -> Now {
        Now { mono: self.now, wall: wall(self.now) }
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
            Event::Start => self.start(),
            Event::ClaimLost(process) => {
                if self.processes.keys().any(|other| *other > process) {
                    self.kill(process);
                }
            }
            Event::Thaw(process) => self.thaw(process),
        }
    }
}
