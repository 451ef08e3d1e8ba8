//! The plan as people read it: plain text, a line per slot, the same everywhere.
//!
//! A service with more slots than a person reads one by one is told by node instead (`compact`);
//! the JSON of the plan always names every slot and alloc.

use std::fmt;

use super::compact::{self, numbers};
use super::{Action, Plan, ServicePlan, SlotPlan, SlotStep, StopFirst, TaskPlan};
use crate::config::diff::FieldChange;
use crate::config::model::UpdateOrder;
use crate::name::Slot;
use crate::scheduler::{Rejected, by_reason};

/// Slots of a service, or nodes that will not do, up to which each gets a line.
pub(super) const LINES_MAX: usize = 8;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "project {}", self.project)?;
        if let Some(number) = self.behind {
            writeln!(f, "deploy #{number} still runs and has to end first; as things are now:")?;
        }
        if !self.settings.is_empty() {
            writeln!(f, "~ cluster: change")?;
            for change in &self.settings {
                writeln!(f, "    {change}")?;
            }
        }
        for service in self.services.iter().filter(|service| !service.is_complete()) {
            write!(f, "{service}")?;
        }
        for task in self.tasks.iter().filter(|task| task.action != Action::Keep) {
            write!(f, "{task}")?;
        }
        if self.is_empty() {
            return self.nothing(f);
        }
        let services = self.services.iter().map(|service| service.action);
        let actions: Vec<Action> = services.chain(self.tasks.iter().map(|t| t.action)).collect();
        let count = |action| actions.iter().filter(|known| **known == action).count();
        let counts = [
            (count(Action::Add), "to add"),
            (count(Action::Replace), "to replace"),
            (count(Action::Change), "to change"),
            (count(Action::Remove), "to remove"),
            (count(Action::Keep), "unchanged"),
        ];
        let told = counts.iter().filter(|(count, _)| *count > 0);
        let told: Vec<String> = told.map(|(count, what)| format!("{count} {what}")).collect();
        writeln!(f, "{}", told.join(", "))?;
        let moving = self.services.iter().filter(|service| service.action != Action::Keep);
        match moving.flat_map(|service| &service.slots).filter(|s| s.is_unplaced()).count() {
            0 => Ok(()),
            1 => writeln!(f, "1 slot has no place now: {WAITS}"),
            unplaced => writeln!(f, "{unplaced} slots have no place now: {WAITS}"),
        }
    }
}

const WAITS: &str =
    "the deploy waits for one until `update.deadline`, then everything goes back to what it was";

impl Plan {
    fn nothing(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.services.iter().all(ServicePlan::is_complete) {
            return writeln!(
                f,
                "nothing to deploy: what does not run is being brought back already; `mill why` \
                 says more"
            );
        }
        match self.services.len() {
            0 => writeln!(f, "nothing to do: no services are wanted and none run"),
            1 => writeln!(f, "nothing to do: the only service is as the config says"),
            more => writeln!(f, "nothing to do: {more} services are as the config says"),
        }
    }
}

impl ServicePlan {
    /// Whether it is as wanted in every slot.
    fn is_complete(&self) -> bool {
        self.action == Action::Keep && self.keeps_all()
    }

    fn keeps_all(&self) -> bool {
        self.slots.iter().all(|planned| match planned.step {
            SlotStep::Keep { .. } => true,
            SlotStep::Create { .. }
            | SlotStep::Waits { .. }
            | SlotStep::Replace { .. }
            | SlotStep::Stop { .. }
            | SlotStep::Unplaced { .. } => false,
        })
    }

    fn header(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.service;
        match self.action {
            Action::Add if self.slots.is_empty() => write!(f, "+ {name}: add, without replicas"),
            Action::Add => write!(f, "+ {name}: add"),
            Action::Replace => {
                write!(f, "~ {name}: replace")?;
                self.order(f)
            }
            Action::Change if self.keeps_all() => {
                write!(f, "~ {name}: change, its containers stay")
            }
            Action::Change => write!(f, "~ {name}: change"),
            Action::Keep => write!(f, "= {name}: unchanged, but not all of it runs"),
            Action::Remove => write!(f, "- {name}: remove"),
        }
    }

    fn order(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = match self.order {
            UpdateOrder::StartFirst => "start first",
            UpdateOrder::StopFirst => "stop first",
        };
        match self.canaries {
            0 => {}
            1 => write!(f, ", one as a canary, then")?,
            canaries => write!(f, ", {canaries} as canaries, then")?,
        }
        let comma = if self.canaries == 0 { "," } else { "" };
        match self.parallel {
            1 => write!(f, "{comma} one at a time, {order}")?,
            parallel => write!(f, "{comma} {parallel} at a time, {order}")?,
        }
        match self.stop_first {
            None => Ok(()),
            Some(StopFirst::Volume) => write!(f, " (a persistent volume has one writer)"),
            Some(StopFirst::Port(port)) => {
                write!(f, " (port {port} has one owner on a node, and no node is to spare)")
            }
        }
    }
}

