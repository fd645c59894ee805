//! The loop that runs one seat: receive, apply, act. It has no rules of its own.
//!
//! Everything the rules ask of the store is under way here at once, in [`Work`]; its answers come
//! back as inputs. Effects are carried out in order, and nothing here waits on a peer.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use protocol::MeshId;
use router::link::local::Outbox;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cluster::Cluster;
use super::handle::{Meshes, Message, lock};
use super::io::{SeatEffect, SeatInput, Sight};
use super::item::{self, Item};
use super::mirror::Mirror;
use super::state::Seat;
use super::verify::verify;
use crate::clock::Clock;
use crate::mesh::Limits;
use crate::mesh::io::{Answer, ConnId, Count, Input, Ms, Question, Ticket, ToEdge};
use crate::model::{Activation, Epoch, MeshCommit};
use crate::store::committer::Committer;
use crate::store::{Store, StoreError};
use crate::telemetry::Metrics;
use crate::telemetry::labels::{ConnectionRejected, GrantCap, MessageDropped, MessageRejected};

/// Messages taken in before their effects are worked out: what arrives together commits together.
const BATCH: usize = 256;
/// How long a mesh without anybody stays in memory.
const IDLE: Duration = Duration::from_secs(30);
/// Pause before a failed read is answered, so that a store that fails at once is not asked at once.
const READ_RETRY: Duration = Duration::from_secs(1);
/// The longest pause behind a walk through an audit chain.
const WALK_PAUSE: Duration = Duration::from_secs(2);
/// A turn that has taken so long lets others come before its mesh goes on.
const TURN: Duration = Duration::from_millis(1);
/// A beat serves all meshes of the node: one that is so young need not be repeated.
const BEAT_YOUNG_MS: Ms = 900;

/// What all meshes of a node share.
pub struct Node {
    /// This incarnation, as the store knows it.
    pub name: Arc<str>,
    /// Drawn at random when the process started: the one of its connections.
    pub process: u64,
    /// The other nodes.
    pub cluster: Arc<dyn Cluster>,
    /// How meshes are bounded.
    pub limits: Limits,
    /// The durable side.
    pub store: Arc<dyn Store>,
    /// Its group commit.
    pub committer: Committer,
    /// The time.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Metrics,
    /// Every task.
    pub tasks: TaskTracker,
    /// Ends the actors, once no socket is left.
    pub stop: CancellationToken,
    /// Set when another process turns out to own the store.
    pub superseded: CancellationToken,
    /// Told when meshes have gone to others whom this node does not see: its sockets should follow.
    pub shed: Arc<Notify>,
    /// Readers of audit chains, of all meshes: long reads must not take every connection.
    pub audits: Arc<Semaphore>,
    /// Other questions that peers may ask of the store, of all meshes. Hellos and sends do not wait
    /// behind them.
    pub questions: Semaphore,
    /// Meshes that run here. For a moment an actor that ends and the next may both have one.
    pub owned: Mutex<BTreeMap<MeshId, usize>>,
    /// Places for meshes that are being taken over.
    pub takeovers: Semaphore,
    /// When the store was last told that this node lives.
    pub last_beat: AtomicU64,
}

impl Node {
    /// See [`Node::owned`].
    pub(super) fn owned(&self) -> MutexGuard<'_, BTreeMap<MeshId, usize>> {
        // A panic elsewhere cannot leave the map half changed.
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disown(&self, mesh: &MeshId) {
        if let Entry::Occupied(mut actors) = self.owned().entry(mesh.clone()) {
            *actors.get_mut() -= 1;
            if *actors.get() == 0 {
                actors.remove();
            }
        }
    }
}

type Work = FuturesUnordered<Pin<Box<dyn Future<Output = Option<SeatInput>> + Send>>>;

pub(super) struct Actor {
    id: MeshId,
    seat: Seat,
    node: Arc<Node>,
    meshes: Arc<Meshes>,
    messages: mpsc::Receiver<Message>,
    lines: HashMap<ConnId, Arc<Outbox<ToEdge>>>,
    work: Work,
    idle_since: Option<Instant>,
    sight: Sight,
    mirror: Mirror,
    /// Whether it counts among the meshes that run here.
    counted: bool,
}

impl Drop for Actor {
    fn drop(&mut self) {
        if self.counted {
            self.node.disown(&self.id);
        }
    }
}

