//! Ranges of addresses, as operators write them: `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.7`.

use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;

/// A range of IP addresses. An IPv4 address mapped into IPv6 counts as the IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    network: u128,
    mask: u128,
    four: bool,
}

/// A text that is not a range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is not a range of addresses; write one like 10.0.0.0/8 or 2001:db8::/32")]
pub struct NotACidr(String);

impl Cidr {
    /// Whether the range holds this address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (bits, four) = bits_of(address);
        four == self.four && bits & self.mask == self.network
    }
}

impl FromStr for Cidr {
    type Err = NotACidr;

    fn from_str(text: &str) -> Result<Cidr, NotACidr> {
        let refused = || NotACidr(text.to_owned());
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| refused())?;
        let (bits, four) = bits_of(address);
        let width: u32 = if four { 32 } else { 128 };
        let length = match length {
            Some(length) => length.parse::<u32>().map_err(|_| refused())?,
            None => width,
        };
        if length > width {
            return Err(refused());
        }
        let mask = u128::MAX.checked_shl(width - length).unwrap_or(0);
        Ok(Cidr { network: bits & mask, mask, four })
    }
}

fn bits_of(address: IpAddr) -> (u128, bool) {
    match address.to_canonical() {
        IpAddr::V4(four) => (u128::from(four.to_bits()), true),
        IpAddr::V6(six) => (six.to_bits(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(range: &str, address: &str, expect: bool) {
        let range: Cidr = range.parse().unwrap();
        assert_eq!(range.contains(address.parse().unwrap()), expect, "{address}");
    }

    #[test]
    fn a_range_holds_its_addresses_and_no_others() {
        check("10.0.0.0/8", "10.255.1.2", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("10.1.2.3/8", "10.9.9.9", true);
        check("0.0.0.0/0", "203.0.113.9", true);
        check("0.0.0.0/0", "2001:db8::1", false);
        check("192.0.2.7", "::ffff:192.0.2.7", true);
        check("2001:db8::/32", "2001:db8:ffff::1", true);
        check("2001:db8::/32", "2001:db9::1", false);
        check("::/0", "2001:db9::1", true);
    }

    #[test]
    fn what_is_no_range_is_refused_with_an_example() {
        for text in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/-1", "ten"] {
            assert!(text.parse::<Cidr>().unwrap_err().to_string().contains("10.0.0.0/8"));
        }
    }
}
