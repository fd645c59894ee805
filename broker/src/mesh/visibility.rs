//! Telling peers who can be seen.
//!
//! A peer may hide and show itself as often as it asks, and is answered at once. Its mates are told
//! each time, but of one member no more often than [`EVENTS`] says, since each event goes to every
//! connection of the mesh. What was held back is told as it is by then, or not at all if that is what
//! they were told last.

use std::collections::BTreeSet;

use protocol::MemberId;

use super::io::{Effect, Ms, Now};
use super::limits::{Buckets, Rate};
use super::roster::{Lease, LeaseNo, Shown};
use super::state::Mesh;

/// How often one member's sessions may be announced as hidden or shown.
const EVENTS: Rate = Rate { per_minute: 60, burst: 20 };
/// When those that were held back are looked at again, in milliseconds.
const RETRY_MS: Ms = 1_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct Visibility {
    rate: Buckets<MemberId>,
    held_back: BTreeSet<LeaseNo>,
    retry_at: Option<Ms>,
}

impl Default for Visibility {
    fn default() -> Self {
        Self { rate: Buckets::new(EVENTS), held_back: BTreeSet::new(), retry_at: None }
    }
}

impl Visibility {
    pub(super) fn deadline(&self) -> Option<Ms> {
        self.retry_at
    }

    /// Leases have other numbers now: `held_back` are those that this owner still has to announce.
    pub(super) fn begin_epoch(&mut self, now: Ms, held_back: BTreeSet<LeaseNo>) {
        self.retry_at = (!held_back.is_empty()).then_some(now + RETRY_MS);
        self.held_back = held_back;
    }
}

impl Mesh {
    /// A peer has said whether it can be seen, durably.
    pub(super) fn announce_visibility(&mut self, now: Now, no: LeaseNo) {
        let Some(lease) = self.roster.get(no).filter(|lease| lease.is_eligible()) else { return };
        if self.visibility.rate.take(&lease.record.member, now.mono) {
            let visible = lease.record.visible;
            self.visibility.held_back.remove(&no);
            self.tell_visibility(now, no, visible);
        } else {
            self.visibility.held_back.insert(no);
            self.visibility.retry_at.get_or_insert(now.mono + RETRY_MS);
        }
    }

    fn tell_visibility(&mut self, now: Now, no: LeaseNo, visible: bool) {
        let point = self.next_generation();
        if let Some(lease) = self.roster.get_mut(no) {
            lease.shown = Shown { at: point, visible };
        }
        let event = if visible { "peer_visible" } else { "peer_hidden" };
        if let Some((conns, frame)) = self.event(now, event, no) {
            self.out.push(Effect::Broadcast { conns, frame });
        }
    }

    /// Tells what was held back, as far as that may be told by now.
    pub(super) fn tell_held_back(&mut self, now: Now) {
        if self.visibility.retry_at.is_some_and(|at| at <= now.mono) {
            self.visibility.retry_at = None;
            for no in std::mem::take(&mut self.visibility.held_back) {
                let differs = |lease: &Lease| lease.shown.visible != lease.record.visible;
                if self.roster.get(no).is_some_and(differs) {
                    self.announce_visibility(now, no);
                }
            }
        }
    }
}
