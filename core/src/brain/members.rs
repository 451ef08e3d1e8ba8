//! Who votes and who leads: every member follows, up to five primaries vote, always an odd number
//! where that can be, and never so that the quorum would need a node that cannot be heard.
//!
//! Level-triggered like the rest: what should be is computed from the members, from what consensus
//! has, and from who was heard with how much of the log; consensus is asked for one change at a
//! time, and again while what it has is something else. A node that drains gives its lead to
//! another, and its vote once there is somebody to take it. Tested below and in
//! `sim-tests/tests/scenarios/members.rs`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Brain;
use crate::cluster::Cluster;
use crate::effect::Effect;
use crate::mutant::{self, Mutant};
use crate::name::NodeId;
use crate::node::{Members, Wake};
use crate::outbox::Outbox;
use crate::time::{Mono, Now};
use crate::units::Millis;

/// The most nodes that vote (product.md, section 5).
pub const VOTERS_MAX: usize = 5;
/// A node that lacks at most so many entries has caught up: it can take over without a pause.
pub const CAUGHT_UP_WITHIN: u64 = 100;
/// The label over whose values voters are spread.
const ZONE: &str = "zone";
/// Between two times that consensus is asked for the same.
const ASK_AGAIN: Millis = Millis::secs(5);
/// Between two looks at whether a node that could vote has caught up.
const LOOK_AGAIN: Millis = Millis::secs(1);

/// What the leader has asked of consensus.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Asking {
    /// The members that it asked for last, and when.
    members: Option<(Members, Mono)>,
    /// When it asked last that another may lead.
    lead: Option<Mono>,
    wake: Option<Mono>,
}

/// A member, as far as it matters here.
#[derive(Clone, Debug, Default)]
struct Standing {
    /// It may vote.
    primary: bool,
    draining: bool,
    /// It is heard.
    heard: bool,
    /// It has been silent for so long that another should vote instead.
    lost: bool,
    /// It has all but the latest entries.
    caught_up: bool,
    zone: Option<String>,
}

impl Brain {
    /// Asks consensus for other members or another leader, if there should be.
    pub fn move_members(
        &mut self,
        now: Now,
        me: NodeId,
        cluster: &Cluster,
        has: &Members,
        out: &mut Outbox,
    ) {
        self.voters.clone_from(&has.voters);
        let standings = self.standings(now.mono, me, cluster);
        let wanted = decide(me, &standings, has);
        self.asking.wake = self.look_again(now.mono, &standings, has);
        if wanted == *has {
            self.asking.members = None;
        } else {
            let asked = self.asking.members.take().filter(|(asked, _)| *asked == wanted);
            let asked = asked.map(|(_, at)| at).filter(|at| *at + ASK_AGAIN > now.mono);
            if asked.is_none() {
                let Members { voters, learners } = wanted.clone();
                out.push(Effect::ChangeMembers { voters, learners });
            }
            let at = asked.unwrap_or(now.mono);
            self.asking.members = Some((wanted, at));
            self.asking.wake_at(at + ASK_AGAIN);
        }
        if standings.get(&me).is_none_or(|standing| standing.draining) {
            self.hand_on(now, me, cluster, has, out);
        }
    }

    /// Hands the lead to the voter that has most of the log, and again after a while.
    pub fn hand_on(
        &mut self,
        now: Now,
        me: NodeId,
        cluster: &Cluster,
        has: &Members,
        out: &mut Outbox,
    ) {
        if let Some(asked) = self.asking.lead.filter(|asked| *asked + ASK_AGAIN > now.mono) {
            return self.asking.wake_at(asked + ASK_AGAIN);
        }
        let standings = self.standings(now.mono, me, cluster);
        let able = has
            .voters
            .iter()
            .filter(|id| **id != me)
            .filter(|id| standings.get(*id).is_some_and(Standing::can_lead));
        let applied = |id: &NodeId| self.heard.get(id).map(|heard| heard.revision);
        if let Some(to) = able.max_by_key(|id| (applied(id), std::cmp::Reverse(**id))) {
            out.push(Effect::TransferLead { to: *to });
            self.asking.lead = Some(now.mono);
        }
        self.asking.wake_at(now.mono + ASK_AGAIN);
    }

