//! States only move forward: what ended stays ended, what was told to stop stays told, rules that
//! are used go on being used, and only those that every node knows.

use mill_core::cluster::Cluster;
use mill_core::cluster::alloc::Desired;
use mill_core::cluster::command::{Command, Entry};
use mill_core::name::AllocId;

use super::{Invariant, Moment};

/// Compares the state before and after each entry.
pub(super) struct Forward;

impl Invariant for Forward {
    fn name(&self) -> &'static str {
        "forward"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        match moment {
            Moment::Committed { before, entry, after, .. } => {
                allocs(before, entry, after)?;
                features(before, after)?;
                deploys(before, after)
            }
            Moment::Effect { .. }
            | Moment::Agreed { .. }
            | Moment::State { .. }
            | Moment::Belief { .. } => Ok(()),
            Moment::Heard { .. } => Ok(()),
            Moment::Unanswered { .. }
            | Moment::Answer { .. }
            | Moment::Host { .. }
            | Moment::Validation { .. } => Ok(()),
        }
    }
}

fn allocs(before: &Cluster, entry: &Entry, after: &Cluster) -> Result<(), String> {
    for (id, was) in &before.allocs {
        let Some(is) = after.allocs.get(id) else {
            if was.is_live() && !ends(entry, id) {
                return Err(format!("{id} was live and is forgotten"));
            }
            continue;
        };
        if !was.is_live() && was.status.phase != is.status.phase {
            return Err(format!(
                "{id} had ended as {:?} and is {:?}",
                was.status.phase, is.status.phase
            ));
        }
        if was.desired != Desired::Run && was.desired != is.desired {
            return Err(format!("{id} was to stop and is to do something else"));
        }
        if (was.node, was.template, was.port) != (is.node, is.template, is.port) {
            return Err(format!("{id} became another alloc"));
        }
    }
    Ok(())
}

/// Whether an entry says that an alloc has ended.
fn ends(entry: &Entry, id: &AllocId) -> bool {
    let says = |command: &Command| {
        let Command::Report { alloc, status, .. } = command else { return false };
        alloc == id && status.phase.is_end()
    };
    entry.commands.iter().any(says)
}

fn features(before: &Cluster, after: &Cluster) -> Result<(), String> {
    if after.features < before.features {
        return Err(format!("the feature level went back to {}", after.features));
    }
    if after.features > before.features && after.features > after.supported_by_all() {
        return Err(format!("not every node supports feature level {}", after.features));
    }
    Ok(())
}

fn deploys(before: &Cluster, after: &Cluster) -> Result<(), String> {
    if after.last_deploy < before.last_deploy {
        return Err("deploy numbers went back".to_owned());
    }
    for (number, was) in before.deploys.iter().filter(|(_, deploy)| deploy.state.is_end()) {
        if after.deploys.get(number).is_some_and(|is| is.state != was.state) {
            return Err(format!("deploy #{number} had ended and moved on"));
        }
    }
    let running = after.deploys.values().filter(|deploy| !deploy.state.is_end()).count();
    if running > 1 {
        return Err(format!("{running} deploys run at the same time"));
    }
    Ok(())
}
