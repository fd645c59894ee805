//! This node among others: it says that it lives, hears who else does, and carries what seats say.
//!
//! The rules are [`router::membership`]'s, the carrier is [`router::redis`]; what is here joins them
//! to the seats. A node whose own channel is silent says nothing of itself either: whoever cannot be
//! spoken to must not own anything.

pub mod measures;
pub mod report;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use protocol::MeshId;
use router::membership::{Members, Notice, State, Timing};
use router::node::NodeKey;
use router::redis::{Event, Inbox, Redis, Saved};
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::mesh::io::Ms;
use crate::model::Epoch;
use crate::seat::handle::Directory;
use crate::seat::mirror::Remembered;
use crate::seat::{Cluster, Sight};
use report::Report;

/// A node's share of the ring: all are equal.
const WEIGHT: u8 = 1;
/// How long a leaving node waits for its meshes to have moved.
const MOVED: Duration = Duration::from_secs(3);
/// A node that has been unheard for so long is suspected; after so long it has been heard again, or
/// nobody has asked. In milliseconds.
const UNHEARD_MS: (Ms, Ms) = (400, 2_000);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// See the module.
pub struct Nodes {
    redis: Redis,
    timing: Timing,
    /// This node stands where the stores are.
    home: bool,
    clock: Clock,
    members: Mutex<Members>,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    /// Somebody should look now, not at the next heartbeat.
    look: Notify,
    /// Heartbeats answered, for whoever waits for the next.
    looked: AtomicU64,
    superseded: CancellationToken,
}

impl Nodes {
    /// A node that has said nothing yet. `superseded` is cancelled when a later process bears its
    /// name.
    pub fn new(
        redis: Redis,
        timing: Timing,
        home: bool,
        clock: Clock,
        superseded: CancellationToken,
    ) -> Arc<Self> {
        let members = Members::new(redis.me().clone(), timing);
        Arc::new(Self {
            redis,
            timing,
            home,
            clock,
            members: Mutex::new(members),
            state: Mutex::new(State::Serving),
            changes: watch::Sender::new(0),
            look: Notify::new(),
            looked: AtomicU64::new(0),
            superseded,
        })
    }

    /// Redis, for what else it keeps.
    pub fn redis(&self) -> &Redis {
        &self.redis
    }

    /// Whether this node can be spoken to, and sees the others.
    pub fn is_well(&self) -> bool {
        self.redis.hears() && self.sight().fresh
    }

    /// This node's `NODE_ID`.
    pub fn name(&self) -> &str {
        self.redis.me().id.as_str()
    }

    /// Whether another node says that its store takes writes.
    pub fn others_reach_the_store(&self) -> bool {
        let Sight { view, fresh, .. } = self.sight();
        let reach = |node: &NodeKey| view.state(node) == Some(State::Serving);
        fresh && view.others().any(reach)
    }

    /// What this node says of itself from now on. A node that is going away does not change its
    /// mind.
    pub fn set_state(&self, state: State) {
        let mut held = lock(&self.state);
        if *held != state && *held != State::Draining {
            *held = state;
            self.look.notify_one();
        }
    }

    /// Leaves the ring and waits, not for ever, until the others have taken over what runs here.
    pub async fn drain(&self, meshes: &Directory) {
        self.set_state(State::Draining);
        let moved = async {
            let mut seen = self.looked.load(Ordering::Relaxed);
            while self.looked.load(Ordering::Relaxed) < seen + 1 {
                sleep(LOOK).await;
            }
            seen = self.looked.load(Ordering::Relaxed);
            if let Err(error) = self.redis.hint().await {
                tracing::warn!(%error, "the other nodes were not told that this one goes");
            }
            let alone = || self.sight().view.places(self.redis.me());
            while meshes.owned() > 0 && !(alone() && self.looked.load(Ordering::Relaxed) > seen) {
                sleep(LOOK).await;
            }
        };
        if timeout(MOVED, moved).await.is_err() {
            tracing::warn!(meshes = meshes.owned(), "not all meshes have moved");
        }
    }

    /// Says goodbye: the others need not wait for silence.
    pub async fn leave(&self) {
        if let Err(error) = self.redis.leave().await {
            tracing::warn!(%error, "Redis was not told that this node is gone");
        }
        let _ = self.redis.hint().await;
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        lock(&self.members)
    }