impl fmt::Display for ServicePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.header(f)?;
        writeln!(f)?;
        self.changes.iter().try_for_each(|change| writeln!(f, "    {change}"))?;
        if let Some(task) = &self.gate {
            writeln!(f, "    task {task} has to succeed before anything of it moves")?;
        }
        if self.action == Action::Change && self.keeps_all() {
            return Ok(());
        }
        if self.slots.len() > LINES_MAX {
            return compact::slots(f, self);
        }
        let mut rest = self.slots.as_slice();
        while let Some(planned) = rest.first() {
            // What has no place for the same reasons is told once.
            let same = rest.iter().take_while(|other| other.is_unplaced_like(planned)).count();
            let (told, after) = rest.split_at(same.max(1));
            rest = after;
            let slots: Vec<String> = told.iter().map(|planned| planned.slot.to_string()).collect();
            write!(f, "    {} ", slots.join(", "))?;
            step(f, &planned.step, self.order)?;
        }
        Ok(())
    }
}

impl fmt::Display for TaskPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let task = &self.task;
        match self.action {
            Action::Add => writeln!(f, "+ task {task}: add")?,
            Action::Replace | Action::Change => writeln!(f, "~ task {task}: change")?,
            Action::Keep => writeln!(f, "= task {task}: unchanged")?,
            Action::Remove => writeln!(f, "- task {task}: remove")?,
        }
        self.changes.iter().try_for_each(|change| writeln!(f, "    {change}"))
    }
}

impl SlotPlan {
    fn is_unplaced(&self) -> bool {
        self.is_unplaced_like(self) || self.step.is_stuck()
    }

    /// Whether both are empty and have no place, for the same reasons.
    fn is_unplaced_like(&self, other: &SlotPlan) -> bool {
        match (&self.step, &other.step) {
            (
                SlotStep::Unplaced { alloc: None, rejected: mine },
                SlotStep::Unplaced { alloc: None, rejected: theirs },
            ) => mine == theirs,
            (_, _) => false,
        }
    }
}

impl SlotStep {
    /// Whether an alloc runs there and its successor has no place.
    fn is_stuck(&self) -> bool {
        match self {
            SlotStep::Unplaced { alloc, .. } => alloc.is_some(),
            SlotStep::Keep { .. }
            | SlotStep::Create { .. }
            | SlotStep::Replace { .. }
            | SlotStep::Waits { .. }
            | SlotStep::Stop { .. } => false,
        }
    }
}

/// What happens to one slot, the rest of its line and those under it.
fn step(f: &mut fmt::Formatter<'_>, step: &SlotStep, order: UpdateOrder) -> fmt::Result {
    match step {
        SlotStep::Keep { alloc, node } => writeln!(f, "keeps {alloc} on {node}"),
        SlotStep::Create { node, lost: None } => writeln!(f, "starts on {node}"),
        SlotStep::Create { node, lost: Some(lost) } => {
            writeln!(
                f,
                "starts on {node}; {} is lost with {}, which is down",
                lost.alloc, lost.node
            )
        }
        SlotStep::Replace { alloc, from, to } if from == to => {
            writeln!(f, "replaces {alloc} on {from}")
        }
        SlotStep::Replace { alloc, from, to } => {
            writeln!(f, "replaces {alloc} on {from} by one on {to}")
        }
        SlotStep::Stop { alloc, node } => writeln!(f, "stops {alloc} on {node}"),
        SlotStep::Waits { node } => writeln!(f, "waits for {node}, which is down"),
        SlotStep::Unplaced { alloc, rejected } => {
            match (alloc, order) {
                (None, _) => write!(f, "cannot be placed now")?,
                (Some(alloc), UpdateOrder::StartFirst) => {
                    write!(f, "cannot be placed now, {alloc} stays")?;
                }
                (Some(alloc), UpdateOrder::StopFirst) => {
                    write!(f, "stops {alloc}, and then cannot be placed")?;
                }
            }
            reasons(f, rejected)
        }
    }
}

/// Why each node will not do: ends the line and adds its own.
pub(super) fn reasons(f: &mut fmt::Formatter<'_>, rejected: &[Rejected]) -> fmt::Result {
    if rejected.is_empty() {
        return writeln!(f, ": there are no nodes");
    }
    writeln!(f)?;
    if rejected.len() <= LINES_MAX {
        return rejected.iter().try_for_each(|r| writeln!(f, "        {} {}", r.node, r.reason));
    }
    by_reason(rejected).iter().try_for_each(|(reason, nodes)| match nodes.as_slice() {
        [node] => writeln!(f, "        {node} {reason}"),
        nodes => writeln!(f, "        {}: each {reason}", nodes.join(", ")),
    })
}

/// The slots as numbers, after a colon.
pub(super) fn numbered(f: &mut fmt::Formatter<'_>, slots: &[&Slot]) -> fmt::Result {
    let indices: Vec<u64> = slots.iter().map(|slot| slot.index).collect();
    write!(f, ": {}", numbers(&indices))
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(f, "{}: {from} -> {to}", self.path),
            (None, Some(to)) => write!(f, "{}: set to {to}", self.path),
            (Some(from), None) => write!(f, "{}: no longer set (was {from})", self.path),
            (None, None) => write!(f, "{}", self.path),
        }
    }
}
