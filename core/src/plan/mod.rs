//! What a deploy would do, per service and slot, before it does it: a pure function.
//!
//! It asks the same scheduler that will decide, in the turns that the rollout would take (`fill`).
//! The same input gives the same bytes. `render` and `compact` put it into words. Snapshots of it
//! are in `sim-tests/tests/plans`, and each of them is played there by real nodes to its end.

mod check;
mod compact;
mod fill;
mod ports;
mod render;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::check::check;
pub(crate) use self::compact::numbers;
use self::fill::{Wanted, fill};
use crate::brain::services::{update_order, wanted_slots};
use crate::cluster::Cluster;
use crate::cluster::alloc::Alloc;
use crate::cluster::deploy::{Service, Version};
use crate::cluster::task::Task;
use crate::config::diff::{FieldChange, diff, diff_settings, diff_task};
use crate::config::model::{Project, ServiceSpec, TaskSpec, UpdateOrder};
use crate::name::{AllocId, Name, NodeId, Slot};
use crate::scheduler::Rejected;

/// What a deploy would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Whose services.
    pub project: Name,
    /// The deploy that still runs and has to end before this one can start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<u64>,
    /// Every service of the project, as it is and as it will be.
    pub services: Vec<ServicePlan>,
    /// Every task of the project.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskPlan>,
    /// What differs in the settings of the cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<FieldChange>,
}

/// What a deploy would do to one task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskPlan {
    /// The task.
    pub task: Name,
    /// In a word; no container of a task is ever replaced.
    pub action: Action,
    /// What differs in its config.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<FieldChange>,
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
    /// Why the old one has to go first, whatever the config says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_first: Option<StopFirst>,
    /// The task that must succeed before anything of it moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Name>,
    /// Replicas replaced at the same time.
    pub parallel: u32,
    /// Replicas that come first, and are watched before the others follow.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub canaries: u32,
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

/// Why old and new cannot run side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopFirst {
    /// A persistent volume has one writer.
    Volume,
    /// This port has one owner on a node, and no node is to spare.
    Port(u16),
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
        /// The alloc that is out of reach, on a node that is down.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lost: Option<Lost>,
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
    /// It belongs to a node that is down, and waits for it; the deploy does not.
    Waits {
        /// The node's name.
        node: String,
    },
    /// It cannot be filled now.
    Unplaced {
        /// The alloc that runs in it now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        alloc: Option<AllocId>,
        /// Why each node will not do.
        rejected: Vec<Rejected>,
    },
}

/// An alloc that cannot be heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Which.
    pub alloc: AllocId,
    /// Its node's name.
    pub node: String,
}

impl Plan {
    /// Whether it changes nothing at all.
    pub fn is_empty(&self) -> bool {
        let mut actions = self.services.iter().map(|service| service.action);
        let mut of_tasks = self.tasks.iter().map(|task| task.action);
        let same = actions.all(|action| action == Action::Keep);
        same && of_tasks.all(|a| a == Action::Keep) && self.settings.is_empty()
    }

    /// Equal for plans that do the same to the same, whatever they wait for.
    pub fn fingerprint(&self) -> String {
        let Plan { project, behind: _, services, tasks, settings } = self;
        let bytes = match settings.is_empty() {
            true => serde_json::to_vec(&(project, services, tasks)),
            false => serde_json::to_vec(&(project, services, tasks, settings)),
        };
        let bytes = bytes.expect("a plan has text keys only");
        format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&bytes))
    }
}

/// What deploying `project` to `cluster` would do.
pub fn plan(cluster: &Cluster, project: &Project) -> Plan {
    let mut plan = replacing(cluster, project, &BTreeSet::new());
    plan.settings = diff_settings(&cluster.settings, &project.cluster);
    for service in &mut plan.services {
        service.gate = match service.action {
            Action::Add | Action::Replace => {
                project.services.get(&service.service).and_then(|spec| spec.before.clone())
            }
            Action::Change | Action::Keep | Action::Remove => None,
        };
    }
    plan
}

/// The same; containers of the services in `restart` are replaced also if they are as wanted.
pub(crate) fn replacing(cluster: &Cluster, project: &Project, restart: &BTreeSet<&Name>) -> Plan {
    let wanted = project.services.iter().map(|(name, spec)| (name, Some(spec)));
    let known = cluster.services.iter().filter(|(_, service)| service.project == project.name);
    // One that was removed and whose containers are only stopping is not removed again.
    let left = known.filter(|(name, service)| {
        service.target().is_some() || running(cluster, name).next().is_some()
    });
    let removed = left.filter(|(name, _)| !project.services.contains_key(*name));
    let all: BTreeMap<&Name, Option<&ServiceSpec>> =
        wanted.chain(removed.map(|(name, _)| (name, None))).collect();
    Plan { tasks: tasks(cluster, project), ..of(cluster, &project.name, &all, restart) }
}

/// Every task of a project, as it is and as it will be.
fn tasks(cluster: &Cluster, project: &Project) -> Vec<TaskPlan> {
    let known = cluster.tasks.iter().filter(|(_, task)| task.project == project.name);
    let removed =
        known.filter(|(name, task)| task.target().is_some() && !project.tasks.contains_key(*name));
    let removed = removed.map(|(name, _)| TaskPlan {
        task: name.clone(),
        action: Action::Remove,
        changes: Vec::new(),
    });
    let wanted = project.tasks.iter().map(|(name, spec)| task(cluster.tasks.get(name), name, spec));
    let mut tasks: Vec<TaskPlan> = wanted.chain(removed).collect();
    tasks.sort_by(|a, b| a.task.cmp(&b.task));
    tasks
}

