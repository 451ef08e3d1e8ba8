//! Peers as they are wanted, and what has to change for them to be so.
//!
//! Pure: [`check`] refuses lists that WireGuard would quietly bend, [`changes`] compares two lists.
//! An unchanged peer is not touched, so it keeps its session, its counters, and where it roamed to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use crate::error::PeersError;
use crate::keys::PublicKey;
use crate::prefix::Prefix;

/// Peers of one interface at most; a cluster has 20 nodes.
pub const MAX_PEERS: usize = 256;
/// Networks of one peer at most.
pub const MAX_ALLOWED: usize = 64;
/// WireGuard counts keepalives in whole seconds, in 16 bits.
const MAX_KEEPALIVE: Duration = Duration::from_secs(65_535);

/// A peer as it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub public_key: PublicKey,
    /// Where to send the first packet; none if only the peer knows where we are.
    pub endpoint: Option<SocketAddr>,
    /// The networks behind it: what is sent there goes to it, and only that may come from it.
    pub allowed: Vec<Prefix>,
    /// Sends something this often, so that a NAT between keeps the way back open; 25 s suits
    /// nearly all. Whole seconds from 1 s to 65,535 s.
    pub keepalive: Option<Duration>,
}

/// One step towards the wanted list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It goes, with its session.
    Remove(PublicKey),
    /// It comes.
    Add(Peer),
    /// It stays, and only what is `Some` is set.
    Update(Update),
}

/// What changes of a peer that stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Update {
    pub(crate) public_key: PublicKey,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) allowed: Option<Vec<Prefix>>,
    pub(crate) keepalive: Option<Option<Duration>>,
}

/// Refuses what WireGuard would take and do something else with.
pub(crate) fn check(
    own: &PublicKey,
    networks: &[Prefix],
    peers: &[Peer],
) -> Result<BTreeMap<PublicKey, Peer>, PeersError> {
    if peers.len() > MAX_PEERS {
        return Err(PeersError::TooMany { found: peers.len() });
    }
    let mut wanted = BTreeMap::new();
    let mut owners = BTreeMap::new();
    for peer in peers {
        let key = peer.public_key;
        if key == *own {
            return Err(PeersError::Own { key });
        }
        if peer.allowed.len() > MAX_ALLOWED {
            return Err(PeersError::TooManyAllowed { key, found: peer.allowed.len() });
        }
        if peer.keepalive.is_some_and(|every| !is_keepalive(every)) {
            return Err(PeersError::Keepalive { key });
        }
        for prefix in peer.allowed.iter().map(Prefix::network) {
            if !networks.iter().any(|network| network.covers(&prefix)) {
                return Err(PeersError::Outside { key, prefix });
            }
            if let Some(other) = owners.insert(prefix, key).filter(|other| *other != key) {
                return Err(PeersError::Shared { prefix, one: other, other: key });
            }
        }
        if wanted.insert(key, tidy(peer)).is_some() {
            return Err(PeersError::Twice { key });
        }
    }
    Ok(wanted)
}

fn is_keepalive(every: Duration) -> bool {
    every.subsec_nanos() == 0 && !every.is_zero() && every <= MAX_KEEPALIVE
}

/// The same peer with its networks in order, each once.
fn tidy(peer: &Peer) -> Peer {
    let allowed: BTreeSet<Prefix> = peer.allowed.iter().map(Prefix::network).collect();
    Peer { allowed: allowed.into_iter().collect(), ..peer.clone() }
}

/// What leads from one list to the other: removals first, so that a network can change hands.
pub(crate) fn changes(
    before: &BTreeMap<PublicKey, Peer>,
    wanted: &BTreeMap<PublicKey, Peer>,
) -> Vec<Change> {
    let gone = before.keys().filter(|key| !wanted.contains_key(key));
    let mut changes: Vec<Change> = gone.map(|key| Change::Remove(*key)).collect();
    let mut gains = Vec::new();
    for (key, peer) in wanted {
        match before.get(key) {
            None => gains.push(Change::Add(peer.clone())),
            Some(old) if old == peer => {}
            Some(old) => {
                // What a peer gives up may be what another is about to get.
                let kept: Vec<Prefix> =
                    old.allowed.iter().filter(|one| peer.allowed.contains(one)).copied().collect();
                if kept.len() < old.allowed.len() {
                    changes.push(Change::Update(Update {
                        public_key: *key,
                        endpoint: None,
                        allowed: Some(kept),
                        keepalive: None,
                    }));
                }
                gains.push(Change::Update(update(old, peer)));
            }
        }
    }
    changes.extend(gains);
    changes
}

