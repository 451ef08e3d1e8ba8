//! How each command changes the state, or why it is refused; deploys in `rolling.rs`, certificates
//! in `certificates.rs`.

use std::collections::BTreeSet;

use crate::cluster::admission::Roles;
use crate::cluster::alloc::{Alloc, Desired, Leaving, Phase, Released, Status, StopReason};
use crate::cluster::command::{Command, Entry};
use crate::cluster::deploy::{Deploy, DeployState, Goal};
use crate::cluster::node::{Liveness, NodeFacts, NodeRecord, RETURNS_BEFORE_WATCHED, Trust};
use crate::cluster::{Cluster, FeatureLevel, Revision};
use crate::mutant::{self, Mutant};
use crate::name::{AllocId, Name, NodeId, Slot};
use crate::time::Wall;

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It holds now.
    Done,
    /// A deploy was started under this number.
    DeployStarted(u64),
    /// A node is a member under this number.
    Admitted(NodeId),
    /// A run was asked for under this number.
    RunStarted(u64),
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The cluster has begun under another id, or this one.
    #[error("the cluster has begun already, as `{0}`")]
    Founded(String),
    /// What it is about is not (or no longer) there.
    #[error("there is no {what} `{name}`")]
    Missing {
        /// Kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The state is not what the proposer thought.
    #[error("{0}")]
    Stale(String),
    /// One deploy at a time.
    #[error("deploy #{0} is still running")]
    DeployRunning(u64),
    /// The name is taken.
    #[error("{what} `{name}` belongs to project `{project}`")]
    NameOfAnother {
        /// A service or a task.
        what: &'static str,
        /// What it is called.
        name: Name,
        /// Whose it is.
        project: Name,
    },
    /// It cannot be, whatever the state.
    #[error("{0}")]
    Invalid(String),
    /// Another node is called so.
    #[error("node {node} is called `{name}` already, and has another key")]
    NameTaken {
        /// The name.
        name: String,
        /// Whose it is.
        node: NodeId,
    },
    /// A limit is reached.
    #[error("this cluster has {most} {what}, and no room for more")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there can be.
        most: usize,
    },
    /// It could not know what it applies.
    #[error(
        "this mill supports feature level {supports}, and the cluster uses {level}: it is too old"
    )]
    TooOld {
        /// What it supports.
        supports: FeatureLevel,
        /// What the cluster uses.
        level: FeatureLevel,
    },
    /// Nobody could speak with it.
    #[error("the nodes of this cluster speak through WireGuard only, and this machine cannot")]
    NoMesh,
    /// No such token, or it was revoked.
    #[error("this join token is not known here, or was revoked")]
    NoToken,
    /// It was good for one node.
    #[error("this join token was good for one node, and node `{by}` has used it")]
    TokenSpent {
        /// Which node.
        by: String,
    },
    /// It gives other roles.
    #[error("this join token gives the roles {covered}, not {wanted}")]
    RoleNotCovered {
        /// What was asked for.
        wanted: Roles,
        /// What it gives.
        covered: Roles,
    },
    /// Nobody could vote without it.
    #[error("node {0} is the only primary: without it nobody could lead")]
    LastPrimary(String),
    /// Nobody could lead there.
    #[error("node {0} is no primary: it cannot lead, so the cluster cannot go on from it alone")]
    NotPrimary(String),
    /// It has containers.
    #[error("node {name} still has {allocs} allocs")]
    NotEmpty {
        /// The node.
        name: String,
        /// How many it has.
        allocs: usize,
    },
    /// It would get new ones before it is gone.
    #[error("node {0} is up and does not drain")]
    NotDrained(String),
}

pub(super) fn stale(text: impl Into<String>) -> Refusal {
    Refusal::Stale(text.into())
}

pub(super) fn missing(what: &'static str, name: impl ToString) -> Refusal {
    Refusal::Missing { what, name: name.to_string() }
}

impl Cluster {
    /// Applies an entry: each of its commands by itself, in order.
    pub fn apply(&mut self, at: Revision, entry: &Entry) -> Vec<Result<Reply, Refusal>> {
        assert!(at > self.revision, "entry {at} comes after {}", self.revision);
        self.revision = at;
        let apply = |command| {
            self.is_timely(entry, command)?;
            self.apply_one(at, entry.wall, command)
        };
        let results = entry.commands.iter().map(apply).collect();
        self.keep_by_level();
        results
    }

