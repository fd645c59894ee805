//! One connection's rules, without I/O: from frames to numbered commands, and from what the owner
//! says to frames.
//!
//! Guarantees: `hello_ack` is the first frame a peer gets unless it is refused; frames are executed
//! in the order they came, those before a close included; every request with an id is answered,
//! by the owner or, after [`RESULT_TIMEOUT_MS`](router::link::RESULT_TIMEOUT_MS), in its stead, and
//! in the order of the requests, whoever answers (`order`); acks of sends may come between.
//! While a hello is being answered, the window is full, a list is awaited, or the connection owes
//! for what it has asked (`cost`), nothing is read: TCP pushes back. Nobody is given up for time in
//! which the node itself stood still (`liveness`).

mod cost;
mod liveness;
#[cfg(test)]
mod liveness_tests;
mod order;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use protocol::client::{self, Malformed, Request};
use protocol::server::{self, Ack, Frame};
use protocol::{Close, EchoId, MeshId, close};
use router::link::Window;

pub use self::cost::{COST_BURST, COST_PER_SECOND, COST_WAIT_MS};
use self::cost::{Purse, REFUSAL, lists, only_asks};
use self::liveness::{Due, Liveness};
pub use self::liveness::{PING_MS, STALE_MS};
use self::order::Order;
use super::auth::{self, Rejection};
use crate::mesh::UNAVAILABLE;
use crate::mesh::io::{Attach, Command, ConnId, Ms, Now, Numbered, OpenedAt, STALL_MS, ToEdge};
use crate::model::{Envelope, Epoch};

/// Verbs other than `send` and `client_ack`, and control frames nobody asked for, that a connection
/// may use at once, and per second.
pub const VERB_BURST: u64 = 200;
/// See [`VERB_BURST`].
pub const VERBS_PER_SECOND: u64 = 50;
/// What a malformed frame weighs in verbs.
const MALFORMED_WEIGHT: u64 = 10;

/// What was read and waits until what the connection owes is paid. The socket is not read meanwhile.
#[derive(Debug)]
enum Parked {
    Request(Request),
    Send(protocol::client::Send),
}

