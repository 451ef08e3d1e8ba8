//! What is not as it should be yet, once nothing goes wrong any more.

use std::collections::BTreeSet;

use mill_core::cluster::alloc::{Alloc, Phase};
use mill_core::cluster::certificates::Failure;
use mill_core::cluster::deploy::{Service, Version};
use mill_core::cluster::node::{NodeRecord, Trust};
use mill_core::cluster::task::{Cause, Run, RunState};
use mill_core::config::model::{ContainerSpec, HealthCheck, PlaceSpec, Replicas};
use mill_core::name::{Name, NodeId, Slot};

use crate::models::engine::Container;
use crate::world::World;

impl World {
    /// Everything that the cluster has still to do; empty once it has converged.
    pub fn pending(&self) -> Vec<String> {
        let mut pending = Vec::new();
        if self.leader().is_none() {
            pending.push("there is no leader".to_owned());
        }
        let state = self.cluster();
        for machine in self.joining_machines() {
            pending.push(format!("machine {machine} has not joined"));
        }
        for id in state.nodes.keys() {
            let Some(host) = self.hosts().find(|host| host.id == *id) else {
                pending.push(format!("{id} was admitted and does not know it"));
                continue;
            };
            let id = host.id;
            if !host.is_up() || !host.is_caught_up() || host.applied() < self.log_end() {
                pending.push(format!("{id} has not taken in everything that is committed"));
            }
            if !state.is_up(id) {
                pending.push(format!("{id} is not known to be up"));
            }
        }
        for (id, record) in &state.nodes {
            match record.trust {
                Trust::Full => {}
                Trust::Watched => pending.push(format!("{id} is not trusted again yet")),
            }
        }
        if let Some((number, deploy)) = state.running_deploy() {
            pending.push(format!("deploy #{number} is not over: {}", deploy.state.sentence()));
        }
        for (name, service) in &state.services {
            self.pending_service(name, service, &mut pending);
        }
        self.pending_certificates(&mut pending);
        self.pending_mesh(&mut pending);
        // What comes with a schedule never ends as a whole.
        let passing = |run: &Run| self.has_schedules() && matches!(run.cause, Cause::Schedule(_));
        for (number, run) in state.live_runs().filter(|(_, run)| !passing(run)) {
            if run.state != RunState::Waiting || self.has_room_for(run) {
                pending.push(format!("run {number} of {} is not over", run.task));
            }
        }
        for (id, alloc) in state.allocs.iter().filter(|(_, alloc)| alloc.run.is_some()) {
            if !self.has_schedules() && alloc.is_live() && !alloc.is_wanted() {
                pending.push(format!("{id} is not gone"));
            }
        }
        self.pending_containers(&mut pending);
        for person in self.waiting_people() {
            pending.push(format!("person {person} waits for an answer"));
        }
        pending
    }

    /// Who has not met whom, and keys that are to be replaced.
    fn pending_mesh(&self, pending: &mut Vec<String>) {
        let state = self.cluster();
        let mut firewall = false;
        for (id, record) in &state.nodes {
            let Some(facts) = &record.facts.mesh else {
                pending.push(format!("{id} is not in the mesh"));
                continue;
            };
            if facts.serial < record.rotate_to {
                pending.push(format!("the key of {id} is to be replaced"));
            }
            for other in state.nodes.keys().copied().filter(|other| other > id) {
                let blocked = self.has_firewall((*id, other));
                firewall |= blocked;
                if !blocked && !self.have_met(*id, other) {
                    pending.push(format!("{id} and {other} do not meet in the mesh"));
                }
            }
        }
        if !state.mesh_only && !firewall {
            pending.push("nodes speak outside the mesh".to_owned());
        }
    }

    /// Hosts without a certificate, but for those whose last try failed and rests.
    fn pending_certificates(&self, pending: &mut Vec<String>) {
        let state = self.cluster();
        let Some(leader) = self.leader().map(|leader| self.host(leader)) else { return };
        let now = leader.clock.now(self.now()).wall;
        let rests = |failure: Option<&Failure>| {
            failure.is_some_and(|failure| now.0.abs_diff(failure.at.0) < failure.rest.0)
        };
        if rests(state.certificates.unregistered.as_ref()) {
            return;
        }
        for host in state.wants_certificates() {
            let known = state.certificates.ordered.get(&host);
            let failure = known.and_then(|known| known.failure.as_ref());
            if known.is_none_or(|known| known.issued.is_none()) && !rests(failure) {
                pending.push(format!("{host} has no certificate"));
            }
        }
    }

