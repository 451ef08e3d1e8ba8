//! Which nodes are heard: silence is judged by the leader's own clock and ears.
//!
//! A node that is silent for a full window is down. Where many fall silent at once, the ears are
//! doubted first: leadership is handed on once, to a node that hears more, it may be. Only nodes
//! that this leader has heard can make it doubt itself, so who receives the lead in such a moment
//! and hears as little goes ahead after its own full window, and nothing goes back and forth.
//! Tested in `sim-tests/tests/scenarios/gray.rs`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Brain, Draft};
use crate::cluster::Revision;
use crate::cluster::alloc::Status;
use crate::cluster::command::Command;
use crate::cluster::node::NodeFacts;
use crate::container::OpError;
use crate::message::ImageReport;
use crate::mutant::{self, Mutant};
use crate::name::{AllocId, NodeId};
use crate::node::Wake;
use crate::time::Mono;
use crate::units::Millis;

/// More than one in this many silent nodes may be the leader's own trouble.
const MANY: usize = 3;
/// Fewer silent nodes than this never are.
const MANY_AT_LEAST: usize = 2;

/// The last that a node said.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Heard {
    pub at: Mono,
    pub seq: u64,
    /// The last entry that it had applied.
    pub revision: Revision,
    pub facts: NodeFacts,
    pub said: Said,
}

/// What a node says of itself beside its facts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Said {
    /// Why its engine cannot be asked, while it cannot.
    pub trouble: Option<OpError>,
    /// Allocs whose status differs from the replicated one.
    pub reports: BTreeMap<AllocId, Status>,
    /// What became of images that it was asked about.
    pub images: BTreeMap<String, ImageReport>,
    /// Peers in the mesh with whom it has a session.
    pub met: BTreeSet<NodeId>,
}

/// What this leader makes of silence.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Silence {
    /// When it began to doubt itself, in the incident that lasts.
    doubted: Option<Mono>,
    /// Nodes that it called down, and when: those of the last window count as silent at once.
    called: BTreeMap<NodeId, Mono>,
}

impl Heard {
    /// Whether there is news in it, beyond being heard.
    pub fn says_other_than(&self, other: &Heard) -> bool {
        self.facts != other.facts || self.said != other.said
    }
}

impl Brain {
    /// Registers nodes, calls the silent ones down and the others up.
    pub(super) fn judge_nodes(&mut self, draft: &mut Draft<'_>) {
        for (node, heard) in &self.heard {
            let Some(known) = draft.cluster.nodes.get(node) else { continue };
            // What a node said before its last start says nothing of it now.
            let outdated = known.facts.boot > heard.facts.boot;
            if !outdated && known.facts != heard.facts {
                let facts = Box::new(heard.facts.clone());
                draft.commands.push(Command::RegisterNode { node: *node, facts });
            }
        }
        let mut silent = Vec::new();
        for (node, record) in &draft.cluster.nodes {
            let silent_at = self.last_heard(*node) + self.timing.down_after;
            let is_silent = silent_at <= draft.now.mono;
            match (record.is_up(), is_silent) {
                (true, true) => silent.push(*node),
                (true, false) => {
                    draft.wake_at(silent_at, Wake::NodeSilent);
                    if self.heard.contains_key(node) {
                        self.watch(draft, *node, record);
                    }
                }
                (false, false) if self.heard.contains_key(node) => {
                    self.silence.called.remove(node);
                    draft.commands.push(Command::SetLiveness { node: *node, up: true });
                }
                (false, _) => {}
            }
        }
        let (now, window) = (draft.now.mono, self.timing.down_after);
        self.silence.called.retain(|_, at| now.since(*at) < window);
        // Who falls silent soon after others belongs to them. Nobody may have looked since those
        // were called down: a window after this leader gave itself one, it is over at the latest.
        let over = |since: &mut Mono| silent.is_empty() || *since + Millis(2 * window.0) <= now;
        if self.silence.called.is_empty() {
            self.silence.doubted.take_if(over);
        }
        if !silent.is_empty() && !self.doubts_itself(draft) {
            self.call_down(draft, &silent);
        }
    }

    fn call_down(&mut self, draft: &mut Draft<'_>, silent: &[NodeId]) {
        for node in silent {
            self.silence.called.insert(*node, draft.now.mono);
            self.up_since.remove(node);
            draft.commands.push(Command::SetLiveness { node: *node, up: false });
        }
    }

    /// A leader that stood still has heard nobody meanwhile: everybody gets a full window anew, as
    /// from a new one. It looks at every heartbeat of its own, so that it notices.
    pub(super) fn stood_still(&mut self, now: Mono) {
        if now.since(self.looked) >= Millis(self.timing.down_after.0 / 2) {
            self.since = now;
        }
        self.looked = now;
    }

    /// When a node was last heard; as if at the beginning, if it never was.
    fn last_heard(&self, node: NodeId) -> Mono {
        let begun = if mutant::is(Mutant::NoWindowAfterElection) { Mono(0) } else { self.since };
        self.heard.get(&node).map_or(begun, |heard| heard.at.max(begun))
    }

    /// Whether the silence of many is still taken for this leader's own trouble.
    fn doubts_itself(&mut self, draft: &mut Draft<'_>) -> bool {
        let now = draft.now.mono;
        if mutant::is(Mutant::MassSilenceBelieved) {
            return false;
        }
        if self.silence.doubted.is_none() && self.hears_too_few(draft) {
            self.silence.doubted = Some(now);
            draft.hand_to = self.heir(draft);
        }
        let Some(since) = self.silence.doubted else { return false };
        // Also if it hears more by now: who is silent yet may be about to be heard as well.
        let until = since + self.timing.down_after;
        if until > now {
            draft.wake_at(until, Wake::NodeSilent);
        }
        until > now
    }

    /// Whether over a third of the nodes that were up fell silent within one window. Who missed
    /// half of the window is counted, too: silence of one cause is not noticed in one moment.
    fn hears_too_few(&self, draft: &Draft<'_>) -> bool {
        let (now, window) = (draft.now.mono, self.timing.down_after);
        let up = draft.cluster.nodes.iter().filter(|(_, record)| record.is_up());
        let missed = |node: NodeId| {
            let heard = self.heard.get(&node);
            heard.is_some_and(|heard| now.since(heard.at) >= Millis(window.0 / 2))
        };
        let missed = up.clone().filter(|(node, _)| missed(**node)).count();
        let called = self.silence.called.keys();
        let called = called.filter(|node| !draft.cluster.is_up(**node)).count();
        let (silent, were_up) = (missed + called, up.count() + called);
        silent >= MANY_AT_LEAST && silent * MANY > were_up
    }

    /// Who should lead instead: a voter that was heard within a third of the window, the lowest.
    fn heir(&self, draft: &Draft<'_>) -> Option<NodeId> {
        let (now, lately) = (draft.now.mono, Millis(self.timing.down_after.0 / 3));
        let others = self.heard.iter().filter(|(node, _)| **node != self.me);
        let mut others = others.filter(|(node, _)| self.voters.contains(node));
        let heir = others
            .find(|(node, heard)| draft.cluster.is_up(**node) && now.since(heard.at) <= lately);
        heir.map(|(node, _)| *node)
    }
}
