//! Deploys and the services they move.
//!
//! A deploy's state only moves forward, along [`DeployState`]; its timers are the leader's own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cluster::Revision;
use crate::cluster::receipt::Receipt;
use crate::cluster::task::TaskChange;
use crate::config::model::{ClusterSettings, ServiceSpec};
use crate::container::PinnedImage;
use crate::name::Name;
use crate::time::Wall;

/// One numbered attempt to move the cluster to a new config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deploy {
    /// Whose services.
    pub project: Name,
    /// What it is, for people.
    pub kind: DeployKind,
    /// How far it is.
    pub state: DeployState,
    /// What it does to each service that it touches.
    pub changes: BTreeMap<Name, Change>,
    /// What it does to each task that it touches.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<Name, TaskChange>,
    /// Tasks that must succeed before services move that name them, and the run of each, once it
    /// was begun.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub gates: BTreeMap<Name, Option<u64>>,
    /// Whether a service that fails goes back by itself, and the others go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_going: bool,
    /// Images to resolve, by reference; pinned once known.
    pub images: BTreeMap<String, Option<PinnedImage>>,
    /// Where in the log it was started: what was placed later is its doing.
    pub begun: Revision,
    /// When it was started.
    pub started: Wall,
    /// When it reached its end.
    pub ended: Option<Wall>,
    /// The earlier deploy that it goes back to, if that is what it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_to: Option<u64>,
    /// The version of each service that its project ran once it had succeeded; absent if it did
    /// not, or that is not kept any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<BTreeMap<Name, u64>>,
    /// The same of its tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_tasks: Option<BTreeMap<Name, u64>>,
    /// What became of the replicas that it stopped; empty if that is not kept any more.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub receipt: Receipt,
    /// Settings of the cluster that change once it succeeds.
    #[serde(default, skip_serializing_if = "ClusterSettings::is_empty")]
    pub settings: ClusterSettings,
}

impl Deploy {
    /// Whether a service waits for that gate, or moved once it was passed.
    pub(crate) fn awaits(&self, gate: &Name) -> bool {
        let mut changes = self.changes.values().filter(|change| change.failed.is_none());
        changes.any(|change| change.gate.as_ref() == Some(gate))
    }
}

/// What asked for a deploy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeployKind {
    /// `mill deploy`.
    Config,
    /// `mill restart`.
    Restart,
    /// `mill scale`.
    Scale,
    /// `mill rollback`.
    Rollback,
}

/// How far a deploy is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeployState {
    /// Finding out what its images mean.
    Resolving,
    /// Moving services.
    Rolling,
    /// Everything new has soaked; what is not wanted any more goes.
    Removing,
    /// Done. An end.
    Succeeded,
    /// Done, but for services that failed and went back by themselves. An end.
    Partial {
        /// Which failed, and why.
        reason: String,
    },
    /// It failed; services go back to what they ran.
    RollingBack {
        /// Why it failed.
        reason: String,
    },
    /// Everything runs what it ran before. An end.
    RolledBack {
        /// Why it failed.
        reason: String,
    },
    /// It could not go back either: what is healthy keeps running. An end.
    RollbackStuck {
        /// Why it failed, and what a person must do.
        reason: String,
    },
}

impl DeployState {
    /// Whether nothing follows any more.
    pub fn is_end(&self) -> bool {
        match self {
            DeployState::Resolving
            | DeployState::Rolling
            | DeployState::Removing
            | DeployState::RollingBack { .. } => false,
            DeployState::Succeeded
            | DeployState::Partial { .. }
            | DeployState::RolledBack { .. }
            | DeployState::RollbackStuck { .. } => true,
        }
    }
}

impl DeployState {
    /// The state as people read it.
    pub fn sentence(&self) -> String {
        match self {
            DeployState::Resolving => "finding out what its images mean".to_owned(),
            DeployState::Rolling => "moving its services".to_owned(),
            DeployState::Removing => "removing what is not wanted any more".to_owned(),
            DeployState::Succeeded => "succeeded".to_owned(),
            DeployState::Partial { reason } => format!("succeeded in part: {reason}"),
            DeployState::RollingBack { reason } => format!("going back: {reason}"),
            DeployState::RolledBack { reason } => format!("went back: {reason}"),
            DeployState::RollbackStuck { reason } => format!("rollback-stuck: {reason}"),
        }
    }

