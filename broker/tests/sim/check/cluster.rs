//! Who owns the mesh, as the store and Redis have it: one node speaks per epoch, only who sees the
//! cluster takes the mesh, and nodes do not take it from each other for ever.

use std::collections::BTreeMap;

use broker::model::Epoch;

use super::Checker;
use crate::world::TTL_MS;

/// From a command on an edge's line to its answer in the owner's stead, and a moment.
const STEAD_MS: u64 = 9_000;

#[derive(Default)]
pub(super) struct Owners {
    /// Who raised which epoch.
    raised: BTreeMap<Epoch, u64>,
    raised_at: Vec<u64>,
    /// When a node asked Redis what it was last answered.
    looked: BTreeMap<u64, u64>,
}

impl Checker {
    /// A process has raised the epoch.
    pub(crate) fn raised(&mut self, now: u64, epoch: Epoch, process: u64) {
        if let Some((last, other)) = self.owners.raised.last_key_value()
            && *last >= epoch
        {
            let (last, other) = (*last, *other);
            self.fail(|| {
                format!("P6: {now}: {process} begins epoch {epoch}, {other} had begun {last}")
            });
        }
        self.owners.raised.insert(epoch, process);
        self.owners.raised_at.push(now);
        self.presences.restarted(now);
    }

    /// A process says something to peers as the mesh's owner.
    pub(crate) fn spoken(&mut self, now: u64, process: u64, epoch: Option<Epoch>) {
        let Some(epoch) = epoch.filter(|epoch| *epoch > 0) else { return };
        if self.owners.raised.get(&epoch) != Some(&process) {
            self.fail(|| format!("P6: {now}: {process} speaks under epoch {epoch}, not its own"));
        }
    }

    /// A process was answered by Redis what it asked then.
    pub(crate) fn looked(&mut self, asked: u64, process: u64) {
        // An answer that another has overtaken tells nothing.
        let last = self.owners.looked.entry(process).or_insert(asked);
        *last = asked.max(*last);
    }

    /// A process of a cluster wants the mesh.
    pub(crate) fn activates(&mut self, now: u64, process: u64) {
        let looked = self.owners.looked.get(&process).copied();
        if looked.is_none_or(|asked| asked + TTL_MS < now) {
            self.fail(|| {
                format!("P6: {now}: {process} takes the mesh, and saw Redis at {looked:?}")
            });
        }
    }

    /// How often the mesh was taken since then.
    pub(crate) fn raises_since(&self, since: u64) -> usize {
        self.owners.raised_at.iter().filter(|at| **at >= since).count()
    }

    /// An edge has answered in the owner's stead. It must have had a reason.
    pub(crate) fn unavailable(&mut self, now: u64, socket: u64, text: &str) {
        if self.presences.is_quiet(now.saturating_sub(STEAD_MS), now) {
            self.fail(|| format!("liveness: {now}: socket {socket} waited in vain for {text}"));
        }
    }

    /// A connection was closed as another has its presence, and there is none.
    pub(crate) fn displaced(&mut self, now: u64, socket: u64) {
        self.fail(|| format!("P5: {now}: socket {socket} was displaced by nobody"));
    }
}
