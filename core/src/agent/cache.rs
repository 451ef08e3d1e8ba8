//! Keeps few of the images that were pulled here: what runs or may be run, and what a service ran
//! a little earlier, so that going back to it is quick.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::cluster::deploy::{Goal, Service, Version};
use crate::container::{ContainerOp, OpError, OpOutput, PinnedImage};
use crate::effect::OpId;
use crate::mutant::{self, Mutant};
use crate::name::Name;
use crate::node::Wake;
use crate::outbox::Outbox;
use crate::time::Mono;
use crate::units::Millis;

/// Versions of a service or task whose images are kept, the one that it runs included.
const VERSIONS_KEPT: usize = 3;
/// After what is wanted changed last, and again while a deploy runs.
const AFTER: Millis = Millis::mins(1);
/// After the engine refused.
const RETRY: Millis = Millis::mins(10);

/// When the images of this node are looked through.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Cache {
    /// What was wanted when it was looked at last.
    intent: Option<u64>,
    due: Option<Mono>,
    pruning: Option<Pruning>,
}

/// All but these are being removed.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pruning {
    op: OpId,
    keep: BTreeSet<PinnedImage>,
}

impl Cache {
    /// Whether nobody may rely on having found that image here: it may just be on its way out.
    pub fn may_remove(&self, image: &PinnedImage) -> bool {
        self.pruning.as_ref().is_some_and(|pruning| !pruning.keep.contains(image))
    }

    /// Asks for what is not needed to be removed, once nothing has changed for a while.
    pub fn step(&mut self, now: Mono, cluster: &Cluster, out: &mut Outbox) {
        if self.intent != Some(cluster.intent) {
            self.intent = Some(cluster.intent);
            self.due = Some(now + AFTER);
        }
        if self.pruning.is_some() || self.due.is_none_or(|due| due > now) {
            return;
        }
        if cluster.running_deploy().is_some() {
            self.due = Some(now + AFTER);
            return;
        }
        self.due = None;
        let keep: BTreeSet<PinnedImage> = cluster.images_needed().into_iter().cloned().collect();
        let images = keep.iter().cloned().collect();
        let op = out.container(ContainerOp::PruneImages { keep: images });
        self.pruning = Some(Pruning { op, keep });
    }

    /// Whether that operation was this one.
    pub fn op_done(&mut self, now: Mono, id: OpId, result: &Result<OpOutput, OpError>) -> bool {
        if self.pruning.as_ref().is_none_or(|pruning| pruning.op != id) {
            return false;
        }
        self.pruning = None;
        if result.is_err() {
            self.due = Some(self.due.unwrap_or(now + RETRY));
        }
        true
    }

    pub fn next_wake(&self) -> Option<(Mono, Wake)> {
        self.due.filter(|_| self.pruning.is_none()).map(|at| (at, Wake::Image))
    }
}

impl Cluster {
    /// Images that a node may need: of what is wanted, runs or is being deployed, and of the latest
    /// versions that a project can go back to.
    pub(crate) fn images_needed(&self) -> BTreeSet<&PinnedImage> {
        let services = self.services.iter();
        let versions = services.flat_map(|(name, service)| self.versions_needed(name, service));
        let of_services = versions.filter_map(|version| version.image.as_ref());
        let of_services = of_services.filter(|_| !mutant::is(Mutant::ImagesInUsePruned));
        let versions = self.tasks.values().flat_map(|task| task.versions.values());
        let of_tasks = versions.filter_map(|version| version.image.as_ref());
        let of_runs = self.live_runs().map(|(_, run)| &run.image);
        let before = latest(&self.past).filter_map(|version| version.image.as_ref());
        let tasks_before = latest(&self.past_tasks).filter_map(|version| version.image.as_ref());
        let needed = of_services.chain(of_tasks).chain(of_runs);
        let before = before.filter(|_| !mutant::is(Mutant::ImagesInUsePruned));
        needed.chain(before).chain(tasks_before).collect()
    }

    /// The versions of a service that run, or are wanted to.
    fn versions_needed<'a>(
        &'a self,
        name: &'a Name,
        service: &'a Service,
    ) -> impl Iterator<Item = &'a Version> {
        let heads = [service.stable, service.rolling.and_then(Goal::version)];
        let live = self.allocs_of(name).filter(|(_, alloc)| alloc.is_live());
        let numbers = heads.into_iter().flatten().chain(live.map(|(_, alloc)| alloc.template));
        numbers.filter_map(|number| service.versions.get(&number))
    }
}

fn latest<T>(past: &BTreeMap<Name, BTreeMap<u64, Arc<T>>>) -> impl Iterator<Item = &T> {
    past.values().flat_map(|versions| versions.values().rev().take(VERSIONS_KEPT)).map(Arc::as_ref)
}
