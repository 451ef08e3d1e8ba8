//! What past deploys left: what a project can go back to.
//!
//! A deploy that succeeds writes down which version of each service its project runs then; those
//! versions are kept beside the services, whole, for as long as a kept deploy names them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cluster::deploy::{Deploy, Version};
use crate::cluster::task::TaskVersion;
use crate::cluster::{Cluster, DEPLOYS_KEPT};
use crate::name::Name;

/// How many of its successful deploys a project can go back to.
pub const RETURNS_KEPT: usize = 10;

impl Cluster {
    /// The successful deploys that a project can go back to, the latest first.
    pub fn returns(&self, project: &Name) -> impl Iterator<Item = (u64, &Deploy)> {
        let left = self.deploys.iter().rev();
        let left = left.filter(move |(_, d)| d.project == *project && d.left.is_some());
        left.map(|(number, deploy)| (*number, deploy))
    }

    /// What a deploy left: each service of its project as it ran then.
    pub fn left_by(&self, deploy: &Deploy) -> BTreeMap<Name, Arc<Version>> {
        let left = deploy.left.iter().flatten();
        let versions = left.filter_map(|(name, number)| {
            let version = self.past.get(name)?.get(number)?;
            Some((name.clone(), version.clone()))
        });
        versions.collect()
    }

    /// The tasks that a deploy left.
    pub fn tasks_left_by(&self, deploy: &Deploy) -> BTreeMap<Name, Arc<TaskVersion>> {
        let left = deploy.left_tasks.iter().flatten();
        let versions = left.filter_map(|(name, number)| {
            let version = self.past_tasks.get(name)?.get(number)?;
            Some((name.clone(), version.clone()))
        });
        versions.collect()
    }

    /// A deploy has succeeded: what its project runs now can be gone back to.
    pub(super) fn leave(&mut self, number: u64) {
        let Some(project) = self.deploys.get(&number).map(|deploy| deploy.project.clone()) else {
            return;
        };
        let services = self.services.iter().filter(|(_, service)| service.project == project);
        let left: BTreeMap<Name, u64> =
            services.filter_map(|(name, service)| Some((name.clone(), service.stable?))).collect();
        for (name, number) in &left {
            let version = self.services.get(name).and_then(|s| s.versions.get(number));
            let kept = self.past.entry(name.clone()).or_default();
            if let Some(version) = version {
                kept.entry(*number).or_insert_with(|| Arc::new(version.clone()));
            }
        }
        let tasks = self.tasks.iter().filter(|(_, task)| task.project == project);
        let mut left_tasks = BTreeMap::new();
        for (name, task) in tasks {
            let Some((number, version)) = task.current() else { continue };
            left_tasks.insert(name.clone(), number);
            let kept = self.past_tasks.entry(name.clone()).or_default();
            kept.entry(number).or_insert_with(|| Arc::new(version.clone()));
        }
        if let Some(deploy) = self.deploys.get_mut(&number) {
            (deploy.left, deploy.left_tasks) = (Some(left), Some(left_tasks));
        }
        let old: Vec<u64> =
            self.returns(&project).skip(RETURNS_KEPT).map(|(number, _)| number).collect();
        for number in old {
            if let Some(deploy) = self.deploys.get_mut(&number) {
                (deploy.left, deploy.left_tasks) = (None, None);
            }
        }
        self.forget_past();
    }

    /// Drops old deploys; of those that can be gone back to, only when there are too many.
    pub(super) fn forget_deploys(&mut self) {
        let oldest = self.last_deploy.saturating_sub(DEPLOYS_KEPT as u64);
        self.deploys.retain(|number, deploy| *number > oldest || deploy.left.is_some());
        while self.deploys.len() > 2 * DEPLOYS_KEPT {
            self.deploys.pop_first();
        }
    }

    /// Drops versions that no kept deploy left.
    pub(super) fn forget_past(&mut self) {
        let left = self.deploys.values().filter_map(|deploy| deploy.left.as_ref());
        retain_named(&mut self.past, left);
        let left = self.deploys.values().filter_map(|deploy| deploy.left_tasks.as_ref());
        retain_named(&mut self.past_tasks, left);
    }
}

fn retain_named<'a, T>(
    past: &mut BTreeMap<Name, BTreeMap<u64, T>>,
    left: impl Iterator<Item = &'a BTreeMap<Name, u64>>,
) {
    let named: BTreeSet<(&Name, u64)> =
        left.flatten().map(|(name, number)| (name, *number)).collect();
    for (name, versions) in past.iter_mut() {
        versions.retain(|number, _| named.contains(&(name, *number)));
    }
    past.retain(|_, versions| !versions.is_empty());
}
