//! Many slots of one service in few lines: grouped by what happens, and where.

use std::fmt;

use super::render::{numbered, reasons};
use super::{ServicePlan, SlotStep};
use crate::config::model::UpdateOrder;
use crate::name::Slot;
use crate::scheduler::Rejected;

/// Numbers that are listed; the JSON has the rest.
const NUMBERS_MAX: usize = 16;

/// What happens, without what tells one alloc from another.
#[derive(PartialEq, Eq)]
enum Verb<'a> {
    Keep,
    Start,
    /// It starts because its node is down.
    StartLost,
    Replace,
    Stop,
    /// Its node is down.
    Wait,
    Unplaced {
        stays: bool,
        rejected: &'a [Rejected],
    },
}

struct Group<'a> {
    verb: Verb<'a>,
    /// Where it is and where it goes; the same for what does not move.
    place: (&'a str, &'a str),
    slots: Vec<&'a Slot>,
}

/// A line for each thing that happens on each node, or for each thing.
pub(super) fn slots(f: &mut fmt::Formatter<'_>, service: &ServicePlan) -> fmt::Result {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for planned in &service.slots {
        let (verb, place) = sorted(&planned.step);
        match groups.iter_mut().find(|group| group.verb == verb && group.place == place) {
            Some(group) => group.slots.push(&planned.slot),
            None => groups.push(Group { verb, place, slots: vec![&planned.slot] }),
        }
    }
    let mut rest = groups.as_slice();
    while let Some(group) = rest.first() {
        let single = rest.iter().take_while(|other| other.is_single_like(group)).count();
        if single > super::render::LINES_MAX {
            let (told, after) = rest.split_at(single);
            let nodes: Vec<&str> = told.iter().map(|group| group.place.1).collect();
            writeln!(f, "    {} {single}, one on each of {}", group.word(), nodes.join(", "))?;
            rest = after;
            continue;
        }
        group.line(f, service.order)?;
        rest = &rest[1..];
    }
    Ok(())
}

fn sorted(step: &SlotStep) -> (Verb<'_>, (&str, &str)) {
    match step {
        SlotStep::Keep { node, .. } => (Verb::Keep, (node, node)),
        SlotStep::Create { node, lost: None } => (Verb::Start, (node, node)),
        SlotStep::Create { node, lost: Some(lost) } => (Verb::StartLost, (&lost.node, node)),
        SlotStep::Replace { from, to, .. } => (Verb::Replace, (from, to)),
        SlotStep::Stop { node, .. } => (Verb::Stop, (node, node)),
        SlotStep::Waits { node } => (Verb::Wait, (node, node)),
        SlotStep::Unplaced { alloc, rejected } => {
            (Verb::Unplaced { stays: alloc.is_some(), rejected }, ("", ""))
        }
    }
}

impl Group<'_> {
    /// Whether both do the same to one slot, each on a node of its own.
    fn is_single_like(&self, other: &Group<'_>) -> bool {
        let stays = self.place.0 == self.place.1 && !self.place.0.is_empty();
        stays && self.verb == other.verb && self.slots.len() == 1
    }

    fn word(&self) -> &'static str {
        match self.verb {
            Verb::Keep => "keep",
            Verb::Start | Verb::StartLost => "start",
            Verb::Replace => "replace",
            Verb::Stop => "stop",
            Verb::Wait => "wait for",
            Verb::Unplaced { .. } => "leave",
        }
    }

    fn line(&self, f: &mut fmt::Formatter<'_>, order: UpdateOrder) -> fmt::Result {
        let count = self.slots.len();
        let (from, to) = self.place;
        let word = self.word();
        match &self.verb {
            Verb::Keep | Verb::Start | Verb::Stop => write!(f, "    {word} {count} on {to}")?,
            Verb::Wait => write!(f, "    {count} {word} {to}, which is down")?,
            Verb::StartLost => {
                write!(f, "    {word} {count} on {to}, lost with {from}, which is down")?;
            }
            Verb::Replace if from == to => write!(f, "    {word} {count} on {to}")?,
            Verb::Replace => write!(f, "    {word} {count} on {from} by as many on {to}")?,
            Verb::Unplaced { stays, rejected } => {
                let what = match (stays, order) {
                    (false, _) => "cannot be placed now",
                    (true, UpdateOrder::StartFirst) => "cannot be replaced now and stay",
                    (true, UpdateOrder::StopFirst) => "stop, and then cannot be placed",
                };
                write!(f, "    {count} {what}")?;
                numbered(f, &self.slots)?;
                return reasons(f, rejected);
            }
        }
        numbered(f, &self.slots)?;
        writeln!(f)
    }
}

/// Ascending numbers with runs drawn together: `0-4, 7, 9`.
pub(crate) fn numbers(indices: &[u64]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut rest = indices;
    while let Some(first) = rest.first() {
        let run = rest.iter().zip(*first..).take_while(|(index, next)| *index == next).count();
        let run = if run < 3 { 1 } else { run };
        match rest[run - 1] {
            last if run > 1 => parts.push(format!("{first}-{last}")),
            only => parts.push(only.to_string()),
        }
        rest = &rest[run..];
    }
    if parts.len() > NUMBERS_MAX {
        let more = parts.len() - NUMBERS_MAX;
        parts.truncate(NUMBERS_MAX);
        parts.push(format!("and {more} more"));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn runs_of_three_and_more_are_drawn_together() {
        assert_eq!(numbers(&[0, 1, 2, 3, 5, 6, 9]), "0-3, 5, 6, 9");
        assert_eq!(numbers(&[]), "");
        assert_eq!(numbers(&[4]), "4");
        let even: Vec<u64> = (0..20).map(|number| 2 * number).collect();
        assert!(numbers(&even).ends_with("28, 30, and 4 more"));
    }
}
