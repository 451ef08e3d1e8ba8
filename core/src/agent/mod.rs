//! This node's containers: makes them what the replicated state says of this node.
//!
//! Level-triggered: [`Agent::step`] compares what should be with what is known to be, and asks
//! for the next operation of each alloc. It acts only on committed state, so nothing it does can
//! be undone by an election. One [`task::Task`] per alloc; what a task knows dies with the daemon
//! and is read again from the engine's labels. It does not choose what runs here.

mod backoff;
mod cache;
mod drain;
mod images;
mod inventory;
mod probe;
mod run;
mod spec;
mod stage;
mod task;
mod words;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub(crate) use self::backoff::FAILURE_WINDOW;
use self::cache::Cache;
use self::images::Images;
use self::inventory::Inventory;
use self::task::{Context, Task};
use crate::cluster::Cluster;
use crate::cluster::alloc::{Alloc, Status};
use crate::container::{ContainerState, Observed, OpError, OpOutput};
use crate::effect::OpId;
use crate::message::ImageReport;
use crate::name::{AllocId, NodeId};
use crate::node::Wake;
use crate::outbox::Outbox;
use crate::rng::Rng;
use crate::time::{Mono, Now};

/// The part of a node that runs containers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Agent {
    node: NodeId,
    tasks: BTreeMap<AllocId, Task>,
    inventory: Inventory,
    images: Images,
    cache: Cache,
    jitter: Rng,
}

impl Agent {
    pub fn new(node: NodeId, rng: &Rng) -> Agent {
        Agent {
            node,
            tasks: BTreeMap::new(),
            inventory: Inventory::default(),
            images: Images::default(),
            cache: Cache::default(),
            jitter: rng.child("agent"),
        }
    }

    /// Takes note of how an operation went.
    pub fn op_done(&mut self, now: Now, id: OpId, result: Result<OpOutput, OpError>) {
        if self.inventory.op_done(now.mono, id, &result)
            || self.images.op_done(now.mono, id, &result)
            || self.cache.op_done(now.mono, id, &result)
        {
            return;
        }
        if let Some(task) = self.tasks.values_mut().find(|task| task.waits_for(id)) {
            task.op_done(now.mono, id, result, &mut self.jitter);
            if let Some(listing) = self.inventory.under_way() {
                task.outruns(listing);
            }
        }
    }

    /// Takes note that a container ended.
    pub fn container_died(&mut self, now: Now, observed: &Observed) {
        if let Some(task) = self.tasks.get_mut(&observed.alloc) {
            task.observed(now.mono, Some(observed), &mut self.jitter);
        }
    }

    /// What was seen of the engine before may be stale.
    pub fn engine_connected(&mut self) {
        self.inventory.invalidate();
        self.images.retry_now();
        self.tasks.values_mut().for_each(Task::retry_now);
    }

    /// Asks for whatever is next.
    pub fn step(&mut self, now: Now, cluster: &Cluster, out: &mut Outbox) {
        let Some(seen) = self.inventory.step(now.mono, out) else { return };
        if let Some(seen) = seen {
            self.reconcile(now.mono, cluster, seen);
        }
        for (id, alloc) in cluster.allocs_on(self.node) {
            if alloc.is_live() && !self.tasks.contains_key(id) {
                self.tasks.insert(id.clone(), Task::new(alloc));
            }
        }
        self.cache.step(now.mono, cluster, out);
        self.images.step(now.mono, self.node, cluster, out);
        let cache = &self.cache;
        self.tasks.retain(|id, task| {
            let alloc = cluster.allocs.get(id).filter(|alloc| alloc.is_live());
            task.step(&mut Context { now: now.mono, cluster, id, alloc, cache, out });
            alloc.is_some() || !task.has_ended()
        });
    }

    /// Compares tasks with a fresh listing of all containers.
    fn reconcile(&mut self, now: Mono, cluster: &Cluster, seen: inventory::Seen) {
        for (id, observed) in &seen.containers {
            let keeps = || is_kept(cluster.allocs.get(id), self.node, &observed.state);
            if self.tasks.contains_key(id) || keeps() {
                continue;
            }
            let alloc = cluster.allocs.get(id).filter(|alloc| alloc.is_live());
            let alloc = alloc.filter(|alloc| alloc.node == self.node);
            let task = alloc.map_or_else(Task::orphan, Task::new);
            self.tasks.insert(id.clone(), task.adopting(now, observed, alloc));
        }
        for (id, task) in &mut self.tasks {
            if task.is_older_than(seen.asked) {
                task.observed(now, seen.containers.get(id), &mut self.jitter);
            }
        }
    }

    /// What the replicated state does not know yet.
    pub fn reports(&self, cluster: &Cluster) -> BTreeMap<AllocId, Status> {
        let known = self.tasks.iter().filter_map(|(id, task)| {
            let alloc = cluster.allocs.get(id).filter(|alloc| alloc.is_live())?;
            let status = task.status();
            (status != alloc.status).then(|| (id.clone(), status))
        });
        known.collect()
    }

    /// What became of the images that a deploy asks about.
    pub fn image_reports(&self, cluster: &Cluster) -> BTreeMap<String, ImageReport> {
        self.images.reports(cluster)
    }

    /// Why the engine cannot be asked, while it cannot.
    pub fn trouble(&self) -> Option<&OpError> {
        self.inventory.trouble()
    }

    /// When to be stepped again.
    pub fn next_wake(&self) -> Option<(Mono, Wake)> {
        let tasks = self.tasks.values().filter_map(Task::next_wake);
        let others = [self.inventory.next_wake(), self.images.next_wake(), self.cache.next_wake()];
        let others = others.into_iter().flatten();
        tasks.chain(others).min()
    }
}

/// Whether a container stays though nothing is to be done for it: that of a run which has ended,
/// for its output, until the run's alloc is forgotten.
fn is_kept(alloc: Option<&Alloc>, here: NodeId, state: &ContainerState) -> bool {
    let has_ended = matches!(state, ContainerState::Exited(_));
    has_ended && alloc.is_some_and(|a| a.run.is_some() && !a.is_live() && a.node == here)
}