fn update(old: &Peer, new: &Peer) -> Update {
    Update {
        public_key: new.public_key,
        // An endpoint that is not wanted any more stays: the peer is known to be there.
        endpoint: new.endpoint.filter(|_| new.endpoint != old.endpoint),
        allowed: (new.allowed != old.allowed).then(|| new.allowed.clone()),
        keepalive: (new.keepalive != old.keepalive).then_some(new.keepalive),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> PublicKey {
        PublicKey::from_bytes([number; 32])
    }

    fn peer(number: u8) -> Peer {
        Peer {
            public_key: key(number),
            endpoint: Some(format!("192.0.2.{number}:51820").parse().unwrap()),
            allowed: vec![format!("10.77.0.{number}/32").parse().unwrap()],
            keepalive: None,
        }
    }

    fn list(peers: &[Peer]) -> BTreeMap<PublicKey, Peer> {
        check(&key(255), &["10.77.0.0/16".parse().unwrap()], peers).unwrap()
    }

    fn refusal(peers: &[Peer]) -> String {
        let network = "10.77.0.0/16".parse().unwrap();
        check(&key(255), &[network], peers).unwrap_err().to_string()
    }

    #[test]
    fn an_unchanged_peer_is_not_touched() {
        let before = list(&[peer(1), peer(2)]);
        assert_eq!(changes(&before, &list(&[peer(2), peer(1)])), vec![]);
    }

    #[test]
    fn peers_come_and_go() {
        let steps = changes(&list(&[peer(1)]), &list(&[peer(2)]));
        assert_eq!(steps, vec![Change::Remove(key(1)), Change::Add(peer(2))]);
    }

    #[test]
    fn only_what_changed_is_set_again() {
        let moved = Peer { endpoint: Some("192.0.2.9:1".parse().unwrap()), ..peer(1) };
        let only =
            Update { public_key: key(1), endpoint: moved.endpoint, allowed: None, keepalive: None };
        let steps = changes(&list(&[peer(1)]), &list(&[moved]));
        assert_eq!(steps, vec![Change::Update(only)]);
    }

    #[test]
    fn an_endpoint_that_is_not_wanted_any_more_stays() {
        let steps = changes(&list(&[peer(1)]), &list(&[Peer { endpoint: None, ..peer(1) }]));
        let Change::Update(update) = &steps[0] else { panic!("{steps:?}") };
        assert_eq!(update.endpoint, None);
    }

    #[test]
    fn a_network_that_changes_hands_is_given_up_first() {
        let (mut one, mut two) = (peer(1), peer(2));
        std::mem::swap(&mut one.allowed, &mut two.allowed);
        let steps = changes(&list(&[peer(1), peer(2)]), &list(&[one, two]));
        let allowed: Vec<usize> = steps
            .iter()
            .map(|step| match step {
                Change::Update(update) => update.allowed.as_ref().unwrap().len(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(allowed, vec![0, 0, 1, 1]);
    }

    #[test]
    fn lists_that_wireguard_would_bend_are_refused() {
        assert!(refusal(&[peer(1), peer(1)]).contains("twice"));
        assert!(refusal(&[peer(255)]).contains("this machine's own"));
        let greedy = Peer { allowed: peer(1).allowed, ..peer(2) };
        assert!(refusal(&[peer(1), greedy]).contains("10.77.0.1/32"));
        let outside = Peer { allowed: vec!["0.0.0.0/0".parse().unwrap()], ..peer(1) };
        assert!(refusal(&[outside]).contains("0.0.0.0/0"));
        let hasty = Peer { keepalive: Some(Duration::from_millis(500)), ..peer(1) };
        assert!(refusal(&[hasty]).contains("whole seconds"));
        let many: Vec<Peer> = vec![peer(1); MAX_PEERS + 1];
        assert!(refusal(&many).contains("257"));
    }
}
