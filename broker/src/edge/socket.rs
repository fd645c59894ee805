//! One connection's task: carries frames between a WebSocket and its [`Session`], and items
//! between the session and the mesh. It has no rules of its own.
//!
//! One task per socket keeps an idle connection small; several frames are fed before each flush. A long
//! frame is written in chunks ([`long`]), so that a peer that does not read keeps little.
//! Writing waits for the peer at most [`WRITE_TIMEOUT`]; reading stops while the session says so.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use protocol::server::Text;
use protocol::{Close, close};
use router::link::local::{Outbox, Taken};
use tokio::io::AsyncReadExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::half_open::Place;
use super::metered::{Bound, Part};
use super::session::{Action, EdgeLimits, Session};
use super::upgrade::Socket;
use super::{Edge, Leave, long, wire};
use crate::mesh::io::{ConnId, Input, LONG_ANSWER, STALL_MS, ToEdge};
use crate::seat::handle::{Gone, Handle};
use crate::telemetry::labels::{ConnectionRejected, MessageRejected, SocketClosed};

/// Items taken from the outbox before their consequences are written.
const BATCH: usize = 64;
/// Frames read before others have their turn: who sends all the time is one among all that are busy.
const READ_BATCH: usize = 16;
/// A peer that takes nothing for so long is too slow.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// It is waited for in so many steps: of the time in which the node itself stands still, one counts
/// at most.
const WRITE_STEPS: u32 = 30;
/// A message must be whole so long after its first byte: the largest, 2 MiB, takes that long at
/// 70 KB a second. Time in which the socket is not read does not count.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// A member that says hello too often hears of it so much later.
const REFUSAL_DELAY: Duration = Duration::from_secs(1);
/// How long a closed socket is still read from, so that the peer gets the close frame and not a
/// reset (RFC 6455 §7.1.1).
const LINGER: Duration = Duration::from_secs(2);
/// So many frames of it are understood, to see the peer's own close; the rest is only bytes.
const LINGER_FRAMES: usize = 256;
/// And at most so many bytes, or a frame of twice the largest.
const LINGER_BYTES: usize = 4 * 1024 * 1024;

/// Why the socket is no longer there.
enum Ended {
    /// The peer closed it.
    Left,
    /// It broke, or the peer is gone without a word.
    Lost,
    /// The peer does not take what it is sent.
    Slow,
    /// The node has said good-bye.
    Closed,
}

/// Room for the numbers of 2^24 hellos on one socket, above those of 2^40 sockets.
const HELLO_BITS: u32 = 40;

fn next_conn(conn: ConnId) -> ConnId {
    ConnId { number: conn.number.wrapping_add(1 << HELLO_BITS), ..conn }
}

/// See the module.
pub(super) struct Connection {
    edge: Arc<Edge>,
    socket: Socket,
    session: Session,
    place: Option<Arc<Place>>,
    line: Option<Line>,
    /// What it shares with the others of its mesh.
    part: Option<Arc<Part>>,
    /// The socket is not being read.
    unread: bool,
    /// The peer has said good-bye.
    left: bool,
    /// What the peer sends can no longer be read as frames.
    garbled: bool,
    /// The node sends its sockets away: close then, so.
    leave: Option<(Instant, Close)>,
}

/// A line to a mesh. However the task ends, the mesh hears of it.
struct Line {
    edge: Arc<Edge>,
    conn: ConnId,
    mesh: Handle,
    outbox: Arc<Outbox<ToEdge>>,
}

impl Drop for Line {
    fn drop(&mut self) {
        let (mesh, conn) = (self.mesh.clone(), self.conn);
        self.edge.tasks.spawn(async move { mesh.shut(conn).await });
    }
}

impl Connection {
    pub(super) fn new(edge: Arc<Edge>, socket: Socket, place: Arc<Place>) -> Self {
        let conn = ConnId { process: edge.process, number: place.number() };
        let limits = EdgeLimits { hello_timeout_ms: edge.hello_timeout_ms };
        let session = Session::new(conn, next_conn, limits, edge.clock.now());
        Self {
            edge,
            socket,
            session,
            place: Some(place),
            line: None,
            part: None,
            unread: false,
            left: false,
            garbled: false,
            leave: None,
        }
    }

    /// What comes seldom is boxed, here and below: a connection at rest keeps no room for it.
    pub(super) async fn run(mut self) {
        let ended = self.serve().await;
        Box::pin(self.end(ended)).await;
    }

