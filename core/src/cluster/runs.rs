//! How runs begin, move and end in the replicated state; and the gates of a deploy, runs that
//! services wait for.
//!
//! A run has one alloc at most: it is placed once, and what becomes of that alloc is what becomes
//! of the run. Whoever loses a node loses the runs on it.

use std::collections::BTreeMap;

use super::apply::{missing, stale};
use super::{Cluster, Refusal, Reply, Revision};
use crate::cluster::alloc::{Alloc, Desired, Phase, Status, StopReason, TroubleKind};
use crate::cluster::deploy::{Deploy, DeployState};
use crate::cluster::node::NodeRecord;
use crate::cluster::task::{Cause, Outcome, Overrides, Run, RunState, Task, TaskVersion};
use crate::mutant::{self, Mutant};
use crate::name::{AllocId, Name, NodeId};
use crate::time::Wall;

/// The most runs that wait or are under way.
pub const RUNS_LIVE_MAX: usize = 200;
/// Runs of each task that are kept when they are over.
pub const RUNS_KEPT: usize = 20;

impl Cluster {
    /// Runs that wait or are under way, in the order in which they were asked for.
    pub fn live_runs(&self) -> impl Iterator<Item = (u64, &Run)> {
        let live = self.runs.iter().filter(|(_, run)| !run.has_ended());
        live.map(|(number, run)| (*number, run))
    }

    /// Runs of a task that were given to a node and are not over.
    pub fn runs_under_way(&self, task: &Name) -> impl Iterator<Item = (u64, &Run)> {
        self.live_runs().filter(move |(_, run)| {
            run.task == *task && matches!(run.state, RunState::Placed { .. })
        })
    }

    /// The task that must succeed before a service moves in the deploy that runs, and has not.
    pub fn closed_gate(&self, service: &Name) -> Option<&Name> {
        let (_, deploy) = self.running_deploy()?;
        let change = deploy.changes.get(service).filter(|change| change.failed.is_none())?;
        let gate = change.gate.as_ref()?;
        (!self.has_passed(deploy, gate)).then_some(gate)
    }

    /// Whether the run of a gate has succeeded.
    pub fn has_passed(&self, deploy: &Deploy, gate: &Name) -> bool {
        if mutant::is(Mutant::GateNotAwaited) {
            return true;
        }
        let run = deploy.gates.get(gate).copied().flatten();
        let run = run.and_then(|number| self.runs.get(&number));
        run.and_then(Run::outcome).is_some_and(Outcome::is_success)
    }

    pub(super) fn start_run(
        &mut self,
        wall: Wall,
        name: &Name,
        cause: Cause,
        overrides: &Overrides,
    ) -> Result<Reply, Refusal> {
        let task = self.tasks.get(name).ok_or_else(|| missing("task", name))?;
        let (version, wanted) = self.version_for(name, task, cause)?;
        let Some(image) = wanted.image.clone() else {
            return Err(stale(format!("what the image of task `{name}` means is not known yet")));
        };
        // A deploy waits for its gate, and there are few of those.
        let is_gate = matches!(cause, Cause::Gate(_));
        if !is_gate && self.live_runs().count() >= RUNS_LIVE_MAX {
            return Err(Refusal::TooMany { what: "runs under way", most: RUNS_LIVE_MAX });
        }
        let mut spec = Box::new(wanted.spec.clone());
        spec.container.env.extend(overrides.env.clone());
        if !overrides.command.is_empty() {
            spec.container.command = overrides.command.clone();
        }
        let project = task.project.clone();
        let number = self.last_run + 1;
        self.last_run = number;
        let run = Run {
            task: name.clone(),
            project,
            spec,
            version,
            image,
            cause,
            asked: wall,
            state: RunState::Waiting,
        };
        let place = run.place(number);
        self.runs.insert(number, run);
        match cause {
            Cause::Person => {}
            Cause::Gate(deploy) => {
                let deploy = self.deploys.get_mut(&deploy);
                let gate = deploy.and_then(|deploy| deploy.gates.get_mut(name));
                gate.into_iter().for_each(|gate| *gate = Some(number));
            }
            Cause::Schedule(_) if mutant::is(Mutant::DueServedTwice) => {}
            Cause::Schedule(due) => {
                let task = self.tasks.get_mut(name);
                task.into_iter().for_each(|task| task.served = Some(due));
            }
        }
        self.history.record(wall, place, format!("run {number} of {name}: {}", cause.sentence()));
        Ok(Reply::RunStarted(number))
    }

