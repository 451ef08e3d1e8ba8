//! Requests about runs: asking for one, looking at them, killing one; and what people are shown of
//! runs and tasks.

use super::Node;
use super::requests::Then;
use crate::api::view::{GateView, RunView, TaskView};
use crate::api::{Answer, ApiError, ErrorCode, RequestId};
use crate::brain::sentences;
use crate::cluster::alloc::Phase;
use crate::cluster::command::Command;
use crate::cluster::deploy::Deploy;
use crate::cluster::task::{Cause, Overrides, Run, RunState, Task};
use crate::config::supported;
use crate::name::Name;
use crate::schedule::Schedule;
use crate::time::Now;

/// Environment variables that a run may override.
pub const OVERRIDES_MAX: usize = 100;
/// Bytes of all that a run overrides.
pub const OVERRIDES_BYTES_MAX: usize = 64 << 10;

impl Node {
    /// A task is to be executed.
    pub(super) fn run(
        &mut self,
        now: Now,
        id: RequestId,
        task: Name,
        overrides: Overrides,
    ) -> Result<(), ApiError> {
        let Some(known) = self.cluster.tasks.get(&task) else {
            let message = format!("there is no task `{task}`");
            let hint = match self.cluster.services.contains_key(&task) {
                true => "it is a service: `mill exec` runs a command in one of its containers",
                false => "`mill status` lists the tasks; one comes with `mill deploy`",
            };
            return Err(ApiError::new(ErrorCode::NotFound, message).hint(hint));
        };
        if known.current().is_none() {
            let message = format!("the deploy that brings task `{task}` is not done yet");
            let error = ApiError::new(ErrorCode::Conflict, message);
            return Err(error.hint("`mill deploys attach` follows it"));
        }
        checked(&overrides)?;
        let (cause, overrides) = (Cause::Person, Box::new(overrides));
        self.propose(
            now,
            id,
            Command::StartRun { task: task.clone(), cause, overrides },
            Then::Run,
        );
        Ok(())
    }

    /// A run is to end.
    pub(super) fn kill(
        &mut self,
        now: Now,
        id: RequestId,
        number: u64,
    ) -> Result<Option<Answer>, ApiError> {
        let run = self.run_called(number)?;
        if let Some(outcome) = run.outcome() {
            let message = format!("run {number} is over: it {}", outcome.sentence());
            return Err(ApiError::new(ErrorCode::Conflict, message));
        }
        self.propose(now, id, Command::KillRun { run: number }, Then::Done);
        Ok(None)
    }

    fn run_called(&self, number: u64) -> Result<&Run, ApiError> {
        self.cluster.runs.get(&number).ok_or_else(|| {
            let message = match (1..=self.cluster.last_run).contains(&number) {
                true => format!("run {number} is not kept any more"),
                false => format!("there is no run {number}"),
            };
            ApiError::new(ErrorCode::NotFound, message).hint("`mill runs ls` lists those there are")
        })
    }

    pub(super) fn run_view(&self, number: u64) -> Result<RunView, ApiError> {
        self.run_called(number).map(|run| self.view_run(number, run))
    }

    /// Every run that is kept, the latest first.
    pub(super) fn run_views(&self, task: Option<&Name>) -> Result<Vec<RunView>, ApiError> {
        let of = |run: &Run| task.is_none_or(|task| run.task == *task);
        let runs = self.cluster.runs.iter().rev().filter(|(_, run)| of(run));
        let views: Vec<RunView> = runs.map(|(number, run)| self.view_run(*number, run)).collect();
        match task.filter(|task| views.is_empty() && !self.cluster.tasks.contains_key(*task)) {
            Some(task) => {
                let error =
                    ApiError::new(ErrorCode::NotFound, format!("there is no task `{task}`"));
                Err(error.hint("`mill status` lists the tasks"))
            }
            None => Ok(views),
        }
    }

