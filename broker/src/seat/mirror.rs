//! Leases in Redis (design §7): what is durable in the store is said there, too, behind the commit.
//!
//! The store has them first, in the commit of their audit entry; Redis is the second memory. A store
//! that fails over to a replica which lacks its last commits has forgotten presences, places and
//! epochs that peers have seen: then Redis knows better, and whoever takes the mesh over believes it.
//! Saves are numbered within an epoch; when one is missing, or Redis has forgotten, all of it is
//! saved anew.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::{MeshId, PresenceId};
use router::redis::Saved;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::WeakSender;
use tokio::time::sleep;

use super::cluster::Cluster;
use super::handle::Message;
use super::io::SeatInput;
use crate::model::{Activation, Epoch, LeaseRow, Seq, StoredLease};

/// Pause after Redis has failed.
const RETRY: Duration = Duration::from_secs(1);
/// The entry that is no presence: see [`Tail`].
const TAIL: &str = "";

/// What has become durable.
#[derive(Debug, Clone)]
pub struct News {
    /// Under which epoch.
    pub epoch: Epoch,
    /// The highest place given out.
    pub tail: Seq,
    /// Leases as they are now; nothing where one has ended.
    pub changes: Vec<(PresenceId, Option<LeaseRow>)>,
    /// These are all.
    pub whole: bool,
}

/// A lease, as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    row: LeaseRow,
}

#[derive(Debug, Serialize, Deserialize)]
struct Tail {
    tail: Seq,
}

/// What a new owner finds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// The epoch of whoever saved last.
    pub epoch: Epoch,
    tail: Seq,
    leases: Vec<LeaseRow>,
}

impl Remembered {
    /// From what Redis has. What cannot be read is as good as forgotten.
    pub fn of(epoch: Epoch, entries: &[(String, impl AsRef<[u8]>)]) -> Self {
        let tail = entries.iter().find(|(name, _)| name == TAIL);
        let tail = tail.and_then(|(_, bytes)| serde_json::from_slice::<Tail>(bytes.as_ref()).ok());
        let leases = entries.iter().filter(|(name, _)| name != TAIL);
        let read = |bytes: &[u8]| serde_json::from_slice::<Kept>(bytes).ok().map(|kept| kept.row);
        Self {
            epoch,
            tail: tail.map_or(0, |tail| tail.tail),
            leases: leases.filter_map(|(_, bytes)| read(bytes.as_ref())).collect(),
        }
    }

    /// Puts right what a store has lost: its leases are those of before, and a place that was given
    /// out then must not be given out again. A lease in grace is given all of it.
    pub fn mend(self, activation: &mut Activation) {
        let lost = (self.epoch, self.tail) > (activation.previous, activation.tail);
        if !lost {
            return;
        }
        tracing::warn!(
            epoch = activation.previous,
            seen = self.epoch,
            "the store has lost its last commits; leases are taken from Redis"
        );
        activation.tail = activation.tail.max(self.tail);
        let stored = |row| StoredLease { row, away_ms: 0 };
        let leases: Vec<_> = self.leases.into_iter().map(stored).collect();
        let known: HashSet<_> = leases.iter().map(|lease| &lease.row.presence).collect();
        let stale = activation.leases.iter().map(|lease| &lease.row.presence);
        let stale = stale.filter(|presence| !known.contains(presence)).cloned().collect();
        activation.stale_leases = Some(stale);
        activation.leases = leases;
    }
}

/// The writer of one mesh's leases. Cheap to clone.
#[derive(Clone)]
pub(super) struct Mirror(Arc<Shared>);

struct Shared {
    mesh: MeshId,
    cluster: Arc<dyn Cluster>,
    /// Who is asked for all of it.
    seat: WeakSender<Message>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    epoch: Epoch,
    number: u64,
    tail: Seq,
    changes: BTreeMap<PresenceId, Option<LeaseRow>>,
    whole: bool,
    /// A save has failed: what has changed since is of no use without all the rest.
    broken: bool,
    running: bool,
}

impl Mirror {
    pub(super) fn new(mesh: MeshId, cluster: Arc<dyn Cluster>, seat: WeakSender<Message>) -> Self {
        Self(Arc::new(Shared { mesh, cluster, seat, state: Mutex::default() }))
    }

