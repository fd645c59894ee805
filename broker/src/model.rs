//! The words that rules and stores share: envelopes, recipients, leases, and what a commit writes.

mod audit;
mod commit;
mod ledger;
mod message;
mod people;
mod presence;

pub use audit::*;
pub use commit::*;
pub use ledger::*;
pub use message::*;
pub use people::*;
pub use presence::*;

/// A fencing token (Kleppmann 2016): minted by the store, higher for every activation of a mesh.
pub type Epoch = u64;

/// The most that one activation raises an epoch by, beside one: no claim about what others have seen takes
/// the epochs to their end.
pub const EPOCH_STEP: Epoch = 1 << 32;

/// An envelope's place in its mesh. Starts at 1; gaps are allowed, reuse is not.
pub type Seq = u64;

/// How long an accepted envelope waits for its recipients, and its id stays known: 7 days.
pub const ENVELOPE_TTL_MS: i64 = 7 * 24 * 3600 * 1000;

/// How long a session key is known to be its member's after it was last proven: a day longer than
/// what waits for it.
pub const SESSION_KEY_TTL_MS: i64 = ENVELOPE_TTL_MS + 24 * 3600 * 1000;
