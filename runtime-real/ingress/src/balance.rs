//! Which replica gets a request, and which is left out for a while.
//!
//! Least outstanding requests; where there are many replicas, the better of two drawn at random
//! (Mitzenmacher, "The Power of Two Choices", 2001). Among equals one on this node, then the next
//! in turn. Counts are this worker's own.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::pool::Replica;
use crate::table::{Backend, Service as ServiceTable};

/// Up to so many replicas all are compared.
const COMPARE_ALL: usize = 8;

/// Failures in a row after which a replica is left out.
const FAILURES: u32 = 3;

/// How long it is left out for the first time; each further time doubles it.
const FIRST_OUT: Duration = Duration::from_secs(1);

/// The longest that it is left out.
const LONGEST_OUT: Duration = Duration::from_secs(60);

/// One worker's view of a service.
#[derive(Debug, Default)]
pub(crate) struct Service {
    replicas: RefCell<Vec<Rc<Replica>>>,
    turn: Cell<usize>,
    /// Told when there are replicas.
    pub(crate) filled: Notify,
}

impl Service {
    /// Takes over what a new table says. Replicas that left are retired; others keep their
    /// connections and counts.
    pub(crate) fn adopt(&self, table: Option<&ServiceTable>) {
        let wanted: &[Backend] = table.map_or(&[], |service| &service.backends);
        let mut replicas = self.replicas.borrow_mut();
        let (kept, gone): (Vec<_>, Vec<_>) = replicas
            .drain(..)
            .partition(|replica| wanted.iter().any(|backend| replica.is(backend)));
        gone.iter().for_each(|replica| replica.retire());
        for backend in wanted {
            let known = kept.iter().find(|replica| replica.is(backend));
            let replica = known.map_or_else(|| Rc::new(Replica::new(backend.clone())), Rc::clone);
            replicas.push(replica);
        }
        if !replicas.is_empty() {
            self.filled.notify_waiters();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.replicas.borrow().is_empty()
    }

    pub(crate) fn has_one(&self) -> bool {
        self.replicas.borrow().len() == 1
    }

    /// Closes connections that have been idle for long.
    pub(crate) fn prune(&self, before: Instant) {
        self.replicas.borrow().iter().for_each(|replica| replica.prune(before));
    }

    /// The best replica but for those tried already.
    pub(crate) fn pick(
        &self,
        tried: &[SocketAddr],
        random: u64,
        now: Instant,
    ) -> Option<Rc<Replica>> {
        let replicas = self.replicas.borrow();
        if let [only] = replicas.as_slice() {
            return (!tried.contains(&only.backend.address)).then(|| Rc::clone(only));
        }
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let usable = |replica: &Rc<Replica>| {
            !replica.is_out(now) && !tried.contains(&replica.backend.address)
        };
        if replicas.len() > COMPARE_ALL {
            let count = replicas.len() as u64;
            let (first, second) = (random % count, (random >> 32) % count);
            let pair = [&replicas[first as usize], &replicas[second as usize]];
            if let Some(best) = least(pair.into_iter().filter(|replica| usable(replica))) {
                return Some(Rc::clone(best));
            }
        }
        let start = turn % replicas.len().max(1);
        let in_turn = || replicas[start..].iter().chain(&replicas[..start]);
        least(in_turn().filter(|replica| usable(replica)))
            .or_else(|| {
                let untried = |replica: &&Rc<Replica>| !tried.contains(&replica.backend.address);
                least(in_turn().filter(untried))
            })
            .map(Rc::clone)
    }

    /// Notes a failure of a replica; true if it is left out from now on. The last one never is.
    pub(crate) fn failed(&self, replica: &Replica, now: Instant) -> bool {
        let failures = replica.failures.get() + 1;
        replica.failures.set(failures);
        let replicas = self.replicas.borrow();
        let others =
            replicas.iter().any(|other| !std::ptr::eq(&**other, replica) && !other.is_out(now));
        if failures < FAILURES || !others {
            return false;
        }
        let times = replica.times_out.get();
        let length = FIRST_OUT.saturating_mul(1 << times.min(6)).min(LONGEST_OUT);
        replica.out_until.set(Some(now + length));
        replica.times_out.set(times + 1);
        replica.failures.set(0);
        tracing::warn!(
            backend = %replica.backend.id,
            address = %replica.backend.address,
            seconds = length.as_secs(),
            "a replica failed several times in a row and is left out for a while"
        );
        true
    }
}

fn least<'a>(replicas: impl Iterator<Item = &'a Rc<Replica>>) -> Option<&'a Rc<Replica>> {
    replicas.min_by_key(|replica| (replica.outstanding.get(), !replica.backend.same_node))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(count: u16, same_node: Option<u16>) -> Service {
        let backends = (0..count).map(|number| Backend {
            id: format!("web.{number}"),
            address: SocketAddr::from(([127, 0, 0, 1], 1000 + number)),
            same_node: same_node == Some(number),
            h2c: false,
        });
        let service = Service::default();
        let table = ServiceTable { name: "web".into(), backends: backends.collect() };
        service.adopt(Some(&table));
        service
    }

    fn picks(service: &Service, count: u64, now: Instant) -> Vec<u16> {
        let random = |seed: u64| seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let pick = |seed| service.pick(&[], random(seed), now).unwrap().backend.address.port();
        (0..count).map(pick).collect()
    }

    #[test]
    fn equals_take_turns_and_this_node_comes_first() {
        let now = crate::clock::now();
        assert_eq!(picks(&service(3, None), 4, now), [1000, 1001, 1002, 1000]);
        assert_eq!(picks(&service(3, Some(1)), 3, now), [1001, 1001, 1001]);
    }

    #[test]
    fn the_least_busy_replica_is_picked_whatever_its_node() {
        let (service, now) = (service(2, Some(0)), crate::clock::now());
        let busy = service.pick(&[], 0, now).unwrap();
        busy.outstanding.set(2);
        assert_eq!(picks(&service, 2, now), [1001, 1001]);
    }

    #[test]
    fn a_replica_that_fails_is_left_out_and_comes_back() {
        let (service, now) = (service(2, None), crate::clock::now());
        let bad = service.pick(&[], 0, now).unwrap();
        assert!(!service.failed(&bad, now) && !service.failed(&bad, now));
        assert!(service.failed(&bad, now));
        assert_eq!(picks(&service, 2, now), [1001, 1001]);
        let other = service.pick(&[], 0, now).unwrap();
        for _ in 0..10 {
            assert!(!service.failed(&other, now), "the last one is never left out");
        }
        let later = now + FIRST_OUT;
        assert!(picks(&service, 2, later).contains(&1000));
    }

    #[test]
    fn among_many_two_are_drawn_and_the_better_wins() {
        let (service, now) = (service(12, None), crate::clock::now());
        service.replicas.borrow()[3].outstanding.set(9);
        let picked = picks(&service, 400, now);
        let share = picked.iter().filter(|port| **port == 1003).count();
        assert!(share < 10, "{share} of 400 went to a busy one");
    }
}
