//! Walking an audit chain, a slice at a time: it may be far longer than memory, or than a client waits.

use protocol::MeshId;
use tokio::task::yield_now;

use crate::mesh::Verifier;
use crate::model::{Verified, VerifiedSlice};
use crate::store::{Store, StoreError};

/// Entries of a slice.
const SLICE: u32 = 500;
/// Entries that are verified before others come between.
const TURN: usize = 50;

/// Verifies the next slice of a chain.
pub async fn verify(
    store: &dyn Store,
    mesh: &MeshId,
    from: Verified,
) -> Result<VerifiedSlice, StoreError> {
    let entries = store.audit_from(mesh, from.after, SLICE).await?;
    let mut verifier = Verifier::from(from);
    for part in entries.chunks(TURN) {
        if let Some(broken) = part.iter().find(|entry| !verifier.follows(mesh, entry)) {
            let broken_at = Some(broken.id);
            return Ok(VerifiedSlice { so_far: verifier.so_far, broken_at, ended: true });
        }
        yield_now().await;
    }
    let ended = entries.len() < SLICE as usize;
    Ok(VerifiedSlice { so_far: verifier.so_far, broken_at: None, ended })
}
