//! Where the slots of one service go, in the turns in which the rollout would take them.
//!
//! It keeps in step with what `rollout` does when all goes well: empty slots are filled at once,
//! occupied ones `parallel` at a time, and what was replaced holds what it has until it is gone.
//! That plans come true is tested in `sim-tests/tests/plans.rs`.

use std::collections::{BTreeSet, VecDeque};

use super::{Lost, SlotPlan, SlotStep, node_name, running};
use crate::cluster::Cluster;
use crate::cluster::alloc::Alloc;
use crate::config::model::{Replicas, ServiceSpec, UpdateOrder};
use crate::name::{AllocId, NodeId, Slot};
use crate::scheduler::{self, Ask, Candidate, Reason, Rejected, Verdict};

/// Fills the slots of one service.
pub(super) struct Filling<'a> {
    pub cluster: &'a Cluster,
    pub spec: &'a ServiceSpec,
    /// The version whose allocs may stay.
    pub template: Option<u64>,
    pub order: UpdateOrder,
    /// Slots that are replaced in one turn, at least 1.
    pub parallel: usize,
    pub nodes: &'a mut [Candidate],
    /// Allocs that were replaced, with their turn; they hold what they have until they are gone.
    pub going: VecDeque<(usize, &'a Alloc)>,
}

type Held<'a> = (&'a AllocId, &'a Alloc);

impl<'a> Filling<'a> {
    /// What happens to each of the slots, in their order.
    pub fn fill(mut self, slots: impl Iterator<Item = Slot>) -> Vec<SlotPlan> {
        let (mut planned, mut empty, mut occupied) = (Vec::new(), Vec::new(), Vec::new());
        for slot in slots {
            match self.occupant(&slot) {
                Some((id, alloc)) if Some(alloc.template) == self.template => {
                    let node = node_name(self.cluster, alloc.node);
                    planned
                        .push(SlotPlan { slot, step: SlotStep::Keep { alloc: id.clone(), node } });
                }
                Some(held) => occupied.push((slot, Some(held))),
                None => empty.push((slot, None)),
            }
        }
        let first = match self.order {
            // Empty slots take part in the first turn, each in its place.
            UpdateOrder::StartFirst => self.parallel.min(occupied.len()),
            // They are filled while the first old ones stop.
            UpdateOrder::StopFirst => 0,
        };
        empty.extend(occupied.drain(..first));
        empty.sort_by(|(a, _), (b, _)| a.cmp(b));
        planned.extend(self.turn(0, &empty));
        for (turn, slots) in (1..).zip(occupied.chunks(self.parallel)) {
            planned.extend(self.turn(turn, slots));
        }
        planned.sort_by(|a, b| a.slot.cmp(&b.slot));
        planned
    }

    fn turn(&mut self, turn: usize, slots: &[(Slot, Option<Held<'a>>)]) -> Vec<SlotPlan> {
        if self.order == UpdateOrder::StopFirst {
            slots.iter().filter_map(|(_, held)| *held).for_each(|(_, old)| self.release(old));
        }
        // A turn begins when those of the last are ready: its old ones are only asked to stop.
        while self.going.front().is_some_and(|(gone, _)| gone + 1 < turn) {
            self.release_next();
        }
        let mut planned = Vec::new();
        for (slot, held) in slots {
            let placed = self.place(slot);
            if let (Ok(_), Some((_, old)), UpdateOrder::StartFirst) = (&placed, held, self.order) {
                self.going.push_back((turn, old));
            }
            let step = match placed {
                Ok(node) => self.filled(slot, *held, node),
                Err(rejected) => {
                    SlotStep::Unplaced { alloc: held.map(|(id, _)| id.clone()), rejected }
                }
            };
            planned.push(SlotPlan { slot: slot.clone(), step });
        }
        planned
    }

    fn filled(&self, slot: &Slot, held: Option<Held<'a>>, node: NodeId) -> SlotStep {
        let name = |node| node_name(self.cluster, node);
        match held {
            Some((id, old)) => {
                SlotStep::Replace { alloc: id.clone(), from: name(old.node), to: name(node) }
            }
            None => {
                let lost = self.in_slot(slot).first().copied();
                let lost = lost.map(|(id, a)| Lost { alloc: id.clone(), node: name(a.node) });
                SlotStep::Create { node: name(node), lost }
            }
        }
    }

    /// What fills the slot now and can be heard; the wanted version if there is one.
    fn occupant(&self, slot: &Slot) -> Option<Held<'a>> {
        let mut heard = self.in_slot(slot);
        heard.retain(|(_, alloc)| self.cluster.is_up(alloc.node));
        let wanted = heard.iter().find(|(_, alloc)| Some(alloc.template) == self.template);
        wanted.or_else(|| heard.first()).copied()
    }

    fn in_slot(&self, slot: &Slot) -> Vec<Held<'a>> {
        running(self.cluster, &slot.service).filter(|(_, alloc)| alloc.slot == *slot).collect()
    }

    /// Where the slot goes: with the room that there is in its turn, or else that there will be.
    fn place(&mut self, slot: &Slot) -> Result<NodeId, Vec<Rejected>> {
        let mut placed = self.ask(slot);
        while placed.is_err() && !self.going.is_empty() {
            self.release_next();
            placed = self.ask(slot);
        }
        placed
    }

    fn ask(&mut self, slot: &Slot) -> Result<NodeId, Vec<Rejected>> {
        let pinned = (self.spec.replicas == Replicas::EachNode).then_some(NodeId(slot.index));
        let ask = Ask { slot: slot.clone(), spec: self.spec, pinned, avoid: BTreeSet::new() };
        let verdict = scheduler::place(self.nodes, std::slice::from_ref(&ask)).pop();
        match verdict.expect("one ask has one verdict") {
            Verdict::Placed { node, .. } => Ok(node),
            Verdict::Unplaced(mut rejected) => {
                // That other nodes have slots of their own says nothing about this one.
                rejected.retain(|rejected| rejected.reason != Reason::OtherNode);
                let down = self.cluster.nodes.iter().filter(|(_, record)| !record.is_up());
                let mine = down.filter(|(id, _)| pinned.is_none_or(|node| node == **id));
                rejected.extend(mine.map(|(_, record)| Rejected {
                    node: record.facts.name.clone(),
                    reason: Reason::Down,
                }));
                Err(rejected)
            }
        }
    }

    fn release_next(&mut self) {
        if let Some((_, alloc)) = self.going.pop_front() {
            self.release(alloc);
        }
    }

    fn release(&mut self, alloc: &Alloc) {
        if let Some(node) = self.nodes.iter_mut().find(|node| node.id == alloc.node) {
            node.release(alloc);
        }
    }
}
