//! Addresses of a cluster's own: a range that its nodes and services share, the same on all nodes.
//!
//! The first quarter is for nodes, in the mesh; the upper half for services. An address of a
//! service is good on each node, where it leads to that node's own forwarder; it is never seen between
//! machines. Each of these has an IPv6 address beside it, which follows from it.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Addresses that services can be given, counted from 1.
pub const SERVICE_ADDRESSES: u16 = 32_000;
/// Addresses that nodes can be given, counted from 1.
pub const NODE_ADDRESSES: u16 = 16_000;

/// The first address of the upper half.
const UPPER: u16 = 1 << 15;
/// Where name servers answer: the last but one of all addresses.
const RESOLVER: u16 = u16::MAX - 1;
/// This machine's end of the way to local addresses: the last but one of the lower half.
const GATEWAY: u16 = UPPER - 2;

/// What addresses of a machine's own begin with (RFC 1122, section 3.2.1.3).
const LOOPBACK: u8 = 127;

/// What unique local addresses begin with (RFC 4193).
const UNIQUE_LOCAL: u8 = 0xfd;
/// The first 24 of the 40 bits that RFC 4193 wants drawn, so that no site has them already; they
/// were, once for all clusters. The octets of the range are the others: so clusters of one machine,
/// whose ranges differ, differ here too, and each node finds the same without being told.
const DRAWN: [u8; 3] = [0xe7, 0xcb, 0x25];

/// The next number after the last that was given, among 1 to `most`, that nobody has: what has just
/// been given up is given again as late as can be. 0 if all are taken.
pub(crate) fn next_free(last: u16, most: u16, taken: impl Iterator<Item = u16>) -> u16 {
    let taken: BTreeSet<u16> = taken.collect();
    let mut numbers = (last.min(most)..most).chain(0..last.min(most)).map(|before| before + 1);
    numbers.find(|number| !taken.contains(number)).unwrap_or_default()
}

/// The range of a cluster, 65,536 addresses: its first two octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Network(pub u8, pub u8);

/// The range that is tried first: private (RFC 1918), and seldom another's.
impl Default for Network {
    fn default() -> Network {
        Network(10, 213)
    }
}

impl Network {
    /// Bits that all of its addresses share.
    pub const PREFIX: u8 = 16;
    /// Bits that all addresses share which are good on one node only.
    pub const LOCAL_PREFIX: u8 = Network::PREFIX + 1;

    /// Bits of an IPv6 address of the cluster before those of the IPv4 one beside it.
    pub const BEFORE_IPV4: u8 = 96;

    /// Bits that all addresses of nodes share.
    pub const NODE_PREFIX: u8 = Network::PREFIX + 2;

    /// Whether its addresses are every machine's own, so that it is good for a cluster of one node:
    /// one that may make no others.
    pub fn is_loopback(self) -> bool {
        self.0 == LOOPBACK
    }

    /// The same range among the addresses of a machine's own.
    #[must_use]
    pub fn on_loopback(self) -> Network {
        Network(LOOPBACK, self.1)
    }

    fn at(self, number: u16) -> Ipv4Addr {
        let [high, low] = number.to_be_bytes();
        Ipv4Addr::new(self.0, self.1, high, low)
    }

    /// The first address of all.
    pub fn first(self) -> Ipv4Addr {
        self.at(0)
    }

    /// The first address of those that are good on one node only.
    pub fn first_local(self) -> Ipv4Addr {
        self.at(UPPER)
    }

    /// The address of a node in the mesh.
    pub fn of_node(self, address: u16) -> Ipv4Addr {
        self.at(address)
    }

    /// The address at which a service is called.
    pub fn of_service(self, address: u16) -> Ipv4Addr {
        self.at(UPPER | address)
    }

    /// The IPv6 address at which a service is called, beside that of IPv4; none on loopback.
    pub fn ipv6_of_service(self, address: u16) -> Option<Ipv6Addr> {
        (!self.is_loopback()).then(|| self.ipv6(self.of_service(address)))
    }

