//! What a deploy would do, per service and slot, before it does it: a pure function.
//!
//! It asks the same scheduler that will decide, on the state as it is, with what would be stopped
//! still in its place where the new one comes first. The same input gives the same bytes.
//! Snapshots of it are in `sim-tests/tests/plans`.

mod check;
mod render;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::check::check;
use crate::brain::services::{update_order, wanted_slots};
use crate::cluster::Cluster;
use crate::cluster::alloc::Alloc;
use crate::cluster::deploy::{Service, Version};
use crate::config::diff::{FieldChange, diff};
use crate::config::model::{Project, Replicas, ServiceSpec, UpdateOrder};
use crate::name::{AllocId, Name, NodeId, Slot};
use crate::scheduler::{self, Ask, Candidate, Rejected, Verdict};

/// What a deploy would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Whose services.
    pub project: Name,
    /// Every service of the project, as it is and as it will be.
    pub services: Vec<ServicePlan>,
}

/// What a deploy would do to one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePlan {
    /// The service.
    pub service: Name,
    /// In a word.
    pub action: Action,
    /// What differs in its config.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<FieldChange>,
    /// Which comes first where a replica is replaced.
    pub order: UpdateOrder,
    /// What happens to each of its slots.
    pub slots: Vec<SlotPlan>,
}

/// What happens to a service, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is new.
    Add,
    /// Its containers are replaced.
    Replace,
    /// Its settings change, its containers stay.
    Change,
    /// Nothing.
    Keep,
    /// It goes.
    Remove,
}

/// What happens to a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotPlan {
    /// The slot.
    pub slot: Slot,
    /// What happens.
    pub step: SlotStep,
}

/// What happens to a slot, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotStep {
    /// Its alloc stays.
    Keep {
        /// The alloc.
        alloc: AllocId,
        /// Its node's name.
        node: String,
    },
    /// It is filled.
    Create {
        /// The node's name.
        node: String,
    },
    /// Its alloc is replaced.
    Replace {
        /// The alloc that goes.
        alloc: AllocId,
        /// Where that is.
        from: String,
        /// Where the new one goes.
        to: String,
    },
    /// Its alloc goes.
    Stop {
        /// The alloc.
        alloc: AllocId,
        /// Its node's name.
        node: String,
    },
    /// It cannot be filled now.
    Unplaced {
        /// The alloc that stays meanwhile.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        alloc: Option<AllocId>,
        /// Why each node will not do.
        rejected: Vec<Rejected>,
    },
}

impl Plan {
    /// Whether it changes nothing at all.
    pub fn is_empty(&self) -> bool {
        self.services.iter().all(|service| service.action == Action::Keep)
    }

    /// Equal for plans that do the same to the same.
    pub fn fingerprint(&self) -> String {
        let bytes = serde_json::to_vec(self).expect("a plan has text keys only");
        format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&bytes))
    }
}

/// What deploying `project` to `cluster` would do.
pub fn plan(cluster: &Cluster, project: &Project) -> Plan {
    let wanted = project.services.iter().map(|(name, spec)| (name, Some(spec)));
    let known = cluster.services.iter().filter(|(_, service)| service.project == project.name);
    let removed = known.filter(|(name, _)| !project.services.contains_key(*name));
    let all: BTreeMap<&Name, Option<&ServiceSpec>> =
        wanted.chain(removed.map(|(name, _)| (name, None))).collect();
    of(cluster, &project.name, &all, &BTreeSet::new())
}

/// What bringing about `wanted` would do; `restart` replaces containers that are as wanted.
pub(crate) fn of(
    cluster: &Cluster,
    project: &Name,
    wanted: &BTreeMap<&Name, Option<&ServiceSpec>>,
    restart: &BTreeSet<&Name>,
) -> Plan {
    let mut nodes = scheduler::candidates(cluster);
    let mut services: Vec<ServicePlan> = Vec::new();
    for (name, spec) in wanted {
        let known = cluster.services.get(*name);
        let current = known.and_then(Service::target).map(|(_, version)| version);
        let planned = match spec {
            Some(spec) => {
                let restart = restart.contains(*name);
                bring_about(cluster, &mut nodes, name, spec, current, restart)
            }
            None => remove(cluster, name, current),
        };
        services.push(planned);
    }
    Plan { project: project.clone(), services }
}

