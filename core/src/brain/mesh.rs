//! When nodes that were there before the mesh speak through nothing else.

use super::{Brain, Draft};
use crate::cluster::command::Command;
use crate::cluster::node::NodeRecord;
use crate::mutant::{self, Mutant};
use crate::name::NodeId;

impl Brain {
    /// Moves the cluster into the mesh, once every member is heard and says that it has met all
    /// others there: nobody is left outside.
    pub(super) fn use_mesh(&self, draft: &mut Draft<'_>) {
        let cluster = draft.cluster;
        if cluster.mesh_only || cluster.id.is_none() {
            return;
        }
        let has_met_all = |node: &NodeId| {
            let Some(heard) = self.heard.get(node) else { return false };
            let mut others = cluster.nodes.keys().filter(|other| *other != node);
            others.all(|other| heard.said.met.contains(other)) || mutant::is(Mutant::MeshUsedUnmet)
        };
        let is_inside = |(node, record): (&NodeId, &NodeRecord)| {
            record.is_up() && cluster.mesh_address(record).is_some() && has_met_all(node)
        };
        if cluster.nodes.iter().all(is_inside) {
            draft.commands.push(Command::UseMesh);
        }
    }
}
