//! Requests that begin a deploy: a config, a restart, another number of replicas. Going back to an
//! earlier one is in `past.rs`.

use std::collections::{BTreeMap, BTreeSet};

use super::Node;
use super::requests::{Then, refused};
use crate::api::{Answer, ApiError, ErrorCode, RequestId};
use crate::cluster::Refusal;
use crate::cluster::command::Command;
use crate::cluster::deploy::{DeployKind, Service};
use crate::config::model::{ClusterSettings, Project, Replicas, ServiceSpec, TaskSpec};
use crate::config::supported;
use crate::name::Name;
use crate::plan::{self, Plan};
use crate::time::Now;

/// The most replicas of one service.
pub const REPLICAS_MAX: u32 = 1000;

impl Node {
    pub(super) fn plan_project(&self, project: &Project) -> Result<Plan, ApiError> {
        self.can_be_deployed(project)?;
        Ok(plan::plan(&self.cluster, project))
    }

    pub(super) fn can_be_deployed(&self, project: &Project) -> Result<(), ApiError> {
        let problems = plan::check(&self.cluster, project);
        if problems.is_empty() {
            return Ok(());
        }
        let mut error = ApiError::new(ErrorCode::Invalid, "this config cannot be deployed here");
        error.details = problems;
        Err(error)
    }

    /// The answer if it is known now: nothing is to be done, or it cannot be.
    pub(super) fn deploy(
        &mut self,
        now: Now,
        id: RequestId,
        project: &Project,
        (expect, keep_going): (Option<String>, bool),
    ) -> Result<Option<Answer>, ApiError> {
        let unsupported = supported::unsupported(project);
        if !unsupported.is_empty() {
            let message = "this config uses what is not supported yet by this version";
            let mut error = ApiError::new(ErrorCode::Unsupported, message);
            error.details = unsupported.iter().map(ToString::to_string).collect();
            return Err(error);
        }
        let plan = self.plan_project(project)?;
        if plan.is_empty() {
            return Ok(Some(Answer::Unchanged));
        }
        // While another deploy moves, plans change by the moment: that it runs is what is in the way.
        self.no_deploy_runs()?;
        if let Some(expect) = expect {
            as_shown(&plan, &expect)?;
        }
        let changed = plan.services.iter().filter(|s| s.action != plan::Action::Keep);
        let changes = changed.map(|planned| {
            let spec = project.services.get(&planned.service);
            (planned.service.clone(), spec.map(|spec| Box::new(spec.clone())))
        });
        let command = Command::StartDeploy {
            number: self.cluster.last_deploy + 1,
            project: project.name.clone(),
            kind: DeployKind::Config,
            changes: changes.collect(),
            tasks: changed_tasks(&plan, project),
            restart: Vec::new(),
            images: BTreeMap::new(),
            back_to: None,
            keep_going,
            settings: project.cluster.clone(),
        };
        self.propose_deploy(now, id, command, plan).map(|()| None)
    }

    pub(super) fn restart(&mut self, now: Now, id: RequestId, name: &Name) -> Result<(), ApiError> {
        let (project, spec) = self.running_spec(name)?;
        let wanted = BTreeMap::from([(name, Some(&spec))]);
        let plan = plan::of(&self.cluster, &project, &wanted, &BTreeSet::from([name]));
        let command = Command::StartDeploy {
            number: self.cluster.last_deploy + 1,
            project,
            kind: DeployKind::Restart,
            changes: BTreeMap::new(),
            tasks: BTreeMap::new(),
            restart: vec![name.clone()],
            images: BTreeMap::new(),
            back_to: None,
            keep_going: false,
            settings: ClusterSettings::default(),
        };
        self.propose_deploy(now, id, command, plan)
    }

    pub(super) fn scale(
        &mut self,
        now: Now,
        id: RequestId,
        name: &Name,
        replicas: u32,
    ) -> Result<(), ApiError> {
        let (project, mut spec) = self.running_spec(name)?;
        let invalid = |message: String| Err(ApiError::new(ErrorCode::Invalid, message));
        if spec.replicas == Replicas::EachNode {
            return invalid(format!(
                "service `{name}` runs on each node and has no number to change"
            ));
        }
        if replicas > REPLICAS_MAX {
            return invalid(format!(
                "{replicas} replicas are too many; the most is {REPLICAS_MAX}"
            ));
        }
        if replicas > 1 && spec.container.has_persistent_volume() {
            return invalid(format!(
                "service `{name}` has a persistent volume and one writer at most"
            ));
        }
        spec.replicas = Replicas::Count(replicas);
        let wanted = BTreeMap::from([(name, Some(&spec))]);
        let plan = plan::of(&self.cluster, &project, &wanted, &BTreeSet::new());
        let command = Command::StartDeploy {
            number: self.cluster.last_deploy + 1,
            project,
            kind: DeployKind::Scale,
            changes: BTreeMap::from([(name.clone(), Some(Box::new(spec)))]),
            tasks: BTreeMap::new(),
            restart: Vec::new(),
            images: BTreeMap::new(),
            back_to: None,
            keep_going: false,
            settings: ClusterSettings::default(),
        };
        self.propose_deploy(now, id, command, plan)
    }

    fn running_spec(&self, name: &Name) -> Result<(Name, ServiceSpec), ApiError> {
        let service = self.cluster.services.get(name);
        let version = service.and_then(Service::target).map(|(_, version)| version);
        match (service, version) {
            (Some(service), Some(version)) => Ok((service.project.clone(), version.spec.clone())),
            (_, _) => {
                let error =
                    ApiError::new(ErrorCode::NotFound, format!("there is no service `{name}`"));
                Err(error.hint("`mill status` lists the services"))
            }
        }
    }

    pub(super) fn no_deploy_runs(&self) -> Result<(), ApiError> {
        match self.cluster.running_deploy() {
            Some((number, _)) => Err(refused(&Refusal::DeployRunning(number))),
            None => Ok(()),
        }
    }

    pub(super) fn propose_deploy(
        &mut self,
        now: Now,
        id: RequestId,
        command: Command,
        plan: Plan,
    ) -> Result<(), ApiError> {
        self.no_deploy_runs()?;
        self.propose(now, id, command, Then::Started(plan));
        Ok(())
    }
}

/// The tasks that a plan does not keep as they are, and what they are to be.
pub(super) fn changed_tasks(
    plan: &Plan,
    project: &Project,
) -> BTreeMap<Name, Option<Box<TaskSpec>>> {
    let changed = plan.tasks.iter().filter(|task| task.action != plan::Action::Keep);
    let changed = changed.map(|planned| {
        let spec = project.tasks.get(&planned.task);
        (planned.task.clone(), spec.map(|spec| Box::new(spec.clone())))
    });
    changed.collect()
}

/// What is to be done is what its plan was when it was agreed to.
pub(super) fn as_shown(plan: &Plan, expect: &str) -> Result<(), ApiError> {
    if plan.fingerprint() == expect {
        return Ok(());
    }
    let message = format!("the cluster changed since the plan was shown; now it is:\n{plan}");
    let error = ApiError::new(ErrorCode::PlanChanged, message);
    Err(error.hint("look at the new plan and try again"))
}
