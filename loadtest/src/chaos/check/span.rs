//! Stretches of time, in milliseconds of the run.

/// From its start up to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: u64,
    pub(super) until: u64,
}

impl Span {
    pub(super) fn overlaps(self, other: Self) -> bool {
        self.from < other.until && other.from < self.until
    }

    fn shared_with(self, other: Self) -> u64 {
        self.until.min(other.until).saturating_sub(self.from.max(other.from))
    }
}

/// How much of `whole` these cover; they do not overlap each other.
pub(super) fn covered(spans: &[Span], whole: Span) -> u64 {
    spans.iter().map(|span| span.shared_with(whole)).sum()
}

/// The moment by which `allowed` ms beside those covered by `spans` have passed since `from`.
pub(super) fn deadline(spans: &[Span], from: u64, allowed: u64) -> u64 {
    let mut until = from + allowed;
    loop {
        let next = from + allowed + covered(spans, Span { from, until });
        if next == until {
            return until;
        }
        until = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_moves_by_what_does_not_count() {
        let spans = [Span { from: 100, until: 200 }, Span { from: 250, until: 300 }];
        assert_eq!(deadline(&spans, 0, 90), 90);
        assert_eq!(deadline(&spans, 0, 120), 220);
        assert_eq!(deadline(&spans, 0, 160), 310, "the second one is reached by the first's delay");
        assert_eq!(deadline(&spans, 150, 10), 210);
    }
}
