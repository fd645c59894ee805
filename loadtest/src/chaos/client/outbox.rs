//! What a client has sent and not settled: when each message goes again, and when it is given up.

use std::collections::BTreeMap;

use super::Habits;
use crate::chaos::rng::Rng;
use crate::outgoing::is_permanent;
use crate::wire::{Mark, write_send};

/// Without an answer for so long, a message goes again: what one-shot clients allow.
const ACK_TIMEOUT_MS: u64 = 10_000;
/// A refused message goes again after this.
const REFUSED_PAUSE_MS: u64 = 1_000;
/// How often a message to somebody who is not there is tried.
const ABSENT_TRIES: u32 = 3;
/// Messages without an answer.
const WINDOW: usize = 32;
/// Messages at once.
const VOLLEY: u64 = 4;
/// Messages without a client's id, in percent.
const WITHOUT_ID: u64 = 10;

/// A message to be written now.
pub(super) struct Shot {
    pub(super) number: u32,
    pub(super) to: u32,
    pub(super) priority: &'static str,
    pub(super) id: bool,
    pub(super) text: String,
}

struct Flight {
    to: u32,
    target: String,
    priority: &'static str,
    id: bool,
    /// When it was first written.
    written: Option<u64>,
    /// When it is to be written (again).
    due: u64,
    absent: u32,
}

/// What an ack means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Accepted {
        to: u32,
        written: u64,
    },
    Refused {
        last: bool,
    },
    /// It was settled before.
    Known,
}

pub(super) struct Outbox {
    me: u32,
    run: u32,
    next: u32,
    flights: BTreeMap<u32, Flight>,
    next_volley: u64,
    volley: u64,
}

impl Outbox {
    pub(super) fn new(me: u32, run: u32) -> Self {
        Self { me, run, next: 0, flights: BTreeMap::new(), next_volley: 0, volley: 0 }
    }

    pub(super) fn len(&self) -> u64 {
        u64::try_from(self.flights.len()).unwrap_or(u64::MAX)
    }

    pub(super) fn may_write(&self, now: u64) -> bool {
        self.flights.len() < WINDOW && (self.volley > 0 || now >= self.next_volley)
    }

    /// Adds a message; it goes with the next [`launch`](Self::launch).
    pub(super) fn write(
        &mut self,
        to: u32,
        target: String,
        habits: &Habits,
        now: u64,
        rng: &mut Rng,
    ) {
        if self.volley == 0 {
            self.volley = rng.between(1, VOLLEY + 1);
            let pause = habits.interval_ms * self.volley;
            self.next_volley = now + rng.between(pause / 2, pause * 3 / 2);
        }
        self.volley -= 1;
        let priority = match rng.below(10) {
            0 => "now",
            1 => "low",
            _ => "next",
        };
        let id = !rng.chance(WITHOUT_ID);
        let flight = Flight { to, target, priority, id, written: None, due: now, absent: 0 };
        self.flights.insert(self.next, flight);
        self.next += 1;
    }

    /// What is to be written now, oldest first.
    pub(super) fn launch(&mut self, now: u64) -> Vec<Shot> {
        // What cannot be sent again is not waited for longer than for an ack.
        self.flights.retain(|_, flight| flight.id || flight.written.is_none() || flight.due > now);
        let (me, run) = (self.me, self.run);
        let due = self.flights.iter_mut().filter(|(_, flight)| flight.due <= now);
        due.map(|(number, flight)| {
            flight.due = now + ACK_TIMEOUT_MS;
            let written = *flight.written.get_or_insert(now);
            // The marks have the message's number where `burst` counts, and no use for the time.
            let mark =
                Mark { run, sender: me, recipient: flight.to, counter: *number, origin: written };
            let text = write_send(*number, &flight.target, flight.priority, flight.id, &mark);
            let (to, priority, id) = (flight.to, flight.priority, flight.id);
            Shot { number: *number, to, priority, id, text }
        })
        .collect()
    }

