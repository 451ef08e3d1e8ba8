//! A run is executed once at most: it is given to one node, its process starts once, and no more of
//! its task are under way than may be. It ends once, and with its node if that is lost. Each moment
//! of a schedule is served once.

use std::collections::{BTreeMap, BTreeSet};

use mill_core::cluster::Cluster;
use mill_core::cluster::command::{Command, Entry};
use mill_core::cluster::task::{Cause, RunState};
use mill_core::name::{AllocId, Name};
use mill_core::time::Wall;

use super::{Invariant, Moment};
use crate::world::host::Host;

/// What became of each run.
#[derive(Default)]
pub(super) struct Runs {
    /// The alloc that each was given.
    placed: BTreeMap<u64, AllocId>,
    /// Which start of its engine each process was.
    started: BTreeMap<AllocId, u64>,
    /// Moments that were served, of each task for as long as it is there.
    served: BTreeMap<Name, BTreeSet<Wall>>,
}

impl Invariant for Runs {
    fn name(&self) -> &'static str {
        "runs"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        match moment {
            Moment::Committed { before, entry, after, .. } => {
                self.given_once(after)?;
                self.served_once(before, entry, after)?;
                few_enough(before, after)?;
                lost_with_their_nodes(after)?;
                over_is_over(before, after)
            }
            Moment::Host { host, .. } => self.started_once(host),
            Moment::Effect { .. } | Moment::Heard { .. } | Moment::Agreed { .. } => Ok(()),
            Moment::State { .. } | Moment::Belief { .. } | Moment::Unanswered { .. } => Ok(()),
            Moment::Answer { .. } | Moment::Validation { .. } => Ok(()),
        }
    }
}

impl Runs {
    fn given_once(&mut self, after: &Cluster) -> Result<(), String> {
        for (id, alloc) in &after.allocs {
            let Some(run) = alloc.run else { continue };
            let first = self.placed.entry(run).or_insert_with(|| id.clone());
            if first != id {
                return Err(format!("run {run} was given to {first}, and to {id} as well"));
            }
        }
        Ok(())
    }

    fn started_once(&mut self, host: &Host) -> Result<(), String> {
        for (id, container) in host.engine.containers() {
            let is_run = container.spec.env.contains_key("MILL_RUN");
            if !is_run || container.started == 0 {
                continue;
            }
            let first = *self.started.entry(id.clone()).or_insert(container.started);
            if first != container.started {
                return Err(format!("the process of {id} was started a second time"));
            }
        }
        Ok(())
    }

    fn served_once(
        &mut self,
        before: &Cluster,
        entry: &Entry,
        after: &Cluster,
    ) -> Result<(), String> {
        // Another schedule counts anew, also when a clock ahead had served what it makes due.
        let same = |task: &Name| times(before, task) == times(after, task);
        self.served.retain(|task, _| after.tasks.contains_key(task) && same(task));
        let mut numbers = before.last_run + 1..=after.last_run;
        for command in &entry.commands {
            let Command::StartRun { task, cause, .. } = command else { continue };
            let asked = numbers.clone().find(|number| {
                after.runs.get(number).is_some_and(|r| r.task == *task && r.cause == *cause)
            });
            let (Some(number), Cause::Schedule(due)) = (asked, cause) else { continue };
            numbers = number + 1..=after.last_run;
            if !self.served.entry(task.clone()).or_default().insert(*due) {
                return Err(format!("task {task} was run twice for {due:?}"));
            }
        }
        Ok(())
    }
}

/// When the schedule of a task makes it due, as it is written.
fn times<'a>(cluster: &'a Cluster, task: &Name) -> Option<(Option<&'a str>, Option<&'a str>)> {
    let (_, version) = cluster.tasks.get(task)?.current()?;
    Some((version.spec.schedule.as_deref(), version.spec.time_zone.as_deref()))
}

/// No run begins beside as many of its task as may be under way.
fn few_enough(before: &Cluster, after: &Cluster) -> Result<(), String> {
    for (number, run) in after.live_runs() {
        let waited = before.runs.get(&number).is_none_or(|run| run.state == RunState::Waiting);
        let begun = matches!(run.state, RunState::Placed { .. });
        let many = after.runs_under_way(&run.task).count();
        if waited && begun && many > run.spec.concurrency as usize {
            return Err(format!("{many} runs of {} are under way", run.task));
        }
    }
    Ok(())
}

fn lost_with_their_nodes(after: &Cluster) -> Result<(), String> {
    let mut under_way = after.live_runs().filter_map(|(number, run)| {
        let alloc = after.allocs.get(run.alloc()?)?;
        (!after.is_up(alloc.node)).then_some((number, alloc.node))
    });
    match under_way.next() {
        Some((number, node)) => Err(format!("run {number} goes on, and {node} is down")),
        None => Ok(()),
    }
}

fn over_is_over(before: &Cluster, after: &Cluster) -> Result<(), String> {
    for (number, run) in before.runs.iter().filter(|(_, run)| run.has_ended()) {
        let now = after.runs.get(number);
        if now.is_some_and(|now| now.state != run.state) {
            return Err(format!("run {number} was over, and is something else now"));
        }
    }
    Ok(())
}
