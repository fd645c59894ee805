//! What one peer sends: when the next message may go, and what became of each.

use std::collections::BTreeMap;

use crate::plan::Plan;
use crate::stats::Samples;

/// A wait for an ack longer than this is a lost one: what one-shot clients give it.
pub(crate) const ACK_TIMEOUT: u64 = 10_000_000;
/// A refused message is tried again after this: the first back-off of the daemon.
pub(crate) const REFUSED_PAUSE: u64 = 1_000_000;
/// A message sent less late than this was late by the timer, not by the broker.
const TIMER_SLACK: u64 = 2_000;

/// Kinds of refusal kept apart; more than this are counted together.
const REASONS: usize = 32;

/// One message to write to the socket now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shot {
    pub(crate) number: u32,
    /// From when its latency counts.
    pub(crate) origin: u64,
}

/// A message without an answer.
#[derive(Debug)]
struct Flight {
    origin: u64,
    /// When it is to be sent again; without retries never.
    again: u64,
}

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Unsent,
    Unanswered,
    Accepted,
    Refused,
}

/// An answer's effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    Accepted,
    Refused,
    /// It will be sent again, or was answered before.
    NotYet,
}

/// Of one sender.
#[derive(Debug)]
pub(crate) struct Outgoing {
    plan: Plan,
    me: u32,
    window: usize,
    retry: bool,
    next: u32,
    flights: BTreeMap<u32, Flight>,
    fates: Vec<Fate>,
    /// Messages sent more than once: their order is the sender's own doing.
    resent: Vec<bool>,
    pub(crate) ack_latency: Samples,
    /// Refusals by their text, those tried again included.
    pub(crate) refusals: BTreeMap<String, u64>,
}

impl Outgoing {
    pub(crate) fn new(plan: Plan, me: u32, window: usize, retry: bool) -> Self {
        let total = plan.total(me) as usize;
        Self {
            plan,
            me,
            window,
            retry,
            next: 0,
            flights: BTreeMap::new(),
            fates: vec![Fate::Unsent; total],
            resent: vec![false; total],
            ack_latency: Samples::default(),
            refusals: BTreeMap::new(),
        }
    }

    /// When something is to be sent, if nothing is received before; `since` is the start of the
    /// run.
    pub(crate) fn wake(&self, since: u64) -> Option<u64> {
        let fresh = (self.flights.len() < self.window && (self.next as usize) < self.fates.len())
            .then(|| since + self.plan.due(self.me, self.next));
        let flights = self.flights.values().filter(|_| self.retry);
        let again = flights.map(|flight| flight.again).min();
        [fresh, again].into_iter().flatten().min()
    }

    /// What is to be sent now, first attempts in order.
    pub(crate) fn launch(&mut self, since: u64, now: u64) -> Vec<Shot> {
        let mut shots = self.overdue(now);
        while self.flights.len() < self.window && (self.next as usize) < self.fates.len() {
            let due = since + self.plan.due(self.me, self.next);
            if due > now {
                break;
            }
            // A burst is due when there is room; a paced message when its turn came, so that a
            // broker that holds senders up does not hide it from the figures.
            let late = self.plan.seconds() > 0 && now - due >= TIMER_SLACK;
            let origin = if late { due } else { now };
            self.fates[self.next as usize] = Fate::Unanswered;
            self.flights.insert(self.next, Flight { origin, again: now + ACK_TIMEOUT });
            shots.push(Shot { number: self.next, origin });
            self.next += 1;
        }
        shots
    }

    fn overdue(&mut self, now: u64) -> Vec<Shot> {
        let mut shots = Vec::new();
        if !self.retry {
            return shots;
        }
        for (number, flight) in &mut self.flights {
            if flight.again <= now {
                flight.again = now + ACK_TIMEOUT;
                self.resent[*number as usize] = true;
                shots.push(Shot { number: *number, origin: flight.origin });
            }
        }
        shots
    }

    /// Everything without an answer is due at once: the connection is a new one.
    pub(crate) fn reconnected(&mut self) {
        self.flights.values_mut().for_each(|flight| flight.again = 0);
    }

