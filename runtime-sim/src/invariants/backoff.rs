//! What failed is not started again at once: between two starts of one alloc its node waits for a
//! second at least, by its own clock, unless its engine was away meanwhile: to ask an engine that is
//! away starts nothing.

use std::collections::BTreeMap;

use mill_core::Effect;
use mill_core::container::ContainerOp;
use mill_core::name::{AllocId, NodeId};
use mill_core::time::Mono;
use mill_core::units::Millis;

use super::{Invariant, Moment};

/// The shortest wait.
const SHORTEST: Millis = Millis::secs(1);

/// When each alloc was started last, in which boot of its node.
#[derive(Default)]
pub(super) struct Backoff(BTreeMap<(NodeId, AllocId), (u64, Mono)>);

impl Invariant for Backoff {
    fn name(&self) -> &'static str {
        "backoff"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        match moment {
            // What waits for an engine is tried as soon as that is back.
            Moment::Host { host, .. } if host.engine.down => {
                self.0.retain(|(node, _), _| *node != host.id);
                Ok(())
            }
            Moment::Effect { host, effect: Effect::Container { op, .. }, at } => {
                let alloc = match op {
                    ContainerOp::Start { spec } => &spec.alloc,
                    ContainerOp::Restart { alloc, .. } => alloc,
                    ContainerOp::Resolve { .. } | ContainerOp::Fetch { .. } => return Ok(()),
                    ContainerOp::PruneImages { .. } => return Ok(()),
                    ContainerOp::Stop { .. } | ContainerOp::Remove { .. } => return Ok(()),
                    ContainerOp::Probe { .. } | ContainerOp::Tail { .. } => return Ok(()),
                    ContainerOp::List | ContainerOp::CountInFlight { .. } => return Ok(()),
                };
                if host.engine.down {
                    return Ok(());
                }
                let before = self.0.insert((host.id, alloc.clone()), (host.boots, *at));
                let Some((_, before)) = before.filter(|(boot, _)| *boot == host.boots) else {
                    return Ok(());
                };
                if at.since(before) >= SHORTEST {
                    return Ok(());
                }
                let wait = at.since(before);
                Err(format!("{} starts {alloc} again after {wait}", host.id))
            }
            Moment::Host { .. } | Moment::Effect { .. } | Moment::Heard { .. } => Ok(()),
            Moment::Committed { .. } | Moment::Agreed { .. } | Moment::State { .. } => Ok(()),
            Moment::Belief { .. }
            | Moment::Unanswered { .. }
            | Moment::Answer { .. }
            | Moment::Validation { .. } => Ok(()),
        }
    }
}
