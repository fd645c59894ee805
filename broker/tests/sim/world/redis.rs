//! A Redis that knows who is alive: the table of nodes, by its own clock. It may lose everything.

use std::collections::BTreeMap;

use router::membership::{Seen, Sighting, State};
use router::node::NodeKey;
use router::ring::NodeId;

use super::TTL_MS;

/// The dead are remembered for so long.
const MEMORY_MS: u64 = 60_000;

struct Row {
    key: NodeKey,
    state: State,
    beat_at: u64,
}

#[derive(Default)]
pub(crate) struct Redis {
    rows: BTreeMap<NodeId, Row>,
    /// The table's first row was written then.
    since: Option<u64>,
    /// Nobody reaches it until then.
    pub(crate) down_until: u64,
    /// It answers and passes on nothing before.
    pub(crate) paused_until: u64,
    /// What is published reaches nobody until then.
    pub(crate) drops_until: u64,
}

impl Redis {
    pub(crate) fn is_down(&self, now: u64) -> bool {
        now < self.down_until
    }

    /// A heartbeat, and what it is answered. `listens` says who is listened for.
    pub(crate) fn beat(
        &mut self,
        now: u64,
        key: &NodeKey,
        state: State,
        listens: impl Fn(&NodeKey) -> bool,
    ) -> Sighting {
        let known = self.rows.get(&key.id);
        let superseded = known.is_some_and(|row| row.key > *key && now - row.beat_at < TTL_MS);
        if !superseded {
            let row = Row { key: key.clone(), state, beat_at: now };
            self.rows.insert(key.id.clone(), row);
        }
        let since = *self.since.get_or_insert(now);
        self.rows.retain(|_, row| now - row.beat_at <= MEMORY_MS);
        let seen = |row: &Row| Seen {
            home: true,
            key: row.key.clone(),
            state: row.state,
            weight: 1,
            age_ms: now - row.beat_at,
            listens: Some(listens(&row.key)),
        };
        let nodes = self.rows.values().map(seen).collect();
        Sighting { nodes, table_age_ms: now - since, superseded }
    }

    /// A node says goodbye.
    pub(crate) fn leave(&mut self, key: &NodeKey) {
        self.rows.retain(|_, row| row.key != *key);
    }

    /// Everything is lost.
    pub(crate) fn forget(&mut self) {
        self.rows.clear();
        self.since = None;
    }
}
