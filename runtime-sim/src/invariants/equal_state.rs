//! Equal revisions mean equal bytes, on every node and after every snapshot.

use std::collections::BTreeMap;

use mill_core::cluster::Revision;

use super::{Invariant, Moment};

/// Hashes of the state, by revision.
#[derive(Default)]
pub(super) struct EqualState(BTreeMap<Revision, u64>);

impl Invariant for EqualState {
    fn name(&self) -> &'static str {
        "equal_state"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        match moment {
            Moment::Agreed { at, hash } => {
                self.0.insert(*at, *hash);
                Ok(())
            }
            Moment::State { node, at, hash } => match self.0.get(at) {
                Some(known) if known == hash => Ok(()),
                Some(_) => Err(format!("{node} has another state at {at} than the others")),
                None => Err(format!("{node} is at {at}, which was never committed")),
            },
            Moment::Committed { .. } | Moment::Effect { .. } | Moment::Belief { .. } => Ok(()),
            Moment::Heard { .. } => Ok(()),
            Moment::Unanswered { .. }
            | Moment::Answer { .. }
            | Moment::Host { .. }
            | Moment::Validation { .. } => Ok(()),
        }
    }
}
