//! Requests of the API: each is answered once, from confirmed state or by what was committed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Node, Wake};
use crate::api::{Answer, ApiError, ErrorCode, HOLD_MAX, Outcome, Request, RequestId};
use crate::cluster::command::{Command, ProposalId};
use crate::cluster::deploy::{DeployKind, Service};
use crate::cluster::{Refusal, Reply};
use crate::config::model::{Project, Replicas, ServiceSpec};
use crate::config::supported;
use crate::effect::Effect;
use crate::event::{Fate, Leadership};
use crate::name::{Name, NodeId};
use crate::outbox::Outbox;
use crate::plan::{self, Plan};
use crate::time::{Mono, Now};
use crate::units::Millis;

/// The most requests that wait at a time; one more is refused.
pub const REQUESTS_MAX: usize = 1000;

/// The most replicas of one service.
pub const REPLICAS_MAX: u32 = 1000;

/// Requests that wait.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Requests {
    /// For this node's lead to be confirmed.
    unconfirmed: BTreeMap<RequestId, Request>,
    /// For an entry to be committed.
    proposed: BTreeMap<RequestId, Proposed>,
    /// For a deploy to differ from what the caller has seen.
    held: BTreeMap<RequestId, Held>,
    /// Whether the state changed since held requests were looked at.
    changed: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Proposed {
    id: ProposalId,
    plan: Plan,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Held {
    number: Option<u64>,
    seen: u64,
    until: Mono,
}

impl Requests {
    fn len(&self) -> usize {
        self.unconfirmed.len() + self.proposed.len() + self.held.len()
    }

    pub fn state_changed(&mut self) {
        self.changed = true;
    }

    /// Who asked is gone.
    pub fn dropped(&mut self, id: RequestId) {
        self.unconfirmed.remove(&id);
        self.proposed.remove(&id);
        self.held.remove(&id);
    }

    /// An entry of this node was applied.
    pub fn proposal_done(
        &mut self,
        id: ProposalId,
        results: &[Result<Reply, Refusal>],
        out: &mut Outbox,
    ) {
        let Some(request) = self.proposal(id) else { return };
        let Some(Proposed { plan, .. }) = self.proposed.remove(&request) else { return };
        let outcome = match results.first() {
            Some(Ok(Reply::DeployStarted(number))) => Ok(Answer::Started { number: *number, plan }),
            Some(Ok(Reply::Done)) | None => {
                Err(ApiError::new(ErrorCode::Internal, "the entry did not start a deploy"))
            }
            Some(Err(refusal)) => Err(refused(refusal)),
        };
        reply(out, request, outcome);
    }

    /// The state jumped ahead: what became of entries that were under way is not known.
    pub fn jumped(&mut self, out: &mut Outbox) {
        self.changed = true;
        let under_way: Vec<ProposalId> = self.proposed.values().map(|p| p.id).collect();
        under_way.into_iter().for_each(|id| self.proposal_failed(id, Fate::Unknown, out));
    }

    /// An entry of this node will not be seen committed.
    pub fn proposal_failed(&mut self, id: ProposalId, fate: Fate, out: &mut Outbox) {
        let Some(request) = self.proposal(id) else { return };
        self.proposed.remove(&request);
        let error = match fate {
            Fate::Refused => no_leader(None),
            Fate::Unknown => ApiError::new(
                ErrorCode::Unknown,
                "the leader changed before this was confirmed: it may or may not have been done",
            )
            .hint("look with `mill status` before you repeat it"),
        };
        reply(out, request, Err(error));
    }

    fn proposal(&self, id: ProposalId) -> Option<RequestId> {
        let mine = self.proposed.iter().find(|(_, proposed)| proposed.id == id);
        mine.map(|(request, _)| *request)
    }

    /// Another node leads now: whoever waits here should ask there.
    pub fn no_longer_leader(&mut self, out: &mut Outbox) {
        let waiting: BTreeSet<RequestId> =
            self.unconfirmed.keys().chain(self.held.keys()).copied().collect();
        self.unconfirmed.clear();
        self.held.clear();
        waiting.into_iter().for_each(|id| reply(out, id, Err(no_leader(None))));
    }

    pub fn next_wake(&self) -> Option<(Mono, Wake)> {
        self.held.values().map(|held| (held.until, Wake::Held)).min()
    }
}

impl Node {
    /// A request comes in: it waits until this node is sure that it leads.
    pub(super) fn request(&mut self, id: RequestId, request: Request) {
        match self.leadership {
            Leadership::Leader { .. } if self.requests.len() >= REQUESTS_MAX => {
                let message = format!("{REQUESTS_MAX} requests wait already");
                let busy = ApiError::new(ErrorCode::Busy, message).hint("try again in a moment");
                reply(&mut self.out, id, Err(busy));
            }
            Leadership::Leader { .. } => {
                self.requests.unconfirmed.insert(id, request);
                self.out.push(Effect::ConfirmRead { id });
            }
            Leadership::Follower { leader, .. } => {
                reply(&mut self.out, id, Err(no_leader(leader)));
            }
        }
    }

    pub(super) fn read_confirmed(&mut self, now: Now, id: RequestId, confirmed: bool) {
        let Some(request) = self.requests.unconfirmed.remove(&id) else { return };
        if !confirmed {
            reply(&mut self.out, id, Err(no_leader(None)));
            return;
        }
        if let Some(outcome) = self.act(now, id, request) {
            reply(&mut self.out, id, outcome);
        }
    }

    /// The answer, unless it comes later.
    fn act(&mut self, now: Now, id: RequestId, request: Request) -> Option<Outcome> {
        match request {
            Request::Plan { project } => Some(self.plan_project(&project).map(Answer::Plan)),
            Request::Deploy { project, expect } => {
                self.deploy(now, id, &project, expect).transpose()
            }
            Request::Restart { service } => self.restart(now, id, &service).err().map(Err),
            Request::Scale { service, replicas } => {
                self.scale(now, id, &service, replicas).err().map(Err)
            }
            Request::Deployment { number, seen, hold } => match (self.deploy_view(number), seen) {
                (Err(error), _) => Some(Err(error)),
                (Ok(view), Some(seen)) if view.fingerprint == seen && !view.state.is_end() => {
                    let until = now.mono + Millis(hold.0.min(HOLD_MAX.0));
                    self.requests.held.insert(id, Held { number, seen, until });
                    None
                }
                (Ok(view), _) => Some(Ok(Answer::Deployment(view))),
            },
            Request::Status => Some(Ok(Answer::Status(self.status_view()))),
            Request::Allocs { service } => {
                Some(self.alloc_views(service.as_ref()).map(Answer::Allocs))
            }
            Request::Why { subject } => Some(self.why(&subject).map(Answer::Why)),
            Request::State => {
                let text = String::from_utf8(self.cluster.encode());
                Some(Ok(Answer::State(text.expect("JSON is text"))))
            }
        }
    }

    fn plan_project(&self, project: &Project) -> Result<Plan, ApiError> {
        let problems = plan::check(&self.cluster, project);
        if !problems.is_empty() {
            let mut error =
                ApiError::new(ErrorCode::Invalid, "this config cannot be deployed here");
            error.details = problems;
            return Err(error);
        }
        Ok(plan::plan(&self.cluster, project))
    }

    /// The answer if it is known now: nothing is to be done, or it cannot be.
    fn deploy(
        &mut self,
        now: Now,
        id: RequestId,
        project: &Project,
        expect: Option<String>,
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
        if expect.is_some_and(|expect| expect != plan.fingerprint()) {
            let message =
                format!("the cluster changed since the plan was shown; now it is:\n{plan}");
            let error = ApiError::new(ErrorCode::PlanChanged, message);
            return Err(error.hint("look at the new plan and deploy again"));
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
            restart: Vec::new(),
        };
        self.propose(now, id, command, plan).map(|()| None)
    }

    fn restart(&mut self, now: Now, id: RequestId, name: &Name) -> Result<(), ApiError> {
        let (project, spec) = self.running_spec(name)?;
        let wanted = BTreeMap::from([(name, Some(&spec))]);
        let plan = plan::of(&self.cluster, &project, &wanted, &BTreeSet::from([name]));
        let command = Command::StartDeploy {
            number: self.cluster.last_deploy + 1,
            project,
            kind: DeployKind::Restart,
            changes: BTreeMap::new(),
            restart: vec![name.clone()],
        };
        self.propose(now, id, command, plan)
    }

    fn scale(
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
            restart: Vec::new(),
        };
        self.propose(now, id, command, plan)
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

    fn no_deploy_runs(&self) -> Result<(), ApiError> {
        match self.cluster.running_deploy() {
            Some((number, _)) => Err(refused(&Refusal::DeployRunning(number))),
            None => Ok(()),
        }
    }

    fn propose(
        &mut self,
        now: Now,
        id: RequestId,
        command: Command,
        plan: Plan,
    ) -> Result<(), ApiError> {
        self.no_deploy_runs()?;
        let proposal = self.out.propose(now.wall, vec![command]);
        self.requests.proposed.insert(id, Proposed { id: proposal, plan });
        Ok(())
    }

    /// Held requests whose time has come, or whose deploy differs now.
    pub(super) fn answer_held(&mut self, now: Now) {
        let changed = std::mem::take(&mut self.requests.changed);
        if self.requests.held.is_empty() {
            return;
        }
        let held = std::mem::take(&mut self.requests.held);
        for (id, hold) in held {
            let due = hold.until <= now.mono;
            if !due && !changed {
                self.requests.held.insert(id, hold);
                continue;
            }
            match self.deploy_view(hold.number) {
                Ok(view) if !due && view.fingerprint == hold.seen => {
                    self.requests.held.insert(id, hold);
                }
                Ok(view) => reply(&mut self.out, id, Ok(Answer::Deployment(view))),
                Err(error) => reply(&mut self.out, id, Err(error)),
            }
        }
    }
}

fn reply(out: &mut Outbox, id: RequestId, outcome: Outcome) {
    out.push(Effect::Reply { id, outcome: Box::new(outcome) });
}

fn no_leader(leader: Option<NodeId>) -> ApiError {
    let message = match leader {
        Some(leader) => format!("this node does not lead; node {leader} does"),
        None => "this node does not lead, and knows of no leader just now".to_owned(),
    };
    ApiError::new(ErrorCode::NoLeader, message).hint("ask the leader, or again in a moment")
}

fn refused(refusal: &Refusal) -> ApiError {
    let error = ApiError::new(ErrorCode::Conflict, refusal.to_string());
    match refusal {
        Refusal::DeployRunning(number) => {
            error.hint(format!("`mill status` shows deploy #{number}; wait for its end"))
        }
        Refusal::Founded(_)
        | Refusal::Missing { .. }
        | Refusal::Stale(_)
        | Refusal::ForeignService { .. } => error.hint("look again and repeat it"),
    }
}
