//! What `/metrics` shows.

use protocol::client::Priority;

use super::*;

const COUNTERS: [&str; 12] = [
    "broker_connections_total",
    "broker_legacy_auth_hits_total",
    "broker_hook_requests_total",
    "broker_hook_requests_rate_limited_total",
    "broker_connections_rejected_total",
    "broker_messages_routed_total",
    "broker_messages_rejected_total",
    "broker_messages_dropped_by_grant_total",
    "broker_session_conflicts_total",
    "broker_ttl_sweeps_total",
    "broker_sockets_closed_total",
    "broker_messages_dropped_total",
];
const GAUGES: [&str; 4] =
    ["broker_connections_active", "broker_queue_depth", "broker_db_healthy", "broker_half_open"];
const HISTOGRAMS: [&str; 4] = [
    "broker_ack_latency_seconds",
    "broker_delivery_latency_seconds",
    "broker_commit_units",
    "broker_commit_seconds",
];

/// Sorted names of the metrics the text declares, with their types.
fn declared(text: &str) -> Vec<String> {
    let mut types: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(str::to_owned).collect();
    types.sort();
    types
}

fn expected() -> Vec<String> {
    let with = |kind: &'static str| move |name: &&str| format!("{name} {kind}");
    let mut types: Vec<String> = COUNTERS.iter().map(with("counter")).collect();
    types.extend(GAUGES.iter().map(with("gauge")));
    types.extend(HISTOGRAMS.iter().map(with("histogram")));
    types.sort();
    types
}

#[test]
fn a_fresh_node_shows_every_metric_as_zero() {
    let text = Metrics::new().render();
    assert_eq!(declared(&text), expected());
    for name in COUNTERS.iter().chain(&GAUGES) {
        assert!(text.lines().any(|line| line == format!("{name} 0")), "{name}:\n{text}");
    }
    for name in HISTOGRAMS {
        assert!(text.lines().any(|line| line == format!("{name}_count 0")), "{name}:\n{text}");
        assert!(text.lines().any(|line| line == format!("{name}_bucket{{le=\"+Inf\"}} 0")));
    }
}

#[test]
fn samples_replace_the_zeros_under_the_same_names() {
    let metrics = Metrics::new();
    metrics.connection_opened();
    metrics.set_connections_active(2);
    metrics.set_half_open(3);
    metrics.set_queue_depth(4);
    metrics.set_db_healthy(true);
    metrics.legacy_auth_hit();
    metrics.hook_request();
    metrics.hook_request_rate_limited();
    metrics.connection_rejected(ConnectionRejected::Capacity);
    metrics.messages_routed(Priority::Now, 5);
    metrics.messages_routed(Routed::Stream, 1);
    metrics.message_rejected(MessageRejected::TooLarge);
    metrics.message_dropped_by_grant(GrantCap::Dm);
    metrics.ttl_sweep(17);
    metrics.ttl_sweep(0);
    metrics.socket_closed(protocol::close::SHUTTING_DOWN);
    metrics.socket_closed(protocol::Close::rejected("capacity"));
    metrics.messages_dropped(MessageDropped::Expired, 6);
    metrics.ack_latency(Duration::from_millis(3));
    metrics.delivery_latency(Duration::from_millis(30));
    metrics.commit(64, Duration::from_millis(1));
    let text = metrics.render();
    assert_eq!(declared(&text), expected());
    for line in [
        "broker_connections_total 1",
        "broker_connections_active 2",
        "broker_half_open 3",
        "broker_queue_depth 4",
        "broker_db_healthy 1",
        "broker_connections_rejected_total{reason=\"capacity\"} 1",
        "broker_messages_routed_total{priority=\"now\"} 5",
        "broker_messages_routed_total{priority=\"stream\"} 1",
        "broker_messages_rejected_total{reason=\"too_large\"} 1",
        "broker_messages_dropped_by_grant_total{cap=\"dm\"} 1",
        "broker_ttl_sweeps_total{flipped=\"some\"} 1",
        "broker_ttl_sweeps_total{flipped=\"none\"} 1",
        "broker_sockets_closed_total{reason=\"shutting_down\"} 1",
        "broker_sockets_closed_total{reason=\"rejected\"} 1",
        "broker_messages_dropped_total{reason=\"expired\"} 6",
        "broker_ack_latency_seconds_bucket{le=\"0.0025\"} 0",
        "broker_ack_latency_seconds_bucket{le=\"0.005\"} 1",
        "broker_commit_units_bucket{le=\"64\"} 1",
        "broker_commit_units_sum 64",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing:\n{text}");
    }
    assert!(!text.contains("otel") && !text.contains("target_info"), "{text}");
    assert!(!text.lines().any(|line| line == "broker_messages_routed_total 0"), "{text}");
}

#[test]
fn clones_share_their_numbers_and_fresh_ones_do_not() {
    let metrics = Metrics::new();
    metrics.clone().connection_opened();
    assert!(metrics.render().contains("broker_connections_total 1"));
    assert!(Metrics::new().render().contains("broker_connections_total 0"));
}
