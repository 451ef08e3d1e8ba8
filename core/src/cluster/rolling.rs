//! How deploys start, move and end in the replicated state.

use std::collections::BTreeMap;

use super::apply::{missing, stale};
use super::{Cluster, Refusal, Reply};
use crate::cluster::deploy::{Change, Deploy, DeployKind, DeployState, Goal, Service, Version};
use crate::cluster::task::{Task, TaskChange, TaskVersion};
use crate::config::model::{ServiceSpec, TaskSpec};
use crate::container::PinnedImage;
use crate::mutant::{self, Mutant};
use crate::name::Name;
use crate::net::{SERVICE_ADDRESSES, next_free};
use crate::time::Wall;

/// What services, or tasks, are to be; `None` removes one.
type Wanted<T> = BTreeMap<Name, Option<Box<T>>>;

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
        (changes, tasks): (&Wanted<ServiceSpec>, &Wanted<TaskSpec>),
        restart: &[Name],
        images: &BTreeMap<Name, PinnedImage>,
    ) {
        self.last_deploy = number;
        self.intent += 1;
        for (name, spec) in changes {
            let to = spec.as_ref().map(|_| number);
            if !self.services.contains_key(name) {
                let taken = self.services.values().map(|service| service.address);
                self.last_address = next_free(self.last_address, SERVICE_ADDRESSES, taken);
            }
            let service = self.services.entry(name.clone()).or_insert_with(|| Service {
                project: deploy.project.clone(),
                address: self.last_address,
                stable: None,
                rolling: None,
                versions: Default::default(),
            });
            if let Some(spec) = spec {
                service.add_version(number, spec, restart.contains(name), images.get(name));
            }
            service.rolling = Some(to.map_or(Goal::Gone, Goal::Version));
            let gate = service.gate(number, deploy.kind);
            let change = Change { gate, ..Change::new(service.stable, to) };
            deploy.changes.insert(name.clone(), change);
        }
        for name in restart.iter().filter(|name| !changes.contains_key(*name)) {
            let Some(service) = self.services.get_mut(name) else { continue };
            let Some(spec) = service.target().map(|(_, version)| version.spec.clone()) else {
                continue;
            };
            service.add_version(number, &spec, true, None);
            service.rolling = Some(Goal::Version(number));
            let change = Change::new(service.stable, Some(number));
            deploy.changes.insert(name.clone(), change);
        }
        for (name, spec) in tasks {
            let change = self.change_task(number, &deploy, name, spec.as_deref(), images.get(name));
            deploy.tasks.insert(name.clone(), change);
        }
        let gates = deploy.changes.values().filter_map(|change| change.gate.clone());
        deploy.gates = gates.map(|gate| (gate, None)).collect();
        let unresolved = self.unresolved(number, &deploy);
        deploy.images = unresolved.into_iter().map(|image| (image, None)).collect();
        let names = deploy.changes.keys().chain(deploy.tasks.keys());
        let services: Vec<_> = names.map(Name::to_string).collect();
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
        for name in deploy.tasks.keys() {
            let version = self.tasks.get_mut(name).and_then(|t| t.versions.get_mut(&number));
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
        let settings = deploy.settings.clone();
        let names: Vec<Name> = deploy.changes.keys().cloned().collect();
        let tasks: Vec<Name> = deploy.tasks.keys().cloned().collect();
        let text = format!("deploy #{number}: {}", to.sentence());
        self.history.record(wall, format!("#{number}"), text);
        let goes_back = match to {
            DeployState::RollingBack { .. }
            | DeployState::RolledBack { .. }
            | DeployState::RollbackStuck { .. } => true,
            DeployState::Resolving
            | DeployState::Rolling
            | DeployState::Removing
            | DeployState::Succeeded
            | DeployState::Partial { .. } => false,
        };
        if goes_back && !mutant::is(Mutant::RollbackKeepsTheNew) {
            // Back to what it ran: a service that was new is removed.
            for name in &names {
                if let Some(service) = self.services.get_mut(name) {
                    service.rolling = None;
                }
            }
            for name in &tasks {
                if let Some(task) = self.tasks.get_mut(name) {
                    task.rolling = None;
                }
            }
        }
        if !goes_back && *to != DeployState::Rolling {
            let before = self.settings.clone();
            self.settings.adopt(&settings);
            if self.settings != before {
                // What failed may work now.
                self.certificates.unregistered = None;
            }
        }
        if goes_back {
            self.give_up_gates(wall, number, |_, _| true);
        }
        if matches!(to, DeployState::Partial { .. }) {
            self.keep_tasks(number);
        }
        for name in &names {
            self.prune(name);
        }
        for name in &tasks {
            self.prune_task(wall, name);
        }
        if matches!(to, DeployState::Succeeded | DeployState::Partial { .. }) {
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

impl Cluster {
    /// Brings a task to what it is wanted to be, as soon as the deploy succeeds.
    fn change_task(
        &mut self,
        number: u64,
        deploy: &Deploy,
        name: &Name,
        spec: Option<&TaskSpec>,
        image: Option<&PinnedImage>,
    ) -> TaskChange {
        let task = self.tasks.entry(name.clone()).or_insert_with(|| Task {
            project: deploy.project.clone(),
            stable: None,
            rolling: None,
            versions: BTreeMap::new(),
            served: None,
        });
        let to = spec.map(|_| number);
        if let Some(spec) = spec {
            let same = task.current().filter(|(_, v)| v.spec.container == spec.container);
            let kept = same.and_then(|(_, version)| version.image.clone());
            let image = image.cloned().or(kept);
            task.versions.insert(number, TaskVersion { spec: spec.clone(), image });
        }
        task.rolling = Some(to.map_or(Goal::Gone, Goal::Version));
        TaskChange { from: task.stable, to }
    }

    /// A task adopts what an ended deploy brought about; it goes once it is not wanted any more.
    fn prune_task(&mut self, wall: Wall, name: &Name) {
        let running = self.running_deploy().is_some_and(|(_, d)| d.tasks.contains_key(name));
        let Some(task) = self.tasks.get_mut(name) else { return };
        if !running && let Some(to) = task.rolling.take() {
            let before = task.current().map(|(_, v)| (&v.spec.schedule, &v.spec.time_zone));
            let after = to.version().and_then(|to| task.versions.get(&to));
            let after = after.map(|v| (&v.spec.schedule, &v.spec.time_zone));
            // A schedule counts from when it came to be: nothing was due before.
            let anew = before != after;
            task.stable = to.version();
            if anew {
                task.served = Some(wall);
            }
        }
        let heads = [task.stable, task.rolling.and_then(Goal::version)];
        task.versions.retain(|number, _| heads.contains(&Some(*number)));
        if !running && task.stable.is_none() {
            self.tasks.remove(name);
            self.forget_task(wall, name);
        }
    }
}

impl Service {
    /// The task that must succeed before this version moves: where a config replaces containers.
    /// What goes back, or is only restarted or scaled, does again what was done before.
    fn gate(&self, number: u64, kind: DeployKind) -> Option<Name> {
        let version = self.versions.get(&number)?;
        match kind {
            DeployKind::Config if version.template == number => version.spec.before.clone(),
            DeployKind::Config | DeployKind::Restart | DeployKind::Scale | DeployKind::Rollback => {
                None
            }
        }
    }

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
