//! A deploy that keeps going: services that fail go back by themselves, and the others go on.

use std::collections::{BTreeMap, BTreeSet};

use super::apply::{missing, stale};
use super::{Cluster, Refusal, Reply};
use crate::cluster::deploy::{Change, Deploy, DeployState, Failure};
use crate::cluster::task::Outcome;
use crate::mutant::{self, Mutant};
use crate::name::Name;
use crate::time::Wall;

impl Cluster {
    pub(super) fn fail_services(
        &mut self,
        wall: Wall,
        number: u64,
        failed: &BTreeMap<Name, Failure>,
    ) -> Result<Reply, Refusal> {
        let deploy = self.deploys.get(&number).ok_or_else(|| missing("deploy", number))?;
        let moving = matches!(deploy.state, DeployState::Resolving | DeployState::Rolling);
        if !moving || !deploy.keep_going {
            return Err(stale(format!("deploy #{number} does not keep going, or not any more")));
        }
        let mut changes = BTreeMap::new();
        for (name, failure) in failed {
            let change = deploy.changes.get(name);
            let change = change.ok_or_else(|| missing("service of this deploy", name))?;
            if failure.stuck != (change.failed.is_some() && !change.settled) {
                return Err(stale(format!("service `{name}` is not on that way in #{number}")));
            }
            // What has not moved need not go back.
            let settled = failure.stuck || !self.has_moved(deploy, change);
            let failed = Some(failure.clone());
            changes.insert(name.clone(), Change { failed, settled, ..change.clone() });
        }
        self.intent += 1;
        for (name, failure) in failed {
            if let Some(service) = self.services.get_mut(name)
                && !mutant::is(Mutant::FailedGoesOn)
            {
                service.rolling = None;
            }
            let text = format!("deploy #{number} keeps going without {name}: {}", failure.reason);
            self.history.record(wall, name, text);
        }
        let unresolved = {
            let deploy = self.deploys.get_mut(&number).expect("it was found above");
            deploy.changes.extend(changes);
            let deploy = self.deploys.get(&number).expect("it was found above");
            self.unresolved(number, deploy)
        };
        if let Some(deploy) = self.deploys.get_mut(&number) {
            deploy.images.retain(|image, pin| pin.is_some() || unresolved.contains(image));
        }
        self.give_up_gates(wall, number, |deploy, gate| !deploy.awaits(gate));
        for name in failed.keys() {
            self.prune(name);
        }
        Ok(Reply::Done)
    }

    /// Whether a deploy may have replaced something of a service.
    fn has_moved(&self, deploy: &Deploy, change: &Change) -> bool {
        let begun = deploy.state == DeployState::Rolling && change.to.is_some();
        begun && change.gate.as_ref().is_none_or(|gate| self.has_passed(deploy, gate))
    }

    /// Images of which a deploy does not know what they mean, but for what failed.
    pub(super) fn unresolved(&self, number: u64, deploy: &Deploy) -> BTreeSet<String> {
        let left = deploy.changes.iter().filter(|(_, change)| change.failed.is_none());
        let versions = left.filter_map(|(name, _)| self.services.get(name)?.versions.get(&number));
        let of_services = versions.filter(|version| version.image.is_none());
        let of_services = of_services.map(|version| &version.spec.container.image);
        let tasks = deploy.tasks.keys();
        let versions = tasks.filter_map(|name| self.tasks.get(name)?.versions.get(&number));
        let of_tasks = versions.filter(|version| version.image.is_none());
        let of_tasks = of_tasks.map(|version| &version.spec.container.image);
        of_services.chain(of_tasks).cloned().collect()
    }

    /// Tasks stay as they were where a deploy succeeded in part: those that were to go, since what
    /// stays may wait for them, and those that failed it as gates.
    pub(super) fn keep_tasks(&mut self, number: u64) {
        let Some(deploy) = self.deploys.get(&number) else { return };
        let has_failed = |name: &Name| {
            let run = deploy.gates.get(name).copied().flatten().and_then(|n| self.runs.get(&n));
            run.and_then(|run| run.outcome()).is_some_and(|outcome| !Outcome::is_success(outcome))
        };
        let changes = deploy.tasks.iter();
        let kept = changes.filter(|(name, change)| change.to.is_none() || has_failed(name));
        let kept: Vec<Name> = kept.map(|(name, _)| name.clone()).collect();
        for name in kept {
            if let Some(task) = self.tasks.get_mut(&name) {
                task.rolling = None;
            }
        }
    }
}