    /// Takes news in; whether somebody must [`write`](Self::write) them.
    pub(super) fn note(&self, news: News) -> bool {
        let mut state = self.state();
        if news.epoch != state.epoch {
            *state = State { running: state.running, ..State::default() };
            state.epoch = news.epoch;
        }
        state.tail = state.tail.max(news.tail);
        if news.whole {
            state.changes.clear();
            state.whole = true;
            state.broken = false;
        }
        state.changes.extend(news.changes);
        !std::mem::replace(&mut state.running, true)
    }

    /// Writes until nothing waits.
    pub(super) async fn write(self) {
        while let Some((epoch, number, changes, whole)) = self.next() {
            let saved =
                self.0.cluster.save_leases(&self.0.mesh, epoch, number, changes, whole).await;
            match saved {
                Some(Saved::Ok) => continue,
                // Another owner has come; or the store has lost its tail, and nobody knew.
                Some(Saved::Stale(higher)) => {
                    let Some(seat) = self.0.seat.upgrade() else { return };
                    let _ = seat.send(Message::Seat(SeatInput::Outdone(higher))).await;
                    continue;
                }
                Some(Saved::Gone) => {}
                None => sleep(RETRY).await,
            }
            self.doubt(epoch);
            let Some(seat) = self.0.seat.upgrade() else { return };
            let _ = seat.send(Message::Seat(SeatInput::LeasesForgotten)).await;
        }
    }

    fn doubt(&self, epoch: Epoch) {
        let mut state = self.state();
        state.broken |= state.epoch == epoch && !state.whole;
    }

    #[expect(clippy::type_complexity, reason = "the arguments of a save")]
    fn next(&self) -> Option<(Epoch, u64, Vec<(String, Option<Vec<u8>>)>, bool)> {
        let mut state = self.state();
        if state.broken || (state.changes.is_empty() && !state.whole) {
            state.running = false;
            return None;
        }
        state.number += 1;
        let tail = serde_json::to_vec(&Tail { tail: state.tail }).ok();
        let kept = |row: LeaseRow| serde_json::to_vec(&Kept { row }).ok();
        let changes = std::mem::take(&mut state.changes).into_iter();
        let mut changes: Vec<_> =
            changes.map(|(id, row)| (id.to_string(), row.and_then(kept))).collect();
        changes.push((TAIL.to_owned(), tail));
        Some((state.epoch, state.number, changes, std::mem::take(&mut state.whole)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot leave it half changed.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(presence: &str) -> LeaseRow {
        LeaseRow {
            presence: presence.into(),
            body: "{}".to_owned(),
            away: false,
            member: "m".into(),
            place: crate::model::Place::default(),
        }
    }

    fn found(epoch: Epoch, tail: Seq) -> Remembered {
        let kept = serde_json::to_vec(&Kept { row: row("seen") }).unwrap();
        let tail = serde_json::to_vec(&Tail { tail }).unwrap();
        Remembered::of(epoch, &[("seen".to_owned(), kept), (TAIL.to_owned(), tail)])
    }

    #[test]
    fn redis_is_believed_only_if_it_has_seen_more_than_the_store() {
        let stored = Activation {
            epoch: 8,
            previous: 7,
            tail: 40,
            leases: vec![StoredLease { row: row("stored"), away_ms: 5 }],
            ..Activation::default()
        };
        for (epoch, tail, believed) in
            [(7, 40, false), (7, 39, false), (6, 90, false), (7, 41, true), (8, 3, true)]
        {
            let mut mended = stored.clone();
            found(epoch, tail).mend(&mut mended);
            assert_eq!(mended != stored, believed, "{epoch} {tail}");
            assert_eq!(mended.tail, if believed { tail.max(40) } else { 40 });
        }
    }

    #[test]
    fn nothing_remembered_changes_nothing() {
        let mut activation = Activation { epoch: 1, ..Activation::default() };
        Remembered::default().mend(&mut activation);
        assert_eq!(activation, Activation { epoch: 1, ..Activation::default() });
    }
}