    fn view_run(&self, number: u64, run: &Run) -> RunView {
        let alloc = run.alloc();
        let placed = alloc.and_then(|id| self.cluster.allocs.get(id));
        let node = placed.and_then(|alloc| self.cluster.nodes.get(&alloc.node));
        let (ended, trouble) = match &run.state {
            RunState::Waiting => (None, None),
            RunState::Placed { .. } => {
                (None, placed.and_then(|alloc| alloc.status.trouble.clone()))
            }
            RunState::Ended { at, trouble, .. } => (Some(*at), trouble.clone()),
        };
        let mut view = RunView {
            number,
            id: run.place(number),
            task: run.task.clone(),
            project: run.project.clone(),
            cause: run.cause,
            version: run.version,
            image: run.image.reference.clone(),
            alloc: alloc.cloned(),
            node: node.map(|node| node.name.clone()),
            asked: run.asked,
            ended,
            phase: placed.map(|alloc| alloc.status.phase),
            outcome: run.outcome().cloned(),
            state: self.sentence_of(run),
            waiting: self.waits_of(number, run),
            trouble,
            fingerprint: 0,
        };
        let bytes = serde_json::to_vec(&view).expect("a view has text keys only");
        // Programs in other languages read numbers as doubles: 52 bits are exact there.
        view.fingerprint = xxhash_rust::xxh3::xxh3_64(&bytes) >> 12;
        view
    }

    /// How far a run is, as people read it.
    fn sentence_of(&self, run: &Run) -> String {
        match &run.state {
            RunState::Waiting => "waiting for a node".to_owned(),
            RunState::Ended { outcome, .. } => outcome.sentence(),
            RunState::Placed { alloc } => match self.cluster.allocs.get(alloc) {
                Some(alloc) if !alloc.is_wanted() => "being killed".to_owned(),
                Some(alloc) if alloc.status.phase == Phase::Running => "running".to_owned(),
                Some(alloc) => alloc.status.phase_word().to_owned(),
                None => "placed".to_owned(),
            },
        }
    }

    /// What a run waits for, as far as the leader knows.
    pub(super) fn waits_of(&self, number: u64, run: &Run) -> Vec<String> {
        let Some(brain) = self.brain.as_ref().filter(|_| !run.has_ended()) else {
            return Vec::new();
        };
        let place = run.place(number).to_string();
        let blocked = sentences(brain.blocked(&run.task));
        blocked.into_iter().filter(|line| line.starts_with(&format!("{place}:"))).collect()
    }

    pub(super) fn task_view(&self, name: &Name, task: &Task) -> TaskView {
        let target = task.target().map(|(_, version)| version);
        let current = task.current().map(|(_, version)| version);
        let schedule = current.and_then(|version| version.spec.schedule.clone());
        let zone = current.and_then(|version| version.spec.time_zone.clone());
        let due = schedule.as_ref().and_then(|text| Schedule::new(text, zone.as_deref()));
        let last = self.cluster.runs.iter().rev().find(|(_, run)| run.task == *name);
        TaskView {
            name: name.clone(),
            project: task.project.clone(),
            image: target.map(|v| v.spec.container.image.clone()).unwrap_or_default(),
            version: task.target().map(|(number, _)| number),
            next: due.zip(task.served).and_then(|(schedule, served)| schedule.next(served)),
            schedule,
            time_zone: zone,
            last: last.map(|(number, run)| self.view_run(*number, run)),
        }
    }

    /// The gates of a deploy, and how far each is.
    pub(super) fn gate_views(&self, deploy: &Deploy) -> Vec<GateView> {
        let gates = deploy.gates.iter().map(|(task, number)| {
            let run = number.and_then(|number| self.cluster.runs.get(&number));
            let state = match (number, run) {
                (None, _) if deploy.state.is_end() => "was not run".to_owned(),
                (None, _) => "not begun".to_owned(),
                (Some(_), None) => "over".to_owned(),
                (Some(number), Some(run)) => {
                    let waits = self.waits_of(*number, run);
                    waits.into_iter().next().unwrap_or_else(|| self.sentence_of(run))
                }
            };
            GateView { task: task.clone(), run: *number, state }
        });
        gates.collect()
    }
}

/// What is to be different is something that a container can have.
fn checked(overrides: &Overrides) -> Result<(), ApiError> {
    let bytes: usize = overrides.env.iter().map(|(k, v)| k.len() + v.source().len()).sum();
    let command: usize = overrides.command.iter().map(|text| text.source().len()).sum();
    if overrides.env.len() > OVERRIDES_MAX || bytes + command > OVERRIDES_BYTES_MAX {
        let message = format!(
            "a run can override {OVERRIDES_MAX} variables, and {} KiB in all",
            OVERRIDES_BYTES_MAX >> 10
        );
        return Err(ApiError::new(ErrorCode::Invalid, message));
    }
    let problems = supported::problems_of(overrides);
    if problems.is_empty() {
        return Ok(());
    }
    let mut error = ApiError::new(ErrorCode::Invalid, "this cannot be overridden for a run");
    error.details = problems;
    Err(error)
}
