//! Moves every service a step towards what is wanted: asks the rollout what, the scheduler where.

use std::collections::BTreeSet;

use super::lost::Lost;
use super::{Blocked, Brain, Draft, Retry};
use crate::agent::FAILURE_WINDOW;
use crate::cluster::alloc::{Alloc, Phase, StopReason};
use crate::cluster::command::Command;
use crate::cluster::deploy::{DeployState, Promotion, Version};
use crate::cluster::node::NodeRecord;
use crate::cluster::{Cluster, Revision};
use crate::config::model::{Replicas, ServiceSpec, UpdateOrder};
use crate::name::{AllocId, Name, NodeId, Slot};
use crate::node::Wake;
use crate::rollout::{self, Input, Pace, Step, Target, View, Waiting};
use crate::scheduler::{self, Ask, Candidate, Needs, Reason, Rejected, Verdict};
use crate::time::Mono;
use crate::units::Millis;

/// The longest wait before a slot whose allocs fail is filled again.
const RETRY_LONGEST: Millis = Millis::secs(60);

/// What is left for services to take, each from what those before it left.
struct Room<'r, 'a> {
    nodes: &'r mut [Candidate],
    lost: &'r mut Lost<'a>,
}

impl Brain {
    /// Every service, a step; none when the deploy moves on, since then other floors may hold.
    pub(super) fn move_services(&mut self, draft: &mut Draft<'_>) {
        let cluster = draft.cluster;
        let before = draft.commands.len();
        let mut nodes = scheduler::candidates(cluster);
        self.tell_watched(draft.now.mono, &mut nodes);
        let mut lost = self.lost(draft);
        let mut steps: Vec<(&Name, Step)> = Vec::new();
        for name in cluster.services.keys() {
            let (version, pace) = (cluster.wanted_version(name), pace(cluster, name));
            let mut room = Room { nodes: &mut nodes, lost: &mut lost };
            let step = self.move_service(draft, &mut room, name, version, pace);
            steps.push((name, step));
        }
        self.place_runs(draft, &mut nodes);
        let moves = draft.commands.split_off(before);
        if !self.move_deploy(draft, &steps) {
            draft.commands.extend(moves);
            // What comes after it in the same entry would be decided for what was wanted before.
            Brain::promote(draft, &steps);
        }
    }

    fn move_service(
        &mut self,
        draft: &mut Draft<'_>,
        room: &mut Room<'_, '_>,
        name: &Name,
        version: Option<&Version>,
        (pace, prune): (Pace, bool),
    ) -> Step {
        let cluster = draft.cluster;
        let mut views = self.views(draft.now.mono, cluster, name, version);
        let mut target = version.map(|version| target(cluster, name, version, pace));
        if let (Some(target), Some(version)) = (&mut target, version)
            && each_node(&version.spec)
        {
            // The slot of a node that is down can be filled nowhere else: it waits for its node,
            // and nobody waits for it.
            target.slots.retain(|index| cluster.is_up(NodeId(*index)));
            views.retain(|view| view.reachable);
        }
        let input = Input { target, allocs: views, pace, prune };
        let mut step = rollout::step(&input);
        let mut blocked = keep_what_has_no_place(cluster, room.nodes, &input, version, &mut step);
        blocked.extend(unproven(cluster, name, version, &input, &mut step));
        for (alloc, reason) in &step.stop {
            draft.commands.push(Command::Stop { alloc: alloc.clone(), reason: *reason });
        }
        blocked.extend(self.fill(draft, room, name, &step));
        for (index, waiting) in &step.waiting {
            if let Waiting::Soak(alloc) = waiting
                && let (Some((_, since)), Some(target)) =
                    (self.healthy_since.get(alloc), &input.target)
            {
                draft.wake_at(*since + target.healthy_for, Wake::Soaked);
            }
            let slot = Slot { service: name.clone(), index: *index };
            blocked.push(Blocked::Rollout { slot, waiting: waiting.clone() });
        }
        match blocked.is_empty() {
            true => self.blocked.remove(name),
            false => self.blocked.insert(name.clone(), blocked),
        };
        step
    }

