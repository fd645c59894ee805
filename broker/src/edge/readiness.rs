//! Whether this node can own and deliver, as found out by a canary, not by hope.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by those who find out and those who are asked. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<State>);

#[derive(Debug, Default)]
struct State {
    store_up: AtomicBool,
    draining: AtomicBool,
    cut_off: AtomicBool,
}

impl Readiness {
    /// The store took, or did not take, a write.
    pub fn set_store_up(&self, up: bool) {
        self.0.store_up.store(up, Ordering::Relaxed);
    }

    /// The node is going away.
    pub fn set_draining(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// The node sees the other nodes and can be spoken to, or not.
    pub fn set_cut_off(&self, cut_off: bool) {
        self.0.cut_off.store(cut_off, Ordering::Relaxed);
    }

    /// Whether the node is going away.
    pub fn draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// Whether the store took the last write.
    pub fn store_up(&self) -> bool {
        self.0.store_up.load(Ordering::Relaxed)
    }

    /// Why the node is not ready, if it is not.
    pub fn reason(&self) -> Option<&'static str> {
        if self.draining() {
            return Some("draining");
        }
        if !self.store_up() {
            return Some("db_down");
        }
        // What runs here goes on; what runs elsewhere waits.
        self.0.cut_off.load(Ordering::Relaxed).then_some("degraded: redis_down")
    }
}