fn task(known: Option<&Task>, name: &Name, spec: &TaskSpec) -> TaskPlan {
    let current = known.and_then(Task::target).map(|(_, version)| &version.spec);
    let changes = current.map_or_else(Vec::new, |known| diff_task(known, spec));
    let action = match current {
        None => Action::Add,
        Some(known) if known != spec => Action::Change,
        Some(_) => Action::Keep,
    };
    TaskPlan { task: name.clone(), action, changes }
}

/// What bringing about `wanted` would do; `restart` replaces containers that are as wanted.
pub(crate) fn of(
    cluster: &Cluster,
    project: &Name,
    wanted: &BTreeMap<&Name, Option<&ServiceSpec>>,
    restart: &BTreeSet<&Name>,
) -> Plan {
    let mut services: Vec<ServicePlan> = Vec::new();
    let mut filling: Vec<Wanted<'_>> = Vec::new();
    for (name, spec) in wanted {
        let known = cluster.services.get(*name);
        let current = known.and_then(Service::target).map(|(_, version)| version);
        let Some(spec) = spec else {
            services.push(remove(cluster, name, current));
            continue;
        };
        let restart = restart.contains(*name);
        let kept = current.filter(|v| v.spec.container == spec.container && !restart);
        let planned = bring_about(cluster, name, spec, current, kept);
        filling.push(Wanted {
            name,
            spec,
            template: kept.map(|version| version.template),
            order: planned.order,
            parallel: usize::try_from(planned.parallel).unwrap_or(usize::MAX),
            canaries: match (planned.canaries, current) {
                (1.., Some(version)) => cluster.canary_slots(name, spec, (&version.spec, None)),
                (_, _) => Vec::new(),
            },
        });
        services.push(planned);
    }
    let mut filled = fill(cluster, filling).into_iter();
    for service in services.iter_mut().filter(|service| service.action != Action::Remove) {
        let mut slots = filled.next().expect("each service that stays was filled");
        slots.append(&mut service.slots);
        service.slots = slots;
    }
    let behind = cluster.running_deploy().map(|(number, _)| number);
    let (tasks, settings) = (Vec::new(), Vec::new());
    Plan { project: project.clone(), behind, services, tasks, settings }
}

/// All but which slots are filled, and where.
fn bring_about(
    cluster: &Cluster,
    name: &Name,
    spec: &ServiceSpec,
    current: Option<&Version>,
    kept: Option<&Version>,
) -> ServicePlan {
    let action = match (current, kept) {
        (None, _) => Action::Add,
        (Some(_), None) => Action::Replace,
        (Some(version), Some(_)) if version.spec != *spec => Action::Change,
        (Some(_), Some(_)) => Action::Keep,
    };
    let wanted: BTreeSet<u64> = wanted_slots(cluster, spec).into_iter().collect();
    ServicePlan {
        service: name.clone(),
        action,
        changes: current.map_or_else(Vec::new, |known| diff(Some(&known.spec), Some(spec))),
        order: update_order(cluster, spec),
        stop_first: stop_first(cluster, spec),
        gate: None,
        parallel: spec.update.parallel.max(1),
        canaries: match action {
            Action::Replace => {
                spec.update.canary.min(u32::try_from(wanted.len()).unwrap_or(u32::MAX))
            }
            Action::Add | Action::Change | Action::Keep | Action::Remove => 0,
        },
        slots: stopped(cluster, name, |alloc| !wanted.contains(&alloc.serves(spec.replicas))),
    }
}

/// Why the old one has to go first, if it does not because the config says so.
fn stop_first(cluster: &Cluster, spec: &ServiceSpec) -> Option<StopFirst> {
    if spec.container.has_persistent_volume() {
        return Some(StopFirst::Volume);
    }
    let mut free = spec.clone();
    free.update.order = UpdateOrder::StartFirst;
    match update_order(cluster, &free) {
        UpdateOrder::StartFirst => None,
        UpdateOrder::StopFirst => spec.container.owned_port().map(StopFirst::Port),
    }
}

fn remove(cluster: &Cluster, name: &Name, current: Option<&Version>) -> ServicePlan {
    ServicePlan {
        service: name.clone(),
        action: Action::Remove,
        changes: Vec::new(),
        order: current.map_or(UpdateOrder::StartFirst, |v| update_order(cluster, &v.spec)),
        stop_first: None,
        gate: None,
        parallel: current.map_or(1, |version| version.spec.update.parallel.max(1)),
        canaries: 0,
        slots: stopped(cluster, name, |_| true),
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What stops for good, in the order of its slots.
fn stopped(cluster: &Cluster, name: &Name, goes: impl Fn(&Alloc) -> bool) -> Vec<SlotPlan> {
    let surplus = running(cluster, name).filter(|(_, alloc)| goes(alloc));
    let mut slots: Vec<SlotPlan> = surplus.map(|(id, alloc)| stop(cluster, id, alloc)).collect();
    slots.sort_by(|a, b| a.slot.cmp(&b.slot));
    slots
}

fn stop(cluster: &Cluster, id: &AllocId, alloc: &Alloc) -> SlotPlan {
    let node = node_name(cluster, alloc.node);
    SlotPlan { slot: alloc.slot.clone(), step: SlotStep::Stop { alloc: id.clone(), node } }
}

/// Allocs of a service that should run.
fn running<'a>(
    cluster: &'a Cluster,
    service: &Name,
) -> impl Iterator<Item = (&'a AllocId, &'a Alloc)> {
    cluster.allocs_of(service).filter(|(_, alloc)| alloc.is_wanted())
}

fn node_name(cluster: &Cluster, node: NodeId) -> String {
    cluster.nodes.get(&node).map_or_else(|| node.to_string(), |record| record.name.clone())
}
