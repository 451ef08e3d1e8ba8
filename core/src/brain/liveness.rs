//! Which nodes are heard: silence is judged by the leader's own clock and ears.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Brain, Draft};
use crate::cluster::Revision;
use crate::cluster::alloc::Status;
use crate::cluster::command::Command;
use crate::cluster::node::NodeFacts;
use crate::container::OpError;
use crate::message::ImageReport;
use crate::name::AllocId;
use crate::node::Wake;
use crate::time::Mono;

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
}

impl Heard {
    /// Whether there is news in it, beyond being heard.
    pub fn says_other_than(&self, other: &Heard) -> bool {
        self.facts != other.facts || self.said != other.said
    }
}

impl Brain {
    /// Registers nodes, calls the silent ones down and the others up.
    pub(super) fn judge_nodes(&self, draft: &mut Draft<'_>) {
        for (node, heard) in &self.heard {
            let Some(known) = draft.cluster.nodes.get(node) else { continue };
            // What a node said before its last start says nothing of it now.
            let outdated = known.facts.boot > heard.facts.boot;
            if !outdated && known.facts != heard.facts {
                let facts = Box::new(heard.facts.clone());
                draft.commands.push(Command::RegisterNode { node: *node, facts });
            }
        }
        for (node, record) in &draft.cluster.nodes {
            let last = self.heard.get(node).map_or(self.since, |heard| heard.at);
            let silent_at = last + self.timing.down_after;
            let heard = self.heard.contains_key(node) && silent_at > draft.now.mono;
            if heard && !record.is_up() {
                draft.commands.push(Command::SetLiveness { node: *node, up: true });
            } else if record.is_up() && silent_at <= draft.now.mono {
                draft.commands.push(Command::SetLiveness { node: *node, up: false });
            }
            if record.is_up() && silent_at > draft.now.mono {
                draft.wake_at(silent_at, Wake::NodeSilent);
            }
        }
    }
}
