//! Requests about deploys that were: looking at them, going back to one; and about the one that
//! runs: cancelling it, promoting its canaries. Tested in `sim-tests/tests/scenarios/past.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Node;
use super::deploying::{as_shown, changed_tasks};
use super::requests::{Then, refused};
use crate::api::view::DeploySummary;
use crate::api::{Answer, ApiError, ErrorCode, RequestId};
use crate::cluster::Refusal;
use crate::cluster::command::Command;
use crate::cluster::deploy::{Deploy, DeployKind, DeployState, Service, Version};
use crate::cluster::past::RETURNS_KEPT;
use crate::cluster::task::TaskVersion;
use crate::config::model::{ClusterSettings, Project, ServiceSpec};
use crate::mutant::{self, Mutant};
use crate::name::Name;
use crate::plan;
use crate::time::Now;

/// What a deploy left: each service as it ran then, and each task as it was.
struct Left {
    services: BTreeMap<Name, Arc<Version>>,
    tasks: BTreeMap<Name, Arc<TaskVersion>>,
}

impl Node {
    /// Every deploy that is kept, the latest first.
    pub(super) fn deploys(&self) -> Vec<DeploySummary> {
        let kept = self.cluster.deploys.iter().rev();
        let summaries = kept.map(|(number, deploy)| DeploySummary {
            number: *number,
            project: deploy.project.clone(),
            kind: deploy.kind,
            back_to: deploy.back_to,
            state: deploy.state.clone(),
            services: deploy.changes.keys().cloned().collect(),
            tasks: deploy.tasks.keys().cloned().collect(),
            returnable: deploy.left.is_some(),
            started: deploy.started,
            ended: deploy.ended,
        });
        summaries.collect()
    }

    /// What going back would do; or goes back, if that is what was `expect`ed.
    pub(super) fn go_back(
        &mut self,
        now: Now,
        id: RequestId,
        (project, to): (Option<Name>, Option<u64>),
        expect: Option<String>,
    ) -> Result<Option<Answer>, ApiError> {
        let (to, deploy) = self.what_to_go_back_to(project, to)?;
        let left = self.left_by(deploy);
        let project = as_project(&deploy.project, &left);
        let again = self.meant_other_bytes(&left);
        self.can_be_deployed(&project)?;
        let mut plan = plan::replacing(&self.cluster, &project, &again.iter().collect());
        for planned in plan.tasks.iter_mut().filter(|task| task.action == plan::Action::Keep) {
            if self.is_of_other_bytes(&planned.task, &left) {
                planned.action = plan::Action::Change;
            }
        }
        let Some(expect) = expect else { return Ok(Some(Answer::Return { to, plan })) };
        if plan.is_empty() {
            return Ok(Some(Answer::Unchanged));
        }
        self.no_deploy_runs()?;
        as_shown(&plan, &expect)?;
        let moving = plan.services.iter().filter(|service| service.action != plan::Action::Keep);
        let changes = moving.map(|planned| {
            let spec = project.services.get(&planned.service);
            (planned.service.clone(), spec.map(|spec| Box::new(spec.clone())))
        });
        let mut changes: BTreeMap<Name, Option<Box<ServiceSpec>>> = changes.collect();
        if mutant::is(Mutant::ReturnKeepsTheNew) {
            changes.retain(|_, spec| spec.is_some());
        }
        let tasks = changed_tasks(&plan, &project);
        let of_services = left.services.iter().map(|(name, then)| (name, &then.image));
        let of_services = of_services.filter(|(name, _)| changes.contains_key(*name));
        let of_services = of_services.filter(|_| !mutant::is(Mutant::ReturnResolvesAnew));
        let of_tasks = left.tasks.iter().map(|(name, then)| (name, &then.image));
        let images = of_services.chain(of_tasks.filter(|(name, _)| tasks.contains_key(*name)));
        let images = images.filter_map(|(name, image)| Some((name.clone(), image.clone()?)));
        let command = Command::StartDeploy {
            number: self.cluster.last_deploy + 1,
            project: project.name,
            kind: DeployKind::Rollback,
            restart: again.into_iter().filter(|name| changes.contains_key(name)).collect(),
            images: images.collect(),
            changes,
            tasks,
            back_to: Some(to),
            keep_going: false,
            settings: ClusterSettings::default(),
        };
        self.propose_deploy(now, id, command, plan).map(|()| None)
    }

