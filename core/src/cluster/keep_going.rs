//! A deploy that keeps going: services that fail go back by themselves, and the others go on.

use std::collections::{BTreeMap, BTreeSet};

use super::apply::{missing, stale};
use super::{Cluster, Refusal, Reply};
use crate::cluster::deploy::DeployState;
use crate::mutant::{self, Mutant};
use crate::name::Name;
use crate::time::Wall;

impl Cluster {
    pub(super) fn fail_services(
        &mut self,
        wall: Wall,
        number: u64,
        failed: &BTreeMap<Name, String>,
    ) -> Result<Reply, Refusal> {
        let deploy = self.deploys.get_mut(&number).ok_or_else(|| missing("deploy", number))?;
        let moving = matches!(deploy.state, DeployState::Resolving | DeployState::Rolling);
        if !moving || !deploy.keep_going {
            return Err(stale(format!("deploy #{number} does not keep going, or not any more")));
        }
        if let Some(name) = failed.keys().find(|name| !deploy.changes.contains_key(*name)) {
            return Err(missing("service of this deploy", name));
        }
        self.intent += 1;
        for (name, reason) in failed {
            let Some(change) = deploy.changes.get_mut(name) else { continue };
            change.settled = change.failed.is_some();
            change.failed = Some(reason.clone());
            if let Some(service) = self.services.get_mut(name)
                && !mutant::is(Mutant::FailedGoesOn)
            {
                service.rolling = None;
            }
        }
        for (name, reason) in failed {
            let text = format!("deploy #{number} keeps going without {name}: {reason}");
            self.history.record(wall, name, text);
        }
        self.forget_images(number);
        self.give_up_gates(wall, number, |deploy, gate| !deploy.awaits(gate));
        for name in failed.keys() {
            self.prune(name);
        }
        Ok(Reply::Done)
    }

    /// Images that only what failed asks for need not be resolved any more.
    fn forget_images(&mut self, number: u64) {
        let Some(deploy) = self.deploys.get_mut(&number) else { return };
        let left = deploy.changes.iter().filter(|(_, change)| change.failed.is_none());
        let versions = left.filter_map(|(name, _)| self.services.get(name)?.versions.get(&number));
        let of_services = versions.filter(|version| version.image.is_none());
        let of_services = of_services.map(|version| version.spec.container.image.as_str());
        let tasks = deploy.tasks.keys();
        let versions = tasks.filter_map(|name| self.tasks.get(name)?.versions.get(&number));
        let of_tasks = versions.filter(|version| version.image.is_none());
        let of_tasks = of_tasks.map(|version| version.spec.container.image.as_str());
        let asked: BTreeSet<&str> = of_services.chain(of_tasks).collect();
        deploy.images.retain(|image, pin| pin.is_some() || asked.contains(image.as_str()));
    }
}
