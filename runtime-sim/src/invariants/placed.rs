//! What is placed suits its node: that takes something new, has the labels that are required, is
//! trusted or had the slot before, and is the right one where each node has a slot of its own.

use mill_core::cluster::Cluster;
use mill_core::cluster::command::Command;
use mill_core::cluster::node::Trust;
use mill_core::config::model::Replicas;
use mill_core::name::{AllocId, NodeId, Slot};

use super::{Invariant, Moment};

/// Looks at everything that was placed.
pub(super) struct Placed;

impl Invariant for Placed {
    fn name(&self) -> &'static str {
        "placed"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Committed { before, entry, after, .. } = moment else { return Ok(()) };
        for command in &entry.commands {
            let Command::Place { alloc, slot, node, template, .. } = command else { continue };
            // It may be refused.
            if !before.allocs.contains_key(alloc) && after.allocs.contains_key(alloc) {
                suits(after, (alloc, slot), *node, *template)?;
                is_trusted(before, after, slot, *node)?;
            }
        }
        Ok(())
    }
}

fn suits(
    after: &Cluster,
    (alloc, slot): (&AllocId, &Slot),
    node: NodeId,
    template: u64,
) -> Result<(), String> {
    let Some(record) = after.nodes.get(&node).filter(|record| record.takes_new()) else {
        return Err(format!("{alloc} was placed on {node}, which takes nothing new"));
    };
    let service = after.services.get(&slot.service);
    let Some(version) = service.and_then(|service| service.versions.get(&template)) else {
        return Err(format!("{alloc} was placed of a version that is not known"));
    };
    let mut required = version.spec.place.require.iter();
    if let Some((label, value)) =
        required.find(|(key, value)| record.labels.get(*key) != Some(*value))
    {
        return Err(format!("{alloc} was placed on {node}, which has no label {label}={value}"));
    }
    let wanted = after.wanted_version(&slot.service);
    let each_node = wanted.is_some_and(|wanted| wanted.spec.replicas == Replicas::EachNode);
    if each_node && slot.index != node.0 {
        return Err(format!("{alloc} was placed on {node}, and is the slot of another node"));
    }
    Ok(())
}

/// Who came and went too often gets nothing that it had not before.
fn is_trusted(before: &Cluster, after: &Cluster, slot: &Slot, node: NodeId) -> Result<(), String> {
    let watched = |cluster: &Cluster| {
        let trust = cluster.nodes.get(&node).map(|record| record.trust);
        trust.is_some_and(|trust| match trust {
            Trust::Full => false,
            Trust::Watched => true,
        })
    };
    let had = |(_, alloc): (_, &mill_core::cluster::alloc::Alloc)| {
        alloc.slot == *slot && alloc.node == node
    };
    let own = slot.index == node.0 || before.allocs_of(&slot.service).any(had);
    if watched(before) && watched(after) && !own {
        return Err(format!("{slot} was placed on {node}, which comes and goes"));
    }
    Ok(())
}
