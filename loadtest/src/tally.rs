//! What one peer received: firsts, duplicates and inversions, told from the marks of messages.

use crate::stats::Samples;
use crate::wire::Mark;

/// What a message turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    First,
    Duplicate,
    /// Not of this run, or not for this peer.
    Foreign,
}

/// Of one recipient.
#[derive(Debug)]
pub(crate) struct Tally {
    me: u32,
    run: u32,
    senders: Vec<Seen>,
    pub(crate) latency: Samples,
    pub(crate) unique: u64,
    pub(crate) duplicates: u64,
    pub(crate) foreign: u64,
    /// (sender, counter) of first arrivals that came after a later message of the same sender.
    pub(crate) inverted: Vec<(u32, u32)>,
    /// When the last first arrival came.
    pub(crate) last: u64,
}

/// Which counters of one sender have come.
#[derive(Debug, Default, Clone)]
struct Seen {
    bits: Vec<u64>,
    highest: Option<u32>,
}

impl Seen {
    fn has(&self, counter: u32) -> bool {
        self.bits.get(counter as usize / 64).is_some_and(|word| word >> (counter % 64) & 1 == 1)
    }

    /// Whether it is new.
    fn set(&mut self, counter: u32) -> bool {
        let word = counter as usize / 64;
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        let new = !self.has(counter);
        self.bits[word] |= 1 << (counter % 64);
        new
    }
}

impl Tally {
    pub(crate) fn new(me: u32, run: u32, peers: u32) -> Self {
        Self {
            me,
            run,
            senders: vec![Seen::default(); peers as usize],
            latency: Samples::default(),
            unique: 0,
            duplicates: 0,
            foreign: 0,
            inverted: Vec::new(),
            last: 0,
        }
    }

    /// Takes one delivery in. `limit` is above every counter in use, so that a damaged mark cannot
    /// ask for memory.
    pub(crate) fn take(&mut self, mark: &Mark, limit: u32, now: u64) -> Arrival {
        let mine = mark.run == self.run && mark.recipient == self.me && mark.counter < limit;
        let Some(seen) = self.senders.get_mut(mark.sender as usize).filter(|_| mine) else {
            self.foreign += 1;
            return Arrival::Foreign;
        };
        if !seen.set(mark.counter) {
            self.duplicates += 1;
            return Arrival::Duplicate;
        }
        if seen.highest.is_some_and(|highest| highest > mark.counter) {
            self.inverted.push((mark.sender, mark.counter));
        }
        seen.highest = seen.highest.max(Some(mark.counter));
        self.unique += 1;
        self.last = now;
        self.latency.add(now.saturating_sub(mark.origin));
        Arrival::First
    }

    pub(crate) fn has(&self, sender: u32, counter: u32) -> bool {
        self.senders.get(sender as usize).is_some_and(|seen| seen.has(counter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(counters: &[u32]) -> Tally {
        let mut tally = Tally::new(1, 9, 3);
        for counter in counters {
            let mark = Mark { run: 9, sender: 0, recipient: 1, counter: *counter, origin: 5 };
            tally.take(&mark, 1000, 25);
        }
        tally
    }

    #[test]
    fn in_order_there_is_nothing_to_find() {
        let tally = received(&[0, 1, 2, 63, 64, 65, 200]);
        assert_eq!((tally.unique, tally.duplicates), (7, 0));
        assert!(tally.inverted.is_empty());
        assert!(tally.has(0, 64) && !tally.has(0, 66) && !tally.has(2, 0) && !tally.has(7, 0));
    }

    #[test]
    fn a_repeat_is_a_duplicate_however_late() {
        let tally = received(&[0, 1, 1, 2, 0]);
        assert_eq!((tally.unique, tally.duplicates), (3, 2));
        assert!(tally.inverted.is_empty(), "a repeat is no inversion");
    }

    #[test]
    fn whatever_comes_after_a_later_one_is_inverted() {
        assert_eq!(received(&[0, 3, 1, 2, 4]).inverted, [(0, 1), (0, 2)]);
        assert_eq!(received(&[1, 0]).inverted, [(0, 0)]);
    }

    #[test]
    fn senders_do_not_order_each_other() {
        let mut tally = Tally::new(1, 9, 3);
        for (sender, counter) in [(0, 5), (2, 1), (0, 6), (2, 2)] {
            let mark = Mark { run: 9, sender, recipient: 1, counter, origin: 0 };
            assert_eq!(tally.take(&mark, 1000, 0), Arrival::First);
        }
        assert!(tally.inverted.is_empty());
    }

    #[test]
    fn what_is_not_meant_for_this_peer_is_foreign() {
        let mut tally = Tally::new(1, 9, 3);
        let mark = Mark { run: 9, sender: 0, recipient: 1, counter: 0, origin: 0 };
        for wrong in [
            Mark { run: 8, ..mark },
            Mark { recipient: 2, ..mark },
            Mark { sender: 3, ..mark },
            Mark { counter: 1000, ..mark },
        ] {
            assert_eq!(tally.take(&wrong, 1000, 0), Arrival::Foreign);
        }
        assert_eq!((tally.foreign, tally.unique), (4, 0));
    }
}
