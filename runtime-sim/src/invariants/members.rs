//! A number is given once, and who is to vote is heard of, few, and led by one of them.

use std::collections::BTreeSet;

use mill_core::Effect;
use mill_core::cluster::Cluster;
use mill_core::name::NodeId;
use mill_core::time::Mono;
use mill_core::timing::Timing;

use super::ears::{Ears, Listening};
use super::{Invariant, Moment};
use crate::world::host::Host;

/// The most nodes that vote (product.md, section 5).
const VOTERS_MAX: usize = 5;

/// Looks at each admission, and at what leaders ask of consensus.
#[derive(Default)]
pub(super) struct Members(Listening);

impl Invariant for Members {
    fn name(&self) -> &'static str {
        "members"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        self.0.observe(moment, Timing::default().down_after);
        match moment {
            Moment::Committed { before, after, .. } => numbers(before, after),
            Moment::Effect { host, effect: Effect::ChangeMembers { voters, learners }, at } => {
                if voters.len() > VOTERS_MAX || !voters.contains(&host.id) {
                    return Err(format!("{} wants {voters:?} to vote", host.id));
                }
                if let Some(twice) = voters.intersection(learners).next() {
                    return Err(format!("{twice} is to vote and to follow"));
                }
                voters.iter().try_for_each(|voter| may_vote(host, *voter))?;
                match self.0.of(host.id) {
                    Some(ears) => can_decide(host, ears, voters, *at),
                    None => Ok(()),
                }
            }
            Moment::Effect { .. }
            | Moment::Heard { .. }
            | Moment::Agreed { .. }
            | Moment::State { .. } => Ok(()),
            Moment::Belief { .. }
            | Moment::Unanswered { .. }
            | Moment::Answer { .. }
            | Moment::Host { .. }
            | Moment::Validation { .. } => Ok(()),
        }
    }
}

fn numbers(before: &Cluster, after: &Cluster) -> Result<(), String> {
    if before.next_node == after.next_node && after.nodes.len() <= before.nodes.len() {
        return Ok(());
    }
    let new = after.nodes.keys().filter(|id| !before.nodes.contains_key(id));
    match new.into_iter().find(|id| id.0 < before.next_node || id.0 >= after.next_node) {
        Some(again) => Err(format!("the number {again} was given twice, or will be")),
        None => Ok(()),
    }
}

/// A vote is new for a primary only; one that votes, as far as the daemon was told before it may
/// have stood still, may be gone and not be replaceable yet.
fn may_vote(host: &Host, voter: NodeId) -> Result<(), String> {
    let Some(daemon) = &host.daemon else { return Ok(()) };
    let record = daemon.cluster().nodes.get(&voter);
    let votes = daemon.members().is_some_and(|members| members.voters.contains(&voter));
    if votes || record.is_some_and(|record| record.roles.primary) {
        return Ok(());
    }
    Err(format!("{} wants {voter} to vote, which may not", host.id))
}

/// Of other voters than before more than half are heard, and each that is new.
fn can_decide(
    host: &Host,
    ears: &Ears,
    voters: &BTreeSet<NodeId>,
    now: Mono,
) -> Result<(), String> {
    let same = host.voters() == Some(voters);
    let window = Timing::default().down_after;
    let is_heard = |voter: &NodeId| {
        *voter == host.id || (ears.heard(*voter).is_some() && ears.silence(*voter, now) < window)
    };
    let heard = voters.iter().filter(|voter| is_heard(voter)).count();
    if !same && heard * 2 <= voters.len() {
        return Err(format!("{} wants {voters:?} to vote and hears {heard} of them", host.id));
    }
    match voters.iter().find(|voter| !host.votes(**voter) && !is_heard(voter)) {
        Some(silent) => Err(format!("{} wants {silent} to vote, which is not heard", host.id)),
        None => Ok(()),
    }
}
