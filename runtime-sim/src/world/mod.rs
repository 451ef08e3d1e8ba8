//! The simulated world: one queue, and what each happening does.
//!
//! [`World::step`] takes the earliest happening and hands it to the part that knows it: `nodes`
//! (events in, effects out), `ground` (what is under them: `consensus` or `bridge`), `engines`,
//! `faults`, `forwarding`, `joining`, `people`. Everything random comes from generators named after
//! what they are for, so that a change in one part leaves the draws of the others alone.

mod bridge;
mod certificates;
mod consensus;
mod describe;
mod engines;
pub mod faults;
mod forwarding;
mod gray;
pub(crate) mod ground;
pub mod host;
mod joining;
mod mesh;
mod nodes;
pub mod people;
mod queue;

use std::collections::BTreeMap;

use mill_core::acme::AcmeOp;
use mill_core::api::{Request, RequestId};
use mill_core::cluster::Cluster;
use mill_core::container::{ContainerOp, Exit};
use mill_core::effect::{Book, OpId};
use mill_core::message::Message;
use mill_core::name::{AllocId, NodeId};
use mill_core::node::Members;
use mill_core::rng::Rng;
use mill_core::units::Millis;
use mill_core::{Event, Node};

use self::bridge::Bridge;
pub(crate) use self::bridge::{Order, Said};
use self::faults::{Fault, Faults};
use self::ground::Ground;
use self::host::Host;
use self::people::People;
use self::queue::Queue;
use crate::invariants::{Invariants, Moment, Violation};
use crate::models::authority::Authority;
use crate::models::log::Log;
use crate::models::network::Network;
use crate::models::registry::Registry;
use crate::params::Params;
use crate::stats::Stats;
use crate::time::SimTime;
use crate::trace::{Line, Trace};

/// Something that will happen.
#[derive(Clone, Debug)]
enum Happening {
    /// A node asked to be called back.
    Wake { node: NodeId },
    /// Something reaches a node, if it is still in that boot.
    Tell { node: NodeId, boot: u64, event: Event },
    /// A message arrives.
    Arrive { from: NodeId, to: NodeId, message: Message },
    /// An engine carries out an operation that was asked for in that boot.
    Operate { node: NodeId, id: OpId, op: ContainerOp },
    /// A certificate authority is asked something in that boot.
    Certify { node: NodeId, id: OpId, op: AcmeOp },
    /// A process ends, if it is still that one.
    Ends { node: NodeId, alloc: AllocId, started: u64, exit: Exit },
    /// A leader's entries may have reached a quorum.
    Commit,
    /// Committed entries reach a node.
    Feed { node: NodeId, boot: u64 },
    /// A quorum confirms that a node leads, or does not.
    Confirm { node: NodeId, boot: u64, request: RequestId },
    /// A leader's wish for other members reaches a quorum, if it still leads that term.
    Change { leader: NodeId, term: u64, members: Members },
    /// A node is asked to lead by the leader of that term.
    Transfer { to: NodeId, term: u64 },
    /// A request reaches the node that another takes for the leader.
    PassedOn { asker: Forwarder, to: NodeId, request: Request },
    /// A node has waited long enough for another's answer.
    NoAnswer { asker: Forwarder },
    /// A daemon that was told that it is to stop is gone.
    Stop { node: NodeId, boot: u64 },
    /// A machine that is gone for good is still a member, or not any more.
    Retire { node: NodeId },
    /// A machine tries to join.
    Join { machine: u64 },
    /// Nodes look whom they have met.
    Meet,
    /// A greeting from outside the mesh arrives.
    Greet { from: NodeId, to: NodeId, book: Book },
    /// A machine gets a program that knows the mesh; all do, one after the other.
    Upgrade { node: Option<NodeId> },
    /// A node that won may lead.
    Leads { node: NodeId, boot: u64, term: u64 },
    /// A node hears who leads.
    HearOfLeader { node: NodeId, boot: u64 },
    /// Leaders, votes and what takes too long are looked at.
    Tick,
    /// A daemon is started.
    Boot { node: NodeId },
    /// The next fault.
    NextFault,
    /// A fault begins.
    Begin { fault: Fault, length: Millis },
    /// A fault ends.
    Heal { fault: Fault },
    /// A person does something.
    Act { person: usize },
}

/// Who waits for an answer of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    /// A person.
    Person(usize),
    /// A machine that wants to join.
    Machine(u64),
    /// Somebody who drains and removes nodes, and looks what became of it.
    Operator,
    /// A node that passed a request on.
    Node(Forwarder),
}

