//! A cluster as a case file describes it, brought there by real commands.
//!
//! The order of things is that of the file: nodes register, what `running` says is deployed, then
//! what went wrong since; `wanted` is what somebody is about to deploy.

use std::collections::BTreeMap;

use mill_core::cluster::admission::{Admission, Roles};
use mill_core::cluster::alloc::{Phase, Status, StopReason};
use mill_core::cluster::command::{Command, Entry, ProposalId};
use mill_core::cluster::deploy::{DeployKind, DeployState};
use mill_core::cluster::node::{Capacity, NodeFacts, PortPool};
use mill_core::cluster::{Cluster, FeatureLevel, Revision};
use mill_core::config::model::{Project, Replicas};
use mill_core::config::{Source, parse};
use mill_core::container::{Digest, PinnedImage};
use mill_core::name::{AllocId, Name, NodeId, Slot};
use mill_core::plan::{self, Action, Plan, SlotStep};
use mill_core::scheduler::{self, Ask, Verdict};
use mill_core::time::Wall;
use mill_core::units::{Bytes, Millicores};
use serde::Deserialize;

/// A case file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The cluster's nodes; their numbers are their places here, from 1.
    pub nodes: Vec<NodeCase>,
    /// Configs that were deployed, one after the other.
    #[serde(default)]
    pub running: Vec<String>,
    /// Slots whose allocs have failed since.
    #[serde(default)]
    pub failed: Vec<Slot>,
    /// A config whose deploy has begun to roll and has placed nothing yet.
    pub in_flight: Option<String>,
    /// The config of which the plan is asked.
    pub wanted: String,
    /// Whether the snapshot holds the JSON as well.
    #[serde(default)]
    pub json: bool,
}

/// A node of a case.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeCase {
    name: String,
    /// Cores.
    #[serde(default = "four")]
    cpu: u64,
    /// As in a config; `8GiB` where none is given.
    memory: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// First and last port of the pool.
    ports: Option<[u16; 2]>,
    /// It fell silent after `running` was deployed.
    #[serde(default)]
    down: bool,
    /// It joined after `running` was deployed.
    #[serde(default)]
    late: bool,
}

fn four() -> u64 {
    4
}

/// In which order nodes register.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// By their numbers.
    Ascending,
    /// Every other one first, from the end.
    Shuffled,
}

/// A cluster, and what somebody is about to deploy to it.
pub struct Stage {
    pub cluster: Cluster,
    pub wanted: Project,
    allocs: u32,
}

impl Stage {
    pub fn set(case: &Case, order: Order) -> Stage {
        Stage::try_set(case, order).expect("what runs has a place")
    }

    /// `None` if what should run has no place.
    pub fn try_set(case: &Case, order: Order) -> Option<Stage> {
        let wanted = project(&case.wanted);
        let mut stage = Stage { cluster: Cluster::default(), wanted, allocs: 0 };
        stage.cluster.id = Some("stage".to_owned());
        stage.register(case, order, false);
        for config in case.running.iter().map(|config| project(config)) {
            if has_unplaced(&plan::plan(&stage.cluster, &config)) {
                return None;
            }
            stage.deploy(&config);
        }
        stage.register(case, order, true);
        for (node, _) in numbered(case).iter().filter(|(_, node)| node.down) {
            stage.commit(Command::SetLiveness { node: *node, up: false });
        }
        for slot in &case.failed {
            let allocs = stage.cluster.allocs_of(&slot.service);
            let found = allocs.filter(|(_, alloc)| alloc.slot == *slot && alloc.is_wanted());
            let (id, _) = found.last().unwrap_or_else(|| panic!("nothing runs in {slot}"));
            stage.report(&id.clone(), Phase::Failed);
        }
        if let Some(config) = &case.in_flight {
            stage.start(&project(config));
        }
        Some(stage)
    }

    fn register(&mut self, case: &Case, order: Order, late: bool) {
        let mut nodes = numbered(case);
        if order == Order::Shuffled {
            nodes.sort_by_key(|(id, _)| (id.0 % 2, std::cmp::Reverse(*id)));
        }
        for (node, case) in nodes.into_iter().filter(|(_, node)| node.late == late) {
            // Numbers are the file's, in whatever order nodes join.
            self.cluster.next_node = node.0;
            self.commit(Command::AdmitNode { admission: case.admission(), token: None });
            self.commit(Command::RegisterNode { node, facts: Box::new(case.facts()) });
            self.commit(Command::SetLiveness { node, up: true });
        }
    }

