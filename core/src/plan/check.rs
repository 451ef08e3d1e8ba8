//! What only the cluster can say of a project: names that are taken, sizes that no node has; what
//! its routes and ports take from others is in `ports`.

use crate::cluster::Cluster;
use crate::config::model::{ContainerSpec, PlaceSpec, Project};
use crate::name::Name;
use crate::plan::ports;

/// Every reason why `project` could not be deployed to `cluster`, as sentences.
pub fn check(cluster: &Cluster, project: &Project) -> Vec<String> {
    let mut problems = Vec::new();
    let services = project.services.iter();
    let services = services.map(|(name, spec)| ("service", name, &spec.container, &spec.place));
    let tasks = project.tasks.iter();
    let tasks = tasks.map(|(name, spec)| ("task", name, &spec.container, &spec.place));
    for (what, name, container, place) in services.chain(tasks) {
        problems.extend(taken(cluster, &project.name, what, name));
        problems.extend(too_large(cluster, what, name, container));
        problems.extend(unknown_labels(cluster, what, name, place));
    }
    problems.extend(ports::check(cluster, project));
    for (name, spec) in &project.services {
        if let Some(task) = spec.before.as_ref().filter(|task| !project.tasks.contains_key(*task)) {
            problems.push(format!(
                "service `{name}` is to wait for task `{task}`, and the project has no such task"
            ));
        }
    }
    problems
}

/// A name that another project has, or something of another kind in this one.
fn taken(cluster: &Cluster, project: &Name, what: &str, name: &Name) -> Option<String> {
    let service = cluster.services.get(name).map(|service| ("service", &service.project));
    let task = cluster.tasks.get(name).map(|task| ("task", &task.project));
    let (kind, owner) = service.or(task)?;
    if owner != project {
        return Some(format!(
            "{kind} `{name}` belongs to project `{owner}`; names are unique in the cluster, choose \
             another"
        ));
    }
    (kind != what).then(|| {
        format!(
            "`{name}` is a {kind} and cannot become a {what} in one deploy; choose another name, or \
             remove the {kind} first"
        )
    })
}

/// A container that would not even fit on an empty node.
fn too_large(
    cluster: &Cluster,
    what: &str,
    name: &Name,
    container: &ContainerSpec,
) -> Option<String> {
    let (cpu, memory) = (container.reserved_cpu(), container.reserved_memory());
    let capacities = || cluster.nodes.values().map(|node| node.facts.capacity);
    if capacities().any(|node| node.cpu >= cpu && node.memory >= memory) || cluster.nodes.is_empty()
    {
        return None;
    }
    let largest_cpu = capacities().map(|node| node.cpu).max()?;
    let largest_memory = capacities().map(|node| node.memory).max()?;
    let each = if what == "service" { "replica" } else { "run" };
    Some(format!(
        "{what} `{name}` wants {cpu} cores and {memory} memory for each {each}, and no node has \
         that; the largest have {largest_cpu} cores and {largest_memory}"
    ))
}

/// Labels that no node has, up or down.
fn unknown_labels(cluster: &Cluster, what: &str, name: &Name, place: &PlaceSpec) -> Option<String> {
    let lacking = place.require.iter().find(|(key, value)| {
        !cluster.nodes.values().any(|node| node.labels.get(*key) == Some(value))
    });
    let (key, value) = lacking.filter(|_| !cluster.nodes.is_empty())?;
    Some(format!(
        "{what} `{name}` requires nodes with {key} = \"{value}\", and no node has that label"
    ))
}
