//! The one place where this crate reads the clock; all else is handed the time. Timers are tokio's.

use std::time::Instant;

/// The monotonic time.
#[expect(clippy::disallowed_methods, reason = "this is the clock file")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
