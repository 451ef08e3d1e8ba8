//! What a run reached: a run in which nothing happened proves nothing.

use std::collections::BTreeMap;

use serde::Serialize;

/// Counts of what happened in one run, or in many.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Seconds of simulated time.
    pub seconds: u64,
    /// Events handled by nodes.
    pub events: u64,
    /// Counts by what is counted.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Stats {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Takes another run's counts in.
    pub fn add(&mut self, other: &Stats) {
        self.seconds += other.seconds;
        self.events += other.events;
        for (what, count) in &other.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }
}