    fn pending_service(&self, name: &Name, service: &Service, pending: &mut Vec<String>) {
        let Some((_, version)) = service.target() else {
            pending.push(format!("{name} is not wanted and still there"));
            return;
        };
        let wanted = self.wanted_slots(version);
        let unchecked = version.spec.container.health.check == HealthCheck::Running;
        let serves = |container: &Container| match unchecked {
            true => container.runs(),
            false => container.serves(self.now()),
        };
        for index in &wanted {
            let served = self.cluster().allocs_of(name).any(|(id, alloc)| {
                let host = self.host(alloc.node);
                let container = host.engine.container(id);
                alloc.slot.index == *index
                    && alloc.template == version.template
                    && alloc.is_wanted()
                    && alloc.status.phase == Phase::Healthy
                    && container.is_some_and(serves)
            });
            // Another version's replica in it is rightly kept while there is no room beside it.
            let in_slot = |alloc: &Alloc| {
                alloc.slot.index == *index
                    && alloc.template == version.template
                    && alloc.is_wanted()
            };
            let filled = self.cluster().allocs_of(name).any(|(_, alloc)| in_slot(alloc));
            if !served && (filled || self.has_room(version, *index)) {
                let slot = Slot { service: name.clone(), index: *index };
                pending.push(format!("{slot} is not healthy{}", self.why(&slot)));
            }
        }
        for (id, alloc) in self.cluster().allocs_of(name).filter(|(_, alloc)| alloc.is_live()) {
            let drains = self.cluster().nodes.get(&alloc.node).is_some_and(|node| node.draining);
            if drains && alloc.is_wanted() && self.has_room(version, alloc.slot.index) {
                pending.push(format!("{id} is on a node that drains"));
            }
            if !alloc.is_wanted() || !wanted.contains(&alloc.serves(version.spec.replicas)) {
                pending.push(format!("{id} is not gone"));
            }
        }
    }

    /// Whether something is run for ever, now and then.
    pub(crate) fn has_schedules(&self) -> bool {
        let mut tasks = self.cluster().tasks.values().filter_map(|task| task.current());
        tasks.any(|(_, version)| version.spec.schedule.is_some())
    }

    /// Whether a replica is kept that is not healthy, since nothing better has room.
    pub(crate) fn keeps_the_sick(&self) -> bool {
        let mut wanted = self.cluster().allocs.values().filter(|alloc| alloc.is_wanted());
        wanted.any(|alloc| alloc.run.is_none() && alloc.status.phase != Phase::Healthy)
    }

    /// What the leader says of a slot that is not as wanted, in brackets.
    fn why(&self, slot: &Slot) -> String {
        let daemon = self.leader().and_then(|id| self.host(id).daemon.as_ref());
        let told = daemon.and_then(|node| node.why(&slot.to_string()).ok());
        told.map_or_else(String::new, |told| format!(" ({})", told.because.join(", ")))
    }

    /// Whether a machine could take a slot: one for which none has room waits, rightly.
    fn has_room(&self, version: &Version, index: u64) -> bool {
        let spec = &version.spec;
        let each_node = spec.replicas == Replicas::EachNode;
        self.takes(&spec.container, &spec.place, |id| !each_node || id.0 == index)
    }

    fn has_room_for(&self, run: &Run) -> bool {
        self.takes(&run.spec.container, &run.spec.place, |_| true)
    }

    fn takes(
        &self,
        container: &ContainerSpec,
        place: &PlaceSpec,
        mine: impl Fn(NodeId) -> bool,
    ) -> bool {
        let mut nodes =
            self.cluster().nodes.iter().filter(|(id, record)| mine(**id) && record.takes_new());
        nodes.any(|(id, record)| {
            let live = || self.cluster().allocs_on(*id).filter(|(_, alloc)| alloc.is_live());
            let cpu: u64 = live().map(|(_, alloc)| alloc.cpu.0).sum();
            let memory: u64 = live().map(|(_, alloc)| alloc.memory.0).sum();
            let owned = container.owned_port();
            let taken = owned.is_some() && live().any(|(_, alloc)| alloc.port == owned);
            let has = record.facts.capacity;
            let mut required = place.require.iter();
            required.all(|(label, value)| record.labels.get(label) == Some(value))
                && cpu + container.reserved_cpu().0 <= has.cpu.0
                && memory + container.reserved_memory().0 <= has.memory.0
                && !taken
        })
    }

    fn wanted_slots(&self, version: &Version) -> BTreeSet<u64> {
        match version.spec.replicas {
            Replicas::Count(count) => (0..u64::from(count)).collect(),
            Replicas::EachNode => {
                let required = &version.spec.place.require;
                let suits = |record: &NodeRecord| {
                    let mut required = required.iter();
                    required.all(|(label, value)| record.labels.get(label) == Some(value))
                };
                let nodes = self.cluster().nodes.iter().filter(|(_, record)| {
                    record.roles.secondary && !record.draining && suits(record)
                });
                nodes.map(|(id, _)| id.0).collect()
            }
        }
    }

    /// Containers on machines that belong to nothing that should run there.
    fn pending_containers(&self, pending: &mut Vec<String>) {
        // One that was removed may never hear of it.
        let members = self.hosts().filter(|host| self.cluster().nodes.contains_key(&host.id));
        for host in members {
            for (id, container) in host.engine.containers() {
                let of_run = container.spec.env.contains_key("MILL_RUN");
                if of_run && self.has_schedules() {
                    continue;
                }
                let alloc = self.cluster().allocs.get(id);
                let kept = |alloc: &&Alloc| alloc.run.is_some() && !container.runs();
                let alloc = alloc.filter(|alloc| alloc.is_wanted() || kept(alloc));
                if alloc.is_none_or(|alloc| alloc.node != host.id) {
                    pending.push(format!("a container of {id} is left on {}", host.id));
                }
            }
        }
    }
}
