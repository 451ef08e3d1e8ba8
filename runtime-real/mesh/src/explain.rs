//! Why a handshake does not happen, and what to do about it.
//!
//! A pure function from what an interface says about itself, for `mill doctor`. It looks at one
//! side only: what the other side sees would often settle it, so the words say where to look next.

use std::fmt;
use std::time::Duration;

use crate::keys::PublicKey;
use crate::status::{PeerStatus, Status, Strangers, Underlay};

/// A session is renewed after 120 s and unusable after 180 s (WireGuard's paper, 6.1), so an older
/// handshake means that there is none.
const SESSION_ENDS: Duration = Duration::from_secs(180);
/// A handshake is tried every 5 s; so long without an answer is not an accident.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that WireGuard adds on an IPv6 underlay.
const OVERHEAD: u32 = 80;

/// What keeps a peer, or the interface, from working.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// The peer; none if it concerns the whole interface.
    pub peer: Option<PublicKey>,
    /// What is the case, in a sentence.
    pub reason: String,
    /// What to do, in a sentence.
    pub advice: String,
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(peer) = self.peer {
            write!(f, "peer {peer}: ")?;
        }
        write!(f, "{}; {}", self.reason, self.advice)
    }
}

/// What is wrong, at `now` on the clock of [`crate::Mesh::now`]. Empty if all is well or idle.
pub fn explain(status: &Status, now: Duration) -> Vec<Diagnosis> {
    let passed = now.saturating_sub(status.at);
    let mut found = Vec::new();
    if !status.is_up {
        found.push(Diagnosis {
            peer: None,
            reason: format!("the interface {} was taken down", status.interface),
            advice: "restart mill, which brings it up with its addresses and routes".to_owned(),
        });
    }
    for peer in &status.peers {
        found.extend(handshake(status, peer, passed));
        found.extend(size(status, peer));
    }
    found.extend(keys(status));
    found
}

/// The one likeliest reason why there is no session, the surest first.
fn handshake(status: &Status, peer: &PeerStatus, passed: Duration) -> Option<Diagnosis> {
    let age = peer.handshake_age.map(|age| age + passed);
    if age.is_some_and(|age| age < SESSION_ENDS) {
        return None;
    }
    let (reason, advice) = match (&peer.underlay, peer.endpoint, age) {
        (Underlay::Refused { reason }, Some(endpoint), _) => (
            format!("this machine cannot send to {endpoint}: {reason}"),
            "check the address, `ip route get` for it, and firewall rules for outgoing UDP"
                .to_owned(),
        ),
        (_, None, _) => (
            "its endpoint is not known here, and it has not reached this machine".to_owned(),
            format!(
                "give it an endpoint, or let it connect: it needs this machine's address and UDP \
                 port {} open here",
                status.listen_port
            ),
        ),
        (_, Some(_), _) if peer.sent_bytes == 0 => return None,
        (_, Some(_), None) if peer.configured_for + passed < PATIENCE => return None,
        (_, Some(endpoint), None) if peer.received_bytes == 0 => (
            format!("nothing that was sent to {endpoint} was ever answered"),
            format!(
                "see that it runs there, that firewalls and cloud rules let UDP port {} in, and \
                 that it knows this machine's key {}; the clocks need not agree, but \
                 a clock here that was set back is refused until it has caught up",
                endpoint.port(),
                status.public_key
            ),
        ),
        (_, Some(endpoint), None) => (
            format!("datagrams come from {endpoint}, but no handshake was completed"),
            "a firewall may drop one direction: see that UDP passes both ways".to_owned(),
        ),
        (_, Some(endpoint), Some(age)) => (
            format!("it was last heard {} ago at {endpoint}", words(age)),
            "if nothing was sent since, that is normal; otherwise it is down, has moved or has a \
             new key, or a NAT between has forgotten it: see it there, and use a keepalive of 25 s"
                .to_owned(),
        ),
    };
    Some(Diagnosis { peer: Some(peer.public_key), reason, advice })
}

/// Whether full packets fit through the interface towards the peer.
fn size(status: &Status, peer: &PeerStatus) -> Option<Diagnosis> {
    let Underlay::Routed { interface, mtu } = &peer.underlay else { return None };
    let needed = status.mtu + OVERHEAD;
    // With IPv4 below, 20 bytes less are needed.
    let needed = if peer.endpoint.is_some_and(|to| to.is_ipv4()) { needed - 20 } else { needed };
    if *mtu >= needed {
        return None;
    }
    Some(Diagnosis {
        peer: Some(peer.public_key),
        reason: format!(
            "packets of the mesh are up to {} bytes, but {interface} towards it takes {mtu} and {} \
             are needed, so large ones are fragmented or lost",
            status.mtu, needed
        ),
        advice: format!("set the mesh's MTU to {} on every node", mtu.saturating_sub(OVERHEAD)),
    })
}

