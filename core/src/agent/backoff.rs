//! How long to wait before trying again, and when to give up on a node.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::mutant::{self, Mutant};
use crate::rng::Rng;
use crate::time::Mono;
use crate::units::Millis;

/// The first wait.
pub const FIRST: Millis = Millis::secs(1);
/// The longest wait; it doubles until there.
pub const LONGEST: Millis = Millis::secs(60);
/// Healthy for this long, and the next wait is the first again.
pub const RESET_AFTER: Millis = Millis::mins(10);
/// This many failures within [`FAILURE_WINDOW`], and the slot moves to another node.
pub const FAILURES_BEFORE_MOVE: usize = 5;
/// See [`FAILURES_BEFORE_MOVE`].
pub const FAILURE_WINDOW: Millis = Millis::mins(10);
/// Waits are this much longer at random, in percent, so that replicas do not march in step.
const JITTER_PERCENT: u64 = 10;

/// Doubling waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Backoff {
    steps: u32,
}

impl Backoff {
    /// The next wait.
    pub fn next(&mut self, jitter: &mut Rng) -> Millis {
        if mutant::is(Mutant::RestartWithoutBackoff) {
            return Millis(1);
        }
        let doubled = FIRST.0.checked_shl(self.steps).unwrap_or(LONGEST.0).min(LONGEST.0);
        self.steps = (self.steps + 1).min(16);
        Millis(doubled + jitter.below(doubled * JITTER_PERCENT / 100 + 1))
    }

    /// Begins anew.
    pub fn reset(&mut self) {
        self.steps = 0;
    }
}

/// Failures of late.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failures(VecDeque<Mono>);

impl Failures {
    /// Counts one more; true if there were too many within the window.
    pub fn count(&mut self, now: Mono) -> bool {
        self.0.retain(|at| now.since(*at) < FAILURE_WINDOW);
        self.0.push_back(now);
        self.0.len() >= FAILURES_BEFORE_MOVE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_one_second_to_a_minute() {
        let (mut backoff, mut rng) = (Backoff::default(), Rng::new(1));
        let waits: Vec<u64> = (0..9).map(|_| backoff.next(&mut rng).0).collect();
        let at_least = [1, 2, 4, 8, 16, 32, 60, 60, 60].map(|s| s * 1000);
        for (wait, least) in waits.iter().zip(at_least) {
            assert!((least..=least + least / 10).contains(wait), "{waits:?}");
        }
        backoff.reset();
        assert!(backoff.next(&mut rng) < Millis(1101));
    }

    #[test]
    fn the_fifth_failure_within_ten_minutes_is_one_too_many() {
        let mut failures = Failures::default();
        let at = |minutes| Mono(0) + Millis::mins(minutes);
        assert!((0..4).all(|minute| !failures.count(at(minute))));
        assert!(failures.count(at(4)));
        assert!(!failures.count(at(13)), "those before minute 3 have aged out");
    }
}