    /// Takes an answer in.
    pub(crate) fn answered(&mut self, number: u32, error: Option<&str>, now: u64) -> Settled {
        let Some(flight) = self.flights.get_mut(&number) else { return Settled::NotYet };
        if let Some(text) = error {
            let known = self.refusals.len() < REASONS || self.refusals.contains_key(text);
            *self.refusals.entry(if known { text } else { "others" }.to_owned()).or_default() += 1;
            if self.retry && !is_permanent(text) {
                flight.again = now + REFUSED_PAUSE;
                return Settled::NotYet;
            }
        } else {
            self.ack_latency.add(now.saturating_sub(flight.origin));
        }
        self.flights.remove(&number);
        let fate = if error.is_some() { Fate::Refused } else { Fate::Accepted };
        self.fates[number as usize] = fate;
        if error.is_some() { Settled::Refused } else { Settled::Accepted }
    }

    /// Each message's number and fate.
    pub(crate) fn fates(&self) -> impl Iterator<Item = (u32, Fate)> + '_ {
        (0..).zip(self.fates.iter().copied())
    }

    pub(crate) fn was_resent(&self, number: u64) -> bool {
        usize::try_from(number).is_ok_and(|at| self.resent.get(at).copied().unwrap_or(false))
    }
}

/// Whether clients give up on a send refused so (protocol-core §11.2).
pub(crate) fn is_permanent(error: &str) -> bool {
    const WORDS: [&str; 5] = ["invalid", "forbidden", "not_authorized", "unknown", "not_found"];
    let error = error.to_lowercase();
    WORDS.iter().any(|word| error.contains(word))
}

#[cfg(test)]
mod tests {
    use super::Fate::{Accepted, Refused, Unanswered, Unsent};
    use super::*;
    use crate::plan::Load;

    fn burst(messages: u32, retry: bool) -> Outgoing {
        Outgoing::new(Plan { peers: 2, load: Load::Burst { messages } }, 0, 3, retry)
    }

    fn numbers(shots: &[Shot]) -> Vec<u32> {
        shots.iter().map(|shot| shot.number).collect()
    }

    #[test]
    fn a_burst_keeps_its_window_full() {
        let mut out = burst(5, false);
        assert_eq!(numbers(&out.launch(0, 10)), [0, 1, 2]);
        assert_eq!(out.wake(0), None);
        assert_eq!(out.answered(1, None, 30), Settled::Accepted);
        assert_eq!(numbers(&out.launch(0, 40)), [3]);
        assert_eq!(out.answered(0, Some("full"), 50), Settled::Refused);
        assert_eq!(out.answered(0, None, 60), Settled::NotYet, "answered once");
        assert_eq!(out.refusals["full"], 1);
        let fates: Vec<_> = out.fates().map(|(_, fate)| fate).collect();
        assert_eq!(fates, [Refused, Accepted, Unanswered, Unanswered, Unsent]);
    }

    #[test]
    fn a_paced_message_waits_for_its_turn_and_counts_from_it_if_held_up() {
        let plan = Plan { peers: 2, load: Load::Steady { rate: 100, seconds: 1 } };
        let mut out = Outgoing::new(plan, 1, 1, false);
        assert!(out.launch(1_000, 10_000).is_empty());
        assert_eq!(out.wake(1_000), Some(11_000));
        assert_eq!(out.launch(1_000, 11_500), [Shot { number: 0, origin: 11_500 }]);
        assert_eq!(out.wake(1_000), None, "the window is full");
        out.answered(0, None, 90_000);
        assert_eq!(out.launch(1_000, 90_000), [Shot { number: 1, origin: 31_000 }]);
    }

    #[test]
    fn without_retries_nothing_is_sent_twice() {
        let mut out = burst(1, false);
        out.launch(0, 0);
        assert_eq!(out.wake(0), None);
        assert!(out.launch(0, 10 * ACK_TIMEOUT).is_empty());
    }

    #[test]
    fn with_retries_the_same_number_goes_again_until_it_is_acked() {
        let mut out = burst(2, true);
        out.launch(0, 0);
        assert_eq!(out.answered(0, Some("unavailable"), 5), Settled::NotYet);
        assert_eq!(out.wake(0), Some(5 + REFUSED_PAUSE));
        assert_eq!(numbers(&out.launch(0, 5 + REFUSED_PAUSE)), [0]);
        assert_eq!(out.answered(0, None, 6 + REFUSED_PAUSE), Settled::Accepted);
        assert_eq!(numbers(&out.launch(0, ACK_TIMEOUT)), [1]);
        out.reconnected();
        assert_eq!(numbers(&out.launch(0, ACK_TIMEOUT + 1)), [1]);
        assert_eq!(out.answered(1, Some("invalid: x"), 0), Settled::Refused);
        assert!(out.was_resent(0) && out.was_resent(1) && !out.was_resent(9));
    }
}
