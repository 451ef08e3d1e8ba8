//! How often one client may come: a token bucket for each address, in a table of bounded size.
//!
//! Buckets are shared by the workers, since a client's connections are spread over them. A full
//! bucket says nothing, so the table forgets those first; where all are in use, the one that was
//! used longest ago goes, which errs on the side of letting a client in.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::table::RateLimit;

/// Addresses remembered by one route.
const MAX_BUCKETS: usize = 65_536;

/// How many are looked at when the table is full.
const SWEEP: usize = 256;

#[derive(Debug)]
pub(crate) struct Limiter {
    limit: RateLimit,
    buckets: Mutex<BTreeMap<IpAddr, Bucket>>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Limiter {
    pub(crate) fn new(limit: RateLimit) -> Limiter {
        Limiter { limit, buckets: Mutex::new(BTreeMap::new()) }
    }

    /// Takes a token, or says how long it is until there is one.
    pub(crate) fn take(&self, client: IpAddr, now: Instant) -> Result<(), Duration> {
        let key = crate::limits::group(client);
        let rate = f64::from(self.limit.per_second);
        let burst = f64::from(self.limit.burst);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_BUCKETS && !buckets.contains_key(&key) {
            make_room(&mut buckets, key);
        }
        let bucket = buckets.entry(key).or_insert(Bucket { tokens: burst, at: now });
        let since = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + since * rate).min(burst);
        bucket.at = now;
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - bucket.tokens) / rate))
    }
}

/// Forgets the oldest of the buckets around where the new one goes.
fn make_room(buckets: &mut BTreeMap<IpAddr, Bucket>, key: IpAddr) {
    let around = buckets.range(key..).chain(buckets.range(..key)).take(SWEEP);
    let oldest = around.min_by_key(|(_, bucket)| bucket.at).map(|(address, _)| *address);
    if let Some(address) = oldest {
        buckets.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_let_in_and_then_the_rate() {
        let limiter = Limiter::new(RateLimit { per_second: 2, burst: 3 });
        let (client, start) = ("192.0.2.1".parse().unwrap(), crate::clock::now());
        for _ in 0..3 {
            limiter.take(client, start).unwrap();
        }
        assert_eq!(limiter.take(client, start), Err(Duration::from_millis(500)));
        limiter.take("192.0.2.2".parse().unwrap(), start).unwrap();
        limiter.take(client, start + Duration::from_millis(500)).unwrap();
        assert!(limiter.take(client, start + Duration::from_millis(600)).is_err());
    }

    #[test]
    fn the_table_of_addresses_is_bounded() {
        let limiter = Limiter::new(RateLimit { per_second: 1, burst: 1 });
        let start = crate::clock::now();
        for number in 0..u32::try_from(MAX_BUCKETS).unwrap() + 100 {
            let _ = limiter.take(IpAddr::V4(number.into()), start);
        }
        assert_eq!(limiter.buckets.lock().unwrap().len(), MAX_BUCKETS);
    }
}