    /// Every live alloc of a service, with what this leader knows of it.
    fn views<'a>(
        &self,
        now: Mono,
        cluster: &'a Cluster,
        service: &Name,
        version: Option<&Version>,
    ) -> Vec<View<'a>> {
        let live = cluster.allocs_of(service).filter(|(_, alloc)| alloc.is_live());
        live.map(|(id, alloc)| View {
            id,
            alloc,
            slot: version.map_or(alloc.slot.index, |v| alloc.serves(v.spec.replicas)),
            reachable: cluster.is_up(alloc.node),
            leaving: cluster.nodes.get(&alloc.node).is_some_and(|node| node.draining),
            healthy_for: self.healthy_since.get(id).map(|(_, since)| now.since(*since)),
        })
        .collect()
    }

    /// Places what can be placed, in turn where that is asked; the rest is told why not.
    fn fill(
        &mut self,
        draft: &mut Draft<'_>,
        room: &mut Room<'_, '_>,
        name: &Name,
        step: &Step,
    ) -> Vec<Blocked> {
        let cluster = draft.cluster;
        let wanted = step.place.iter().filter_map(|fill| {
            let slot = Slot { service: name.clone(), index: fill.index };
            let version = cluster.wanted_in(&slot)?;
            Some((fill.in_turn, slot, version))
        });
        let wanted: Vec<(bool, Slot, &Version)> = wanted.collect();
        let together = |one: &(bool, Slot, &Version), next: &(bool, Slot, &Version)| {
            !one.0 && !next.0 && one.2.template == next.2.template
        };
        let mut blocked = Vec::new();
        let mut turns = step.turns;
        for run in wanted.chunk_by(together) {
            let (in_turn, _, version) = run[0];
            let slots = run.iter().map(|(_, slot, _)| slot.clone());
            if in_turn && turns == 0 {
                let waits = |slot| Blocked::Rollout { slot, waiting: Waiting::Turn };
                blocked.extend(slots.map(waits));
                continue;
            }
            let refused = self.place(draft, room, version, slots);
            turns -= u32::from(in_turn && refused.is_empty());
            blocked.extend(refused);
        }
        blocked
    }

    fn place(
        &mut self,
        draft: &mut Draft<'_>,
        room: &mut Room<'_, '_>,
        version: &Version,
        slots: impl Iterator<Item = Slot>,
    ) -> Vec<Blocked> {
        let mut blocked = Vec::new();
        let mut asks = Vec::new();
        for slot in slots {
            let failed = failed_allocs(draft.cluster, &slot, version.template);
            if let Some((failures, at)) = self.held_back(draft.now.mono, &slot, &failed) {
                draft.wake_at(at, Wake::Retry);
                blocked.push(Blocked::Backoff { slot, failures, wait: at.since(draft.now.mono) });
                continue;
            }
            if room.lost.is(&slot, version.template) {
                if room.lost.left == 0 {
                    blocked.push(Blocked::Lost { slot, first: self.timing.lost_at_once });
                    continue;
                }
                room.lost.left -= 1;
            }
            let pinned = each_node(&version.spec).then_some(NodeId(slot.index));
            let avoid: BTreeSet<NodeId> = failed.iter().map(|alloc| alloc.node).collect();
            let home = home(draft.cluster, &slot);
            let needs = Needs::of(&version.spec);
            asks.push(Ask { slot, needs, pinned, avoid, home });
        }
        let verdicts = scheduler::place(room.nodes, &asks);
        for (ask, verdict) in asks.into_iter().zip(verdicts) {
            match verdict {
                Verdict::Unplaced(mut rejected) => {
                    rejected.extend(scheduler::down(draft.cluster, ask.pinned));
                    room.lost.left += u32::from(room.lost.is(&ask.slot, version.template));
                    blocked.push(Blocked::Unplaced { slot: ask.slot, rejected });
                }
                Verdict::Placed { node, port } => draft.commands.push(Command::Place {
                    alloc: self.mint(draft.cluster, &ask.slot),
                    slot: ask.slot,
                    node,
                    template: version.template,
                    port,
                }),
            }
        }
        blocked
    }

    pub(super) fn mint(&mut self, cluster: &Cluster, slot: &Slot) -> AllocId {
        loop {
            let id = AllocId::new(slot, &self.rng.tag(4));
            if !cluster.allocs.contains_key(&id) {
                return id;
            }
        }
    }

    /// Until when a slot that failed before is left empty.
    fn held_back(&mut self, now: Mono, slot: &Slot, failed: &[&Alloc]) -> Option<(u32, Mono)> {
        let latest = failed.iter().map(|alloc| alloc.placed).max()?;
        let known = self.retry.get(slot).filter(|retry| now.since(retry.at) < FAILURE_WINDOW);
        let retry = match known {
            Some(retry) if retry.latest == latest => *retry,
            Some(retry) => Retry::after(now, retry.failures + 1, latest),
            None => Retry::after(now, 1, latest),
        };
        self.retry.insert(slot.clone(), retry);
        (retry.at > now).then_some((retry.failures, retry.at))
    }
}

