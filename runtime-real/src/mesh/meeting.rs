//! Whom this node has met in the mesh, from what its interface says about itself. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mill_core::name::NodeId;
use mill_mesh::{PeerStatus, PublicKey, Status};

/// A session cannot be used for longer after its handshake (WireGuard's paper, 6.1).
const SESSION_ENDS: Duration = Duration::from_secs(180);
/// Both sides speak every 25 s; who is not heard for longer than that, while spoken to, is not met.
const UNANSWERED: Duration = Duration::from_secs(30);
/// Who is still not met is named again so much later.
const AGAIN: Duration = Duration::from_secs(5);

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Meeting {
    seen: BTreeMap<PublicKey, Seen>,
    told: Option<(Met, Duration)>,
    /// When this node's key was replaced last: sessions from before are none.
    rotated: Duration,
}

/// Who is met, and who is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Met {
    pub(super) met: BTreeSet<NodeId>,
    pub(super) unmet: BTreeSet<NodeId>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    received: u64,
    /// What had been sent by the time that something was received last.
    sent: u64,
    /// Since when something is sent and nothing received.
    unanswered: Option<Duration>,
}

impl Meeting {
    /// This node has another key, from that moment on.
    pub(super) fn rotated(&mut self, now: Duration) {
        self.rotated = now;
        self.seen.clear();
    }

    /// Looks again; says who is met, if that is to be told.
    pub(super) fn look(
        &mut self,
        status: &Status,
        nodes: &BTreeMap<PublicKey, NodeId>,
    ) -> Option<Met> {
        let mut now = Met::default();
        for (key, node) in nodes {
            let peer = status.peers.iter().find(|peer| peer.public_key == *key);
            match peer.is_some_and(|peer| self.is_met(peer, status.at)) {
                true => now.met.insert(*node),
                false => now.unmet.insert(*node),
            };
        }
        self.seen.retain(|key, _| nodes.contains_key(key));
        let known = self.told.as_ref().is_some_and(|(told, at)| {
            *told == now && (now.unmet.is_empty() || *at + AGAIN > status.at)
        });
        if known {
            return None;
        }
        self.told = Some((now.clone(), status.at));
        Some(now)
    }

    fn is_met(&mut self, peer: &PeerStatus, now: Duration) -> bool {
        let (received, sent) = (peer.received_bytes, peer.sent_bytes);
        let fresh = Seen { received, sent, unanswered: None };
        let seen = self.seen.entry(peer.public_key).or_insert(fresh);
        if seen.received != received {
            *seen = fresh;
        } else if sent > seen.sent {
            seen.unanswered.get_or_insert(now);
        }
        let unanswered = seen.unanswered.is_some_and(|since| since + UNANSWERED <= now);
        let since = |age: Duration| now.saturating_sub(age);
        let met = |age| age < SESSION_ENDS && since(age) >= self.rotated;
        !unanswered && peer.handshake_age.is_some_and(met)
    }
}

#[cfg(test)]
mod tests {
    use mill_mesh::{Kind, Underlay};

    use super::*;

    const KEY: PublicKey = PublicKey::from_bytes([1; 32]);

    fn status(at: u64, handshake: Option<u64>, (sent, received): (u64, u64)) -> Status {
        let peer = PeerStatus {
            public_key: KEY,
            endpoint: None,
            handshake_age: handshake.map(Duration::from_secs),
            sent_bytes: sent,
            received_bytes: received,
            configured_for: Duration::from_secs(at),
            underlay: Underlay::Unknown,
        };
        Status {
            at: Duration::from_secs(at),
            interface: "mill1".to_owned(),
            kind: Kind::Userspace,
            public_key: PublicKey::from_bytes([9; 32]),
            is_up: true,
            listen_port: 7400,
            mtu: 1420,
            strangers: None,
            peers: vec![peer],
        }
    }

    fn nodes() -> BTreeMap<PublicKey, NodeId> {
        BTreeMap::from([(KEY, NodeId(2))])
    }

    fn unmet() -> Option<Met> {
        Some(Met { unmet: BTreeSet::from([NodeId(2)]), ..Met::default() })
    }

    fn met() -> Option<Met> {
        Some(Met { met: BTreeSet::from([NodeId(2)]), ..Met::default() })
    }

    #[test]
    fn who_was_never_met_is_named_at_once_and_again_after_a_while() {
        let mut meeting = Meeting::default();
        let told = (0..=5).map(|at| meeting.look(&status(at, None, (0, 0)), &nodes()));
        assert_eq!(told.collect::<Vec<_>>(), [unmet(), None, None, None, None, unmet()]);
        assert_eq!(meeting.look(&status(6, Some(1), (1, 1)), &nodes()), met());
        assert_eq!(meeting.look(&status(100, Some(95), (1, 1)), &nodes()), None);
    }

    #[test]
    fn a_session_that_has_ended_is_none() {
        let mut meeting = Meeting::default();
        assert_eq!(meeting.look(&status(0, Some(179), (1, 1)), &nodes()), met());
        assert_eq!(meeting.look(&status(1, Some(180), (1, 1)), &nodes()), unmet());
    }

    #[test]
    fn nobody_is_met_by_a_key_that_was_replaced() {
        let mut meeting = Meeting::default();
        assert_eq!(meeting.look(&status(20, Some(5), (1, 1)), &nodes()), met());
        meeting.rotated(Duration::from_secs(21));
        assert_eq!(meeting.look(&status(22, Some(7), (1, 1)), &nodes()), unmet());
        assert_eq!(meeting.look(&status(24, Some(1), (2, 2)), &nodes()), met());
    }

    #[test]
    fn who_does_not_answer_for_longer_than_both_are_silent_is_not_met() {
        let mut meeting = Meeting::default();
        let looks = [(0, 10, 10), (1, 20, 10), (20, 30, 10), (30, 30, 10), (31, 30, 10)];
        let told = looks.map(|(at, sent, received)| {
            meeting.look(&status(at, Some(at), (sent, received)), &nodes())
        });
        assert_eq!(told, [met(), None, None, None, unmet()]);
        let heard = meeting.look(&status(32, Some(32), (30, 20)), &nodes());
        assert_eq!(heard, met());
    }
}