/// A request of a node that another was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Forwarder {
    node: NodeId,
    boot: u64,
    id: RequestId,
}

/// A cluster of machines, everything around them, and what must hold.
pub struct World {
    params: Params,
    now: SimTime,
    queue: Queue<Happening>,
    hosts: BTreeMap<NodeId, Host>,
    /// What is known to be committed, and who leads.
    log: Log,
    /// What is under the nodes: what decides what comes into the log.
    ground: Ground,
    network: Network,
    registry: Registry,
    authority: Authority,
    faults: Faults,
    people: People,
    joining: joining::Joining,
    /// Requests that were passed on and are not answered.
    forwards: std::collections::BTreeSet<Forwarder>,
    invariants: Invariants,
    violation: Option<Violation>,
    /// Since when nothing passes between nodes outside the mesh, while that is so.
    outside_closed: Option<SimTime>,
    trace: Trace,
    stats: Stats,
    /// Whether images that end by themselves do so no more.
    mended: bool,
    /// Entries committed about certificates alone: those are renewed, and tried again, for ever.
    of_certificates: u64,
    /// Container operations asked for, but for probes and looks.
    operations: u64,
    draw: Draws,
}

/// Generators, by what they decide.
struct Draws {
    engine: Rng,
    consensus: Rng,
    clocks: Rng,
    authority: Rng,
}

/// Between two looks at leaders and at what takes too long.
const TICK: Millis = Millis(100);

impl World {
    /// A world in which every machine has just been switched on: the first begins a cluster, the
    /// others join it.
    pub fn new(params: Params) -> World {
        World::traced(params, None)
    }

    /// The same; every line of the trace goes to `listener`.
    pub fn traced(params: Params, listener: Option<Line>) -> World {
        World::on(Ground::Modelled(consensus::Elections::default()), params, listener)
    }

    /// The same on real consensus, which whoever drives it runs: see `bridge.rs`.
    pub(crate) fn on_real_consensus(params: Params, listener: Option<Line>) -> World {
        let root = Rng::new(params.seed);
        let mut world = World::on(Ground::Real(Bridge::default()), params, listener);
        world.people.hurry(&root);
        world
    }

    fn on(ground: Ground, params: Params, listener: Option<Line>) -> World {
        let root = Rng::new(params.seed);
        let first = NodeId(1);
        let mut clocks = root.child("clocks");
        let hosts = BTreeMap::from([(first, Host::new(first, 1, &params, &mut clocks))]);
        let mut world = World {
            now: SimTime::default(),
            queue: Queue::default(),
            hosts,
            log: Log::new(first),
            ground,
            network: Network::new(params.latency, params.loss, root.child("network")),
            registry: Registry::default(),
            authority: Authority::new(params.certificate_life),
            faults: Faults::new(root.child("faults")),
            people: People::new(&params, &root),
            joining: joining::Joining::new(params.nodes, root.child("joining")),
            forwards: Default::default(),
            invariants: Invariants::default(),
            violation: None,
            outside_closed: None,
            trace: Trace::new(listener),
            stats: Stats::default(),
            mended: false,
            of_certificates: 0,
            operations: 0,
            draw: Draws {
                engine: root.child("engine"),
                consensus: root.child("consensus"),
                authority: root.child("authority"),
                clocks,
            },
            params,
        };
        let after = Millis(world.draw.engine.below(1_000));
        world.after(after, Happening::Boot { node: first });
        world.begin_joining();
        world.after(TICK, Happening::Tick);
        world.watch_mesh();
        world.begin_upgrades();
        world
    }

    /// What time it is.
    pub fn now(&self) -> SimTime {
        self.now
    }

    /// The parameters it was made from.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The state after everything that is committed.
    pub fn cluster(&self) -> &Cluster {
        &self.log.reference
    }

    /// The node that can commit, while one can.
    pub fn leader(&self) -> Option<NodeId> {
        self.log.leader
    }

    /// The nodes that vote.
    pub fn voters(&self) -> &std::collections::BTreeSet<NodeId> {
        self.log.voters()
    }

    /// A machine.
    ///
    /// # Panics
    /// If the world has no such machine.
    pub fn host(&self, node: NodeId) -> &Host {
        self.hosts.get(&node).expect("the world has this machine")
    }

    /// The links between machines.
    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    /// Every machine.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }

    /// The registry, to publish images in.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// Index of the last committed entry.
    pub(crate) fn log_end(&self) -> u64 {
        self.log.end()
    }

