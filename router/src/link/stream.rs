//! A stream: items in order, each once, over a carrier that loses, repeats and reorders them.
//!
//! Go-back-N: the receiver takes nothing behind a gap and says at once what it waits for; the
//! sender repeats from there. A lost *last* item is noticed by the sender, whose patience ends. What
//! is under way is bounded, so that a stalled receiver is not drowned when it comes back; what waits
//! is counted, and bounded by whoever pushes.

use std::collections::VecDeque;

use super::Verdict;
use crate::membership::Ms;

/// Bytes under way without having been acknowledged. One item always goes.
pub const FLIGHT_BYTES: usize = 512 * 1024;
/// Items under way without having been acknowledged.
pub const FLIGHT_ITEMS: u64 = 1024;
/// Shortest and longest wait for an acknowledgement before everything is sent again, in milliseconds.
/// Between them it follows the round trips (RFC 6298): a link to another continent is slow and not
/// broken.
pub const PATIENCE_MS: (Ms, Ms) = (250, 2_000);
/// How long an acknowledgement may wait for company, in milliseconds.
pub const ACK_MS: Ms = 25;
/// A gap is told of again if nothing has come of it for so long, in milliseconds.
const GAP_MS: Ms = 100;

/// The sender's half.
#[derive(Debug)]
pub struct Outgoing<T> {
    /// Number of the first item kept: everything below has arrived.
    base: u64,
    /// Number of the first item not sent, or to be sent again.
    unsent: u64,
    items: VecDeque<(T, usize)>,
    bytes: usize,
    /// Bytes from `base` to `unsent`.
    flying: usize,
    /// Everything below has been sent at least once.
    sent: u64,
    patience: Ms,
    repeat_at: Option<Ms>,
    /// An item under way that was sent once, and when.
    timed: Option<(u64, Ms)>,
    round_trip: Option<RoundTrip>,
}

/// Round trips, smoothed (RFC 6298 §2).
#[derive(Debug, Clone, Copy)]
struct RoundTrip {
    smoothed: Ms,
    variation: Ms,
}

impl RoundTrip {
    fn first(took: Ms) -> Self {
        Self { smoothed: took, variation: took / 2 }
    }

    fn and(self, took: Ms) -> Self {
        let variation = (3 * self.variation + self.smoothed.abs_diff(took)) / 4;
        Self { smoothed: (7 * self.smoothed + took) / 8, variation }
    }

    fn patience(self) -> Ms {
        (self.smoothed + 4 * self.variation).clamp(PATIENCE_MS.0, PATIENCE_MS.1)
    }
}

impl<T> Default for Outgoing<T> {
    fn default() -> Self {
        Self {
            base: 0,
            unsent: 0,
            items: VecDeque::new(),
            bytes: 0,
            flying: 0,
            sent: 0,
            patience: PATIENCE_MS.0,
            repeat_at: None,
            timed: None,
            round_trip: None,
        }
    }
}

impl<T> Outgoing<T> {
    /// Adds an item of about `bytes`; its number.
    pub fn push(&mut self, item: T, bytes: usize) -> u64 {
        self.bytes += bytes;
        self.items.push_back((item, bytes));
        self.base + self.items.len() as u64 - 1
    }

    /// Whether the receiver has this item.
    pub fn has_arrived(&self, number: u64) -> bool {
        number < self.base
    }

    /// Bytes of what has not been acknowledged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether everything has been acknowledged.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The next item to send, with its number, as long as there is room under way.
    pub fn next(&mut self, now: Ms) -> Option<(u64, &T)> {
        let index = usize::try_from(self.unsent - self.base).ok()?;
        let (item, bytes) = self.items.get(index)?;
        let full = self.unsent - self.base >= FLIGHT_ITEMS || self.flying + bytes > FLIGHT_BYTES;
        if full && index > 0 {
            return None;
        }
        self.flying += bytes;
        if self.unsent == self.sent {
            self.sent += 1;
            self.timed.get_or_insert((self.unsent, now));
        }
        self.unsent += 1;
        self.repeat_at.get_or_insert(now + self.patience);
        Some((self.unsent - 1, item))
    }

    /// The receiver waits for `next`; `gap`: it has seen what comes behind.
    pub fn acknowledged(&mut self, now: Ms, next: u64, gap: bool) {
        let progress = next > self.base && next <= self.base + self.items.len() as u64;
        while progress && self.base < next {
            let Some((_, bytes)) = self.items.pop_front() else { break };
            self.bytes -= bytes;
            if self.unsent > self.base {
                self.flying -= bytes;
            }
            self.base += 1;
        }
        self.unsent = self.unsent.max(self.base);
        if progress {
            // An acknowledgement of what was repeated tells no time: patience stays as it has grown.
            if let Some((_, sent_at)) = self.timed.take_if(|(number, _)| *number < next) {
                let took = now.saturating_sub(sent_at);
                let known = self.round_trip.map_or(RoundTrip::first(took), |known| known.and(took));
                self.round_trip = Some(known);
                self.patience = known.patience();
            }
            self.repeat_at = (self.unsent > self.base).then_some(now + self.patience);
        }
        if gap && next == self.base {
            self.rewind();
        }
    }

    /// Whether patience has ended: then everything under way is to be sent again.
    pub fn tick(&mut self, now: Ms) {
        if self.repeat_at.is_some_and(|at| at <= now) {
            self.patience = (self.patience * 2).min(PATIENCE_MS.1);
            self.rewind();
        }
    }