impl Retry {
    /// The first failure is tried again at once, on another port or node; then waits double.
    fn after(now: Mono, failures: u32, latest: Revision) -> Retry {
        let wait = match failures.min(16) {
            0 | 1 => 0,
            more => 1000 << (more - 2),
        };
        Retry { failures, latest, at: now + Millis(wait).min(RETRY_LONGEST) }
    }
}

/// A version that no node can take just now, of a service on each node, has not been seen healthy
/// anywhere: nothing is settled by that. Says what keeps each node from it.
fn unproven(
    cluster: &Cluster,
    name: &Name,
    version: Option<&Version>,
    input: &Input<'_>,
    step: &mut Step,
) -> Option<Blocked> {
    let (Some(version), Some(target)) = (version, &input.target) else { return None };
    if input.pace != Pace::Rolling || !each_node(&version.spec) || !target.slots.is_empty() {
        return None;
    }
    let labelled = cluster.nodes.iter().filter(|(_, node)| {
        let mut required = version.spec.place.require.iter();
        node.roles.secondary && required.all(|(key, value)| node.labels.get(key) == Some(value))
    });
    let rejected = labelled.clone().map(|(_, node)| Rejected {
        node: node.name.clone(),
        reason: if node.is_up() { Reason::Draining } else { Reason::Down },
    });
    let rejected: Vec<Rejected> = rejected.collect();
    let (first, _) = labelled.clone().next()?;
    step.settled = false;
    Some(Blocked::Unplaced { slot: Slot { service: name.clone(), index: first.0 }, rejected })
}

/// What would have to go before its node is empty, and could be placed nowhere then, stays: it is
/// not to be lost for a drain. Says what is in its way.
fn keep_what_has_no_place(
    cluster: &Cluster,
    nodes: &[Candidate],
    input: &Input<'_>,
    version: Option<&Version>,
    step: &mut Step,
) -> Vec<Blocked> {
    let (Some(version), Some(target)) = (version, &input.target) else { return Vec::new() };
    if target.order == UpdateOrder::StartFirst {
        return Vec::new();
    }
    let mut blocked = Vec::new();
    let mut kept = BTreeSet::new();
    for (id, _) in step.stop.iter().filter(|(_, reason)| *reason == StopReason::Drained) {
        let Some(view) = input.allocs.iter().find(|view| view.id == id) else { continue };
        if !target.slots.contains(&view.slot) {
            continue;
        }
        let slot = Slot { index: view.slot, ..view.alloc.slot.clone() };
        // What waits for canaries is to run what it ran.
        let version = cluster.wanted_in(&slot).unwrap_or(version);
        let (pinned, avoid, home) = (None, BTreeSet::new(), None);
        let needs = Needs::of(&version.spec);
        let ask = Ask { slot: slot.clone(), needs, pinned, avoid, home };
        if let Some(Verdict::Unplaced(rejected)) =
            scheduler::place(&mut nodes.to_vec(), &[ask]).pop()
        {
            blocked.push(Blocked::Unplaced { slot, rejected });
            kept.insert(id.clone());
        }
    }
    step.stop.retain(|(id, _)| !kept.contains(id));
    step.waiting.retain(|(_, waiting)| match waiting {
        Waiting::Gone(id) => !kept.contains(id),
        Waiting::Healthy(_)
        | Waiting::Soak(_)
        | Waiting::Turn
        | Waiting::Canaries
        | Waiting::Floor => true,
    });
    blocked
}

