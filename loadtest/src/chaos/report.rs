//! What a run found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::check::{Outage, Verdict};

/// Violations shown to people; the JSON has more.
const SHOWN: usize = 20;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    passed: bool,
    faults: BTreeMap<String, Times>,
    #[serde(flatten)]
    verdict: Verdict,
}

/// Of all times one fault was tried, in milliseconds; over the meshes it hit.
#[derive(Debug, Default, Serialize)]
struct Times {
    tried: u64,
    held_ms: u64,
    next_ack_p50_ms: u64,
    next_ack_worst_ms: u64,
    stall_p50_ms: u64,
    stall_worst_ms: u64,
    recovered_worst_ms: u64,
    epoch_raises_worst: u64,
}

impl Report {
    pub(crate) fn new(verdict: Verdict) -> Self {
        let mut by_name: BTreeMap<String, Vec<&Outage>> = BTreeMap::new();
        for outage in &verdict.outages {
            by_name.entry(outage.fault.clone()).or_default().push(outage);
        }
        let faults = by_name.into_iter().map(|(name, all)| (name, times(&all))).collect();
        Self { passed: verdict.is_clean(), faults, verdict }
    }

    /// Whether the broker passed.
    pub(crate) fn print(&self, as_json: bool) -> bool {
        if as_json {
            println!("{}", serde_json::to_string_pretty(self).unwrap_or_default());
        } else {
            print!("{}", self.text());
        }
        self.passed
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{:<28} {:>5} {:>8} {:>17} {:>17} {:>10} {:>7}",
            "fault", "times", "held ms", "next ack p50/max", "stall p50/max", "recovered", "raises"
        );
        for (name, t) in &self.faults {
            let _ = writeln!(
                text,
                "{name:<28} {:>5} {:>8} {:>8} {:>8} {:>8} {:>8} {:>10} {:>7}",
                t.tried,
                t.held_ms,
                t.next_ack_p50_ms,
                t.next_ack_worst_ms,
                t.stall_p50_ms,
                t.stall_worst_ms,
                t.recovered_worst_ms,
                t.epoch_raises_worst
            );
        }
        self.counts(&mut text);
        for violation in self.verdict.violations.iter().take(SHOWN) {
            let at = violation.ms;
            let _ = writeln!(text, "  {:?} at {at} ms: {}", violation.breach, violation.text);
        }
        let rest = self.verdict.violations.len().saturating_sub(SHOWN);
        if rest > 0 {
            let _ = writeln!(text, "  … and {rest} more");
        }
        let _ = writeln!(text, "{}", if self.passed { "PASSED" } else { "FAILED" });
        text
    }

    fn counts(&self, text: &mut String) {
        let v = &self.verdict;
        let rows = [
            ("messages sent, acked, delivered", format!("{} {} {}", v.sent, v.acked, v.delivered)),
            ("refused for good", v.refused.to_string()),
            ("connections, refused", format!("{} {}", v.connections, v.connections_refused)),
            ("displaced by a given-up hello", v.displaced.to_string()),
            ("duplicate pushes", v.duplicates.to_string()),
            ("out of order to a member's key", v.member_inversions.to_string()),
            ("departures, peer_left seen", format!("{} {}", v.departures, v.departures_seen)),
            ("returns within the grace", v.returns_in_grace.to_string()),
            ("events rightly told", v.events.to_string()),
            (
                "longest wrong presence, ms",
                format!(
                    "{} ({} without faults)",
                    v.longest_wrong_presence_ms, v.longest_wrong_presence_net_ms
                ),
            ),
            ("worst stall, ms", v.worst_stall_ms.to_string()),
            ("violations", format!("{:?}", v.counts)),
        ];
        for (name, value) in rows {
            let _ = writeln!(text, "{name:<34} {value}");
        }
    }
}

fn times(all: &[&Outage]) -> Times {
    let sorted = |of: fn(&Outage) -> Vec<u64>| {
        let mut values: Vec<_> = all.iter().flat_map(|outage| of(outage)).collect();
        values.sort_unstable();
        values
    };
    let next = sorted(|outage| outage.next_ack_ms.clone());
    let stall = sorted(|outage| outage.stall_ms.clone());
    let worst = |values: &[u64]| values.last().copied().unwrap_or_default();
    let p50 = |values: &[u64]| values.get(values.len().div_ceil(2).saturating_sub(1)).copied();
    Times {
        tried: u64::try_from(all.len()).unwrap_or_default(),
        held_ms: worst(&sorted(|outage| vec![outage.held_ms])),
        next_ack_p50_ms: p50(&next).unwrap_or_default(),
        next_ack_worst_ms: worst(&next),
        stall_p50_ms: p50(&stall).unwrap_or_default(),
        stall_worst_ms: worst(&stall),
        recovered_worst_ms: worst(&sorted(|outage| outage.recovered_ms.into_iter().collect())),
        epoch_raises_worst: worst(&sorted(|outage| outage.epoch_raises.into_iter().collect())),
    }
}
