//! The loop that runs one mesh: receive, apply, act. It has no rules of its own.
//!
//! Everything the rules ask of the store is under way here at once, in [`Work`]; its answers come
//! back as inputs. Effects are carried out in order, and nothing here waits on a peer.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use protocol::MeshId;
use router::link::local::Outbox;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::audit::Verifier;
use super::handle::{Meshes, Message, lock};
use super::io::{Answer, ConnId, Count, Effect, Held, Input, Ms, Question, Ticket, ToEdge};
use super::{Limits, Mesh};
use crate::clock::Clock;
use crate::model::{Epoch, MeshCommit};
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
/// Entries of the audit chain read at once when it is verified.
const AUDIT_PAGE: u32 = 500;
/// A beat serves all meshes of the node: one that is so young need not be repeated.
const BEAT_YOUNG_MS: Ms = 900;

/// What all meshes of a node share.
pub struct Node {
    /// This incarnation, as the store knows it.
    pub name: Arc<str>,
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
    /// Readers of audit chains, of all meshes: long reads must not take every connection.
    pub audits: Semaphore,
    /// When the store was last told that this node lives.
    pub last_beat: AtomicU64,
}

type Work = FuturesUnordered<Pin<Box<dyn Future<Output = Option<Input>> + Send>>>;

struct Line {
    outbox: Arc<Outbox<ToEdge>>,
    held: Option<Held>,
}

pub(super) struct Actor {
    id: MeshId,
    mesh: Mesh,
    node: Arc<Node>,
    meshes: Arc<Meshes>,
    messages: mpsc::Receiver<Message>,
    lines: HashMap<ConnId, Line>,
    work: Work,
    idle_since: Option<Instant>,
}

impl Actor {
    pub(super) fn new(
        id: MeshId,
        node: Arc<Node>,
        meshes: Arc<Meshes>,
        messages: mpsc::Receiver<Message>,
    ) -> Self {
        let mesh = Mesh::new(id.clone(), node.limits);
        let (lines, work) = (HashMap::new(), FuturesUnordered::new());
        Self { id, mesh, node, meshes, messages, lines, work, idle_since: None }
    }