    /// Says that this node lives, as often as agreed and whenever something has happened.
    pub async fn keep_alive(self: Arc<Self>, meshes: Directory, report: impl Fn() -> Report) {
        let mut every = interval(Duration::from_millis(self.timing.heartbeat_ms));
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut was_blind, mut hinted) = (false, false);
        loop {
            tokio::select! {
                _ = every.tick() => {}
                () = self.look.notified() => {}
            }
            let deaf = self.looked.load(Ordering::Relaxed) > 0 && !self.redis.hears();
            let state = *lock(&self.state);
            // Ages are as of the moment Redis is asked.
            let now = self.clock.now().mono;
            let answer = if deaf {
                Err("its own channel is silent".to_owned())
            } else {
                let report = report().encode();
                let beat = self.redis.heartbeat(state, WEIGHT, self.home, &report);
                beat.await.map_err(|error| error.to_string())
            };
            let notices = match answer {
                Ok(sighting) => {
                    if std::mem::take(&mut was_blind) {
                        tracing::info!("this node sees the others again");
                    }
                    self.members().observed(now, &sighting)
                }
                Err(error) => {
                    if !std::mem::replace(&mut was_blind, true) {
                        tracing::warn!(%error, "this node does not see the others");
                    }
                    Vec::new()
                }
            };
            self.tell(&meshes, notices).await;
            if !was_blind {
                self.looked.fetch_add(1, Ordering::Relaxed);
                if !std::mem::replace(&mut hinted, true) {
                    let _ = self.redis.hint().await;
                }
            }
        }
    }

    /// Passes on what the other nodes say, and what happens on the way.
    pub async fn listen(self: Arc<Self>, meshes: Directory, mut inbox: Inbox) {
        let mut unheard = HashMap::new();
        loop {
            tokio::select! {
                Some(incoming) = inbox.incoming.recv() => {
                    for item in &incoming.items {
                        meshes.said(&incoming.from, item);
                    }
                }
                Some(event) = inbox.events.recv() => match event {
                    Event::Hinted => self.look.notify_one(),
                    Event::Unheard(node) => {
                        let now = self.clock.now().mono;
                        if !twice(&mut unheard, &node, now) {
                            continue;
                        }
                        let notices = self.members().suspect(now, &node);
                        if !notices.is_empty() {
                            tracing::info!(node.id = %node, "nobody listens there");
                            let _ = self.redis.hint().await;
                        }
                        self.tell(&meshes, notices).await;
                    }
                    Event::Unsent(_) => {}
                },
                else => return,
            }
        }
    }

    async fn tell(&self, meshes: &Directory, notices: Vec<Notice>) {
        for notice in notices {
            match notice {
                Notice::Changed => self.changes.send_modify(|count| *count += 1),
                Notice::Lost { node, ago_ms } => {
                    tracing::warn!(node.id = %node, ago_ms, "a node is gone");
                    meshes.lost(&node, ago_ms).await;
                }
                Notice::Superseded => {
                    tracing::error!(
                        "another process bears this node's name: give each its NODE_ID"
                    );
                    self.superseded.cancel();
                }
            }
        }
    }
}

#[async_trait]
impl Cluster for Nodes {
    fn is_clustered(&self) -> bool {
        true
    }

    fn sight(&self) -> Sight {
        let (members, now) = (self.members(), self.clock.now().mono);
        Sight {
            view: members.view(),
            read_at: members.sighted_at().unwrap_or(0),
            fresh: members.is_fresh(now) && self.redis.hears(),
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn say(&self, to: &NodeKey, item: Vec<u8>) {
        // What finds no room is said again.
        self.redis.send(to, item);
    }

    async fn save_leases(
        &self,
        mesh: &MeshId,
        epoch: Epoch,
        number: u64,
        changes: Vec<(String, Option<Vec<u8>>)>,
        whole: bool,
    ) -> Option<Saved> {
        let changes = changes.into_iter().map(|(name, kept)| (name, kept.map(Into::into)));
        let saved = self.redis.save_leases(mesh.as_str(), epoch, number, changes.collect(), whole);
        saved.await.inspect_err(|error| tracing::debug!(%error, "leases are not kept")).ok()
    }

    async fn leases(&self, mesh: &MeshId) -> Remembered {
        match self.redis.load_leases(mesh.as_str()).await {
            Ok(Some(found)) => Remembered::of(found.epoch, &found.entries),
            Ok(None) => Remembered::default(),
            Err(error) => {
                tracing::debug!(%error, "Redis does not say what it knows of the leases");
                Remembered::default()
            }
        }
    }
}

/// Whether a node was unheard some time ago and still is. A subscriber that Redis has cut off is back
/// within that time; what a link says, it says again and again.
fn twice(unheard: &mut HashMap<NodeKey, Ms>, node: &NodeKey, now: Ms) -> bool {
    unheard.retain(|_, at| now.saturating_sub(*at) < UNHEARD_MS.1);
    let first = *unheard.entry(node.clone()).or_insert(now);
    now.saturating_sub(first) >= UNHEARD_MS.0
}

fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere cannot leave it half changed.
    held.lock().unwrap_or_else(PoisonError::into_inner)
}