    /// Services that look as they did and run other bytes than they ran then.
    fn meant_other_bytes(&self, left: &Left) -> BTreeSet<Name> {
        let again = left.services.iter().filter(|(name, then)| {
            let service = self.cluster.services.get(*name);
            let runs = service.and_then(Service::target).map(|(_, version)| version);
            runs.is_some_and(|v| v.spec.container == then.spec.container && v.image != then.image)
        });
        again.map(|(name, _)| name.clone()).collect()
    }

    fn is_of_other_bytes(&self, task: &Name, left: &Left) -> bool {
        let now = self.cluster.tasks.get(task).and_then(|task| task.current());
        let then = left.tasks.get(task);
        now.zip(then).is_some_and(|((_, now), then)| now.image != then.image)
    }

    fn left_by(&self, deploy: &Deploy) -> Left {
        let (services, tasks) = (self.cluster.left_by(deploy), self.cluster.tasks_left_by(deploy));
        Left { services, tasks }
    }

    fn what_to_go_back_to(
        &self,
        project: Option<Name>,
        to: Option<u64>,
    ) -> Result<(u64, &Deploy), ApiError> {
        let hint = "`mill history` shows the deploys that can be gone back to";
        let error = |code, message: String| Err(ApiError::new(code, message).hint(hint));
        let Some(to) = to else {
            let project = self.the_project(project)?;
            return match self.before(&project) {
                Some(before) => Ok(before),
                None => error(
                    ErrorCode::NotFound,
                    format!("project {project} has no earlier successful deploy to go back to"),
                ),
            };
        };
        let Some(deploy) = self.cluster.deploys.get(&to) else {
            return error(
                ErrorCode::NotFound,
                format!("there is no deploy #{to}, or not any more"),
            );
        };
        if let Some(project) = project.filter(|project| *project != deploy.project) {
            let message = format!("deploy #{to} is of project {}, not {project}", deploy.project);
            return error(ErrorCode::Invalid, message);
        }
        match (&deploy.left, &deploy.state) {
            (Some(_), _) => Ok((to, deploy)),
            (None, DeployState::Succeeded | DeployState::Partial { .. }) => error(
                ErrorCode::NotFound,
                format!(
                    "what deploy #{to} left is not kept any more: a project can go back to its \
                     last {RETURNS_KEPT} successful deploys"
                ),
            ),
            (None, state) => error(
                ErrorCode::Conflict,
                format!(
                    "deploy #{to} did not succeed, so nothing is left of it: {}",
                    state.sentence()
                ),
            ),
        }
    }

    /// The latest successful deploy that left something else than what a project runs. One that
    /// went back counts as what it went back to: to go back twice is to go back further.
    fn before(&self, project: &Name) -> Option<(u64, &Deploy)> {
        let (mut runs, mut deploy) = self.cluster.returns(project).next()?;
        while let Some(to) = deploy.back_to
            && let Some(earlier) = self.cluster.deploys.get(&to)
        {
            (runs, deploy) = (to, earlier);
        }
        let left = self.left_by(deploy);
        let mut earlier = self.cluster.returns(project).filter(|(number, _)| *number < runs);
        earlier.find(|(_, deploy)| !is_same(&self.left_by(deploy), &left))
    }

    /// The project that is meant, where there is but one.
    fn the_project(&self, named: Option<Name>) -> Result<Name, ApiError> {
        if let Some(named) = named {
            return Ok(named);
        }
        let projects: BTreeSet<&Name> =
            self.cluster.deploys.values().map(|deploy| &deploy.project).collect();
        match projects.iter().collect::<Vec<_>>().as_slice() {
            [] => {
                let message = "nothing has been deployed yet";
                Err(ApiError::new(ErrorCode::NotFound, message).hint("`mill deploy` does"))
            }
            [only] => Ok((**only).clone()),
            several => {
                let names: Vec<String> = several.iter().map(|name| name.to_string()).collect();
                let message = format!("there are several projects: {}", names.join(", "));
                let error = ApiError::new(ErrorCode::Invalid, message);
                Err(error.hint("name one with --project, or a deploy with --to"))
            }
        }
    }

