//! Runs: which of those that wait get a node, which schedules are due, and the gates that a deploy
//! waits for.
//!
//! What is due follows from the leader's wall clock and the last moment that was served, which is
//! replicated: whoever leads, each moment is served once.

use std::collections::BTreeSet;

use super::{Brain, Draft};
use crate::brain::Blocked;
use crate::cluster::command::Command;
use crate::cluster::deploy::Deploy;
use crate::cluster::task::{Cause, Outcome, Overrides, Run, RunState, TaskVersion};
use crate::cluster::{Cluster, RUNS_LIVE_MAX};
use crate::config::model::{Missed, Overlap};
use crate::mutant::{self, Mutant};
use crate::name::Name;
use crate::node::Wake;
use crate::schedule::Schedule;
use crate::scheduler::{self, Ask, Candidate, Needs, Verdict};
use crate::time::Wall;
use crate::units::Millis;

/// A schedule that is served later than this was missed.
pub const IN_TIME: Millis = Millis::mins(1);
/// Runs of a task that may wait before no more are added by its schedule.
const WAITING_MAX: usize = 10;
/// The longest between two looks at the clock, which may be set.
const LOOK_AGAIN: Millis = Millis::secs(30);

impl Brain {
    /// Gives a node to each run that waits and may begin, in the order in which they were asked
    /// for.
    pub(super) fn place_runs(&mut self, draft: &mut Draft<'_>, nodes: &mut [Candidate]) {
        let cluster = draft.cluster;
        let mut begun: Vec<&Name> = Vec::new();
        for (number, run) in cluster.live_runs() {
            if run.state != RunState::Waiting {
                continue;
            }
            let slot = run.place(number);
            let before = cluster.runs_under_way(&run.task).map(|(number, _)| number);
            let before: Vec<u64> = before.collect();
            let most = usize::try_from(run.spec.concurrency).unwrap_or(usize::MAX);
            let begun_now = begun.iter().filter(|task| ***task == run.task).count();
            if before.len() + begun_now >= most && !mutant::is(Mutant::ConcurrencyIgnored) {
                let blocked = Blocked::InLine { slot, before, most: run.spec.concurrency };
                self.blocked.entry(run.task.clone()).or_default().push(blocked);
                continue;
            }
            let needs = Needs { container: &run.spec.container, place: &run.spec.place };
            let (pinned, avoid, home) = (None, BTreeSet::new(), None);
            let ask = Ask { slot: slot.clone(), needs, pinned, avoid, home };
            match scheduler::place(nodes, &[ask]).pop() {
                Some(Verdict::Placed { node, port: _ }) => {
                    begun.push(&run.task);
                    let alloc = self.mint(cluster, &slot);
                    draft.commands.push(Command::PlaceRun { run: number, alloc, node });
                }
                Some(Verdict::Unplaced(mut rejected)) => {
                    rejected.extend(scheduler::down(cluster, None));
                    let blocked = Blocked::Unplaced { slot, rejected };
                    self.blocked.entry(run.task.clone()).or_default().push(blocked);
                }
                None => {}
            }
        }
    }

    /// Asks for the runs of schedules that are due.
    pub(super) fn serve_schedules(&mut self, draft: &mut Draft<'_>) {
        let (cluster, now) = (draft.cluster, draft.now);
        self.next_due.retain(|name, _| cluster.tasks.contains_key(name));
        for (name, task) in &cluster.tasks {
            let (Some((number, version)), Some(served)) = (task.current(), task.served) else {
                continue;
            };
            let known = self.next_due.get(name).filter(|due| (due.0, due.1) == (number, served));
            let next = match known {
                Some((_, _, next)) => *next,
                None => schedule(version).and_then(|schedule| schedule.next(served)),
            };
            self.next_due.insert(name.clone(), (number, served, next));
            let Some(next) = next else { continue };
            if next > now.wall {
                let wait = Millis(next.0 - now.wall.0).min(LOOK_AGAIN);
                draft.wake_at(now.mono + wait, Wake::Due);
            } else if let Some(schedule) = schedule(version)
                && let Some((due, times)) = schedule.missed(served, now.wall)
            {
                serve(draft, name, version, due, times);
            }
        }
    }

    /// Asks for the runs of gates that services of a deploy wait for, once nothing else of it is
    /// left to move: what is new may need what is new beside it.
    pub(super) fn open_gates(draft: &mut Draft<'_>, number: u64, deploy: &Deploy) {
        let moves = deploy.changes.values().any(|change| change.gate.is_none() && !change.settled);
        if moves {
            return;
        }
        let again = mutant::is(Mutant::GateRunAgain);
        let awaited = deploy.gates.iter().filter(|(gate, _)| deploy.awaits(gate));
        let due = awaited.filter(|(_, run)| run.is_none() || again);
        for (task, _) in due {
            draft.commands.push(Command::StartRun {
                task: task.clone(),
                cause: Cause::Gate(number),
                overrides: Box::default(),
            });
        }
    }
}

