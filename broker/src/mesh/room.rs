//! Room in the durable queues, in bytes of bodies: for one recipient, and in the mesh.
//!
//! What waits is never counted down here. The store sums it up when that matters; what has been
//! accepted since is added, which makes an upper estimate. Where the estimate meets a limit, the
//! store is asked again first. So confirmations, expiry, removals and inheritance need not be
//! followed, and a new owner need not know what waits: it asks when it has accepted some.

use std::collections::HashMap;

use super::facts::FRESH_MS;
use super::io::Ms;
use super::limits::Limits;
use crate::model::{QueueBytes, Recipient};

/// Of what the limits allow, so much is accepted before the store has told anything: a part.
const UNKNOWN_PART: u64 = 64;
/// A sum serves for so many times as long as it took, and for [`FRESH_MS`] at least.
const REST: u64 = 10;

/// What a send must wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nothing: what is known says whether there is room.
    Nothing,
    /// The store should be asked, and nobody need wait for it.
    Ask,
    /// The store's answer decides.
    Wait,
}

#[derive(Debug, Clone, Default)]
struct Sums {
    mesh: u64,
    recipients: HashMap<Recipient, u64>,
}

impl Sums {
    fn add(&mut self, to: &[Recipient], bytes: u64) {
        self.mesh += bytes;
        for recipient in to {
            *self.recipients.entry(recipient.clone()).or_default() += bytes;
        }
    }

    fn subtract(&mut self, to: &[Recipient], bytes: u64) {
        self.mesh = self.mesh.saturating_sub(bytes);
        for recipient in to {
            if let Some(sum) = self.recipients.get_mut(recipient) {
                *sum = sum.saturating_sub(bytes);
                if *sum == 0 {
                    self.recipients.remove(recipient);
                }
            }
        }
    }

    fn of(&self, recipient: &Recipient) -> u64 {
        self.recipients.get(recipient).copied().unwrap_or(0)
    }

