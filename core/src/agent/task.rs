//! One alloc on this node: from fetching its image to its container being gone.
//!
//! A task is a [`Stage`] and what it remembers between stages. `step` asks for the next
//! operation when none is under way; `op_done` and `observed` move it on. Restarts happen in
//! place, with backoff; what cannot work here ends as failed and the leader places it anew. What is
//! different for a run is in `run.rs`.

use serde::{Deserialize, Serialize};

use super::backoff::{Backoff, Failures, RESET_AFTER};
use super::cache::Cache;
use super::drain::Drain;
use super::probe::Probing;
use super::run::Execution;
use super::spec;
use super::stage::{Stage, Then};
use super::words::{KILLED_AFTER_GRACE, last_words};
use crate::cluster::Cluster;
use crate::cluster::alloc::{Alloc, Desired, Ending, Phase, Status, Trouble, TroubleKind};
use crate::config::model::HealthSpec;
use crate::container::{
    ContainerOp, ContainerState, Exit, Observed, OpError, OpErrorKind, OpOutput,
};
use crate::effect::OpId;
use crate::mutant::{self, Mutant};
use crate::name::AllocId;
use crate::node::Wake;
use crate::outbox::Outbox;
use crate::rng::Rng;
use crate::time::Mono;

/// Lines of output that a report carries.
const OUTPUT_LINES: u32 = 20;

/// What this node does for one alloc.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) stage: Stage,
    /// What is different if it is a run.
    pub(super) run: Option<Execution>,
    /// Sequence number of the operation that was asked for last: a listing that was asked for
    /// earlier says nothing of its outcome.
    touched: u64,
    /// Whether the engine has a container for it that ran before.
    exists: bool,
    restarts: u32,
    backoff: Backoff,
    failures: Failures,
    health: HealthSpec,
    pub(super) trouble: Option<Trouble>,
    /// Why it goes, while something stands in the way of that.
    cause: Option<Trouble>,
    /// What was seen to end before its start was answered.
    died: Option<Observed>,
    /// Connections that were open when they were counted last.
    in_flight: Option<u32>,
    /// How its stop went, or how a run ended.
    pub(super) ending: Option<Ending>,
}

/// What a step sees.
pub(super) struct Context<'a> {
    pub now: Mono,
    pub cluster: &'a Cluster,
    pub id: &'a AllocId,
    /// The alloc if it is live in the replicated state.
    pub alloc: Option<&'a Alloc>,
    /// Which images may be on their way out.
    pub cache: &'a Cache,
    pub out: &'a mut Outbox,
}

impl Task {
    /// For an alloc that nothing is known of on this node.
    pub fn new(alloc: &Alloc) -> Task {
        if alloc.run.is_some() {
            return Task::of_run(alloc);
        }
        Task { restarts: alloc.status.restarts, ..Task::at(Stage::Fetch { at: Mono(0) }) }
    }

    /// For a container that belongs to no live alloc.
    pub fn orphan() -> Task {
        Task::at(Stage::Stop { at: Mono(0), then: Then::End(Phase::Stopped) })
    }

    pub(super) fn at(stage: Stage) -> Task {
        Task {
            stage,
            run: None,
            touched: 0,
            exists: false,
            restarts: 0,
            backoff: Backoff::default(),
            failures: Failures::default(),
            health: HealthSpec::default(),
            trouble: None,
            cause: None,
            died: None,
            in_flight: None,
            ending: None,
        }
    }

    /// The same task for a container that was found at boot.
    pub fn adopting(mut self, now: Mono, observed: &Observed, alloc: Option<&Alloc>) -> Task {
        if alloc.is_none() || observed.state == ContainerState::Created {
            return self;
        }
        if mutant::is(Mutant::ReattachLost) {
            return Task::orphan();
        }
        // One that has ended is judged by the listing that found it, like any other.
        let healthy = alloc.is_some_and(|alloc| alloc.status.phase == Phase::Healthy);
        self.exists = true;
        self.trouble = None;
        self.is_up(now, observed, healthy);
        self
    }

