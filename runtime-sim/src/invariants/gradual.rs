//! What was lost comes back a few at a time: no entry places more replicas elsewhere whose nodes
//! are down than [`Timing::lost_at_once`].

use std::collections::BTreeSet;

use mill_core::cluster::Cluster;
use mill_core::cluster::command::Command;
use mill_core::name::Slot;
use mill_core::timing::Timing;

use super::{Invariant, Moment};

/// Counts in each entry.
pub(super) struct Gradual;

impl Invariant for Gradual {
    fn name(&self) -> &'static str {
        "gradual"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Committed { before, entry, after, .. } = moment else { return Ok(()) };
        let lost = lost(after);
        let again = entry.commands.iter().filter(|command| {
            let Command::Place { alloc, slot, template, .. } = command else { return false };
            let held = !before.allocs.contains_key(alloc) && after.allocs.contains_key(alloc);
            held && lost.contains(&(slot, *template))
        });
        let (again, most) = (again.count(), Timing::default().lost_at_once);
        match u32::try_from(again).is_ok_and(|again| again <= most) {
            true => Ok(()),
            false => Err(format!("{again} lost replicas are placed at once, more than {most}")),
        }
    }
}

/// Slots of nodes that are down, and what should run in them.
fn lost(cluster: &Cluster) -> BTreeSet<(&Slot, u64)> {
    let allocs = cluster.allocs.values().filter(|alloc| alloc.is_wanted());
    let lost = allocs.filter(|alloc| !cluster.is_up(alloc.node));
    lost.map(|alloc| (&alloc.slot, alloc.template)).collect()
}