    /// All that may be sent again is due at once, in its order; the rest is given up.
    pub(super) fn reconnected(&mut self) {
        self.flights.retain(|_, flight| flight.id || flight.written.is_none());
        self.flights.values_mut().for_each(|flight| flight.due = 0);
    }

    /// Whether something has waited for an answer for so long.
    pub(super) fn waits_since(&self, now: u64, patience: u64) -> bool {
        let mut written = self.flights.values().filter_map(|flight| flight.written);
        written.any(|written| now.saturating_sub(written) > patience)
    }

    /// When something is to be written, at the latest.
    pub(super) fn wake(&self, now: u64, more: bool) -> u64 {
        let again = self.flights.values().map(|flight| flight.due).min();
        let fresh = (more && self.flights.len() < WINDOW).then_some(self.next_volley.max(now));
        [again, fresh].into_iter().flatten().min().unwrap_or(u64::MAX)
    }

    pub(super) fn answered(&mut self, number: u32, error: Option<&str>, now: u64) -> Answer {
        let Some(flight) = self.flights.get_mut(&number) else { return Answer::Known };
        let Some(error) = error else {
            let (to, written) = (flight.to, flight.written.unwrap_or(now));
            self.flights.remove(&number);
            return Answer::Accepted { to, written };
        };
        flight.due = now + REFUSED_PAUSE_MS;
        flight.absent += u32::from(error.starts_with("no connected peer"));
        let last = !flight.id || is_permanent(error) || flight.absent >= ABSENT_TRIES;
        if last {
            self.flights.remove(&number);
        }
        Answer::Refused { last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::client::Leaving;

    fn filled(messages: usize) -> Outbox {
        let habits = Habits { interval_ms: 10, patience_ms: 100, leaving: Leaving::Never };
        let mut rng = Rng::new(3);
        let mut outbox = Outbox::new(0, 1);
        while outbox.flights.len() < messages {
            outbox.write(1, "key".to_owned(), &habits, 0, &mut rng);
        }
        outbox
    }

    fn numbers(shots: &[Shot]) -> Vec<u32> {
        shots.iter().map(|shot| shot.number).collect()
    }

    #[test]
    fn what_is_not_acked_goes_again_in_order_on_the_next_connection() {
        let mut outbox = filled(4);
        outbox.flights.values_mut().for_each(|flight| flight.id = true);
        assert_eq!(numbers(&outbox.launch(5)), [0, 1, 2, 3]);
        assert!(outbox.launch(6).is_empty());
        assert_eq!(outbox.answered(1, None, 20), Answer::Accepted { to: 1, written: 5 });
        assert_eq!(outbox.answered(1, None, 21), Answer::Known);
        outbox.reconnected();
        assert_eq!(numbers(&outbox.launch(30)), [0, 2, 3]);
        assert!(outbox.waits_since(200, 100));
    }

    #[test]
    fn what_has_no_id_is_never_sent_twice() {
        let mut outbox = filled(2);
        outbox.flights.values_mut().for_each(|flight| flight.id = false);
        outbox.launch(5);
        assert_eq!(outbox.answered(0, Some("unavailable"), 6), Answer::Refused { last: true });
        outbox.reconnected();
        assert!(outbox.launch(7).is_empty());
        assert_eq!(outbox.len(), 0);
    }

    #[test]
    fn refusals_are_tried_again_until_they_are_final() {
        let mut outbox = filled(2);
        outbox.flights.values_mut().for_each(|flight| flight.id = true);
        outbox.launch(5);
        assert_eq!(
            outbox.answered(0, Some("unavailable: retry"), 9),
            Answer::Refused { last: false }
        );
        assert_eq!(numbers(&outbox.launch(9 + REFUSED_PAUSE_MS)), [0]);
        assert_eq!(outbox.answered(1, Some("forbidden"), 9), Answer::Refused { last: true });
        for last in [false, false, true] {
            let answer = outbox.answered(0, Some("no connected peer for target"), 9);
            assert_eq!(answer, Answer::Refused { last });
        }
    }
}
