//! The link's rules (design §5): numbering, windows, retransmission.
//!
//! Each connection numbers its commands from 0. The edge keeps a command in its [`Window`] until
//! its *result* has arrived, not when it was received, and sends everything unreleased again when
//! the owner changes epoch. Each command says behind which one it comes, those with a result left
//! out: so the owner, which takes them in through an [`Inbound`], executes nothing twice in an
//! epoch, nothing ahead of what was lost, and does not wait for what a new owner is never sent. What makes a command safe to repeat *across* epochs is its class, and
//! that is its sender's to declare.

pub mod local;
pub mod stream;

use std::collections::VecDeque;

/// Commands of one connection that wait for results.
pub const WINDOW_COMMANDS: usize = 64;
/// Their bytes. One command always fits, whatever its size.
pub const WINDOW_BYTES: usize = 256 * 1024;
/// How long the edge waits for a result before it answers in the owner's stead, in milliseconds.
/// Clients wait 10 s for an ack.
pub const RESULT_TIMEOUT_MS: u64 = 8_000;

/// The edge's half: commands of one connection without a result.
#[derive(Debug)]
pub struct Window<T> {
    /// Number of the first slot: everything below has been released.
    base: u64,
    slots: VecDeque<Option<Slot<T>>>,
    bytes: usize,
}

#[derive(Debug)]
struct Slot<T> {
    command: T,
    bytes: usize,
    since: u64,
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self { base: 0, slots: VecDeque::new(), bytes: 0 }
    }
}

impl<T> Window<T> {
    /// Takes a command in at `now` (milliseconds) and numbers it.
    pub fn push(&mut self, command: T, bytes: usize, now: u64) -> u64 {
        self.bytes += bytes;
        self.slots.push_back(Some(Slot { command, bytes, since: now }));
        self.base + self.slots.len() as u64 - 1
    }

    /// Whether the edge must stop reading the connection until a result arrives.
    pub fn is_full(&self) -> bool {
        self.slots.len() >= WINDOW_COMMANDS || self.bytes >= WINDOW_BYTES
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The last command taken in, behind its base: see [`Self::unreleased`].
    pub fn last(&self) -> Option<(u64, u64, &T)> {
        let number = |index: usize| self.base + index as u64;
        let mut open = self.slots.iter().enumerate().rev().filter(|(_, slot)| slot.is_some());
        let (index, slot) = open.next()?;
        let base = open.next().map_or(0, |(before, _)| number(before) + 1);
        Some((base, number(index), &slot.as_ref()?.command))
    }

    /// A result arrived, or the edge has given up: the command and the time it was taken in,
    /// the first time only.
    pub fn release(&mut self, number: u64) -> Option<(T, u64)> {
        let index = usize::try_from(number.checked_sub(self.base)?).ok()?;
        let slot = self.slots.get_mut(index)?.take()?;
        self.bytes -= slot.bytes;
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.base += 1;
        }
        Some((slot.command, slot.since))
    }

    /// Everything without a result, in order: what is sent again when the owner changes. Before
    /// each its base: from there up to its number, everything has been released.
    pub fn unreleased(&self) -> impl Iterator<Item = (u64, u64, &T)> {
        let numbered = (self.base..).zip(&self.slots);
        let open = numbered.filter_map(|(number, slot)| Some((number, &slot.as_ref()?.command)));
        open.scan(0, |next, (number, command)| {
            Some((std::mem::replace(next, number + 1), number, command))
        })
    }

    /// The oldest command that has waited for [`RESULT_TIMEOUT_MS`] by `now`.
    pub fn overdue(&self, now: u64) -> Option<u64> {
        (self.deadline()? <= now).then_some(self.base)
    }

    /// Every command has been taken in just `now`: the edge stood still, and could not have heard of
    /// a result.
    pub fn restart(&mut self, now: u64) {
        self.slots.iter_mut().flatten().for_each(|slot| slot.since = now);
    }

    /// When the oldest command will have waited too long.
    pub fn deadline(&self) -> Option<u64> {
        Some(self.slots.front()?.as_ref()?.since + RESULT_TIMEOUT_MS)
    }
}