    async fn end(mut self, ended: Ended) {
        match ended {
            Ended::Closed => self.linger().await,
            Ended::Slow => {
                self.edge.metrics.socket_closed(SocketClosed::SlowConsumer);
                self.session.closed(self.edge.clock.now(), false);
                let _ = timeout(LINGER, self.say_goodbye(close::SLOW_CONSUMER)).await;
            }
            Ended::Left => {
                self.edge.metrics.socket_closed(SocketClosed::Client);
                // Sends the library's answer to the close frame (RFC 6455 §5.5.1).
                let _ = timeout(LINGER, self.socket.flush()).await;
            }
            Ended::Lost => {
                self.edge.metrics.socket_closed(SocketClosed::Lost);
                self.session.closed(self.edge.clock.now(), false);
            }
        }
        // What was read before the end is still being executed.
        let Self { edge, socket, mut session, line, .. } = self;
        drop(socket);
        let Some(line) = line else { return };
        finish(&edge, &mut session, &line).await;
    }

    async fn serve(&mut self) -> Ended {
        let mut items = Vec::new();
        let mut leaving = self.edge.leaving.clone();
        let told = *leaving.borrow_and_update();
        self.leave(told);
        // Whether the peer may have sent more than was read.
        let mut busy = false;
        loop {
            if let Err(ended) = self.act().await {
                return ended;
            }
            if self.session.is_closed() {
                return if self.left { Ended::Left } else { Ended::Lost };
            }
            let due = self.session.deadline().map(|at| self.edge.clock.instant(at));
            let unfinished = self.unfinished_until();
            let due = due.into_iter().chain(self.leave.map(|(at, _)| at)).chain(unfinished).min();
            let due = due.unwrap_or_else(|| Instant::now() + Duration::from_hours(1));
            let outbox = self.line.as_ref().map(|line| line.outbox.clone());
            let turns = self.part.as_ref().filter(|_| busy).map(|part| part.turns.clone());
            tokio::select! {
                biased;
                Ok(()) = leaving.changed() => {
                    let told = *leaving.borrow_and_update();
                    self.leave(told);
                }
                taken = take(outbox.as_deref(), &mut items) => {
                    if taken == Taken::Overflow {
                        return Ended::Slow;
                    }
                    let now = self.edge.clock.now();
                    // Taken whole, so that an idle connection keeps no room for a burst.
                    let taken = std::mem::take(&mut items);
                    for item in taken {
                        self.session.deliver(now, item);
                    }
                }
                read = next(turns, &mut self.socket), if self.session.wants_read() => {
                    let (_turn, message) = read;
                    busy = self.read(message);
                }
                () = sleep_until(due) => self.tick(),
            }
        }
    }

    fn tick(&mut self) {
        let now = self.edge.clock.now();
        match self.leave.filter(|(at, _)| *at <= Instant::now()) {
            Some((_, close)) => self.session.close(now, close),
            None => self.session.tick(now),
        }
        let overdue =
            self.unfinished_until().map(|at| Instant::now().saturating_duration_since(at));
        match overdue {
            // The node stood still: what was to come may wait in the socket.
            Some(late) if late > Duration::from_millis(STALL_MS) => {
                self.socket.get_mut().wait_anew();
            }
            Some(late) if !late.is_zero() => self.session.close(now, close::FLOOD),
            _ => {}
        }
    }

    /// When a message must be whole that has begun, if the peer can send the rest of it.
    fn unfinished_until(&mut self) -> Option<Instant> {
        let unread = !self.session.wants_read();
        if std::mem::replace(&mut self.unread, unread) && !unread {
            self.socket.get_mut().wait_anew();
        }
        let since = self.socket.get_ref().unfinished_since().filter(|_| !unread)?;
        Some(since + MESSAGE_TIMEOUT)
    }

    /// Takes a moment of those over which sockets go.
    fn leave(&mut self, told: Option<Leave>) {
        let Some(Leave { spread, close }) = told else { return };
        let part = RandomState::new().hash_one(0) % 1000;
        let part = u32::try_from(part).unwrap_or(0);
        self.leave = Some((Instant::now() + spread * part / 1000, close));
    }

    /// Reads what is there, up to a batch; whether there may be more.
    fn read(&mut self, first: Option<Result<Message, Error>>) -> bool {
        self.understand(first);
        for _ in 1..READ_BATCH {
            if !self.session.wants_read() {
                return false;
            }
            let Some(message) = self.socket.next().now_or_never() else { return false };
            self.understand(message);
        }
        true
    }