/// How a service moves now, and whether what is in no wanted slot may go.
fn pace(cluster: &Cluster, service: &Name) -> (Pace, bool) {
    let deploy = cluster.running_deploy().filter(|(_, d)| d.changes.contains_key(service));
    let Some((_, deploy)) = deploy else { return (Pace::Steady, true) };
    let failed = deploy.changes.get(service).is_some_and(|change| change.failed.is_some());
    match deploy.state {
        DeployState::Resolving => (Pace::Steady, false),
        DeployState::Rolling if cluster.is_held(service) => (Pace::Steady, false),
        DeployState::Rolling | DeployState::Removing if failed => (Pace::Back, true),
        DeployState::Rolling => (Pace::Rolling, false),
        DeployState::Removing => (Pace::Rolling, true),
        DeployState::RollingBack { .. } => (Pace::Back, true),
        DeployState::Succeeded
        | DeployState::Partial { .. }
        | DeployState::RolledBack { .. }
        | DeployState::RollbackStuck { .. } => (Pace::Steady, true),
    }
}

fn each_node(spec: &ServiceSpec) -> bool {
    spec.replicas == Replicas::EachNode
}

/// Whether a node may run it: it runs containers, is not being emptied, and has the labels that
/// are required.
fn suits(spec: &ServiceSpec, node: &NodeRecord) -> bool {
    let mut required = spec.place.require.iter();
    let takes = node.roles.secondary && !node.draining;
    takes && required.all(|(key, value)| node.labels.get(key) == Some(value))
}

/// Slots that a spec wants: numbers, or for one on each node the numbers of suitable nodes.
pub(crate) fn wanted_slots(cluster: &Cluster, spec: &ServiceSpec) -> Vec<u64> {
    match spec.replicas {
        Replicas::Count(count) => (0..u64::from(count)).collect(),
        Replicas::EachNode => {
            let suitable = cluster.nodes.iter().filter(|(_, node)| suits(spec, node));
            suitable.map(|(id, _)| id.0).collect()
        }
    }
}

/// The order that a service can be updated in: without a second place to go, the old one first.
pub(crate) fn update_order(cluster: &Cluster, spec: &ServiceSpec) -> UpdateOrder {
    let up = cluster.nodes.values().filter(|node| node.is_up() && suits(spec, node)).count();
    let slots = wanted_slots(cluster, spec).len();
    let owns_port = spec.container.owned_port().is_some();
    let no_second_place = each_node(spec) || up <= slots;
    if spec.container.has_persistent_volume() || (owns_port && no_second_place) {
        return UpdateOrder::StopFirst;
    }
    spec.update.order
}

fn target(cluster: &Cluster, name: &Name, version: &Version, pace: Pace) -> Target {
    let spec = &version.spec;
    let canaries = cluster.canaries(name).map(|canaries| rollout::Canaries {
        slots: canaries.slots,
        before: canaries.before.template,
        before_slots: canaries.before_slots,
    });
    Target {
        template: version.template,
        slots: wanted_slots(cluster, spec),
        order: update_order(cluster, spec),
        parallel: spec.update.parallel.max(1),
        healthy_for: spec.update.healthy_for,
        canaries,
        promoted: promoted(cluster, name),
        surplus: match (each_node(spec), pace) {
            (_, Pace::Back) => StopReason::RolledBack,
            (true, Pace::Steady | Pace::Rolling) => StopReason::Unsuitable,
            (false, Pace::Steady | Pace::Rolling) => StopReason::ScaledDown,
        },
    }
}

/// When the canaries of a service were promoted by hand, in the deploy that runs.
fn promoted(cluster: &Cluster, name: &Name) -> Option<Revision> {
    let (_, deploy) = cluster.running_deploy()?;
    match deploy.changes.get(name)?.promoted? {
        Promotion::Early(at) => Some(at),
        Promotion::Soaked => None,
    }
}

/// Where the latest alloc of a slot is or was, as far as that is remembered.
pub(crate) fn home(cluster: &Cluster, slot: &Slot) -> Option<NodeId> {
    let allocs = cluster.allocs_of(&slot.service).map(|(_, alloc)| alloc);
    let latest = allocs.filter(|alloc| alloc.slot == *slot).max_by_key(|alloc| alloc.placed)?;
    Some(latest.node)
}

/// Allocs of that version that failed in that slot and are remembered.
fn failed_allocs<'a>(cluster: &'a Cluster, slot: &Slot, template: u64) -> Vec<&'a Alloc> {
    let failed = cluster.allocs_of(&slot.service).map(|(_, alloc)| alloc).filter(|alloc| {
        alloc.slot == *slot && alloc.template == template && alloc.status.phase == Phase::Failed
    });
    failed.collect()
}
