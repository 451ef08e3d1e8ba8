//! What only the cluster can say of a project: names that are taken, sizes that no node has.

use crate::cluster::Cluster;
use crate::config::model::{Project, ServiceSpec};
use crate::name::Name;

/// Every reason why `project` could not be deployed to `cluster`, as sentences.
pub fn check(cluster: &Cluster, project: &Project) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, spec) in &project.services {
        if let Some(known) = cluster.services.get(name)
            && known.project != project.name
        {
            problems.push(format!(
                "service `{name}` belongs to project `{}`; names are unique in the cluster, choose \
                 another",
                known.project
            ));
        }
        problems.extend(too_large(cluster, name, spec));
        problems.extend(unknown_labels(cluster, name, spec));
    }
    problems
}

/// A replica that would not even fit on an empty node.
fn too_large(cluster: &Cluster, name: &Name, spec: &ServiceSpec) -> Option<String> {
    let (cpu, memory) = (spec.container.reserved_cpu(), spec.container.reserved_memory());
    let capacities = || cluster.nodes.values().map(|node| node.facts.capacity);
    if capacities().any(|node| node.cpu >= cpu && node.memory >= memory) || cluster.nodes.is_empty()
    {
        return None;
    }
    let largest_cpu = capacities().map(|node| node.cpu).max()?;
    let largest_memory = capacities().map(|node| node.memory).max()?;
    Some(format!(
        "service `{name}` wants {cpu} cores and {memory} memory for each replica, and no node has \
         that; the largest have {largest_cpu} cores and {largest_memory}"
    ))
}

/// Labels that no node has, up or down.
fn unknown_labels(cluster: &Cluster, name: &Name, spec: &ServiceSpec) -> Option<String> {
    let lacking = spec.place.require.iter().find(|(key, value)| {
        !cluster.nodes.values().any(|node| node.labels.get(*key) == Some(value))
    });
    let (key, value) = lacking.filter(|_| !cluster.nodes.is_empty())?;
    Some(format!(
        "service `{name}` requires nodes with {key} = \"{value}\", and no node has that label"
    ))
}