    /// Whether members are to be looked at though nothing happened.
    pub fn members_due(&self, now: Mono) -> bool {
        self.asking.wake.is_some_and(|at| at <= now)
    }

    /// When members are looked at again.
    pub fn members_wake(&self) -> Option<(Mono, Wake)> {
        self.asking.wake.map(|at| (at, Wake::Members))
    }

    fn standings(&self, now: Mono, me: NodeId, cluster: &Cluster) -> BTreeMap<NodeId, Standing> {
        let latest = cluster.revision.index;
        let members = cluster.nodes.iter().map(|(id, record)| {
            let heard = self.heard.get(id);
            let silent = now.since(heard.map_or(self.since, |heard| heard.at));
            let applied = heard.map_or(0, |heard| heard.revision.index);
            let standing = Standing {
                primary: record.roles.primary,
                draining: record.draining,
                heard: *id == me || (heard.is_some() && silent < self.timing.down_after),
                lost: *id != me && silent >= self.timing.voter_replaced_after,
                caught_up: heard.is_some() && latest.saturating_sub(applied) <= CAUGHT_UP_WITHIN,
                zone: record.labels.get(ZONE).cloned(),
            };
            (*id, standing)
        });
        members.collect()
    }

    /// When something may be decided differently though nothing happens.
    fn look_again(
        &self,
        now: Mono,
        standings: &BTreeMap<NodeId, Standing>,
        has: &Members,
    ) -> Option<Mono> {
        let silences = has.voters.iter().filter(|id| standings.contains_key(*id)).map(|id| {
            let last = self.heard.get(id).map_or(self.since, |heard| heard.at);
            last + self.timing.voter_replaced_after
        });
        let silences = silences.filter(|at| *at > now).min();
        let waits = standings.iter().any(|(id, s)| s.primary && !has.voters.contains(id));
        let lacking = has.voters.len() < target(standings)
            || has.voters.iter().any(|id| standings.get(id).is_none_or(Standing::is_weak));
        let looks = (waits && lacking).then(|| now + LOOK_AGAIN);
        [silences, looks].into_iter().flatten().min()
    }
}

impl Asking {
    fn wake_at(&mut self, at: Mono) {
        self.wake = Some(self.wake.map_or(at, |known| known.min(at)));
    }
}

impl Standing {
    /// Whether it can take over the lead.
    fn can_lead(&self) -> bool {
        self.primary && self.heard && self.caught_up && !self.draining
    }

    /// Whether another should vote instead.
    fn is_weak(&self) -> bool {
        self.lost || self.draining || !self.primary
    }
}

/// How many should vote: an odd number of those that may.
fn target(standings: &BTreeMap<NodeId, Standing>) -> usize {
    let primaries = standings.values().filter(|standing| standing.primary).count();
    let surplus = if mutant::is(Mutant::DoublePromotion) { 2 } else { 0 };
    let most = primaries.clamp(1, VOTERS_MAX + surplus);
    if most.is_multiple_of(2) { most - 1 } else { most }
}

/// The members that there should be next: one change away from those that there are. Whoever has
/// no vote leads no more, though it may not have heard of that yet.
fn decide(me: NodeId, standings: &BTreeMap<NodeId, Standing>, has: &Members) -> Members {
    if !has.voters.contains(&me) {
        return has.clone();
    }
    let next = next_voters(me, standings, has);
    let heard = next.iter().filter(|id| standings.get(*id).is_some_and(|s| s.heard)).count();
    let mut safe = heard > next.len() / 2;
    if mutant::is(Mutant::QuorumOffByOne) {
        safe = heard >= next.len() / 2;
    }
    let safe = safe && next.contains(&me);
    let voters = if safe { next } else { has.voters.clone() };
    let learners = standings.keys().copied().filter(|id| !voters.contains(id)).collect();
    Members { voters, learners }
}

