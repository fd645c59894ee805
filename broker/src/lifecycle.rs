//! Starting alone and leaving in order: the claim on the store, signals, the drain.

use std::sync::Arc;
use std::time::Duration;

use router::redis::Redis;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::store::{Claim, Store, StoreError};

/// How often a claim that another process holds is asked for.
const CLAIM_RETRY: Duration = Duration::from_millis(200);
/// How often a node makes sure of its own.
const CLAIM_CHECK: Duration = Duration::from_secs(2);

/// So often a claim that is lost may be refused, [`CLAIM_CHECK`] apart: a server takes five seconds
/// to notice that a connection is dead (its keep-alives).
const REFUSALS: u32 = 5;

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

/// Why a node does not become one of its cluster.
#[derive(Debug, thiserror::Error)]
#[error(
    "another process has this node's NODE_ID, {name}, and did not stop within {} s: give each its own",
    .patience.as_secs()
)]
pub struct NameTaken {
    name: String,
    patience: Duration,
}

/// Waits until nobody else lives under this node's name, at most `patience`, and until the nodes of a
/// version that seals nothing are gone: those are stopped before this version is started.
pub async fn have_the_name(redis: &Redis, patience: Duration) -> Result<(), NameTaken> {
    let deadline = Instant::now() + patience;
    let mut said = None;
    loop {
        let found = match redis.unsealed_nodes().await {
            Ok(0) => redis.namesake().await.map(|other| (0, other)),
            found => found.map(|count| (count, None)),
        };
        match found {
            Ok((0, None)) => return Ok(()),
            Ok(found) if said.as_ref() == Some(&found) => {}
            Ok((0, Some(other))) => {
                let patience_s = patience.as_secs();
                tracing::warn!(node.id = %other, patience_s, "another process has this node's name; waiting for it to stop");
                said = Some((0, Some(other)));
            }
            Ok(found) => {
                let nodes = found.0;
                tracing::error!(
                    nodes,
                    "nodes of a version before live on this Redis, which seal nothing: \
                    stop them all; this node waits until they are gone"
                );
                said = Some(found);
            }
            Err(error) => tracing::debug!(%error, "Redis does not say who is there"),
        }
        if let Some((0, Some(_))) = said
            && Instant::now() >= deadline
        {
            let name = redis.me().id.to_string();
            return Err(NameTaken { name, patience });
        }
        sleep(CLAIM_RETRY).await;
    }
}

/// Keeps the claim. A connection that carried it may break, or be slow: then it is asked for again.
/// It is often this process's own last connection that is in the way, until the server notices that
/// nobody is there: only who is refused `REFUSALS` times in a row is superseded.
pub async fn keep_claim(
    store: Arc<dyn Store>,
    claim: Box<dyn Claim>,
    shared: bool,
    superseded: CancellationToken,
) {
    let (mut claim, mut refusals) = (Some(claim), 0);
    loop {
        sleep(CLAIM_CHECK).await;
        if is_held(&mut claim).await {
            refusals = 0;
            continue;
        }
        match store.claim(shared).await {
            Ok(Some(again)) => claim = Some(again),
            Ok(None) if is_held(&mut claim).await => {}
            Ok(None) => {
                // Its session ends with its connection.
                claim = None;
                refusals += 1;
                if refusals >= REFUSALS {
                    superseded.cancel();
                    return;
                }
                tracing::warn!(refusals, "the claim on the store is held by another connection");
            }
            Err(error) => tracing::warn!(%error, "the claim on the store cannot be renewed yet"),
        }
    }
}

async fn is_held(claim: &mut Option<Box<dyn Claim>>) -> bool {
    match claim {
        Some(claim) => claim.held().await,
        None => false,
    }
}

/// The signals that ask a node to stop: SIGTERM, SIGINT, and SIGHUP unless whoever started the node
/// had it ignored, as `nohup` does.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Taken once it has come: a terminal that closes sends it twice, by its shell and by itself,
    /// and a second signal means now.
    hangup: Option<Signal>,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    ///
    /// The system does not let this process listen.
    pub fn listen() -> std::io::Result<Self> {
        // Asked first: listening would end it.
        let ignored = is_ignored_at_start(SignalKind::hangup());
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: if ignored { None } else { Some(signal(SignalKind::hangup())?) },
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = hung_up(&mut self.hangup) => {}
        }
    }
}

/// The first SIGHUP; nothing if there was one, or it is ignored. The handler stays, so that later
/// ones do not end the process.
async fn hung_up(hangup: &mut Option<Signal>) {
    match hangup {
        Some(signal) => {
            signal.recv().await;
            *hangup = None;
        }
        None => std::future::pending().await,
    }
}

/// Whether this process was started with the signal ignored, which outlives an `exec`. Only Linux
/// tells without unsafe code; elsewhere it counts as not ignored.
fn is_ignored_at_start(kind: SignalKind) -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| is_ignored(&status, kind.as_raw_value()))
}

/// Reads `SigIgn`, a set of signals in hexadecimal: the first is the lowest bit.
fn is_ignored(status: &str, signal: i32) -> bool {
    let set = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0);
    let place = signal.checked_sub(1).and_then(|place| u32::try_from(place).ok());
    place.and_then(|place| set.checked_shr(place)).is_some_and(|rest| rest & 1 == 1)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_signal_is_found_in_the_status() {
        let status =
            |set: &str| format!("Name:\tbroker\nSigBlk:\tffff\nSigIgn:\t{set}\nSigCgt:\t1\n");
        let (hangup, terminate) = (SignalKind::hangup().as_raw_value(), 15);
        assert!(is_ignored(&status("0000000000001001"), hangup));
        assert!(!is_ignored(&status("0000000000001000"), hangup));
        assert!(is_ignored(&status("0000000000004000"), terminate));
        for strange in ["", "nonsense", "SigIgn:", "SigIgn:\txyz", "SigIgn:\t-1"] {
            assert!(!is_ignored(strange, hangup), "{strange}");
        }
        assert!(!is_ignored(&status("ffffffffffffffff"), 0));
        assert!(!is_ignored(&status("ffffffffffffffff"), 65));
    }
}
