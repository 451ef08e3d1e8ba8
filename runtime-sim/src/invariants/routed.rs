//! Nobody is sent to what was told to stop: when a node asks a container to stop, no node inside the
//! barrier carries traffic by tables that name it. And a deploy that says it is done is what every
//! node that is up carries traffic to, or its deadline has passed: a node may be heard for as long as
//! it likes, and hear nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mill_core::Effect;
use mill_core::cluster::Cluster;
use mill_core::cluster::command::{Command, Entry};
use mill_core::cluster::deploy::{Deploy, DeployState};
use mill_core::config::model::UpdateSpec;
use mill_core::container::ContainerOp;
use mill_core::name::{AllocId, NodeId};
use mill_core::net::Tables;
use mill_core::units::Millis;

use super::{Invariant, Moment};
use crate::time::SimTime;
use crate::world::host::Host;

/// What each node carries traffic by.
#[derive(Default)]
pub(super) struct Routed {
    /// With the boot that said so: the next one carries nothing until it says something.
    carries: BTreeMap<NodeId, (u64, Arc<Tables>)>,
    now: SimTime,
    /// Since when the running deploy moves its services.
    rolling: Option<(u64, SimTime)>,
}

/// What a clock that is fast, and this one's pace, may take from a deadline: a tenth, and two ticks.
const FAST: (u64, u64) = (9, 10);
const TICKS: Millis = Millis::secs(2);

impl Invariant for Routed {
    fn name(&self) -> &'static str {
        "routed"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        match moment {
            Moment::Effect { host, effect: Effect::Publish { tables }, .. } => {
                self.carries.insert(host.id, (host.boots, tables.clone()));
                Ok(())
            }
            Moment::Effect { host, effect: Effect::Container { op, .. }, .. } => {
                let ContainerOp::Stop { alloc, .. } = op else { return Ok(()) };
                self.stops(host, alloc)
            }
            Moment::Committed { entry, after, .. } => {
                self.done(entry, after)?;
                self.begins(after);
                Ok(())
            }
            Moment::Host { now, .. } => {
                self.now = *now;
                Ok(())
            }
            Moment::Effect { .. } | Moment::Heard { .. } | Moment::Agreed { .. } => Ok(()),
            Moment::State { .. } | Moment::Belief { .. } | Moment::Unanswered { .. } => Ok(()),
            Moment::Answer { .. } | Moment::Validation { .. } => Ok(()),
        }
    }
}

impl Routed {
    fn stops(&self, host: &Host, id: &AllocId) -> Result<(), String> {
        let state = host.daemon.as_ref().map(|daemon| daemon.cluster());
        let alloc = state.and_then(|state| state.allocs.get(id));
        let released = alloc.and_then(|alloc| alloc.leaving.as_ref()?.released.as_ref());
        let Some(released) = released else { return Ok(()) };
        for node in &released.by {
            if self.carries.get(node).is_some_and(|(_, tables)| tables.names(id)) {
                return Err(format!(
                    "{id} is asked to stop, and {node} still sends requests to it"
                ));
            }
        }
        Ok(())
    }

    fn begins(&mut self, after: &Cluster) {
        let rolling = after.running_deploy();
        let rolling = rolling.filter(|(_, deploy)| deploy.state == DeployState::Rolling);
        let known = self.rolling.filter(|(known, _)| rolling.is_some_and(|(n, _)| n == *known));
        self.rolling = known.or(rolling.map(|(number, _)| (number, self.now)));
    }

    /// Whether a deploy was waited for as long as its services say.
    fn is_late(&self, number: u64, deploy: &Deploy, state: &Cluster) -> bool {
        let Some((_, since)) = self.rolling.filter(|(known, _)| *known == number) else {
            return false;
        };
        let versions = deploy
            .changes
            .iter()
            .filter_map(|(name, change)| state.services.get(name)?.versions.get(&change.goal()?));
        let deadline = versions.map(|version| version.spec.update.deadline).max();
        let deadline = deadline.unwrap_or(UpdateSpec::default().deadline);
        let least = Millis(deadline.0 * FAST.0 / FAST.1);
        self.now + TICKS >= since + least
    }

    /// A node that is up and carries something carries it to every replica that the deploy brought;
    /// but for one that was heard late, and starts.
    fn done(&self, entry: &Entry, after: &Cluster) -> Result<(), String> {
        let done = entry.commands.iter().filter_map(|command| {
            let Command::AdvanceDeploy { deploy, from, to } = command else { return None };
            let rolled = *from == DeployState::Rolling;
            Some((*deploy, after.deploys.get(deploy).filter(|_| rolled)?, to))
        });
        for (number, deploy, to) in done.filter(|(_, deploy, to)| deploy.state == **to) {
            let is_done = matches!(to, DeployState::Removing | DeployState::Succeeded);
            if !is_done || self.is_late(number, deploy, after) {
                continue;
            }
            let meant = Tables::of(after);
            let brought = deploy.changes.keys().filter_map(|name| meant.services.get(name));
            let brought: BTreeSet<&AllocId> =
                brought.flat_map(|service| service.replicas().map(|r| &r.alloc)).collect();
            for (node, _) in after.nodes.iter().filter(|(_, record)| record.is_up()) {
                let Some((_, tables)) = self.carries.get(node) else { continue };
                if let Some(alloc) = brought.iter().find(|alloc| !tables.names(alloc)) {
                    return Err(format!("a deploy is done, and {node} sends nothing to {alloc}"));
                }
            }
        }
        Ok(())
    }
}
