//! The one place that reads clocks.
//!
//! A thread that forwards packets sends keepalives and repeats handshakes by itself, so it cannot
//! be handed the time. Ages of handshakes come from the kernel as wall time, from boringtun as
//! ages.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The time since some moment of this process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock file")]
    pub(crate) fn start() -> Clock {
        Clock(Instant::now())
    }

    pub(crate) fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// The time since 1970; a clock before that reads as 1970.
#[expect(clippy::disallowed_methods, reason = "this is the clock file")]
pub(crate) fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
