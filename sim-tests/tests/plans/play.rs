//! A staged cluster comes alive: real nodes, a log that commits at once, engines that never fail.
//!
//! Nothing is random and nothing goes wrong here; it answers one question: is a deploy what its
//! plan said? What happens when things go wrong is the simulator's business.

use std::collections::{BTreeMap, VecDeque};

use mill_core::api::{Answer, Outcome, Request, RequestId};
use mill_core::cluster::{Cluster, Revision};
use mill_core::config::model::Project;
use mill_core::container::{ContainerOp, ContainerState, Digest, Observed, OpOutput, PinnedImage};
use mill_core::event::{Leadership, Origin};
use mill_core::name::{AllocId, NodeId};
use mill_core::time::{Mono, Now, Wall};
use mill_core::timing::Timing;
use mill_core::units::Millis;
use mill_core::{Effect, Event, Node, NodeConfig};

/// A deploy that has not ended after this long never will.
const LONGEST: Millis = Millis::mins(30);
/// Between two looks at whether it has come true.
const STEPS_MAX: usize = 200_000;

/// A cluster at work.
pub struct Play {
    now: Mono,
    nodes: BTreeMap<NodeId, Node>,
    engines: BTreeMap<NodeId, BTreeMap<AllocId, Observed>>,
    leader: NodeId,
    happening: VecDeque<(NodeId, Event)>,
    log: u64,
    answers: Vec<Outcome>,
}

impl Play {
    /// Every node that is up, the first of them leading; `None` if none is.
    pub fn start(cluster: &Cluster) -> Option<Play> {
        let up: Vec<NodeId> = cluster.nodes.keys().copied().filter(|n| cluster.is_up(*n)).collect();
        let mut play = Play {
            now: Mono(0),
            nodes: BTreeMap::new(),
            engines: BTreeMap::new(),
            leader: *up.first()?,
            happening: VecDeque::new(),
            log: cluster.revision.index,
            answers: Vec::new(),
        };
        for id in up {
            let config = NodeConfig {
                id,
                cluster: "play".to_owned(),
                founder: None,
                facts: cluster.nodes[&id].facts.clone(),
                timing: Timing::default(),
                book: Some(Default::default()),
            };
            play.nodes.insert(id, Node::new(config, id.0, play.time()));
            let here = cluster.allocs_on(id).filter(|(_, alloc)| alloc.is_live());
            let running = here.map(|(alloc, _)| (alloc.clone(), container(alloc)));
            play.engines.insert(id, running.collect());
            let leadership = match id == play.leader {
                true => Leadership::Leader { term: 1 },
                false => Leadership::Follower { leader: Some(play.leader), term: 1 },
            };
            let restored = Event::Restored { at: cluster.revision, bytes: cluster.encode() };
            let events = [restored, Event::CaughtUp, Event::Leadership(leadership)];
            play.happening.extend(events.map(|event| (id, event)));
        }
        Some(play)
    }

    pub fn cluster(&self) -> &Cluster {
        self.nodes[&self.leader].cluster()
    }

    /// Asks the leader to deploy.
    pub fn deploy(&mut self, project: &Project) -> Outcome {
        let request =
            Request::Deploy { project: Box::new(project.clone()), expect: None, keep_going: false };
        let origin = Origin::Client;
        self.happening
            .push_back((self.leader, Event::Request { id: RequestId(1), request, origin }));
        self.until("the request is answered", |play| !play.answers.is_empty());
        self.answers.remove(0)
    }

    /// Lets things happen, and time pass when nothing does.
    pub fn until(&mut self, what: &str, holds: impl Fn(&Play) -> bool) {
        let deadline = self.now + LONGEST;
        for _ in 0..STEPS_MAX {
            if holds(self) {
                return;
            }
            match self.happening.pop_front() {
                Some((node, event)) => self.handle(node, event),
                None => self.pass_time(),
            }
            assert!(self.now < deadline, "{what}: not within {LONGEST}");
        }
        panic!("{what}: not within {STEPS_MAX} events");
    }

