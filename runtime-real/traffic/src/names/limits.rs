//! How much one asker may take of what all share: the rate of questions to the host's resolvers,
//! places to wait for their answers, and connections.
//!
//! Each has a limit in total and a lower one for each asker, so that one that goes mad leaves the
//! others at least three quarters. What the tables know is not limited: an answer costs less than
//! looking up who asks, and what comes faster than it is answered is dropped by the kernel, which
//! has room for so much and no more. Nothing here reads a clock. Tested below, and with real
//! sockets in `tests/limits.rs`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::askers::Asker;

/// Questions per second that all askers together may put to the host's resolvers. Each may go to
/// two of them at a time, and clouds drop what is over about a thousand packets per second and
/// machine.
const RATE_IN_TOTAL: Rate = Rate { per_second: 400, at_once: 400 };
/// The same of one asker.
const RATE_OF_ONE: Rate = Rate { per_second: 100, at_once: 200 };
/// Askers whose rate is kept apart at a time; any beyond share one.
const ASKERS_APART: usize = 1024;
/// Questions that wait for an answer of others at a time.
const WAITING_IN_TOTAL: usize = 512;
/// The same of one asker.
const WAITING_OF_ONE: usize = 128;
/// Connections at a time.
const CONNECTIONS_IN_TOTAL: usize = 256;
/// The same of one asker.
const CONNECTIONS_OF_ONE: usize = 64;

/// A rate, and how far ahead of it one may be.
#[derive(Clone, Copy, Debug)]
struct Rate {
    per_second: u32,
    at_once: u32,
}

/// What is counted against a rate: the moment at which everything that was taken has been earned
/// (the generic cell rate algorithm, ITU-T I.371).
type Earned = Instant;

/// What all askers share.
#[derive(Debug)]
pub(super) struct Limits {
    rates: Mutex<Rates>,
    waiting: Shares,
    connections: Shares,
}

#[derive(Debug, Default)]
struct Rates {
    total: Option<Earned>,
    each: BTreeMap<Asker, Earned>,
}

/// Things of which there are so many. Clones are the same.
#[derive(Clone, Debug)]
struct Shares {
    total: usize,
    of_one: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    each: BTreeMap<Asker, usize>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    shares: Shares,
    asker: Asker,
}

impl Limits {
    pub fn new() -> Limits {
        Limits {
            rates: Mutex::default(),
            waiting: Shares::new(WAITING_IN_TOTAL, WAITING_OF_ONE),
            connections: Shares::new(CONNECTIONS_IN_TOTAL, CONNECTIONS_OF_ONE),
        }
    }

    /// A place to wait for an answer of others.
    pub fn waiting(&self, asker: Asker) -> Option<Share> {
        self.waiting.take(asker)
    }

    /// A connection.
    pub fn connection(&self, asker: Asker) -> Option<Share> {
        self.connections.take(asker)
    }

    /// Connections that there are.
    pub fn connections(&self) -> usize {
        self.connections.taken().total
    }

    /// Whether one more question may go to the host's resolvers; it counts if so.
    pub fn may_ask(&self, asker: Asker, now: Instant) -> bool {
        let mut rates = self.rates.lock().expect("no code panics while it holds the rates");
        rates.may_ask(asker, now)
    }
}

impl Rate {
    /// Whether one more may be taken, and then until when all is earned.
    fn take(self, earned: Option<Earned>, now: Instant) -> Option<Earned> {
        let each = Duration::from_secs(1) / self.per_second;
        let earned = earned.map_or(now, |earned| earned.max(now)) + each;
        (earned <= now + each * self.at_once).then_some(earned)
    }
}

impl Rates {
    fn may_ask(&mut self, asker: Asker, now: Instant) -> bool {
        let asker = self.apart(asker, now);
        let of_one = RATE_OF_ONE.take(self.each.get(&asker).copied(), now);
        // Whoever is over its own rate takes nothing from the others.
        let total = of_one.and_then(|_| RATE_IN_TOTAL.take(self.total, now));
        if let (Some(of_one), Some(total)) = (of_one, total) {
            self.each.insert(asker, of_one);
            self.total = Some(total);
        }
        total.is_some()
    }

