//! What the leader decides: level-triggered, from the replicated state and what nodes report.
//!
//! [`Brain::step`] recomputes what should be proposed and proposes it as one entry; it waits for
//! that entry before it proposes more, so it never decides on what it has not seen committed.
//! It lives only while its node leads and starts with nothing but the clock: observations and
//! timers are its own, facts are the cluster's. It does nothing but propose, and ask authorities for
//! certificates.

mod certificates;
mod deploys;
mod keep_going;
mod liveness;
mod lost;
mod members;
mod mesh;
mod release;
mod runs;
pub(crate) mod services;
mod trust;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use self::certificates::Certifying;
use self::deploys::Place;
pub(crate) use self::liveness::Said;
use self::liveness::{Heard, Silence};
use self::members::Asking;
pub use self::waiting::Blocked;
pub(crate) use self::waiting::sentences;
use crate::cluster::alloc::{Alloc, Phase};
use crate::cluster::command::{BYTES_PER_ENTRY, COMMANDS_PER_ENTRY, Command, Entry, ProposalId};
use crate::cluster::node::NodeFacts;
use crate::cluster::task::Run;
use crate::cluster::{Cluster, Revision};
use crate::container::OpError;
use crate::effect::Effect;
use crate::mutant::{self, Mutant};
use crate::name::{AllocId, Name, NodeId, Slot};
use crate::node::{NodeConfig, Routing, Wake};
use crate::outbox::Outbox;
use crate::rng::Rng;
use crate::time::{Mono, Now, Wall};
use crate::timing::Timing;
use crate::units::Millis;

/// The leader's decisions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Brain {
    /// Its own node.
    me: NodeId,
    timing: Timing,
    rng: Rng,
    /// When this node began to lead, or to listen again after it had stood still.
    since: Mono,
    /// When it looked last.
    looked: Mono,
    heard: BTreeMap<NodeId, Heard>,
    silence: Silence,
    /// Since when this leader has seen nodes up.
    up_since: BTreeMap<NodeId, Mono>,
    /// Since when an alloc has been seen healthy, and after how many restarts.
    healthy_since: BTreeMap<AllocId, (u32, Mono)>,
    /// When the running deploy came to where it is, as far as this leader saw.
    deploy_since: Option<(Place, Mono)>,
    /// Since when its images cannot be had for a reason that is known, by reference.
    trying_since: BTreeMap<String, Mono>,
    /// Since when allocs that replace lost ones are on their way.
    replacing: BTreeMap<AllocId, Mono>,
    /// Slots that failed, and when they may be filled again.
    retry: BTreeMap<Slot, Retry>,
    /// When that left the routes which nodes may still send something to.
    awaited: BTreeSet<Revision>,
    /// When the schedule of each task is due next, of that version and since it was served then.
    next_due: BTreeMap<Name, (u64, Wall, Option<Wall>)>,
    /// What services and runs wait for.
    blocked: BTreeMap<Name, Vec<Blocked>>,
    in_flight: Option<ProposalId>,
    /// Nothing is proposed before that: the last proposal failed.
    held_until: Mono,
    /// Whether anything changed since the last step.
    dirty: bool,
    /// Whether what people are told changed, though the state did not.
    news: bool,
    wake: Option<(Mono, Wake)>,
    /// What it has asked of certificate authorities.
    certifying: Certifying,
    /// What it has asked of consensus.
    asking: Asking,
    /// Who votes, as consensus had it when that was last looked at.
    voters: BTreeSet<NodeId>,
}

/// When a slot that failed may be filled again.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Retry {
    /// How often it failed lately.
    failures: u32,
    /// When the alloc that failed last was placed.
    latest: Revision,
    at: Mono,
}

/// What one step sees and collects.
struct Draft<'a> {
    now: Now,
    cluster: &'a Cluster,
    /// What this node carries traffic by.
    routing: &'a Routing,
    commands: Vec<Command>,
    wake: Option<(Mono, Wake)>,
    /// Who should lead instead.
    hand_to: Option<NodeId>,
}

impl Brain {
    pub fn new(me: NodeId, now: Now, timing: Timing, rng: Rng) -> Brain {
        Brain {
            me,
            timing,
            rng,
            since: now.mono,
            looked: now.mono,
            heard: BTreeMap::new(),
            silence: Silence::default(),
            up_since: BTreeMap::new(),
            healthy_since: BTreeMap::new(),
            deploy_since: None,
            trying_since: BTreeMap::new(),
            replacing: BTreeMap::new(),
            retry: BTreeMap::new(),
            awaited: BTreeSet::new(),
            next_due: BTreeMap::new(),
            blocked: BTreeMap::new(),
            in_flight: None,
            held_until: Mono(0),
            dirty: true,
            news: false,
            wake: None,
            certifying: Certifying::default(),
            asking: Asking::default(),
            voters: BTreeSet::new(),
        }
    }

