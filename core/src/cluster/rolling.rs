//! How deploys start, move and end in the replicated state.

use std::collections::BTreeMap;

use super::apply::{missing, stale};
use super::{Cluster, Refusal, Reply};
use crate::cluster::deploy::{Change, Deploy, DeployState, Goal, Service, Version};
use crate::config::model::ServiceSpec;
use crate::container::PinnedImage;
use crate::mutant::{self, Mutant};
use crate::name::Name;
use crate::time::Wall;

impl Cluster {
    pub(super) fn last_deploy_is(&self, number: u64) -> Result<(), Refusal> {
        if mutant::is(Mutant::StaleDeployAccepted) {
            return Ok(());
        }
        if let Some((running, _)) = self.running_deploy() {
            return Err(Refusal::DeployRunning(running));
        }
        if number != self.last_deploy + 1 {
            return Err(stale(format!("deploy #{number} is not the next one")));
        }
        Ok(())
    }

    pub(super) fn start_deploy(
        &mut self,
        number: u64,
        mut deploy: Deploy,
        changes: &BTreeMap<Name, Option<Box<ServiceSpec>>>,
        restart: &[Name],
        images: &BTreeMap<Name, PinnedImage>,
    ) {
        self.last_deploy = number;
        self.intent += 1;
        for (name, spec) in changes {
            let to = spec.as_ref().map(|_| number);
            let service = self.services.entry(name.clone()).or_insert_with(|| Service {
                project: deploy.project.clone(),
                stable: None,
                rolling: None,
                versions: Default::default(),
            });
            if let Some(spec) = spec {
                service.add_version(number, spec, restart.contains(name), images.get(name));
            }
            service.rolling = Some(to.map_or(Goal::Gone, Goal::Version));
            deploy.changes.insert(
                name.clone(),
                Change { from: service.stable, to, settled: false, promoted: None },
            );
        }
        for name in restart.iter().filter(|name| !changes.contains_key(*name)) {
            let Some(service) = self.services.get_mut(name) else { continue };
            let Some(spec) = service.target().map(|(_, version)| version.spec.clone()) else {
                continue;
            };
            service.add_version(number, &spec, true, None);
            service.rolling = Some(Goal::Version(number));
            let change =
                Change { from: service.stable, to: Some(number), settled: false, promoted: None };
            deploy.changes.insert(name.clone(), change);
        }
        let changed = deploy.changes.keys().filter_map(|name| self.services.get(name));
        let versions = changed.filter_map(|service| service.versions.get(&number));
        let unresolved = versions.filter(|version| version.image.is_none());
        deploy.images =
            unresolved.map(|version| (version.spec.container.image.clone(), None)).collect();
        let services: Vec<_> = deploy.changes.keys().map(Name::to_string).collect();
        let back = deploy.back_to.map(|to| format!(", back to #{to}")).unwrap_or_default();
        let (project, services) = (&deploy.project, services.join(", "));
        let text = format!("deploy #{number} of {project} started{back}: {services}");
        self.history.record(deploy.started, format!("#{number}"), text);
        self.deploys.insert(number, deploy);
        self.forget_deploys();
        self.forget_receipts();
        self.forget_past();
    }

    pub(super) fn pin_image(
        &mut self,
        number: u64,
        reference: &str,
        image: &PinnedImage,
    ) -> Result<Reply, Refusal> {
        let deploy = self.deploys.get_mut(&number).ok_or_else(|| missing("deploy", number))?;
        if deploy.state != DeployState::Resolving {
            return Err(stale(format!("deploy #{number} is past resolving images")));
        }
        match deploy.images.get_mut(reference) {
            None => return Err(missing("image of this deploy", reference)),
            Some(Some(_)) => return Err(stale(format!("image `{reference}` is resolved"))),
            Some(pin) => *pin = Some(image.clone()),
        }
        for name in deploy.changes.keys() {
            let version = self.services.get_mut(name).and_then(|s| s.versions.get_mut(&number));
            if let Some(version) = version.filter(|v| v.spec.container.image == reference) {
                version.image.get_or_insert_with(|| image.clone());
            }
        }
        Ok(Reply::Done)
    }

    pub(super) fn advance_deploy(
        &mut self,
        wall: Wall,
        number: u64,
        from: &DeployState,
        to: &DeployState,
    ) -> Result<Reply, Refusal> {
        let deploy = self.deploys.get_mut(&number).ok_or_else(|| missing("deploy", number))?;
        if deploy.state != *from || deploy.state.is_end() {
            return Err(stale(format!("deploy #{number} is not there any more")));
        }
        self.intent += 1;
        deploy.state = to.clone();
        if to.is_end() {
            deploy.ended = Some(wall);
        }
        let names: Vec<Name> = deploy.changes.keys().cloned().collect();
        let text = format!("deploy #{number}: {}", to.sentence());
        self.history.record(wall, format!("#{number}"), text);
        let goes_back =
            matches!(to, DeployState::RollingBack { .. } | DeployState::RolledBack { .. });
        if goes_back && !mutant::is(Mutant::RollbackKeepsTheNew) {
            // Back to what it ran: a service that was new is removed.
            for name in &names {
                if let Some(service) = self.services.get_mut(name) {
                    service.rolling = None;
                }
            }
        }
        for name in &names {
            self.prune(name);
        }
        if *to == DeployState::Succeeded {
            self.leave(number);
        }
        Ok(Reply::Done)
    }

    pub(super) fn settle(&mut self, number: u64, name: &Name) -> Result<Reply, Refusal> {
        let deploy = self.deploys.get_mut(&number).ok_or_else(|| missing("deploy", number))?;
        let moving = matches!(deploy.state, DeployState::Rolling | DeployState::Removing);
        let change = deploy.changes.get_mut(name).ok_or_else(|| missing("service", name))?;
        if !moving || change.settled {
            return Err(stale(format!("service `{name}` does not roll in deploy #{number}")));
        }
        change.settled = true;
        Ok(Reply::Done)
    }
}

impl Service {
    fn add_version(
        &mut self,
        number: u64,
        spec: &ServiceSpec,
        restart: bool,
        image: Option<&PinnedImage>,
    ) {
        let current = self.stable.and_then(|stable| self.versions.get(&stable));
        let same = current.filter(|v| !restart && v.spec.container == spec.container);
        let template = same.map_or(number, |version| version.template);
        // A restart keeps the bytes. What is replaced by a deploy is resolved anew: its tag may
        // mean something else by now.
        let kept = current.filter(|_| restart || same.is_some());
        let image = image.cloned().or_else(|| kept.and_then(|version| version.image.clone()));
        self.versions.insert(number, Version { spec: spec.clone(), template, image });
    }
}
