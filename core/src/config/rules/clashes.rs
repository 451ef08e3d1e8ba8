//! What two services, or a service and a task, cannot both have: a route, a volume, a fixed port
//! on the same nodes, a name.

use std::collections::BTreeMap;

use super::Rules;
use crate::config::model::{Project, Replicas, RouteMatch, ServiceSpec};
use crate::config::path::{item, join};
use crate::config::problem::{Location, Problem};
use crate::name::Name;

pub(super) fn check(rules: &mut Rules<'_>, project: &Project) {
    names(rules, project);
    routes(rules, project);
    listeners(rules, project);
    volumes(rules, project);
    fixed_ports(rules, project);
}

fn path_of(name: &Name) -> String {
    join("service", name.as_str())
}

/// `mill logs NAME` and `mill why NAME` know one thing by a name.
fn names(rules: &mut Rules<'_>, project: &Project) {
    for name in project.tasks.keys().filter(|name| project.services.contains_key(*name)) {
        let problem = Problem::new(
            "duplicate-name",
            rules.at(&join("task", name.as_str())),
            format!("`{name}` is the name of both a service and a task"),
        );
        let first = rules.at(&path_of(name));
        rules.push(problem.note(first, "the service").help("give one of them another name"));
    }
}

/// Requests that two routes would take alike; also two routes of one service.
fn routes(rules: &mut Rules<'_>, project: &Project) {
    let mut all = Vec::new();
    for (name, service) in &project.services {
        for (index, route) in service.routes.iter().enumerate() {
            let path = item(&join(&path_of(name), "route"), index);
            let (what, at) = match &route.accept {
                // A host that is missing or broken has its own problem.
                RouteMatch::Http { host, .. } if host.is_empty() => continue,
                RouteMatch::Http { .. } if !rules.sound(&join(&path, "path")) => continue,
                RouteMatch::Http { host, path: prefix } => {
                    (format!("`{host}{prefix}`"), join(&path, "host"))
                }
                RouteMatch::Tcp { listen, host: None } => {
                    (format!("port {listen}"), join(&path, "listen"))
                }
                RouteMatch::Tcp { listen, host: Some(host) } => {
                    (format!("`{host}` on port {listen}"), join(&path, "listen"))
                }
            };
            all.push((rules.at(&at), name, &route.accept, what));
        }
    }
    // The first in the files is the one that was there first.
    all.sort();
    let mut taken: BTreeMap<&RouteMatch, (Location, &Name)> = BTreeMap::new();
    for (at, name, accept, what) in all {
        let Some((first, owner)) = taken.get(accept) else {
            taken.insert(accept, (at, name));
            continue;
        };
        let message = format!("{what} is already routed to `{owner}`");
        let problem = Problem::new("duplicate-route", at, message);
        rules.push(problem.note(first.clone(), "first routed here").help(match accept {
            RouteMatch::Http { .. } => "give one of them another `host` or `path`",
            RouteMatch::Tcp { .. } => "give one of them another port to listen on",
        }));
    }
}

/// A port that nodes listen on for a TCP route is nobody else's, and shared by routes that all name
/// a host.
fn listeners(rules: &mut Rules<'_>, project: &Project) {
    let mut unnamed: BTreeMap<u16, Location> = BTreeMap::new();
    let mut named: Vec<(u16, Location)> = Vec::new();
    let mut all: BTreeMap<u16, Location> = BTreeMap::new();
    for (name, service) in &project.services {
        for (index, route) in service.routes.iter().enumerate() {
            let path = item(&join(&path_of(name), "route"), index);
            let RouteMatch::Tcp { listen, host } = &route.accept else {
                let at = rules.at(&join(&path, "host"));
                for port in RouteMatch::HTTP_PORTS {
                    all.entry(port).or_insert_with(|| at.clone());
                }
                continue;
            };
            let at = rules.at(&join(&path, "listen"));
            all.entry(*listen).or_insert_with(|| at.clone());
            match host {
                None => drop(unnamed.entry(*listen).or_insert(at)),
                Some(_) => named.push((*listen, at)),
            }
        }
    }
    for (port, at) in named {
        let Some(first) = unnamed.get(&port) else { continue };
        let message = format!("port {port} is routed both with and without a `host`");
        rules.push(
            Problem::new("duplicate-route", at, message)
                .note(first.clone(), "every connection is routed here")
                .help("give each of them a `host`, or another port to listen on"),
        );
    }
    for (name, service) in &project.services {
        let Some(port) = service.container.owned_port() else { continue };
        let Some(first) = all.get(&port) else { continue };
        let at = rules.at(&join(&path_of(name), "port"));
        let message = format!("`{name}` owns port {port} of its node, where a route listens");
        rules.push(
            Problem::new("port-clash", at, message)
                .note(first.clone(), "every node listens there")
                .help(match RouteMatch::HTTP_PORTS.contains(&port) {
                    true => "let the service own another port",
                    false => "let the route listen on another port",
                }),
        );
    }
}

fn volumes(rules: &mut Rules<'_>, project: &Project) {
    let mut all = Vec::new();
    for (owner, service) in &project.services {
        for (index, volume) in service.container.volumes.iter().enumerate() {
            let at = join(&item(&join(&path_of(owner), "volume"), index), "name");
            if rules.written(&at) && rules.sound(&at) {
                all.push((rules.at(&at), owner, &volume.name));
            }
        }
    }
    all.sort();
    let mut taken: BTreeMap<&Name, (Location, &Name)> = BTreeMap::new();
    for (at, name, volume) in all {
        let Some((first, owner)) = taken.get(volume) else {
            taken.insert(volume, (at, name));
            continue;
        };
        let message = format!("the volume `{volume}` already belongs to `{owner}`");
        let problem = Problem::new("duplicate-volume", at, message);
        rules.push(
            problem
                .note(first.clone(), "first defined here")
                .help("give one of them another name: a volume belongs to one service"),
        );
    }
}

/// One that runs on each node of a set leaves no node of that set to another with its port.
/// Fixed ports of other services may share a number: the scheduler keeps them apart.
fn fixed_ports(rules: &mut Rules<'_>, project: &Project) {
    let mut pairs: Vec<(&Name, &Name, u16)> = Vec::new();
    let services: Vec<(&Name, &ServiceSpec)> = project.services.iter().collect();
    for (index, (name, service)) in services.iter().enumerate() {
        for (other_name, other) in &services[index + 1..] {
            let Some(port) = service.container.owned_port() else { break };
            let same = other.container.owned_port() == Some(port);
            if same && (leaves_no_node(service, other) || leaves_no_node(other, service)) {
                pairs.push((name, other_name, port));
            }
        }
    }
    for (first, second, port) in pairs {
        let at = rules.at(&join(&path_of(second), "port"));
        let note = rules.at(&join(&path_of(first), "port"));
        rules.push(
            Problem::new(
                "port-clash",
                at,
                format!("`{first}` and `{second}` can never both own port {port} of a node"),
            )
            .note(note, "and here, on the same nodes")
            .help("give one of them another port, or nodes of its own with `place.require`"),
        );
    }
}

fn leaves_no_node(everywhere: &ServiceSpec, other: &ServiceSpec) -> bool {
    let needs = &other.place.require;
    everywhere.replicas == Replicas::EachNode
        && other.replicas != Replicas::Count(0)
        && everywhere.place.require.iter().all(|(label, value)| needs.get(label) == Some(value))
}