fn schedule(version: &TaskVersion) -> Option<Schedule> {
    let spec = &version.spec;
    Schedule::new(spec.schedule.as_ref()?, spec.time_zone.as_deref())
}

/// A schedule was due `times` times since it was served last, at `due` for the last time.
fn serve(draft: &mut Draft<'_>, name: &Name, version: &TaskVersion, due: Wall, times: u32) {
    let spec = &version.spec;
    let late = Millis(draft.now.wall.0.saturating_sub(due.0));
    let skip = |why: String| Command::SkipDue { task: name.clone(), due, why };
    if spec.missed == Missed::Skip && late > IN_TIME {
        let why = match times {
            1 => format!("nobody could serve it for {late}, and `missed` is \"skip\""),
            more => format!("it was missed {more} times, and `missed` is \"skip\""),
        };
        draft.commands.push(skip(why));
        return;
    }
    let of_task = draft.cluster.live_runs().filter(|(_, run)| run.task == *name);
    let waiting = of_task.filter(|(_, run)| run.state == RunState::Waiting).count();
    if waiting >= WAITING_MAX {
        draft.commands.push(skip(format!("{waiting} runs of it wait already")));
        return;
    }
    let live = draft.cluster.live_runs().count();
    if live >= RUNS_LIVE_MAX {
        draft.commands.push(skip(format!("{live} runs wait or are under way, and no more may be")));
        return;
    }
    let runs = draft.cluster.live_runs();
    let last = runs.filter(|(_, run)| run.task == *name && is_scheduled(run));
    let last: Vec<u64> = last.map(|(number, _)| number).collect();
    let run = Command::StartRun {
        task: name.clone(),
        cause: Cause::Schedule(due),
        overrides: Box::new(Overrides::default()),
    };
    match (spec.overlap, last.as_slice()) {
        (Overlap::Skip, [.., before]) => {
            draft.commands.push(skip(format!("run {before} is not over yet")));
        }
        (Overlap::Replace, before) => {
            let killed = before.iter().filter(|run| !is_being_killed(draft.cluster, **run));
            let kills = killed.map(|run| Command::KillRun { run: *run }).collect::<Vec<_>>();
            draft.commands.extend(kills);
            draft.commands.push(run);
        }
        (Overlap::Skip | Overlap::Allow, _) => draft.commands.push(run),
    }
}

fn is_scheduled(run: &Run) -> bool {
    matches!(run.cause, Cause::Schedule(_))
}

fn is_being_killed(cluster: &Cluster, run: u64) -> bool {
    let alloc = cluster.runs.get(&run).and_then(Run::alloc).and_then(|id| cluster.allocs.get(id));
    alloc.is_some_and(|alloc| !alloc.is_wanted())
}

/// How far a deploy is with its gates, counted up: none has a run, one has, each that has passed.
pub(super) fn gates_passed(cluster: &Cluster, deploy: &Deploy) -> usize {
    let passed = deploy.gates.keys().filter(|gate| cluster.has_passed(deploy, gate)).count();
    usize::from(deploy.gates.values().any(Option::is_some)) + passed
}

/// A gate that services of a deploy wait for and whose run has ended without success, and how.
pub(super) fn failed_gate<'a>(cluster: &Cluster, deploy: &'a Deploy) -> Option<(&'a Name, String)> {
    let awaited = deploy.gates.iter().filter(|(gate, _)| deploy.awaits(gate));
    let runs = awaited.filter_map(|(gate, number)| Some((gate, (*number)?)));
    let ended = runs.filter_map(|(gate, number)| {
        let run = cluster.runs.get(&number)?;
        let RunState::Ended { outcome, trouble, .. } = &run.state else { return None };
        Some((gate, number, outcome, trouble))
    });
    let mut failed = ended.filter(|(_, _, outcome, _)| !outcome.is_success());
    let (gate, number, outcome, trouble) = failed.next()?;
    let mut reason = format!("task {gate}, which has to succeed first, {}", outcome.sentence());
    if let (Outcome::Failed, Some(trouble)) = (outcome, trouble) {
        reason.push_str(&format!(": {}", trouble.detail));
    }
    reason.push_str(&format!(" (run {number})"));
    let lines = trouble.iter().flat_map(|trouble| &trouble.output);
    let lines: Vec<String> = lines.map(|line| format!("\n    {line}")).collect();
    if !lines.is_empty() {
        reason.push_str("; its last lines:");
        reason.push_str(&lines.concat());
    }
    Some((gate, reason))
}

/// A gate of that deploy that was not begun.
pub(super) fn waiting_gate<'a>(cluster: &'a Cluster, deploy: &'a Deploy) -> Option<&'a Name> {
    let waits =
        |number: &u64| cluster.runs.get(number).is_some_and(|run| cluster.has_not_begun(run));
    let mut gates = deploy.gates.iter().filter(|(gate, _)| deploy.awaits(gate));
    gates.find(|(_, number)| number.as_ref().is_none_or(waits)).map(|(gate, _)| gate)
}