fn bring_about(
    cluster: &Cluster,
    nodes: &mut [Candidate],
    name: &Name,
    spec: &ServiceSpec,
    current: Option<&Version>,
    restart: bool,
) -> ServicePlan {
    let same_container = current.is_some_and(|v| v.spec.container == spec.container) && !restart;
    let action = match current {
        None => Action::Add,
        Some(_) if !same_container => Action::Replace,
        Some(version) if version.spec != *spec => Action::Change,
        Some(_) => Action::Keep,
    };
    let order = update_order(cluster, spec);
    let template = current.filter(|_| same_container).map(|version| version.template);
    let slots = wanted_slots(cluster, spec);
    let mut planned: Vec<SlotPlan> = Vec::new();
    for index in &slots {
        let slot = Slot { service: name.clone(), index: *index };
        let step = fill(cluster, nodes, &slot, spec, template, order);
        planned.push(SlotPlan { slot, step });
    }
    let surplus = running(cluster, name).filter(|(_, a)| !slots.contains(&a.slot.index));
    planned.extend(surplus.map(|(id, alloc)| stop(cluster, id, alloc)));
    let changes = diff(current.map(|version| &version.spec), Some(spec));
    let changes = if action == Action::Add { Vec::new() } else { changes };
    ServicePlan { service: name.clone(), action, changes, order, slots: planned }
}

fn fill(
    cluster: &Cluster,
    nodes: &mut [Candidate],
    slot: &Slot,
    spec: &ServiceSpec,
    template: Option<u64>,
    order: UpdateOrder,
) -> SlotStep {
    let in_slot = || running(cluster, &slot.service).filter(|(_, alloc)| alloc.slot == *slot);
    let kept = in_slot().find(|(_, a)| Some(a.template) == template && cluster.is_up(a.node));
    if let Some((id, alloc)) = kept {
        return SlotStep::Keep { alloc: id.clone(), node: node_name(cluster, alloc.node) };
    }
    let old = in_slot().find(|(_, alloc)| cluster.is_up(alloc.node));
    let stops_first = old.filter(|_| order == UpdateOrder::StopFirst);
    if let Some((_, alloc)) = stops_first
        && let Some(node) = nodes.iter_mut().find(|node| node.id == alloc.node)
    {
        node.release(alloc);
    }
    let pinned = (spec.replicas == Replicas::EachNode).then_some(NodeId(slot.index));
    let ask = Ask { slot: slot.clone(), spec, pinned, avoid: BTreeSet::new() };
    let verdict = scheduler::place(nodes, std::slice::from_ref(&ask)).pop();
    match (verdict.expect("one ask has one verdict"), old) {
        (Verdict::Placed { node, .. }, None) => SlotStep::Create { node: node_name(cluster, node) },
        (Verdict::Placed { node, .. }, Some((id, alloc))) => SlotStep::Replace {
            alloc: id.clone(),
            from: node_name(cluster, alloc.node),
            to: node_name(cluster, node),
        },
        (Verdict::Unplaced(rejected), old) => {
            SlotStep::Unplaced { alloc: old.map(|(id, _)| id.clone()), rejected }
        }
    }
}

fn remove(cluster: &Cluster, name: &Name, current: Option<&Version>) -> ServicePlan {
    let slots = running(cluster, name).map(|(id, alloc)| stop(cluster, id, alloc)).collect();
    let order = current.map_or(UpdateOrder::StartFirst, |v| update_order(cluster, &v.spec));
    ServicePlan { service: name.clone(), action: Action::Remove, changes: Vec::new(), order, slots }
}

fn stop(cluster: &Cluster, id: &AllocId, alloc: &Alloc) -> SlotPlan {
    let step = SlotStep::Stop { alloc: id.clone(), node: node_name(cluster, alloc.node) };
    SlotPlan { slot: alloc.slot.clone(), step }
}

/// Allocs of a service that should run, by slot.
fn running<'a>(
    cluster: &'a Cluster,
    service: &Name,
) -> impl Iterator<Item = (&'a AllocId, &'a Alloc)> {
    cluster.allocs_of(service).filter(|(_, alloc)| alloc.is_wanted())
}

fn node_name(cluster: &Cluster, node: NodeId) -> String {
    cluster.nodes.get(&node).map_or_else(|| node.to_string(), |record| record.facts.name.clone())
}
