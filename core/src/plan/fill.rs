//! Where slots go, in the turns in which the rollout would take them when all goes well.
//!
//! All services take their turns together: what is empty is filled at once, what is occupied is
//! replaced `parallel` slots at a time, and what was replaced holds what it has for a turn more.
//! Canaries come before all others of their service, together where they start beside what is there.
//! What has no place is tried again whenever something left, as the brain does. That plans come
//! true is tested in `sim-tests/tests/plans.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Lost, SlotPlan, SlotStep, node_name, running};
use crate::brain::services::{home, wanted_slots};
use crate::cluster::Cluster;
use crate::cluster::alloc::Alloc;
use crate::cluster::node::NodeRecord;
use crate::config::model::{Replicas, ServiceSpec, UpdateOrder};
use crate::name::{AllocId, Name, NodeId, Slot};
use crate::scheduler::{self, Ask, Candidate, Needs, Rejected, Verdict};

/// What is wanted of one service.
pub(super) struct Wanted<'a> {
    pub name: &'a Name,
    pub spec: &'a ServiceSpec,
    /// The version whose allocs may stay.
    pub template: Option<u64>,
    pub order: UpdateOrder,
    /// Slots that are replaced in one turn, at least 1.
    pub parallel: usize,
    /// Slots that come first, while the others wait; empty if none do.
    pub canaries: Vec<u64>,
}

/// An alloc that fills a slot now and can be heard.
type Held<'a> = (&'a AllocId, &'a Alloc);

/// A slot that has to be filled.
#[derive(Clone)]
struct Vacancy<'a> {
    slot: Slot,
    held: Vec<Held<'a>>,
}

/// A service on its way.
struct Filling<'a> {
    wanted: Wanted<'a>,
    /// To be filled as soon as there is room, in the order of their slots.
    open: Vec<Vacancy<'a>>,
    /// Occupied slots that wait for their turn.
    queue: VecDeque<Vacancy<'a>>,
    /// Slots that wait for the canaries.
    followers: Vec<Vacancy<'a>>,
    planned: Vec<SlotPlan>,
}

struct Turns<'a> {
    cluster: &'a Cluster,
    nodes: Vec<Candidate>,
    /// Allocs that were replaced in the last turn, and in this one.
    going: Vec<&'a Alloc>,
    replaced: Vec<&'a Alloc>,
}

/// What happens to each wanted slot, for each service in the order given.
pub(super) fn fill<'a>(cluster: &'a Cluster, wanted: Vec<Wanted<'a>>) -> Vec<Vec<SlotPlan>> {
    let mut services: Vec<Filling<'a>> =
        wanted.into_iter().map(|wanted| Filling::begin(cluster, wanted)).collect();
    let nodes = scheduler::candidates(cluster);
    let mut turns = Turns { cluster, nodes, going: Vec::new(), replaced: Vec::new() };
    while turns.take(&mut services) {}
    services.into_iter().map(|service| turns.told(service)).collect()
}

