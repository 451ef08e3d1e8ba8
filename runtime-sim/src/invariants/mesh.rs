//! Addresses in the mesh are of one node each, and nodes that speak through nothing else go on so, but
//! for one that is alone.

use std::collections::BTreeMap;

use mill_core::cluster::Cluster;

use super::{Invariant, Moment};

/// Looks at each entry.
#[derive(Default)]
pub(super) struct Mesh;

impl Invariant for Mesh {
    fn name(&self) -> &'static str {
        "mesh"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Committed { before, after, .. } = moment else { return Ok(()) };
        if before.mesh_only && !after.mesh_only && after.nodes.len() > 1 {
            return Err("nodes speak outside the mesh again".to_owned());
        }
        one_each(after)?;
        stays(before, after)
    }
}

fn one_each(cluster: &Cluster) -> Result<(), String> {
    let mut owners = BTreeMap::new();
    for (node, record) in &cluster.nodes {
        match cluster.mesh_address(record) {
            Some(address) => {
                if let Some(other) = owners.insert(address, node) {
                    return Err(format!("{address} is the address of {other} and of {node}"));
                }
            }
            None if record.facts.mesh.is_some() => {
                return Err(format!("{node} is in the mesh and has no address"));
            }
            None => {}
        }
    }
    Ok(())
}

/// A node keeps its address for as long as it is a member.
fn stays(before: &Cluster, after: &Cluster) -> Result<(), String> {
    for (node, record) in before.nodes.iter().filter(|(_, record)| record.address != 0) {
        let now = after.nodes.get(node).map(|now| now.address);
        if now.is_some_and(|now| now != record.address) {
            return Err(format!("{node} has another address in the mesh than before"));
        }
    }
    Ok(())
}
