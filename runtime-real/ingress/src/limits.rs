//! How many connections there may be, in all and from one address.
//!
//! The counts are shared by the workers and change once per connection, never per request.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Who counts as one client: an IPv4 address, or the /64 of an IPv6 address, which is what one
/// subscriber gets (RFC 6177).
pub(crate) fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => Ipv6Addr::from_bits(six.to_bits() & !u128::from(u64::MAX)).into(),
        four @ IpAddr::V4(_) => four,
    }
}

#[derive(Debug)]
pub(crate) struct Admission {
    most: usize,
    most_of_one: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    of: BTreeMap<IpAddr, usize>,
}

/// A place among the open connections, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    admission: Arc<Admission>,
    client: IpAddr,
}

impl Admission {
    pub(crate) fn new(most: usize, most_of_one: usize) -> Admission {
        Admission { most, most_of_one, open: Mutex::default() }
    }

    /// A place for a client; one that is trusted may have as many as there are.
    pub(crate) fn enter(self: &Arc<Self>, peer: IpAddr, trusted: bool) -> Option<Place> {
        let client = group(peer);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.all >= self.most {
            return None;
        }
        let of_one = open.of.entry(client).or_insert(0);
        if *of_one >= self.most_of_one && !trusted {
            return None;
        }
        *of_one += 1;
        open.all += 1;
        Some(Place { admission: Arc::clone(self), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.admission.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all -= 1;
        if let Some(of_one) = open.of.get_mut(&self.client) {
            *of_one -= 1;
            if *of_one == 0 {
                open.of.remove(&self.client);
            }
        }
    }
}