    fn is_timely(&self, entry: &Entry, command: &Command) -> Result<(), Refusal> {
        let other = entry.intent.is_some_and(|intent| intent != self.intent);
        let fenced = other && !mutant::is(Mutant::IntentFenceDropped);
        match fenced && command.is_decision() {
            true => {
                Err(stale("what is wanted, or where it may be, was changed since this was decided"))
            }
            false => Ok(()),
        }
    }

    fn apply_one(&mut self, at: Revision, wall: Wall, command: &Command) -> Result<Reply, Refusal> {
        match command {
            Command::Found { cluster, node, first, network } => {
                self.network = if self.id.is_none() { *network } else { self.network };
                self.found(wall, cluster, *node, first)
            }
            Command::AdmitNode { admission, token } => {
                self.admit(wall, admission, token.as_deref())
            }
            Command::RemoveNode { node, force } => self.remove_node(wall, *node, *force),
            Command::SetDrain { node, draining } => self.set_drain(wall, *node, *draining),
            Command::SetLabels { node, set, remove } => self.set_labels(wall, *node, set, remove),
            Command::PutToken { hash, token } => self.put_token(wall, hash, token),
            Command::RevokeTokens => self.revoke_tokens(wall),
            Command::UseMesh => self.use_mesh(wall),
            Command::RotateKey { node, to } => self.rotate_key(wall, *node, *to),
            Command::RaiseFeatures { to } => self.raise_features(wall, *to),
            Command::RegisterNode { node, facts } => self.register_node(*node, facts),
            Command::SetLiveness { node, up } => self.set_liveness(wall, *node, *up),
            Command::Trust { node, returns } => self.trust(*node, *returns),
            Command::StartDeploy {
                number,
                project,
                kind,
                changes,
                tasks,
                restart,
                images,
                back_to,
                keep_going,
                settings,
            } => {
                self.last_deploy_is(*number)?;
                for service in changes.keys().chain(restart) {
                    self.may_be_service(project, service)?;
                }
                for task in tasks.keys() {
                    self.may_be_task(project, task, changes.contains_key(task))?;
                }
                if let Some(service) = restart.iter().find(|s| !self.services.contains_key(*s)) {
                    return Err(missing("service", service));
                }
                let deploy = Deploy {
                    project: project.clone(),
                    kind: *kind,
                    state: DeployState::Resolving,
                    changes: Default::default(),
                    tasks: Default::default(),
                    gates: Default::default(),
                    keep_going: *keep_going,
                    images: Default::default(),
                    begun: at,
                    started: wall,
                    ended: None,
                    back_to: *back_to,
                    left: None,
                    left_tasks: None,
                    receipt: Default::default(),
                    settings: settings.clone(),
                };
                self.start_deploy(*number, deploy, (changes, tasks), restart, images);
                Ok(Reply::DeployStarted(*number))
            }
            Command::PinImage { deploy, reference, image } => {
                self.pin_image(*deploy, reference, image)
            }
            Command::AdvanceDeploy { deploy, from, to } => {
                self.advance_deploy(wall, *deploy, from, to)
            }
            Command::SettleService { deploy, service } => self.settle(*deploy, service),
            Command::FailServices { deploy, failed } => self.fail_services(wall, *deploy, failed),
            Command::Promote { deploy, services, early } => {
                self.promote(at, wall, *deploy, services, *early)
            }
            Command::Place { alloc, slot, node, template, port } => {
                self.place(at, wall, alloc, slot, *node, *template, *port)
            }
            Command::Stop { alloc, reason } => self.stop(at, wall, alloc, *reason),
            Command::Release { alloc, by } => self.release(wall, alloc, by),
            Command::FreePorts { until } => self.free_ports(*until),
            Command::Report { node, alloc, status } => self.report(at, wall, *node, alloc, status),
            Command::StartRun { task, cause, overrides } => {
                self.start_run(wall, task, *cause, overrides)
            }
            Command::PlaceRun { run, alloc, node } => self.place_run(at, wall, *run, alloc, *node),
            Command::SkipDue { task, due, why } => self.skip_due(wall, task, *due, why),
            Command::KillRun { run } => self.kill_run(wall, *run),
            Command::Certificates(change) => self.change_certificates(at, wall, change),
            Command::Forget { alloc } => self.forget(alloc),
        }
    }

