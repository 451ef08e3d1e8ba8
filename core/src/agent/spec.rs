//! From a service's version and an alloc's place to the container that the engine is to run.

use std::collections::BTreeMap;

use crate::cluster::Cluster;
use crate::cluster::alloc::Alloc;
use crate::cluster::deploy::{Service, Version};
use crate::cluster::task::Run;
use crate::config::capabilities;
use crate::config::model::{ContainerSpec, StopSpec};
use crate::config::text::{Part, Text};
use crate::container::{RunSpec, StopPlan, label};
use crate::name::{AllocId, Name};
use crate::net::ZONE;
use crate::units::Millis;

/// What an alloc's container is; `None` if its version is not (or no longer) replicated, or its
/// image not resolved.
pub(super) fn run_spec(cluster: &Cluster, id: &AllocId, alloc: &Alloc) -> Option<RunSpec> {
    let node = cluster.nodes.get(&alloc.node)?;
    let spec = container(cluster, alloc)?;
    let image = match run(cluster, alloc) {
        Some(run) => run.image.clone(),
        None => version(cluster, alloc)?.image.clone()?,
    };
    let mut env: BTreeMap<String, String> =
        spec.env.iter().map(|(key, value)| (key.clone(), rendered(cluster, value))).collect();
    env.insert("MILL_ALLOC".to_owned(), id.to_string());
    match alloc.run {
        Some(number) => {
            env.insert("MILL_TASK".to_owned(), alloc.slot.service.to_string());
            env.insert("MILL_RUN".to_owned(), number.to_string());
        }
        None => {
            env.insert("MILL_SERVICE".to_owned(), alloc.slot.service.to_string());
            env.insert("MILL_SLOT".to_owned(), alloc.slot.to_string());
        }
    }
    env.insert("MILL_NODE".to_owned(), node.name.clone());
    if let Some(port) = alloc.port {
        env.insert("PORT".to_owned(), port.to_string());
    }
    let mut labels = BTreeMap::from([
        (label::ALLOC.to_owned(), id.to_string()),
        (label::SERVICE.to_owned(), alloc.slot.service.to_string()),
        (label::VERSION.to_owned(), alloc.template.to_string()),
    ]);
    labels.extend(alloc.port.map(|port| (label::PORT.to_owned(), port.to_string())));
    Some(RunSpec {
        alloc: id.clone(),
        image,
        command: spec.command.iter().map(|part| rendered(cluster, part)).collect(),
        env,
        cpu: spec.cpu,
        memory: spec.memory,
        user: spec.user.clone(),
        read_only: spec.read_only,
        cap_add: spec.cap_add.clone(),
        cap_drop: dropped(&spec.cap_drop),
        tmpfs: spec.tmpfs.clone(),
        port: alloc.port,
        once: alloc.run.is_some(),
        stop_signal: spec.stop.signal.clone(),
        labels,
    })
}

/// The text as the container gets it. Deploys that use secrets are refused while this version does
/// not act on them, so none occurs here; it would be left as it was written.
fn rendered(cluster: &Cluster, text: &Text) -> String {
    let part = |part: Part| match part {
        Part::Literal(text) => text,
        Part::Secret(name) => format!("${{secret({name})}}"),
        Part::ServiceAddress(name) => address(cluster, &name),
    };
    text.parts().into_iter().map(part).collect()
}

/// Where a service is called, on any node at any time. One that is gone since has no port any more.
fn address(cluster: &Cluster, name: &Name) -> String {
    let target = cluster.services.get(name).and_then(Service::target);
    match target.and_then(|(_, version)| version.spec.container.port) {
        Some(port) => format!("{name}.{ZONE}:{port}"),
        None => format!("{name}.{ZONE}"),
    }
}

/// Every capability by name, as an engine's default set knows no `ALL`.
fn dropped(names: &[String]) -> Vec<String> {
    match names.iter().any(|name| name == capabilities::ALL) {
        true => capabilities::NAMES.iter().map(|name| (*name).to_owned()).collect(),
        false => names.to_vec(),
    }
}

/// The container part of an alloc's version, or of its run.
pub(super) fn container<'a>(cluster: &'a Cluster, alloc: &Alloc) -> Option<&'a ContainerSpec> {
    match alloc.run {
        Some(_) => run(cluster, alloc).map(|run| &run.spec.container),
        None => version(cluster, alloc).map(|version| &version.spec.container),
    }
}

fn version<'a>(cluster: &'a Cluster, alloc: &Alloc) -> Option<&'a Version> {
    cluster.services.get(&alloc.slot.service)?.versions.get(&alloc.template)
}

fn run<'a>(cluster: &'a Cluster, alloc: &Alloc) -> Option<&'a Run> {
    cluster.runs.get(&alloc.run?)
}

/// How long a run may take.
pub(super) fn timeout(cluster: &Cluster, alloc: &Alloc) -> Option<Millis> {
    run(cluster, alloc).map(|run| run.spec.timeout)
}

/// How long requests may take to finish before an alloc is asked to stop; `None` if it has no port,
/// or no time is left for them.
pub(super) fn drain(cluster: &Cluster, alloc: &Alloc) -> Option<Millis> {
    let drain = container(cluster, alloc)?.stop.drain;
    Some(drain).filter(|drain| alloc.port.is_some() && *drain > Millis(0))
}

/// How an alloc's container is stopped; the default for one of which nothing is known.
pub(super) fn stop_plan(cluster: &Cluster, alloc: Option<&Alloc>) -> StopPlan {
    let spec = alloc.and_then(|alloc| container(cluster, alloc)).map(|spec| spec.stop.clone());
    let StopSpec { signal, grace, pre_stop, .. } = spec.unwrap_or_default();
    StopPlan { pre_stop, signal, grace }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escaped_reference_reaches_the_container_without_its_escape() {
        let rendered = |text: &str| rendered(&Cluster::default(), &Text::from(text));
        assert_eq!(rendered("a $${HOME} $5 $$"), "a ${HOME} $5 $$");
        assert_eq!(rendered(""), "");
    }

    #[test]
    fn what_this_version_does_not_fill_in_stays_as_it_was_written() {
        let text = "x${secret(shop.db-url)}/";
        assert_eq!(rendered(&Cluster::default(), &Text::from(text)), text);
    }

    #[test]
    fn dropping_all_names_every_capability() {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let all = dropped(&names(&["ALL", "CHOWN"]));
        assert!(all.len() > 40 && all.contains(&"NET_BIND_SERVICE".to_owned()), "{all:?}");
        assert_eq!(dropped(&names(&["CHOWN"])), names(&["CHOWN"]));
    }
}
