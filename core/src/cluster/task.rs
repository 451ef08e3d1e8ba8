//! Tasks, templates for work that runs to its end, and runs, single executions of them.
//!
//! A run is executed at most once: it gets one alloc, and that is never started again. Its state
//! only moves forward, along [`RunState`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cluster::alloc::Trouble;
use crate::cluster::deploy::Goal;
use crate::config::model::TaskSpec;
use crate::config::text::Text;
use crate::container::{Exit, PinnedImage};
use crate::name::{AllocId, Name, Slot};
use crate::time::Wall;

/// A task in the replicated state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Whose it is.
    pub project: Name,
    /// The version that runs are of; `None` while the first deploy of it is under way.
    pub stable: Option<u64>,
    /// Where a running deploy takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling: Option<Goal>,
    /// Those versions, by deploy number.
    pub versions: BTreeMap<u64, TaskVersion>,
    /// The last moment that its schedule was served for, or when the schedule came to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<Wall>,
}

/// What one deploy wanted of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskVersion {
    /// The whole spec.
    pub spec: TaskSpec,
    /// The bytes that its image reference meant; `None` until the deploy has resolved it.
    pub image: Option<PinnedImage>,
}

/// What a deploy does to one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskChange {
    /// What it was before; `None` if it is new.
    pub from: Option<u64>,
    /// What it is to be; `None` to remove it.
    pub to: Option<u64>,
}

/// One execution of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The task.
    pub task: Name,
    /// Whose it is.
    pub project: Name,
    /// The version of the task that it executes, with what was overridden.
    pub spec: Box<TaskSpec>,
    /// The deploy that brought that version.
    pub version: u64,
    /// The bytes that it executes.
    pub image: PinnedImage,
    /// What asked for it.
    pub cause: Cause,
    /// When it was asked for.
    pub asked: Wall,
    /// How far it is.
    pub state: RunState,
}

/// What asked for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// `mill run`.
    Person,
    /// A deploy, whose services wait for it.
    Gate(u64),
    /// The task's schedule, due then.
    Schedule(Wall),
}

/// How far a run is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It has no node yet.
    Waiting,
    /// It was given to a node, and may be under way.
    Placed {
        /// Its alloc.
        alloc: AllocId,
    },
    /// It is over.
    Ended {
        /// Its alloc, if it ever had one.
        alloc: Option<AllocId>,
        /// When, by the clock of the leader that said so.
        at: Wall,
        /// How.
        outcome: Outcome,
        /// What went wrong, and its last words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trouble: Option<Trouble>,
    },
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It came to its end by itself; it succeeded if its code is 0.
    Exited(Exit),
    /// It took longer than its task allows, and was killed.
    TimedOut,
    /// Somebody killed it, or it was replaced by a later one.
    Killed,
    /// Its node was lost while it was under way: nobody knows how far it came.
    Lost {
        /// The node's name.
        node: String,
    },
    /// It could not be executed to its end.
    Failed,
}

/// What is different in one run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overrides {
    /// Environment variables, in place of the task's or besides them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Text>,
    /// The command, in place of the task's; empty keeps it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<Text>,
}

impl Task {
    /// The version that runs are of now.
    pub fn current(&self) -> Option<(u64, &TaskVersion)> {
        let number = self.stable?;
        self.versions.get(&number).map(|version| (number, version))
    }

    /// The version that it has or is being brought to; `None` if it is to be gone.
    pub fn target(&self) -> Option<(u64, &TaskVersion)> {
        let number = self.rolling.map_or(self.stable, Goal::version)?;
        self.versions.get(&number).map(|version| (number, version))
    }
}

impl Run {
    /// What its alloc fills: its task and its own number.
    pub fn place(&self, number: u64) -> Slot {
        Slot { service: self.task.clone(), index: number }
    }

    /// Whether it is over.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, RunState::Ended { .. })
    }

    /// When it was over, once it is.
    pub fn ended(&self) -> Option<Wall> {
        match &self.state {
            RunState::Waiting | RunState::Placed { .. } => None,
            RunState::Ended { at, .. } => Some(*at),
        }
    }

    /// Its alloc, if it has or had one.
    pub fn alloc(&self) -> Option<&AllocId> {
        match &self.state {
            RunState::Waiting => None,
            RunState::Placed { alloc } => Some(alloc),
            RunState::Ended { alloc, .. } => alloc.as_ref(),
        }
    }

    /// How it ended, once it has.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.state {
            RunState::Waiting | RunState::Placed { .. } => None,
            RunState::Ended { outcome, .. } => Some(outcome),
        }
    }
}

impl Outcome {
    /// Whether it did what it was for.
    pub fn is_success(&self) -> bool {
        matches!(self, Outcome::Exited(exit) if exit.code == 0)
    }

    /// The outcome as people read it.
    pub fn sentence(&self) -> String {
        match self {
            Outcome::Exited(exit) if exit.code == 0 => "succeeded".to_owned(),
            Outcome::Exited(exit) if exit.out_of_memory => {
                "failed: it reached its memory ceiling and the kernel killed it; give it more \
                 `memory`"
                    .to_owned()
            }
            Outcome::Exited(exit) => format!("failed with exit code {}", exit.code),
            Outcome::TimedOut => "failed: it took longer than its `timeout`".to_owned(),
            Outcome::Killed => "was killed".to_owned(),
            Outcome::Lost { node } => format!(
                "failed: node {node} was lost while it was under way, and how far it came is not \
                 known"
            ),
            Outcome::Failed => "failed".to_owned(),
        }
    }
}

impl Cause {
    /// The cause as people read it.
    pub fn sentence(self) -> String {
        match self {
            Cause::Person => "asked for by hand".to_owned(),
            Cause::Gate(deploy) => format!("gate of deploy #{deploy}"),
            Cause::Schedule(_) => "by its schedule".to_owned(),
        }
    }
}