    fn rewind(&mut self) {
        self.unsent = self.base;
        self.flying = 0;
        self.repeat_at = None;
        self.timed = None;
    }

    /// When [`tick`](Self::tick) is due.
    pub fn deadline(&self) -> Option<Ms> {
        self.repeat_at
    }
}

/// The receiver's half.
#[derive(Debug, Default)]
pub struct Incoming {
    next: u64,
    /// When the sender must have heard of what has come.
    owed_at: Option<Ms>,
    gap: bool,
    gap_told: Option<Ms>,
}

impl Incoming {
    /// Judges item `number`. Only what is [`Verdict::Fresh`] may be used.
    pub fn accept(&mut self, now: Ms, number: u64) -> Verdict {
        if number == self.next {
            self.next += 1;
            self.gap = false;
            self.gap_told = None;
            self.owed_at.get_or_insert(now + ACK_MS);
            return Verdict::Fresh;
        }
        if number < self.next {
            // It is being repeated: the sender has not heard.
            self.owed_at = Some(now);
            return Verdict::Repeat;
        }
        if self.gap_told.is_none_or(|at| at + GAP_MS <= now) {
            self.gap = true;
            self.owed_at = Some(now);
            self.gap_told = Some(now);
        }
        Verdict::Gap
    }

    /// The sender must hear at once what is waited for.
    pub fn owe(&mut self) {
        self.owed_at = Some(0);
    }

    /// What the receiver waits for: goes along with whatever is sent the other way.
    pub fn expects(&mut self) -> u64 {
        if !self.gap {
            self.owed_at = None;
        }
        self.next
    }

    /// An acknowledgement to send on its own, if one is due: what is waited for, and whether what
    /// comes behind it has been seen.
    pub fn owed(&mut self, now: Ms) -> Option<(u64, bool)> {
        self.owed_at.filter(|at| *at <= now)?;
        self.owed_at = None;
        Some((self.next, std::mem::take(&mut self.gap)))
    }

    /// When [`owed`](Self::owed) is due.
    pub fn deadline(&self) -> Option<Ms> {
        self.owed_at
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_under_way_is_bounded_but_one_item_always_goes() {
        let mut out = Outgoing::default();
        out.push("huge", 2 * FLIGHT_BYTES);
        out.push("next", 1);
        assert_eq!(out.next(0), Some((0, &"huge")));
        assert_eq!(out.next(0), None);
        out.acknowledged(1, 1, false);
        assert_eq!(out.next(1), Some((1, &"next")));
        assert_eq!(out.bytes(), 1);
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_sent_is_ignored() {
        let mut out = Outgoing::default();
        out.push('a', 1);
        out.acknowledged(0, 9, false);
        assert_eq!(out.next(0), Some((0, &'a')));
        assert!(!out.is_empty());
    }

    #[test]
    fn a_lost_last_item_comes_again_after_a_while() {
        let mut out = Outgoing::default();
        out.push('a', 1);
        assert!(out.next(0).is_some() && out.next(0).is_none());
        out.tick(PATIENCE_MS.0 - 1);
        assert!(out.next(PATIENCE_MS.0 - 1).is_none());
        out.tick(PATIENCE_MS.0);
        assert_eq!(out.next(PATIENCE_MS.0), Some((0, &'a')));
    }

    /// An item each 20 ms, on a link whose acknowledgements come `round_trip` later.
    #[test]
    fn a_far_link_repeats_a_few_times_and_then_nothing() {
        for round_trip in [2, 150, 300, 900] {
            let mut out = Outgoing::default();
            let (mut acknowledgements, mut sent) = (VecDeque::new(), 0);
            for now in (0..30_000).step_by(20) {
                out.push((), 100);
                out.tick(now);
                while let Some((number, ())) = out.next(now) {
                    sent += 1;
                    acknowledgements.push_back((now + round_trip, number + 1));
                }
                while let Some((_, next)) = acknowledgements.pop_front_if(|(at, _)| *at <= now) {
                    out.acknowledged(now, next, false);
                }
            }
            let repeated = sent - 1_500;
            assert!(repeated <= 200, "{round_trip} ms: {repeated} of 1500 were sent again");
        }
    }

    proptest! {
        /// Whatever the carrier loses, repeats or delays, everything arrives once and in order,
        /// once it carries again.
        #[test]
        fn everything_arrives_once_and_in_order(
            fates in proptest::collection::vec(0u8..8, 0..400),
            items in 1u64..60,
        ) {
            let (mut out, mut incoming) = (Outgoing::default(), Incoming::default());
            (0..items).for_each(|item| _ = out.push(item, 1_000));
            let mut fates = fates.into_iter().chain(std::iter::repeat(7));
            let (mut late, mut got) = (Vec::new(), Vec::new());
            let mut now = 0;
            while !out.is_empty() {
                now += 20;
                prop_assert!(now < 1_000_000, "it does not come to an end");
                out.tick(now);
                let mut arriving = std::mem::take(&mut late);
                while let Some((number, item)) = out.next(now) {
                    match fates.next() {
                        Some(0) => {}
                        Some(1) => late.push((number, *item)),
                        Some(2) => arriving.extend([(number, *item); 2]),
                        _ => arriving.push((number, *item)),
                    }
                }
                for (number, item) in arriving {
                    if incoming.accept(now, number) == Verdict::Fresh {
                        got.push(item);
                    }
                }
                if let Some((next, gap)) = incoming.owed(now)
                    && fates.next() != Some(0)
                {
                    out.acknowledged(now, next, gap);
                }
            }
            prop_assert!(got.into_iter().eq(0..items));
        }
    }
}