    pub fn waits_for(&self, id: OpId) -> bool {
        match &self.stage {
            Stage::Fetching(op) | Stage::Starting(op) => *op == id,
            Stage::Stopping { op, .. } | Stage::Removing { op, .. } => *op == id,
            Stage::Tailing { op, .. } => *op == Some(id),
            Stage::Drain(drain) => drain.waits_for(id),
            Stage::Up { probing, .. } => probing.waits_for(id),
            Stage::Fetch { .. } | Stage::Start { .. } | Stage::Stop { .. } => false,
            Stage::Remove { .. } | Stage::Ended(_) => false,
        }
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Ended(_))
    }

    /// A listing that is under way may have looked before its last operation was done.
    pub fn outruns(&mut self, listing: u64) {
        self.touched = self.touched.max(listing);
    }

    /// Whether a listing asked for by operation `asked` can speak of this task.
    pub fn is_older_than(&self, asked: u64) -> bool {
        self.touched < asked
    }

    /// The engine is back: what waits for it need not wait longer.
    pub fn retry_now(&mut self) {
        let waits_for_engine = |trouble: &Trouble| {
            matches!(trouble.kind, TroubleKind::Op(OpErrorKind::EngineDown | OpErrorKind::TimedOut))
        };
        if !self.trouble.as_ref().is_some_and(waits_for_engine) {
            return;
        }
        match &mut self.stage {
            Stage::Fetch { at } | Stage::Start { at } => *at = Mono(0),
            Stage::Stop { at, .. } | Stage::Remove { at, .. } => *at = Mono(0),
            Stage::Fetching(_) | Stage::Starting(_) | Stage::Up { .. } | Stage::Ended(_) => {}
            Stage::Drain(_) | Stage::Tailing { .. } => {}
            Stage::Stopping { .. } | Stage::Removing { .. } => {}
        }
    }

    /// What the leader should know.
    pub fn status(&self) -> Status {
        let phase = match &self.stage {
            Stage::Fetch { .. } | Stage::Fetching(_) if self.restarts == 0 => Phase::Starting,
            Stage::Start { .. } if self.restarts > 0 => Phase::BackingOff,
            Stage::Fetch { .. } | Stage::Fetching(_) | Stage::Start { .. } => Phase::Starting,
            Stage::Starting(_) => Phase::Starting,
            Stage::Up { .. } if self.run.is_some() => Phase::Running,
            Stage::Tailing { .. } if self.run.is_some() => Phase::Stopping,
            Stage::Up { probing, .. } => probing.phase(),
            Stage::Tailing { running: true, .. } => Phase::Unhealthy,
            Stage::Tailing { running: false, .. } => Phase::BackingOff,
            // Only a failing health check stops what is to be started again.
            Stage::Stop { then: Then::StartAgain(_), .. } => Phase::Unhealthy,
            Stage::Stopping { then: Then::StartAgain(_), .. } => Phase::Unhealthy,
            Stage::Drain(_) | Stage::Stop { .. } | Stage::Stopping { .. } => Phase::Stopping,
            Stage::Remove { .. } | Stage::Removing { .. } => Phase::Stopping,
            Stage::Ended(phase) => *phase,
        };
        let keeps_trouble = !matches!(phase, Phase::Healthy | Phase::Running) || self.restarts > 0;
        let trouble = self.trouble.clone().filter(|_| keeps_trouble).or_else(|| self.unanswered());
        Status { phase, restarts: self.restarts, trouble, ending: self.ending }
    }

    /// What keeps a container that runs from being healthy, once that takes long.
    fn unanswered(&self) -> Option<Trouble> {
        let Stage::Up { probing, .. } = &self.stage else { return None };
        let answer = probing.unanswered()?;
        let detail = format!("its health check does not pass yet: {answer}");
        Some(Trouble { kind: TroubleKind::Unhealthy, detail, output: Vec::new() })
    }

    /// Asks for the next operation, if one is due.
    pub fn step(&mut self, context: &mut Context<'_>) {
        self.follow(context);
        let waits = matches!(self.stage, Stage::Fetch { .. } | Stage::Start { .. });
        if waits && self.never_began(context) {
            return self.step(context);
        }
        let due = |at: Mono| at <= context.now;
        match &mut self.stage {
            Stage::Fetch { at } if due(*at) => self.fetch(context),
            Stage::Start { at } if due(*at) => self.start(context),
            Stage::Up { .. } if self.run.is_some() => self.watch(context),
            Stage::Up { probing, .. } => {
                if probing.healthy_for(context.now).is_some_and(|length| length >= RESET_AFTER) {
                    self.backoff.reset();
                }
                self.probe(context);
            }
            Stage::Tailing { op: None, running } => {
                let running = *running;
                let op = ContainerOp::Tail { alloc: context.id.clone(), lines: OUTPUT_LINES };
                self.stage = Stage::Tailing { op: Some(self.ask(context, op)), running };
            }
            Stage::Drain(drain) if drain.is_due(context.now) => self.drain(context),
            Stage::Stop { at, then } if due(*at) => {
                let then = *then;
                let plan = spec::stop_plan(context.cluster, context.alloc);
                let op = ContainerOp::Stop { alloc: context.id.clone(), plan };
                self.stage = Stage::Stopping { op: self.ask(context, op), then };
            }
            Stage::Remove { at, end } if due(*at) => {
                let end = *end;
                let op = ContainerOp::Remove { alloc: context.id.clone() };
                self.stage = Stage::Removing { op: self.ask(context, op), end };
            }
            Stage::Fetch { .. } | Stage::Start { .. } | Stage::Stop { .. } | Stage::Drain(_) => {}
            Stage::Remove { .. } | Stage::Tailing { .. } | Stage::Ended(_) => {}
            Stage::Fetching(_) | Stage::Starting(_) => {}
            Stage::Stopping { .. } | Stage::Removing { .. } => {}
        }
    }

    fn ask(&mut self, context: &mut Context<'_>, op: ContainerOp) -> OpId {
        let id = context.out.container(op);
        self.touched = id.seq;
        id
    }

    /// What should not run goes; what runs stays while something may still be sent to it.
    fn follow(&mut self, context: &Context<'_>) {
        let runs = matches!(self.stage, Stage::Up { .. });
        let Some(alloc) = context.alloc else { return self.leave() };
        let released = alloc.is_released() || mutant::is(Mutant::StoppedUnreleased);
        if alloc.desired == Desired::Run || (runs && !released) {
            return;
        }
        match spec::drain(context.cluster, alloc) {
            Some(length) if runs && !mutant::is(Mutant::DrainSkipped) => {
                self.stage = Stage::Drain(Drain::new(context.now, length));
            }
            Some(_) | None => self.leave(),
        }
    }

    /// Counts what is under way, unless that has had its time.
    fn drain(&mut self, context: &mut Context<'_>) {
        let Stage::Drain(drain) = &mut self.stage else { return };
        let port = context.alloc.and_then(|alloc| alloc.port);
        match port.filter(|_| !drain.is_over(context.now)) {
            Some(port) => {
                let alloc = context.id.clone();
                drain.asked(
                    context.now,
                    context.out.container(ContainerOp::CountInFlight { alloc, port }),
                );
            }
            None => {
                self.stage = Stage::Stop { at: Mono(0), then: Then::End(Phase::Stopped) };
                self.step(context);
            }
        }
    }

    /// It should not run (any more): whatever it waits for, it goes.
    fn leave(&mut self) {
        let end = Phase::Stopped;
        match &mut self.stage {
            // Nothing was created: only what a crash may have left is removed.
            Stage::Fetch { .. } | Stage::Fetching(_) => {
                self.stage = Stage::Remove { at: Mono(0), end };
            }
            Stage::Up { .. } if mutant::is(Mutant::StopForgotten) => {}
            // It has come to its end, and its last words are being read.
            Stage::Tailing { running: false, .. } if self.run.is_some() => {}
            Stage::Start { .. } | Stage::Up { .. } | Stage::Tailing { .. } => {
                self.stage = Stage::Stop { at: Mono(0), then: Then::End(end) };
            }
            Stage::Stop { then, .. } | Stage::Stopping { then, .. } => {
                if let Then::StartAgain(_) = then {
                    *then = Then::End(end);
                }
            }
            // What is under way is waited for: requests, and a start that may yet create something.
            Stage::Drain(_) | Stage::Starting(_) => {}
            Stage::Remove { .. } | Stage::Removing { .. } | Stage::Ended(_) => {}
        }
    }

    fn fetch(&mut self, context: &mut Context<'_>) {
        let alloc = context.alloc.expect("what should not run has left this stage");
        let Some(spec) = spec::run_spec(context.cluster, context.id, alloc) else {
            self.stage = Stage::Fetch { at: Mono(0) };
            return;
        };
        if context.cache.may_remove(&spec.image) {
            // It is taken up again as soon as that is over.
            self.stage = Stage::Fetch { at: Mono(0) };
            return;
        }
        self.stage = Stage::Fetching(self.ask(context, ContainerOp::Fetch { image: spec.image }));
    }

    fn start(&mut self, context: &mut Context<'_>) {
        let alloc = context.alloc.expect("what should not run has left this stage");
        let Some(spec) = spec::run_spec(context.cluster, context.id, alloc) else {
            self.stage = Stage::Start { at: Mono(0) };
            return;
        };
        let op = match self.exists {
            true => ContainerOp::Restart { alloc: context.id.clone(), port: alloc.port },
            false => ContainerOp::Start { spec: Box::new(spec) },
        };
        self.stage = Stage::Starting(self.ask(context, op));
    }

    fn probe(&mut self, context: &mut Context<'_>) {
        let Some(alloc) = context.alloc else { return };
        if let Some(spec) = spec::container(context.cluster, alloc)
            && self.health != spec.health
        {
            self.health = spec.health.clone();
        }
        let Stage::Up { probing, .. } = &mut self.stage else { return };
        if probing.phase() == Phase::Unhealthy {
            self.fail_health(context);
            return;
        }
        if probing.is_due(context.now, &self.health) {
            let id = context.out.container(ContainerOp::Probe {
                alloc: context.id.clone(),
                port: alloc.port,
                check: self.health.check.clone(),
                timeout: self.health.timeout,
            });
            probing.asked(id);
        }
    }

    /// It runs and is of no use: stopped and started again, which counts as a failure.
    fn fail_health(&mut self, context: &mut Context<'_>) {
        let Stage::Up { probing, .. } = &self.stage else { return };
        let answer = probing.last_failure.clone().unwrap_or_default();
        self.trouble = Some(Trouble {
            kind: TroubleKind::Unhealthy,
            detail: format!(
                "the health check failed {} times: {answer}",
                self.health.unhealthy_after
            ),
            output: Vec::new(),
        });
        self.stage = Stage::Tailing { op: None, running: true };
        self.step(context);
    }

    /// Its container runs.
    fn is_up(&mut self, now: Mono, observed: &Observed, healthy: bool) {
        let probing = Probing::new(now, healthy);
        self.stage = Stage::Up { started: observed.started, probing };
        self.run.iter_mut().for_each(|run| run.is_up(now, observed.running_for));
    }

    /// Counts a failure and a restart: start again later, or give up on this node.
    fn after_failure(&mut self, now: Mono, jitter: &mut Rng) -> Then {
        self.restarts += 1;
        match self.failures.count(now) {
            true => Then::End(Phase::Failed),
            false => Then::StartAgain(now + self.backoff.next(jitter)),
        }
    }

    /// How an operation of this task went.
    pub fn op_done(
        &mut self,
        now: Mono,
        id: OpId,
        result: Result<OpOutput, OpError>,
        jitter: &mut Rng,
    ) {
        match (self.stage.clone(), result) {
            (Stage::Up { started, mut probing }, result) if probing.waits_for(id) => {
                probing.answered(now, &self.health, result.map(|_| ()));
                self.stage = Stage::Up { started, probing };
            }
            (Stage::Fetching(_), Ok(_)) => self.stage = Stage::Start { at: Mono(0) },
            (Stage::Fetching(_), Err(error)) => {
                self.op_failed(now, error, jitter, |at| Stage::Fetch { at });
            }
            (Stage::Starting(_), Ok(OpOutput::Container(observed))) => {
                self.exists = true;
                self.is_up(now, &observed, false);
                self.observed(now, Some(&observed), jitter);
                if let Some(died) = self.died.take() {
                    self.observed(now, Some(&died), jitter);
                }
            }
            (Stage::Starting(_), Err(error)) if error.kind == OpErrorKind::Gone => {
                self.exists = false;
                self.op_failed(now, error, jitter, |at| Stage::Fetch { at });
            }
            // It was there, and somebody has removed it since.
            (Stage::Starting(_), Err(error)) if error.kind == OpErrorKind::ImageMissing => {
                self.try_again(now, error, jitter, |at| Stage::Fetch { at });
            }
            (Stage::Starting(_), Err(error)) => {
                self.op_failed(now, error, jitter, |at| Stage::Start { at });
            }
            (Stage::Tailing { running, .. }, result) => {
                if let (Ok(OpOutput::Lines(lines)), Some(trouble)) = (result, &mut self.trouble) {
                    trouble.output = last_words(lines);
                }
                let then = match self.run {
                    Some(_) => Execution::then(running),
                    None => self.after_failure(now, jitter),
                };
                self.stage = match running {
                    true => Stage::Stop { at: Mono(0), then },
                    false => then.stage(self.run.is_some()),
                };
            }
            (Stage::Drain(mut drain), result) => {
                self.in_flight = drain.counted(now, &result).or(self.in_flight);
                self.stage = Stage::Drain(drain);
            }
            (Stage::Stopping { then, .. }, Ok(OpOutput::Exited(exit))) => {
                if then == Then::End(Phase::Stopped) {
                    self.ending = Some(Ending { in_flight: self.in_flight, exit });
                }
                self.stopped(exit, then);
            }
            (Stage::Stopping { then, .. }, Err(error)) => {
                self.set_cause_aside(then.follows_failure());
                self.try_again(now, error, jitter, |at| Stage::Stop { at, then });
            }
            (Stage::Removing { end, .. }, Ok(_)) => {
                self.recall_cause();
                self.stage = Stage::Ended(end);
            }
            (Stage::Removing { end, .. }, Err(error)) => {
                self.set_cause_aside(end == Phase::Failed);
                self.try_again(now, error, jitter, |at| Stage::Remove { at, end });
            }
            (_, _) => {}
        }
    }

    fn stopped(&mut self, exit: Option<Exit>, then: Then) {
        self.recall_cause();
        if exit.is_some_and(|exit| exit.killed_after_grace) {
            match &mut self.trouble {
                // What it was stopped for is what matters.
                Some(trouble) if then.follows_failure() => {
                    trouble.detail.push_str("; asked to stop, ");
                    trouble.detail.push_str(KILLED_AFTER_GRACE);
                }
                Some(_) | None => {
                    let (kind, detail) =
                        (TroubleKind::KilledAfterGrace, KILLED_AFTER_GRACE.to_owned());
                    self.trouble = Some(Trouble { kind, detail, output: Vec::new() });
                }
            }
        }
        self.stage = then.stage(self.run.is_some());
    }

    /// What it failed of is kept for its end, whatever else goes wrong until then.
    fn set_cause_aside(&mut self, failed: bool) {
        if failed && self.cause.is_none() {
            self.cause = self.trouble.clone();
        }
    }

    fn recall_cause(&mut self) {
        if let Some(cause) = self.cause.take() {
            self.trouble = Some(cause);
        }
    }

    /// Permanent: it ends here as failed. Otherwise the same is tried again later.
    fn op_failed(
        &mut self,
        now: Mono,
        error: OpError,
        jitter: &mut Rng,
        again: impl FnOnce(Mono) -> Stage,
    ) {
        let permanent = error.kind.is_permanent();
        self.try_again(now, error, jitter, again);
        if permanent {
            self.stage = Stage::Remove { at: Mono(0), end: Phase::Failed };
        }
    }

    /// The same is tried again later: what is to go has to go, whatever the engine says.
    fn try_again(
        &mut self,
        now: Mono,
        error: OpError,
        jitter: &mut Rng,
        again: impl FnOnce(Mono) -> Stage,
    ) {
        let (kind, detail) = (TroubleKind::Op(error.kind), error.detail);
        self.trouble = Some(Trouble { kind, detail, output: Vec::new() });
        self.stage = again(now + self.backoff.next(jitter));
    }

    /// What the engine says of its container; `None` if there is none.
    pub fn observed(&mut self, now: Mono, observed: Option<&Observed>, jitter: &mut Rng) {
        if let Stage::Starting(_) = &self.stage {
            // The news may overtake the answer to the start.
            self.died = observed.cloned();
        }
        let Stage::Up { started, .. } = &self.stage else { return };
        let exit = match observed {
            Some(seen) if seen.started < *started => return,
            Some(seen) => match &seen.state {
                // Started again behind our back: another process, to be proven anew.
                ContainerState::Running if seen.started > *started => {
                    self.is_up(now, seen, false);
                    return;
                }
                ContainerState::Running => return,
                ContainerState::Exited(exit) => Some(*exit),
                ContainerState::Created => None,
            },
            None => None,
        };
        if self.run.is_some() {
            if mutant::is(Mutant::RunStartedAgain) {
                (self.exists, self.stage) = (true, Stage::Start { at: Mono(0) });
                return;
            }
            return self.run_ended(exit);
        }
        self.exists = observed.is_some_and(|seen| seen.state != ContainerState::Created);
        let kind = exit.map_or(TroubleKind::Op(OpErrorKind::Gone), TroubleKind::Exited);
        let detail = exit.map_or_else(
            || "its container was removed by somebody else".to_owned(),
            Exit::sentence,
        );
        self.trouble = Some(Trouble { kind, detail, output: Vec::new() });
        self.stage = match self.exists {
            true => Stage::Tailing { op: None, running: false },
            false => self.after_failure(now, jitter).stage(false),
        };
    }

    pub fn next_wake(&self) -> Option<(Mono, Wake)> {
        let at = match &self.stage {
            Stage::Fetch { at } | Stage::Start { at } => Some((*at, Wake::Restart)),
            Stage::Stop { at, .. } | Stage::Remove { at, .. } => Some((*at, Wake::Restart)),
            Stage::Drain(drain) => drain.next_wake().map(|at| (at, Wake::Drain)),
            Stage::Up { .. } if self.run.is_some() => {
                self.run.as_ref().and_then(Execution::next_wake).map(|at| (at, Wake::Deadline))
            }
            Stage::Up { probing, .. } => probing.next_wake().map(|at| (at, Wake::Probe)),
            Stage::Fetching(_) | Stage::Starting(_) | Stage::Tailing { .. } => None,
            Stage::Stopping { .. } | Stage::Removing { .. } | Stage::Ended(_) => None,
        };
        // What is due at once was taken up by the step that made it due, or waits for more state.
        at.filter(|(at, _)| *at > Mono(0))
    }
}
