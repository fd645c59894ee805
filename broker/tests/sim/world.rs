//! One history: a node (at times two), a store, sockets and clients, driven by one seed in virtual
//! time. Sessions and the mesh are the production rules; only what carries them is simulated.

use std::collections::{BTreeMap, VecDeque};

use broker::edge::session::{Action, EdgeLimits, Session};
use broker::mesh::io::{ConnId, Effect, Held, Input, Ms, Now, Question, Ticket, ToEdge};
use broker::mesh::{Limits, Mesh};
use broker::model::{Epoch, Member, MeshCommit, Outcome, Write};
use protocol::MeshId;
use protocol::server::Frame;
use protocol::signature::Keypair;

use crate::check::Checker;
use crate::client::{Client, Kind, MESH, wall};
use crate::faults::{Coverage, Fault, Planted};
use crate::rng::Rng;
use crate::store::{Durable, SimStore};

pub(crate) const GRACE_MS: u64 = 90_000;
const LIMITS: Limits = Limits {
    grace_ms: GRACE_MS,
    capacity: 100,
    message_units: 65_536,
    send_rate: 0,
    send_burst: 10,
    offline_queue: false,
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
    Closed,
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
    open: BTreeMap<ConnId, u64>,
    held: BTreeMap<ConnId, Held>,
    inbox: VecDeque<Input>,
    stepping: bool,
    frozen: bool,
}

pub(crate) struct Socket {
    pub(crate) process: u64,
    pub(crate) client: usize,
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
}

enum Work {
    Commit(MeshCommit),
    Activate { floor: Epoch, snapshot: Option<Box<Durable>>, raised: Option<(Epoch, u64)> },
    Ask(Ticket, Question),
    Beat,
}

struct Op {
    process: u64,
    work: Work,
    /// The process gave up on it: what it does, nobody hears.
    orphan: bool,
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
    /// `SIM_TRACE=text` prints whatever concerns that text.
    trace: Option<String>,
}

fn next_conn(conn: ConnId) -> ConnId {
    ConnId { number: conn.number + 1_000_000, ..conn }
}

