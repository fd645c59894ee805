//! The node's metrics: OpenTelemetry instruments, read as Prometheus text.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, MeterProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::Registry;

use super::exposition::{self, Silent};
use super::labels::{
    ConnectionRejected, Flipped, GrantCap, Label, MessageDropped, MessageRejected, Routed, Sets,
    SocketClosed,
};

/// Seconds. From one fsync of a fast disk (0.1 ms) to the longest a client waits for an ack (8 s).
const LATENCY_SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Units of one group commit; doubling, since batches grow with load.
const COMMIT_UNITS: &[f64] =
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0];

/// Counts and measures. Clones share the same numbers.
#[derive(Clone)]
pub struct Metrics(Arc<Instruments>);

struct Instruments {
    registry: Registry,
    /// Collects for the registry as long as it lives.
    _provider: SdkMeterProvider,
    meter: Meter,
    silent: Vec<Silent>,

    connections: Counter<u64>,
    connections_active: Gauge<u64>,
    half_open: Gauge<u64>,
    queue_depth: Gauge<u64>,
    db_healthy: Gauge<u64>,
    legacy_auth_hits: Counter<u64>,
    hook_requests: Counter<u64>,
    hook_requests_rate_limited: Counter<u64>,
    ack_latency: Histogram<f64>,
    delivery_latency: Histogram<f64>,
    commit_units: Histogram<u64>,
    commit_seconds: Histogram<f64>,

    connections_rejected: Labelled,
    messages_routed: Labelled,
    messages_rejected: Labelled,
    messages_dropped_by_grant: Labelled,
    session_conflicts: Counter<u64>,
    ttl_sweeps: Labelled,
    sockets_closed: Labelled,
    messages_dropped: Labelled,
}

/// A counter with one label.
struct Labelled {
    counter: Counter<u64>,
    sets: Sets,
}

impl Labelled {
    fn add<L: Label>(&self, label: L, count: u64) {
        self.counter.add(count, self.sets.get(label));
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A fresh set, all zero, apart from every other.
    pub fn new() -> Self {
        let registry = Registry::new();
        // The names are Prometheus's own already: nothing is to be added to them, nor to the
        // series. Building fails only if the registry has such a collector, and this one is new.
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .without_units()
            .without_counter_suffixes()
            .without_target_info()
            .scope_info_enabled(false)
            .build();
        let mut provider = SdkMeterProvider::builder();
        match exporter {
            Ok(exporter) => provider = provider.with_reader(exporter),
            Err(error) => tracing::error!(%error, "metrics will stay empty"),
        }
        Self(Arc::new(Builder::new(registry, provider.build()).instruments()))
    }

    /// Everything as Prometheus text, `text/plain; version=0.0.4`.
    pub fn render(&self) -> String {
        exposition::render(&self.0.registry, &self.0.silent)
    }

    /// A number that others count, read when it is asked for; it only grows.
    pub fn count_by(
        &self,
        name: &'static str,
        help: &'static str,
        label: Option<(&'static str, &'static str)>,
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        let labels: Vec<_> =
            label.map(|(key, value)| KeyValue::new(key, value)).into_iter().collect();
        let counter = self.0.meter.u64_observable_counter(name).with_description(help);
        counter.with_callback(move |to| to.observe(read(), &labels)).build();
    }

    /// The same of a number that may fall.
    pub fn gauge_by(
        &self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        let gauge = self.0.meter.u64_observable_gauge(name).with_description(help);
        gauge.with_callback(move |to| to.observe(read(), &[])).build();
    }

    /// A hello was accepted.
    pub fn connection_opened(&self) {
        self.0.connections.add(1, &[]);
    }

    /// Sockets with an accepted hello, now.
    pub fn set_connections_active(&self, count: u64) {
        self.0.connections_active.record(count, &[]);
    }

    /// Sockets without a hello, now.
    pub fn set_half_open(&self, count: u64) {
        self.0.half_open.record(count, &[]);
    }

    /// Deliveries waiting in the store, now.
    pub fn set_queue_depth(&self, count: u64) {
        self.0.queue_depth.record(count, &[]);
    }

    /// Whether the store takes writes, now.
    pub fn set_db_healthy(&self, healthy: bool) {
        self.0.db_healthy.record(healthy.into(), &[]);
    }

    /// A hook authenticated the old way.
    pub fn legacy_auth_hit(&self) {
        self.0.legacy_auth_hits.add(1, &[]);
    }

    /// A hook request came.
    pub fn hook_request(&self) {
        self.0.hook_requests.add(1, &[]);
    }

    /// A hook request was too many.
    pub fn hook_request_rate_limited(&self) {
        self.0.hook_requests_rate_limited.add(1, &[]);
    }

    /// A hello was refused.
    pub fn connection_rejected(&self, reason: ConnectionRejected) {
        self.0.connections_rejected.add(reason, 1);
    }

    /// A message, or an event of a stream, was pushed to `count` sockets.
    pub fn messages_routed(&self, what: impl Into<Routed>, count: u64) {
        self.0.messages_routed.add(what.into(), count);
    }

    /// A send was refused.
    pub fn message_rejected(&self, reason: MessageRejected) {
        self.0.messages_rejected.add(reason, 1);
    }

    /// A recipient has not granted this sender the capability.
    pub fn message_dropped_by_grant(&self, cap: GrantCap) {
        self.0.messages_dropped_by_grant.add(cap, 1);
    }

    /// Live connections keep taking one proven session over from each other.
    pub fn session_conflict(&self) {
        self.0.session_conflicts.add(1, &[]);
    }

    /// A sweep set `flipped` stale statuses to idle.
    pub fn ttl_sweep(&self, flipped: usize) {
        let label = if flipped == 0 { Flipped::None } else { Flipped::Some };
        self.0.ttl_sweeps.add(label, 1);
    }

    /// A socket ended; `protocol::Close` converts.
    pub fn socket_closed(&self, reason: impl Into<SocketClosed>) {
        self.0.sockets_closed.add(reason.into(), 1);
    }

    /// Accepted deliveries will never arrive.
    pub fn messages_dropped(&self, reason: MessageDropped, count: u64) {
        self.0.messages_dropped.add(reason, count);
    }

    /// From a send's arrival to its ack.
    pub fn ack_latency(&self, time: Duration) {
        self.0.ack_latency.record(time.as_secs_f64(), &[]);
    }

    /// From a send's arrival to its first push.
    pub fn delivery_latency(&self, time: Duration) {
        self.0.delivery_latency.record(time.as_secs_f64(), &[]);
    }

    /// A group commit of so many units took so long.
    pub fn commit(&self, units: usize, time: Duration) {
        self.0.commit_units.record(units as u64, &[]);
        self.0.commit_seconds.record(time.as_secs_f64(), &[]);
    }
}

/// Makes instruments, and notes which are silent until their first sample.
struct Builder {
    registry: Registry,
    provider: SdkMeterProvider,
    meter: Meter,
    silent: Vec<Silent>,
}

impl Builder {
    fn new(registry: Registry, provider: SdkMeterProvider) -> Self {
        let meter = provider.meter("broker");
        Self { registry, provider, meter, silent: Vec::new() }
    }

