//! The door to meshes: find or start the one actor for a mesh, and talk to it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use protocol::{MeshId, PresenceId};
use router::link::local::Outbox;
use router::node::NodeKey;
use tokio::sync::mpsc;
use tokio::time::{Duration, sleep, timeout};

use super::actor::{Actor, Node};
use super::io::SeatInput;
use super::item::{self, Item, ToOwner};
use crate::mesh::Hook;
use crate::mesh::io::{ConnId, Input, Ms, ToEdge};
use crate::model::{HookPresence, Joined, Joining, Membership, NewPending};
use crate::store::StoreError;

/// Messages that wait for one mesh. Senders wait when it is full: TCP pushes back to the peers.
const INBOX: usize = 4096;

/// How often a mesh is told what has changed: a hello that was read before, and waited for its
/// answer for 8 s, may have been passed over.
const TOLD_TIMES: u32 = 10;
/// How long a mesh with a full inbox is waited for.
const TELL: Duration = Duration::from_secs(1);

/// What an actor is told.
#[derive(Debug)]
pub(super) enum Message {
    /// A connection wants to attach.
    Open(ConnId, Arc<Outbox<ToEdge>>),
    /// A connection is gone.
    Shut(ConnId),
    /// For the rules.
    Input(Input),
    /// For the seat.
    Seat(SeatInput),
}

/// The meshes that run on this node. Cheap to clone.
#[derive(Clone)]
pub struct Directory {
    meshes: Arc<Meshes>,
    node: Arc<Node>,
}

pub(super) type Meshes = Mutex<HashMap<MeshId, mpsc::Sender<Message>>>;

impl Directory {
    /// No mesh runs yet.
    pub fn new(node: Node) -> Self {
        Self { meshes: Arc::default(), node: Arc::new(node) }
    }

    /// The door to a mesh, which need not exist: the hello finds out.
    pub fn mesh(&self, id: &MeshId) -> Handle {
        let mut meshes = lock(&self.meshes);
        if let Some(inbox) = meshes.get(id).filter(|inbox| !inbox.is_closed()) {
            return Handle { inbox: inbox.clone() };
        }
        let (inbox, messages) = mpsc::channel(INBOX);
        let actor = Actor::new(
            id.clone(),
            self.node.clone(),
            self.meshes.clone(),
            (inbox.downgrade(), messages),
        );
        self.node.tasks.spawn(actor.run());
        meshes.insert(id.clone(), inbox.clone());
        Handle { inbox }
    }

    /// Starts a mesh that holds leases, so that graces found in the store run on.
    pub async fn wake(&self, id: &MeshId) {
        let _ = self.mesh(id).seat(SeatInput::Wake).await;
    }

    /// Somebody joins a mesh by invite.
    pub async fn join(&self, joining: &Joining) -> Result<Joined, StoreError> {
        let joined = self.node.store.join(joining).await?;
        if let Joined::New(_) = joined {
            // Whoever claims the key must give it up before anybody writes to its member.
            let key = joining.pubkey.as_str().into();
            let _ = self.mesh(&joining.mesh).input(Input::MemberJoined(key)).await;
        }
        Ok(joined)
    }

    /// Tells every presence a hook plainly means. Answers the first of them; nothing if there is
    /// none: then the status waits a moment for a session that is only just starting.
    pub async fn hook(&self, hook: Hook) -> Result<Option<PresenceId>, StoreError> {
        let store = &self.node.store;
        for target in hook.targets() {
            let found = store.hook_presences(&target).await?;
            if found.is_empty() {
                continue;
            }
            let told = Hook::meant(&target, found);
            for HookPresence { mesh, presence, .. } in &told {
                let input = Input::Hook { presence: presence.clone(), status: hook.status };
                // Its mesh stops only with the node.
                let _ = self.mesh(mesh).input(input).await;
            }
            return Ok(told.into_iter().next().map(|one| one.presence));
        }
        let pending = NewPending {
            session_id: hook.session_id,
            cwd: hook.cwd,
            pid: hook.pid,
            status: hook.status,
            created_at: self.node.clock.now().wall,
        };
        store.keep_pending(&pending).await?;
        Ok(None)
    }

    /// Meshes that run here.
    pub fn owned(&self) -> usize {
        self.node.owned().len()
    }

    /// Another node says something about a mesh. Never waits: what a busy seat has no room for is
    /// said again.
    pub fn said(&self, from: &NodeKey, bytes: &[u8]) {
        let Ok((mesh, said)) = item::decode(bytes) else {
            tracing::warn!(node.id = %from, "an item cannot be read");
            return;
        };
        if said.is_partial() {
            tracing::warn!(node.id = %from, "an item can only be read by a later version");
        }
        let opens = matches!(said, Item::ToOwner(ToOwner::Announce { .. }));
        let inbox = if opens { Some(self.mesh(&mesh).inbox) } else { self.running(&mesh) };
        if let Some(inbox) = inbox {
            let _ = inbox.try_send(Message::Seat(SeatInput::Said(from.clone(), said)));
        } else if let Some(answer) = said.unseated().and_then(|said| item::encode(&mesh, &said)) {
            self.node.cluster.say(from, answer);
        }
    }