    fn understand(&mut self, message: Option<Result<Message, Error>>) {
        let now = self.edge.clock.now();
        match message {
            Some(Ok(Message::Text(text))) => self.session.frame(now, &text),
            Some(Ok(Message::Binary(bytes))) => {
                self.session.frame(now, &String::from_utf8_lossy(&bytes));
            }
            Some(Ok(Message::Pong(bytes))) => {
                let nonce = bytes.as_ref().try_into().map_or(0, u64::from_be_bytes);
                self.session.pong(now, nonce);
            }
            Some(Ok(Message::Ping(_))) => self.session.ping(now),
            // Only written, never read.
            Some(Ok(Message::Frame(_))) => {}
            Some(Ok(Message::Close(_))) => {
                self.left = true;
                self.session.closed(now, true);
            }
            Some(Err(Error::Capacity(_))) => {
                self.garbled = true;
                self.session.close(now, close::FRAME_TOO_LARGE);
            }
            Some(Err(Error::Io(error))) if let Some(bound) = Bound::of(&error) => {
                self.garbled = true;
                self.session.close(now, bound.close());
            }
            None | Some(Err(_)) => self.session.closed(now, false),
        }
    }

    /// Does what the session wants, then flushes once. What is for the mesh is passed on even when
    /// the socket turns out to be gone or is to be closed: what was read is executed, and the mesh
    /// hears of the end.
    async fn act(&mut self) -> Result<(), Ended> {
        let (mut written, mut closing, mut ended) = (false, None, None);
        for action in self.session.drain() {
            match action {
                Action::Open { conn, mesh } => {
                    self.place = None;
                    let part = self.edge.unfinished.of_mesh(&mesh);
                    self.socket.get_mut().greeted(part.clone());
                    self.part = Some(part);
                    Box::pin(self.open(conn, &mesh)).await;
                }
                Action::Up(numbered) => self.input(Input::Command(numbered)).await,
                Action::Pong(conn, 0) => self.input(Input::Alive(conn)).await,
                Action::Pong(conn, nonce) => self.input(Input::Pong { conn, nonce }).await,
                Action::Shut(_) => self.line = None,
                Action::CountRejected(label) => {
                    let reason = ConnectionRejected::named(label);
                    let reason = reason.unwrap_or(ConnectionRejected::Other);
                    self.edge.metrics.connection_rejected(reason);
                }
                Action::CountUnanswered => {
                    self.edge.metrics.message_rejected(MessageRejected::ParseOrHandler);
                }
                Action::ObserveAck(ms) => {
                    self.edge.metrics.ack_latency(Duration::from_millis(ms));
                }
                Action::Terminate => ended = Some(Ended::Lost),
                Action::Close(close) => closing = Some(close),
                _ if closing.is_some() || ended.is_some() => {}
                writing => {
                    written = true;
                    ended = self.write(writing).await.err();
                }
            }
        }
        if let Some(ended) = ended {
            return Err(ended);
        }
        if let Some(close) = closing {
            self.edge.metrics.socket_closed(close);
            if close == close::RATE_LIMIT {
                Box::pin(self.hold_back()).await;
            }
            return match Box::pin(patiently(self.say_goodbye(close))).await {
                Some(Ok(())) => Err(Ended::Closed),
                _ => Err(Ended::Lost),
            };
        }
        if written {
            self.flush().await?;
        }
        Ok(())
    }

    /// Who says hello too often is not told so at once: whoever comes back at once would cost more than
    /// what was refused.
    async fn hold_back(&mut self) {
        if let Some(part) = &self.part
            && let Ok(_held) = part.refusals.try_acquire()
        {
            sleep(REFUSAL_DELAY).await;
        }
    }

    async fn open(&mut self, conn: ConnId, mesh: &protocol::MeshId) {
        let mesh = self.edge.meshes.mesh(mesh);
        let outbox = Arc::new(Outbox::new(self.edge.outbox_bytes));
        let _ = mesh.open(conn, outbox.clone()).await;
        self.line = Some(Line { edge: self.edge.clone(), conn, mesh, outbox });
    }

    async fn input(&mut self, input: Input) {
        if let Some(line) = &self.line
            && line.mesh.input(input).await == Err(Gone)
        {
            let now = self.edge.clock.now();
            self.session.close(now, close::SHUTTING_DOWN);
        }
    }

    async fn write(&mut self, action: Action) -> Result<(), Ended> {
        let text = match action {
            Action::Write(frame) => frame.text(),
            Action::WriteEvent(frame) => frame.text(),
            Action::WritePush { mesh, envelope, hide_member } => {
                Text::Whole(wire::push(&mesh, &envelope, hide_member))
            }
            Action::Ping(nonce) => {
                let nonce = Bytes::copy_from_slice(&nonce.to_be_bytes());
                return self.feed(Message::Ping(nonce)).await;
            }
            // Not written: `act` has dealt with them.
            _ => return Ok(()),
        };
        if text.len() < LONG_ANSWER {
            return self.feed(Message::Text(text.into_string().into())).await;
        }
        self.flush().await?;
        let written = Box::pin(long::write(self.socket.get_mut(), &text, WRITE_TIMEOUT)).await;
        written.map_err(|error| match error.kind() {
            std::io::ErrorKind::TimedOut => Ended::Slow,
            _ => Ended::Lost,
        })
    }

