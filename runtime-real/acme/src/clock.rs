//! The one place that reads the clock.
//!
//! Timers are tokio's. Certificates and the header `Retry-After` name moments of the calendar, so
//! what makes or reads those asks here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time since 1970; a clock before that reads as 1970.
#[expect(clippy::disallowed_methods, reason = "this is the clock file")]
pub(crate) fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
