//! Membership, frames and leases over Redis.
//!
//! * **Membership**: [`Redis::heartbeat`] says that this node lives and tells who else does, in one
//!   script, by Redis's clock. What follows from that is [`crate::membership`]'s.
//! * **Frames**: [`Redis::send`] carries opaque items from node to node, over one channel per
//!   process. At most once: what Redis, a reader that lags or a broken connection loses is the
//!   link's to repeat. In order, as long as nothing is lost.
//! * **Leases**: [`Redis::save_leases`] keeps opaque bytes per mesh and presence, and refuses an
//!   owner of a lower epoch.
//!
//! Redis is a wire that others may reach. Everything in it is sealed (`seal`), what does not open is
//! dropped, counted and, once a minute, logged; what stands beside it in clear is a hint for the
//! scripts. Rows say how often their process has spoken: an old one that is put back does not go on
//! counting, and is taken for silence.
//!
//! Guarantees: nothing here waits for Redis longer than [`COMMAND_TIMEOUT`]; everything that waits is
//! bounded; connections and subscriptions come back by themselves, for as long as it takes. A
//! command whose connection broke is not repeated, since it may have been executed.
//!
//! The wire to Redis is RESP2: Redis 6 suffices, a Redis Cluster (`redis-cluster://`) wants 7, for
//! its sharded channels. Clusters that share a Redis do not meet: names and keys are a cluster's own.

mod client;
mod counters;
mod ears;
mod frame;
mod keys;
mod lanes;
mod leases;
mod nodes;
pub mod probe;
mod seal;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use fred::clients::Client;
use fred::types::scripts::Script;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::counters::Complaints;
pub use self::counters::{Count, Counters, Dropped};
use self::keys::Keys;
use self::lanes::{LANE_BYTES, Lanes, Pushed};
pub use self::leases::{Leases, Saved};
use self::nodes::{Continuity, Freshness};
pub use self::nodes::{Table, nodes};
pub use self::seal::Credentials;
use self::seal::{Kind, Sealer};
use crate::membership::{Ms, Timing};
use crate::node::NodeKey;

/// How long a command may take, and a connection to be made. Less than the time to live, so that
/// one heartbeat that got lost does not make a node blind.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);

/// Events that wait to be looked at. Each is told again when it happens again.
const EVENTS: usize = 1024;

/// Between two frames to one destination, while earlier ones are on their way to Redis: so a frame
/// does not wait for the answer to the one before it, however far Redis is, and under load frames
/// grow.
const PACE: Duration = Duration::from_millis(5);
/// Frames to one destination that Redis has not answered: a round trip of 300 ms at that pace.
const FLIGHTS: usize = 64;

/// What went wrong with Redis.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is none.
    #[error("the Redis URL cannot be used: {0}")]
    Url(fred::error::Error),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
    /// It could not be reached, refused or did not answer in time. What was asked of it may or may
    /// not have happened.
    #[error("Redis could not {0}: {1}")]
    Failed(&'static str, fred::error::Error),
    /// It answered something that makes no sense.
    #[error("Redis gave an answer that makes no sense when asked to {0}")]
    Answer(&'static str),
}

/// Items from another node.
#[derive(Debug)]
pub struct Incoming {
    /// Who sent them.
    pub from: NodeKey,
    /// In the order in which they were sent; at least one.
    pub items: Vec<Bytes>,
    /// Its part of the room for what has arrived, until dropped.
    _room: OwnedSemaphorePermit,
}

/// What happened on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something was published to this process and nobody listened: it is probably gone. What it
    /// was sent is lost.
    Unheard(NodeKey),
    /// Redis did not take what this process was sent, or did not say so: it may have arrived or
    /// not. This says nothing of the process.
    Unsent(NodeKey),
    /// Another node says that the membership has changed: a heartbeat would tell how.
    Hinted,
}

/// What arrives. Both are bounded; what finds no room is dropped and counted.
#[derive(Debug)]
pub struct Inbox {
    /// Items from other nodes.
    pub incoming: mpsc::Receiver<Incoming>,
    /// What happened on the way.
    pub events: mpsc::Receiver<Event>,
}

/// A node's place at a Redis. Cheap to clone.
#[derive(Clone)]
pub struct Redis(Arc<Shared>);

struct Shared {
    me: NodeKey,
    timing: Timing,
    sealer: Sealer,
    keys: Keys,
    commands: Client,
    ears: Client,
    /// The scripts that keep the table of nodes and save leases.
    table: Script,
    saver: Script,
    loader: Script,
    lanes: Lanes,
    counters: Counters,
    complaints: Complaints,
    continuity: Continuity,
    freshness: Freshness,
    /// Heartbeats of this process so far.
    beats: AtomicU64,
    events: mpsc::Sender<Event>,
    tasks: TaskTracker,
    started: Instant,
    /// Milliseconds from `started` until the canary last came back.
    heard_at: AtomicU64,
}