    /// Entries committed, but for those about certificates, and operations asked for but for probes
    /// and listings: what a quiet cluster adds nothing to.
    pub fn activity(&self) -> (u64, u64) {
        (self.log.end().saturating_sub(self.of_certificates), self.operations)
    }

    /// Bad images are good from now on: some are what a service is to run, since they were
    /// healthy for as long as its config asks.
    pub fn mend_images(&mut self) {
        self.mended = true;
    }

    /// What was violated first, if anything was.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// Something outside of this world did not hold.
    pub(crate) fn violate(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    /// What the run reached so far.
    pub fn stats(&self) -> Stats {
        Stats { seconds: self.now.0 / 1_000_000_000, ..self.stats.clone() }
    }

    /// Equal for equal runs, and for nothing else.
    pub fn hash(&self) -> u64 {
        self.trace.hash()
    }

    /// The last transitions, one line each.
    pub fn recent(&self) -> Vec<String> {
        self.trace.recent()
    }

    /// Lets time pass.
    pub fn run_for(&mut self, length: Millis) {
        self.run_until(self.now + length);
    }

    /// Lets time pass, until `end` or the first violation.
    pub fn run_until(&mut self, end: SimTime) {
        while self.violation.is_none() && self.queue.next_at().is_some_and(|at| at <= end) {
            self.step();
        }
        self.now = self.now.max(end);
    }

    /// Lets the next thing happen.
    pub fn step(&mut self) {
        let Some((at, happening)) = self.queue.pop() else { return };
        self.now = at;
        match happening {
            Happening::Wake { node } => self.wake(node),
            Happening::Tell { node, boot, event } => self.tell(node, boot, event),
            Happening::Arrive { from, to, message } => self.arrive(from, to, message),
            Happening::Operate { node, id, op } => self.operate(node, id, op),
            Happening::Certify { node, id, op } => self.certify(node, id, &op),
            Happening::Ends { node, alloc, started, exit } => {
                self.process_ends(node, &alloc, started, exit);
            }
            Happening::Commit => self.commit(),
            Happening::Feed { node, boot } => self.feed(node, boot),
            Happening::Confirm { node, boot, request } => self.confirm(node, boot, request),
            Happening::Change { leader, term, members } => self.change(leader, term, members),
            Happening::Transfer { to, term } => self.transfer(to, term),
            Happening::PassedOn { asker, to, request } => self.passed_on(asker, to, request),
            Happening::NoAnswer { asker } => self.no_answer(asker),
            Happening::Stop { node, boot } => {
                let asked = self.faults.active.contains(&Fault::Stop(node));
                if asked && self.host(node).boots == boot {
                    self.kill_daemon(node);
                }
            }
            Happening::Retire { node } => self.retire(node),
            Happening::Join { machine } => self.join(machine),
            Happening::Leads { node, boot, term } => self.begins_to_lead(node, boot, term),
            Happening::HearOfLeader { node, boot } => self.hear_of_leader(node, boot),
            Happening::Meet => self.watch_mesh(),
            Happening::Greet { from, to, book } => self.is_greeted(from, to, book),
            Happening::Upgrade { node } => self.upgrade(node),
            Happening::Tick => self.tick(),
            Happening::Boot { node } => self.boot(node),
            Happening::NextFault => self.next_fault(),
            Happening::Begin { fault, length } => self.inject(fault, length),
            Happening::Heal { fault } => self.heal(&fault),
            Happening::Act { person } => self.act(person),
        }
    }

    fn tick(&mut self) {
        self.after(TICK, Happening::Tick);
        self.watch_log();
        for host in self.hosts.values() {
            let observed = self.invariants.observe(&Moment::Host { now: self.now, host });
            record(&mut self.violation, self.now, observed);
        }
    }

    fn after(&mut self, length: Millis, happening: Happening) {
        self.queue.push(self.now + length, happening);
    }

    fn host_mut(&mut self, node: NodeId) -> &mut Host {
        self.hosts.get_mut(&node).expect("happenings speak of machines that there are")
    }

    /// Checks what must hold.
    fn observe(&mut self, moment: &Moment<'_>) {
        let observed = self.invariants.observe(moment);
        record(&mut self.violation, self.now, observed);
    }
}

fn record(
    first: &mut Option<Violation>,
    at: SimTime,
    observed: Result<(), (&'static str, String)>,
) {
    if let (Err((invariant, detail)), None) = (observed, &first) {
        *first = Some(Violation { at, invariant, detail });
    }
}

/// A node's daemon, if it runs and is in that boot.
fn daemon(host: &mut Host, boot: u64) -> Option<&mut Node> {
    (host.boots == boot).then_some(host.daemon.as_mut()).flatten()
}
