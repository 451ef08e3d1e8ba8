//! The one place that reads clocks.
//!
//! [`Clock::now`] gives both of core's: a monotonic one that began when the daemon did, and the
//! wall clock for people. Everything else is handed the time.

use std::time::Duration;

use mill_core::time::{Mono, Now, Wall};
use tokio::time::Instant;

/// Reads the time of this process.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock whose monotonic time begins now.
    pub fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    /// What time it is.
    pub fn now(&self) -> Now {
        let mono = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Now { mono: Mono(mono), wall: wall() }
    }

    /// When a deadline of core's is, for tokio's timers.
    pub fn instant(&self, at: Mono) -> Instant {
        self.origin + Duration::from_nanos(at.0)
    }
}

/// The wall clock; a clock before 1970 reads as 1970.
#[expect(clippy::disallowed_methods, reason = "this is the clock file")]
pub fn wall() -> Wall {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let millis = since.map_or(0, |length| length.as_millis());
    Wall(u64::try_from(millis).unwrap_or(u64::MAX))
}
