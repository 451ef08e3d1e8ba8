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
                 that it knows this machine's key {}; the clocks need not agree",
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
