//! What tests stand on: private servers, a proxy that breaks connections, waiting with a deadline.

pub(crate) mod cluster;
pub(crate) mod fattest;
pub(crate) mod node;
pub(crate) mod peer;
pub(crate) mod pooler;
pub(crate) mod postgres;
pub(crate) mod proxy;
pub(crate) mod raw;
#[path = "../../../router/tests/redis/server.rs"]
#[expect(dead_code, reason = "the tests of the router use more of it")]
pub(crate) mod redis;
pub(crate) mod scene;
pub(crate) mod socket;

use std::time::Duration;

/// Longest wait for something that should happen at once; generous for a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Asks again and again until `condition` holds. Panics, naming `what`, if it does not in time.
pub(crate) async fn until(what: &str, condition: impl AsyncFnMut() -> bool) {
    until_within(SOON, what, condition).await;
}

/// The same with a deadline of its own.
pub(crate) async fn until_within(
    patience: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> bool,
) {
    let deadline = tokio::time::Instant::now() + patience;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