/// What the connection's task must do, in order.
#[derive(Debug)]
pub enum Action {
    /// Join the link to this mesh's owner, as `conn`.
    Open {
        /// The connection.
        conn: ConnId,
        /// The mesh.
        mesh: MeshId,
    },
    /// Pass this to the owner.
    Up(Numbered),
    /// The peer answered a ping; 0 is the keep-alive's.
    Pong(ConnId, u64),
    /// Write a frame.
    Write(Frame),
    /// Write an event, shared with others.
    WriteEvent(Arc<Frame>),
    /// Write an envelope.
    WritePush {
        /// Of which mesh.
        mesh: MeshId,
        /// What.
        envelope: Arc<Envelope>,
        /// Do not say which member sent it.
        hide_member: bool,
    },
    /// Write a ping. 0 is the keep-alive's; others are probes.
    Ping(u64),
    /// Write a close frame; nothing is written or read behind it.
    Close(Close),
    /// Drop the socket without a word: the peer is gone.
    Terminate,
    /// The link may forget this connection: everything it asked for has been done or given up.
    Shut(ConnId),
    /// Count a hello that was refused here.
    CountRejected(&'static str),
    /// Count a frame that was neither executed nor answered.
    CountUnanswered,
    /// An ack reached the peer's side this long after its send was read.
    ObserveAck(Ms),
}

/// How the operator bounds a connection.
#[derive(Debug, Clone, Copy)]
pub struct EdgeLimits {
    /// How long a socket may go without a hello.
    pub hello_timeout_ms: Ms,
}

#[derive(Debug)]
enum Phase {
    /// No hello yet.
    Greeting { until: Ms },
    /// A hello is being answered.
    Attaching,
    /// At home.
    Attached,
    /// Another hello came: the old line is let go before the new one is taken up.
    Switching(MeshId, Box<Attach>),
    /// The socket is gone; what was read from it is still being executed.
    Closing,
    /// Nothing is left to do.
    Done,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    conn: ConnId,
    next_conn: fn(ConnId) -> ConnId,
    mesh: Option<MeshId>,
    opened_at: OpenedAt,
    epoch: Option<Epoch>,
    window: Window<Arc<Command>>,
    phase: Phase,
    /// Verbs in the bucket, times 1000, and when it was last filled.
    verbs: (u64, Ms),
    /// What the requests cost.
    purse: Purse,
    /// A request that waits until the others are paid. Nothing is read behind it.
    parked: Option<Box<Parked>>,
    /// What it owes for sends that were refused.
    refused: Purse,
    /// Requests whose answers have not been written.
    order: Order,
    liveness: Liveness,
    hello_timeout_ms: Ms,
    /// Pings that have not been answered.
    pings: u32,
    out: Vec<Action>,
}

impl Session {
    /// A socket has been opened. `conn` names its first line to an owner, `next_conn` makes the
    /// name of the next, should the peer say hello again.
    pub fn new(
        conn: ConnId,
        next_conn: fn(ConnId) -> ConnId,
        limits: EdgeLimits,
        now: Now,
    ) -> Self {
        Self {
            conn,
            next_conn,
            mesh: None,
            opened_at: OpenedAt { process: conn.process, mono: now.mono, wall: now.wall },
            epoch: None,
            window: Window::default(),
            phase: Phase::Greeting { until: now.mono + limits.hello_timeout_ms },
            verbs: (VERB_BURST * 1000, now.mono),
            purse: Purse::new(now.mono),
            parked: None,
            refused: Purse::new(now.mono),
            order: Order::default(),
            liveness: Liveness::new(now.mono),
            hello_timeout_ms: limits.hello_timeout_ms,
            pings: 0,
            out: Vec::new(),
        }
    }

    /// Whether the socket should be read.
    pub fn wants_read(&self) -> bool {
        match self.phase {
            Phase::Greeting { .. } => true,
            Phase::Attached => self.has_room(),
            _ => false,
        }
    }

    fn has_room(&self) -> bool {
        !self.window.is_full() && !self.order.is_full() && self.parked.is_none()
    }

    /// A peer that is not read cannot show that it lives.
    fn note_reading(&mut self, now: Now) {
        let reads = self.has_room();
        self.liveness.reads(now.mono, reads);
    }

    /// Whether no hello has been accepted for work yet.
    pub fn is_greeting(&self) -> bool {
        matches!(self.phase, Phase::Greeting { .. })
    }

