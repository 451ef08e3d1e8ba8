//! What each leader has heard since it leads, by its own clock: what its judgement of nodes is
//! held to. No invariant itself; `calm` and `members` ask it.

use std::collections::BTreeMap;

use mill_core::event::Leadership;
use mill_core::message::Message;
use mill_core::name::NodeId;
use mill_core::time::Mono;
use mill_core::units::Millis;

use super::Moment;

/// The ears of every node that believes to lead.
#[derive(Default)]
pub(super) struct Listening(BTreeMap<NodeId, Ears>);

/// What one leader has heard.
pub(super) struct Ears {
    /// Since when it leads.
    pub since: Mono,
    heard: BTreeMap<NodeId, Heard>,
    /// When a node was heard again that had been silent for half a window.
    pub relieved: Option<Mono>,
}

/// The latest heartbeat of a node.
#[derive(Clone, Copy)]
pub(super) struct Heard {
    boot: u64,
    seq: u64,
    /// When it came.
    pub at: Mono,
}

impl Listening {
    /// Takes note of who leads and what is heard.
    pub fn observe(&mut self, moment: &Moment<'_>, window: Millis) {
        match moment {
            Moment::Belief { node, belief: Leadership::Leader { .. }, at } => {
                let ears = Ears { since: *at, heard: BTreeMap::new(), relieved: None };
                self.0.insert(*node, ears);
            }
            Moment::Belief { node, belief: Leadership::Follower { .. }, .. } => {
                self.0.remove(node);
            }
            Moment::Heard { by, from, message, at } => {
                if let Some(ears) = self.0.get_mut(by) {
                    ears.hear(*from, message, *at, window);
                }
            }
            Moment::Effect { .. } | Moment::Committed { .. } | Moment::Agreed { .. } => {}
            Moment::State { .. }
            | Moment::Unanswered { .. }
            | Moment::Answer { .. }
            | Moment::Host { .. }
            | Moment::Validation { .. } => {}
        }
    }

    /// What a node has heard, if it believes to lead.
    pub fn of(&self, leader: NodeId) -> Option<&Ears> {
        self.0.get(&leader)
    }
}

impl Ears {
    fn hear(&mut self, from: NodeId, message: &Message, at: Mono, window: Millis) {
        let Message::Heartbeat { seq, facts, .. } = message else { return };
        let known = self.heard.get(&from);
        // One that comes late or twice says nothing of now.
        if known.is_some_and(|known| (known.boot, known.seq) >= (facts.boot, *seq)) {
            return;
        }
        if known.is_some_and(|known| at.since(known.at) >= Millis(window.0 / 2)) {
            self.relieved = Some(at);
        }
        let heard = Heard { boot: facts.boot, seq: *seq, at };
        self.heard.insert(from, heard);
    }

    /// The latest of a node.
    pub fn heard(&self, node: NodeId) -> Option<Heard> {
        self.heard.get(&node).copied()
    }

    /// For how long a node has been silent, since this leader leads.
    pub fn silence(&self, node: NodeId, now: Mono) -> Millis {
        now.since(self.heard(node).map_or(self.since, |heard| heard.at))
    }
}
