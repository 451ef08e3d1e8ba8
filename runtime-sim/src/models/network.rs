//! Which messages get through, and when. Lost, doubled, late and out of order are all normal.

use std::collections::BTreeSet;

use mill_core::name::NodeId;
use mill_core::rng::Rng;
use mill_core::units::Millis;

/// Links between machines; each direction by itself.
#[derive(Clone, Debug)]
pub struct Network {
    latency: (Millis, Millis),
    loss: u64,
    /// Lost besides, of a thousand, while the network is bad.
    extra_loss: u64,
    /// Directions in which nothing gets through.
    blocked: BTreeSet<(NodeId, NodeId)>,
    rng: Rng,
}

/// Messages that arrive twice, of a thousand.
const DOUBLED: u64 = 5;
/// While the network is bad, one message takes up to this much longer.
const BAD_DELAY: Millis = Millis(2_000);

impl Network {
    /// A network in which nothing is wrong yet.
    pub fn new(latency: (Millis, Millis), loss: u64, rng: Rng) -> Network {
        Network { latency, loss, extra_loss: 0, blocked: BTreeSet::new(), rng }
    }

    /// Whether anything gets through in that direction.
    pub fn open(&self, from: NodeId, to: NodeId) -> bool {
        !self.blocked.contains(&(from, to))
    }

    /// Every direction in which nothing gets through.
    pub(crate) fn blocked(&self) -> &BTreeSet<(NodeId, NodeId)> {
        &self.blocked
    }

    /// Whether they can speak with each other.
    pub fn connected(&self, one: NodeId, other: NodeId) -> bool {
        one == other || (self.open(one, other) && self.open(other, one))
    }

    /// When the copies of a message arrive, from now: none, one or two.
    pub fn carry(&mut self, from: NodeId, to: NodeId) -> Vec<Millis> {
        if !self.open(from, to) || self.rng.chance(self.loss + self.extra_loss) {
            return Vec::new();
        }
        let copies = if self.rng.chance(DOUBLED) { 2 } else { 1 };
        (0..copies).map(|_| self.delay()).collect()
    }

    /// How long one way takes just now.
    pub fn delay(&mut self) -> Millis {
        let bad = self.extra_loss > 0 && self.rng.chance(300);
        let more = if bad { self.rng.below(BAD_DELAY.0) } else { 0 };
        Millis(self.rng.between(self.latency.0.0, self.latency.1.0) + more)
    }

    /// Nothing gets through in that direction.
    pub fn block(&mut self, from: NodeId, to: NodeId) {
        self.blocked.insert((from, to));
    }

    /// That direction works again.
    pub fn unblock(&mut self, from: NodeId, to: NodeId) {
        self.blocked.remove(&(from, to));
    }

    /// How many more messages are lost just now, of a thousand.
    pub(crate) fn extra_loss(&self) -> u64 {
        self.extra_loss
    }

    /// How many more messages are lost, of a thousand; zero when it is good again.
    pub fn set_extra_loss(&mut self, permille: u64) {
        self.extra_loss = permille;
    }
}
