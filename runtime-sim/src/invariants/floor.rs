//! Mill never takes a service below its floor by its own hand: `replicas` where the new one comes
//! first, `replicas - parallel` where the old one goes first.

use std::collections::BTreeSet;

use mill_core::cluster::Cluster;
use mill_core::cluster::alloc::{Alloc, Phase};
use mill_core::cluster::command::Command;
use mill_core::config::model::{Replicas, ServiceSpec, UpdateOrder};
use mill_core::name::Name;

use super::{Invariant, Moment};

/// Counts slots with a healthy replica, before and after each entry that stops some.
pub(super) struct Floor;

impl Invariant for Floor {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Committed { before, entry, after, .. } = moment else { return Ok(()) };
        let mut services = BTreeSet::new();
        for command in &entry.commands {
            if let Command::Stop { alloc, .. } = command
                && let Some(alloc) = before.allocs.get(alloc)
            {
                services.insert(&alloc.slot.service);
            }
        }
        services.into_iter().try_for_each(|service| check(before, after, service))
    }
}

fn check(before: &Cluster, after: &Cluster, name: &Name) -> Result<(), String> {
    let Some(version) = after.wanted_version(name) else { return Ok(()) };
    // Who is up and healthy is as the facts in the same entry say: Mill decided knowing them. Only
    // what it told to stop differs.
    let wanted = slots(after, &version.spec);
    let serves = |alloc: &Alloc| alloc.status.phase == Phase::Healthy && after.is_up(alloc.node);
    let served_before = served(after, (name, version.spec.replicas), &wanted, |id, alloc| {
        serves(alloc) && before.allocs.get(id).is_some_and(Alloc::is_wanted)
    });
    let served_after = served(after, (name, version.spec.replicas), &wanted, |_, alloc| {
        serves(alloc) && alloc.is_wanted()
    });
    let floor = wanted.len() - allowance(&version.spec).min(wanted.len());
    if served_after < served_before && served_after < floor {
        return Err(format!(
            "{name} had {served_before} healthy replicas and is left {served_after}, \
             fewer than its floor of {floor}"
        ));
    }
    Ok(())
}

/// How many replicas may be missing while it is updated.
fn allowance(spec: &ServiceSpec) -> usize {
    let stop_first = spec.update.order == UpdateOrder::StopFirst
        || spec.container.fixed_port
        || spec.container.has_persistent_volume();
    if stop_first { spec.update.parallel as usize } else { 0 }
}

fn slots(cluster: &Cluster, spec: &ServiceSpec) -> BTreeSet<u64> {
    match spec.replicas {
        Replicas::Count(count) => (0..u64::from(count)).collect(),
        // The slot of a node that is down can be filled nowhere else, so it is not missed.
        Replicas::EachNode => {
            let suitable = cluster.nodes.iter().filter(|(_, record)| {
                let labels = &record.labels;
                let mut required = spec.place.require.iter();
                record.takes_new() && required.all(|(key, value)| labels.get(key) == Some(value))
            });
            suitable.map(|(node, _)| node.0).collect()
        }
    }
}

fn served(
    cluster: &Cluster,
    (service, replicas): (&Name, Replicas),
    wanted: &BTreeSet<u64>,
    serves: impl Fn(&mill_core::name::AllocId, &Alloc) -> bool,
) -> usize {
    let serving = cluster.allocs_of(service).filter(|(id, alloc)| serves(id, alloc));
    let slots: BTreeSet<u64> = serving.map(|(_, alloc)| alloc.serves(replicas)).collect();
    slots.intersection(wanted).count()
}