    /// Why it failed; empty if it did not.
    pub fn reason(&self) -> &str {
        match self {
            DeployState::Resolving
            | DeployState::Rolling
            | DeployState::Removing
            | DeployState::Succeeded => "",
            DeployState::Partial { reason }
            | DeployState::RollingBack { reason }
            | DeployState::RolledBack { reason }
            | DeployState::RollbackStuck { reason } => reason,
        }
    }

    /// A number for each state, ascending along the way.
    pub(crate) fn step(&self) -> u8 {
        match self {
            DeployState::Resolving => 0,
            DeployState::Rolling => 1,
            DeployState::Removing => 2,
            DeployState::Succeeded => 3,
            DeployState::RollingBack { .. } => 4,
            DeployState::RolledBack { .. } => 5,
            DeployState::RollbackStuck { .. } => 6,
            DeployState::Partial { .. } => 7,
        }
    }
}

/// What a deploy does to one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What it ran before; `None` if it is new.
    pub from: Option<u64>,
    /// What it is to run; `None` to remove it.
    pub to: Option<u64>,
    /// Whether it got there, or back.
    pub settled: bool,
    /// The task that must succeed before it moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Name>,
    /// That it failed and goes back by itself, in a deploy that keeps going.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<Failure>,
    /// How the others came to follow its canaries, once they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted: Option<Promotion>,
}

impl Change {
    pub(super) fn new(from: Option<u64>, to: Option<u64>) -> Change {
        Change { from, to, settled: false, gate: None, failed: None, promoted: None }
    }

    /// The version that it is on its way to; `None` if that is to be gone.
    pub fn goal(&self) -> Option<u64> {
        if self.failed.is_some() { self.from } else { self.to }
    }

    /// What becomes of it, or has become once that is `over`, if it failed: a word or two.
    pub fn failure(&self, over: bool) -> Option<(&'static str, &str)> {
        let failed = self.failed.as_ref()?;
        let how = match (self.to, over || failed.stuck) {
            (None, _) => "not removed",
            (Some(_), false) => "goes back",
            (Some(_), true) => "failed",
        };
        Some((how, &failed.reason))
    }
}

/// That a service failed in a deploy that keeps going.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Why.
    pub reason: String,
    /// It could not go back either, and is not waited for any longer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stuck: bool,
}

/// Why the other replicas of a service may follow its canaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Promotion {
    /// They were healthy for as long as the config asks.
    Soaked,
    /// A person said so then: what was placed before is not watched any longer.
    Early(Revision),
}

/// A service in the replicated state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Whose it is.
    pub project: Name,
    /// Which of the network's service addresses it is called at, for as long as it exists.
    #[serde(default)]
    pub address: u16,
    /// The version that a deploy last brought about; `None` while the first is under way.
    pub stable: Option<u64>,
    /// Where a running deploy takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling: Option<Goal>,
    /// Versions that are stable, rolling, or still run somewhere, by deploy number.
    pub versions: BTreeMap<u64, Version>,
}

/// Where a deploy takes a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// It is to run this version.
    Version(u64),
    /// It is to be gone.
    Gone,
}

impl Goal {
    /// The version; `None` if it is to be gone.
    pub fn version(self) -> Option<u64> {
        match self {
            Goal::Version(number) => Some(number),
            Goal::Gone => None,
        }
    }
}

/// What one deploy wanted of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The whole spec.
    pub spec: ServiceSpec,
    /// The version that brought the container as it is in this one: itself, or an earlier one.
    pub template: u64,
    /// The bytes that its image reference meant; `None` until the deploy has resolved it.
    pub image: Option<PinnedImage>,
}

impl Service {
    /// The version that its slots should be filled with now; `None` if it should be gone.
    pub fn target(&self) -> Option<(u64, &Version)> {
        let number = self.rolling.map_or(self.stable, Goal::version)?;
        self.versions.get(&number).map(|version| (number, version))
    }
}