impl<'a> Filling<'a> {
    fn begin(cluster: &'a Cluster, wanted: Wanted<'a>) -> Filling<'a> {
        let mut heard: BTreeMap<u64, Vec<Held<'a>>> = BTreeMap::new();
        for held in running(cluster, wanted.name).filter(|(_, alloc)| cluster.is_up(alloc.node)) {
            heard.entry(held.1.serves(wanted.spec.replicas)).or_default().push(held);
        }
        let (mut planned, mut open, mut queue) = (Vec::new(), Vec::new(), VecDeque::new());
        let mut followers = Vec::new();
        for index in wanted_slots(cluster, wanted.spec) {
            let slot = Slot { service: wanted.name.clone(), index };
            let held = heard.remove(&index).unwrap_or_default();
            let kept = held.iter().find(|(_, alloc)| {
                let emptied = cluster.nodes.get(&alloc.node).is_some_and(|node| node.draining);
                Some(alloc.template) == wanted.template && alloc.slot.index == index && !emptied
            });
            // Where each node has one now, those beside it were placed when their number counted.
            let stays = kept.or(held.first()).map(|(id, _)| *id);
            let others =
                held.iter().filter(|(id, alloc)| Some(*id) != stays && alloc.slot.index != index);
            planned.extend(others.map(|(id, alloc)| super::stop(cluster, id, alloc)));
            match kept {
                Some((id, alloc)) => {
                    let node = node_name(cluster, alloc.node);
                    let step = SlotStep::Keep { alloc: (*id).clone(), node };
                    planned.push(SlotPlan { slot, step });
                }
                None if !wanted.canaries.is_empty() && !wanted.canaries.contains(&index) => {
                    followers.push(Vacancy { slot, held });
                }
                None => {
                    Filling::enter(wanted.order, &mut open, &mut queue, Vacancy { slot, held });
                }
            }
        }
        Filling { wanted, open, queue, followers, planned }
    }

    fn enter(
        order: UpdateOrder,
        open: &mut Vec<Vacancy<'a>>,
        queue: &mut VecDeque<Vacancy<'a>>,
        vacancy: Vacancy<'a>,
    ) {
        match !vacancy.held.is_empty() && order == UpdateOrder::StopFirst {
            true => queue.push_back(vacancy),
            false => open.push(vacancy),
        }
    }

    /// The others follow, once no canary waits any more; whether any did.
    fn follow(&mut self) -> bool {
        if !self.open.is_empty() || !self.queue.is_empty() || self.followers.is_empty() {
            return false;
        }
        for vacancy in std::mem::take(&mut self.followers) {
            Filling::enter(self.wanted.order, &mut self.open, &mut self.queue, vacancy);
        }
        true
    }

    /// Slots that are replaced in one turn now: canaries together where nothing has to go first.
    fn turns(&self) -> usize {
        match self.wanted.order {
            UpdateOrder::StartFirst if !self.followers.is_empty() => {
                self.wanted.parallel.max(self.wanted.canaries.len())
            }
            UpdateOrder::StartFirst | UpdateOrder::StopFirst => self.wanted.parallel,
        }
    }

    /// The occupied slots whose turn it is, where `busy` others are in the middle of something.
    fn next_turn(&mut self, busy: usize) -> Vec<Vacancy<'a>> {
        let turns = self.wanted.parallel.saturating_sub(busy).min(self.queue.len());
        self.queue.drain(..turns).collect()
    }

    fn open(&mut self, vacancies: impl IntoIterator<Item = Vacancy<'a>>) {
        self.open.extend(vacancies);
        self.open.sort_by(|a, b| a.slot.cmp(&b.slot));
    }
}

