//! The link's rules (design §5): numbering, windows, retransmission.
//!
//! Each connection numbers its commands from 0. The edge keeps a command in its [`Window`] until
//! its *result* has arrived, not when it was received, and sends everything unreleased again when
//! the owner changes epoch. The owner takes numbers in through an [`Inbound`], contiguously from
//! the lowest one the edge has not released, so that nothing is executed twice in an epoch, or
//! ahead of what was lost. What makes a command safe to repeat *across* epochs is its class, and
//! that is its sender's to declare.

pub mod local;

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

    /// The lowest number without a result: the owner need not remember anything below.
    pub fn base(&self) -> u64 {
        self.base
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

    /// Everything without a result, in order: what is sent again when the owner changes.
    pub fn unreleased(&self) -> impl Iterator<Item = (u64, &T)> {
        let numbered = (self.base..).zip(&self.slots);
        numbered.filter_map(|(number, slot)| Some((number, &slot.as_ref()?.command)))
    }

    /// The oldest command that has waited for [`RESULT_TIMEOUT_MS`] by `now`.
    pub fn overdue(&self, now: u64) -> Option<u64> {
        (self.deadline()? <= now).then_some(self.base)
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
    /// Judges command `number` of an edge whose lowest unreleased number is `base`.
    pub fn accept(&mut self, base: u64, number: u64) -> Verdict {
        self.next = self.next.max(base);
        match number.cmp(&self.next) {
            std::cmp::Ordering::Less => Verdict::Repeat,
            std::cmp::Ordering::Greater => Verdict::Gap,
            std::cmp::Ordering::Equal => {
                self.next += 1;
                Verdict::Fresh
            }
        }
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
        assert_eq!(inbound.accept(3, 5), Verdict::Gap);
        assert_eq!(inbound.accept(3, 3), Verdict::Fresh);
        assert_eq!(inbound.accept(3, 3), Verdict::Repeat);
        assert_eq!(inbound.accept(5, 5), Verdict::Fresh);
    }

    proptest! {
        /// Whatever is lost, repeated or reordered on the way, everything is executed once and in
        /// order as long as the edge repeats what has no result.
        #[test]
        fn a_lossy_link_executes_each_command_once_in_order(
            losses in proptest::collection::vec(any::<u16>(), 1..40),
            results in proptest::collection::vec(any::<u8>(), 1..40),
        ) {
            let (mut window, mut inbound) = (Window::default(), Inbound::default());
            let mut executed = Vec::new();
            let mut pushed = 0u64;
            for (round, loss) in losses.iter().enumerate() {
                while pushed < 16 && !window.is_full() {
                    window.push(pushed, 1, round as u64);
                    pushed += 1;
                }
                let base = window.base();
                let sent: Vec<_> = window.unreleased().map(|(n, c)| (n, *c)).collect();
                for (index, (number, command)) in sent.into_iter().enumerate() {
                    let lost = loss & (1 << (index % 16)) != 0;
                    if !lost && inbound.accept(base, number) == Verdict::Fresh {
                        executed.push(command);
                    }
                }
                let returned = u64::from(results[round % results.len()]) % 16;
                if executed.contains(&returned) {
                    window.release(returned);
                }
            }
            prop_assert!(executed.iter().copied().eq(0..executed.len() as u64));
        }
    }
}
