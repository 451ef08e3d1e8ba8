//! The one place that reads the clock.
//!
//! Timers are tokio's; what is measured (latency, idleness, token buckets) asks here.

use std::time::Instant;

/// The monotonic time.
#[expect(clippy::disallowed_methods, reason = "this is the clock file")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
