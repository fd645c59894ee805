//! Starting alone and leaving in order: the claim on the store, signals, the drain.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::store::{Claim, Store, StoreError};

/// How often a claim that another process holds is asked for.
const CLAIM_RETRY: Duration = Duration::from_millis(200);
/// How often a node makes sure of its own.
const CLAIM_CHECK: Duration = Duration::from_secs(2);

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another process did not go within the grace.
    #[error(
        "another broker is running on this store and did not stop within {} s. \
         Stop it, or give this one a store of its own (DATA_DIR or DATABASE_URL)",
        .0.as_secs()
    )]
    Taken(Duration),
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Waits to be the only process on the store, or (`shared`) to have it with none but nodes of a
/// cluster, at most `patience`.
pub async fn claim(
    store: &dyn Store,
    shared: bool,
    patience: Duration,
) -> Result<Box<dyn Claim>, ClaimError> {
    let deadline = Instant::now() + patience;
    let mut told = false;
    loop {
        if let Some(claim) = store.claim(shared).await? {
            return Ok(claim);
        }
        if !told {
            told = true;
            tracing::warn!(
                patience_s = patience.as_secs(),
                "another broker is running on this store; waiting for it to stop"
            );
        }
        if Instant::now() >= deadline {
            return Err(ClaimError::Taken(patience));
        }
        sleep(CLAIM_RETRY).await;
    }
}

/// Keeps the claim. A connection that carried it may break: then it is asked for again, and if
/// another process was quicker, this one is superseded.
pub async fn keep_claim(
    store: Arc<dyn Store>,
    mut claim: Box<dyn Claim>,
    shared: bool,
    superseded: CancellationToken,
) {
    loop {
        sleep(CLAIM_CHECK).await;
        if claim.held().await {
            continue;
        }
        match store.claim(shared).await {
            Ok(Some(again)) => claim = again,
            Ok(None) => {
                superseded.cancel();
                return;
            }
            Err(error) => tracing::warn!(%error, "the claim on the store cannot be renewed yet"),
        }
    }
}

/// The signals that ask a node to stop.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens from now on.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Waits for `done`, but not beyond `patience`, nor a second signal.
pub async fn wait(
    done: impl Future<Output = ()>,
    patience: Duration,
    signals: &mut Signals,
) -> bool {
    tokio::select! {
        biased;
        () = signals.next() => false,
        ended = timeout_at(Instant::now() + patience, done) => ended.is_ok(),
    }
}
