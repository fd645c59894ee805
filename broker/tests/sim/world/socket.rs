//! Sockets: a client's end, a session, and the time between them.

use std::collections::VecDeque;

use broker::edge::session::{Action, EdgeLimits, Session};
use broker::mesh::UNAVAILABLE;
use broker::mesh::io::{Command, ConnId, Input, Numbered, ToEdge};
use broker::seat::SeatInput;
use protocol::client::Verb;
use protocol::server::Frame;
use protocol::{Close, MeshId, close};

use super::{Down, Event, Socket, Up, World, next_conn, skew};
use crate::client::MESH;
use crate::faults::Planted;

/// The clocks of two nodes may differ by so much.
const SKEW_MS: u64 = 500;

impl World {
    pub(crate) fn connect(&mut self, client: usize) -> Option<u64> {
        let process = self.pick_node()?;
        let id = self.next_socket;
        self.next_socket += 1;
        let conn = ConnId { process, number: id };
        let limits = EdgeLimits { hello_timeout_ms: 10_000 };
        let session = Session::new(conn, next_conn, limits, self.time(process));
        let socket = Socket {
            process,
            client,
            identity: self.clients[client].identity,
            session,
            opened_at: self.now,
            client_end: true,
            stalled: false,
            stalled_at: None,
            greeted_at: None,
            hellos: VecDeque::new(),
            lost_at: None,
            unread: VecDeque::new(),
            unseen: VecDeque::new(),
            up_at: 0,
            down_at: 0,
            tick_at: None,
        };
        self.sockets.insert(id, socket);
        Some(id)
    }

    /// The client writes; frames keep their order.
    pub(crate) fn up(&mut self, socket: u64, up: Up) {
        let latency = self.rng.between(0, 15);
        let Some(state) = self.sockets.get_mut(&socket) else { return };
        if let Up::Text(text) = &up
            && text.contains(r#""signature""#)
        {
            state.hellos.push_back((self.now, text.clone()));
        }
        state.up_at = state.up_at.max(self.now + latency);
        let after = state.up_at - self.now;
        self.at(after, Event::ToServer(socket, up));
    }

    pub(crate) fn down(&mut self, socket: u64, down: Down) {
        let latency = self.rng.between(0, 15);
        let Some(state) = self.sockets.get_mut(&socket) else { return };
        state.down_at = state.down_at.max(self.now + latency);
        let after = state.down_at - self.now;
        self.at(after, Event::ToClient(socket, down));
    }

    pub(super) fn line(&self, socket: u64) -> String {
        let socket_state = self.sockets.get(&socket);
        let (client, process) = socket_state.map_or((0, 0), |s| (s.client, s.process));
        format!("client-{client} socket-{socket} process-{process}")
    }

    pub(super) fn arrive(&mut self, socket: u64, up: Up) {
        if let Some(state) = self.sockets.get_mut(&socket) {
            state.unread.push_back(up);
            self.read(socket);
        }
    }

    pub(super) fn socket_tick(&mut self, socket: u64) {
        let Some(process) = self.sockets.get(&socket).map(|state| state.process) else { return };
        let (now, frozen, at) = (self.time(process), self.frozen_socket(socket), self.now);
        let Some(state) = self.sockets.get_mut(&socket) else { return };
        if state.tick_at == Some(at) {
            state.tick_at = None;
            if !frozen && process != 0 {
                state.session.tick(now);
                self.ticking = true;
                self.pump(socket);
                self.ticking = false;
            }
        }
    }

    /// The node reads what it wants to read.
    pub(super) fn read(&mut self, socket: u64) {
        let at = self.now;
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
            let now = self.reading_time(self.sockets[&socket].process);
            let Some(state) = self.sockets.get_mut(&socket) else { return };
            match up {
                Up::Text(text) => {
                    if !state.session.is_closed() {
                        self.check.asked(at, socket, &text);
                    }
                    state.session.frame(now, &text);
                }
                Up::Pong(nonce) => state.session.pong(now, nonce),
                Up::Closed { clean } => {
                    let identity = state.identity;
                    state.session.closed(now, clean);
                    if clean {
                        self.check.goodbye_read(at, identity);
                    }
                    self.check.connection_ended(at, socket);
                    self.check.departed(at, identity, socket);
                }
            }
            self.pump(socket);
        }
    }

