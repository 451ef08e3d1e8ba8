//! The plan as people read it: plain text, one line a slot, the same everywhere.

use std::fmt;

use super::{Action, Plan, ServicePlan, SlotStep};
use crate::config::diff::FieldChange;
use crate::config::model::UpdateOrder;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "project {}", self.project)?;
        for service in self.services.iter().filter(|service| service.action != Action::Keep) {
            write!(f, "{service}")?;
        }
        let count = |action| self.services.iter().filter(|s| s.action == action).count();
        let kept = count(Action::Keep);
        if kept == self.services.len() {
            return writeln!(f, "nothing to do: {kept} services are as the config says");
        }
        writeln!(
            f,
            "{} to add, {} to replace, {} to change, {} to remove, {kept} unchanged",
            count(Action::Add),
            count(Action::Replace),
            count(Action::Change),
            count(Action::Remove),
        )
    }
}

impl fmt::Display for ServicePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, word) = match self.action {
            Action::Add => ('+', "add"),
            Action::Replace => ('~', "replace"),
            Action::Change => ('~', "change"),
            Action::Keep => ('=', "keep"),
            Action::Remove => ('-', "remove"),
        };
        write!(f, "{sign} {}: {word}", self.service)?;
        if self.action == Action::Replace {
            let order = match self.order {
                UpdateOrder::StartFirst => "start first",
                UpdateOrder::StopFirst => "stop first",
            };
            write!(f, ", {order}")?;
        }
        writeln!(f)?;
        self.changes.iter().try_for_each(|change| writeln!(f, "    {change}"))?;
        for planned in &self.slots {
            writeln!(f, "    {} {}", planned.slot, planned.step)?;
        }
        Ok(())
    }
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

impl fmt::Display for SlotStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SlotStep::Keep { alloc, node } => write!(f, "keeps {alloc} on {node}"),
            SlotStep::Create { node } => write!(f, "starts on {node}"),
            SlotStep::Replace { alloc, from, to } if from == to => {
                write!(f, "replaces {alloc} on {from}")
            }
            SlotStep::Replace { alloc, from, to } => {
                write!(f, "replaces {alloc} on {from} by one on {to}")
            }
            SlotStep::Stop { alloc, node } => write!(f, "stops {alloc} on {node}"),
            SlotStep::Unplaced { alloc, rejected } => {
                write!(f, "cannot be placed now")?;
                if let Some(alloc) = alloc {
                    write!(f, ", {alloc} stays")?;
                }
                if rejected.is_empty() {
                    return write!(f, ": no node is up");
                }
                rejected.iter().try_for_each(|r| write!(f, "\n        {} {}", r.node, r.reason))
            }
        }
    }
}
