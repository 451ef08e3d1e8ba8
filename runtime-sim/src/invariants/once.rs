//! What may have been done is not asked for again: a node passes on no request a second time that
//! changes something, once it knows nothing of what became of the first.

use std::collections::BTreeSet;

use mill_core::Effect;
use mill_core::api::RequestId;
use mill_core::name::NodeId;

use super::{Invariant, Moment};

/// Requests without an answer, by node and boot.
#[derive(Default)]
pub(super) struct Once(BTreeSet<(NodeId, u64, RequestId)>);

impl Invariant for Once {
    fn name(&self) -> &'static str {
        "once"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        match moment {
            Moment::Unanswered { node, boot, id } => {
                self.0.insert((*node, *boot, *id));
                Ok(())
            }
            Moment::Effect { host, effect: Effect::Forward { id, request, .. }, .. } => {
                let unanswered = self.0.contains(&(host.id, host.boots, *id));
                match unanswered && request.is_write() {
                    true => Err(format!("{} asks again for what may have been done", host.id)),
                    false => Ok(()),
                }
            }
            Moment::Effect { .. } | Moment::Heard { .. } | Moment::Belief { .. } => Ok(()),
            Moment::Committed { .. } | Moment::Agreed { .. } | Moment::State { .. } => Ok(()),
            Moment::Answer { .. } | Moment::Host { .. } | Moment::Validation { .. } => Ok(()),
        }
    }
}
