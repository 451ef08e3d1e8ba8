//! The state that one machine goes on with alone: after a majority was lost, or from a backup.
//!
//! The epoch is raised, so that nothing that was decided before or elsewhere is ever newer, and all
//! other nodes are removed: one that comes back is told so, and ends. Pure, as `apply` is. Tested
//! in `sim-tests/tests/scenarios/recovery.rs`.

use crate::cluster::admission::Admission;
use crate::cluster::{Cluster, Refusal};
use crate::name::NodeId;
use crate::time::Wall;

use super::apply::missing;

/// Numbers that are not given again, because they may have been given without this state: far more
/// nodes than a cluster has in its life between two backups.
const NUMBERS_SKIPPED: u64 = 1_000;

/// Who goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Survivor {
    /// A node that there was, with what runs on it.
    Node(NodeId),
    /// A new machine, with nothing.
    New(Box<Admission>),
}

impl Cluster {
    /// The state with which the survivor goes on alone, and its number.
    ///
    /// # Errors
    /// When it is no node of this cluster, or none that may lead.
    pub fn recovered(&self, wall: Wall, survivor: &Survivor) -> Result<(Cluster, NodeId), Refusal> {
        let mut next = self.clone();
        next.revision.epoch += 1;
        // Some may have been admitted that this state knows nothing of.
        next.next_node += NUMBERS_SKIPPED;
        let node = match survivor {
            Survivor::Node(node) => *node,
            Survivor::New(admission) => next.take_in(wall, admission),
        };
        let record = next.nodes.get(&node).ok_or_else(|| missing("node", node))?;
        if !record.roles.primary {
            return Err(Refusal::NotPrimary(record.name.clone()));
        }
        let others: Vec<NodeId> = next.nodes.keys().copied().filter(|id| *id != node).collect();
        for other in others {
            next.remove_node(wall, other, true)?;
        }
        // Nobody could join a machine that is in no mesh.
        next.mesh_only &= next.nodes.values().all(|record| next.mesh_address(record).is_some());
        // Whoever holds one may hold it since before.
        next.tokens.clear();
        let revision = next.revision;
        next.history.record(wall, node, format!("the cluster goes on from here, as {revision}"));
        Ok((next, node))
    }
}