fn next_voters(
    me: NodeId,
    standings: &BTreeMap<NodeId, Standing>,
    has: &Members,
) -> BTreeSet<NodeId> {
    let mut voters = has.voters.clone();
    let target = target(standings);
    let is_fit = |s: &Standing| (s.heard && s.caught_up) || mutant::is(Mutant::VoteToTheUnheard);
    let mut ready: Vec<NodeId> = standings
        .iter()
        .filter(|(id, s)| is_fit(s) && !s.is_weak() && has.learners.contains(id))
        .map(|(id, _)| *id)
        .collect();
    // One that is no member any more goes whether or not there is somebody in its place; one that
    // is lost or drains only if there is.
    let may_go = |id: &&NodeId| **id != me;
    let gone = has
        .voters
        .iter()
        .filter(may_go)
        .find(|id| standings.get(*id).is_none_or(|standing| !standing.primary));
    let weak = has.voters.iter().filter(may_go).filter(|id| standings[*id].is_weak());
    let leaves = match gone {
        Some(gone) => Some(*gone),
        None if voters.len() > target => worst(me, standings, &voters),
        None if !ready.is_empty() => weak.max_by_key(|id| (standings[*id].lost, **id)).copied(),
        None => None,
    };
    if let Some(leaves) = leaves {
        voters.remove(&leaves);
    }
    let lacking = target.saturating_sub(voters.len());
    // From an odd number to the next: an even one needs as many and endures no more.
    let step = if voters.len().is_multiple_of(2) { 1 } else { 2 };
    if lacking >= step && ready.len() >= step {
        for _ in 0..step {
            let Some(best) = best(standings, &voters, &ready) else { break };
            ready.retain(|id| *id != best);
            voters.insert(best);
        }
    }
    voters
}

/// The candidate whose zone has the fewest voters.
fn best(
    standings: &BTreeMap<NodeId, Standing>,
    voters: &BTreeSet<NodeId>,
    ready: &[NodeId],
) -> Option<NodeId> {
    ready.iter().copied().min_by_key(|id| (in_zone_of(standings, voters, *id), *id))
}

/// The voter that is missed least; none that can take the lead of one that drains.
fn worst(
    me: NodeId,
    standings: &BTreeMap<NodeId, Standing>,
    voters: &BTreeSet<NodeId>,
) -> Option<NodeId> {
    let drains = standings.get(&me).is_none_or(|mine| mine.draining);
    let others = voters.iter().copied().filter(|id| *id != me);
    let others = others.filter(|id| !drains || !standings[id].can_lead());
    others.max_by_key(|id| {
        let standing = &standings[id];
        (standing.is_weak(), !standing.heard, in_zone_of(standings, voters, *id), *id)
    })
}

