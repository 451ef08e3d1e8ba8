//! Requests that wait for a replica: a deploy or a crash should look like a slow moment.
//!
//! A request waits while its service has no replica at all, as long as its route says, and only so
//! many wait at once. The table that brings a replica wakes them.

use std::time::Duration;

use tokio::time::timeout;

use crate::balance::Service;
use crate::worker::Worker;

/// Waits until the service has a replica; false if it has none in time.
pub(crate) async fn wait(worker: &Worker, service: &Service, hold: Duration) -> bool {
    if !service.is_empty() {
        return true;
    }
    if hold.is_zero() || worker.held.get() >= worker.options.limits.held {
        return false;
    }
    worker.held.set(worker.held.get() + 1);
    worker.counters.held.add(1);
    let _held = Held(worker);
    let filled = async {
        loop {
            // Registered before the look, so that a table between the two is not missed.
            let filled = service.filled.notified();
            if !service.is_empty() {
                return;
            }
            filled.await;
        }
    };
    timeout(hold, filled).await.is_ok()
}

struct Held<'a>(&'a Worker);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.held.set(self.0.held.get() - 1);
    }
}
