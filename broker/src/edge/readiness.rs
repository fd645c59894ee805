//! Whether a balancer should send peers here, and whether anything is wrong at all.
//!
//! What fails on all nodes at once must not take them all out of a balancer: then nobody would serve
//! the peers that are here, and none could come back. So a node that does not reach its database or
//! its Redis learns through the other of the two whether the other nodes do. If one of them does, this
//! node is cut off and not ready. If none does, it is an outage that all share, and the node is ready
//! and degraded. A node that reaches neither cannot know, and is not ready.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::mesh::io::Ms;

/// A failure must have lasted so long before a node takes itself to be the only one that has it, in
/// milliseconds: others notice an outage up to five seconds later, and say so a second after that.
const CUT_OFF_MS: Ms = 8_000;

/// What a node needs beside itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// The database.
    Store,
    /// What the nodes of a cluster talk through.
    Redis,
}

/// What is known of one service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Reach {
    /// Since when it cannot be reached, by this node's monotonic clock.
    failing_since: Option<Ms>,
    /// Another node says that it reaches it.
    others_reach: bool,
}

/// The answer of `/health/ready`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Peers may come. What all nodes lack is named.
    Ready {
        /// `redis` or `store`.
        degraded: Vec<&'static str>,
    },
    /// They should go elsewhere, for this reason.
    NotReady(&'static str),
}

/// What a node knows of itself. Not ready until the store is known to take writes.
#[derive(Debug, Clone, Copy, Default)]
struct Health {
    started: bool,
    draining: bool,
    clustered: bool,
    store: Reach,
    redis: Reach,
}

impl Health {
    fn verdict(&self, now: Ms) -> Verdict {
        let since = |reach: Reach| reach.failing_since.map(|at| now.saturating_sub(at));
        let (store, redis) = (since(self.store), since(self.redis));
        let lasts = |failing: Option<Ms>| failing.is_some_and(|ms| ms >= CUT_OFF_MS);
        if self.draining {
            return Verdict::NotReady("draining");
        }
        if !self.started {
            return Verdict::NotReady("starting");
        }
        if !self.clustered && store.is_some() {
            return Verdict::NotReady("db_down");
        }
        if lasts(store) && lasts(redis) {
            return Verdict::NotReady("cut_off");
        }
        if lasts(store) && self.store.others_reach {
            return Verdict::NotReady("db_down");
        }
        if lasts(redis) && self.redis.others_reach {
            return Verdict::NotReady("redis_down");
        }
        let lacking = [("store", store), ("redis", redis)];
        let degraded = lacking.iter().filter(|(_, failing)| failing.is_some());
        Verdict::Ready { degraded: degraded.map(|(name, _)| *name).collect() }
    }
}

/// Shared by those who find out and those who are asked. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<Health>>);

impl Readiness {
    /// Of a node of a cluster, or of one that is alone.
    pub fn new(clustered: bool) -> Self {
        Self(Arc::new(Mutex::new(Health { clustered, ..Health::default() })))
    }

    /// Hellos can be answered from now on.
    pub fn set_started(&self) {
        self.lock().started = true;
    }

    /// A service was reached or not, at `now`.
    pub fn set_reached(&self, now: Ms, service: Service, reached: bool) {
        let mut health = self.lock();
        let reach = health.reach(service);
        reach.failing_since = (!reached).then(|| reach.failing_since.unwrap_or(now));
    }

    /// Another node says that it reaches a service, or none does.
    pub fn set_others_reach(&self, service: Service, others_reach: bool) {
        self.lock().reach(service).others_reach = others_reach;
    }

    /// The node is going away.
    pub fn set_draining(&self) {
        self.lock().draining = true;
    }

    /// Whether the node is going away.
    pub fn is_draining(&self) -> bool {
        self.lock().draining
    }

    /// Whether the service could be reached when it was last tried.
    pub fn reaches(&self, service: Service) -> bool {
        let mut health = self.lock();
        health.started && health.reach(service).failing_since.is_none()
    }

    /// Whether there are other nodes to talk to.
    pub fn is_clustered(&self) -> bool {
        self.lock().clustered
    }

    /// Whether a balancer should send peers here.
    pub fn verdict(&self, now: Ms) -> Verdict {
        self.lock().verdict(now)
    }

    fn lock(&self) -> MutexGuard<'_, Health> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Health {
    fn reach(&mut self, service: Service) -> &mut Reach {
        match service {
            Service::Store => &mut self.store,
            Service::Redis => &mut self.redis,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Ms = 100_000;

    /// A node of a cluster, failing since so long before [`LONG`]; whether others do not.
    fn node(store: Option<(Ms, bool)>, redis: Option<(Ms, bool)>) -> Verdict {
        let readiness = Readiness::new(true);
        readiness.set_started();
        for (service, failing) in [(Service::Store, store), (Service::Redis, redis)] {
            if let Some((ms, others_reach)) = failing {
                readiness.set_reached(LONG - ms, service, false);
                readiness.set_reached(LONG, service, false);
                readiness.set_others_reach(service, others_reach);
            }
        }
        readiness.verdict(LONG)
    }

    fn degraded(names: &[&'static str]) -> Verdict {
        Verdict::Ready { degraded: names.to_vec() }
    }

    #[test]
    fn a_shared_outage_leaves_every_node_ready() {
        assert_eq!(node(None, None), degraded(&[]));
        assert_eq!(node(Some((LONG, false)), None), degraded(&["store"]));
        assert_eq!(node(None, Some((LONG, false))), degraded(&["redis"]));
    }

    #[test]
    fn a_node_that_alone_is_cut_off_is_not_ready() {
        assert_eq!(node(Some((CUT_OFF_MS, true)), None), Verdict::NotReady("db_down"));
        assert_eq!(node(None, Some((CUT_OFF_MS, true))), Verdict::NotReady("redis_down"));
        assert_eq!(
            node(Some((CUT_OFF_MS, false)), Some((CUT_OFF_MS, false))),
            Verdict::NotReady("cut_off")
        );
    }

    /// Others may only be about to notice it.
    #[test]
    fn no_node_takes_itself_for_cut_off_at_once() {
        assert_eq!(node(Some((CUT_OFF_MS - 1, true)), None), degraded(&["store"]));
        assert_eq!(node(None, Some((CUT_OFF_MS - 1, true))), degraded(&["redis"]));
        let both = node(Some((CUT_OFF_MS - 1, false)), Some((CUT_OFF_MS, false)));
        assert_eq!(both, degraded(&["store", "redis"]));
    }

    #[test]
    fn a_node_without_others_needs_its_store() {
        let readiness = Readiness::new(false);
        assert_eq!(readiness.verdict(0), Verdict::NotReady("starting"));
        readiness.set_started();
        assert_eq!(readiness.verdict(0), degraded(&[]));
        readiness.set_reached(5, Service::Store, false);
        assert_eq!(readiness.verdict(5), Verdict::NotReady("db_down"));
        readiness.set_reached(6, Service::Store, true);
        readiness.set_draining();
        assert_eq!(readiness.verdict(6), Verdict::NotReady("draining"));
    }
}
