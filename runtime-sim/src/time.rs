//! The world's own time, which no node ever sees.

use std::fmt;
use std::ops::Add;

use mill_core::units::Millis;
use serde::Serialize;

/// Nanoseconds since the world began.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct SimTime(pub u64);

pub(crate) const NANOS_PER_MILLI: u64 = 1_000_000;

impl SimTime {
    /// Time since `earlier`; zero if that lies ahead.
    pub fn since(self, earlier: SimTime) -> Millis {
        Millis(self.0.saturating_sub(earlier.0) / NANOS_PER_MILLI)
    }
}

impl Add<Millis> for SimTime {
    type Output = SimTime;

    fn add(self, length: Millis) -> SimTime {
        SimTime(self.0.saturating_add(length.0.saturating_mul(NANOS_PER_MILLI)))
    }
}

impl fmt::Display for SimTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0 / 1000;
        write!(f, "{:>5}.{:06}s", micros / 1_000_000, micros % 1_000_000)
    }
}

impl fmt::Debug for SimTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
