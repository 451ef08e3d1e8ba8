//! What is different for a run on its node: it is executed once and never started again, for as
//! long as its task allows, and its container stays for its output until it is forgotten.

use serde::{Deserialize, Serialize};

use super::spec;
use super::stage::{Stage, Then};
use super::task::{Context, Task};
use crate::cluster::alloc::{Alloc, Ending, Phase, Trouble, TroubleKind};
use crate::container::{Exit, OpErrorKind};
use crate::mutant::{self, Mutant};
use crate::time::Mono;
use crate::units::Millis;

/// The one execution of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Execution {
    /// When this node saw its process first, and for how long it had run by then.
    up: Option<(Mono, Millis)>,
    /// When its time is over.
    until: Option<Mono>,
    /// Since when this node tries to start it.
    made: Option<Mono>,
}

impl Execution {
    pub fn is_up(&mut self, now: Mono, running_for: Millis) {
        self.up = Some((now, running_for));
    }

    pub fn next_wake(&self) -> Option<Mono> {
        self.until
    }

    /// What follows when its last words were read.
    pub fn then(running: bool) -> Then {
        Then::End(if running { Phase::Failed } else { Phase::Completed })
    }
}

impl Task {
    /// For a run of which this node knows nothing: one that is known to have begun, and has no
    /// container any more, is over.
    pub(super) fn of_run(alloc: &Alloc) -> Task {
        let (stage, trouble) = match alloc.status.phase {
            Phase::Placed | Phase::Starting | Phase::BackingOff => {
                (Stage::Fetch { at: Mono(0) }, None)
            }
            Phase::Running | Phase::Healthy | Phase::Unhealthy | Phase::Stopping => {
                (Stage::Ended(Phase::Failed), Some(gone()))
            }
            end @ (Phase::Stopped | Phase::Completed | Phase::Failed) => (Stage::Ended(end), None),
        };
        let mut task = Task::at(stage);
        task.run = Some(Execution::default());
        task.trouble = trouble;
        task
    }

    /// Whether it could not be started for as long as it may take in all: then it is given up.
    pub(super) fn never_began(&mut self, context: &Context<'_>) -> bool {
        let (Some(alloc), Some(run)) = (context.alloc, &mut self.run) else { return false };
        let Some(timeout) = spec::timeout(context.cluster, alloc) else { return false };
        let made = *run.made.get_or_insert(context.now);
        if made + timeout > context.now {
            return false;
        }
        if let Some(trouble) = &mut self.trouble {
            let detail = format!("it could not be started within {timeout}: {}", trouble.detail);
            trouble.detail = detail;
        }
        self.stage = Stage::Remove { at: Mono(0), end: Phase::Failed };
        true
    }

    /// It runs: for as long as its task allows.
    pub(super) fn watch(&mut self, context: &mut Context<'_>) {
        let (Some(alloc), Some(run)) = (context.alloc, &mut self.run) else { return };
        let Some((timeout, (since, ran))) = spec::timeout(context.cluster, alloc).zip(run.up)
        else {
            return;
        };
        if mutant::is(Mutant::TimeoutIgnored) {
            return;
        }
        let until = since + Millis(timeout.0.saturating_sub(ran.0));
        run.until = Some(until);
        if until > context.now {
            return;
        }
        let detail = format!("it was not over within its `timeout` of {timeout}, and was killed");
        self.trouble = Some(Trouble { kind: TroubleKind::TimedOut, detail, output: Vec::new() });
        self.stage = Stage::Tailing { op: None, running: true };
        self.step(context);
    }

    /// Its process has ended, or its container is gone.
    pub(super) fn run_ended(&mut self, exit: Option<Exit>) {
        let Some(exit) = exit else {
            self.trouble = Some(gone());
            self.stage = Stage::Ended(Phase::Failed);
            return;
        };
        self.ending = Some(Ending { in_flight: None, exit: Some(exit) });
        self.trouble = (exit.code != 0).then(|| Trouble {
            kind: TroubleKind::Exited(exit),
            detail: exit.sentence(),
            output: Vec::new(),
        });
        self.stage = match self.trouble {
            Some(_) => Stage::Tailing { op: None, running: false },
            None => Stage::Ended(Phase::Completed),
        };
    }
}

fn gone() -> Trouble {
    let detail = "its container was removed by somebody else".to_owned();
    Trouble { kind: TroubleKind::Op(OpErrorKind::Gone), detail, output: Vec::new() }
}
