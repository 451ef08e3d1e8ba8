//! What routes and fixed ports of a project take from those of others in the cluster.

use crate::cluster::Cluster;
use crate::config::model::{Project, RouteMatch, ServiceSpec};
use crate::name::Name;

/// Every reason, as sentences.
pub(super) fn check(cluster: &Cluster, project: &Project) -> Vec<String> {
    let others: Vec<(&Name, &ServiceSpec)> = of_others(cluster, project).collect();
    let mut problems = Vec::new();
    for (name, spec) in &project.services {
        for route in &spec.routes {
            problems.extend(taken(&others, name, &route.accept));
            problems.extend(in_pool(cluster, name, &route.accept));
        }
    }
    let here = || project.services.iter();
    let all = || here().chain(others.iter().copied());
    for (name, spec) in all() {
        let Some(port) = spec.container.owned_port() else { continue };
        // What a project clashes with in itself, the config says.
        let is_new = project.services.contains_key(name);
        let beside = all().filter(|(other, _)| project.services.contains_key(*other) != is_new);
        let listening = |spec: &ServiceSpec| {
            spec.routes.iter().any(|route| match &route.accept {
                RouteMatch::Tcp { listen, .. } => *listen == port,
                RouteMatch::Http { .. } => RouteMatch::HTTP_PORTS.contains(&port),
            })
        };
        if let Some((other, _)) = beside.into_iter().find(|(_, spec)| listening(spec)) {
            problems.push(format!(
                "service `{name}` owns port {port} of its node, where every node listens for the \
                 routes of `{other}`; let one of them use another port"
            ));
        }
    }
    problems
}

fn of_others<'a>(
    cluster: &'a Cluster,
    project: &'a Project,
) -> impl Iterator<Item = (&'a Name, &'a ServiceSpec)> {
    let services = cluster.services.iter().filter(|(_, service)| service.project != project.name);
    services.filter_map(|(name, service)| Some((name, &service.target()?.1.spec)))
}

fn taken(others: &[(&Name, &ServiceSpec)], name: &Name, accept: &RouteMatch) -> Option<String> {
    let (owner, _) = others
        .iter()
        .find(|(_, spec)| spec.routes.iter().any(|route| route.accept.clashes_with(accept)))?;
    Some(format!(
        "{} is to be routed to `{name}`, and is routed to `{owner}` of another project; remove it \
         there first",
        accept.sentence()
    ))
}

/// A port that a node may have given to a container.
fn in_pool(cluster: &Cluster, name: &Name, accept: &RouteMatch) -> Option<String> {
    let RouteMatch::Tcp { listen, .. } = accept else { return None };
    let pools = cluster.nodes.values().map(|node| (&node.name, node.facts.capacity.ports));
    let (node, pool) = pools.into_iter().find(|(_, p)| (p.first..=p.last).contains(listen))?;
    Some(format!(
        "a route of `{name}` listens on port {listen}, which node {node} gives to containers \
         ({} to {}); choose one outside of that",
        pool.first, pool.last
    ))
}