    pub(super) async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        let stop = self.node.stop.clone();
        self.settle();
        loop {
            let until = self.wake_at();
            tokio::select! {
                biased;
                () = stop.cancelled(), if self.work.is_empty() => return,
                Some(input) = self.work.next(), if !self.work.is_empty() => self.worked(input),
                count = self.messages.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    batch.drain(..).for_each(|message| self.receive(message));
                }
                () = sleep_until(until) => self.apply(Input::Tick),
            }
            self.settle();
            if self.may_rest() {
                return;
            }
        }
    }

    fn wake_at(&self) -> Instant {
        let clock = self.node.clock;
        let rules = self.mesh.deadline().map(|at| clock.instant(at));
        let rest = self.idle_since.map(|since| since + IDLE);
        let far = Instant::now() + Duration::from_hours(1);
        [rules, rest].into_iter().flatten().min().unwrap_or(far)
    }

    /// A mesh that nobody uses leaves memory. Under the directory's lock nobody can find it
    /// meanwhile; a count of one says that nobody has already.
    fn may_rest(&mut self) -> bool {
        let idle = self.lines.is_empty() && self.work.is_empty() && self.mesh.is_idle();
        if !idle {
            self.idle_since = None;
            return false;
        }
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        if since.elapsed() < IDLE && !self.mesh.is_missing() {
            return false;
        }
        let mut meshes = lock(&self.meshes);
        if self.messages.is_empty() && self.messages.sender_strong_count() == 1 {
            meshes.remove(&self.id);
            return true;
        }
        false
    }

    fn apply(&mut self, input: Input) {
        self.mesh.apply(self.node.clock.now(), input);
    }

    fn worked(&mut self, input: Option<Input>) {
        let mut next = Some(input);
        while let Some(input) = next {
            if let Some(input) = input {
                let input = self.with_held(input);
                self.apply(input);
            }
            next = self.work.next().now_or_never().flatten();
        }
    }

    /// An activation is completed by what the connections of this node hold.
    fn with_held(&self, input: Input) -> Input {
        match input {
            Input::Activated { activation, entropy, .. } => {
                let mut held: Vec<_> =
                    self.lines.values().filter_map(|line| line.held.clone()).collect();
                held.sort_by_key(|held| held.conn);
                Input::Activated { activation, entropy, held }
            }
            other => other,
        }
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Input(input) => self.apply(input),
            Message::Open(conn, outbox) => {
                if self.mesh.is_missing() {
                    // It may have been created since.
                    self.mesh = Mesh::new(self.id.clone(), self.node.limits);
                }
                if let Some(epoch) = self.mesh.serving() {
                    outbox.push(ToEdge::Reset(epoch), 64);
                }
                self.lines.insert(conn, Line { outbox, held: None });
            }
            Message::Shut(conn) => {
                self.lines.remove(&conn);
                self.apply(Input::Lost(conn));
            }
            Message::Wake => {}
        }
    }

    fn settle(&mut self) {
        for effect in self.mesh.drain(self.node.clock.now()) {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Activate { floor } => self.activate(floor),
            Effect::Commit(commit) => self.commit(commit),
            Effect::Ask(ticket, question) => self.ask(ticket, question),
            Effect::Beat => self.beat(),
            Effect::Reset(epoch) => {
                for line in self.lines.values() {
                    line.outbox.push(ToEdge::Reset(epoch), 64);
                }
            }
            Effect::Attached { held, number, frame } => {
                let conn = held.conn;
                if let Some(line) = self.lines.get_mut(&conn) {
                    line.held = Some(held.clone());
                }
                self.tell(conn, ToEdge::Attached { held, number, frame });
            }
            Effect::Refused { conn, number, frame, close } => {
                self.tell(conn, ToEdge::Refused { number, frame, close });
            }
            Effect::Result { conn, number, frame } => {
                self.tell(conn, ToEdge::Result { number, frame });
            }
            Effect::Push { conn, envelope, hide_member } => {
                let waited = self.node.clock.now().wall.saturating_sub(envelope.created_at);
                let waited = Duration::from_millis(waited.unsigned_abs());
                self.node.metrics.delivery_latency(waited);
                self.tell(conn, ToEdge::Push { envelope, hide_member });
            }
            Effect::Broadcast { conns, frame } => {
                for conn in conns {
                    self.tell(conn, ToEdge::Event(frame.clone()));
                }
            }
            Effect::Probe { conn, nonce } => self.tell(conn, ToEdge::Probe(nonce)),
            Effect::Close { conn, close } => self.tell(conn, ToEdge::Close(close)),
            Effect::Superseded => self.node.superseded.cancel(),
            Effect::Count(count) => self.count(count),
        }
    }

    fn tell(&self, conn: ConnId, item: ToEdge) {
        if let Some(line) = self.lines.get(&conn) {
            let bytes = item.bytes();
            line.outbox.push(item, bytes);
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
        }
    }

    // --- what the rules ask of the store ---------------------------------------------------

    fn activate(&self, floor: Epoch) {
        let (node, mesh) = (self.node.clone(), self.id.clone());
        self.work.push(Box::pin(async move {
            let mut entropy = [0; 16];
            let activation = match getrandom::fill(&mut entropy) {
                Ok(()) => node.store.activate(&mesh, &node.name, floor).await,
                Err(error) => Err(StoreError::NotAttempted(error.to_string())),
            };
            Some(match activation {
                Ok(activation) => Input::Activated {
                    activation: activation.map(Box::new),
                    entropy: u128::from_le_bytes(entropy),
                    held: Vec::new(),
                },
                Err(error) => {
                    tracing::warn!(mesh.id = %mesh, %error, "cannot take the mesh over yet");
                    Input::NotActivated
                }
            })
        }));
    }

    fn commit(&self, commit: MeshCommit) {
        let mesh = self.id.clone();
        let answer = self.node.committer.submit(commit);
        self.work.push(Box::pin(async move {
            Some(match answer.await {
                Ok(Ok(outcome)) => Input::Committed(outcome),
                Ok(Err(error)) => {
                    tracing::warn!(mesh.id = %mesh, %error, "a commit's outcome is unknown");
                    Input::CommitUnknown
                }
                Err(_) => Input::CommitUnknown,
            })
        }));
    }

    fn ask(&self, ticket: Ticket, question: Question) {
        let (node, mesh) = (self.node.clone(), self.id.clone());
        self.work.push(Box::pin(async move {
            let long = matches!(question, Question::Audit(_) | Question::VerifyAudit);
            // It is never closed.
            let _place = if long { node.audits.acquire().await.ok() } else { None };
            match answer(&*node.store, &mesh, question).await {
                Ok(answer) => Some(Input::Answer(ticket, Some(answer))),
                Err(error) => {
                    tracing::warn!(mesh.id = %mesh, %error, "the store did not answer");
                    sleep(READ_RETRY).await;
                    Some(Input::Answer(ticket, None))
                }
            }
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

async fn answer(
    store: &dyn Store,
    mesh: &MeshId,
    question: Question,
) -> Result<Answer, StoreError> {
    Ok(match question {
        Question::Identity(claim) => {
            Answer::Identity(store.identify(mesh, &claim).await?.map(Box::new))
        }
        Question::Grants => Answer::Grants(store.grants(mesh).await?),
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
        Question::VerifyAudit => verify_audit(store, mesh).await?,
        Question::Accepted { member, key } => {
            Answer::Accepted(store.accepted(mesh, &member, &key).await?)
        }
        Question::Messages { prefix } => Answer::Messages(store.messages(mesh, &prefix).await?),
        Question::Page { queue, after, limit } => {
            Answer::Page(store.page(mesh, &queue, after, limit).await?)
        }
    })
}

/// Walks the chain a page at a time: it may be far longer than memory.
async fn verify_audit(store: &dyn Store, mesh: &MeshId) -> Result<Answer, StoreError> {
    let mut verifier = Verifier::new();
    let mut after = i64::MIN;
    loop {
        let page = store.audit_from(mesh, after, AUDIT_PAGE).await?;
        let broken = page.iter().find(|entry| !verifier.follows(mesh, entry));
        if let Some(entry) = broken {
            let (entries, broken_at) = (verifier.entries, Some(entry.id));
            return Ok(Answer::AuditVerified { entries, broken_at });
        }
        let Some(last) = page.last() else {
            let entries = verifier.entries;
            return Ok(Answer::AuditVerified { entries, broken_at: None });
        };
        after = last.id;
    }
}