    fn register_node(&mut self, node: NodeId, facts: &NodeFacts) -> Result<Reply, Refusal> {
        self.is_known_to(facts.supports)?;
        let record = self.nodes.get_mut(&node).ok_or_else(|| missing("member", node))?;
        if record.facts == *facts {
            return Err(stale(format!("node {node} is known like that")));
        }
        if record.facts.boot > facts.boot {
            return Err(stale(format!("node {node} has started again since")));
        }
        if record.facts.boot == 0 {
            record.next_port = facts.capacity.ports.first;
        }
        record.facts = facts.clone();
        // One that is alone speaks with nobody; whoever joins it has to come in.
        self.mesh_only &= facts.mesh.is_some() || self.nodes.len() > 1;
        self.give_mesh_address(node);
        Ok(Reply::Done)
    }

    fn set_liveness(&mut self, wall: Wall, node: NodeId, up: bool) -> Result<Reply, Refusal> {
        let record = self.nodes.get_mut(&node).ok_or_else(|| missing("node", node))?;
        if record.is_up() == up {
            return Err(stale(format!("node {node} is known like that")));
        }
        let joins = record.liveness == Liveness::Joining;
        record.liveness = if up { Liveness::Up } else { Liveness::Down { since: wall } };
        if up && !joins {
            record.returns = record.returns.saturating_add(1);
            if record.returns >= RETURNS_BEFORE_WATCHED {
                record.trust = Trust::Watched;
            }
        }
        let name = record.name.clone();
        let text = match up {
            true if joins => format!("node {name} joined"),
            true => format!("node {name} is heard again"),
            false => {
                format!("node {name} fell silent and is down; its services are placed elsewhere")
            }
        };
        self.history.record(wall, node, text);
        if !up {
            self.lose_runs(wall, node, &name);
        }
        Ok(Reply::Done)
    }

    fn trust(&mut self, node: NodeId, returns: u32) -> Result<Reply, Refusal> {
        let record = self.nodes.get_mut(&node).ok_or_else(|| missing("node", node))?;
        if !record.is_up() || (record.trust, record.returns) == (Trust::Full, returns) {
            return Err(stale(format!("node {node} is down, or known like that")));
        }
        (record.trust, record.returns) = (Trust::Full, returns);
        Ok(Reply::Done)
    }

    fn may_be_service(&self, project: &Name, name: &Name) -> Result<(), Refusal> {
        let another = |what, project: &Name| {
            let (name, project) = (name.clone(), project.clone());
            Err(Refusal::NameOfAnother { what, name, project })
        };
        match (self.services.get(name), self.tasks.get(name)) {
            (Some(known), _) if known.project != *project => another("service", &known.project),
            (None, Some(task)) => another("task", &task.project),
            (_, _) => Ok(()),
        }
    }

