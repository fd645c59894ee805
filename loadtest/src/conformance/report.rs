//! The table, for people and for machines.

use std::fmt;

use serde::Serialize;
use tokio::time::Duration;

/// What a run does not show, and why.
const NOT_CHECKED: [&str; 11] = [
    "the broker's ping and its 75 s watchdog (§1): longer than a run",
    "peer_left at the end of the grace, sweeps and timers (§3): 90 s and more",
    "capacity, and that a full mesh takes back its own (§2.2, defect 4): would fill the mesh",
    "1001 at shutdown (§1.3): would stop the broker",
    "grants (§4.4): no verb of a peer sets them",
    "services in hello_ack beyond its being a list (§2.4)",
    "profile_updated (§2.6), and other HTTP routes than §8's and join",
    "that the owner cannot be banned by another admin (§6): the mesh file has one admin",
    "ambiguous_prefix (§4.8): ids do not begin alike",
    "invites that are revoked, expired or used up: only the broker's own commands make them",
    "hook rank and freshness (§5.2) beyond what a hook and set_status do at once",
];

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Pass,
    Fail,
    Skip,
}

/// One check's line.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) section: &'static str,
    pub(crate) outcome: Outcome,
    /// Defects of the reference that our broker does not share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) defects: Option<&'static [u8]>,
    /// How it differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) differs: Option<&'static str>,
    /// What was seen instead, or why it was not tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
    pub(crate) millis: u64,
}

/// Of `conformance`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) checks: Vec<Row>,
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
    pub(crate) seconds: f64,
    pub(crate) not_checked: &'static [&'static str],
}

impl Report {
    /// Counts the rows; a run of some checks only says nothing of what all of them leave out.
    pub(crate) fn new(checks: Vec<Row>, took: Duration, all: bool) -> Self {
        let count = |of| checks.iter().filter(|row| row.outcome == of).count();
        Self {
            passed: count(Outcome::Pass),
            failed: count(Outcome::Fail),
            skipped: count(Outcome::Skip),
            seconds: took.as_secs_f64(),
            not_checked: if all { &NOT_CHECKED } else { &[] },
            checks,
        }
    }

    /// Prints it and says whether no check failed and one passed at least.
    pub(crate) fn print(&self, json: bool) -> bool {
        if json {
            println!("{}", serde_json::to_string(self).unwrap_or_default());
        } else {
            println!("{self}");
        }
        self.failed == 0 && self.passed > 0
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            Outcome::Pass => "pass",
            Outcome::Fail => "FAIL",
            Outcome::Skip => "skip",
        };
        write!(f, "{outcome}  {:<6} {}", self.section, self.name)?;
        if let (Some(defects), Some(why)) = (self.defects, self.differs) {
            let numbers: Vec<_> = defects.iter().map(u8::to_string).collect();
            match numbers.len() {
                0 => write!(f, "  [differs: {why}]")?,
                1 => write!(f, "  [differs: defect {}: {why}]", numbers[0])?,
                _ => write!(f, "  [differs: defects {}: {why}]", numbers.join(", "))?,
            }
        }
        if let Some(detail) = &self.detail {
            write!(f, "\n              {detail}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.checks {
            writeln!(f, "{row}")?;
        }
        for line in self.not_checked {
            writeln!(f, "not checked: {line}")?;
        }
        let Self { passed, failed, skipped, seconds, .. } = self;
        let word = if *failed == 0 && *passed > 0 { "PASSED" } else { "FAILED" };
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped in {seconds:.1} s: {word}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(outcome: Outcome) -> Row {
        Row {
            name: "a_thing_is_so",
            section: "§1",
            outcome,
            defects: Some(&[8, 19]),
            differs: Some("in order"),
            detail: (outcome != Outcome::Pass).then(|| "it was not".to_owned()),
            millis: 1,
        }
    }

    #[test]
    fn a_row_says_where_we_differ_and_what_was_seen() {
        let text = row(Outcome::Fail).to_string();
        assert!(text.starts_with("FAIL  §1     a_thing_is_so  [differs: defects 8, 19: in order]"));
        assert!(text.ends_with("it was not"));
    }

    #[test]
    fn a_run_passes_if_nothing_failed_and_something_passed() {
        let report = |of: &[Outcome]| {
            let rows = of.iter().copied().map(row).collect();
            Report::new(rows, Duration::from_secs(1), true).to_string()
        };
        assert!(report(&[Outcome::Pass, Outcome::Skip]).ends_with(": PASSED"));
        assert!(report(&[Outcome::Pass, Outcome::Fail]).ends_with(": FAILED"));
        assert!(report(&[Outcome::Skip]).ends_with(": FAILED"));
        assert!(report(&[Outcome::Pass]).contains("not checked: "));
    }
}