/// Handshakes that arrived and led to nothing, if some peer has none.
fn keys(status: &Status) -> Vec<Diagnosis> {
    let Strangers { wrong_key, unknown } = status.strangers.unwrap_or_default();
    let is_one_missing = status.peers.iter().any(|peer| peer.handshake_age.is_none());
    let mut found = Vec::new();
    if !is_one_missing && !status.peers.is_empty() {
        return found;
    }
    if wrong_key > 0 {
        found.push(Diagnosis {
            peer: None,
            reason: format!(
                "{wrong_key} handshakes arrived that were made for another key than this \
                 machine's, {}",
                status.public_key
            ),
            advice: "a peer knows an old key of this machine: see its list of peers".to_owned(),
        });
    }
    if unknown > 0 {
        found.push(Diagnosis {
            peer: None,
            reason: format!("{unknown} handshakes arrived from keys that are no peers here"),
            advice: "a peer has a new key that this machine does not know, or was removed"
                .to_owned(),
        });
    }
    found
}

fn words(age: Duration) -> String {
    match age.as_secs() {
        seconds if seconds < 120 => format!("{seconds} s"),
        seconds if seconds < 7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Kind;

    /// A peer that was met 10 s ago and is well.
    fn well() -> PeerStatus {
        PeerStatus {
            public_key: PublicKey::from_bytes([1; 32]),
            endpoint: Some("192.0.2.1:51820".parse().unwrap()),
            handshake_age: Some(Duration::from_secs(10)),
            sent_bytes: 1000,
            received_bytes: 1000,
            configured_for: Duration::from_secs(60),
            underlay: Underlay::Routed { interface: "eth0".to_owned(), mtu: 1500 },
        }
    }

    fn never() -> PeerStatus {
        PeerStatus { handshake_age: None, received_bytes: 0, ..well() }
    }

    fn status(peer: PeerStatus) -> Status {
        Status {
            at: Duration::from_secs(60),
            interface: "mill0".to_owned(),
            kind: Kind::Userspace,
            public_key: PublicKey::from_bytes([9; 32]),
            is_up: true,
            listen_port: 51_820,
            mtu: 1420,
            strangers: Some(Strangers::default()),
            peers: vec![peer],
        }
    }

    fn words(status: &Status) -> String {
        let found = explain(status, status.at);
        found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn each_state_of_a_peer_has_its_reason_and_its_advice() {
        let refused = Underlay::Refused { reason: "Network is unreachable".to_owned() };
        let small = Underlay::Routed { interface: "vlan7".to_owned(), mtu: 1400 };
        for (what, peer, expected) in [
            ("well", well(), vec![]),
            ("idle", PeerStatus { sent_bytes: 0, ..never() }, vec![]),
            (
                "just added",
                PeerStatus { configured_for: Duration::from_secs(2), ..never() },
                vec![],
            ),
            (
                "no route",
                PeerStatus { underlay: refused, ..never() },
                vec!["Network is unreachable", "ip route get"],
            ),
            (
                "no endpoint",
                PeerStatus { endpoint: None, underlay: Underlay::Unknown, ..never() },
                vec!["endpoint is not known", "port 51820 open here"],
            ),
            ("no answer", never(), vec!["was ever answered", "UDP port 51820", "clocks need not"]),
            (
                "half open",
                PeerStatus { received_bytes: 92, ..never() },
                vec!["no handshake was completed", "one direction"],
            ),
            (
                "silent since",
                PeerStatus { handshake_age: Some(Duration::from_secs(3600)), ..well() },
                vec!["last heard 60 min ago", "keepalive of 25 s"],
            ),
            (
                "small underlay",
                PeerStatus { underlay: small, ..well() },
                vec!["vlan7 towards it takes 1400 and 1480", "MTU to 1320"],
            ),
        ] {
            let said = words(&status(peer));
            assert_eq!(said.is_empty(), expected.is_empty(), "{what}: {said}");
            for part in expected {
                assert!(said.contains(part), "{what}: {said}");
            }
        }
    }

    #[test]
    fn an_interface_that_is_down_is_said_first() {
        let down = Status { is_up: false, ..status(never()) };
        assert!(words(&down).starts_with("the interface mill0 was taken down"));
    }

    #[test]
    fn time_that_passed_since_the_status_counts() {
        let status = status(well());
        assert_eq!(explain(&status, status.at + Duration::from_secs(60)), vec![]);
        assert_eq!(explain(&status, status.at + Duration::from_secs(180)).len(), 1);
    }

    #[test]
    fn handshakes_of_strangers_matter_while_a_peer_is_missing() {
        let strangers = Some(Strangers { wrong_key: 3, unknown: 2 });
        let missing = Status { strangers, ..status(never()) };
        let said = words(&missing);
        assert!(said.contains("3 handshakes") && said.contains("2 handshakes"), "{said}");
        // Anybody can send such datagrams; with all peers met they are noise.
        assert_eq!(words(&Status { strangers, ..status(well()) }), "");
    }
}
