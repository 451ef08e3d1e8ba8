//! What was acknowledged stays; what was refused never happens; nothing happens twice.

use std::collections::{BTreeMap, BTreeSet};

use mill_core::api::{Answer, ErrorCode, Request};
use mill_core::cluster::command::Command;
use mill_core::cluster::{Cluster, DEPLOYS_KEPT};

use super::{Invariant, Moment};
use crate::workload;
use crate::world::people::mark;

/// What people were told of their deploys.
#[derive(Default)]
pub(super) struct Acknowledged {
    /// Deploys that somebody was told of.
    numbers: BTreeSet<u64>,
    /// Changes that somebody was told will not be.
    refused: BTreeSet<String>,
    /// Changes that are committed, and under which number.
    started: BTreeMap<String, u64>,
    /// Labels that are committed.
    marked: BTreeSet<String>,
}

impl Invariant for Acknowledged {
    fn name(&self) -> &'static str {
        "acknowledged"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        match moment {
            Moment::Committed { before, entry, after, .. } => {
                if after.last_deploy > before.last_deploy {
                    entry.commands.iter().try_for_each(|c| self.started(c))?;
                }
                entry.commands.iter().try_for_each(|c| self.marked(c, after))?;
                self.still_there(after)
            }
            Moment::Answer { asked, outcome, cluster, .. } => match outcome {
                Ok(Answer::Started { number, .. }) => {
                    let change = asked.change.as_ref().and_then(|c| self.started.get(c));
                    if asked.change.is_some() && change != Some(number) {
                        return Err(format!("deploy #{number} was acknowledged as another's"));
                    }
                    self.numbers.insert(*number);
                    self.still_there(cluster)
                }
                Ok(Answer::Done) => match mark_of(&asked.request) {
                    Some(mark) if !self.marked.contains(mark) => {
                        Err(format!("the label {mark} was acknowledged and is not committed"))
                    }
                    Some(_) | None => Ok(()),
                },
                Ok(_) => Ok(()),
                Err(error) if error.code == ErrorCode::Unknown => Ok(()),
                Err(error) => {
                    let change = asked.change.as_ref().or(mark_of(&asked.request));
                    let Some(change) = change.cloned() else { return Ok(()) };
                    if self.started.contains_key(&change) || self.marked.contains(&change) {
                        return Err(format!("`{change}` was refused ({error}) and is committed"));
                    }
                    self.refused.insert(change);
                    Ok(())
                }
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

impl Acknowledged {
    fn started(&mut self, command: &Command) -> Result<(), String> {
        let Command::StartDeploy { number, changes, .. } = command else { return Ok(()) };
        let specs = changes.values().flatten();
        let carried: BTreeSet<&str> = specs.filter_map(|spec| workload::change(spec)).collect();
        for change in carried {
            if self.refused.contains(change) {
                return Err(format!("`{change}` was refused and happens in deploy #{number}"));
            }
            self.started.entry(change.to_owned()).or_insert(*number);
        }
        Ok(())
    }

    fn marked(&mut self, command: &Command, after: &Cluster) -> Result<(), String> {
        let Command::SetLabels { node, set, .. } = command else { return Ok(()) };
        let is = after.nodes.get(node).and_then(|record| mark(&record.labels));
        let Some(mark) = mark(set).filter(|mark| Some(*mark) == is) else { return Ok(()) };
        if self.refused.contains(mark) {
            return Err(format!("the label {mark} was refused and is set"));
        }
        if !self.marked.insert(mark.clone()) {
            return Err(format!("the label {mark} is set twice"));
        }
        Ok(())
    }

    fn still_there(&self, cluster: &Cluster) -> Result<(), String> {
        let oldest = cluster.last_deploy.saturating_sub(DEPLOYS_KEPT as u64);
        let kept = self.numbers.range(oldest + 1..);
        match kept.into_iter().find(|number| !cluster.deploys.contains_key(number)) {
            Some(lost) => Err(format!("deploy #{lost} was acknowledged and is lost")),
            None => Ok(()),
        }
    }
}

fn mark_of(request: &Request) -> Option<&String> {
    let Request::Label { set, .. } = request else { return None };
    mark(set)
}
