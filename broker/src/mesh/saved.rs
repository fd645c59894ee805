//! What a member's connection finds again when it comes back: its `peer_state`.
//!
//! Only plain hellos save and restore; a session's state is its own and ends with its lease. A
//! connection saves what it changed and nothing else, and adds what it counted since the last time:
//! so siblings neither undo each other's changes nor count twice what they started from.

use protocol::client::Stats;
use serde::{Deserialize, Serialize};
use serde_json::Number;

use super::roster::Record;
use crate::model::{SavedState, StateChange, Totals};

/// What a connection changed since its state was last saved.
#[expect(clippy::struct_excessive_bools, reason = "facts that do not depend on each other")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unsaved {
    pub(crate) groups: bool,
    pub(crate) profile: bool,
    pub(crate) visible: bool,
    pub(crate) summary: bool,
    /// Of its counters, what is in the state already.
    pub(crate) counted: Totals,
}

impl Record {
    /// Starts from what the member left.
    pub(crate) fn restore(&mut self, saved: &SavedState, groups_given: bool) {
        if !groups_given && !saved.groups.is_empty() {
            self.groups.clone_from(&saved.groups);
        }
        self.visible = saved.visible;
        self.profile = (!saved.profile.is_empty()).then(|| Box::new(saved.profile.clone()));
        // Clients go on counting from there.
        self.unsaved.counted = saved.stats;
    }

    /// Takes the peer's counters in. One that is below what is in the state has started anew, and may
    /// be above it again before that is saved.
    pub(crate) fn count(&mut self, stats: &Stats) {
        if !has_grown(self.unsaved.counted, totals(stats)) {
            self.unsaved.counted = Totals::default();
        }
        self.stats = Some(Box::new(stats.clone()));
    }

    /// What there is to save, which is saved from here on.
    pub(crate) fn save(&mut self, wall: i64) -> StateChange {
        let changed = self.unsaved;
        let (stats, counted) = counted(changed.counted, self.stats.as_deref());
        self.unsaved = Unsaved { counted, ..Unsaved::default() };
        StateChange {
            member: self.member.clone(),
            groups: changed.groups.then(|| self.groups.clone()),
            profile: changed.profile.then(|| self.profile.as_deref().cloned().unwrap_or_default()),
            visible: changed.visible.then_some(self.visible),
            summary: self.summary.clone().filter(|_| changed.summary),
            name: self.name.to_string(),
            stats,
            seen_at: wall,
        }
    }
}

/// What is new in a peer's counters, and what is known of them then.
fn counted(known: Totals, stats: Option<&Stats>) -> (Totals, Totals) {
    let Some(stats) = stats else { return (Totals::default(), known) };
    let told = totals(stats);
    let base = if has_grown(known, told) { known } else { Totals::default() };
    let new = Totals {
        messages_in: told.messages_in - base.messages_in,
        messages_out: told.messages_out - base.messages_out,
        tool_calls: told.tool_calls - base.tool_calls,
        errors: told.errors - base.errors,
    };
    (new, told)
}

/// Counters as they are kept: whole, and none below zero.
fn totals(stats: &Stats) -> Totals {
    let whole = |number: &Option<Number>| {
        let number = number.as_ref();
        number.and_then(|number| number.as_u64().or_else(|| rounded(number.as_f64()?))).unwrap_or(0)
    };
    Totals {
        messages_in: whole(&stats.messages_in),
        messages_out: whole(&stats.messages_out),
        tool_calls: whole(&stats.tool_calls),
        errors: whole(&stats.errors),
    }
}

/// Whether all of a peer's counters go on from what is known.
fn has_grown(known: Totals, told: Totals) -> bool {
    told.messages_in >= known.messages_in
        && told.messages_out >= known.messages_out
        && told.tool_calls >= known.tool_calls
        && told.errors >= known.errors
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 2^53, above 0")]
fn rounded(value: f64) -> Option<u64> {
    (0.0..9_007_199_254_740_992.0).contains(&value).then(|| value.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(messages: u64) -> Stats {
        Stats { messages_in: Some(messages.into()), ..Stats::default() }
    }

    fn known(messages_in: u64) -> Totals {
        Totals { messages_in, ..Totals::default() }
    }

    #[test]
    fn a_client_that_goes_on_counting_from_what_it_found_is_not_counted_twice() {
        assert_eq!(counted(known(100), Some(&stats(103))), (known(3), known(103)));
    }

    #[test]
    fn a_client_that_starts_from_nothing_counts_in_full() {
        assert_eq!(counted(known(100), Some(&stats(3))), (known(3), known(3)));
        assert_eq!(counted(known(3), Some(&stats(5))), (known(2), known(5)));
    }

    #[test]
    fn a_client_that_never_counted_changes_nothing() {
        assert_eq!(counted(known(7), None), (known(0), known(7)));
    }
}