    pub(crate) fn tell(&mut self, process: u64, conn: ConnId, item: ToEdge) {
        let now = self.time(process);
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

    pub(super) fn pump(&mut self, socket: u64) {
        let Some(state) = self.sockets.get_mut(&socket) else { return };
        let (process, identity) = (state.process, state.identity);
        let actions: Vec<_> = state.session.drain().collect();
        let deadline = state.session.deadline();
        for action in actions {
            match action {
                Action::Open { conn, .. } => {
                    let Some(state) = self.processes.get_mut(&process) else { continue };
                    state.open.insert(conn, socket);
                    self.input(process, SeatInput::Open(conn));
                }
                Action::Up(numbered) => {
                    self.note_command(socket, identity, &numbered);
                    self.input(process, SeatInput::Local(Input::Command(numbered)));
                }
                Action::Pong(conn, nonce) => {
                    self.input(process, SeatInput::Local(Input::Pong { conn, nonce }));
                }
                Action::Write(frame) => self.put(socket, &frame),
                Action::WriteEvent(_) if self.forgets_missed(socket) => {}
                Action::WriteEvent(frame) => {
                    self.forge_event(socket, &frame);
                    self.down(socket, Down::Text(frame.to_json()));
                }
                Action::WritePush { envelope, .. } => {
                    let text = broker::edge::wire::push(&MeshId::from(MESH), &envelope, false);
                    self.down(socket, Down::Text(text));
                }
                Action::Ping(nonce) => self.down(socket, Down::Ping(nonce)),
                Action::Close(close) => {
                    self.judge_close(socket, close);
                    self.end(socket, identity);
                }
                Action::Terminate => self.end(socket, identity),
                Action::Shut(conn) => {
                    if let Some(state) = self.processes.get_mut(&process) {
                        state.open.remove(&conn);
                    }
                    self.input(process, SeatInput::Shut(conn));
                }
                Action::CountRejected(_) | Action::CountUnanswered | Action::ObserveAck(_) => {}
            }
        }
        if let (Some(deadline), Some(state)) = (deadline, self.sockets.get_mut(&socket)) {
            let due = deadline.saturating_sub(skew(process)).max(self.now + 1);
            if state.tick_at.is_none_or(|at| due < at) {
                state.tick_at = Some(due);
                self.at(due - self.now, Event::SocketTick(socket));
            }
        }
    }

    /// Plants that whoever is back is not told what it has missed.
    fn forgets_missed(&self, socket: u64) -> bool {
        let greeted_at = self.sockets.get(&socket).and_then(|state| state.greeted_at);
        self.plants(Planted::MissedUntold) && greeted_at.is_some_and(|at| self.now <= at + 2)
    }

    /// Nobody is displaced but by a later hello of its own; or by one of a socket that was opened so
    /// little before that the clocks of two nodes cannot tell.
    fn judge_close(&mut self, socket: u64, close: Close) {
        if close != close::SESSION_REPLACED {
            return;
        }
        let own = &self.sockets[&socket];
        let newer = self.sockets.iter().filter(|(id, state)| {
            let later = **id > socket || state.opened_at + SKEW_MS > own.opened_at;
            **id != socket && later && state.identity == own.identity
        });
        if newer.count() == 0 {
            let now = self.now;
            self.check.displaced(now, socket);
        }
    }

    fn put(&mut self, socket: u64, frame: &Frame) {
        if let Frame::Ack(ack) = frame
            && ack.queued
        {
            self.check.acked(&ack.message_id, &self.store.now);
        }
        let text = frame.to_json();
        // From another node it comes as text.
        if text.starts_with(r#"{"type":"hello_ack""#)
            && let Some(state) = self.sockets.get_mut(&socket)
        {
            state.greeted_at = Some(self.now);
        }
        if self.ticking && is_instead(frame) {
            self.check.unavailable(self.now, socket, &text);
        }
        self.check.answered(self.now, socket, &text);
        self.down(socket, Down::Text(text));
    }

    /// The node ends a connection.
    fn end(&mut self, socket: u64, identity: u64) {
        let now = self.now;
        self.check.connection_ended(now, socket);
        self.check.departed(now, identity, socket);
        if let Some(state) = self.sockets.get_mut(&socket) {
            state.lost_at.get_or_insert(now);
        }
        self.down(socket, Down::Closed);
    }

    fn note_command(&mut self, socket: u64, identity: u64, numbered: &Numbered) {
        if let Command::Detach { next: Some(_), .. } = &*numbered.command {
            let (now, client) = (self.now, self.sockets[&socket].client);
            if let Some(former) = self.clients[client].former.take() {
                self.check.replaced(now, former);
            }
        }
        let Command::Request(request) = &*numbered.command else { return };
        let kicks = matches!(request.verb, Verb::Kick(_));
        if kicks
            || matches!(request.verb, Verb::Disconnect(_) | Verb::Ban { .. } | Verb::Unban { .. })
        {
            let key = format!("{}:{}", numbered.conn, numbered.number);
            self.check.commanded(self.now, key, identity, kicks);
        }
    }

    /// Clients that did not read catch up.
    pub(crate) fn unstall(&mut self) {
        for socket in self.sockets.keys().copied().collect::<Vec<_>>() {
            let Some(state) = self.sockets.get_mut(&socket) else { continue };
            state.stalled = false;
            for down in std::mem::take(&mut state.unseen) {
                self.receive(socket, down);
            }
        }
    }
}

/// Whether it is the owner who should have said so: by itself, as time passes, an edge answers only
/// in its stead.
fn is_instead(frame: &Frame) -> bool {
    match frame {
        Frame::Ack(ack) => ack.error.as_deref() == Some(UNAVAILABLE),
        Frame::Error(error) => error.code == "unavailable",
        _ => false,
    }
}