impl Actor {
    pub(super) fn new(
        id: MeshId,
        node: Arc<Node>,
        meshes: Arc<Meshes>,
        (own, messages): (mpsc::WeakSender<Message>, mpsc::Receiver<Message>),
    ) -> Self {
        let seat = Seat::new(id.clone(), node.process, node.limits, node.cluster.is_clustered());
        let (lines, work) = (HashMap::new(), FuturesUnordered::new());
        let sight = node.cluster.sight();
        let mirror = Mirror::new(id.clone(), node.cluster.clone(), own);
        let (idle_since, counted) = (None, false);
        Self { id, seat, node, meshes, messages, lines, work, idle_since, sight, mirror, counted }
    }

    pub(super) async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut waiting = VecDeque::new();
        let stop = self.node.stop.clone();
        let mut changes = self.node.cluster.changes();
        loop {
            let until = self.wake_at();
            let mut began = Instant::now();
            tokio::select! {
                biased;
                () = stop.cancelled(), if self.work.is_empty() && waiting.is_empty() => return,
                Ok(()) = changes.changed() => {
                    self.look();
                    self.apply(SeatInput::Looked);
                }
                Some(input) = self.work.next(), if !self.work.is_empty() => {
                    began = Instant::now();
                    self.look();
                    self.worked(input, began);
                }
                count = self.messages.recv_many(&mut batch, BATCH), if waiting.is_empty() => {
                    if count == 0 {
                        return;
                    }
                    began = Instant::now();
                    waiting.extend(batch.drain(..));
                    self.take(&mut waiting, began);
                }
                () = std::future::ready(()), if !waiting.is_empty() => {
                    self.take(&mut waiting, began);
                }
                () = sleep_until(until) => {
                    self.look();
                    self.apply(SeatInput::Tick);
                }
            }
            self.settle();
            if waiting.is_empty() && self.may_rest() {
                return;
            }
            if began.elapsed() >= TURN {
                yield_now().await;
            }
        }
    }

    /// Takes in what waits, for a turn.
    fn take(&mut self, waiting: &mut VecDeque<Message>, began: Instant) {
        self.look();
        while let Some(message) = waiting.pop_front() {
            self.receive(message);
            if began.elapsed() >= TURN {
                return;
            }
        }
    }

    fn wake_at(&self) -> Instant {
        let clock = self.node.clock;
        let rules = self.seat.deadline().map(|at| clock.instant(at));
        let rest = self.idle_since.map(|since| since + IDLE);
        let far = Instant::now() + Duration::from_hours(1);
        [rules, rest].into_iter().flatten().min().unwrap_or(far)
    }

    /// A mesh that nobody uses leaves memory. Under the directory's lock nobody can find it
    /// meanwhile; a count of one says that nobody has already.
    fn may_rest(&mut self) -> bool {
        let idle = self.lines.is_empty() && self.work.is_empty() && self.seat.is_idle();
        if !idle {
            self.idle_since = None;
            return false;
        }
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        if since.elapsed() < IDLE && !self.seat.is_missing() {
            return false;
        }
        let mut meshes = lock(&self.meshes);
        if self.messages.is_empty() && self.messages.sender_strong_count() == 1 {
            meshes.remove(&self.id);
            drop(meshes);
            self.seat.leave().into_iter().for_each(|effect| self.carry_out(effect));
            return true;
        }
        false
    }

    fn look(&mut self) {
        self.sight = self.node.cluster.sight();
    }

    fn apply(&mut self, input: SeatInput) {
        self.seat.apply(self.node.clock.now(), &self.sight, input);
    }

    fn worked(&mut self, input: Option<SeatInput>, began: Instant) {
        let mut next = Some(input);
        while let Some(input) = next {
            if let Some(input) = input {
                self.apply(input);
            }
            if began.elapsed() >= TURN {
                return;
            }
            next = self.work.next().now_or_never().flatten();
        }
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Input(input) => self.apply(SeatInput::Local(input)),
            Message::Open(conn, outbox) => {
                self.lines.insert(conn, outbox);
                self.apply(SeatInput::Open(conn));
            }
            Message::Shut(conn) => {
                self.lines.remove(&conn);
                self.apply(SeatInput::Shut(conn));
            }
            Message::Seat(input) => self.apply(input),
        }
    }

    fn settle(&mut self) {
        for effect in self.seat.drain(self.node.clock.now(), &self.sight) {
            self.carry_out(effect);
        }
        let owned = self.seat.mesh().is_some_and(|mesh| !mesh.is_missing());
        if owned != self.counted {
            self.counted = owned;
            if owned {
                *self.node.owned().entry(self.id.clone()).or_default() += 1;
            } else {
                self.node.disown(&self.id);
            }
        }
    }

    fn carry_out(&mut self, effect: SeatEffect) {
        match effect {
            SeatEffect::Tell(conns, item) => self.tell(&conns, item),
            SeatEffect::Say(to, said) => {
                if let Some(bytes) = item::encode(&self.id, &said) {
                    self.node.cluster.say(&to, bytes);
                }
            }
            SeatEffect::SayAll(said) => self.say_all(&said),
            SeatEffect::Activate { term, floor } => self.activate(term, floor),
            SeatEffect::Commit { term, commit } => self.commit(term, commit),
            SeatEffect::Ask { term, ticket, question } => self.ask(term, ticket, question),
            SeatEffect::Forget => self.work.clear(),
            SeatEffect::Mirror(news) => {
                if self.mirror.note(news) {
                    self.node.tasks.spawn(self.mirror.clone().write());
                }
            }
            SeatEffect::Beat => self.beat(),
            SeatEffect::Count(count) => self.count(count),
            SeatEffect::Superseded => self.node.superseded.cancel(),
            SeatEffect::Shed => self.node.shed.notify_one(),
        }
    }

    fn say_all(&self, said: &Item) {
        let Some(bytes) = item::encode(&self.id, said) else { return };
        for node in self.sight.view.others() {
            self.node.cluster.say(node, bytes.clone());
        }
    }

    fn tell(&self, conns: &[ConnId], item: ToEdge) {
        if let ToEdge::Push { envelope, .. } = &item {
            let waited = self.node.clock.now().wall.saturating_sub(envelope.created_at);
            let waited = Duration::from_millis(waited.unsigned_abs());
            self.node.metrics.delivery_latency(waited);
        }
        // A connection has one at a time, and is not to be ended for having asked.
        let bytes = if item.is_long_answer() { 0 } else { item.bytes() };
        let Some((last, rest)) = conns.split_last() else { return };
        for conn in rest {
            if let Some(outbox) = self.lines.get(conn) {
                outbox.push(item.clone(), bytes);
            }
        }
        if let Some(outbox) = self.lines.get(last) {
            outbox.push(item, bytes);
        }
    }

    fn count(&self, count: Count) {
        let metrics = &self.node.metrics;
        match count {
            Count::Connected => metrics.connection_opened(),
            Count::Rejected(code) => {
                metrics.connection_rejected(
                    ConnectionRejected::named(code).unwrap_or(ConnectionRejected::Other),
                );
            }
            Count::SendRejected(label) => {
                let reason = MessageRejected::named(label);
                metrics.message_rejected(reason.unwrap_or(MessageRejected::ParseOrHandler));
            }
            Count::Routed(priority) => metrics.messages_routed(priority, 1),
            Count::Dropped(reason, count) => {
                if let Some(reason) = MessageDropped::named(reason) {
                    metrics.messages_dropped(reason, count);
                }
            }
            Count::Denied(capability) => {
                if let Some(cap) = GrantCap::named(capability.as_str()) {
                    metrics.message_dropped_by_grant(cap);
                }
            }
            Count::StatusExpired => metrics.ttl_sweep(1),
            Count::Conflict => {
                metrics.session_conflict();
                tracing::warn!(
                    mesh.id = %self.id,
                    "two live connections keep taking one session over from each other"
                );
            }
        }
    }

    // --- what the rules ask of the store ---------------------------------------------------

    fn activate(&self, term: u64, floor: Epoch) {
        let (node, mesh) = (self.node.clone(), self.id.clone());
        self.work.push(Box::pin(async move {
            // It is never closed. Whoever comes after many waits; clients wait longer.
            let _place = node.takeovers.acquire().await.ok();
            let mut entropy = [0; 16];
            let activation = match getrandom::fill(&mut entropy) {
                Ok(()) => take_over(&node, &mesh, floor).await,
                Err(error) => Err(StoreError::NotAttempted(error.to_string())),
            };
            let input = match activation {
                Ok(activation) => Input::Activated {
                    activation: activation.map(Box::new),
                    entropy: u128::from_le_bytes(entropy),
                    edges: Vec::new(),
                },
                Err(error) => {
                    tracing::warn!(mesh.id = %mesh, %error, "cannot take the mesh over yet");
                    Input::NotActivated
                }
            };
            Some(SeatInput::Store(term, input))
        }));
    }

    fn commit(&self, term: u64, commit: MeshCommit) {
        let mesh = self.id.clone();
        let answer = self.node.committer.submit(commit);
        self.work.push(Box::pin(async move {
            let input = match answer.await {
                Ok(Ok(outcome)) => Input::Committed(outcome),
                Ok(Err(error)) => {
                    tracing::warn!(mesh.id = %mesh, %error, "a commit's outcome is unknown");
                    Input::CommitUnknown
                }
                Err(_) => Input::CommitUnknown,
            };
            Some(SeatInput::Store(term, input))
        }));
    }

    fn ask(&self, term: u64, ticket: Ticket, question: Question) {
        let (node, mesh) = (self.node.clone(), self.id.clone());
        self.work.push(Box::pin(async move {
            // Neither is ever closed.
            let (_place, walk) = match question {
                Question::Audit(_) | Question::VerifyAudit(_) => (None, Walk::begin(&node).await),
                Question::Messages { .. } | Question::Bans | Question::Moderation { .. } => {
                    (node.questions.acquire().await.ok(), None)
                }
                _ => (None, None),
            };
            let input = match answer(&*node.store, &mesh, question).await {
                Ok(answer) => Input::Answer(ticket, Some(answer)),
                Err(error) => {
                    tracing::warn!(mesh.id = %mesh, %error, "the store did not answer");
                    sleep(READ_RETRY).await;
                    Input::Answer(ticket, None)
                }
            };
            if let Some(walk) = walk {
                walk.end(&node);
            }
            Some(SeatInput::Store(term, input))
        }));
    }

    fn beat(&self) {
        let now = self.node.clock.now().mono.max(1);
        let last = self.node.last_beat.load(Ordering::Relaxed);
        if last != 0 && now.saturating_sub(last) < BEAT_YOUNG_MS {
            return;
        }
        self.node.last_beat.store(now, Ordering::Relaxed);
        let node = self.node.clone();
        self.work.push(Box::pin(async move {
            if let Err(error) = node.store.beat(&node.name).await {
                tracing::warn!(%error, "the store was not told that this node lives");
            }
            None
        }));
    }
}

