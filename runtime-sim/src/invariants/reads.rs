//! A status is never older than what anybody knew when it was asked for; one that is a copy, never
//! older than it says.

use std::collections::BTreeMap;

use mill_core::api::view::Age;
use mill_core::api::{Answer, Request};
use mill_core::cluster::command::Command;
use mill_core::units::Millis;

use super::{Invariant, Moment};
use crate::time::SimTime;
use crate::world::people::mark;

/// A leader that was deposed takes so long to notice, and tells others meanwhile that they have all
/// that is committed.
const NOTICED: Millis = Millis::secs(15);

/// What was known when, as indices in the log.
#[derive(Default)]
pub(super) struct Reads {
    /// The latest index that anybody had been told of by then.
    known: Vec<(SimTime, u64)>,
    /// Where each deploy was committed.
    deploys: BTreeMap<u64, u64>,
    /// Where each label was committed.
    marks: BTreeMap<String, u64>,
}

impl Invariant for Reads {
    fn name(&self) -> &'static str {
        "reads"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        match moment {
            Moment::Committed { entry, at, .. } => {
                for command in &entry.commands {
                    if let Command::StartDeploy { number, .. } = command {
                        self.deploys.entry(*number).or_insert(at.index);
                    }
                    if let Command::SetLabels { set, .. } = command
                        && let Some(mark) = mark(set)
                    {
                        self.marks.entry(mark.clone()).or_insert(at.index);
                    }
                }
                Ok(())
            }
            Moment::Answer { now, asked, outcome, .. } => match outcome {
                Ok(Answer::Started { number, .. }) => {
                    let index = self.deploys.get(number).copied().unwrap_or(0);
                    self.learn(*now, index);
                    Ok(())
                }
                Ok(Answer::Done) => {
                    if let Request::Label { set, .. } = &asked.request
                        && let Some(index) = mark(set).and_then(|mark| self.marks.get(mark))
                    {
                        self.learn(*now, *index);
                    }
                    Ok(())
                }
                Ok(Answer::Status(status)) => {
                    let (_, index) = status.revision.split_once('.').unwrap_or_default();
                    let index: u64 = index.parse().map_err(|_| "a revision is two numbers")?;
                    // One that asks for an old answer may get one that says how old it is.
                    let before = match status.stale {
                        None => self.known_at(asked.at),
                        Some(Age::Unknown) => return Ok(()),
                        Some(Age::AtMost(age)) => self.known_at(before(*now, age)),
                    };
                    self.learn(*now, index);
                    if index >= before {
                        return Ok(());
                    }
                    Err(format!("a status is from {index}, but {before} was known before"))
                }
                Ok(_) | Err(_) => Ok(()),
            },
            Moment::Effect { .. } | Moment::Agreed { .. } | Moment::State { .. } => Ok(()),
            Moment::Heard { .. }
            | Moment::Belief { .. }
            | Moment::Host { .. }
            | Moment::Validation { .. } => Ok(()),
            Moment::Unanswered { .. } => Ok(()),
        }
    }
}

impl Reads {
    fn learn(&mut self, now: SimTime, index: u64) {
        let latest = self.known.last().map_or(0, |(_, index)| *index);
        if index > latest {
            self.known.push((now, index));
        }
    }

    fn known_at(&self, at: SimTime) -> u64 {
        let later = self.known.partition_point(|(when, _)| *when <= at);
        later.checked_sub(1).map_or(0, |last| self.known[last].1)
    }
}

/// So long ago, by a clock that may run slow, and before a deposed leader had noticed.
fn before(now: SimTime, age: Millis) -> SimTime {
    let length = Millis(age.0 + age.0 / 10 + NOTICED.0);
    SimTime(now.0.saturating_sub(length.0 * 1_000_000))
}
