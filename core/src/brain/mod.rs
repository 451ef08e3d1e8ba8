//! What the leader decides: level-triggered, from the replicated state and what nodes report.
//!
//! [`Brain::step`] recomputes what should be proposed and proposes it as one entry; it waits for
//! that entry before it proposes more, so it never decides on what it has not seen committed.
//! It lives only while its node leads and starts with nothing but the clock: observations and
//! timers are its own, facts are the cluster's. It does nothing but propose.

mod deploys;
mod liveness;
pub(crate) mod services;
mod waiting;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use self::liveness::Heard;
pub(crate) use self::liveness::Said;
pub use self::waiting::Blocked;
use crate::cluster::alloc::Phase;
use crate::cluster::command::{COMMANDS_PER_ENTRY, Command, ProposalId};
use crate::cluster::node::NodeFacts;
use crate::cluster::{Cluster, Revision};
use crate::container::OpError;
use crate::name::{AllocId, Name, NodeId, Slot};
use crate::node::Wake;
use crate::outbox::Outbox;
use crate::rng::Rng;
use crate::time::{Mono, Now};
use crate::timing::Timing;

/// The leader's decisions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Brain {
    timing: Timing,
    rng: Rng,
    /// When this node began to lead.
    since: Mono,
    heard: BTreeMap<NodeId, Heard>,
    /// Since when an alloc has been seen healthy.
    healthy_since: BTreeMap<AllocId, Mono>,
    /// When the running deploy entered its state, as far as this leader saw.
    deploy_since: Option<(u64, Mono)>,
    /// Slots that failed, and when they may be filled again.
    retry: BTreeMap<Slot, Retry>,
    /// What services wait for.
    blocked: BTreeMap<Name, Vec<Blocked>>,
    in_flight: Option<ProposalId>,
    /// Whether anything changed since the last step.
    dirty: bool,
    /// Whether what people are told changed, though the state did not.
    news: bool,
    wake: Option<(Mono, Wake)>,
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
    commands: Vec<Command>,
    wake: Option<(Mono, Wake)>,
}

impl Brain {
    pub fn new(now: Now, timing: Timing, rng: Rng) -> Brain {
        Brain {
            timing,
            rng,
            since: now.mono,
            heard: BTreeMap::new(),
            healthy_since: BTreeMap::new(),
            deploy_since: None,
            retry: BTreeMap::new(),
            blocked: BTreeMap::new(),
            in_flight: None,
            dirty: true,
            news: false,
            wake: None,
        }
    }

    /// A node speaks.
    pub fn heartbeat(&mut self, now: Now, from: NodeId, seq: u64, facts: NodeFacts, said: Said) {
        let before = self.heard.get(&from);
        if before.is_some_and(|heard| (heard.facts.boot, heard.seq) >= (facts.boot, seq)) {
            return;
        }
        let heard = Heard { at: now.mono, seq, facts, said };
        let news = before.is_none_or(|before| before.says_other_than(&heard));
        self.dirty |= news;
        self.news |= news;
        self.heard.insert(from, heard);
    }

    /// The replicated state changed.
    pub fn state_changed(&mut self) {
        self.dirty = true;
    }

    /// A proposal was committed, refused or lost.
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
    pub fn step(&mut self, now: Now, cluster: &Cluster, id: &str, out: &mut Outbox) {
        let due = self.wake.is_some_and(|(at, _)| at <= now.mono);
        if self.in_flight.is_some() || !(self.dirty || due) {
            return;
        }
        self.dirty = false;
        self.observe(now.mono, cluster);
        let mut draft = Draft { now, cluster, commands: Vec::new(), wake: None };
        if cluster.id.is_none() {
            draft.commands.push(Command::Found { cluster: id.to_owned() });
        }
        self.judge_nodes(&mut draft);
        self.pass_on_reports(&mut draft);
        self.move_services(&mut draft);
        self.forget(&mut draft);
        let Draft { mut commands, wake, .. } = draft;
        self.wake = wake;
        if !commands.is_empty() {
            self.dirty = commands.len() > COMMANDS_PER_ENTRY;
            commands.truncate(COMMANDS_PER_ENTRY);
            self.in_flight = Some(out.propose(now.wall, commands));
        }
    }

    /// When to be stepped again.
    pub fn next_wake(&self) -> Option<(Mono, Wake)> {
        self.wake.filter(|_| self.in_flight.is_none())
    }

    /// Keeps the leader's own timers in step with the state.
    fn observe(&mut self, now: Mono, cluster: &Cluster) {
        let healthy = |id: &AllocId| {
            let alloc = cluster.allocs.get(id);
            alloc.is_some_and(|alloc| alloc.status.phase == Phase::Healthy)
        };
        self.healthy_since.retain(|id, _| healthy(id));
        for (id, alloc) in &cluster.allocs {
            if alloc.status.phase == Phase::Healthy && !self.healthy_since.contains_key(id) {
                self.healthy_since.insert(id.clone(), now);
            }
        }
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

    /// Ended allocs are kept for `mill why`, the last few of each slot.
    fn forget(&self, draft: &mut Draft<'_>) {
        let mut ended: BTreeMap<&Slot, Vec<(&AllocId, Revision)>> = BTreeMap::new();
        for (id, alloc) in draft.cluster.allocs.iter().filter(|(_, alloc)| !alloc.is_live()) {
            ended.entry(&alloc.slot).or_default().push((id, alloc.placed));
        }
        for (slot, mut allocs) in ended {
            allocs.sort_by_key(|(_, placed)| std::cmp::Reverse(*placed));
            let kept = match draft.cluster.services.contains_key(&slot.service) {
                true => ENDED_KEPT_PER_SLOT,
                false => 0,
            };
            let surplus = allocs.into_iter().skip(kept);
            draft.commands.extend(surplus.map(|(id, _)| Command::Forget { alloc: id.clone() }));
        }
    }
}

/// Ended allocs that are kept per slot.
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