/// A walk through an audit chain. The next one waits three times as long as it took, so that all walks
/// of a node take a quarter of one processor at most, here and in the store.
struct Walk {
    place: OwnedSemaphorePermit,
    since: Instant,
}

impl Walk {
    async fn begin(node: &Node) -> Option<Self> {
        let place = node.audits.clone().acquire_owned().await.ok()?;
        Some(Self { place, since: Instant::now() })
    }

    fn end(self, node: &Node) {
        let Self { place, since } = self;
        let pause = (since.elapsed() * 3).min(WALK_PAUSE);
        let stop = node.stop.clone();
        node.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(pause) => {}
            }
            drop(place);
        });
    }
}

/// Takes a mesh over, above every epoch that is known of.
async fn take_over(
    node: &Node,
    mesh: &MeshId,
    floor: Epoch,
) -> Result<Option<Activation>, StoreError> {
    let remembered = node.cluster.leases(mesh).await;
    let floor = floor.max(remembered.epoch);
    let mut activation = node.store.activate(mesh, &node.name, floor).await?;
    if let Some(activation) = &mut activation {
        remembered.mend(activation);
    }
    Ok(activation)
}

async fn answer(
    store: &dyn Store,
    mesh: &MeshId,
    question: Question,
) -> Result<Answer, StoreError> {
    Ok(match question {
        Question::Identity(claim) => {
            Answer::Identity(store.identify(mesh, &claim).await?.map(Box::new))
        }
        Question::Grants { claims } => {
            let grants = store.grants(mesh).await?;
            let taken = if claims.is_empty() {
                Vec::new()
            } else {
                store.taken_keys(mesh, &claims).await?
            };
            Answer::Grants { grants, taken }
        }
        Question::QueueBytes => Answer::QueueBytes(store.queue_bytes(mesh).await?),
        Question::Topic { spec } => Answer::Topic(store.topic(mesh, &spec).await?),
        Question::Moderation { caller, command, target } => {
            let known = store.moderation(mesh, &caller, &command, target.as_ref()).await?;
            Answer::Moderation(Box::new(known))
        }
        Question::Bans => Answer::Bans(store.bans(mesh).await?),
        Question::Audit(query) => {
            let (entries, total) = store.audit(mesh, &query).await?;
            Answer::Audit(entries, total)
        }
        Question::VerifyAudit(from) => Answer::AuditVerified(verify(store, mesh, from).await?),
        Question::Accepted { member, key } => {
            Answer::Accepted(store.accepted(mesh, &member, &key).await?)
        }
        Question::Messages { prefix } => Answer::Messages(store.messages(mesh, &prefix).await?),
        Question::Page { queue, after, limit } => {
            Answer::Page(store.page(mesh, &queue, after, limit).await?)
        }
    })
}
