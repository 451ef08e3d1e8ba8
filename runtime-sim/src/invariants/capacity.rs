//! No port of a node is given twice, and no node is promised more than it has.

use std::collections::BTreeMap;

use mill_core::cluster::Cluster;
use mill_core::cluster::command::Command;
use mill_core::name::NodeId;

use super::{Invariant, Moment};

/// Looks at every node that something was placed on.
pub(super) struct Capacity;

impl Invariant for Capacity {
    fn name(&self) -> &'static str {
        "capacity"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Committed { entry, after, .. } = moment else { return Ok(()) };
        for command in &entry.commands {
            if let Command::Place { node, .. } = command {
                check(after, *node)?;
            }
        }
        Ok(())
    }
}

fn check(cluster: &Cluster, node: NodeId) -> Result<(), String> {
    let Some(record) = cluster.nodes.get(&node) else {
        // Placing something there is refused, once it was removed.
        let live = cluster.allocs_on(node).find(|(_, alloc)| alloc.is_live());
        return match live {
            Some((id, _)) => Err(format!("{id} is on {node}, which is no member")),
            None => Ok(()),
        };
    };
    let (mut cpu, mut memory, mut ports) = (0, 0, BTreeMap::new());
    for (id, alloc) in cluster.allocs_on(node).filter(|(_, alloc)| alloc.is_live()) {
        cpu += alloc.cpu.0;
        memory += alloc.memory.0;
        if let Some(port) = alloc.port
            && let Some(other) = ports.insert(port, id)
        {
            return Err(format!("port {port} of {node} is given to {other} and {id}"));
        }
    }
    let has = record.facts.capacity;
    if cpu > has.cpu.0 || memory > has.memory.0 {
        return Err(format!("{node} is promised more than it has"));
    }
    Ok(())
}
