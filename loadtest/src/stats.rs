//! Percentiles, exact: every sample is kept.

use serde::Serialize;

/// Durations in microseconds, four bytes each, up to 71 minutes.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<u32>);

/// What is told of them, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[expect(clippy::struct_field_names, reason = "the unit stands in the JSON")]
pub(crate) struct Latency {
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

impl Samples {
    pub(crate) fn add(&mut self, micros: u64) {
        self.0.push(u32::try_from(micros).unwrap_or(u32::MAX));
    }

    pub(crate) fn absorb(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Nothing, if there are no samples.
    pub(crate) fn summary(mut self) -> Option<Latency> {
        self.0.sort_unstable();
        Some(Latency {
            p50_ms: self.percentile(50)?,
            p95_ms: self.percentile(95)?,
            p99_ms: self.percentile(99)?,
            max_ms: self.percentile(100)?,
        })
    }

    /// The smallest sample that `percent` of all do not exceed. The samples are sorted.
    fn percentile(&self, percent: usize) -> Option<f64> {
        let rank = (self.0.len() * percent).div_ceil(100);
        self.0.get(rank.checked_sub(1)?).map(|micros| f64::from(*micros) / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(micros: impl IntoIterator<Item = u64>) -> Option<Latency> {
        let mut samples = Samples::default();
        micros.into_iter().for_each(|value| samples.add(value));
        samples.summary()
    }

    #[test]
    fn percentiles_are_samples_at_their_rank() {
        let told = summary((1..=1000).rev().map(|ms| ms * 1000)).unwrap();
        let expected = Latency { p50_ms: 500.0, p95_ms: 950.0, p99_ms: 990.0, max_ms: 1000.0 };
        assert_eq!(told, expected);
    }

    #[test]
    fn one_outlier_in_a_hundred_is_the_maximum_only() {
        let told = summary(std::iter::repeat_n(1000, 99).chain([1_000_000])).unwrap();
        assert_eq!((told.p99_ms, told.max_ms), (1.0, 1000.0));
        let told = summary(std::iter::repeat_n(1000, 98).chain([1_000_000; 2])).unwrap();
        assert_eq!((told.p95_ms, told.p99_ms), (1.0, 1000.0));
    }

    #[test]
    fn few_samples_and_none() {
        assert_eq!(summary([]), None);
        let told = summary([1500]).unwrap();
        assert_eq!((told.p50_ms, told.max_ms), (1.5, 1.5));
        assert_eq!(summary([1000, 2000, 3000]).unwrap().p50_ms.to_bits(), 2.0_f64.to_bits());
    }

    #[test]
    fn absorbed_samples_count() {
        let (mut left, mut right) = (Samples::default(), Samples::default());
        left.add(1000);
        right.add(9000);
        left.absorb(right);
        assert_eq!(left.summary().unwrap().max_ms.to_bits(), 9.0_f64.to_bits());
    }
}
