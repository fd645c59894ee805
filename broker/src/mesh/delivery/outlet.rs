//! One way out: a lease, what was pushed to it, and what of that nobody has confirmed.

use std::collections::BTreeMap;

use protocol::MemberId;

use crate::mesh::io::Ms;
use crate::model::{QueueId, Recipient, Seq};

/// Envelopes an outlet may have pushed without a confirmation.
pub const WINDOW_ENVELOPES: usize = 256;
/// Their bytes. One envelope always fits.
pub const WINDOW_BYTES: usize = 1024 * 1024;
/// When an unconfirmed envelope is first pushed again; doubles up to [`REPUSH_MOST_MS`].
pub const REPUSH_MS: Ms = 30_000;
/// See [`REPUSH_MS`].
pub const REPUSH_MOST_MS: Ms = 30 * 60_000;
/// How long a peer that may never ack is given to do so before it is probed.
pub(super) const PROBE_MS: Ms = 1_000;

/// What an outlet is like, for choosing among a member's: the least is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    /// Without a proven key.
    pub(crate) unproven: bool,
    /// It is likely to be gone in a moment.
    pub(crate) short_lived: bool,
}

/// A lease that envelopes can leave through.
#[expect(clippy::struct_excessive_bools, reason = "facts that do not depend on each other")]
#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) own: Recipient,
    pub(super) member: MemberId,
    pub(super) rank: Rank,
    pub(super) online: bool,
    /// Takes only what is urgent.
    pub(super) busy: bool,
    /// May a pong confirm? Not for daemons, nor once an ack was seen.
    pub(super) by_pong: bool,
    /// An ack was seen, on this connection or one before.
    pub(super) acks: bool,
    /// Pushed once, unconfirmed: the window, by push.
    pub(super) fresh: BTreeMap<u64, Place>,
    pub(super) bytes: usize,
    /// Pushed again at least once: by push, with when to push next.
    pub(super) overdue: BTreeMap<u64, (Ms, Place)>,
    /// Pushes so far: orders them, and names a probe.
    pub(super) pushes: u64,
    pub(super) probe: Option<u64>,
    pub(super) check_at: Option<Ms>,
}

/// Where an envelope is, and when it was pushed.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) queue: QueueId,
    pub(super) seq: Seq,
    pub(super) at: Ms,
    pub(super) tries: u32,
}

impl Outlet {
    /// Offline, and with nothing under way.
    pub(super) fn new(own: Recipient, member: MemberId, rank: Rank) -> Self {
        Self {
            own,
            member,
            rank,
            online: false,
            busy: false,
            by_pong: false,
            acks: false,
            fresh: BTreeMap::new(),
            bytes: 0,
            overdue: BTreeMap::new(),
            pushes: 0,
            probe: None,
            check_at: None,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.fresh.len() >= WINDOW_ENVELOPES || self.bytes >= WINDOW_BYTES
    }

    /// The recipients whose queues it may drain or confirm.
    pub(super) fn sources(&self) -> [Recipient; 2] {
        [self.own.clone(), Recipient::Member(self.member.clone())]
    }

    pub(super) fn next_check(&self) -> Option<Ms> {
        let first = self.fresh.values().next().map(|place| {
            let probing = self.by_pong && self.probe.is_none();
            place.at + if probing { PROBE_MS } else { REPUSH_MS }
        });
        self.overdue.values().map(|(due, _)| *due).chain(first).min()
    }
}