    /// Whether everything is over.
    pub fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done)
    }

    /// Whether the socket itself is no longer needed.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closing | Phase::Done)
    }

    /// When [`tick`](Self::tick) is due.
    pub fn deadline(&self) -> Option<Ms> {
        let own = match self.phase {
            Phase::Greeting { until } => Some(until),
            Phase::Attached => {
                let even_at = self.parked.as_deref().map(|parked| match parked {
                    Parked::Request(_) => self.purse.even_at(),
                    Parked::Send(_) => self.refused.even_at(),
                });
                even_at.into_iter().chain([self.liveness.deadline()]).min()
            }
            _ => None,
        };
        [own, self.window.deadline()].into_iter().flatten().min()
    }

    /// What is to be done, in order. Leaves no room behind: an idle session is small.
    pub fn drain(&mut self) -> std::vec::IntoIter<Action> {
        std::mem::take(&mut self.out).into_iter()
    }

    // --- from the peer ---------------------------------------------------------------------

    /// A frame was read.
    pub fn frame(&mut self, now: Now, text: &str) {
        if self.is_closed() {
            return;
        }
        self.liveness.heard(now.mono);
        let frame = match client::parse(text) {
            Ok(frame) => frame,
            Err(malformed) => return self.malformed(now, malformed),
        };
        let free = matches!(frame, client::Frame::Send(_) | client::Frame::ClientAck(_))
            && matches!(self.phase, Phase::Attached);
        if !free && !self.afford(now, 1) {
            return self.close(now, close::FLOOD);
        }
        match frame {
            client::Frame::Hello(hello) => {
                let mesh = hello.mesh_id.as_str().into();
                self.hello(now, mesh, auth::hello(hello, now.wall));
            }
            client::Frame::SessionHello(hello) => {
                let mesh = hello.mesh_id.as_str().into();
                self.hello(now, mesh, auth::session_hello(hello, now.wall));
            }
            frame if !matches!(self.phase, Phase::Attached) => {
                let (id, req_id) = echo(&frame);
                self.error("no_hello", "must send hello first", id, req_id);
            }
            client::Frame::Send(send) if self.refused.owes(now.mono) => {
                self.parked = Some(Box::new(Parked::Send(send)));
                self.note_reading(now);
            }
            client::Frame::Send(send) => _ = self.push(now, Command::Send(send)),
            client::Frame::ClientAck(ack) => {
                if ack.broker_message_id.is_some() || ack.client_message_id.is_some() {
                    self.push(now, Command::ClientAck(ack));
                }
            }
            client::Frame::Request(request) if self.purse.owes(now.mono) => {
                self.parked = Some(Box::new(Parked::Request(request)));
                self.note_reading(now);
            }
            client::Frame::Request(request) => self.ask(now, request),
            client::Frame::Other { verb, req_id: Some(req_id) } => {
                let text = format!("this broker does not support {verb}");
                self.error("not_implemented", &text, None, Some(req_id));
            }
            client::Frame::Other { .. } => self.out.push(Action::CountUnanswered),
        }
    }

    /// The peer sent a ping of its own, which has been answered below. It counts as a verb does.
    pub fn ping(&mut self, now: Now) {
        self.liveness.heard(now.mono);
        if !self.is_closed() && !self.afford(now, 1) {
            self.close(now, close::FLOOD);
        }
    }

    /// The peer answered a ping. Where there was none to answer, that counts as a verb does.
    pub fn pong(&mut self, now: Now, nonce: u64) {
        match self.pings.checked_sub(1) {
            Some(pings) => self.pings = pings,
            None => self.ping(now),
        }
        self.liveness.heard(now.mono);
        if matches!(self.phase, Phase::Attached) {
            self.out.push(Action::Pong(self.conn, nonce));
        }
    }

    /// The peer has closed the socket (`clean`: with a close frame), or it broke.
    pub fn closed(&mut self, now: Now, clean: bool) {
        match self.phase {
            Phase::Closing | Phase::Done => {}
            Phase::Greeting { .. } => self.phase = Phase::Done,
            _ => {
                // What was read before the end is executed, if it does more than ask.
                match self.parked.take().map(|parked| *parked) {
                    Some(Parked::Request(request)) if !only_asks(&request.verb) => {
                        self.ask(now, request);
                    }
                    Some(Parked::Send(send)) => _ = self.push(now, Command::Send(send)),
                    _ => {}
                }
                self.order.clear();
                self.phase = Phase::Closing;
                self.push(now, Command::Detach { clean, next: None });
            }
        }
    }

    /// The node ends the connection.
    pub fn close(&mut self, now: Now, close: Close) {
        if !self.is_closed() {
            self.out.push(Action::Close(close));
            self.closed(now, false);
        }
    }

    fn hello(&mut self, now: Now, mesh: MeshId, checked: Result<Attach, Rejection>) {
        let mut attach = match checked {
            Ok(attach) => Box::new(attach),
            Err(rejection) => return self.reject(now, &rejection),
        };
        (attach.opened_at, attach.read_at) = (self.opened_at, now.wall);
        if matches!(self.phase, Phase::Attached) {
            let stays = self.mesh.as_ref() == Some(&mesh);
            let next = stays.then(|| attach.presence_keys());
            self.phase = Phase::Switching(mesh, attach);
            self.push(now, Command::Detach { clean: false, next });
        } else {
            self.take_up(now, mesh, attach);
        }
    }

    fn take_up(&mut self, now: Now, mesh: MeshId, attach: Box<Attach>) {
        self.phase = Phase::Attaching;
        self.mesh = Some(mesh.clone());
        self.epoch = None;
        self.out.push(Action::Open { conn: self.conn, mesh });
        let command = Command::Attach(attach);
        self.purse.greeted(&command);
        self.push(now, command);
    }

    fn reject(&mut self, now: Now, rejection: &Rejection) {
        self.out.push(Action::CountRejected(rejection.label));
        let mut last = refusal(rejection.code, &rejection.message, None, None);
        last.broker_time = rejection.broker_time;
        self.out.push(Action::Write(Frame::Error(last)));
        self.close(now, rejection.close());
    }

    fn malformed(&mut self, now: Now, malformed: Malformed) {
        if !self.afford(now, MALFORMED_WEIGHT) {
            return self.close(now, close::FLOOD);
        }
        let Malformed { verb, id, req_id, reason } = malformed;
        match verb.as_deref() {
            // Whoever begins like this speaks something else; with a hello it may have begun well.
            verb if self.is_greeting() || matches!(verb, Some("hello" | "session_hello")) => {
                self.out.push(Action::CountRejected("malformed"));
                let last = error("malformed", &format!("hello rejected: {reason}"), id, req_id);
                self.out.push(Action::Write(last));
                self.close(now, close::MALFORMED);
            }
            Some("send") if id.is_some() && matches!(self.phase, Phase::Attached) => {
                self.out.push(Action::CountUnanswered);
                let refused = Ack::refused(id, format!("invalid: {reason}"));
                self.out.push(Action::Write(Frame::Ack(refused)));
            }
            _ if id.is_some() || req_id.is_some() => self.error("malformed", &reason, id, req_id),
            _ => self.out.push(Action::CountUnanswered),
        }
    }

    /// What was just read is refused here, in its turn.
    fn error(&mut self, code: &str, message: &str, id: Option<EchoId>, req_id: Option<EchoId>) {
        self.order.say(error(code, message, id, req_id));
        self.answer();
    }

    /// Writes the answers whose turn it is.
    fn answer(&mut self) {
        while let Some(frame) = self.order.next() {
            if !self.is_closed() {
                self.out.push(Action::Write(frame));
            }
        }
    }

    fn afford(&mut self, now: Now, weight: u64) -> bool {
        let (level, since) = self.verbs;
        let earned = now.mono.saturating_sub(since).saturating_mul(VERBS_PER_SECOND);
        let level = (level + earned).min(VERB_BURST * 1000);
        let allowed = level >= weight * 1000;
        self.verbs = (if allowed { level - weight * 1000 } else { level }, now.mono);
        allowed
    }

    // --- to the owner ----------------------------------------------------------------------

    fn ask(&mut self, now: Now, request: Request) {
        self.purse.pay_request(now.mono, &request);
        let lists = lists(&request.verb);
        let number = self.push(now, Command::Request(request));
        self.order.expect(number, lists);
        self.note_reading(now);
    }

    fn push(&mut self, now: Now, command: Command) -> u64 {
        let bytes = command.bytes();
        let taken = self.window.push(Arc::new(command), bytes, now.mono);
        self.note_reading(now);
        if let (Some(epoch), Some((base, number, command))) = (self.epoch, self.window.last()) {
            let (conn, command) = (self.conn, command.clone());
            self.out.push(Action::Up(Numbered { conn, epoch, base, number, command }));
        }
        taken
    }

    // --- from the owner --------------------------------------------------------------------

    /// The owner says something.
    pub fn deliver(&mut self, now: Now, item: ToEdge) {
        match item {
            ToEdge::Reset(epoch) => self.reset(epoch),
            ToEdge::Attached { number, frame, .. } => {
                if self.release(now, number).is_some() && matches!(self.phase, Phase::Attaching) {
                    self.phase = Phase::Attached;
                    self.liveness = Liveness::new(now.mono);
                    self.out.push(Action::Write(frame));
                }
            }
            ToEdge::Refused { number, frame, close } => {
                self.release(now, number);
                if !self.is_closed() {
                    self.out.extend(frame.map(Action::Write));
                    self.out.push(Action::Close(close));
                }
                self.finish();
            }
            ToEdge::Result { number, frame } => self.result(now, number, frame),
            ToEdge::Unsupported(number) => {
                self.give_up(now, number);
                self.let_go(now);
            }
            ToEdge::Close(close) => self.close(now, close),
            _ if !matches!(self.phase, Phase::Attached) => {}
            ToEdge::Push { envelope, hide_member } => {
                if let Some(mesh) = self.mesh.clone() {
                    self.out.push(Action::WritePush { mesh, envelope, hide_member });
                }
            }
            ToEdge::Event(frame) => self.out.push(Action::WriteEvent(frame)),
            ToEdge::Probe(nonce) => self.send_ping(nonce),
        }
    }

    fn reset(&mut self, epoch: Epoch) {
        self.epoch = Some(epoch);
        let conn = self.conn;
        let again = self.window.unreleased().map(|(base, number, command)| {
            Action::Up(Numbered { conn, epoch, base, number, command: command.clone() })
        });
        self.out.extend(again);
    }

    fn release(&mut self, now: Now, number: u64) -> Option<(Arc<Command>, Ms)> {
        let released = self.window.release(number);
        self.note_reading(now);
        released
    }

    fn result(&mut self, now: Now, number: u64, frame: Option<Frame>) {
        let Some((command, since)) = self.release(now, number) else { return };
        if matches!(&*command, Command::Request(_)) {
            self.settle(now, number, frame);
        } else if let Some(frame) = frame
            && !self.is_closed()
        {
            if frame.is_acceptance() {
                self.out.push(Action::ObserveAck(now.mono.saturating_sub(since)));
            } else if !is_unavailable(&frame) {
                self.refused.pay(now.mono, REFUSAL);
            }
            self.out.push(Action::Write(frame));
        }
        if matches!((&*command, &self.phase), (Command::Attach(_), Phase::Attaching)) {
            // It came to nothing: its peer may say hello again, on another connection.
            return self.close(now, close::UNAVAILABLE);
        }
        self.let_go(now);
    }

    /// A request is decided: it is answered when those before it are.
    fn settle(&mut self, now: Now, number: u64, frame: Option<Frame>) {
        let bytes = frame.as_ref().map_or(0, Frame::json_bytes);
        self.purse.pay(now.mono, u64::try_from(bytes).unwrap_or(u64::MAX));
        if self.order.settle(number, frame) {
            self.answer();
        }
        self.note_reading(now);
    }

    /// A line is let go when everything it asked for, the detach behind it included, has its
    /// result or was given up.
    fn let_go(&mut self, now: Now) {
        if !matches!(self.phase, Phase::Switching(..) | Phase::Closing) || !self.window.is_empty() {
            return;
        }
        match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Switching(mesh, attach) => {
                self.out.push(Action::Shut(self.conn));
                self.conn = (self.next_conn)(self.conn);
                self.window = Window::default();
                self.take_up(now, mesh, attach);
            }
            _ => self.finish(),
        }
    }

    fn finish(&mut self) {
        self.phase = Phase::Done;
        self.out.push(Action::Shut(self.conn));
    }

    // --- time ------------------------------------------------------------------------------

    /// A deadline may have passed.
    pub fn tick(&mut self, now: Now) {
        if self.deadline().is_some_and(|due| due + STALL_MS < now.mono) {
            self.stood_still(now);
        }
        if let Phase::Greeting { until } = self.phase
            && until <= now.mono
        {
            return self.close(now, close::HELLO_TIMEOUT);
        }
        if self.is_closed() && self.window.overdue(now.mono).is_some() {
            // Nobody can be told that one of them was given up: what comes behind it must not be done
            // in its place, for the peer will ask again for all of it, elsewhere.
            self.window = Window::default();
        }
        while let Some(number) = self.window.overdue(now.mono) {
            self.give_up(now, number);
        }
        self.let_go(now);
        let due = self.parked.take_if(|parked| match **parked {
            Parked::Request(_) => !self.purse.owes(now.mono),
            Parked::Send(_) => !self.refused.owes(now.mono),
        });
        match due.map(|parked| *parked) {
            Some(Parked::Request(request)) => self.ask(now, request),
            Some(Parked::Send(send)) => _ = self.push(now, Command::Send(send)),
            None => {}
        }
        if matches!(self.phase, Phase::Attached) {
            match self.liveness.check(now.mono) {
                Due::Nothing => {}
                Due::Ping => self.send_ping(0),
                Due::Gone => {
                    self.out.push(Action::Terminate);
                    self.closed(now, false);
                }
            }
        }
    }

    /// This comes much later than it was due: the node stood still. The peer's word and the owner's
    /// may be on their way, so every wait begins anew.
    fn stood_still(&mut self, now: Now) {
        if let Phase::Greeting { until } = &mut self.phase {
            *until = now.mono + self.hello_timeout_ms;
        }
        self.window.restart(now.mono);
        self.liveness.stood_still(now.mono);
    }

    fn send_ping(&mut self, nonce: u64) {
        self.pings = self.pings.saturating_add(1);
        self.out.push(Action::Ping(nonce));
    }

    /// The owner does not answer, or does not know how: say so in its stead. Every refusal here may be retried.
    fn give_up(&mut self, now: Now, number: u64) {
        let Some((command, _)) = self.release(now, number) else { return };
        let req_id = match &*command {
            Command::Send(send) => {
                if !self.is_closed() {
                    let refused = Ack::refused(send.id.clone(), UNAVAILABLE);
                    self.out.push(Action::Write(Frame::Ack(refused)));
                }
                return;
            }
            Command::Attach(_) => {
                let text = "the broker cannot answer a hello now";
                self.out.push(Action::Write(error("unavailable", text, None, None)));
                return self.close(now, close::UNAVAILABLE);
            }
            Command::Detach { .. } | Command::ClientAck(_) | Command::Unknown => return,
            Command::Request(request) => &request.req_id,
        };
        let text = "the broker cannot answer now";
        let refused = req_id.is_some().then(|| error("unavailable", text, None, req_id.clone()));
        self.settle(now, number, refused);
    }
}