    /// Under which name an asker's rate is kept.
    fn apart(&mut self, asker: Asker, now: Instant) -> Asker {
        if self.each.len() >= ASKERS_APART && !self.each.contains_key(&asker) {
            // Nothing is to be known of those who have earned all that they took.
            self.each.retain(|_, earned| *earned > now);
            if self.each.len() >= ASKERS_APART {
                return Asker::Rest;
            }
        }
        asker
    }
}

impl Shares {
    fn new(total: usize, of_one: usize) -> Shares {
        Shares { total, of_one, taken: Arc::default() }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().expect("no code panics while it holds the counts")
    }

    fn take(&self, asker: Asker) -> Option<Share> {
        let mut taken = self.taken();
        let of_one = taken.each.get(&asker).copied().unwrap_or(0);
        if taken.total >= self.total || of_one >= self.of_one {
            return None;
        }
        taken.total += 1;
        taken.each.insert(asker, of_one + 1);
        Some(Share { shares: self.clone(), asker })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        taken.total -= 1;
        let left = taken.each.get(&self.asker).map_or(0, |count| count - 1);
        match left {
            0 => taken.each.remove(&self.asker),
            _ => taken.each.insert(self.asker, left),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn asked(limits: &Limits, asker: Asker, times: u32, now: Instant) -> u32 {
        (0..times).map(|_| u32::from(limits.may_ask(asker, now))).sum()
    }

    #[test]
    fn one_that_asks_without_end_gets_its_own_rate_and_the_others_theirs() {
        let (limits, now) = (Limits::new(), crate::clock::now());
        let (mad, other) = (Asker::Container(7), Asker::Container(8));
        assert_eq!(asked(&limits, mad, 10_000, now), RATE_OF_ONE.at_once);
        assert_eq!(asked(&limits, other, 50, now), 50);
        let mut later = now;
        for _ in 0..20 {
            later += SECOND;
            assert_eq!(asked(&limits, mad, 10_000, later), RATE_OF_ONE.per_second);
            assert_eq!(asked(&limits, other, 50, later), 50);
        }
        // Who asked nothing for a while may ask much at once, and not more than that.
        assert_eq!(asked(&limits, mad, 10_000, later + 60 * SECOND), RATE_OF_ONE.at_once);
    }

    #[test]
    fn all_together_ask_no_more_than_the_host_may() {
        let (limits, now) = (Limits::new(), crate::clock::now());
        let round = |now| (0..100).map(|id| asked(&limits, Asker::Container(id), 100, now)).sum();
        let first: u32 = round(now);
        let second: u32 = round(now + SECOND);
        assert_eq!((first, second), (RATE_IN_TOTAL.at_once, RATE_IN_TOTAL.per_second));
    }

    #[test]
    fn askers_without_number_are_kept_in_bounds_and_share_one_rate() {
        let (limits, now) = (Limits::new(), crate::clock::now());
        let mut at = now;
        for id in 0..20_000 {
            // As fast as all may ask together, so that each is remembered for a moment.
            at += SECOND / RATE_IN_TOTAL.per_second;
            assert!(limits.may_ask(Asker::Container(id), at));
        }
        let mut rates = limits.rates.lock().unwrap();
        assert!(rates.each.len() <= ASKERS_APART);
        rates.each = (0..1024).map(|id| (Asker::Container(id), at + SECOND)).collect();
        rates.total = None;
        drop(rates);
        let unknown = (5_000..6_000).map(|id| asked(&limits, Asker::Container(id), 1, at));
        assert_eq!(unknown.sum::<u32>(), RATE_OF_ONE.at_once);
    }

    #[test]
    fn a_share_comes_back_when_it_is_dropped_and_nobody_has_them_all() {
        let limits = Limits::new();
        let limits = &limits;
        let of = |id| (0..10_000).map_while(move |_| limits.waiting(Asker::Container(id)));
        let mad: Vec<Share> = of(7).collect();
        assert_eq!(mad.len(), WAITING_OF_ONE);
        let others: Vec<Share> = (8..20).flat_map(of).collect();
        assert_eq!(others.len(), WAITING_IN_TOTAL - WAITING_OF_ONE);
        drop(mad);
        assert_eq!(of(7).count(), 10_000, "each is given back before the next is taken");
        drop(others);
        assert!(limits.waiting.taken().each.is_empty());
    }
}