    /// The IPv6 address beside one of IPv4 that is of this network: unique local, with the other in
    /// its last 32 bits.
    pub fn ipv6(self, address: Ipv4Addr) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets[0] = UNIQUE_LOCAL;
        octets[1..4].copy_from_slice(&DRAWN);
        octets[4..6].copy_from_slice(&[self.0, self.1]);
        octets[12..].copy_from_slice(&address.octets());
        Ipv6Addr::from(octets)
    }

    /// Which service's address that is, of either kind; `None` if it is none of a service.
    pub fn service_at(self, address: IpAddr) -> Option<u16> {
        let address = match address {
            IpAddr::V4(address) => address,
            IpAddr::V6(address) => {
                let [.., a, b, c, d] = address.octets();
                let beside = Ipv4Addr::new(a, b, c, d);
                Some(beside).filter(|beside| self.ipv6(*beside) == address)?
            }
        };
        let [first, second, high, low] = address.octets();
        let number = u16::from_be_bytes([high, low]);
        let known = (first, second) == (self.0, self.1) && number & UPPER != 0;
        known.then_some(number & !UPPER).filter(|n| (1..=SERVICE_ADDRESSES).contains(n))
    }

    /// The address at which each node answers questions for names.
    pub fn resolver(self) -> Ipv4Addr {
        self.at(RESOLVER)
    }

    /// This machine's end of the way to the addresses that are good here only.
    pub fn gateway(self) -> Ipv4Addr {
        self.at(GATEWAY)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first(), Network::PREFIX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_free_number_goes_round() {
        let next = |last, taken: &[u16]| next_free(last, 4, taken.iter().copied());
        assert_eq!(next(0, &[]), 1);
        assert_eq!(next(2, &[2]), 3);
        assert_eq!(next(3, &[4, 1]), 2);
        assert_eq!(next(4, &[]), 1);
        assert_eq!(next(2, &[1, 3, 4]), 2);
        assert_eq!(next(9, &[]), 1);
        assert_eq!(next(2, &[1, 2, 3, 4]), 0);
    }

    #[test]
    fn an_address_of_a_service_leads_back_to_it() {
        let network = Network(10, 77);
        for address in [1, 255, 256, SERVICE_ADDRESSES] {
            let at = network.of_service(address);
            assert_eq!(network.service_at(IpAddr::V4(at)), Some(address));
            assert_eq!(network.service_at(IpAddr::V6(network.ipv6(at))), Some(address));
        }
        assert_eq!(network.of_service(1), Ipv4Addr::new(10, 77, 128, 1));
        assert_eq!(network.ipv6(network.of_service(1)).to_string(), "fde7:cb25:a4d::a4d:8001");
    }

    #[test]
    fn addresses_of_nodes_share_a_prefix_with_nothing_else() {
        let network = Network(10, 77);
        let part = |address: Ipv4Addr| u32::from(address) >> (32 - u32::from(Network::NODE_PREFIX));
        for address in [1, NODE_ADDRESSES] {
            assert_eq!(part(network.of_node(address)), part(network.first()));
        }
        for other in [network.gateway(), network.resolver(), network.of_service(1)] {
            assert_ne!(part(other), part(network.first()), "{other}");
        }
    }

    #[test]
    fn addresses_of_other_things_are_none_of_services() {
        let network = Network(10, 77);
        let others = [network.resolver(), network.gateway(), network.first_local()];
        for other in others.into_iter().chain([Ipv4Addr::new(10, 77, 0, 1)]) {
            assert_eq!(network.service_at(IpAddr::V4(other)), None, "{other}");
            assert_eq!(network.service_at(IpAddr::V6(network.ipv6(other))), None, "{other}");
        }
        let beside = Network(10, 78);
        assert_eq!(network.service_at(IpAddr::V4(beside.of_service(1))), None);
        assert_eq!(network.service_at(IpAddr::V6(beside.ipv6(beside.of_service(1)))), None);
        let elsewhere = beside.ipv6(network.of_service(1));
        assert_eq!(network.service_at(IpAddr::V6(elsewhere)), None);
    }
}
