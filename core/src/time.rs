//! The two clocks: [`Mono`] decides, [`Wall`] is for people and certificates.
//!
//! Both are handed in with every event. A `Mono` is only comparable with others of the same
//! start of the same node; nothing that is replicated holds one.

use std::fmt;
use std::ops::Add;

use serde::{Deserialize, Serialize};

use crate::units::Millis;

/// Nanoseconds of a clock that never jumps, since some moment of this node's own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mono(pub u64);

/// Milliseconds since the Unix epoch, by a clock that may be wrong and may jump.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Wall(pub u64);

/// What time it is, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Now {
    /// For deadlines, backoff and failure detection.
    pub mono: Mono,
    /// For what people read and what certificates say.
    pub wall: Wall,
}

const NANOS_PER_MILLI: u64 = 1_000_000;

impl Add<Millis> for Mono {
    type Output = Mono;

    fn add(self, length: Millis) -> Mono {
        Mono(self.0.saturating_add(length.0.saturating_mul(NANOS_PER_MILLI)))
    }
}

impl Mono {
    /// Time since `earlier`; zero if that lies ahead.
    pub fn since(self, earlier: Mono) -> Millis {
        Millis(self.0.saturating_sub(earlier.0) / NANOS_PER_MILLI)
    }
}

impl fmt::Debug for Mono {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0 / 1_000_000_000, self.0 / NANOS_PER_MILLI % 1000)
    }
}
