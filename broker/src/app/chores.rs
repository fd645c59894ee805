//! What goes on beside the meshes for as long as the node runs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use protocol::close;
use router::membership::State;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::cluster::Nodes;
use crate::edge::{Edge, Leave, Service};
use crate::model::ENVELOPE_TTL_MS;
use crate::seat::handle::Directory;
use crate::store::{Store, StoreError};

/// How often the store is asked whether it takes writes.
pub(super) const CANARY: Duration = Duration::from_secs(1);
/// How often the store is asked how members stand: one query for all meshes of the node.
const REVIEW: Duration = Duration::from_secs(1);
/// How often the queue is counted.
const QUEUE_GAUGE: Duration = Duration::from_secs(30);
/// How often what is older than its TTL is removed.
const RETENTION: Duration = Duration::from_hours(1);
/// Pause between meshes that are woken after a start, so that waiting clients come first.
const WAKE_PAUSE: Duration = Duration::from_millis(5);
/// How often a node looks for meshes that hold leases and have no owner, when nothing else tells.
const SWEEP: Duration = Duration::from_secs(30);
/// A node whose store has failed for so long owns nothing that another could.
const STORE_BLIND: Duration = Duration::from_secs(3);

pub(super) async fn canary(edge: Arc<Edge>, store: Arc<dyn Store>, nodes: Option<Arc<Nodes>>) {
    let mut failed_since: Option<Instant> = None;
    let mut every = interval(CANARY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was_up = true;
    loop {
        every.tick().await;
        let asked = Instant::now();
        let late = |_| Err(StoreError::Unavailable(format!("no answer in {STORE_BLIND:?}")));
        let healthy = timeout(STORE_BLIND, store.healthy()).await.unwrap_or_else(late);
        let up = healthy.is_ok();
        if up != was_up {
            match healthy {
                Ok(()) => tracing::info!("the store takes writes again"),
                Err(error) => tracing::error!(%error, "the store takes no writes"),
            }
        }
        was_up = up;
        if up && let Ok(micros) = store.clock().await {
            edge.clock.follow(i64::try_from(micros / 1_000).unwrap_or(i64::MAX));
        }
        let now = edge.clock.now().mono;
        edge.readiness.set_reached(now, Service::Store, up);
        edge.metrics.set_db_healthy(up);
        failed_since = if up { None } else { failed_since.or(Some(asked)) };
        if let Some(nodes) = &nodes {
            let blind = failed_since.is_some_and(|at| at.elapsed() >= STORE_BLIND);
            nodes.set_state(if blind { State::StoreBlind } else { State::Serving });
            if up && let Ok(others) = store.share_health(nodes.name(), nodes.is_well()).await {
                edge.readiness.set_others_reach(Service::Redis, others);
            }
        }
    }
}

pub(super) async fn count_queue(edge: Arc<Edge>, store: Arc<dyn Store>) {
    let mut every = interval(QUEUE_GAUGE);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if let Ok(depth) = store.queue_depth().await {
            edge.metrics.set_queue_depth(depth);
        }
    }
}

pub(super) async fn retain(edge: Arc<Edge>, store: Arc<dyn Store>) {
    let mut every = interval(RETENTION);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        match store.retain(edge.clock.now().wall - ENVELOPE_TTL_MS).await {
            Ok(removed) => {
                let expired = crate::telemetry::labels::MessageDropped::Expired;
                edge.metrics.messages_dropped(expired, removed.unconfirmed);
                if removed.envelopes > 0 {
                    tracing::info!(
                        envelopes = removed.envelopes,
                        unconfirmed = removed.unconfirmed,
                        "removed what is older than its time to live"
                    );
                }
            }
            Err(error) => tracing::warn!(%error, "old envelopes cannot be removed now"),
        }
    }
}

/// Members that others remove beside the broker, meshes they archive, roles they change.
pub(super) async fn review(meshes: Directory) {
    let mut told = HashMap::new();
    let mut every = interval(REVIEW);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if let Err(error) = meshes.review(&mut told).await {
            tracing::debug!(%error, "members cannot be looked up now");
        }
    }
}

/// Whether the node can be reached by the others.
pub(super) async fn watch_cluster(edge: Arc<Edge>, nodes: Arc<Nodes>) {
    let mut every = interval(CANARY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let now = edge.clock.now().mono;
        edge.readiness.set_reached(now, Service::Redis, nodes.is_well());
        edge.readiness.set_others_reach(Service::Store, nodes.others_reach_the_store());
    }
}

/// Meshes have gone to nodes that this one does not see: its sockets are better off elsewhere.
pub(super) async fn shed(
    leaving: watch::Sender<Option<Leave>>,
    edge: Arc<Edge>,
    wanted: Arc<Notify>,
    spread: Duration,
) {
    loop {
        wanted.notified().await;
        if edge.readiness.is_draining() {
            return;
        }
        tracing::warn!("others have taken meshes of this node, which does not see them");
        leaving.send_replace(Some(Leave { spread, close: close::SHUTTING_DOWN }));
        tokio::time::sleep(spread).await;
        if edge.readiness.is_draining() {
            return;
        }
        leaving.send_replace(None);
    }
}

/// Graces that ran when an owner ended run on, though nobody connects.
pub(super) async fn wake_leases(meshes: Directory, changes: Option<watch::Receiver<u64>>) {
    loop {
        let swept = meshes.sweep(WAKE_PAUSE).await;
        let Some(mut changes) = changes.clone() else {
            if swept.is_ok() {
                return;
            }
            tokio::time::sleep(CANARY).await;
            continue;
        };
        if let Err(error) = swept {
            tracing::warn!(%error, "leases cannot be looked up yet");
            tokio::time::sleep(CANARY).await;
            continue;
        }
        changes.mark_unchanged();
        let _ = timeout(SWEEP, changes.changed()).await;
        tokio::time::sleep(CANARY).await;
    }
}
