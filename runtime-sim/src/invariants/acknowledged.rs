//! What was acknowledged stays; what was refused never happens; nothing happens twice.

use std::collections::{BTreeMap, BTreeSet};

use mill_core::api::{Answer, ErrorCode};
use mill_core::cluster::command::Command;
use mill_core::cluster::{Cluster, DEPLOYS_KEPT};

use super::{Invariant, Moment};
use crate::workload;

/// What people were told of their deploys.
#[derive(Default)]
pub(super) struct Acknowledged {
    /// Deploys that somebody was told of.
    numbers: BTreeSet<u64>,
    /// Changes that somebody was told will not be.
    refused: BTreeSet<String>,
    /// Changes that are committed, and under which number.
    started: BTreeMap<String, u64>,
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
                Ok(_) => Ok(()),
                Err(error) if error.code == ErrorCode::Unknown => Ok(()),
                Err(error) => {
                    let Some(change) = asked.change.clone() else { return Ok(()) };
                    if self.started.contains_key(&change) {
                        return Err(format!("`{change}` was refused ({error}) and is committed"));
                    }
                    self.refused.insert(change);
                    Ok(())
                }
            },
            Moment::Effect { .. } | Moment::Agreed { .. } | Moment::State { .. } => Ok(()),
            Moment::Heard { .. } | Moment::Belief { .. } | Moment::Host { .. } => Ok(()),
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

    fn still_there(&self, cluster: &Cluster) -> Result<(), String> {
        let oldest = cluster.last_deploy.saturating_sub(DEPLOYS_KEPT as u64);
        let kept = self.numbers.range(oldest + 1..);
        match kept.into_iter().find(|number| !cluster.deploys.contains_key(number)) {
            Some(lost) => Err(format!("deploy #{lost} was acknowledged and is lost")),
            None => Ok(()),
        }
    }
}