    /// Does what the plan says, to the end.
    pub fn deploy(&mut self, project: &Project) {
        let plan = self.start(project);
        assert!(!has_unplaced(&plan), "this cannot be running:\n{plan}");
        let number = self.cluster.last_deploy;
        let moving = || plan.services.iter().filter(|planned| planned.action != Action::Keep);
        let slots = moving().flat_map(|planned| &planned.slots);
        let (followers, first): (Vec<_>, Vec<_>) =
            slots.partition(|planned| self.waits(&planned.slot));
        first.into_iter().for_each(|planned| self.fill(&planned.slot, &planned.step));
        let waiting = moving().map(|planned| planned.service.clone());
        let services: Vec<Name> =
            waiting.filter(|name| self.cluster.canaries(name).is_some()).collect();
        if !services.is_empty() {
            self.commit(Command::Promote { deploy: number, services, early: false });
        }
        followers.into_iter().for_each(|planned| self.fill(&planned.slot, &planned.step));
        for planned in moving() {
            let service = planned.service.clone();
            self.commit(Command::SettleService { deploy: number, service });
        }
        self.advance(DeployState::Rolling, DeployState::Removing);
        for planned in moving().flat_map(|planned| &planned.slots) {
            if let SlotStep::Stop { alloc, .. } = &planned.step {
                self.stop(alloc, StopReason::Removed);
            }
        }
        self.advance(DeployState::Removing, DeployState::Succeeded);
    }

    /// Whether a slot waits for canaries.
    fn waits(&self, slot: &Slot) -> bool {
        self.cluster.canaries(&slot.service).is_some_and(|canaries| canaries.hold(slot.index))
    }

    /// Starts a deploy and gets it as far as rolling.
    fn start(&mut self, project: &Project) -> Plan {
        let problems = plan::check(&self.cluster, project);
        assert!(problems.is_empty(), "{problems:#?}");
        let plan = plan::plan(&self.cluster, project);
        let number = self.cluster.last_deploy + 1;
        let moving = plan.services.iter().filter(|planned| planned.action != Action::Keep);
        let changes = moving.map(|planned| {
            let spec = project.services.get(&planned.service);
            (planned.service.clone(), spec.map(|spec| Box::new(spec.clone())))
        });
        self.commit(Command::StartDeploy {
            number,
            project: project.name.clone(),
            kind: DeployKind::Config,
            changes: changes.collect(),
            tasks: BTreeMap::new(),
            restart: Vec::new(),
            images: Default::default(),
            back_to: None,
            keep_going: false,
            settings: Default::default(),
        });
        let images = self.cluster.deploys[&number].images.clone();
        for reference in images.into_keys() {
            let digest = Digest::Registry(format!("sha256:of-{reference}"));
            let image = PinnedImage { reference: reference.clone(), digest };
            self.commit(Command::PinImage { deploy: number, reference, image });
        }
        self.advance(DeployState::Resolving, DeployState::Rolling);
        plan
    }

    fn fill(&mut self, slot: &Slot, step: &SlotStep) {
        match step {
            SlotStep::Keep { .. } | SlotStep::Stop { .. } => {}
            SlotStep::Create { node, lost } => {
                self.place(slot, node);
                if let Some(lost) = lost {
                    self.commit(Command::Stop {
                        alloc: lost.alloc.clone(),
                        reason: StopReason::Replaced,
                    });
                }
            }
            SlotStep::Replace { alloc, to, .. } => {
                // A fixed port has one owner: there the old one has to go first.
                let owns = self.cluster.allocs[alloc].port;
                let again = self.target(slot).1.container.owned_port();
                if owns.is_some() && owns == again {
                    self.stop(alloc, StopReason::Updated);
                    self.place(slot, to);
                } else {
                    self.place(slot, to);
                    self.stop(alloc, StopReason::Updated);
                }
            }
            SlotStep::Waits { .. } => {}
            SlotStep::Unplaced { .. } => panic!("{slot} has no place"),
        }
    }

    fn target(&self, slot: &Slot) -> (u64, mill_core::config::model::ServiceSpec) {
        let (_, version) = self.cluster.services[&slot.service].target().unwrap();
        (version.template, version.spec.clone())
    }

