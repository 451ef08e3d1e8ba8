//! Finds out what the images of a deploy mean, on the node that is asked to.
//!
//! Which node that is follows from the replicated state ([`Cluster::resolver`]); its answers go
//! to the leader with the heartbeats until they are pinned.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::cluster::deploy::DeployState;
use crate::cluster::node::NodeRecord;
use crate::container::{ContainerOp, OpError, OpOutput};
use crate::effect::OpId;
use crate::message::ImageReport;
use crate::name::NodeId;
use crate::node::Wake;
use crate::outbox::Outbox;
use crate::time::Mono;
use crate::units::Millis;

/// Between two tries of an image whose registry fails.
const RETRY: Millis = Millis::secs(5);

/// Images that this node was asked about.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Images {
    deploy: u64,
    asked: BTreeMap<String, Lookup>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Lookup {
    state: State,
    /// When it was asked for last.
    asked_at: Mono,
    /// The longest that a try took to fail.
    failed_within: Millis,
    report: Option<ImageReport>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    Asked(OpId),
    Retry(Mono),
    Known,
}

impl Images {
    pub fn step(&mut self, now: Mono, me: NodeId, cluster: &Cluster, out: &mut Outbox) {
        let deploy = cluster.running_deploy().filter(|(_, d)| d.state == DeployState::Resolving);
        let Some((number, deploy)) = deploy.filter(|_| cluster.resolver() == Some(me)) else {
            self.asked.clear();
            return;
        };
        if self.deploy != number {
            *self = Images { deploy: number, asked: BTreeMap::new() };
        }
        self.asked.retain(|reference, _| deploy.images.get(reference) == Some(&None));
        for lookup in self.asked.values_mut() {
            // A try that takes much longer than the failures before is a pull that goes on.
            let as_before = Millis(2 * lookup.failed_within.0).max(RETRY);
            let goes_on = lookup.asked_at + as_before <= now;
            if matches!(lookup.state, State::Asked(_)) && goes_on {
                lookup.report = None;
            }
        }
        for (reference, _) in deploy.images.iter().filter(|(_, pin)| pin.is_none()) {
            let due = match self.asked.get(reference).map(|lookup| lookup.state) {
                None => true,
                Some(State::Retry(at)) => at <= now,
                Some(State::Asked(_) | State::Known) => false,
            };
            if due {
                let op = ContainerOp::Resolve { reference: reference.clone() };
                let state = State::Asked(out.container(op));
                let before = self.asked.remove(reference);
                let failed_within = before.as_ref().map_or(Millis(0), |b| b.failed_within);
                let report = before.and_then(|before| before.report);
                let lookup = Lookup { state, asked_at: now, failed_within, report };
                self.asked.insert(reference.clone(), lookup);
            }
        }
    }

    /// Whether that operation was one of these.
    pub fn op_done(&mut self, now: Mono, id: OpId, result: &Result<OpOutput, OpError>) -> bool {
        let asked = self.asked.values_mut().find(|lookup| lookup.state == State::Asked(id));
        let Some(lookup) = asked else { return false };
        let (state, report) = match result {
            Ok(OpOutput::Image(image)) => (State::Known, Some(ImageReport::Pinned(image.clone()))),
            Err(error) if error.kind.is_permanent() => {
                (State::Known, Some(ImageReport::Failed(error.clone())))
            }
            Err(error) => (State::Retry(now + RETRY), Some(ImageReport::Trying(error.clone()))),
            Ok(_) => (State::Retry(now + RETRY), None),
        };
        let took = now.since(lookup.asked_at);
        let failed_within = lookup.failed_within.max(took);
        *lookup = Lookup { state, report, failed_within, ..*lookup };
        true
    }

    pub fn retry_now(&mut self) {
        for lookup in self.asked.values_mut() {
            if let State::Retry(at) = &mut lookup.state {
                *at = Mono(0);
            }
        }
    }

    pub fn reports(&self, cluster: &Cluster) -> BTreeMap<String, ImageReport> {
        let running = cluster.running_deploy().filter(|(number, _)| *number == self.deploy);
        let Some((_, deploy)) = running else { return BTreeMap::new() };
        let unpinned = |reference: &String| deploy.images.get(reference) == Some(&None);
        let known = self.asked.iter().filter(|(reference, _)| unpinned(reference));
        known.filter_map(|(name, lookup)| Some((name.clone(), lookup.report.clone()?))).collect()
    }

    pub fn next_wake(&self) -> Option<(Mono, Wake)> {
        let retries = self.asked.values().filter_map(|lookup| match lookup.state {
            State::Retry(at) => Some((at, Wake::Image)),
            State::Asked(_) | State::Known => None,
        });
        retries.min()
    }
}

impl Cluster {
    /// The node that finds out what images mean: the lowest that is up.
    pub(crate) fn resolver(&self) -> Option<NodeId> {
        let able = |record: &NodeRecord| record.is_up() && record.roles.secondary;
        self.nodes.iter().find(|(_, record)| able(record)).map(|(id, _)| *id)
    }
}
