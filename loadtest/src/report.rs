//! The verdict and the figures, for people and for machines.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::stats::Latency;

/// Of `burst` and `pace`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) peers: u32,
    pub(crate) peers_ack: bool,
    pub(crate) retry: bool,
    pub(crate) payload: usize,
    pub(crate) planned: u64,
    /// Messages, however often each was sent.
    pub(crate) sent: u64,
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    /// Sent, and neither accepted nor refused.
    pub(crate) unanswered: u64,
    /// By text; with `--retry` those that were accepted later are among them.
    pub(crate) refusals: BTreeMap<String, u64>,
    /// `error` frames by code.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Different messages that arrived.
    pub(crate) delivered: u64,
    /// Accepted, and not arrived by the deadline.
    pub(crate) missing: u64,
    pub(crate) duplicates: u64,
    /// Arrived after a later message from the same sender to the same recipient.
    pub(crate) inversions: u64,
    /// The same, of messages sent more than once: their order is the sender's doing.
    pub(crate) inversions_of_resent: u64,
    /// Pushes that are not of this run or came to the wrong peer.
    pub(crate) foreign: u64,
    /// By the reason given.
    pub(crate) connections_lost: BTreeMap<String, u64>,
    /// From the first send to the last delivery.
    pub(crate) seconds: f64,
    /// Deliveries per second over that time.
    pub(crate) throughput: f64,
    pub(crate) ack: Option<Latency>,
    pub(crate) delivery: Option<Latency>,
    pub(crate) broker: Option<Broker>,
    pub(crate) passed: bool,
}

/// Cost of the run to the broker's processes.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Broker {
    /// 100 is one core, all the time.
    pub(crate) cpu_percent: f64,
    pub(crate) cpu_micros_per_message: f64,
    pub(crate) rss_kb: u64,
    /// Since the process began, not since the run did.
    pub(crate) peak_rss_kb: u64,
}

/// Of `idle`.
#[derive(Debug, Serialize)]
pub(crate) struct IdleReport {
    pub(crate) sessions: u32,
    pub(crate) failed: BTreeMap<String, u64>,
    pub(crate) rss_before_kb: u64,
    pub(crate) rss_after_kb: u64,
    pub(crate) kb_per_session: f64,
    /// While at rest.
    pub(crate) cpu_percent: f64,
    pub(crate) passed: bool,
}

impl Report {
    /// Whether the broker kept its word: all it accepted came, once and in order, and nothing sent
    /// was left without an answer. Refusals are answers; a run of nothing else proves nothing.
    pub(crate) fn verdict(&self) -> bool {
        self.accepted > 0
            && self.accepted + self.refused == self.planned
            && self.missing == 0
            && self.duplicates == 0
            && self.inversions == 0
            && self.foreign == 0
            && (self.retry || self.connections_lost.is_empty())
    }

    /// Prints it and says whether the broker passed.
    pub(crate) fn print(&self, json: bool) -> bool {
        print(self, json);
        self.passed
    }
}

impl IdleReport {
    /// Prints it and says whether all sessions were open at the end.
    pub(crate) fn print(&self, json: bool) -> bool {
        print(self, json);
        self.passed
    }
}

fn print(report: &(impl Serialize + fmt::Display), json: bool) {
    if json {
        println!("{}", serde_json::to_string(report).unwrap_or_default());
    } else {
        println!("{report}");
    }
}

fn word(passed: bool) -> &'static str {
    if passed { "PASSED" } else { "FAILED" }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let acks = if self.peers_ack { "client_ack" } else { "do not client_ack" };
        let retry = if self.retry { ", retry" } else { "" };
        writeln!(f, "{} peers ({acks}{retry}), {} bytes a message", self.peers, self.payload)?;
        writeln!(f, "sent        {} of {}", self.sent, self.planned)?;
        writeln!(
            f,
            "accepted    {}, refused {}, unanswered {}",
            self.accepted, self.refused, self.unanswered
        )?;
        for (text, count) in &self.refusals {
            writeln!(f, "  refusal   {count} × {text}")?;
        }
        for (code, count) in &self.errors {
            writeln!(f, "  error     {count} × {code}")?;
        }
        for (why, count) in &self.connections_lost {
            writeln!(f, "  lost      {count} × {why}")?;
        }
        writeln!(
            f,
            "delivered   {}, missing {}, duplicates {}, inversions {} (of resent messages {}), foreign {}",
            self.delivered,
            self.missing,
            self.duplicates,
            self.inversions,
            self.inversions_of_resent,
            self.foreign
        )?;
        writeln!(f, "throughput  {:.0} msg/s over {:.2} s", self.throughput, self.seconds)?;
        for (name, latency) in [("ack", self.ack), ("delivery", self.delivery)] {
            if let Some(Latency { p50_ms, p95_ms, p99_ms, max_ms }) = latency {
                writeln!(
                    f,
                    "{name:<12}p50 {p50_ms:.1} ms, p95 {p95_ms:.1}, p99 {p99_ms:.1}, max {max_ms:.1}"
                )?;
            }
        }
        if let Some(broker) = self.broker {
            writeln!(
                f,
                "broker      CPU {:.0} % of a core, {:.1} µs a message; RSS {} KB, peak {} KB",
                broker.cpu_percent,
                broker.cpu_micros_per_message,
                broker.rss_kb,
                broker.peak_rss_kb
            )?;
        }
        write!(f, "{}", word(self.passed))
    }
}

impl fmt::Display for IdleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "sessions    {}", self.sessions)?;
        for (why, count) in &self.failed {
            writeln!(f, "  failed    {count} × {why}")?;
        }
        writeln!(
            f,
            "broker      RSS {} KB before, {} KB at rest: {:.1} KB a session; CPU {:.1} % of a core",
            self.rss_before_kb, self.rss_after_kb, self.kb_per_session, self.cpu_percent
        )?;
        write!(f, "{}", word(self.passed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Report {
        Report { planned: 10, sent: 10, accepted: 9, refused: 1, delivered: 9, ..Report::default() }
    }

    fn lost() -> BTreeMap<String, u64> {
        BTreeMap::from([("closed 1001".to_owned(), 1)])
    }

    #[test]
    fn every_fault_fails_the_run() {
        assert!(good().verdict());
        for fault in [
            Report { missing: 1, ..good() },
            Report { duplicates: 1, ..good() },
            Report { inversions: 1, ..good() },
            Report { foreign: 1, ..good() },
            Report { accepted: 8, unanswered: 1, ..good() },
            Report { accepted: 0, refused: 10, ..good() },
            Report { connections_lost: lost(), ..good() },
            Report::default(),
        ] {
            assert!(!fault.verdict(), "{fault}");
        }
        assert!(Report { retry: true, connections_lost: lost(), ..good() }.verdict());
    }
}