impl World {
    pub(crate) fn new(seed: u64, planted: Option<Planted>) -> Self {
        let mut rng = Rng::new(seed);
        let mut store = SimStore::new(planted);
        let members: Vec<Keypair> = (0..4).map(|_| Keypair::from_seed(&rng.bytes32())).collect();
        for (index, keys) in members.iter().enumerate() {
            let member = Member {
                id: format!("member-{index}").into(),
                pubkey: keys.public_hex().into(),
                display_name: format!("m{index}"),
                role: "member".to_owned(),
                role_tag: None,
                default_groups: Vec::new(),
                message_mode: "push".to_owned(),
                revoked: false,
            };
            store.now.members.insert(keys.public_hex(), member);
        }
        let kinds = [
            (Kind::Session, 0),
            (Kind::Session, 0),
            (Kind::Session, 1),
            (Kind::Session, 2),
            (Kind::Daemon, 1),
            (Kind::Silent, 3),
            (Kind::Session, 3),
        ];
        let clients = kinds
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
            trace: crate::text("SIM_TRACE"),
        };
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
            Event::MeshTick(process) => self.input(process, Input::Tick),
            Event::SocketTick(socket) => {
                let now = self.time();
                let frozen = self.frozen_socket(socket);
                if let Some(state) = self.sockets.get_mut(&socket) {
                    if !frozen {
                        state.session.tick(now);
                    }
                    self.pump(socket);
                }
            }
            Event::ToServer(socket, up) => self.to_server(socket, up),
            Event::Read(socket) => self.read(socket),
            Event::ToClient(socket, down) => {
                self.trace(|| format!("{} <- {down:?}", self.line(socket)));
                self.to_client(socket, down);
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
            Event::Thaw(process) => {
                if let Some(state) = self.processes.get_mut(&process) {
                    state.frozen = false;
                    self.step_soon(process);
                    let sockets = self.sockets.iter().filter(|(_, s)| s.process == process);
                    let sockets: Vec<_> = sockets.map(|(id, _)| *id).collect();
                    sockets.into_iter().for_each(|socket| self.read(socket));
                    let notices = self.rng.between(500, 3_000);
                    self.at(notices, Event::ClaimLost(process));
                }
            }
        }
    }

    // --- processes -------------------------------------------------------------------------

    pub(crate) fn start(&mut self) {
        let id = self.next_process;
        self.next_process += 1;
        let mut limits = LIMITS;
        if self.planted == Some(Planted::GraceForever) {
            limits.grace_ms = u64::MAX / 4;
        }
        let process = Process {
            mesh: Mesh::new(MeshId::from(MESH), limits),
            open: BTreeMap::new(),
            held: BTreeMap::new(),
            inbox: VecDeque::new(),
            stepping: false,
            frozen: false,
        };
        self.processes.insert(id, process);
        self.check.owner_lost(self.now);
        self.step_soon(id);
    }

    /// The process that new connections reach.
    pub(crate) fn current(&self) -> Option<u64> {
        self.processes.iter().rev().find(|(_, process)| !process.frozen).map(|(id, _)| *id)
    }

    pub(crate) fn kill(&mut self, process: u64) {
        if self.processes.remove(&process).is_none() {
            return;
        }
        self.check.owner_lost(self.now);
        let sockets: Vec<_> =
            self.sockets.iter().filter(|(_, s)| s.process == process).map(|(id, _)| *id).collect();
        for socket in sockets {
            self.down(socket, Down::Closed);
            let now = self.now;
            if let Some(state) = self.sockets.get_mut(&socket) {
                state.process = 0;
                state.lost_at.get_or_insert(now);
            }
        }
        for op in self.ops.values_mut().filter(|op| op.process == process) {
            op.orphan = true;
        }
        // A backend may finish what a dead client asked for, or roll it back when it notices.
        let orphans: Vec<_> =
            self.ops.iter().filter(|(_, op)| op.process == process).map(|(id, _)| *id).collect();
        for op in orphans {
            let begun = self.store.locks.contains(&op);
            if !begun || self.rng.one_in(2) {
                self.drop_op(op);
            }
        }
        if self.processes.is_empty() {
            let pause = if self.rng.one_in(4) { 20_000 } else { 1_500 };
            let pause = self.rng.between(50, pause);
            self.at(pause, Event::Start);
        }
    }

    pub(crate) fn freeze_and_replace(&mut self, process: u64) {
        let Some(state) = self.processes.get_mut(&process) else { return };
        state.frozen = true;
        let now = self.now;
        for socket in self.sockets.values_mut().filter(|socket| socket.process == process) {
            socket.lost_at.get_or_insert(now);
        }
        self.check.owner_lost(self.now);
        self.fire(Fault::TwoProcesses);
        self.start();
        let pause = self.rng.between(200, 20_000);
        self.at(pause, Event::Thaw(process));
    }

    fn frozen_socket(&self, socket: u64) -> bool {
        let process = self.sockets.get(&socket).map(|s| s.process);
        process.and_then(|p| self.processes.get(&p)).is_some_and(|p| p.frozen)
    }

    fn input(&mut self, process: u64, input: Input) {
        if let Some(state) = self.processes.get_mut(&process) {
            state.inbox.push_back(input);
            self.step_soon(process);
        }
    }

    fn step_soon(&mut self, process: u64) {
        let pause = self.rng.between(0, 2);
        if let Some(state) = self.processes.get_mut(&process)
            && !state.stepping
        {
            state.stepping = true;
            self.at(pause, Event::MeshStep(process));
        }
    }

    fn mesh_step(&mut self, id: u64) {
        let now = self.time();
        let Some(process) = self.processes.get_mut(&id) else { return };
        process.stepping = false;
        if process.frozen {
            return;
        }
        let inputs: Vec<_> = process.inbox.drain(..).collect();
        for input in inputs {
            self.trace(|| format!("process-{id} takes {input:?}"));
            if let Some(process) = self.processes.get_mut(&id) {
                process.mesh.apply(now, input);
            }
        }
        let Some(process) = self.processes.get_mut(&id) else { return };
        process.mesh.apply(now, Input::Tick);
        let mut effects = process.mesh.drain(now);
        let deadline = process.mesh.deadline();
        if self.planted == Some(Planted::PushesSwapped) {
            swap_pushes(&mut effects);
        }
        for effect in effects {
            self.trace(|| format!("process-{id} {effect:?}"));
            self.carry_out(id, effect);
        }
        if let Some(deadline) = deadline {
            self.at(deadline.saturating_sub(self.now).max(1), Event::MeshTick(id));
        }
        self.check.bounds(self.now, self.processes.get(&id).map(|p| &p.mesh));
    }

    fn carry_out(&mut self, id: u64, effect: Effect) {
        match effect {
            Effect::Activate { floor } => {
                self.check.owner_lost(self.now);
                self.op(id, Work::Activate { floor, snapshot: None, raised: None });
            }
            Effect::Commit(commit) => {
                if self.planted == Some(Planted::AckBeforeCommit) {
                    let early = Outcome::Committed { duplicates: Vec::new() };
                    self.input(id, Input::Committed(early));
                }
                self.op(id, Work::Commit(commit));
            }
            Effect::Ask(ticket, question) => self.op(id, Work::Ask(ticket, question)),
            Effect::Beat => self.op(id, Work::Beat),
            Effect::Reset(epoch) => {
                self.check.owner_found(self.now);
                let open = self.processes.get(&id).map(|process| process.open.keys().copied());
                let conns: Vec<_> = open.into_iter().flatten().collect();
                conns.into_iter().for_each(|conn| self.to_edge(id, conn, ToEdge::Reset(epoch)));
            }
            Effect::Attached { held, number, frame } => {
                let conn = held.conn;
                if let Some(process) = self.processes.get_mut(&id)
                    && process.open.contains_key(&conn)
                {
                    process.held.insert(conn, held.clone());
                    if let Some(id) = process.open.get(&conn)
                        && let Some(socket) = self.sockets.get_mut(id)
                    {
                        socket.lost_at = None;
                        self.check.attached(socket.client, *id);
                    }
                }
                self.to_edge(id, conn, ToEdge::Attached { held, number, frame });
            }
            Effect::Refused { conn, number, frame, close } => {
                self.to_edge(id, conn, ToEdge::Refused { number, frame, close });
            }
            Effect::Result { conn, number, frame } => {
                self.to_edge(id, conn, ToEdge::Result { number, frame });
            }
            Effect::Push { conn, envelope, hide_member } => {
                if self.planted == Some(Planted::ConfirmedByPush) {
                    self.store.now.deliveries.retain(|(_, seq)| *seq != envelope.seq);
                }
                self.to_edge(id, conn, ToEdge::Push { envelope, hide_member });
            }
            Effect::Broadcast { conns, frame } => {
                for conn in conns {
                    self.to_edge(id, conn, ToEdge::Event(frame.clone()));
                }
            }
            Effect::Probe { conn, nonce } => self.to_edge(id, conn, ToEdge::Probe(nonce)),
            Effect::Close { conn, close } => self.to_edge(id, conn, ToEdge::Close(close)),
            Effect::Superseded => self.kill(id),
            Effect::Count(_) => {}
        }
    }

    // --- sockets ---------------------------------------------------------------------------

    pub(crate) fn connect(&mut self, client: usize) -> Option<u64> {
        let process = self.current()?;
        let id = self.next_socket;
        self.next_socket += 1;
        let conn = ConnId { process, number: id };
        let limits = EdgeLimits { hello_timeout_ms: 10_000 };
        let session = Session::new(conn, next_conn, limits, self.time());
        let socket = Socket {
            process,
            client,
            session,
            client_end: true,
            stalled: false,
            lost_at: None,
            unread: VecDeque::new(),
            unseen: VecDeque::new(),
            up_at: 0,
            down_at: 0,
        };
        self.sockets.insert(id, socket);
        Some(id)
    }

    /// The client writes; frames keep their order.
    pub(crate) fn up(&mut self, socket: u64, up: Up) {
        let latency = self.rng.between(0, 15);
        let Some(state) = self.sockets.get_mut(&socket) else { return };
        state.up_at = state.up_at.max(self.now + latency);
        let after = state.up_at - self.now;
        self.at(after, Event::ToServer(socket, up));
    }

    fn down(&mut self, socket: u64, down: Down) {
        let latency = self.rng.between(0, 15);
        let Some(state) = self.sockets.get_mut(&socket) else { return };
        state.down_at = state.down_at.max(self.now + latency);
        let after = state.down_at - self.now;
        self.at(after, Event::ToClient(socket, down));
    }

    fn line(&self, socket: u64) -> String {
        let socket_state = self.sockets.get(&socket);
        let (client, process) = socket_state.map_or((0, 0), |s| (s.client, s.process));
        format!("client-{client} socket-{socket} process-{process}")
    }

    fn to_server(&mut self, socket: u64, up: Up) {
        if let Some(state) = self.sockets.get_mut(&socket) {
            state.unread.push_back(up);
            self.read(socket);
        }
    }

    /// The node reads what it wants to read.
    fn read(&mut self, socket: u64) {
        let now = self.time();
        loop {
            if self.frozen_socket(socket) {
                return;
            }
            let Some(state) = self.sockets.get_mut(&socket) else { return };
            let open = state.session.wants_read() || state.session.is_closed();
            if state.process == 0 || !open {
                return;
            }
            let Some(up) = state.unread.pop_front() else { return };
            self.trace(|| format!("{} -> {up:?}", self.line(socket)));
            let Some(state) = self.sockets.get_mut(&socket) else { return };
            match up {
                Up::Text(text) => state.session.frame(now, &text),
                Up::Pong(nonce) => state.session.pong(now, nonce),
                Up::Closed => {
                    let client = state.client;
                    state.session.closed(now);
                    self.check.departed(now.mono, client, socket);
                }
            }
            self.pump(socket);
        }
    }

    fn to_edge(&mut self, process: u64, conn: ConnId, item: ToEdge) {
        let now = self.time();
        let Some(socket) = self.processes.get(&process).and_then(|p| p.open.get(&conn).copied())
        else {
            return;
        };
        if let Some(state) = self.sockets.get_mut(&socket) {
            state.session.deliver(now, item);
            self.pump(socket);
            self.at(0, Event::Read(socket));
        }
    }

    fn pump(&mut self, socket: u64) {
        let Some(state) = self.sockets.get_mut(&socket) else { return };
        let (process, client) = (state.process, state.client);
        let actions: Vec<_> = state.session.drain().collect();
        let deadline = state.session.deadline();
        for action in actions {
            match action {
                Action::Open { conn, .. } => {
                    let Some(state) = self.processes.get_mut(&process) else { continue };
                    state.open.insert(conn, socket);
                    if let Some(epoch) = state.mesh.serving() {
                        self.to_edge(process, conn, ToEdge::Reset(epoch));
                    }
                }
                Action::Up(numbered) => self.input(process, Input::Command(numbered)),
                Action::Pong(conn, nonce) => self.input(process, Input::Pong { conn, nonce }),
                Action::Write(frame) => {
                    if let Frame::Ack(ack) = &frame
                        && ack.queued
                    {
                        self.check.acked(&ack.message_id, &self.store.now);
                    }
                    self.down(socket, Down::Text(frame.to_json()));
                }
                Action::WriteEvent(frame) => self.down(socket, Down::Text(frame.to_json())),
                Action::WritePush { envelope, .. } => {
                    let text = broker::edge::wire::push(&MeshId::from(MESH), &envelope, false);
                    self.down(socket, Down::Text(text));
                }
                Action::Ping(nonce) => self.down(socket, Down::Ping(nonce)),
                Action::Close(_) | Action::Terminate => {
                    self.check.departed(self.now, client, socket);
                    let now = self.now;
                    if let Some(state) = self.sockets.get_mut(&socket) {
                        state.lost_at.get_or_insert(now);
                    }
                    self.down(socket, Down::Closed);
                }
                Action::Shut(conn) => {
                    if let Some(state) = self.processes.get_mut(&process) {
                        state.open.remove(&conn);
                        state.held.remove(&conn);
                    }
                    self.input(process, Input::Lost(conn));
                }
                Action::CountRejected(_) | Action::CountUnanswered | Action::ObserveAck(_) => {}
            }
        }
        if let Some(deadline) = deadline {
            self.at(deadline.saturating_sub(self.now).max(1), Event::SocketTick(socket));
        }
    }

    // --- the store's side ------------------------------------------------------------------

    fn op(&mut self, process: u64, work: Work) {
        let id = self.next_op;
        self.next_op += 1;
        let latency = if self.now < self.store_slow_until { 900 } else { 4 };
        let latency = self.rng.between(0, latency);
        self.ops.insert(id, Op { process, work, orphan: false });
        self.at(latency, Event::OpBegin(id));
    }

    fn drop_op(&mut self, id: u64) {
        self.ops.remove(&id);
        self.store.locks.remove(&id);
        self.waiting.retain(|waiting| *waiting != id);
        self.unblock();
    }

    fn fails(&mut self, one_in: u64) -> bool {
        self.now < self.store_down_until || (self.chaos && self.rng.one_in(one_in))
    }

    fn op_begin(&mut self, id: u64) {
        let Some(op) = self.ops.get(&id) else { return };
        let process = op.process;
        match &op.work {
            Work::Beat => {
                if self.now >= self.store_down_until {
                    self.store.now.beats.insert(process, self.now);
                }
                self.ops.remove(&id);
            }
            Work::Ask(ticket, question) => {
                let (ticket, question) = (*ticket, question.clone());
                let answer = if self.fails(60) {
                    self.fire(Fault::AnswerFailed);
                    None
                } else {
                    Some(self.store.answer(&question))
                };
                let pause = if answer.is_none() { 1_000 } else { 2 };
                let reply = Reply::Input(Input::Answer(ticket, answer));
                self.at(pause, Event::OpAnswer(id, reply));
            }
            Work::Commit(_) => self.commit_begin(id, process),
            Work::Activate { .. } => self.activate_begin(id, process),
        }
    }

    fn commit_begin(&mut self, id: u64, process: u64) {
        let Some(Op { work: Work::Commit(commit), .. }) = self.ops.get(&id) else { return };
        let epoch = commit.epoch;
        if self.chaos && self.rng.one_in(400) {
            self.fire(Fault::CrashBeforeCommit);
            self.kill(process);
            return;
        }
        if self.fails(150) {
            self.fire(Fault::CommitRefusedUnknown);
            return self.at(3, Event::OpAnswer(id, Reply::Input(Input::CommitUnknown)));
        }
        if !self.store.fence(id, epoch) {
            let fenced = Reply::Input(Input::Committed(Outcome::Fenced));
            return self.at(1, Event::OpAnswer(id, fenced));
        }
        if self.chaos && self.rng.one_in(150) {
            // The caller hears of a failure; the backend goes on and commits later.
            self.fire(Fault::CommitDoneLate);
            self.at(1, Event::OpAnswer(id, Reply::Input(Input::CommitUnknown)));
            let late = self.rng.between(5, 400);
            return self.at(late, Event::OpEnd(id));
        }
        let latency = self.rng.between(0, 5);
        self.at(latency, Event::OpEnd(id));
    }

    fn op_end(&mut self, id: u64) {
        let Some(Op { work: Work::Commit(commit), orphan, process }) = self.ops.get(&id) else {
            return;
        };
        let (commit, orphan, process) = (commit.clone(), *orphan, *process);
        if orphan {
            self.fire(Fault::ZombieCommitLands);
        }
        let outcome = self.apply(&commit);
        self.store.locks.remove(&id);
        self.unblock();
        if !self.ops.contains_key(&id) || orphan {
            self.ops.remove(&id);
            return;
        }
        if self.chaos && self.rng.one_in(400) {
            self.fire(Fault::CrashAfterCommit);
            self.kill(process);
        } else if self.chaos && self.rng.one_in(150) {
            self.fire(Fault::CommitDoneUnknown);
            self.at(2, Event::OpAnswer(id, Reply::Input(Input::CommitUnknown)));
        } else {
            self.at(1, Event::OpAnswer(id, Reply::Input(Input::Committed(outcome))));
        }
    }

    fn apply(&mut self, commit: &MeshCommit) -> Outcome {
        let poison = commit.units.iter().position(|unit| {
            unit.0.iter().any(|write| {
                matches!(write, Write::Accept(a) if a.envelope.ciphertext.starts_with("poison"))
            })
        });
        let good = poison.unwrap_or(commit.units.len());
        let outcome = self.store.commit(self.now, &commit.units[..good]);
        self.check.views(&self.clients);
        self.check.committed(self.now, &self.store.now);
        match (poison, outcome) {
            (Some(committed), Outcome::Committed { duplicates }) => {
                self.fire(Fault::PoisonRow);
                Outcome::Poisoned { committed, duplicates }
            }
            (_, outcome) => outcome,
        }
    }

    fn activate_begin(&mut self, id: u64, process: u64) {
        if self.chaos && self.rng.one_in(60) {
            self.fire(Fault::CrashBeforeActivation);
            self.kill(process);
            return;
        }
        if self.fails(20) {
            self.fire(Fault::ActivationFailed);
            return self.at(3, Event::OpAnswer(id, Reply::Input(Input::NotActivated)));
        }
        if self.planted == Some(Planted::OneSnapshot) {
            let durable = Box::new(self.store.now.clone());
            if let Some(Op { work: Work::Activate { snapshot, .. }, .. }) = self.ops.get_mut(&id) {
                *snapshot = Some(durable);
            }
        }
        self.waiting.push(id);
        self.unblock();
    }

    /// A raise takes the row as soon as nobody holds it.
    fn unblock(&mut self) {
        if !self.store.locks.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.waiting) {
            let Some(op) = self.ops.get_mut(&id) else { continue };
            let process = op.process;
            let Work::Activate { floor, raised, .. } = &mut op.work else { continue };
            let (epoch, before) = self.store.raise(process, *floor);
            *raised = Some((epoch, before));
            if before != process {
                self.lost.push(before);
            }
            let pause = self.rng.between(0, 3);
            self.at(pause, Event::ActivationRead(id));
        }
        let now = self.now;
        for process in std::mem::take(&mut self.lost) {
            for socket in self.sockets.values_mut().filter(|socket| socket.process == process) {
                socket.lost_at.get_or_insert(now);
            }
        }
    }

    fn activation_read(&mut self, id: u64) {
        let Some(op) = self.ops.get(&id) else { return };
        let process = op.process;
        let Work::Activate { snapshot, raised: Some((epoch, before)), .. } = &op.work else {
            return;
        };
        let from = snapshot.as_deref().unwrap_or(&self.store.now);
        let activation = self.store.read(from, *epoch, *before);
        if self.chaos && self.rng.one_in(60) {
            self.fire(Fault::CrashAfterActivation);
            self.kill(process);
            return;
        }
        let reply = Reply::Activated(Some(Box::new(activation)));
        self.at(1, Event::OpAnswer(id, reply));
    }

    fn op_answer(&mut self, id: u64, reply: Reply) {
        let Some(op) = self.ops.get(&id) else { return };
        let (process, orphan) = (op.process, op.orphan);
        // A late commit stays with the store when its caller has been told that nobody knows.
        if matches!(&op.work, Work::Commit(_)) && self.store.locks.contains(&id) {
            self.ops.get_mut(&id).expect("just seen").orphan = true;
        } else {
            self.ops.remove(&id);
        }
        if orphan {
            return;
        }
        if self.planted == Some(Planted::AckBeforeCommit)
            && matches!(&reply, Reply::Input(Input::Committed(_)))
        {
            return;
        }
        let input = match reply {
            Reply::Input(input) => input,
            Reply::Activated(activation) => {
                let held = self.processes.get(&process).map(|p| p.held.values().cloned().collect());
                let entropy = u128::from(self.rng.next()) << 64 | u128::from(self.rng.next());
                Input::Activated { activation, entropy, held: held.unwrap_or_default() }
            }
        };
        self.input(process, input);
    }

    pub(crate) fn slow_store(&mut self, until: Ms) {
        self.store_slow_until = until;
    }

    /// No faults from here on; everybody who wants to be here comes back.
    pub(crate) fn calm(&mut self) {
        self.chaos = false;
        self.store_down_until = 0;
        self.store_slow_until = 0;
        self.unstall();
    }

    /// Clients that did not read catch up.
    pub(crate) fn unstall(&mut self) {
        for socket in self.sockets.keys().copied().collect::<Vec<_>>() {
            let Some(state) = self.sockets.get_mut(&socket) else { continue };
            state.stalled = false;
            for down in std::mem::take(&mut state.unseen) {
                self.to_client(socket, down);
            }
        }
    }
}

fn swap_pushes(effects: &mut [Effect]) {
    for index in 1..effects.len() {
        let (before, after) = effects.split_at_mut(index);
        if let (
            Some(Effect::Push { conn: a, envelope: x, .. }),
            Effect::Push { conn: b, envelope: y, .. },
        ) = (before.last_mut(), &mut after[0])
            && a == b
        {
            std::mem::swap(x, y);
        }
    }
}