/// What the owner does with a numbered command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Execute it.
    Fresh,
    /// It was taken in before: its result is on its way.
    Repeat,
    /// Something before it was lost: it will come again behind that.
    Gap,
}

/// The owner's half, for one connection in one epoch.
#[derive(Debug, Default)]
pub struct Inbound {
    next: u64,
}

impl Inbound {
    /// Judges command `number`, everything from `base` up to which the edge has released.
    pub fn accept(&mut self, base: u64, number: u64) -> Verdict {
        if number < self.next {
            return Verdict::Repeat;
        }
        if base > self.next {
            return Verdict::Gap;
        }
        self.next = number + 1;
        Verdict::Fresh
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_window_always_takes_one_command_and_then_counts_bytes() {
        let mut window = Window::default();
        assert!(!window.is_full());
        window.push("huge", 10 * WINDOW_BYTES, 0);
        assert!(window.is_full());
        assert_eq!(window.release(0), Some(("huge", 0)));
        assert!(!window.is_full() && window.is_empty());
    }

    #[test]
    fn a_gap_is_not_executed_and_a_given_up_command_does_not_block() {
        let mut inbound = Inbound::default();
        assert_eq!(inbound.accept(5, 5), Verdict::Gap);
        assert_eq!(inbound.accept(0, 3), Verdict::Fresh);
        assert_eq!(inbound.accept(0, 3), Verdict::Repeat);
        assert_eq!(inbound.accept(4, 5), Verdict::Fresh);
    }

    /// Results do not come in order: a question's overtakes a send's. A new owner is sent neither
    /// what has a result nor told that it is missing, other than by the bases.
    #[test]
    fn a_new_owner_does_not_wait_for_what_has_a_result() {
        let mut window = Window::default();
        for command in ["a", "b", "c"] {
            window.push(command, 1, 0);
        }
        window.release(1);
        let mut inbound = Inbound::default();
        let taken = |(base, number, _): (u64, u64, &_)| inbound.accept(base, number);
        assert!(window.unreleased().map(taken).eq([Verdict::Fresh, Verdict::Fresh]));
        window.push("d", 1, 0);
        assert_eq!(window.last(), Some((3, 3, &"d")));
        assert_eq!(inbound.accept(3, 3), Verdict::Fresh);
    }

    proptest! {
        /// Whatever is lost or repeated on the way, and whichever results come first, each owner
        /// executes everything once and in order as long as the edge repeats what has no result.
        #[test]
        fn a_lossy_link_executes_each_command_once_in_order(
            losses in proptest::collection::vec(any::<u16>(), 1..40),
            results in proptest::collection::vec(any::<u8>(), 1..40),
        ) {
            let (mut window, mut inbound) = (Window::default(), Inbound::default());
            let mut executed = Vec::new();
            let mut pushed = 0u64;
            for (round, loss) in losses.iter().enumerate() {
                if loss % 7 == 0 {
                    inbound = Inbound::default();
                    executed.clear();
                }
                while pushed < 16 && !window.is_full() {
                    window.push(pushed, 1, round as u64);
                    pushed += 1;
                }
                let sent: Vec<_> = window.unreleased().map(|(b, n, c)| (b, n, *c)).collect();
                for (index, (base, number, command)) in sent.iter().copied().enumerate() {
                    let lost = loss & (1 << (index % 16)) != 0;
                    if !lost && inbound.accept(base, number) == Verdict::Fresh {
                        executed.push(command);
                    }
                }
                if loss % 5 == 0 {
                    for (base, number, command) in &sent {
                        if inbound.accept(*base, *number) == Verdict::Fresh {
                            executed.push(*command);
                        }
                    }
                    prop_assert!(sent.iter().all(|(_, _, command)| executed.contains(command)));
                }
                let returned = u64::from(results[round % results.len()]) % 16;
                if executed.contains(&returned) {
                    window.release(returned);
                }
            }
            prop_assert!(executed.is_sorted_by(|a, b| a < b));
        }
    }
}
