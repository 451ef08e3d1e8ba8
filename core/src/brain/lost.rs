//! How many lost slots are filled at a time: a cluster that loses many nodes at once, or thinks
//! so, moves a few replicas, looks how that went, and moves a few more.
//!
//! Lost is a slot whose alloc is wanted and whose node is down; it is being filled while another
//! alloc of it is on its way to be healthy. Both are read from the state, so a new leader goes on
//! where the last one was. What a deploy moves has a limit of its own (`parallel`).

use std::collections::BTreeSet;

use super::{Brain, Draft};
use crate::cluster::Cluster;
use crate::cluster::alloc::{Alloc, Phase};
use crate::mutant::{self, Mutant};
use crate::name::Slot;
use crate::node::Wake;
use crate::units::Millis;

/// A new replica holds others up for this long at most: some never become healthy.
const HOLDS_UP_FOR: Millis = Millis::mins(1);

/// Slots whose node is down, and how many more of them may be filled now.
pub(super) struct Lost<'a> {
    slots: BTreeSet<(&'a Slot, u64)>,
    /// How many may be filled.
    pub left: u32,
}

impl Lost<'_> {
    /// Whether that slot, to be filled with that template, is lost.
    pub fn is(&self, slot: &Slot, template: u64) -> bool {
        self.slots.contains(&(slot, template))
    }
}

impl Brain {
    /// What is lost, less what is on its way.
    pub(super) fn lost<'a>(&mut self, draft: &mut Draft<'a>) -> Lost<'a> {
        let slots = lost_slots(draft.cluster);
        if slots.is_empty() {
            self.replacing.clear();
            return Lost { slots, left: self.timing.lost_at_once };
        }
        let now = draft.now.mono;
        let wanted = draft.cluster.allocs.iter().filter(|(_, alloc)| alloc.is_wanted());
        let on_its_way = wanted.filter(|(_, alloc)| {
            draft.cluster.is_up(alloc.node)
                && is_on_its_way(alloc)
                && slots.contains(&(&alloc.slot, alloc.template))
        });
        let since = on_its_way.map(|(id, _)| {
            let known = self.replacing.get(id).copied();
            (id.clone(), known.unwrap_or(now))
        });
        self.replacing = since.collect();
        let mut busy = 0;
        for since in self.replacing.values().filter(|since| **since + HOLDS_UP_FOR > now) {
            busy += 1;
            draft.wake_at(*since + HOLDS_UP_FOR, Wake::Retry);
        }
        if mutant::is(Mutant::LostAllAtOnce) {
            return Lost { slots, left: u32::MAX };
        }
        Lost { slots, left: self.timing.lost_at_once.saturating_sub(busy) }
    }
}

fn lost_slots(cluster: &Cluster) -> BTreeSet<(&Slot, u64)> {
    let down = cluster.nodes.iter().filter(|(_, record)| !record.is_up());
    let allocs = down.flat_map(|(node, _)| cluster.allocs_on(*node));
    let replicas = allocs.map(|(_, alloc)| alloc).filter(|alloc| alloc.run.is_none());
    let wanted = replicas.filter(|alloc| alloc.is_wanted());
    wanted.map(|alloc| (&alloc.slot, alloc.template)).collect()
}

fn is_on_its_way(alloc: &Alloc) -> bool {
    match alloc.status.phase {
        Phase::Placed | Phase::Starting | Phase::Running => alloc.status.trouble.is_none(),
        Phase::Healthy | Phase::Unhealthy | Phase::BackingOff => false,
        Phase::Stopping | Phase::Stopped | Phase::Completed | Phase::Failed => false,
    }
}