    /// A counter without labels starts at a visible 0.
    fn counter(&self, name: &'static str, help: &'static str) -> Counter<u64> {
        let counter = self.meter.u64_counter(name).with_description(help).build();
        counter.add(0, &[]);
        counter
    }

    fn gauge(&self, name: &'static str, help: &'static str) -> Gauge<u64> {
        let gauge = self.meter.u64_gauge(name).with_description(help).build();
        gauge.record(0, &[]);
        gauge
    }

    fn labelled<L: Label>(&mut self, name: &'static str, help: &'static str) -> Labelled {
        self.silent.push(Silent { name, help, bounds: &[] });
        let counter = self.meter.u64_counter(name).with_description(help).build();
        Labelled { counter, sets: Sets::of::<L>() }
    }

    fn latency(&mut self, name: &'static str, help: &'static str) -> Histogram<f64> {
        self.silent.push(Silent { name, help, bounds: LATENCY_SECONDS });
        let histogram = self.meter.f64_histogram(name).with_description(help);
        histogram.with_boundaries(LATENCY_SECONDS.to_vec()).build()
    }

    fn sizes(&mut self, name: &'static str, help: &'static str) -> Histogram<u64> {
        self.silent.push(Silent { name, help, bounds: COMMIT_UNITS });
        let histogram = self.meter.u64_histogram(name).with_description(help);
        histogram.with_boundaries(COMMIT_UNITS.to_vec()).build()
    }

    fn instruments(mut self) -> Instruments {
        Instruments {
            connections: self.counter("broker_connections_total", "Hellos accepted"),
            connections_active: self
                .gauge("broker_connections_active", "Sockets with an accepted hello"),
            half_open: self.gauge("broker_half_open", "Sockets without a hello"),
            queue_depth: self.gauge("broker_queue_depth", "Deliveries waiting"),
            db_healthy: self.gauge("broker_db_healthy", "1 while the store takes writes"),
            legacy_auth_hits: self
                .counter("broker_legacy_auth_hits_total", "Hooks authenticated the old way"),
            hook_requests: self.counter("broker_hook_requests_total", "Hook requests"),
            hook_requests_rate_limited: self
                .counter("broker_hook_requests_rate_limited_total", "Hook requests refused"),
            ack_latency: self
                .latency("broker_ack_latency_seconds", "From a send's arrival to its ack"),
            delivery_latency: self.latency(
                "broker_delivery_latency_seconds",
                "From a send's arrival to its first push",
            ),
            commit_units: self.sizes("broker_commit_units", "Units in one group commit"),
            commit_seconds: self.latency("broker_commit_seconds", "Time of one group commit"),
            connections_rejected: self.labelled::<ConnectionRejected>(
                "broker_connections_rejected_total",
                "Hellos refused",
            ),
            messages_routed: self
                .labelled::<Routed>("broker_messages_routed_total", "Pushes to sockets"),
            messages_rejected: self
                .labelled::<MessageRejected>("broker_messages_rejected_total", "Sends refused"),
            messages_dropped_by_grant: self.labelled::<GrantCap>(
                "broker_messages_dropped_by_grant_total",
                "Deliveries the recipient has not granted",
            ),
            session_conflicts: self.counter(
                "broker_session_conflicts_total",
                "Proven sessions that live connections keep taking over from each other",
            ),
            ttl_sweeps: self
                .labelled::<Flipped>("broker_ttl_sweeps_total", "Sweeps for stale statuses"),
            sockets_closed: self
                .labelled::<SocketClosed>("broker_sockets_closed_total", "Sockets ended"),
            messages_dropped: self.labelled::<MessageDropped>(
                "broker_messages_dropped_total",
                "Deliveries that will never arrive",
            ),
            registry: self.registry,
            _provider: self.provider,
            meter: self.meter,
            silent: self.silent,
        }
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