    /// The running deploy is to go back to where it began.
    pub(super) fn cancel(
        &mut self,
        now: Now,
        id: RequestId,
        number: Option<u64>,
    ) -> Result<Option<Answer>, ApiError> {
        let (number, deploy) = self.deploy_meant(number)?;
        let reason = CANCELLED.to_owned();
        let to = match &deploy.state {
            // Nothing has moved yet.
            DeployState::Resolving => DeployState::RolledBack { reason },
            DeployState::Rolling => DeployState::RollingBack { reason },
            DeployState::RollingBack { .. } => return Ok(Some(Answer::Done)),
            DeployState::Removing => {
                let message = format!(
                    "deploy #{number} has brought everything about and removes what is not wanted \
                     any more: it cannot be cancelled"
                );
                let error = ApiError::new(ErrorCode::Conflict, message);
                return Err(error.hint("wait for its end, then `mill rollback`"));
            }
            ended @ (DeployState::Succeeded
            | DeployState::Partial { .. }
            | DeployState::RolledBack { .. }
            | DeployState::RollbackStuck { .. }) => {
                let message = format!("deploy #{number} has ended: {}", ended.sentence());
                let error = ApiError::new(ErrorCode::Conflict, message);
                return Err(error.hint("`mill rollback` goes back to an earlier one"));
            }
        };
        let from = deploy.state.clone();
        self.propose(now, id, Command::AdvanceDeploy { deploy: number, from, to }, Then::Moved);
        Ok(None)
    }

    /// Replicas that wait for canaries are to follow them.
    pub(super) fn promote(
        &mut self,
        now: Now,
        id: RequestId,
        number: Option<u64>,
        mut services: Vec<Name>,
    ) -> Result<Option<Answer>, ApiError> {
        let (number, deploy) = self.deploy_meant(number)?;
        if let Some(service) = services.iter().find(|name| !deploy.changes.contains_key(*name)) {
            let message = format!("deploy #{number} does not touch a service `{service}`");
            return Err(ApiError::new(ErrorCode::NotFound, message));
        }
        let waits = |name: &Name| !deploy.state.is_end() && self.cluster.canaries(name).is_some();
        if services.is_empty() {
            services = deploy.changes.keys().filter(|name| waits(name)).cloned().collect();
        } else {
            services.retain(waits);
        }
        if services.is_empty() {
            let message = match deploy.state.is_end() {
                true => format!("deploy #{number} has ended: {}", deploy.state.sentence()),
                false => format!("deploy #{number} waits for no canaries"),
            };
            let error = ApiError::new(ErrorCode::Conflict, message);
            return Err(error.hint("`mill deploys show` says how far it is"));
        }
        for name in &services {
            let unhealthy = self.cluster.canaries(name);
            let unhealthy = unhealthy.and_then(|c| self.cluster.unhealthy_canary(name, &c));
            if let Some(slot) = unhealthy {
                let message = format!("canary {slot} is not healthy, so it is not promoted");
                let error = ApiError::new(ErrorCode::Conflict, message);
                return Err(error.hint(format!("`mill why {slot}` says why")));
            }
        }
        let command = Command::Promote { deploy: number, services, early: true };
        self.propose(now, id, command, Then::Moved);
        Ok(None)
    }

    /// The deploy of that number, or the one that runs.
    fn deploy_meant(&self, number: Option<u64>) -> Result<(u64, &Deploy), ApiError> {
        let number = match (number, self.cluster.running_deploy()) {
            (Some(number), _) => number,
            (None, Some((running, _))) => running,
            (None, None) => {
                let error = ApiError::new(ErrorCode::Conflict, "no deploy runs");
                return Err(error.hint("`mill history` shows those that did"));
            }
        };
        match self.cluster.deploys.get(&number) {
            Some(deploy) => Ok((number, deploy)),
            None => {
                let name = number.to_string();
                Err(refused(&Refusal::Missing { what: "deploy", name }))
            }
        }
    }
}

/// Whether two deploys left the same services and tasks, of the same bytes.
fn is_same(one: &Left, other: &Left) -> bool {
    let same = |(a, b): (&Arc<Version>, &Arc<Version>)| a.spec == b.spec && a.image == b.image;
    let (services, others) = (&one.services, &other.services);
    services.keys().eq(others.keys())
        && services.values().zip(others.values()).all(same)
        && one.tasks == other.tasks
}

/// What a deploy left, as somebody would have to write it down to deploy it.
fn as_project(name: &Name, left: &Left) -> Project {
    let services = left.services.iter().map(|(name, then)| (name.clone(), then.spec.clone()));
    let tasks = left.tasks.iter().map(|(name, then)| (name.clone(), then.spec.clone()));
    Project {
        name: name.clone(),
        cluster: Default::default(),
        services: services.collect(),
        tasks: tasks.collect(),
    }
}

/// Why a deploy goes back that nothing is wrong with.
const CANCELLED: &str = "it was cancelled";
