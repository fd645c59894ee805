//! How clients differ: how patient they are, and whether they come and go.

use tokio::time::Duration;

use crate::chaos::rng::Rng;
use crate::chaos::shared::Phase;

/// Between two attempts to come back: nearly none, then doubling up to the second of a herd.
const PAUSE_MS: u64 = 50;
const PAUSE_LIMIT_MS: u64 = 1_000;

#[derive(Debug, Clone)]
pub(crate) struct Habits {
    /// Between two sends, on average.
    pub(crate) interval_ms: u64,
    /// With sends unanswered and nothing heard for so long, it tries another node.
    pub(crate) patience_ms: u64,
    pub(crate) leaving: Leaving,
}

/// Whether it goes away for longer than the grace, again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaving {
    Never,
    /// Stays so long, then is away so long.
    Returns {
        stay_ms: u64,
        away_ms: u64,
    },
    /// The same, but the third time for good.
    ForGood {
        stay_ms: u64,
        away_ms: u64,
    },
}

/// Departures of somebody who leaves for good.
const VISITS: u32 = 3;

impl Habits {
    pub(super) fn absence(&self) -> Duration {
        let (Leaving::Returns { away_ms, .. } | Leaving::ForGood { away_ms, .. }) = self.leaving
        else {
            return Duration::ZERO;
        };
        Duration::from_millis(away_ms)
    }
}

/// Before the next attempt to connect.
pub(crate) fn pause(failures: u32, rng: &mut Rng) -> Duration {
    let limit = (PAUSE_MS << failures.min(6)).min(PAUSE_LIMIT_MS);
    Duration::from_millis(rng.below(limit))
}

/// A stretch of presence.
pub(super) struct Visit {
    leaves_at: Option<u64>,
    number: u32,
    last: Option<u32>,
}

impl Visit {
    pub(super) fn new(habits: &Habits, now: u64, rng: &mut Rng) -> Self {
        let last = matches!(habits.leaving, Leaving::ForGood { .. }).then_some(VISITS);
        let mut visit = Self { leaves_at: None, number: 0, last };
        visit.again(habits, now, rng);
        visit
    }

    pub(super) fn again(&mut self, habits: &Habits, now: u64, rng: &mut Rng) {
        self.number += 1;
        self.leaves_at = match habits.leaving {
            Leaving::Never => None,
            Leaving::Returns { stay_ms, .. } | Leaving::ForGood { stay_ms, .. } => {
                Some(now + rng.between(stay_ms / 2, stay_ms * 3 / 2))
            }
        };
    }

    pub(super) fn is_over(&self, now: u64, phase: Phase) -> bool {
        self.leaves_at.is_some_and(|at| match phase {
            Phase::Traffic => now >= at,
            Phase::Parting => true,
            Phase::Calm | Phase::Quiet | Phase::Over => false,
        })
    }

    pub(super) fn is_last(&self) -> bool {
        self.last.is_some_and(|last| self.number >= last)
    }
}
