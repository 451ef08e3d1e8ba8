//! One leader per term, whatever nodes believe of later and earlier ones.

use std::collections::BTreeMap;

use mill_core::event::Leadership;
use mill_core::name::NodeId;

use super::{Invariant, Moment};

/// Who believed to lead which term.
#[derive(Default)]
pub(super) struct OneLeader(BTreeMap<u64, NodeId>);

impl Invariant for OneLeader {
    fn name(&self) -> &'static str {
        "one_leader"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Belief { node, belief: Leadership::Leader { term }, .. } = moment else {
            return Ok(());
        };
        let known = *self.0.entry(*term).or_insert(*node);
        if known == *node {
            return Ok(());
        }
        Err(format!("{node} and {known} both lead term {term}"))
    }
}
