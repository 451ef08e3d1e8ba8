//! Nothing is asked to stop while somebody may still send something to it: what is released was let
//! go of by every node that is up, each of which had said so to the leader; and what is under way
//! is done, or had its time, before the stop.

use std::collections::BTreeMap;

use mill_core::Effect;
use mill_core::cluster::alloc::Alloc;
use mill_core::cluster::command::{Command, Entry};
use mill_core::cluster::{Cluster, Revision};
use mill_core::container::ContainerOp;
use mill_core::message::Message;
use mill_core::name::{AllocId, NodeId};
use mill_core::time::Mono;
use mill_core::units::Millis;

use super::{Invariant, Moment};
use crate::world::host::Host;

/// What nodes have said, and since when they count what is under way.
#[derive(Default)]
pub(super) struct Released {
    /// The last revision of each node that anybody was told of.
    said: BTreeMap<NodeId, Revision>,
    /// When a node, in one of its boots, first counted the connections of an alloc.
    counted: BTreeMap<(NodeId, u64, AllocId), Mono>,
}

impl Invariant for Released {
    fn name(&self) -> &'static str {
        "released"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        match moment {
            Moment::Heard { from, message: Message::Heartbeat { revision, .. }, .. } => {
                self.says(*from, *revision);
                Ok(())
            }
            Moment::Committed { entry, after, .. } => self.let_go(entry, after),
            Moment::Effect { host, effect: Effect::Container { op, .. }, at } => {
                self.asked(host, op, *at)
            }
            // A leader hears itself without a message.
            Moment::State { node, at, .. } => {
                self.says(*node, *at);
                Ok(())
            }
            Moment::Effect { .. } | Moment::Heard { .. } | Moment::Agreed { .. } => Ok(()),
            Moment::Belief { .. } | Moment::Unanswered { .. } => Ok(()),
            Moment::Answer { .. } | Moment::Host { .. } | Moment::Validation { .. } => Ok(()),
        }
    }
}

impl Released {
    fn says(&mut self, node: NodeId, revision: Revision) {
        let said = self.said.entry(node).or_insert(revision);
        *said = revision.max(*said);
    }

    fn let_go(&self, entry: &Entry, after: &Cluster) -> Result<(), String> {
        for command in &entry.commands {
            let Command::Release { alloc: id, by } = command else { continue };
            let Some(leaving) = after.allocs.get(id).and_then(|alloc| alloc.leaving.as_ref())
            else {
                continue;
            };
            // It may be refused; the leader's own word needs no message.
            if leaving.released.as_ref().is_none_or(|released| released.by != *by) {
                continue;
            }
            let holds = |node: &&NodeId| {
                **node != entry.id.node && self.said.get(*node).is_none_or(|s| *s < leaving.since)
            };
            if let Some(node) = by.iter().find(holds) {
                return Err(format!("{id} is released, and {node} has not let go of it"));
            }
        }
        Ok(())
    }

    fn asked(&mut self, host: &Host, op: &ContainerOp, at: Mono) -> Result<(), String> {
        let known = |alloc: &AllocId| (host.id, host.boots, alloc.clone());
        match op {
            ContainerOp::CountInFlight { alloc, .. } => {
                self.counted.entry(known(alloc)).or_insert(at);
                Ok(())
            }
            ContainerOp::Stop { alloc, .. } => {
                let state = host.daemon.as_ref().map(|daemon| daemon.cluster());
                let leaves = state.and_then(|state| state.allocs.get(alloc));
                let leaves = leaves.filter(|alloc| alloc.is_live() && alloc.is_released());
                let Some(leaves) = leaves.filter(|_| is_busy(host, alloc)) else { return Ok(()) };
                let drain = state.and_then(|state| drain(state, leaves)).unwrap_or_default();
                if drain == Millis(0) {
                    return Ok(());
                }
                match self.counted.get(&known(alloc)) {
                    Some(since) if at.since(*since) >= drain => Ok(()),
                    _ => Err(format!("{alloc} is asked to stop and has not had its {drain}")),
                }
            }
            ContainerOp::Start { .. } | ContainerOp::Restart { .. } => Ok(()),
            ContainerOp::Resolve { .. } | ContainerOp::Fetch { .. } => Ok(()),
            ContainerOp::PruneImages { .. } => Ok(()),
            ContainerOp::Remove { .. } | ContainerOp::List => Ok(()),
            ContainerOp::Probe { .. } | ContainerOp::Tail { .. } => Ok(()),
        }
    }
}

/// Whether it serves on a port, and its node does not know that nothing is under way there.
fn is_busy(host: &Host, alloc: &AllocId) -> bool {
    let container = host.engine.container(alloc).filter(|container| container.runs());
    // One that fails its health check is stopped for that.
    container
        .is_some_and(|c| c.spec.port.is_some() && c.in_flight != Some(0) && c.failed_probes == 0)
}

/// How long what is under way may take.
fn drain(cluster: &Cluster, alloc: &Alloc) -> Option<Millis> {
    let service = cluster.services.get(&alloc.slot.service)?;
    Some(service.versions.get(&alloc.template)?.spec.container.stop.drain)
}
