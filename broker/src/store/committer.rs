//! Group commit: what waits while a commit is in flight goes with the next one.
//!
//! Guarantees: every [`MeshCommit`] handed in is answered once, in bounded time. A mesh sticks to
//! one lane, and its commits are written in the order they came. There is no timer: an idle store
//! commits at once, a busy one in larger rounds. A unit that the store refuses as data fails alone.
//!
//! Rounds need no scheduling to be fair: a mesh has one commit in flight (its actor waits for the
//! answer), so each round holds every mesh that waits, once, until the bounds are reached, and
//! what did not fit is first in the next.
//!
//! Left to others: what to do about an outcome (`mesh`), and what a commit means (the backends).

mod isolate;
mod lane;
#[cfg(test)]
mod tests;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use protocol::MeshId;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::isolate::Writer;
use self::lane::{Job, LaneLoop};
use super::{Store, StoreError};
use crate::model::{MeshCommit, Outcome};

/// Units in one round. At a millisecond or so for hundreds of rows, a round stays below what a
/// sender notices.
pub const MAX_BATCH_UNITS: usize = 1024;

/// Bytes in one round; a single commit may be larger, and then goes alone.
pub const MAX_BATCH_BYTES: usize = 4 << 20;

/// Commits that wait for a lane: one per mesh, so the meshes of a node that write at one moment.
/// Their bytes are bounded by what a mesh puts into one commit.
pub const LANE_QUEUE: usize = 4096;

/// How long a commit may take before it is answered `Unavailable`.
pub const COMMIT_DEADLINE: Duration = Duration::from_secs(10);

/// The answer to one commit. A receiver that is closed without one means what `Unavailable` does.
pub type Answer = Result<Outcome, StoreError>;

/// Is told of every commit that the store answered well.
pub trait Observe: Send + Sync + 'static {
    /// What went together, and how long it took.
    fn committed(&self, round: Round);
}

impl Observe for () {
    fn committed(&self, _: Round) {}
}

/// See [`Observe`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Round {
    /// Meshes in it.
    pub meshes: usize,
    /// Their units.
    pub units: usize,
    /// From the call to its answer.
    pub took: Duration,
}

/// The door: cheap to clone.
#[derive(Clone)]
pub struct Committer {
    lanes: Arc<[mpsc::Sender<Job>]>,
}

impl Committer {
    /// Starts a task for each lane of the store. Once `stop` is cancelled nothing more is taken;
    /// what was taken is still committed, then the tasks end.
    pub fn start(store: Arc<dyn Store>, tasks: &TaskTracker, stop: CancellationToken) -> Self {
        Self::start_observed(store, Arc::new(()), tasks, stop)
    }

    /// The same, with someone who is told of every commit.
    pub fn start_observed(
        store: Arc<dyn Store>,
        observe: Arc<dyn Observe>,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let lanes = (0..store.lanes().max(1)).map(move |lane| {
            let (sender, inbox) = mpsc::channel(LANE_QUEUE);
            let (store, observe) = (Arc::clone(&store), Arc::clone(&observe));
            let writer = Writer { store, lane, observe };
            tasks.spawn(LaneLoop::new(writer, inbox, stop.clone()).run());
            sender
        });
        Self { lanes: lanes.collect() }
    }

    /// Hands a commit in; never waits. If the queue is full or the committer has stopped, the
    /// answer is [`StoreError::NotAttempted`] and is there at once.
    pub fn submit(&self, commit: MeshCommit) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        let lane = &self.lanes[lane_of(&commit.mesh, self.lanes.len())];
        if let Err(refused) = lane.try_send(Job { commit, reply }) {
            let (job, why) = match refused {
                mpsc::error::TrySendError::Full(job) => (job, "too much waits to be written"),
                mpsc::error::TrySendError::Closed(job) => (job, "the node is stopping"),
            };
            job.answer(Err(StoreError::NotAttempted(why.to_owned())));
        }
        answer
    }
}

fn lane_of(mesh: &MeshId, lanes: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    mesh.hash(&mut hasher);
    let lanes = lanes as u64;
    usize::try_from(hasher.finish() % lanes).unwrap_or(0)
}
