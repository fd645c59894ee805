//! What of a cluster is measured: who is alive, what runs here, what goes through Redis.

use std::sync::Arc;

use router::redis::{Count, Counters, Dropped};

use super::Nodes;
use crate::seat::Cluster;
use crate::seat::handle::Directory;
use crate::telemetry::Metrics;

type Read = fn(&Counters) -> &Count;

const COUNTS: [(&str, &str, Read); 8] = [
    ("broker_redis_commands_total", "Commands sent to Redis, publishes among them", |c| {
        &c.commands
    }),
    ("broker_redis_failures_total", "Commands that Redis did not do or answer", |c| &c.failures),
    ("broker_frames_sent_total", "Frames published to other nodes", |c| &c.frames_out),
    ("broker_items_sent_total", "Items in them", |c| &c.items_out),
    ("broker_bytes_sent_total", "Bytes of them", |c| &c.bytes_out),
    ("broker_frames_received_total", "Frames accepted from other nodes", |c| &c.frames_in),
    ("broker_items_received_total", "Items in them", |c| &c.items_in),
    ("broker_bytes_received_total", "Bytes of them", |c| &c.bytes_in),
];

/// Has all of it read whenever the metrics are.
pub fn observe(metrics: &Metrics, nodes: &Arc<Nodes>, meshes: &Directory) {
    let (seen, here) = (nodes.clone(), meshes.clone());
    metrics.gauge_by("broker_nodes_alive", "Nodes this one sees, itself included", move || {
        1 + seen.sight().view.others().count() as u64
    });
    metrics.gauge_by("broker_meshes_owned", "Meshes that run here", move || here.owned() as u64);
    for (name, help, read) in COUNTS {
        let nodes = nodes.clone();
        metrics.count_by(name, help, None, move || read(nodes.redis().counters()).get());
    }
    for why in Dropped::ALL {
        let nodes = nodes.clone();
        metrics.count_by(
            "broker_frames_dropped_total",
            "Frames or items that did not reach a node; links repeat them",
            Some(("reason", why.name())),
            move || nodes.redis().counters().dropped(why),
        );
    }
}
