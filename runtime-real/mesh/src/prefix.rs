//! An address with the length of its network: `10.77.3.1/16`.
//!
//! As an interface's address it names both the machine and the network that is reached through the
//! interface; as what a peer is allowed, only the network counts.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::error::PrefixError;

/// An address and how many of its leading bits name its network: 0 to 32, for IPv6 to 128.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// # Errors
    /// If `length` is more than the address has bits.
    pub fn new(address: IpAddr, length: u8) -> Result<Prefix, PrefixError> {
        if length > bits(address) {
            return Err(PrefixError::Length { address, length });
        }
        Ok(Prefix { address, length })
    }

    /// The network that is this address alone.
    pub fn host(address: IpAddr) -> Prefix {
        Prefix { address, length: bits(address) }
    }

    /// The address, with its host bits.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many leading bits name the network.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// The same network with all host bits zero.
    pub fn network(&self) -> Prefix {
        let address = match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(address) & mask))
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(address) & mask))
            }
        };
        Prefix { address, length: self.length }
    }

    /// Whether the address lies in this network.
    pub fn holds(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && Prefix { address, length: self.length }.network() == self.network()
    }

    /// Whether all of `other` lies in this network.
    pub fn covers(&self, other: &Prefix) -> bool {
        self.length <= other.length && self.holds(other.address)
    }

    /// Some address of the network that is not this one; none if there is no other.
    pub fn neighbour(&self) -> Option<IpAddr> {
        if self.length == bits(self.address) {
            return None;
        }
        Some(match self.address {
            IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from(u32::from(address) ^ 1)),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) ^ 1)),
        })
    }
}

/// How many bits an address of this family has.
fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Prefix, PrefixError> {
        let unreadable = || PrefixError::Text { text: text.to_owned() };
        let (address, length) = text.split_once('/').ok_or_else(unreadable)?;
        let address = address.parse().map_err(|_| unreadable())?;
        Prefix::new(address, length.parse().map_err(|_| unreadable())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn the_network_has_no_host_bits() {
        for (given, network) in [
            ("10.77.3.1/16", "10.77.0.0/16"),
            ("10.77.3.1/32", "10.77.3.1/32"),
            ("10.77.3.1/0", "0.0.0.0/0"),
            ("fd00:1:2::9/48", "fd00:1:2::/48"),
            ("fd00::9/0", "::/0"),
        ] {
            assert_eq!(prefix(given).network(), prefix(network), "{given}");
        }
    }

    #[test]
    fn a_network_covers_what_lies_in_it_and_nothing_of_the_other_family() {
        assert!(prefix("10.77.0.1/16").covers(&prefix("10.77.9.0/24")));
        assert!(!prefix("10.77.9.0/24").covers(&prefix("10.77.0.0/16")));
        assert!(!prefix("0.0.0.0/0").covers(&prefix("::/0")));
    }

    #[test]
    fn a_neighbour_is_in_the_network_and_not_oneself() {
        for text in ["10.77.0.1/31", "10.77.0.0/16", "fd00::1/64"] {
            let neighbour = prefix(text).neighbour().unwrap();
            assert!(prefix(text).holds(neighbour) && neighbour != prefix(text).address());
        }
        assert_eq!(prefix("10.77.0.1/32").neighbour(), None);
    }

    #[test]
    fn what_is_not_a_prefix_is_refused() {
        for text in ["", "10.0.0.1", "10.0.0.1/33", "::1/129", "ten/8", "10.0.0.1/x"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }
}
