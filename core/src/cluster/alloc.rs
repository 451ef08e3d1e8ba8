//! Allocs: attempts to fill a slot on a node.
//!
//! Two writers, one field each: the leader says what is desired, the node says what is. Desired
//! only ever moves from run to stop; an alloc that reached an end never leaves it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::cluster::Revision;
use crate::config::model::Replicas;
use crate::container::{Exit, OpErrorKind};
use crate::name::{NodeId, Slot};
use crate::time::Wall;
use crate::units::{Bytes, Millicores};

/// One attempt to fill a slot, or the one attempt at a run, on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alloc {
    /// The slot it fills; of a run, its task and number.
    pub slot: Slot,
    /// The run that it executes; absent for a replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<u64>,
    /// The node it is on.
    pub node: NodeId,
    /// The version of its service whose container it runs; of a run, that of its task.
    pub template: u64,
    /// The port it was given or owns.
    pub port: Option<u16>,
    /// Cpu set aside for it.
    pub cpu: Millicores,
    /// Memory set aside for it.
    pub memory: Bytes,
    /// When it was placed.
    pub placed: Revision,
    /// What the leader wants of it.
    pub desired: Desired,
    /// What its node last reported.
    pub status: Status,
    /// Whether it was ever healthy, so that requests may go to it by what a node knew then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub served: bool,
    /// How it leaves the routes, once it is to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<Leaving>,
}

/// An alloc on its way out: only when nobody sends anything to it any more is it asked to stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// When it left the routes: whoever has applied this sends nothing new to it.
    pub since: Revision,
    /// Who has, once every node that is up has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<Released>,
}

/// Nobody sends anything to an alloc any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// Since when, by the clock of the leader that said so.
    pub at: Wall,
    /// Nodes that said so.
    pub by: BTreeSet<NodeId>,
    /// Nodes that were down, and were not waited for.
    pub excused: BTreeSet<NodeId>,
}

/// What the leader wants of an alloc.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// It should run.
    Run,
    /// It should be gone.
    Stop {
        /// Why.
        reason: StopReason,
    },
}

/// Why the leader wants an alloc gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    /// A newer version of the service took its slot.
    Updated,
    /// The deploy that placed it went back.
    RolledBack,
    /// The service has fewer replicas now.
    ScaledDown,
    /// The service is gone from its project.
    Removed,
    /// Another alloc filled the slot while this one could not be heard.
    Replaced,
    /// Its node may not run the service any more.
    Unsuitable,
    /// Its node is being emptied.
    Drained,
    /// Its node was removed from the cluster.
    NodeRemoved,
    /// Somebody killed the run, or a later one took its place.
    Killed,
    /// The run was given up while its node could not be heard.
    RunOver,
}

/// What a node says of an alloc.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// How far it is.
    pub phase: Phase,
    /// How often its container was started again.
    pub restarts: u32,
    /// Why it is not further, or how it last ended, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
    /// How it was stopped, once it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
}

/// How a stop went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Connections to it that were open when it was asked to stop; `None` if it has no port, or
    /// nobody could count them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u32>,
    /// How its process ended; `None` if it did not run any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
}

/// How far an alloc is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Its node has not taken it up yet.
    Placed,
    /// Its image is being fetched or its container started.
    Starting,
    /// It runs and has not passed its health check yet.
    Running,
    /// It runs and passes.
    Healthy,
    /// It runs and fails its health check.
    Unhealthy,
    /// It ended by itself and waits to be started again.
    BackingOff,
    /// It was asked to stop.
    Stopping,
    /// Its container is gone, as desired. An end.
    Stopped,
    /// A run that came to its end by itself. An end.
    Completed,
    /// Its node gave up on it. An end.
    Failed,
}

/// What stands in the way of an alloc.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What kind.
    pub kind: TroubleKind,
    /// A sentence for people: what happened, why, what to do.
    pub detail: String,
    /// The last lines of its output, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
}

/// Kinds of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TroubleKind {
    /// An operation failed.
    Op(OpErrorKind),
    /// The container ended by itself.
    Exited(Exit),
    /// Its health check failed too often.
    Unhealthy,
    /// Its stop ended in SIGKILL.
    KilledAfterGrace,
    /// A run took longer than its task allows.
    TimedOut,
}

impl Default for Status {
    fn default() -> Status {
        Status { phase: Phase::Placed, restarts: 0, trouble: None, ending: None }
    }
}

impl Phase {
    /// Whether nothing follows any more.
    pub fn is_end(self) -> bool {
        matches!(self, Phase::Stopped | Phase::Completed | Phase::Failed)
    }
}

impl Alloc {
    /// How far it is, as people read it.
    pub fn sentence(&self) -> String {
        match (self.run, self.status.phase) {
            // There is no health to wait for.
            (Some(_), Phase::Running) => "running".to_owned(),
            (_, _) => self.status.sentence(),
        }
    }

    /// Whether its container exists or may come to exist.
    pub fn is_live(&self) -> bool {
        !self.status.phase.is_end()
    }

    /// The slot that it serves and is in the way of: its own, or its node's where each node has
    /// one, though it may have been placed for another when their number counted.
    #[must_use]
    pub fn serves(&self, replicas: Replicas) -> u64 {
        match replicas {
            Replicas::Count(_) => self.slot.index,
            Replicas::EachNode => self.node.0,
        }
    }

    /// Whether it is to stop, and nobody sends anything to it any more.
    pub fn is_released(&self) -> bool {
        let awaited = |leaving: &Leaving| leaving.released.is_none();
        self.desired != Desired::Run && !self.leaving.as_ref().is_some_and(awaited)
    }

    /// Since when it waits for nodes to send nothing to it any more.
    pub fn awaits_release(&self) -> Option<Revision> {
        let leaving = self.leaving.as_ref().filter(|leaving| leaving.released.is_none());
        leaving.filter(|_| self.is_live()).map(|leaving| leaving.since)
    }

    /// Whether it should run and has not failed.
    pub fn is_wanted(&self) -> bool {
        self.desired == Desired::Run && self.is_live()
    }
}