    fn may_be_task(&self, project: &Name, name: &Name, is_both: bool) -> Result<(), Refusal> {
        let another = |what, project: &Name| {
            let (name, project) = (name.clone(), project.clone());
            Err(Refusal::NameOfAnother { what, name, project })
        };
        match (self.tasks.get(name), self.services.get(name)) {
            (Some(known), _) if known.project != *project => another("task", &known.project),
            (_, Some(service)) => another("service", &service.project),
            (_, None) if is_both => another("service", project),
            (_, None) => Ok(()),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one command")]
    fn place(
        &mut self,
        at: Revision,
        wall: Wall,
        id: &AllocId,
        slot: &Slot,
        node: NodeId,
        template: u64,
        port: Option<u16>,
    ) -> Result<Reply, Refusal> {
        if self.allocs.contains_key(id) {
            return Err(stale(format!("alloc `{id}` exists")));
        }
        let service =
            self.services.get(&slot.service).ok_or_else(|| missing("service", &slot.service))?;
        let target = self.wanted_in(slot);
        let target = target.ok_or_else(|| stale("the slot is not to be filled now"))?;
        let version = service.versions.get(&template);
        let Some(version) = version.filter(|_| target.template == template) else {
            return Err(stale(format!("version {template} of `{}` is not wanted", slot.service)));
        };
        if !self.nodes.get(&node).is_some_and(NodeRecord::takes_new) {
            return Err(stale(format!("node {node} is down, drains or runs no containers")));
        }
        let filled = |other: &Alloc| {
            other.slot == *slot
                && other.serves(target.spec.replicas) == slot.index
                && other.template == template
                && other.is_wanted()
                && self.nodes.get(&other.node).is_some_and(|node| node.is_up() && !node.draining)
        };
        if self.allocs_of(&slot.service).any(|(_, other)| filled(other)) {
            return Err(stale(format!("slot {slot} is filled")));
        }
        if let Some(port) = port
            && self.allocs_on(node).any(|(_, other)| other.port == Some(port) && other.is_live())
        {
            return Err(stale(format!("port {port} of node {node} is given to another alloc")));
        }
        if let Some(port) = port
            && let Some(other) = self.rests_for(node, port, &slot.service)
        {
            return Err(stale(format!("port {port} of node {node} rests for service `{other}`")));
        }
        let alloc = Alloc {
            slot: slot.clone(),
            run: None,
            node,
            template,
            port,
            cpu: version.spec.container.reserved_cpu(),
            memory: version.spec.container.reserved_memory(),
            placed: at,
            desired: Desired::Run,
            status: Status::default(),
            served: false,
            leaving: None,
        };
        self.allocs.insert(id.clone(), alloc);
        self.by_node.entry(node).or_default().insert(id.clone());
        let record = self.nodes.get_mut(&node).expect("a node that is up is known");
        record.take_port(port);
        let text = format!("{slot} was placed on node {}", record.name);
        self.history.record(wall, id, text);
        Ok(Reply::Done)
    }

    fn stop(
        &mut self,
        at: Revision,
        wall: Wall,
        id: &AllocId,
        reason: StopReason,
    ) -> Result<Reply, Refusal> {
        let alloc = self.allocs.get_mut(id).ok_or_else(|| missing("alloc", id))?;
        if !alloc.is_wanted() || alloc.run.is_some() {
            return Err(stale(format!("alloc `{id}` is stopping, has ended or is of a run")));
        }
        alloc.desired = Desired::Stop { reason };
        alloc.leaving = Some(Leaving { since: at, released: None });
        self.history.record(wall, id, format!("leaves, to stop: {}", reason.sentence()));
        self.receipt_begins(wall, id, reason);
        Ok(Reply::Done)
    }

    fn release(
        &mut self,
        wall: Wall,
        id: &AllocId,
        by: &BTreeSet<NodeId>,
    ) -> Result<Reply, Refusal> {
        let up = self.nodes.iter().filter(|(_, record)| record.is_up());
        if let Some((_, record)) = up.clone().find(|(node, _)| !by.contains(node)) {
            return Err(stale(format!("node {} may still send something to it", record.name)));
        }
        let by = up.map(|(node, _)| *node).collect();
        let is_down = |record: &NodeRecord| matches!(record.liveness, Liveness::Down { .. });
        let down = self.nodes.iter().filter(|(_, record)| is_down(record));
        let excused: BTreeSet<NodeId> = down.map(|(node, _)| *node).collect();
        let alloc = self.allocs.get_mut(id).ok_or_else(|| missing("alloc", id))?;
        if alloc.awaits_release().is_none() {
            return Err(stale(format!("alloc `{id}` does not wait for that")));
        }
        let released = Released { at: wall, by, excused };
        alloc.leaving.iter_mut().for_each(|leaving| leaving.released = Some(released.clone()));
        self.receipt_goes_on(wall, id);
        Ok(Reply::Done)
    }

    fn report(
        &mut self,
        at: Revision,
        wall: Wall,
        node: NodeId,
        id: &AllocId,
        status: &Status,
    ) -> Result<Reply, Refusal> {
        let alloc = self.allocs.get_mut(id).ok_or_else(|| missing("alloc", id))?;
        if alloc.node != node {
            return Err(stale(format!("alloc `{id}` is not on node {node}")));
        }
        if alloc.status.phase.is_end() {
            return Err(stale(format!("alloc `{id}` has ended")));
        }
        let before = std::mem::replace(&mut alloc.status, status.clone());
        alloc.served |= alloc.run.is_none() && status.phase == Phase::Healthy;
        if before.phase != status.phase {
            let (service, ended) = (alloc.slot.service.clone(), status.phase.is_end());
            let told = alloc.sentence();
            self.history.record(wall, id, told);
            self.receipt_goes_on(wall, id);
            self.run_goes_on(wall, id, &before);
            if ended {
                self.rest_port(id, at);
                self.prune(&service);
            }
        }
        Ok(Reply::Done)
    }

    fn forget(&mut self, id: &AllocId) -> Result<Reply, Refusal> {
        let alloc = self.allocs.get(id).ok_or_else(|| missing("alloc", id))?;
        if alloc.is_live() {
            return Err(stale(format!("alloc `{id}` has not ended")));
        }
        let (node, service) = (alloc.node, alloc.slot.service.clone());
        self.allocs.remove(id);
        if let Some(ids) = self.by_node.get_mut(&node) {
            ids.remove(id);
        }
        self.prune(&service);
        Ok(Reply::Done)
    }

    /// Drops versions that nothing refers to, adopts what an ended deploy brought about, and the
    /// service itself once it is not wanted and nothing of it is left.
    pub(super) fn prune(&mut self, name: &Name) {
        let running = self.running_deploy().is_some_and(|(_, d)| d.changes.contains_key(name));
        let templates: Vec<u64> = self.allocs_of(name).map(|(_, alloc)| alloc.template).collect();
        let live = self.allocs_of(name).any(|(_, alloc)| alloc.is_live());
        let Some(service) = self.services.get_mut(name) else { return };
        if !running && let Some(to) = service.rolling.take() {
            service.stable = to.version();
        }
        let heads = [service.stable, service.rolling.and_then(Goal::version)];
        let of_heads = heads.into_iter().flatten();
        let in_use: Vec<u64> = of_heads
            .flat_map(|head| [Some(head), service.versions.get(&head).map(|v| v.template)])
            .flatten()
            .chain(templates)
            .collect();
        service.versions.retain(|number, _| in_use.contains(number));
        if !running && service.stable.is_none() && !live {
            self.services.remove(name);
        }
    }
}

impl NodeRecord {
    fn take_port(&mut self, port: Option<u16>) {
        let pool = self.facts.capacity.ports;
        if let Some(port) = port.filter(|port| (pool.first..=pool.last).contains(port)) {
            self.next_port = if port >= pool.last { pool.first } else { port + 1 };
        }
    }
}

impl StopReason {
    /// The reason as people read it.
    pub fn sentence(self) -> &'static str {
        match self {
            StopReason::Updated => "a newer version took its place",
            StopReason::RolledBack => "the deploy that placed it went back",
            StopReason::ScaledDown => "the service has fewer replicas now",
            StopReason::Removed => "the service was removed from its project",
            StopReason::Replaced => "another replica took its place while it could not be heard",
            StopReason::Drained => "its node is being emptied",
            StopReason::NodeRemoved => "its node was removed from the cluster",
            StopReason::Killed => "it was killed by hand, or a later run took its place",
            StopReason::RunOver => "its node was not heard, so the run was given up",
            StopReason::Unsuitable => "its node may not run the service any more",
        }
    }
}

impl Status {
    /// The phase as people read it.
    pub fn phase_word(&self) -> &'static str {
        match self.phase {
            Phase::Placed => "placed",
            Phase::Starting => "starting",
            Phase::Running => "running, not healthy yet",
            Phase::Healthy => "healthy",
            Phase::Unhealthy => "unhealthy",
            Phase::BackingOff => "waiting to be started again",
            Phase::Stopping => "stopping",
            Phase::Stopped => "stopped",
            Phase::Completed => "over",
            Phase::Failed => "failed",
        }
    }

    /// The status as people read it.
    pub fn sentence(&self) -> String {
        match &self.trouble {
            Some(trouble) => format!("{}: {}", self.phase_word(), trouble.detail),
            None => self.phase_word().to_owned(),
        }
    }
}