    async fn feed(&mut self, message: Message) -> Result<(), Ended> {
        ended(patiently(self.socket.feed(message)).await)
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        ended(patiently(self.socket.flush()).await)
    }

    async fn say_goodbye(&mut self, close: Close) -> Result<(), Error> {
        let reason = Utf8Bytes::from_static(close.reason);
        let code = close.code.into();
        self.socket.send(Message::Close(Some(CloseFrame { code, reason }))).await
    }

    async fn linger(&mut self) {
        let rest = async {
            let mut frames = if self.garbled { 0 } else { LINGER_FRAMES };
            while frames > 0 {
                let Some(Ok(_)) = self.socket.next().await else { return };
                frames -= 1;
            }
            let mut left = LINGER_BYTES.max(2 * self.edge.max_frame_bytes);
            let mut rest = vec![0; 4096];
            let stream = self.socket.get_mut().inner_mut();
            while let Ok(count @ 1..) = stream.read(&mut rest).await {
                left = left.saturating_sub(count);
                if left == 0 {
                    return;
                }
            }
        };
        let _ = timeout(LINGER, rest).await;
    }
}

/// Everything that was asked before the socket closed gets its result, or is given up.
async fn finish(edge: &Edge, session: &mut Session, line: &Line) {
    let mut items = Vec::new();
    loop {
        for action in session.drain() {
            if let Action::Up(numbered) = action
                && line.mesh.input(Input::Command(numbered)).await.is_err()
            {
                return;
            }
        }
        if session.is_done() {
            return;
        }
        let Some(due) = session.deadline() else { return };
        tokio::select! {
            biased;
            taken = line.outbox.take(&mut items, BATCH) => {
                if taken == Taken::Overflow {
                    return;
                }
                items.drain(..).for_each(|item| session.deliver(edge.clock.now(), item));
            }
            () = sleep_until(edge.clock.instant(due)) => session.tick(edge.clock.now()),
        }
    }
}

/// The next message. Who may have sent many waits for a turn before they are read; nobody has one while
/// there is nothing to read.
async fn next(
    turns: Option<Arc<Semaphore>>,
    socket: &mut Socket,
) -> (Option<OwnedSemaphorePermit>, Option<Result<Message, Error>>) {
    if let Some(turns) = turns {
        // It is never closed.
        let turn = turns.acquire_owned().await.ok();
        tokio::task::yield_now().await;
        if let Some(message) = socket.next().now_or_never() {
            return (turn, message);
        }
    }
    (None, socket.next().await)
}

async fn take(outbox: Option<&Outbox<ToEdge>>, items: &mut Vec<ToEdge>) -> Taken {
    match outbox {
        Some(outbox) => outbox.take(items, BATCH).await,
        None => std::future::pending().await,
    }
}

/// Waits for the peer to take what is `written`, at most [`WRITE_TIMEOUT`]; nothing if it does not.
async fn patiently<T>(written: impl Future<Output = T>) -> Option<T> {
    let mut written = pin!(written);
    for _ in 0..WRITE_STEPS {
        if let Ok(done) = timeout(WRITE_TIMEOUT / WRITE_STEPS, &mut written).await {
            return Some(done);
        }
    }
    None
}

fn ended(written: Option<Result<(), Error>>) -> Result<(), Ended> {
    written.ok_or(Ended::Slow)?.map_err(|_| Ended::Lost)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    /// Of many connections nearly all are at rest, each in a task of this size.
    #[test]
    fn a_connection_at_rest_is_small() {
        fn size_of_future<T>(_: impl FnOnce(Connection) -> T) -> usize {
            std::mem::size_of::<T>()
        }
        let size = size_of_future(Connection::run);
        assert!(size < 3328, "{size}");
    }

    /// The process stops for 80 s while a write waits: that counts for one step of thirty.
    #[tokio::test(start_paused = true)]
    async fn a_write_does_not_time_out_over_the_nodes_own_pause() {
        let mut writing = pin!(patiently(std::future::pending::<()>()));
        assert_eq!((&mut writing).now_or_never(), None);
        advance(Duration::from_secs(80)).await;
        for _ in 1..WRITE_STEPS {
            assert_eq!((&mut writing).now_or_never(), None);
            advance(WRITE_TIMEOUT / WRITE_STEPS + Duration::from_millis(1)).await;
        }
        assert_eq!((&mut writing).now_or_never(), Some(None));
    }
}
