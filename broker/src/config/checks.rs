//! Settings that make no sense together.

use super::mistake::Mistake;
use super::{Config, Purpose};

/// How many heartbeats must fit into the TTL: one may be lost and one late.
const HEARTBEATS_PER_TTL: u32 = 3;

/// Every contradiction in `config`.
pub(super) fn contradictions(config: &Config, purpose: Purpose) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut refuse = |text: String| found.push(Mistake::new(text));

    match (&config.redis_url, &config.database_url) {
        (Some(_), None) => refuse(
            "REDIS_URL without DATABASE_URL: nodes that share a Redis must share a Postgres too; \
             set DATABASE_URL, or unset REDIS_URL to run one node on SQLite"
                .into(),
        ),
        (Some(_), Some(_)) if purpose == Purpose::Serve && config.cluster_secret.is_none() => {
            refuse(
                "REDIS_URL without CLUSTER_SECRET: whoever can write to Redis could speak as a node; \
                 make one with `openssl rand -hex 32` and set it on every node"
                    .into(),
            );
        }
        _ => {}
    }
    match (&config.cluster_secret, &config.cluster_secret_previous) {
        (None, Some(_)) => refuse(
            "CLUSTER_SECRET_PREVIOUS without CLUSTER_SECRET: the first is the secret that was, the \
             second the one that is to be"
                .into(),
        ),
        (Some(now), Some(before)) if now.expose() == before.expose() => refuse(
            "CLUSTER_SECRET_PREVIOUS is CLUSTER_SECRET: leave it out, or set CLUSTER_SECRET to the new \
             one"
            .into(),
        ),
        _ => {}
    }
    let needed = config.node_heartbeat * HEARTBEATS_PER_TTL;
    if config.node_ttl < needed {
        refuse(format!(
            "NODE_TTL_MS={} is less than {HEARTBEATS_PER_TTL} × NODE_HEARTBEAT_MS={}: one late \
             heartbeat would count as a death; set NODE_TTL_MS to {} or more",
            config.node_ttl.as_millis(),
            config.node_heartbeat.as_millis(),
            needed.as_millis(),
        ));
    }
    if config.send_rate_per_minute > 0 && config.send_burst == 0 {
        refuse(
            "SEND_BURST=0 with a SEND_RATE_PER_MINUTE would refuse every send; set SEND_BURST to \
             1 or more, or SEND_RATE_PER_MINUTE to 0 for no limit"
                .into(),
        );
    }
    if config.max_message_bytes > config.max_frame_bytes {
        refuse(format!(
            "MAX_MESSAGE_BYTES={} is more than MAX_FRAME_BYTES={}: such a message fits in no \
             frame; lower the first or raise the second",
            config.max_message_bytes, config.max_frame_bytes,
        ));
    }
    found
}