    fn inherit(&mut self, from: &Recipient, to: &Recipient) {
        if let Some(bytes) = self.recipients.remove(from) {
            *self.recipients.entry(to.clone()).or_default() += bytes;
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// What the store said waits.
    told: Option<Sums>,
    told_at: Ms,
    took: Ms,
    /// When it was asked, if it has not answered yet.
    asked: Option<Ms>,
    /// Accepted, and perhaps not in what the store said.
    since: Sums,
    /// Accepted, and perhaps not in what the store is about to say.
    next: Sums,
    /// Accepted and not durable yet.
    pending: Sums,
    /// Heirs since the store was asked: its answer may not know of them.
    heirs: Vec<(Recipient, Recipient)>,
    /// The most that may wait for one recipient.
    most: u64,
}

impl Room {
    /// What to do before a body of so many bytes is accepted.
    pub(super) fn wants(&self, limits: &Limits, bytes: u64, now: Ms) -> Wanted {
        let beyond = |part: u64| {
            self.mesh() + bytes > limits.mesh_queue_bytes / part
                || self.most + bytes > limits.recipient_queue_bytes / part
        };
        let part = if self.told.is_some() { 1 } else { UNKNOWN_PART };
        let rests = self.told.is_some()
            && now.saturating_sub(self.told_at) < FRESH_MS.max(REST * self.took);
        if rests || !beyond(2 * part) {
            Wanted::Nothing
        } else if beyond(part) {
            Wanted::Wait
        } else if self.asked.is_some() {
            Wanted::Nothing
        } else {
            Wanted::Ask
        }
    }

    fn mesh(&self) -> u64 {
        self.told.as_ref().map_or(0, |told| told.mesh) + self.since.mesh
    }

    fn of(&self, recipient: &Recipient) -> u64 {
        self.told.as_ref().map_or(0, |told| told.of(recipient)) + self.since.of(recipient)
    }

    /// Whether one more fits, as far as is known.
    pub(super) fn fits(&self, limits: &Limits, recipient: &Recipient, bytes: u64) -> bool {
        self.mesh() + bytes <= limits.mesh_queue_bytes
            && self.of(recipient) + bytes <= limits.recipient_queue_bytes
    }

    /// Whether the store has been asked and has not answered.
    pub(super) fn is_asking(&self) -> bool {
        self.asked.is_some()
    }

    /// The store is asked.
    pub(super) fn ask(&mut self, now: Ms) {
        self.asked = Some(now);
        self.heirs.clear();
        self.next = self.pending.clone();
    }

    /// It has answered, or could not.
    pub(super) fn answered(&mut self, told: Option<QueueBytes>, now: Ms) {
        let asked = self.asked.take().unwrap_or(now);
        let next = std::mem::take(&mut self.next);
        let Some(QueueBytes { mesh, recipients }) = told else { return };
        let recipients: HashMap<_, _> = recipients.into_iter().collect();
        self.told = Some(Sums { mesh, recipients });
        (self.told_at, self.took) = (asked, now.saturating_sub(asked));
        self.since = next;
        for (from, to) in std::mem::take(&mut self.heirs) {
            self.move_all(&from, &to);
        }
        let told = self.told.iter().flat_map(|told| told.recipients.keys());
        let known = told.chain(self.since.recipients.keys());
        self.most = known.map(|recipient| self.of(recipient)).max().unwrap_or(0);
    }

    /// What waits for one waits for another from now on.
    pub(super) fn inherit(&mut self, from: &Recipient, to: &Recipient) {
        self.move_all(from, to);
        self.most = self.most.max(self.of(to));
        if self.asked.is_some() {
            self.heirs.push((from.clone(), to.clone()));
        }
    }

    fn move_all(&mut self, from: &Recipient, to: &Recipient) {
        for sums in self.told.iter_mut().chain([&mut self.since, &mut self.next]) {
            sums.inherit(from, to);
        }
    }

    /// A body is to wait for these.
    pub(super) fn accept(&mut self, to: &[Recipient], bytes: u64) {
        if to.is_empty() {
            return;
        }
        self.since.add(to, bytes);
        self.pending.add(to, bytes);
        if self.asked.is_some() {
            self.next.add(to, bytes);
        }
        let most = to.iter().map(|recipient| self.of(recipient)).max().unwrap_or(0);
        self.most = self.most.max(most);
    }

    /// It is durable; or it was a repetition (`!stored`) and waits for nobody.
    pub(super) fn settle(&mut self, to: &[Recipient], bytes: u64, stored: bool) {
        if to.is_empty() {
            return;
        }
        self.pending.subtract(to, bytes);
        if !stored {
            self.since.subtract(to, bytes);
            self.next.subtract(to, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::tests::LIMITS;

    fn to(name: &str) -> Vec<Recipient> {
        vec![Recipient::Session(name.into())]
    }

    fn limits() -> Limits {
        Limits { mesh_queue_bytes: 1_600, recipient_queue_bytes: 800, ..LIMITS }
    }

    fn told(mesh: u64, recipients: &[(&str, u64)]) -> QueueBytes {
        let recipients = recipients.iter();
        let recipients = recipients.map(|(to, n)| (Recipient::Session((*to).into()), *n)).collect();
        QueueBytes { mesh, recipients }
    }

    #[test]
    fn little_is_accepted_before_the_store_has_told() {
        let mut room = Room::default();
        let limits = Limits { mesh_queue_bytes: 12_800, recipient_queue_bytes: 6_400, ..limits() };
        assert_eq!(room.wants(&limits, 50, 0), Wanted::Nothing);
        room.accept(&to("a"), 50);
        assert_eq!(room.wants(&limits, 50, 0), Wanted::Ask);
        room.ask(0);
        assert_eq!(room.wants(&limits, 50, 0), Wanted::Nothing, "asked already");
        room.accept(&to("a"), 50);
        assert_eq!(room.wants(&limits, 1, 0), Wanted::Wait);
        room.answered(Some(told(6_300, &[("a", 6_300)])), 1);
        assert!(
            !room.fits(&limits, &to("a")[0], 1),
            "what was not durable when it was asked counts"
        );
        assert!(room.fits(&limits, &to("b")[0], 1));
    }

    #[test]
    fn the_store_is_asked_again_before_somebody_is_refused() {
        let (mut room, limits) = (Room::default(), limits());
        room.ask(0);
        room.answered(Some(told(0, &[])), 10);
        for _ in 0..8 {
            room.accept(&to("a"), 100);
            room.settle(&to("a"), 100, true);
        }
        assert!(!room.fits(&limits, &to("a")[0], 1));
        assert_eq!(room.wants(&limits, 1, FRESH_MS - 1), Wanted::Nothing);
        assert_eq!(room.wants(&limits, 1, FRESH_MS), Wanted::Wait);
        room.ask(FRESH_MS);
        room.accept(&to("a"), 100);
        room.answered(Some(told(200, &[("a", 200)])), FRESH_MS + 500);
        assert!(room.fits(&limits, &to("a")[0], 500));
        assert!(!room.fits(&limits, &to("a")[0], 501), "accepted after it was asked");
        assert_eq!(room.wants(&limits, 700, FRESH_MS + 4_999), Wanted::Nothing, "it took long");
        assert_eq!(room.wants(&limits, 700, FRESH_MS + 5_000), Wanted::Wait);
    }

    #[test]
    fn a_repetition_takes_no_room() {
        let (mut room, limits) = (Room::default(), limits());
        room.ask(0);
        room.answered(Some(told(0, &[])), 0);
        room.accept(&to("a"), 800);
        room.ask(0);
        room.settle(&to("a"), 800, false);
        assert!(room.fits(&limits, &to("a")[0], 800));
        room.answered(Some(told(0, &[])), 0);
        assert!(room.fits(&limits, &to("a")[0], 800));
    }

    #[test]
    fn an_heir_has_what_waits_for_both() {
        let (mut room, limits) = (Room::default(), limits());
        room.ask(0);
        room.answered(Some(told(500, &[("a", 300), ("b", 200)])), 0);
        room.accept(&to("a"), 100);
        room.ask(0);
        room.inherit(&to("a")[0], &to("b")[0]);
        assert!(!room.fits(&limits, &to("b")[0], 201));
        room.answered(Some(told(500, &[("a", 300), ("b", 200)])), 0);
        assert!(room.fits(&limits, &to("b")[0], 200));
        assert!(!room.fits(&limits, &to("b")[0], 201));
    }

    #[test]
    fn a_body_for_many_counts_once_in_the_mesh() {
        let (mut room, limits) = (Room::default(), limits());
        room.ask(0);
        room.answered(Some(told(0, &[])), 0);
        room.accept(&[to("a"), to("b"), to("c")].concat(), 800);
        assert!(room.fits(&limits, &to("d")[0], 800));
        assert!(!room.fits(&limits, &to("b")[0], 1));
        assert!(!room.fits(&limits, &to("d")[0], 801));
    }
}
