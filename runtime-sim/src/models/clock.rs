//! A machine's two clocks: one runs at its own pace and never jumps, the other jumps too.

use mill_core::time::{Mono, Now, Wall};
use mill_core::units::Millis;

use crate::time::{NANOS_PER_MILLI, SimTime};

/// When every world begins, by a right clock: 2026-01-01 00:00 UTC.
const EPOCH_MILLIS: u64 = 1_767_225_600_000;
const MILLION: i128 = 1_000_000;

/// What a right clock shows.
pub(crate) fn right(now: SimTime) -> Wall {
    Wall(EPOCH_MILLIS + now.0 / NANOS_PER_MILLI)
}

/// The clocks of one machine since it was switched on.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Where the pace last changed.
    since: SimTime,
    mono: u64,
    /// How much faster than the world it runs, in millionths; slower if negative.
    drift: i64,
    /// How wrong the wall clock is, in milliseconds.
    off: i64,
}

impl Clock {
    /// A machine that was switched on at `now`; `drift` in millionths.
    pub fn new(now: SimTime, drift: i64) -> Clock {
        Clock { since: now, mono: 1_000 * NANOS_PER_MILLI, drift, off: 0 }
    }

    /// What both clocks show.
    pub fn now(&self, now: SimTime) -> Now {
        let mono = self.mono_at(now);
        let right = i128::from(EPOCH_MILLIS + now.0 / NANOS_PER_MILLI);
        let wall = u64::try_from(right + i128::from(self.off)).unwrap_or(0);
        Now { mono: Mono(mono), wall: Wall(wall) }
    }

    fn mono_at(&self, now: SimTime) -> u64 {
        let passed = i128::from(now.0.saturating_sub(self.since.0));
        let ran = passed * (MILLION + i128::from(self.drift)) / MILLION;
        self.mono + u64::try_from(ran).expect("clocks run forward")
    }

    /// The first moment at which [`Clock::now`] shows `mono` or more.
    pub fn when(&self, mono: Mono) -> SimTime {
        let left = i128::from(mono.0.saturating_sub(self.mono));
        let pace = MILLION + i128::from(self.drift);
        let passed = (left * MILLION + pace - 1) / pace;
        SimTime(self.since.0.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX)))
    }

    /// From now on it runs at another pace.
    pub fn set_drift(&mut self, now: SimTime, drift: i64) {
        self.mono = self.mono_at(now);
        self.since = now;
        self.drift = drift;
    }

    /// How much faster than the world it runs, in millionths.
    pub(crate) fn drift(&self) -> i64 {
        self.drift
    }

    /// The wall clock jumps.
    pub fn jump(&mut self, by: i64) {
        self.off += by;
    }

    /// Somebody sets the wall clock right.
    pub fn set_right(&mut self) {
        self.off = 0;
    }

    /// How wrong the wall clock is.
    pub fn wrong_by(&self) -> Millis {
        Millis(self.off.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_reached_exactly_when_the_clock_shows_it() {
        for drift in [-50_000, -1, 0, 7, 50_000] {
            let mut clock = Clock::new(SimTime(5), drift);
            clock.set_drift(SimTime(12_345), -drift);
            for ahead in [1, 999, 1_000_000_007] {
                let target = Mono(clock.now(SimTime(20_000)).mono.0 + ahead);
                let at = clock.when(target);
                assert!(clock.now(at).mono >= target, "{drift} {ahead}");
                assert!(clock.now(SimTime(at.0 - 2)).mono < target, "{drift} {ahead}");
            }
        }
    }
}
