//! No container outlives its bound on a node that has heard that it must stop.

use std::collections::BTreeMap;

use mill_core::cluster::alloc::Alloc;
use mill_core::container::ContainerState;
use mill_core::name::{AllocId, NodeId};
use mill_core::units::Millis;

use super::{Invariant, Moment};
use crate::time::SimTime;
use crate::world::host::Host;

/// The longest drain and grace of the workload, slow operations, and one longest wait between two
/// tries.
const BOUND: Millis = Millis::secs(210);

/// Since when each such container could have been stopped without a break.
#[derive(Default)]
pub(super) struct Outlives(BTreeMap<(NodeId, AllocId), SimTime>);

impl Invariant for Outlives {
    fn name(&self) -> &'static str {
        "outlives"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Host { now, host } = moment else { return Ok(()) };
        let overdue = overdue(host);
        self.0.retain(|(node, alloc), _| *node != host.id || overdue.contains(&alloc));
        for alloc in overdue {
            let since = *self.0.entry((host.id, alloc.clone())).or_insert(*now);
            if now.since(since) > BOUND {
                return Err(format!(
                    "{alloc} still runs on {}, which has known for {} that it must not",
                    host.id,
                    now.since(since)
                ));
            }
        }
        Ok(())
    }
}

/// Containers that run, on a node that knows that they should not and could stop them.
fn overdue(host: &Host) -> Vec<&AllocId> {
    let able = !host.frozen && !host.engine.down && host.is_caught_up();
    let Some(daemon) = host.daemon.as_ref().filter(|_| able) else { return Vec::new() };
    let wanted = |id: &AllocId| {
        let alloc = daemon.cluster().allocs.get(id);
        let stays = |alloc: &Alloc| alloc.is_wanted() || (alloc.is_live() && !alloc.is_released());
        alloc.is_some_and(|alloc| stays(alloc) && alloc.node == host.id)
    };
    let running = host.engine.containers().filter(|(_, c)| c.state == ContainerState::Running);
    running.map(|(id, _)| id).filter(|id| !wanted(id)).collect()
}