fn error(code: &str, message: &str, id: Option<EchoId>, req_id: Option<EchoId>) -> Frame {
    Frame::Error(refusal(code, message, id, req_id))
}

/// Whether a send was refused for no fault of its sender's.
fn is_unavailable(frame: &Frame) -> bool {
    match frame {
        Frame::Ack(ack) => ack.error.as_deref() == Some(UNAVAILABLE),
        // The quotes are JSON's own: in what a client wrote they would be escaped.
        Frame::Verbatim { text, .. } => {
            text.split_once(r#""error":""#).is_some_and(|(_, why)| why.starts_with(UNAVAILABLE))
        }
        _ => false,
    }
}

fn refusal(code: &str, message: &str, id: Option<EchoId>, req_id: Option<EchoId>) -> server::Error {
    server::Error {
        code: code.to_owned(),
        message: message.to_owned(),
        id: id.or_else(|| req_id.clone()),
        req_id,
        broker_time: None,
    }
}

fn echo(frame: &client::Frame) -> (Option<EchoId>, Option<EchoId>) {
    match frame {
        client::Frame::Send(send) => (send.id.clone(), None),
        client::Frame::Request(Request { req_id, .. }) | client::Frame::Other { req_id, .. } => {
            (None, req_id.clone())
        }
        _ => (None, None),
    }
}
