//! What a promoted replica has not seen, it cannot be held to.

use std::collections::BTreeMap;

use super::Checker;
use super::audit::Chain;
use super::leases::Leases;
use super::removals::Removals;
use super::saved::Saved;
use super::watchers::Lives;
use crate::store::Durable;

/// What commits have shown up to a moment.
#[derive(Clone)]
pub(crate) struct Mark {
    chain: Chain,
    leases: Leases,
    saved: Saved,
    removals: Removals,
    present: BTreeMap<u64, String>,
    lives: Lives,
}

impl Checker {
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            chain: self.chain.clone(),
            leases: self.leases.clone(),
            saved: self.saved.clone(),
            removals: self.removals.clone(),
            present: self.presences.present.clone(),
            lives: self.watchers.lives.clone(),
        }
    }

    /// The store is what it was then.
    pub(crate) fn rewind(&mut self, mark: Mark, store: &Durable) {
        self.chain = mark.chain;
        self.leases = mark.leases;
        self.saved = mark.saved;
        self.removals = mark.removals;
        self.presences.present = mark.present;
        self.watchers.lives = mark.lives;
        let kept = |id: &str| store.envelopes.values().any(|row| row.envelope.id.as_str() == id);
        self.first_id.retain(|_, id| kept(id));
    }

    /// Who left as its grace was over.
    pub(crate) fn lapsed(&self) -> &[u64] {
        &self.presences.lapsed
    }
}
