//! The one place that reads the clock.
//!
//! Timers are tokio's; what is measured (latency, idleness, token buckets) asks here. It is the
//! clock of those timers, so that where they are simulated, what is measured is, too.

use std::time::Instant;

/// The monotonic time.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
