//! A small histogram with the interface that openraft asks of `base2histogram`.
//!
//! openraft counts batch sizes and latencies for a report that Mill does not ask for. The crate it
//! uses precomputes tables for every resolution, 29 MB in each daemon; this one counts by powers
//! of two in half a kilobyte. It stands in through `[patch.crates-io]`; drop it once the tables
//! are made on demand. It decides nothing, and nothing of Mill's uses it.

use std::fmt;
use std::marker::PhantomData;

/// One bucket for zero, and one for each number of significant bits.
const BUCKETS: usize = 65;

/// Counts of values, by how many bits they take. The marker is openraft's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: [u64; BUCKETS],
    marker: PhantomData<T>,
}

/// What a histogram holds, in a few numbers: each the upper end of its bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PercentileStats {
    /// Values that were recorded.
    pub samples: u64,
    /// 0.1 % are not above it.
    pub p0_1: u64,
    /// 1 % are not above it.
    pub p1: u64,
    /// 5 % are not above it.
    pub p5: u64,
    /// 10 % are not above it.
    pub p10: u64,
    /// Half are not above it.
    pub p50: u64,
    /// 90 % are not above it.
    pub p90: u64,
    /// 99 % are not above it.
    pub p99: u64,
    /// 99.9 % are not above it.
    pub p99_9: u64,
}

impl<T> Default for Histogram<T> {
    fn default() -> Histogram<T> {
        Histogram::new()
    }
}

impl<T> Histogram<T> {
    /// An empty one.
    pub fn new() -> Histogram<T> {
        Histogram { counts: [0; BUCKETS], marker: PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value several times.
    pub fn record_n(&mut self, value: u64, times: u64) {
        let bits = u64::BITS - value.leading_zeros();
        self.counts[bits as usize] += times;
    }

    /// What it holds.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.counts.iter().sum(),
            p0_1: self.at_permille(1),
            p1: self.at_permille(10),
            p5: self.at_permille(50),
            p10: self.at_permille(100),
            p50: self.at_permille(500),
            p90: self.at_permille(900),
            p99: self.at_permille(990),
            p99_9: self.at_permille(999),
        }
    }

    /// The upper end of the bucket below which so many of a thousand values lie; 0 if empty.
    fn at_permille(&self, permille: u64) -> u64 {
        let samples: u64 = self.counts.iter().sum();
        let rank = (samples * permille).div_ceil(1000);
        let mut passed = 0;
        for (bits, count) in self.counts.iter().enumerate() {
            passed += count;
            if passed >= rank && passed > 0 {
                return upper_end(bits);
            }
        }
        0
    }
}

/// The largest value of so many bits.
fn upper_end(bits: usize) -> u64 {
    match bits {
        0 => 0,
        bits => u64::MAX >> (BUCKETS - 1 - bits),
    }
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PercentileStats { samples, p50, p90, p99, .. } = self;
        write!(f, "{samples} samples, half up to {p50}, 90 % up to {p90}, 99 % up to {p99}")
    }
}

/// Several histograms side by side.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart {
    series: Vec<(String, Histogram)>,
}

impl AsciiChart {
    /// None yet.
    pub fn new() -> AsciiChart {
        AsciiChart::default()
    }

    /// One more.
    pub fn add(mut self, name: impl ToString, histogram: Histogram) -> AsciiChart {
        self.series.push((name.to_string(), histogram));
        self
    }

    /// All of it, as text.
    pub fn detailed(&self) -> &AsciiChart {
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, histogram) in &self.series {
            writeln!(f, "{name}")?;
            let counts = histogram.counts.iter().enumerate().filter(|(_, count)| **count > 0);
            for (bits, count) in counts {
                writeln!(f, "  up to {}: {count}", upper_end(bits))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_upper_end_of_its_bucket() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats(), PercentileStats::default());
        for value in [0, 1, 5, 5, 5, 5, 5, 5, 5, 900] {
            histogram.record(value);
        }
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p10, stats.p50, stats.p99_9), (10, 0, 7, 1023));
        histogram.record(u64::MAX);
        assert_eq!(histogram.percentile_stats().p99_9, u64::MAX);
    }
}
