//! Canaries are watched alone: until they are promoted, no other slot is given the new version, and
//! nobody promotes what is not healthy or, unless a person says so, was not for long enough by the
//! clock of the leader that saw it become so.

use std::collections::{BTreeMap, BTreeSet};

use mill_core::Effect;
use mill_core::cluster::Cluster;
use mill_core::cluster::alloc::Phase;
use mill_core::cluster::command::{Command, Entry, ProposalId};
use mill_core::cluster::deploy::{Change, DeployState, Promotion, Version};
use mill_core::cluster::node::NodeRecord;
use mill_core::config::model::Replicas;
use mill_core::name::{AllocId, Name, NodeId};
use mill_core::time::Mono;
use mill_core::units::Millis;

use super::{Invariant, Moment};

/// What leaders were told, and when.
#[derive(Default)]
pub(super) struct Canaries {
    /// When a leader, in one of its boots, first passed on that an alloc is healthy.
    healthy: BTreeMap<(NodeId, u64, AllocId), Mono>,
    /// When a promotion was proposed.
    promoting: BTreeMap<ProposalId, Mono>,
}

impl Invariant for Canaries {
    fn name(&self) -> &'static str {
        "canaries"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        match moment {
            Moment::Effect { effect: Effect::Propose { entry }, at, .. } => {
                self.proposed(entry, *at);
                Ok(())
            }
            Moment::Committed { before, entry, after, .. } => {
                await_them(before, entry, after)?;
                self.promoted(before, entry, after)
            }
            Moment::Effect { .. } | Moment::Heard { .. } | Moment::Agreed { .. } => Ok(()),
            Moment::State { .. } | Moment::Belief { .. } | Moment::Unanswered { .. } => Ok(()),
            Moment::Answer { .. } | Moment::Host { .. } | Moment::Validation { .. } => Ok(()),
        }
    }
}

impl Canaries {
    fn proposed(&mut self, entry: &Entry, at: Mono) {
        let (node, boot) = (entry.id.node, entry.id.boot);
        for command in &entry.commands {
            if let Command::Report { alloc, status, .. } = command {
                let known = (node, boot, alloc.clone());
                match status.phase == Phase::Healthy {
                    true => _ = self.healthy.entry(known).or_insert(at),
                    false => _ = self.healthy.remove(&known),
                }
            } else if let Command::Promote { .. } = command {
                self.promoting.insert(entry.id, at);
            }
        }
    }

    fn promoted(&mut self, before: &Cluster, entry: &Entry, after: &Cluster) -> Result<(), String> {
        let Some(at) = self.promoting.remove(&entry.id) else { return Ok(()) };
        let Some((_, deploy)) = after.running_deploy() else { return Ok(()) };
        for (name, change) in deploy.changes.iter().filter(|(_, change)| change.promoted.is_some())
        {
            let Some(to) = waiting(before, name) else { continue };
            let slots = before.canaries(name).map(|canaries| canaries.slots);
            // The slot of a node that is down waits for it, and nobody waits for that.
            let each_node = to.spec.replicas == Replicas::EachNode;
            let waited = |index: &u64| !each_node || after.is_up(NodeId(*index));
            // One that stood in for the canary of a node that is back by now stays as it was.
            let stands_back = |index: &u64| {
                entry.commands.iter().any(|command| {
                    matches!(command, Command::Place { slot, template, .. }
                        if slot.service == *name && slot.index == *index
                            && *template != to.template)
                })
            };
            let slots = slots.unwrap_or_default().into_iter();
            for index in slots.filter(|index| waited(index) && !stands_back(index)) {
                // One that was lost and came back may stand beside the one that replaced it.
                let allocs = after.allocs_of(name).filter(|(_, alloc)| {
                    alloc.slot.index == index
                        && alloc.template == to.template
                        && alloc.status.phase == Phase::Healthy
                });
                let watched = allocs.map(|(id, _)| {
                    let known = (entry.id.node, entry.id.boot, id.clone());
                    // Who led before may have been told.
                    self.healthy.get(&known).map_or(Millis(u64::MAX), |since| at.since(*since))
                });
                let Some(watched) = watched.max() else {
                    return Err(format!("{name}.{index} was promoted and is not healthy"));
                };
                let early = watched < to.spec.update.healthy_for;
                if early && change.promoted == Some(Promotion::Soaked) {
                    return Err(format!("{name}.{index} was promoted after {watched}"));
                }
            }
        }
        Ok(())
    }
}

/// No more slots are given the new version than there are canaries.
fn await_them(before: &Cluster, entry: &Entry, after: &Cluster) -> Result<(), String> {
    for command in &entry.commands {
        let Command::Place { alloc, slot, template, .. } = command else { continue };
        let held = !before.allocs.contains_key(alloc) && after.allocs.contains_key(alloc);
        let Some(to) = waiting(after, &slot.service).filter(|_| held) else { continue };
        let new = after.allocs_of(&slot.service).map(|(_, alloc)| alloc);
        // One that is lost, or whose node is emptied, may be replaced in a slot of another node.
        let stays = |node| after.nodes.get(&node).is_some_and(NodeRecord::takes_new);
        let new = new.filter(|alloc| {
            alloc.is_wanted() && alloc.template == to.template && stays(alloc.node)
        });
        let slots: BTreeSet<u64> = new.map(|alloc| alloc.slot.index).collect();
        if *template == to.template && slots.len() > to.spec.update.canary as usize {
            return Err(format!("{slot} does not wait for the canaries"));
        }
    }
    Ok(())
}

/// The version that the canaries run which a service waits for.
fn waiting<'a>(cluster: &'a Cluster, name: &Name) -> Option<&'a Version> {
    let (_, deploy) = cluster.running_deploy()?;
    let change = deploy.changes.get(name).filter(|change| change.failed.is_none())?;
    let Change { from, to, promoted, .. } = change;
    let versions = &cluster.services.get(name)?.versions;
    let (from, to) = (versions.get(&(*from)?)?, versions.get(&(*to)?)?);
    let waits = deploy.state == DeployState::Rolling
        && promoted.is_none()
        && to.spec.update.canary > 0
        && from.template != to.template;
    waits.then_some(to)
}