    fn place(&mut self, slot: &Slot, node: &str) {
        let named =
            |(_, known): &(&NodeId, &mill_core::cluster::node::NodeRecord)| known.name == node;
        let node = *self.cluster.nodes.iter().find(named).unwrap().0;
        let (template, spec) = self.target(slot);
        let pinned = (spec.replicas == Replicas::EachNode).then_some(NodeId(slot.index));
        let avoid = Default::default();
        let ask = Ask {
            slot: slot.clone(),
            needs: scheduler::Needs::of(&spec),
            pinned: pinned.or(Some(node)),
            avoid,
            home: None,
        };
        let mut nodes = scheduler::candidates(&self.cluster);
        let port = match scheduler::place(&mut nodes, &[ask]).pop().unwrap() {
            Verdict::Placed { port, .. } => port,
            Verdict::Unplaced(rejected) => panic!("{slot} was planned for {node}: {rejected:?}"),
        };
        self.allocs += 1;
        let alloc = AllocId::new(slot, &format!("a{}", self.allocs));
        let slot = slot.clone();
        self.commit(Command::Place { alloc: alloc.clone(), slot, node, template, port });
        self.report(&alloc, Phase::Healthy);
    }

    fn stop(&mut self, alloc: &AllocId, reason: StopReason) {
        self.commit(Command::Stop { alloc: alloc.clone(), reason });
        self.report(alloc, Phase::Stopped);
    }

    fn report(&mut self, alloc: &AllocId, phase: Phase) {
        let node = self.cluster.allocs[alloc].node;
        let status = Status { phase, ..Status::default() };
        self.commit(Command::Report { node, alloc: alloc.clone(), status });
    }

    fn advance(&mut self, from: DeployState, to: DeployState) {
        self.commit(Command::AdvanceDeploy { deploy: self.cluster.last_deploy, from, to });
    }

    fn commit(&mut self, command: Command) {
        let at = Revision { epoch: 0, index: self.cluster.revision.index + 1 };
        let id = ProposalId { node: NodeId(1), boot: 1, seq: at.index };
        let entry = Entry { id, wall: Wall(at.index), intent: None, commands: vec![command] };
        let results = self.cluster.apply(at, &entry);
        assert!(results.iter().all(Result::is_ok), "{results:?}: {entry:?}");
    }
}

impl NodeCase {
    fn admission(&self) -> Box<Admission> {
        let NodeFacts { advertise, rpc, version, supports, mesh, .. } = self.facts();
        let (name, key) = (self.name.clone(), self.name.clone());
        let (roles, labels) = (Roles::default(), self.labels.clone());
        Box::new(Admission { name, key, roles, labels, advertise, rpc, version, supports, mesh })
    }

    fn facts(&self) -> NodeFacts {
        let memory: Bytes = self.memory.as_deref().unwrap_or("8GiB").parse().unwrap();
        let [first, last] = self.ports.unwrap_or([20_000, 29_999]);
        NodeFacts {
            boot: 1,
            advertise: "192.0.2.1".to_owned(),
            rpc: "192.0.2.1:7433".to_owned(),
            capacity: Capacity {
                cpu: Millicores(self.cpu * 1000),
                memory,
                ports: PortPool { first, last },
            },
            version: "test".to_owned(),
            supports: FeatureLevel::NEWEST,
            unrouted: None,
            mesh: None,
        }
    }
}

/// Whether some slot that a deploy of the plan would move has no place.
pub fn has_unplaced(plan: &Plan) -> bool {
    let moving = plan.services.iter().filter(|planned| planned.action != Action::Keep);
    let mut slots = moving.flat_map(|planned| &planned.slots);
    slots.any(|planned| matches!(planned.step, SlotStep::Unplaced { .. }))
}

fn numbered(case: &Case) -> Vec<(NodeId, &NodeCase)> {
    (1..).map(NodeId).zip(&case.nodes).collect()
}

fn project(config: &str) -> Project {
    let sources = [Source { name: "mill.toml".to_owned(), text: config.to_owned() }];
    match parse(&sources) {
        Ok(parsed) => parsed.project,
        Err(problems) => {
            let told: Vec<String> = problems.iter().map(|p| p.render(&sources)).collect();
            panic!("{}", told.join("\n"))
        }
    }
}
