//! Nothing of a service moves before the task that it waits for has succeeded in that deploy, and that
//! is run once for it.

use mill_core::cluster::Cluster;
use mill_core::cluster::command::{Command, Entry};
use mill_core::cluster::deploy::{Deploy, DeployState};
use mill_core::cluster::task::{Cause, Outcome, RunState};
use mill_core::name::Name;

use super::{Invariant, Moment};

pub(super) struct Gates;

impl Invariant for Gates {
    fn name(&self) -> &'static str {
        "gates"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Committed { before, entry, after, .. } = moment else { return Ok(()) };
        let Some((number, deploy)) = after.running_deploy() else { return Ok(()) };
        await_them(before, entry, after, deploy)?;
        run_once(after, number)
    }
}

fn await_them(
    before: &Cluster,
    entry: &Entry,
    after: &Cluster,
    deploy: &Deploy,
) -> Result<(), String> {
    for command in &entry.commands {
        let Command::Place { alloc, slot, template, .. } = command else { continue };
        let placed = !before.allocs.contains_key(alloc) && after.allocs.contains_key(alloc);
        let change = deploy.changes.get(&slot.service).filter(|_| placed);
        let Some((change, gate)) = change.and_then(|c| Some((c, c.gate.as_ref()?))) else {
            continue;
        };
        let goes_back = matches!(deploy.state, DeployState::RollingBack { .. });
        let is_new = change.to == Some(*template);
        // The fact that it has may come first in the same entry.
        if is_new && !goes_back && !succeeded(after, deploy, gate) {
            return Err(format!("{slot} moves, and task {gate} has not succeeded"));
        }
    }
    Ok(())
}

fn succeeded(cluster: &Cluster, deploy: &Deploy, gate: &Name) -> bool {
    let run = deploy.gates.get(gate).copied().flatten();
    run.and_then(|number| cluster.runs.get(&number)).is_some_and(|run| match &run.state {
        RunState::Ended { outcome: Outcome::Exited(exit), .. } => exit.code == 0,
        RunState::Ended { .. } | RunState::Waiting | RunState::Placed { .. } => false,
    })
}

fn run_once(after: &Cluster, number: u64) -> Result<(), String> {
    let of_deploy = after.runs.values().filter(|run| run.cause == Cause::Gate(number));
    let mut tasks: Vec<&Name> = of_deploy.map(|run| &run.task).collect();
    tasks.sort();
    match tasks.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("task {} was run twice for deploy #{number}", pair[0])),
        None => Ok(()),
    }
}