    /// A node speaks; false if that is old.
    pub fn heartbeat(
        &mut self,
        now: Now,
        from: NodeId,
        (seq, revision): (u64, Revision),
        facts: NodeFacts,
        said: Said,
    ) -> bool {
        let before = self.heard.get(&from);
        if mutant::is(Mutant::RestartNotNoticed) && before.is_some_and(|heard| heard.seq >= seq) {
            return false;
        }
        if before.is_some_and(|heard| (heard.facts.boot, heard.seq) >= (facts.boot, seq)) {
            return false;
        }
        let lets_go = self.is_awaited(before.map(|before| before.revision), revision);
        let heard = Heard { at: now.mono, seq, revision, facts, said };
        let news = before.is_none_or(|before| before.says_other_than(&heard));
        // Who was silent for a whole window and speaks may be back.
        let window = self.timing.down_after;
        let back = before.is_some_and(|before| now.mono.since(before.at) >= window);
        self.dirty |= news || back || lets_go;
        self.news |= news;
        self.heard.insert(from, heard);
        true
    }

    /// The replicated state changed.
    pub fn state_changed(&mut self) {
        self.dirty = true;
    }

    /// A proposal was refused or lost: tried again, but not at once.
    pub fn proposal_failed(&mut self, now: Now, id: ProposalId) {
        if self.in_flight == Some(id) {
            self.held_until = now.mono + HOLD_AFTER_FAILURE;
        }
        self.proposal_done(id);
    }

    /// A proposal was committed.
    pub fn proposal_done(&mut self, id: ProposalId) {
        if self.in_flight == Some(id) {
            self.in_flight = None;
            self.dirty = true;
        }
    }

    /// Why a node's engine cannot be asked, while it cannot.
    pub fn trouble_of(&self, node: NodeId) -> Option<&OpError> {
        self.heard.get(&node)?.said.trouble.as_ref()
    }

    /// Whether there is something new to tell people, once.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// What a service waits for.
    pub fn blocked(&self, service: &Name) -> &[Blocked] {
        self.blocked.get(service).map_or(&[], Vec::as_slice)
    }

    /// Proposes what should be, if anything differs from what is.
    pub fn step(
        &mut self,
        now: Now,
        cluster: &Cluster,
        (config, routing): (&NodeConfig, &Routing),
        out: &mut Outbox,
    ) {
        self.stood_still(now.mono);
        let due = self.wake.is_some_and(|(at, _)| at <= now.mono);
        if self.in_flight.is_some() || !(self.dirty || due) || now.mono < self.held_until {
            return;
        }
        self.dirty = false;
        let (commands, wake) = (Vec::new(), None);
        let mut facts = Draft { now, cluster, routing, commands, wake, hand_to: None };
        if cluster.id.is_none() {
            facts.commands.extend(config.founding());
        }
        let mut entry = self.forgiven(now.mono, cluster);
        self.judge_nodes(&mut facts);
        raise_features(&mut facts, config);
        self.use_mesh(&mut facts);
        self.pass_on_reports(&mut facts);
        self.release(&mut facts);
        self.record_certificates(&mut facts);
        self.certify(&mut facts, out);
        let Draft { commands, wake, hand_to, .. } = facts;
        if let Some(to) = hand_to {
            out.push(Effect::TransferLead { to });
        }
        // What is decided is decided on the state as the facts in the same entry leave it.
        let ahead = ahead(cluster, now, &commands);
        let cluster = ahead.as_ref().unwrap_or(cluster);
        self.heard.retain(|node, _| cluster.nodes.contains_key(node));
        self.observe(now.mono, cluster);
        let mut draft = Draft { now, cluster, routing, commands, wake, hand_to: None };
        self.move_services(&mut draft);
        self.serve_schedules(&mut draft);
        self.forget(&mut draft);
        let Draft { commands, wake, .. } = draft;
        self.wake = wake;
        self.dirty = false;
        if !commands.is_empty() {
            entry.extend(commands);
            let fits = fits(&entry);
            self.dirty = entry.len() > fits;
            entry.truncate(fits);
            let decided_under = Some(cluster.intent);
            self.in_flight = Some(out.propose(now.wall, decided_under, entry));
        }
    }

    /// When to be stepped again.
    pub fn next_wake(&self) -> Option<(Mono, Wake)> {
        if self.in_flight.is_some() {
            return None;
        }
        let held = self.dirty.then_some((self.held_until, Wake::Retry));
        let due = [self.wake, held.filter(|(at, _)| *at > Mono(0))].into_iter().flatten().min();
        due.map(|(at, why)| (at.max(self.held_until), why))
    }

