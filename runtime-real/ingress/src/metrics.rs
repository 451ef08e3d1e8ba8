//! What an ingress counts. Each worker counts for itself; a snapshot sums.
//!
//! Latency runs from a request's head to the end of its answer. Routes have labels of their
//! tables alone, so strangers cannot make new ones; what has no route is counted together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of the latency buckets, in milliseconds; one more bucket takes the rest.
pub const LATENCY_BUCKETS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 5_000, 30_000];

/// A count that one thread writes and others read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        // One thread writes, so nothing is lost between the two.
        self.0.store(self.value() + more, Ordering::Relaxed);
    }

    pub(crate) fn less(&self, fewer: u64) {
        self.0.store(self.value() - fewer, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Which route something was counted for; both are empty for what had none.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteLabel {
    /// The route's host.
    pub host: String,
    /// The route's path.
    pub path: String,
}

#[derive(Debug, Default)]
pub(crate) struct WorkerCounters {
    pub(crate) open: Counter,
    pub(crate) refused: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) retries: Counter,
    pub(crate) ejections: Counter,
    pub(crate) held: Counter,
    pub(crate) tcp: Counter,
    pub(crate) records_lost: Counter,
    pub(crate) upstream_connects: Counter,
    routes: Mutex<BTreeMap<RouteLabel, Arc<RouteCounters>>>,
}

#[derive(Debug, Default)]
pub(crate) struct RouteCounters {
    classes: [Counter; 5],
    buckets: [Counter; LATENCY_BUCKETS.len() + 1],
    micros: Counter,
}

impl WorkerCounters {
    /// The counters of these routes; those of routes that are gone are forgotten.
    pub(crate) fn of_routes(&self, labels: &[RouteLabel]) -> Vec<Arc<RouteCounters>> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = labels
            .iter()
            .map(|label| (label.clone(), routes.get(label).map(Arc::clone).unwrap_or_default()));
        let kept: BTreeMap<_, _> = kept.collect();
        *routes = kept;
        labels.iter().map(|label| Arc::clone(&routes[label])).collect()
    }
}

impl RouteCounters {
    pub(crate) fn finished(&self, status: u16, took: Duration) {
        let class = usize::from((status / 100).clamp(1, 5) - 1);
        self.classes[class].add(1);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BUCKETS.partition_point(|bound| bound * 1_000 < micros);
        self.buckets[bucket].add(1);
        self.micros.add(micros);
    }
}

/// What has been counted since an ingress started, but for what is open now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Client connections open now, tunnels included.
    pub open_connections: u64,
    /// Connections that limits turned away.
    pub refused_connections: u64,
    /// Bytes that clients sent and were sent, heads and TLS's plaintext included.
    pub bytes_in: u64,
    /// See `bytes_in`.
    pub bytes_out: u64,
    /// Requests sent again, to the same replica or another.
    pub retries: u64,
    /// Times a replica was left out for its failures.
    pub ejections: u64,
    /// Requests that waited for a replica.
    pub held: u64,
    /// Connections of TCP routes.
    pub tcp_connections: u64,
    /// Connections opened to backends of HTTP routes.
    pub upstream_connects: u64,
    /// Records that the access log's channel had no room for.
    pub access_records_lost: u64,
    /// Per route.
    pub routes: BTreeMap<RouteLabel, RouteSnapshot>,
}

/// What was counted for one route of the current table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteSnapshot {
    /// Requests by status class, 1xx first. A client that left before an answer counts as 4xx.
    pub by_class: [u64; 5],
    /// Requests by latency, each bucket for itself; see [`LATENCY_BUCKETS`].
    pub latency: [u64; LATENCY_BUCKETS.len() + 1],
    /// Sum of all latencies.
    pub latency_sum: Duration,
}

/// Sums what workers counted.
pub(crate) fn sum<'a>(workers: impl Iterator<Item = &'a Arc<WorkerCounters>>) -> Snapshot {
    let mut all = Snapshot::default();
    for worker in workers {
        all.open_connections += worker.open.value();
        all.refused_connections += worker.refused.value();
        all.bytes_in += worker.bytes_in.value();
        all.bytes_out += worker.bytes_out.value();
        all.retries += worker.retries.value();
        all.ejections += worker.ejections.value();
        all.held += worker.held.value();
        all.tcp_connections += worker.tcp.value();
        all.upstream_connects += worker.upstream_connects.value();
        all.access_records_lost += worker.records_lost.value();
        let routes = worker.routes.lock().unwrap_or_else(PoisonError::into_inner);
        for (label, counted) in routes.iter() {
            let route = all.routes.entry(label.clone()).or_default();
            for (total, more) in route.by_class.iter_mut().zip(&counted.classes) {
                *total += more.value();
            }
            for (total, more) in route.latency.iter_mut().zip(&counted.buckets) {
                *total += more.value();
            }
            route.latency_sum += Duration::from_micros(counted.micros.value());
        }
    }
    all
}