    /// Tells the meshes that run here how their members stand in the store: once more often than
    /// it is news, for what is told may be older than what a mesh has just done.
    pub async fn review(&self, told: &mut HashMap<MeshId, Reviewed>) -> Result<(), StoreError> {
        let meshes: Vec<_> = self.node.owned().keys().cloned().collect();
        if meshes.is_empty() {
            told.clear();
            return Ok(());
        }
        let asked = self.node.clock.now().mono;
        let found = self.node.store.memberships(&meshes).await?;
        let mut sending = Vec::new();
        let mut next = HashMap::with_capacity(found.len());
        for (mesh, membership) in found {
            let before = told.remove(&mesh).filter(|told| *told.membership == membership);
            let new = || Reviewed { membership: Arc::new(membership), times: 0 };
            let mut now = before.unwrap_or_else(new);
            let acts = now.membership.archived || !now.membership.removed.is_empty();
            if acts || now.times < TOLD_TIMES {
                now.times += 1;
                let membership = now.membership.clone();
                let inbox = self.running(&mesh);
                sending.extend(inbox.map(|inbox| tell(inbox, asked, membership)));
            }
            next.insert(mesh, now);
        }
        *told = next;
        // Each waits for a busy mesh by itself.
        join_all(sending).await;
        Ok(())
    }

    /// The node that a mesh belongs to, if that is another.
    pub fn elsewhere(&self, mesh: &str) -> Option<NodeKey> {
        let view = self.node.cluster.sight().view;
        view.owner(mesh).filter(|owner| *owner != view.me()).cloned()
    }

    /// A process is gone: every seat hears of it.
    pub async fn lost(&self, node: &NodeKey, ago_ms: Ms) {
        let inboxes: Vec<_> = lock(&self.meshes).values().cloned().collect();
        for inbox in inboxes {
            let lost = SeatInput::Lost { node: node.clone(), ago_ms };
            let _ = inbox.send(Message::Seat(lost)).await;
        }
    }

    /// Starts the meshes that hold leases, are this node's and do not run.
    pub async fn sweep(&self, pause: Duration) -> Result<(), StoreError> {
        for mesh in self.node.store.meshes_with_leases().await? {
            let view = self.node.cluster.sight().view;
            if view.owner(mesh.as_str()) == Some(view.me()) && self.running(&mesh).is_none() {
                self.wake(&mesh).await;
                sleep(pause).await;
            }
        }
        Ok(())
    }

    fn running(&self, mesh: &MeshId) -> Option<mpsc::Sender<Message>> {
        lock(&self.meshes).get(mesh).filter(|inbox| !inbox.is_closed()).cloned()
    }
}

/// What a mesh was told of its members.
#[derive(Debug)]
pub struct Reviewed {
    membership: Arc<Membership>,
    times: u32,
}

async fn tell(inbox: mpsc::Sender<Message>, asked: Ms, membership: Arc<Membership>) {
    let message = Message::Input(Input::Membership { asked, membership });
    let _ = timeout(TELL, inbox.send(message)).await;
}

/// The door to one mesh. Cheap to clone; the actor lives at least as long.
#[derive(Clone)]
pub struct Handle {
    inbox: mpsc::Sender<Message>,
}

/// The mesh has stopped: the node is going away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the mesh has stopped")]
pub struct Gone;

impl Handle {
    /// Joins a connection to the mesh; what it is told arrives in `outbox`.
    pub async fn open(&self, conn: ConnId, outbox: Arc<Outbox<ToEdge>>) -> Result<(), Gone> {
        self.inbox.send(Message::Open(conn, outbox)).await.map_err(|_| Gone)
    }

    /// Passes an input on. Waits while the mesh has too much to do.
    pub async fn input(&self, input: Input) -> Result<(), Gone> {
        self.inbox.send(Message::Input(input)).await.map_err(|_| Gone)
    }

    /// Passes on what concerns the seat as a whole.
    pub async fn seat(&self, input: SeatInput) -> Result<(), Gone> {
        self.inbox.send(Message::Seat(input)).await.map_err(|_| Gone)
    }

    /// Lets a connection go.
    pub async fn shut(&self, conn: ConnId) -> Result<(), Gone> {
        self.inbox.send(Message::Shut(conn)).await.map_err(|_| Gone)
    }
}

pub(super) fn lock(meshes: &Meshes) -> MutexGuard<'_, HashMap<MeshId, mpsc::Sender<Message>>> {
    // A panic elsewhere cannot leave the map half changed.
    meshes.lock().unwrap_or_else(PoisonError::into_inner)
}