    /// Keeps the leader's own timers in step with the state.
    fn observe(&mut self, now: Mono, cluster: &Cluster) {
        // Health counts only while its node is heard and can look: what is replicated is what it
        // was when somebody last looked.
        let looked_at = |node: &NodeId| {
            let looks = |heard: &Heard| heard.said.trouble.is_none();
            cluster.is_up(*node) && self.heard.get(node).is_some_and(looks)
        };
        let healthy = cluster
            .allocs
            .iter()
            .filter(|(_, alloc)| alloc.status.phase == Phase::Healthy && looked_at(&alloc.node));
        let since = healthy.map(|(id, alloc)| {
            let restarts = alloc.status.restarts;
            let known = self.healthy_since.get(id).filter(|(known, _)| *known == restarts);
            (id.clone(), known.copied().unwrap_or((restarts, now)))
        });
        self.healthy_since = since.collect();
        // Runs say anew with each step what they wait for.
        self.blocked.retain(|service, _| cluster.services.contains_key(service));
        self.retry.retain(|slot, _| cluster.services.contains_key(&slot.service));
    }

    /// What nodes say of their allocs becomes replicated.
    fn pass_on_reports(&self, draft: &mut Draft<'_>) {
        for (node, heard) in &self.heard {
            for (alloc, status) in &heard.said.reports {
                let known = draft.cluster.allocs.get(alloc);
                let news = known.is_some_and(|known| {
                    known.node == *node && known.is_live() && known.status != *status
                });
                if news {
                    let (alloc, status) = (alloc.clone(), status.clone());
                    draft.commands.push(Command::Report { node: *node, alloc, status });
                }
            }
        }
    }

    /// Ended allocs are kept for `mill why`, the last few of each slot; and those of runs, with their
    /// output, the last few of each task.
    fn forget(&self, draft: &mut Draft<'_>) {
        // All runs of a task count as one: their containers are kept with them.
        let place = |alloc: &'_ Alloc| match alloc.run {
            Some(_) => Slot { index: 0, ..alloc.slot.clone() },
            None => alloc.slot.clone(),
        };
        let run_of = |alloc: &Alloc| draft.cluster.runs.get(&alloc.run?);
        let mut ended: BTreeMap<(bool, Slot), Vec<Ended<'_>>> = BTreeMap::new();
        for (id, alloc) in draft.cluster.allocs.iter().filter(|(_, alloc)| !alloc.is_live()) {
            let when = (run_of(alloc).and_then(Run::ended), alloc.placed);
            ended.entry((alloc.run.is_some(), place(alloc))).or_default().push((id, when));
        }
        for ((of_runs, slot), mut allocs) in ended {
            allocs.sort_by_key(|(_, when)| std::cmp::Reverse(*when));
            let known = match of_runs {
                true => draft.cluster.runs.values().any(|run| run.task == slot.service),
                false => draft.cluster.services.contains_key(&slot.service),
            };
            let kept = if known { ENDED_KEPT_PER_SLOT } else { 0 };
            let surplus = allocs.into_iter().skip(kept);
            draft.commands.extend(surplus.map(|(id, _)| Command::Forget { alloc: id.clone() }));
        }
    }
}

/// An alloc that has ended: when its run did, if it is one, and when it was placed.
type Ended<'a> = (&'a AllocId, (Option<Wall>, Revision));

/// After a proposal failed, this long nothing is proposed.
const HOLD_AFTER_FAILURE: Millis = Millis(200);

/// The state as it will be after these commands; `None` if there are none.
fn ahead(cluster: &Cluster, now: Now, commands: &[Command]) -> Option<Cluster> {
    if commands.is_empty() {
        return None;
    }
    let mut ahead = cluster.clone();
    let at = Revision { index: cluster.revision.index + 1, ..cluster.revision };
    let id = ProposalId { node: NodeId(0), boot: 0, seq: 0 };
    ahead.apply(at, &Entry { id, wall: now.wall, intent: None, commands: commands.to_vec() });
    Some(ahead)
}

/// Proposes the next rules, once every member knows them, and this leader, too.
fn raise_features(draft: &mut Draft<'_>, config: &NodeConfig) {
    let to = draft.cluster.supported_by_all().min(config.facts.supports);
    if draft.cluster.id.is_some() && to > draft.cluster.features {
        draft.commands.push(Command::RaiseFeatures { to });
    }
}

/// How many of these fit into one entry; at least one.
fn fits(commands: &[Command]) -> usize {
    let mut left = BYTES_PER_ENTRY;
    let fitting = commands.iter().take(COMMANDS_PER_ENTRY).take_while(|command| {
        left = left.saturating_sub(command.weight());
        left > 0
    });
    fitting.count().max(1).min(commands.len())
}

/// Ended allocs that are kept per slot, and per task.
const ENDED_KEPT_PER_SLOT: usize = 3;

impl Draft<'_> {
    /// Asks to be stepped again at `at` at the latest.
    fn wake_at(&mut self, at: Mono, why: Wake) {
        let sooner = self.wake.is_none_or(|(known, _)| at < known);
        if sooner {
            self.wake = Some((at, why));
        }
    }
}