impl<'a> Turns<'a> {
    /// One turn of all services; false if nothing moved in it and nothing will.
    fn take(&mut self, services: &mut [Filling<'a>]) -> bool {
        let mut moved = !self.going.is_empty();
        for service in services.iter_mut() {
            moved |= service.follow();
        }
        // Start-first services place beside what is there; empty slots are filled everywhere.
        let busy: Vec<usize> = services.iter().map(|service| service.open.len()).collect();
        let mut turns: Vec<usize> = services.iter().map(Filling::turns).collect();
        for (service, turns) in services.iter_mut().zip(&mut turns) {
            moved |= self.place_open(service, turns);
        }
        // Then goes what the last turn replaced, and what has to be gone first.
        for alloc in std::mem::take(&mut self.going) {
            self.release(alloc);
        }
        for ((service, turns), busy) in services.iter_mut().zip(&mut turns).zip(busy) {
            moved |= self.place_open(service, turns);
            if service.wanted.order == UpdateOrder::StartFirst {
                continue;
            }
            // Containers end one by one, and the first that is gone is the first replaced.
            for vacancy in service.next_turn(busy) {
                moved = true;
                vacancy.held.iter().for_each(|(_, alloc)| self.release(alloc));
                service.open([vacancy]);
                self.place_open(service, turns);
            }
        }
        self.going = std::mem::take(&mut self.replaced);
        moved
    }

    /// Places what can be placed of a service, of what goes beside others as many as there are
    /// turns; whether anything was.
    fn place_open(&mut self, service: &mut Filling<'a>, turns: &mut usize) -> bool {
        let mut placed = false;
        let pinned = service.wanted.spec.replicas == Replicas::EachNode;
        let mut full = false;
        let open = std::mem::take(&mut service.open);
        for vacancy in open {
            let beside =
                !vacancy.held.is_empty() && service.wanted.order == UpdateOrder::StartFirst;
            // Where one of a service has no room, the next has none either.
            let verdict = match full || (beside && *turns == 0) {
                true => None,
                false => self.ask(&service.wanted, &vacancy.slot).map_err(|_| full = !pinned).ok(),
            };
            match verdict {
                Some(node) => {
                    placed = true;
                    if beside {
                        *turns -= 1;
                        self.replaced.extend(vacancy.held.iter().map(|(_, alloc)| *alloc));
                    }
                    service.planned.push(self.filled(vacancy, node));
                }
                None => service.open.push(vacancy),
            }
        }
        placed
    }

    /// All of a service: what is left has no place, or waits behind what has none.
    fn told(&mut self, mut service: Filling<'a>) -> Vec<SlotPlan> {
        for vacancy in std::mem::take(&mut service.open) {
            let told = self.last_word(&service.wanted, vacancy);
            service.planned.push(told);
        }
        let queued = std::mem::take(&mut service.queue).into_iter();
        for vacancy in queued.chain(std::mem::take(&mut service.followers)) {
            if service.wanted.order == UpdateOrder::StopFirst {
                vacancy.held.iter().for_each(|(_, alloc)| self.release(alloc));
            }
            let told = self.last_word(&service.wanted, vacancy);
            service.planned.push(told);
        }
        service.planned.sort_by(|a, b| a.slot.cmp(&b.slot));
        service.planned
    }

    fn last_word(&mut self, wanted: &Wanted<'_>, vacancy: Vacancy<'a>) -> SlotPlan {
        let owner = NodeId(vacancy.slot.index);
        if wanted.spec.replicas == Replicas::EachNode && !self.cluster.is_up(owner) {
            let node = node_name(self.cluster, owner);
            return SlotPlan { slot: vacancy.slot, step: SlotStep::Waits { node } };
        }
        match self.ask(wanted, &vacancy.slot) {
            Ok(node) => self.filled(vacancy, node),
            Err(rejected) => {
                let alloc = vacancy.held.first().map(|(id, _)| (*id).clone());
                SlotPlan { slot: vacancy.slot, step: SlotStep::Unplaced { alloc, rejected } }
            }
        }
    }

    fn filled(&self, Vacancy { slot, held }: Vacancy<'a>, node: NodeId) -> SlotPlan {
        let name = |node| node_name(self.cluster, node);
        let step = match held.first() {
            Some((id, old)) => {
                SlotStep::Replace { alloc: (*id).clone(), from: name(old.node), to: name(node) }
            }
            None => {
                let mut lost = running(self.cluster, &slot.service).filter(|(_, a)| a.slot == slot);
                let lost = lost.next();
                let lost = lost.map(|(id, a)| Lost { alloc: id.clone(), node: name(a.node) });
                SlotStep::Create { node: name(node), lost }
            }
        };
        SlotPlan { slot, step }
    }

    fn ask(&mut self, wanted: &Wanted<'_>, slot: &Slot) -> Result<NodeId, Vec<Rejected>> {
        let spec = wanted.spec;
        let pinned = (spec.replicas == Replicas::EachNode).then_some(NodeId(slot.index));
        let home = home(self.cluster, slot);
        let needs = Needs::of(spec);
        let ask = Ask { slot: slot.clone(), needs, pinned, avoid: BTreeSet::new(), home };
        let verdict = scheduler::place(&mut self.nodes, std::slice::from_ref(&ask)).pop();
        match verdict.expect("one ask has one verdict") {
            Verdict::Placed { node, .. } => Ok(node),
            Verdict::Unplaced(mut rejected) => {
                rejected.extend(scheduler::down(self.cluster, pinned));
                Err(rejected)
            }
        }
    }

    fn release(&mut self, alloc: &Alloc) {
        let all_up = self.cluster.nodes.values().all(NodeRecord::is_up);
        if let Some(node) = self.nodes.iter_mut().find(|node| node.id == alloc.node) {
            node.release(alloc);
            // It rests if a member cannot say that it knows.
            let resting = alloc.port.filter(|_| alloc.served && !all_up);
            node.resting.extend(resting.map(|port| (port, alloc.slot.service.clone())));
        }
    }
}
