//! Who sends what to whom and when: all of it follows from a message's sender and number.

/// How messages are spread over time.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Load {
    /// All at once.
    Burst {
        /// Of each peer.
        messages: u32,
    },
    /// At a rate.
    Steady {
        /// Messages per second of all peers together.
        rate: u32,
        /// For how long.
        seconds: u32,
    },
}

/// The whole run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) peers: u32,
    pub(crate) load: Load,
}

impl Plan {
    /// Messages that `sender` sends.
    pub(crate) fn total(&self, sender: u32) -> u32 {
        match self.load {
            Load::Burst { messages } => messages,
            Load::Steady { rate, seconds } => {
                let all = u64::from(rate) * u64::from(seconds);
                let share = (all + u64::from(self.peers - 1 - sender)) / u64::from(self.peers);
                u32::try_from(share).unwrap_or(u32::MAX)
            }
        }
    }

    /// Messages of all.
    pub(crate) fn all(&self) -> u64 {
        (0..self.peers).map(|sender| u64::from(self.total(sender))).sum()
    }

    /// Seconds until the last message is due.
    pub(crate) fn seconds(&self) -> u64 {
        match self.load {
            Load::Burst { .. } => 0,
            Load::Steady { seconds, .. } => u64::from(seconds),
        }
    }

    /// When `sender` is to send its `number`-th message, in microseconds from the start: with a
    /// rate, peers send in turn and at even distances.
    pub(crate) fn due(&self, sender: u32, number: u32) -> u64 {
        match self.load {
            Load::Burst { .. } => 0,
            Load::Steady { rate, .. } => {
                let place = u64::from(number) * u64::from(self.peers) + u64::from(sender);
                place * 1_000_000 / u64::from(rate)
            }
        }
    }

    /// Whom the `number`-th message of `sender` is for: the others in turn.
    pub(crate) fn recipient(&self, sender: u32, number: u32) -> u32 {
        (sender + 1 + number % (self.peers - 1)) % self.peers
    }

    /// Which one it is of those from this sender to this recipient.
    pub(crate) fn counter(&self, number: u32) -> u32 {
        number / (self.peers - 1)
    }

    /// The number again, from both ends and the counter.
    pub(crate) fn number(&self, sender: u32, recipient: u32, counter: u32) -> u64 {
        let step = (recipient + self.peers - sender - 1) % self.peers;
        u64::from(counter) * u64::from(self.peers - 1) + u64::from(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_pairs_name_the_same_message() {
        let plan = Plan { peers: 5, load: Load::Burst { messages: 100 } };
        for sender in 0..5 {
            for number in 0..100 {
                let to = plan.recipient(sender, number);
                assert_ne!(to, sender);
                assert_eq!(plan.number(sender, to, plan.counter(number)), u64::from(number));
            }
        }
    }

    #[test]
    fn everyone_is_sent_equally_much() {
        let plan = Plan { peers: 5, load: Load::Burst { messages: 8 } };
        let mut got = [0; 5];
        for sender in 0..5 {
            (0..8).for_each(|number| got[plan.recipient(sender, number) as usize] += 1);
        }
        assert_eq!(got, [8; 5]);
    }

    #[test]
    fn a_rate_is_kept_to_the_message() {
        let plan = Plan { peers: 7, load: Load::Steady { rate: 100, seconds: 3 } };
        assert_eq!(plan.all(), 300);
        let mut due: Vec<u64> = (0..7)
            .flat_map(|sender| (0..plan.total(sender)).map(move |n| plan.due(sender, n)))
            .collect();
        due.sort_unstable();
        assert!(due.iter().zip(0..).all(|(due, place): (&u64, u64)| *due == place * 10_000));
    }
}
