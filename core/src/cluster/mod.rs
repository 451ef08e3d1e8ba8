//! The replicated state: what every node knows and nobody decides alone.
//!
//! [`Cluster`] changes only through [`Cluster::apply`], which is pure: the same entries give the
//! same bytes on every node, in every build. Each command checks its own preconditions and is
//! refused when they do not hold, so proposals may be stale, doubled or lost without harm.

pub mod admission;
pub mod alloc;
mod apply;
pub mod canary;
pub mod certificates;
pub mod command;
pub mod deploy;
mod features;
pub mod history;
mod keep_going;
pub mod mesh;
pub mod node;
pub mod past;
mod ports;
pub mod receipt;
pub mod recovery;
mod rolling;
mod runs;
mod snapshot;
pub mod task;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::apply::{Refusal, Reply};
pub use self::features::{EVENTS_KEPT_IN_REHEARSAL, FeatureLevel};
pub use self::ports::Resting;
pub use self::runs::{RUNS_KEPT, RUNS_LIVE_MAX};
pub use self::snapshot::{BadSnapshot, SNAPSHOT_FORMAT};
use crate::config::model::ClusterSettings;
use crate::name::{AllocId, Name, NodeId};
use crate::net::Network;

/// When a fact became true: newer fences older. Never repeats, also across restore and recovery,
/// which raise the epoch.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Revision {
    /// How often the cluster was restored or recovered.
    pub epoch: u32,
    /// Index in the log.
    pub index: u64,
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.index)
    }
}

/// The replicated state machine.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cluster {
    /// Its id, once it has begun.
    pub id: Option<String>,
    /// Which rules commands are applied by.
    #[serde(default)]
    pub features: FeatureLevel,
    /// Of the last entry applied.
    pub revision: Revision,
    /// Every node that was admitted and not removed.
    pub nodes: BTreeMap<NodeId, node::NodeRecord>,
    /// Every service that is wanted or still runs somewhere.
    pub services: BTreeMap<Name, deploy::Service>,
    /// Every task that runs can be of.
    #[serde(default)]
    pub tasks: BTreeMap<Name, task::Task>,
    /// Runs that are not over, and the last [`RUNS_KEPT`] of each task.
    #[serde(default)]
    pub runs: BTreeMap<u64, task::Run>,
    /// Number of the last run ever asked for.
    #[serde(default)]
    pub last_run: u64,
    /// Every alloc that is live, or ended lately.
    pub allocs: BTreeMap<AllocId, alloc::Alloc>,
    /// The last [`DEPLOYS_KEPT`] deploys by number, and as many older ones at most that can be
    /// gone back to.
    pub deploys: BTreeMap<u64, deploy::Deploy>,
    /// Versions of services that past deploys left, by the number of the deploy that made each.
    #[serde(default)]
    pub past: BTreeMap<Name, BTreeMap<u64, Arc<deploy::Version>>>,
    /// The same of tasks.
    #[serde(default)]
    pub past_tasks: BTreeMap<Name, BTreeMap<u64, Arc<task::TaskVersion>>>,
    /// What happened lately.
    pub history: history::History,
    /// Number of the last deploy ever started.
    pub last_deploy: u64,
    /// How often what decisions serve was changed: a node removed, drained or labelled anew, a
    /// deploy started or moved on. What was decided before may count on a node that is not there
    /// any more, or do what is not wanted any more.
    pub intent: u64,
    /// Number of the next node to be admitted.
    pub next_node: u64,
    /// Addresses of its own.
    #[serde(default)]
    pub network: Network,
    /// The service address that was given last: those that are free again rest for long.
    #[serde(default)]
    pub last_address: u16,
    /// The same of nodes.
    #[serde(default)]
    pub last_node_address: u16,
    /// Whether nodes speak with each other through the mesh only.
    #[serde(default)]
    pub mesh_only: bool,
    /// What deploys have set for all.
    #[serde(default)]
    pub settings: ClusterSettings,
    /// Certificates of hosts that routes are for.
    #[serde(default)]
    pub certificates: certificates::Certificates,
    /// Ports that no other service gets yet, by node; at most its pool, and what services owned.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resting: BTreeMap<NodeId, BTreeMap<u16, Resting>>,
    /// Rights to join, by the hash of their secret.
    pub tokens: BTreeMap<String, admission::JoinToken>,
    /// Live allocs by node: derived, for [`Cluster::allocs_on`].
    #[serde(skip)]
    by_node: BTreeMap<NodeId, BTreeSet<AllocId>>,
}

/// Deploys that are kept, whatever became of them.
pub const DEPLOYS_KEPT: usize = 50;

impl Cluster {
    /// The deploy that runs, if one does.
    pub fn running_deploy(&self) -> Option<(u64, &deploy::Deploy)> {
        let (number, latest) = self.deploys.last_key_value()?;
        (!latest.state.is_end()).then_some((*number, latest))
    }

    /// The version that the slots of a service should be filled with now; `None` if it should be
    /// gone. While a deploy finds out what its images mean, and until the gate of a service was
    /// passed, everything stays as it was.
    pub fn wanted_version(&self, name: &Name) -> Option<&deploy::Version> {
        let service = self.services.get(name)?;
        match self.is_held(name) {
            true => service.versions.get(&service.stable?),
            false => service.target().map(|(_, version)| version),
        }
    }

    /// Whether a service that the running deploy changes has to stay as it was for now.
    pub fn is_held(&self, name: &Name) -> bool {
        let Some((_, running)) = self.running_deploy() else { return false };
        match running.state {
            deploy::DeployState::Resolving => running.changes.contains_key(name),
            deploy::DeployState::Rolling => self.closed_gate(name).is_some(),
            deploy::DeployState::Removing
            | deploy::DeployState::Succeeded
            | deploy::DeployState::Partial { .. }
            | deploy::DeployState::RollingBack { .. }
            | deploy::DeployState::RolledBack { .. }
            | deploy::DeployState::RollbackStuck { .. } => false,
        }
    }

    /// Whether a node is heard.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(node::NodeRecord::is_up)
    }

    /// The allocs of a node, also those that ended and are not forgotten.
    pub fn allocs_on(&self, node: NodeId) -> impl Iterator<Item = (&AllocId, &alloc::Alloc)> {
        let ids = self.by_node.get(&node).into_iter().flatten();
        ids.filter_map(|id| self.allocs.get_key_value(id))
    }

    /// The allocs of a service, in the order of their slots.
    pub fn allocs_of(&self, service: &Name) -> impl Iterator<Item = (&AllocId, &alloc::Alloc)> {
        // Ids begin with the service's name and a dot; `-` and `.` order before letters.
        let first = AllocId::known(&format!("{service}."));
        let prefix = first.as_str().to_owned();
        let all = self.allocs.range(first..);
        let called = all.take_while(move |(id, _)| id.as_str().starts_with(&prefix));
        called.filter(|(_, alloc)| alloc.run.is_none())
    }

    /// Rebuilds what is derived; needed after deserializing by other means than `decode`.
    pub(crate) fn index(&mut self) {
        self.by_node.clear();
        for (id, alloc) in &self.allocs {
            self.by_node.entry(alloc.node).or_default().insert(id.clone());
        }
    }
}
