//! Which peer an address belongs to: the one with the longest network that holds it.
//!
//! A map per length of network. A cluster's mesh has one or two lengths, so a look-up is one or two
//! searches among at most [`crate::MAX_PEERS`] networks.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::keys::PublicKey;
use crate::prefix::Prefix;

/// Networks and whose they are.
#[derive(Debug, Default)]
pub(crate) struct Table {
    lengths: BTreeMap<Reverse<u8>, BTreeMap<Prefix, PublicKey>>,
}

impl Table {
    /// Gives the network to the peer.
    pub(crate) fn insert(&mut self, prefix: &Prefix, peer: PublicKey) {
        let prefix = prefix.network();
        self.lengths.entry(Reverse(prefix.length())).or_default().insert(prefix, peer);
    }

    /// Takes all networks of the peer away.
    pub(crate) fn remove(&mut self, peer: &PublicKey) {
        for networks in self.lengths.values_mut() {
            networks.retain(|_, owner| owner != peer);
        }
        self.lengths.retain(|_, networks| !networks.is_empty());
    }

    /// The networks of the peer, the longest first.
    pub(crate) fn of(&self, peer: &PublicKey) -> Vec<Prefix> {
        let all = self.lengths.values().flatten();
        all.filter(|(_, owner)| *owner == peer).map(|(prefix, _)| *prefix).collect()
    }

    /// Whose the address is.
    pub(crate) fn find(&self, address: IpAddr) -> Option<PublicKey> {
        self.lengths.iter().find_map(|(Reverse(length), networks)| {
            // A length of the other family may be too long for this address.
            let network = Prefix::new(address, *length).ok()?.network();
            networks.get(&network).copied()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_network_wins_and_goes_with_its_peer() {
        let (one, two) = (PublicKey::from_bytes([1; 32]), PublicKey::from_bytes([2; 32]));
        let mut table = Table::default();
        table.insert(&"10.77.0.0/16".parse().unwrap(), one);
        table.insert(&"10.77.3.0/24".parse().unwrap(), two);
        table.insert(&"fd00::/64".parse().unwrap(), two);
        let found = |table: &Table, text: &str| table.find(text.parse().unwrap());
        assert_eq!(found(&table, "10.77.3.9"), Some(two));
        assert_eq!(found(&table, "10.77.4.9"), Some(one));
        assert_eq!(found(&table, "10.78.0.1"), None);
        assert_eq!(found(&table, "fd00::7"), Some(two));
        table.remove(&two);
        assert_eq!(found(&table, "10.77.3.9"), Some(one));
        assert_eq!(found(&table, "fd00::7"), None);
    }
}
