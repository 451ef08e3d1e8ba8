//! Faults of machines that are half there. What each does to consensus is what Raft would do.
//!
//! - Into the leader: its messages arrive, nothing comes back. Without answers of a quorum it is
//!   deposed; with them it leads on and does not hear the others' heartbeats.
//! - A mute follower takes in what is committed and never answers: the quorum is found elsewhere.
//! - A slow disk at the leader: it leads on, since it beats in time, and commits late.
//! - A flapping node is cut off and back, several times; half of the nodes fall silent at once.

use mill_core::name::NodeId;
use mill_core::rng::Rng;
use mill_core::units::Millis;

use super::faults::{Fault, FaultKind};
use super::{Happening, World};

/// How long the leader's disk takes for an entry while it is slow: lowest and highest.
pub(super) const SLOW_SYNC: (Millis, Millis) = (Millis(1_000), Millis(20_000));

impl World {
    /// What exactly, and for how long; `None` where it cannot be.
    pub(super) fn draw_gray(&mut self, kind: FaultKind, node: NodeId) -> Option<(Fault, Millis)> {
        let others = |node: NodeId, all: u64| (1..=all).map(NodeId).filter(move |o| *o != node);
        let (nodes, leader) = (self.params.nodes, self.log.leader);
        let quorum = (self.log.voters().len() / 2 + 1) as u64;
        let rng = &mut self.faults.rng;
        if nodes == 1 && kind != FaultKind::SlowDisk {
            return None;
        }
        Some(match kind {
            FaultKind::DeafLeader => {
                let leader = leader?;
                // All links, or those that no quorum needs.
                let spared = if rng.chance(500) { 0 } else { quorum };
                let deaf_to = others(leader, nodes).filter(|node| node.0 > spared);
                let links = deaf_to.map(|node| (node, leader)).collect();
                (Fault::Blocked(links), length(rng, 9_000, 40_000))
            }
            FaultKind::MuteFollower => {
                let links = others(node, nodes).map(|other| (node, other)).collect();
                (Fault::Blocked(links), length(rng, 5_000, 60_000))
            }
            FaultKind::HalfSilent => {
                let first = rng.below(nodes);
                let half: Vec<NodeId> =
                    (0..nodes / 2).map(|step| NodeId((first + step) % nodes + 1)).collect();
                let both_ways = rng.chance(500);
                let mut links = Vec::new();
                for silent in &half {
                    for other in others(*silent, nodes).filter(|other| !half.contains(other)) {
                        links.push((*silent, other));
                        links.extend(both_ways.then_some((other, *silent)));
                    }
                }
                (Fault::Blocked(links), length(rng, 9_000, 40_000))
            }
            FaultKind::Flapping => {
                let rounds = rng.between(2, 5);
                (Fault::Flapping(node, rounds), length(rng, 9_000, 15_000))
            }
            FaultKind::SlowDisk => {
                let slow = leader.unwrap_or(node);
                (Fault::SlowDisk(slow), length(rng, 5_000, 60_000))
            }
            FaultKind::Crash | FaultKind::PowerOff | FaultKind::Freeze => return None,
            FaultKind::Partition | FaultKind::OneWay | FaultKind::BadNetwork => return None,
            FaultKind::Depose | FaultKind::Lag | FaultKind::Snapshot => return None,
            FaultKind::ClockJump | FaultKind::ClockDrift | FaultKind::EngineDown => return None,
            FaultKind::DiskFull
            | FaultKind::RegistryDown
            | FaultKind::TakePort
            | FaultKind::Stop
            | FaultKind::Drain
            | FaultKind::RotateKey
            | FaultKind::OutsideClosed
            | FaultKind::Replace => return None,
            FaultKind::KillContainer | FaultKind::RemoveContainer => return None,
            FaultKind::SickContainer => return None,
        })
    }

    /// Every link of a node, in both directions.
    pub(crate) fn links_of(&self, node: NodeId) -> Vec<(NodeId, NodeId)> {
        let others = self.hosts.keys().copied().filter(|other| *other != node);
        others.flat_map(|other| [(node, other), (other, node)]).collect()
    }

    /// A flapping node is back for a while, until it is cut off again.
    pub(super) fn flap_again(&mut self, node: NodeId, rounds: u64) {
        if rounds > 1 && self.in_turmoil() {
            let rng = &mut self.faults.rng;
            let (back, away) = (length(rng, 2_000, 12_000), length(rng, 9_000, 15_000));
            let (back, away) = (self.ground.lasts(back), self.ground.lasts(away));
            let fault = Fault::Flapping(node, rounds - 1);
            self.after(back, Happening::Begin { fault, length: away });
        }
    }
}

fn length(rng: &mut Rng, low: u64, high: u64) -> Millis {
    Millis(rng.between(low, high))
}
