//! A status is never older than what anybody knew when it was asked for.

use std::collections::BTreeMap;

use mill_core::api::Answer;
use mill_core::cluster::command::Command;

use super::{Invariant, Moment};
use crate::time::SimTime;

/// What was known when, as indices in the log.
#[derive(Default)]
pub(super) struct Reads {
    /// The latest index that anybody had been told of by then.
    known: Vec<(SimTime, u64)>,
    /// Where each deploy was committed.
    deploys: BTreeMap<u64, u64>,
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
                }
                Ok(())
            }
            Moment::Answer { now, asked, outcome, .. } => match outcome {
                Ok(Answer::Started { number, .. }) => {
                    let index = self.deploys.get(number).copied().unwrap_or(0);
                    self.learn(*now, index);
                    Ok(())
                }
                // One that asks for an old answer may get one.
                Ok(Answer::Status(status)) if status.stale.is_some() => Ok(()),
                Ok(Answer::Status(status)) => {
                    let (_, index) = status.revision.split_once('.').unwrap_or_default();
                    let index: u64 = index.parse().map_err(|_| "a revision is two numbers")?;
                    let before = self.known_at(asked.at);
                    self.learn(*now, index);
                    if index >= before {
                        return Ok(());
                    }
                    Err(format!("a status is from {index}, but {before} was known before"))
                }
                Ok(_) | Err(_) => Ok(()),
            },
            Moment::Effect { .. } | Moment::Agreed { .. } | Moment::State { .. } => Ok(()),
            Moment::Heard { .. } | Moment::Belief { .. } | Moment::Host { .. } => Ok(()),
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