/// How many voters are in the zone of a node.
fn in_zone_of(
    standings: &BTreeMap<NodeId, Standing>,
    voters: &BTreeSet<NodeId>,
    id: NodeId,
) -> usize {
    let zone = |id: &NodeId| standings.get(id).and_then(|standing| standing.zone.as_ref());
    let Some(mine) = zone(&id) else { return 0 };
    voters.iter().filter(|voter| zone(voter) == Some(mine)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of a node: `+` it is ready, `-` it is silent, `x` it is lost, `d` it drains,
    /// `s` it may not vote, `l` it lags; a capital letter is its zone.
    fn standing(told: &str) -> Standing {
        let is = |mark: char| told.contains(mark);
        Standing {
            primary: !is('s'),
            draining: is('d'),
            heard: !is('-') && !is('x'),
            lost: is('x'),
            caught_up: !is('-') && !is('x') && !is('l'),
            zone: told.chars().find(char::is_ascii_uppercase).map(String::from),
        }
    }

    /// Who votes next, where node 1 leads, of nodes that are told of in turn; `.` is none.
    fn next(told: &str, voters: &[u64]) -> Vec<u64> {
        let told = (1..).map(NodeId).zip(told.split(' '));
        let standings: BTreeMap<NodeId, Standing> =
            told.filter(|(_, told)| *told != ".").map(|(id, told)| (id, standing(told))).collect();
        let voters: BTreeSet<NodeId> = voters.iter().copied().map(NodeId).collect();
        let learners = standings.keys().copied().filter(|id| !voters.contains(id)).collect();
        let wanted = decide(NodeId(1), &standings, &Members { voters, learners });
        wanted.voters.into_iter().map(|id| id.0).collect()
    }

    #[test]
    fn voters_grow_from_one_odd_number_to_the_next() {
        assert_eq!(next("+ +", &[1]), [1], "two that vote endure no more than one");
        assert_eq!(next("+ + +", &[1]), [1, 2, 3]);
        assert_eq!(next("+ + + +", &[1, 2, 3]), [1, 2, 3]);
        assert_eq!(next("+ + + + +", &[1, 2, 3]), [1, 2, 3, 4, 5]);
        assert_eq!(next("+ + + + + + +", &[1, 2, 3, 4, 5]), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn only_who_is_heard_and_has_the_log_is_given_a_vote() {
        assert_eq!(next("+ +l +", &[1]), [1]);
        assert_eq!(next("+ +- +", &[1]), [1]);
        assert_eq!(next("+ +s + +", &[1]), [1, 3, 4]);
        assert_eq!(next("+ +d + +", &[1]), [1, 3, 4]);
    }

    #[test]
    fn a_lost_voter_is_replaced_if_there_is_somebody_to_take_its_vote() {
        assert_eq!(next("+ + +x +", &[1, 2, 3]), [1, 2, 4]);
        assert_eq!(next("+ + +x +l", &[1, 2, 3]), [1, 2, 3]);
        assert_eq!(next("+ + +x", &[1, 2, 3]), [1, 2, 3]);
        assert_eq!(next("+ + +- +", &[1, 2, 3]), [1, 2, 3], "it may come back any moment");
    }

    #[test]
    fn nothing_changes_that_would_leave_the_quorum_to_nodes_that_are_not_heard() {
        assert_eq!(next("+ +x +x .", &[1, 2, 3, 4]), [1, 2, 3, 4]);
        assert_eq!(next("+ +- . +", &[1, 2, 3]), [1, 2, 4], "two of three are heard");
        assert_eq!(next("+ +- .", &[1, 2, 3]), [1, 2, 3], "one of two is not enough");
    }

    #[test]
    fn who_is_removed_leaves_and_an_even_number_does_not_stay() {
        assert_eq!(next("+ + . +", &[1, 2, 3]), [1, 2, 4]);
        assert_eq!(next("+ + .", &[1, 2, 3]), [1, 2]);
        assert_eq!(next("+ + .", &[1, 2]), [1]);
        assert_eq!(next("+ + + + .", &[1, 2, 3, 4, 5]), [1, 2, 3, 4]);
        assert_eq!(next("+ + +- + .", &[1, 2, 3, 4]), [1, 2, 4]);
    }

    #[test]
    fn who_drains_votes_until_somebody_else_can() {
        assert_eq!(next("+ +d +", &[1, 2, 3]), [1, 2, 3]);
        assert_eq!(next("+ +d + +", &[1, 2, 3]), [1, 3, 4]);
    }

    #[test]
    fn a_leader_that_drains_keeps_the_vote_of_whoever_can_lead_instead() {
        assert_eq!(next("d +", &[1, 2]), [1, 2]);
        assert_eq!(next("d +x", &[1, 2]), [1]);
        assert_eq!(next("d +l", &[1, 2]), [1], "it could not take over");
    }

    #[test]
    fn a_former_leader_that_lost_its_vote_asks_for_nothing() {
        // Found by seed 0xd7b5: it heard of its vote before it heard of its lead.
        assert_eq!(next("+ + +", &[2]), [2]);
    }

    #[test]
    fn voters_are_spread_over_zones() {
        assert_eq!(next("+A +A +B +C +B", &[1, 2, 4]), [1, 2, 3, 4, 5]);
        assert_eq!(next("+A +A +A +B +C", &[1]), [1, 4, 5]);
        assert_eq!(next("+A +B +xC +A +C", &[1, 2, 3]), [1, 2, 5]);
    }
}