impl Redis {
    /// Connects, and listens on this process's channel. What is sealed with these credentials, only
    /// nodes with the same ones open. The tasks that keep this going end with `stop`, and are among `tasks`.
    ///
    /// # Errors
    ///
    /// The URL is none, or Redis cannot be reached or refuses us now. Once connected, it may go and
    /// come back as it likes.
    pub async fn connect(
        url: &str,
        me: NodeKey,
        credentials: &Credentials<'_>,
        timing: Timing,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<(Self, Inbox), Error> {
        let (shared, told) = Shared::new(url, me, credentials, timing, tasks)?;
        let sending = client::connect(&shared.commands).await?;
        let listening = client::connect(&shared.ears).await?;
        let stop = stop.child_token();
        tasks.spawn(client::keep(shared.commands.clone(), sending, stop.clone()));
        tasks.spawn(client::keep(shared.ears.clone(), listening, stop.clone()));
        let incoming = ears::open(&shared, &stop).await.inspect_err(|_| stop.cancel())?;
        Ok((Self(shared), Inbox { incoming, events: told }))
    }

    /// This node.
    pub fn me(&self) -> &NodeKey {
        &self.0.me
    }

    /// What has been done so far.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Sends an item to a process and does not wait. Whether there was room for it; if not, it is
    /// dropped. Items to one process arrive in order, several in one frame under load. Whatever
    /// becomes of them on the way, the sender learns no more than [`Event`] tells.
    pub fn send(&self, to: &NodeKey, item: Vec<u8>) -> bool {
        match self.0.lanes.push(to, item) {
            Pushed::Wait => true,
            Pushed::Start => {
                self.0.tasks.spawn(self.0.clone().fly(to.clone()));
                true
            }
            Pushed::Full => {
                self.0.counters.drop(Dropped::LaneFull, 1);
                false
            }
        }
    }

    /// Tells every other node that the membership has changed.
    ///
    /// # Errors
    ///
    /// Redis did not take it: the others will see the change at their next heartbeat.
    pub async fn hint(&self) -> Result<(), Error> {
        let shared = &self.0;
        let me = shared.me.to_string();
        let Some(hint) = shared.sealer.seal(Kind::Hint, b"", |hint| hint.extend(me.as_bytes()))
        else {
            return Ok(());
        };
        shared.publish(shared.keys.hints.clone(), hint.into(), "publish a hint").await.map(|_| ())
    }

    /// Time since a message to this node's own channel last came back, in milliseconds; one is sent
    /// every second, or three within the time to live. Before the first has, the time since it connected.
    pub fn silence(&self) -> Ms {
        self.0.now().saturating_sub(self.0.heard_at.load(Ordering::Relaxed))
    }

    /// Whether a message to this node's own channel has come back within the time to live.
    pub fn hears(&self) -> bool {
        self.0.heard_at.load(Ordering::Relaxed) > 0 && self.silence() <= self.0.timing.ttl_ms
    }
}

impl Shared {
    /// Everything but the connections.
    fn new(
        url: &str,
        me: NodeKey,
        credentials: &Credentials<'_>,
        timing: Timing,
        tasks: &TaskTracker,
    ) -> Result<(Arc<Self>, mpsc::Receiver<Event>), Error> {
        let (events, told) = mpsc::channel(EVENTS);
        let shared = Self {
            me,
            timing,
            sealer: Sealer::new(credentials).map_err(|_| Error::Random)?,
            keys: Keys::of(credentials.cluster),
            commands: client::new(url, client::EVENTS)?,
            ears: client::new(url, ears::FRAMES)?,
            table: Script::from_lua(nodes::SCRIPT),
            saver: Script::from_lua(leases::SAVER),
            loader: Script::from_lua(leases::LOADER),
            lanes: Lanes::default(),
            counters: Counters::default(),
            complaints: Complaints::default(),
            continuity: Continuity::default(),
            freshness: Freshness::default(),
            beats: AtomicU64::new(0),
            events,
            tasks: tasks.clone(),
            started: Instant::now(),
            heard_at: AtomicU64::new(0),
        };
        Ok((Arc::new(shared), told))
    }

    /// Publishes what waits for a process, frame by frame, until nothing does.
    async fn fly(self: Arc<Self>, to: NodeKey) {
        let channel = self.keys.channel(&to);
        let (mut flights, mut bytes) = (VecDeque::new(), 0);
        while let Some(items) = self.lanes.next(&to) {
            let Some(frame) = frame::seal(&self.sealer, &self.me, &to, &items) else { continue };
            self.counters.frames_out.add(1);
            self.counters.items_out.add(items.len());
            self.counters.bytes_out.add(frame.len());
            drop(items);
            let length = frame.len();
            let mut flight = Box::pin(self.clone().flight(channel.clone(), frame, to.clone()));
            // Polled for the first time here: so frames are handed over in their order.
            if poll_fn(|cx| Poll::Ready(flight.as_mut().poll(cx).is_ready())).await {
                continue;
            }
            let mut flight = self.tasks.spawn(flight);
            if timeout(PACE, &mut flight).await.is_err() {
                flights.push_back((flight, length));
                bytes += length;
            }
            while flights.len() >= FLIGHTS || bytes > LANE_BYTES {
                let Some((flight, length)) = flights.pop_front() else { break };
                let _ = flight.await;
                bytes -= length;
            }
        }
    }

    /// Publishes one frame, and tells what became of it.
    async fn flight(self: Arc<Self>, channel: String, frame: Vec<u8>, to: NodeKey) {
        match self.publish(channel, frame.into(), "publish a frame").await {
            Ok(0) => {
                self.counters.drop(Dropped::Unheard, 1);
                self.tell(Event::Unheard(to));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(node.id = %to, %error, "a frame was not sent");
                self.counters.drop(Dropped::Unsent, 1);
                self.tell(Event::Unsent(to));
            }
        }
    }

    /// Something that came through Redis is not used.
    fn refuse(&self, why: Dropped, count: usize) {
        self.counters.drop(why, count);
        self.complaints.about(why, count);
    }

    /// Tells what happened, unless too much waits to be looked at.
    fn tell(&self, event: Event) {
        let _ = self.events.try_send(event);
    }

    /// Milliseconds since this was connected; at least one.
    fn now(&self) -> Ms {
        client::ms(self.started.elapsed()).saturating_add(1)
    }
}