    fn time(&self) -> Now {
        Now { mono: self.now, wall: Wall(self.now.0 / 1_000_000) }
    }

    fn pass_time(&mut self) {
        let wakes = self.nodes.iter().filter_map(|(id, node)| Some((node.poll_timeout()?.0, *id)));
        let (at, node) = wakes.min().expect("heartbeats never end");
        self.now = self.now.max(at);
        self.happening.push_back((node, Event::Wake));
    }

    fn handle(&mut self, id: NodeId, event: Event) {
        let now = self.time();
        self.nodes.get_mut(&id).unwrap().handle(now, event);
        while let Some(effect) = self.nodes.get_mut(&id).unwrap().poll_effect() {
            self.carry_out(id, effect);
        }
    }

    fn carry_out(&mut self, from: NodeId, effect: Effect) {
        match effect {
            Effect::Propose { entry } => {
                self.log += 1;
                let at = Revision { epoch: 0, index: self.log };
                let entry: std::sync::Arc<_> = (*entry).into();
                let committed = |id: &NodeId| (*id, Event::Committed { at, entry: entry.clone() });
                self.happening.extend(self.nodes.keys().map(committed));
            }
            Effect::ConfirmRead { id } => {
                self.happening.push_back((from, Event::ReadConfirmed { id, confirmed: true }));
            }
            Effect::Send { to, message } => {
                self.happening.push_back((to, Event::Message { from, message }));
            }
            Effect::Reply { outcome, .. } => self.answers.push(*outcome),
            Effect::Container { id, op } => {
                let result = Ok(self.perform(from, op));
                self.happening.push_back((from, Event::OpDone { id, result }));
            }
            Effect::Peers { .. } | Effect::Publish { .. } | Effect::Retire => {}
            // What a plan says does not hang on certificates and keys.
            Effect::Acme { .. } | Effect::Greet { .. } | Effect::RotateKey { .. } => {}
            Effect::Forward { .. } | Effect::ChangeMembers { .. } | Effect::TransferLead { .. } => {
                panic!("nobody asked for that")
            }
            Effect::Snapshot { .. } => panic!("nobody asked for a snapshot"),
        }
    }

    fn perform(&mut self, node: NodeId, op: ContainerOp) -> OpOutput {
        let engine = self.engines.get_mut(&node).unwrap();
        match op {
            ContainerOp::Resolve { reference } => {
                let digest = Digest::Registry(format!("sha256:of-{reference}"));
                OpOutput::Image(PinnedImage { reference, digest })
            }
            ContainerOp::Start { spec } => {
                let started = container(&spec.alloc);
                engine.insert(spec.alloc, started.clone());
                OpOutput::Container(started)
            }
            ContainerOp::Restart { alloc, .. } => OpOutput::Container(engine[&alloc].clone()),
            ContainerOp::Stop { .. } => OpOutput::Exited(None),
            ContainerOp::Remove { alloc } => {
                engine.remove(&alloc);
                OpOutput::Done
            }
            ContainerOp::List => OpOutput::Containers(engine.values().cloned().collect()),
            ContainerOp::Fetch { .. } | ContainerOp::Probe { .. } => OpOutput::Done,
            ContainerOp::PruneImages { .. } => OpOutput::Done,
            ContainerOp::Tail { .. } => OpOutput::Lines(Vec::new()),
            ContainerOp::CountInFlight { .. } => OpOutput::InFlight(0),
        }
    }
}

/// A deploy's number, and the plan that it was started with; `None` if there is nothing to do.
pub fn started(outcome: Outcome) -> Option<(u64, mill_core::plan::Plan)> {
    match outcome {
        Ok(Answer::Started { number, plan }) => Some((number, plan)),
        Ok(Answer::Unchanged) => None,
        other => panic!("{other:?}"),
    }
}

fn container(alloc: &AllocId) -> Observed {
    Observed {
        alloc: alloc.clone(),
        state: ContainerState::Running,
        started: 1,
        running_for: Millis(0),
        labels: BTreeMap::new(),
    }
}