    /// The version that a run of that cause is of, if it may begin.
    fn version_for<'a>(
        &self,
        name: &Name,
        task: &'a Task,
        cause: Cause,
    ) -> Result<(u64, &'a TaskVersion), Refusal> {
        let none = || stale(format!("no deploy has brought task `{name}` about yet"));
        match cause {
            Cause::Person => task.current().ok_or_else(none),
            Cause::Schedule(due) => match task.served.is_none_or(|served| served >= due) {
                true => Err(stale(format!("task `{name}` was served for that time"))),
                false => task.current().ok_or_else(none),
            },
            Cause::Gate(number) => {
                let deploy = self.deploys.get(&number).ok_or_else(|| missing("deploy", number))?;
                let gate = deploy.gates.get(name).ok_or_else(|| missing("gate", name))?;
                if deploy.state != DeployState::Rolling {
                    return Err(stale(format!("deploy #{number} does not wait for gates")));
                }
                if gate.is_some() && !mutant::is(Mutant::GateRunAgain) {
                    return Err(stale(format!("gate `{name}` of deploy #{number} has its run")));
                }
                task.target().ok_or_else(none)
            }
        }
    }

    /// A moment of a task's schedule goes by without a run.
    pub(super) fn skip_due(
        &mut self,
        wall: Wall,
        name: &Name,
        due: Wall,
        why: &str,
    ) -> Result<Reply, Refusal> {
        let task = self.tasks.get_mut(name).ok_or_else(|| missing("task", name))?;
        if task.served.is_none_or(|served| served >= due) {
            return Err(stale(format!("task `{name}` was served for that time")));
        }
        task.served = Some(due);
        self.history.record(wall, name, format!("its schedule was due and it was not run: {why}"));
        Ok(Reply::Done)
    }

    pub(super) fn place_run(
        &mut self,
        at: Revision,
        wall: Wall,
        number: u64,
        id: &AllocId,
        node: NodeId,
    ) -> Result<Reply, Refusal> {
        if self.allocs.contains_key(id) {
            return Err(stale(format!("alloc `{id}` exists")));
        }
        let run = self.runs.get(&number).ok_or_else(|| missing("run", number))?;
        if run.state != RunState::Waiting {
            return Err(stale(format!("run {number} does not wait for a node")));
        }
        let most = usize::try_from(run.spec.concurrency).unwrap_or(usize::MAX);
        if self.runs_under_way(&run.task).count() >= most && !mutant::is(Mutant::ConcurrencyIgnored)
        {
            return Err(stale(format!("as many runs of `{}` are under way as may be", run.task)));
        }
        if !self.nodes.get(&node).is_some_and(NodeRecord::takes_new) {
            return Err(stale(format!("node {node} is down, drains or runs no containers")));
        }
        let alloc = Alloc {
            slot: run.place(number),
            run: Some(number),
            node,
            template: run.version,
            port: None,
            cpu: run.spec.container.reserved_cpu(),
            memory: run.spec.container.reserved_memory(),
            placed: at,
            desired: Desired::Run,
            status: Status::default(),
            served: false,
            leaving: None,
        };
        let place = alloc.slot.clone();
        self.allocs.insert(id.clone(), alloc);
        self.by_node.entry(node).or_default().insert(id.clone());
        if let Some(run) = self.runs.get_mut(&number) {
            run.state = RunState::Placed { alloc: id.clone() };
        }
        let record = self.nodes.get(&node).expect("a node that is up is known");
        self.history.record(wall, id, format!("{place} was placed on node {}", record.name));
        Ok(Reply::Done)
    }

    /// Somebody wants a run to end, or a later one takes its place.
    pub(super) fn kill_run(&mut self, wall: Wall, number: u64) -> Result<Reply, Refusal> {
        let run = self.runs.get(&number).ok_or_else(|| missing("run", number))?;
        let place = run.place(number);
        let alloc = match &run.state {
            RunState::Ended { .. } => return Err(stale(format!("run {number} is over"))),
            RunState::Waiting => None,
            RunState::Placed { alloc } => Some(alloc.clone()),
        };
        let Some(id) = alloc else {
            self.end_run(wall, number, Outcome::Killed);
            return Ok(Reply::Done);
        };
        let alloc = self.allocs.get_mut(&id).ok_or_else(|| missing("alloc", &id))?;
        if alloc.desired != Desired::Run {
            return Err(stale(format!("run {number} is being killed")));
        }
        alloc.desired = Desired::Stop { reason: StopReason::Killed };
        self.history.record(wall, place, "it is to be killed".to_owned());
        Ok(Reply::Done)
    }

    /// What waited for some gates of a deploy goes back: one of these that has not begun is not to
    /// begin any more. One that has is left to itself, since nobody can take back half of it.
    pub(super) fn give_up_gates(
        &mut self,
        wall: Wall,
        deploy: u64,
        which: impl Fn(&Deploy, &Name) -> bool,
    ) {
        let Some(deploy) = self.deploys.get(&deploy) else { return };
        let gates = deploy.gates.iter().filter(|(gate, _)| which(deploy, gate));
        let gates: Vec<u64> = gates.filter_map(|(_, run)| *run).collect();
        for number in gates {
            if self.runs.get(&number).is_some_and(|run| self.has_not_begun(run)) {
                // It is on its way out already if this is refused.
                let _ = self.kill_run(wall, number);
            }
        }
    }

    /// Whether a run waits for a node, or for its container to be started there.
    pub fn has_not_begun(&self, run: &Run) -> bool {
        match &run.state {
            RunState::Waiting => true,
            RunState::Ended { .. } => false,
            RunState::Placed { alloc } => match self.allocs.get(alloc).map(|a| a.status.phase) {
                Some(Phase::Placed | Phase::Starting | Phase::BackingOff) => true,
                Some(Phase::Running | Phase::Healthy | Phase::Unhealthy | Phase::Stopping) => false,
                Some(Phase::Stopped | Phase::Completed | Phase::Failed) | None => false,
            },
        }
    }

    /// A run is over, unless it was before.
    pub(super) fn end_run(&mut self, wall: Wall, number: u64, outcome: Outcome) {
        let Some(run) = self.runs.get_mut(&number).filter(|run| !run.has_ended()) else { return };
        let place = run.place(number);
        let alloc = run.alloc().cloned();
        let trouble = alloc.as_ref().and_then(|id| self.allocs.get(id));
        let trouble = trouble.and_then(|alloc| alloc.status.trouble.clone());
        let text = format!("run {number} {}", outcome.sentence());
        run.state = RunState::Ended { alloc, at: wall, outcome, trouble };
        self.history.record(wall, place, text);
        self.forget_runs();
    }

    /// What becomes of an alloc is what becomes of its run.
    pub(super) fn run_goes_on(&mut self, wall: Wall, id: &AllocId, before: &Status) {
        let Some(alloc) = self.allocs.get(id) else { return };
        let (Some(number), false) = (alloc.run, alloc.is_live()) else { return };
        // A daemon that was restarted meanwhile does not know any more why it was ended.
        let timed_out = [before, &alloc.status].iter().any(|status| {
            status.trouble.as_ref().is_some_and(|trouble| trouble.kind == TroubleKind::TimedOut)
        });
        let is_killed = alloc.desired != Desired::Run;
        let exit = alloc.status.ending.and_then(|ending| ending.exit);
        let outcome = match (alloc.status.phase, exit) {
            (_, _) if timed_out => Outcome::TimedOut,
            (_, _) if is_killed => Outcome::Killed,
            (Phase::Completed, Some(exit)) => Outcome::Exited(exit),
            (_, _) => Outcome::Failed,
        };
        self.end_run(wall, number, outcome);
    }

    /// A node is lost, and what was under way there with it: it is not executed again, and ends
    /// there should the node come back.
    pub(super) fn lose_runs(&mut self, wall: Wall, node: NodeId, name: &str) {
        if mutant::is(Mutant::LostRunForgotten) {
            return;
        }
        let on_node = self.allocs_on(node).filter(|(_, alloc)| alloc.is_live());
        let runs = on_node.filter_map(|(id, alloc)| Some((id.clone(), alloc.run?)));
        let runs: Vec<(AllocId, u64)> = runs.collect();
        for (id, number) in runs {
            if let Some(alloc) = self.allocs.get_mut(&id).filter(|a| a.desired == Desired::Run) {
                alloc.desired = Desired::Stop { reason: StopReason::RunOver };
            }
            match self.runs.get_mut(&number) {
                Some(run) if mutant::is(Mutant::LostRunAgain) => run.state = RunState::Waiting,
                Some(_) | None => {
                    self.end_run(wall, number, Outcome::Lost { node: name.to_owned() });
                }
            }
        }
    }

    /// Runs that are over are forgotten, but for the last of each task (and the last of all tasks
    /// that are gone), and the gates of the deploy that runs.
    fn forget_runs(&mut self) {
        let gates = self.running_deploy().map(|(_, deploy)| deploy.gates.values().flatten());
        let gates: Vec<u64> = gates.into_iter().flatten().copied().collect();
        let ended = self.runs.iter().filter_map(|(number, run)| Some((run.ended()?, *number, run)));
        let mut ended: Vec<_> = ended.collect();
        ended.sort_by_key(|(at, number, _)| std::cmp::Reverse((*at, *number)));
        let mut kept: BTreeMap<Option<&Name>, usize> = BTreeMap::new();
        let mut old = Vec::new();
        for (_, number, run) in ended {
            let task = Some(&run.task).filter(|task| self.tasks.contains_key(*task));
            let count = kept.entry(task).or_default();
            *count += 1;
            if *count > RUNS_KEPT && !gates.contains(&number) {
                old.push(number);
            }
        }
        old.iter().for_each(|number| _ = self.runs.remove(number));
    }

    /// A task is gone: what waits to be run of it is not run any more.
    pub(super) fn forget_task(&mut self, wall: Wall, name: &Name) {
        let of_task = self.live_runs().filter(|(_, run)| run.task == *name);
        let waiting = of_task.filter(|(_, run)| run.state == RunState::Waiting);
        let waiting: Vec<u64> = waiting.map(|(number, _)| number).collect();
        waiting.into_iter().for_each(|number| self.end_run(wall, number, Outcome::Killed));
        self.forget_runs();
    }
}
