//! A run of nodes: those of the other simulator, with its people, engines and faults, on real
//! consensus.
//!
//! [`World`] has all but the log. Between two ticks of the engine it is brought to the engine's
//! time, is told what the hosts' consensus said, in the order of their numbers, and its orders go
//! to the hosts: so a seed is a run. What is cut in its network is cut in the engine's, and a
//! daemon that dies takes its host's power with it. Invariants and liveness are the world's own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mill_core::name::NodeId;
use mill_core::rng::Rng;
use mill_core::units::Millis;
use xxhash_rust::xxh3::xxh3_64;

use super::Subject;
use super::engine::{self, Engine as _};
use super::machine::Machine;
use super::params::RaftParams;
use super::pump::{Pump, Seat};
use super::record::Record;
use super::report::RaftReport;
use super::runtime::{Conditions, HostContext, OnHost};
use super::stage::until_it_ends;
use crate::invariants::Violation;
use crate::run::{Driven, drive_whole};
use crate::time::SimTime;
use crate::trace::Line;
use crate::world::faults::Fault;
use crate::world::{Order, World};

/// How far time moves at once: what passes between a node and its consensus takes so long at most.
/// Most ticks are idle, and cost as much as others.
const TICK: Duration = Duration::from_millis(3);
/// A host that loses its power works on for so long at most, while its disk fails.
const DYING: Millis = Millis(40);

/// How long nothing may happen at the end: longer than a silent node is believed to be up.
const QUIET: Millis = Millis::secs(10);

/// What a run must reach to count, and how often.
const REACHED: [(&str, u64); 4] = [
    ("entries committed", 20),
    ("changes acknowledged", 2),
    ("leaders", 2),
    ("snapshots installed", 1),
];

/// How long what every run has lasts: a leader without power, and one that is cut off.
const SCRIPTED: (Millis, Millis) = (Millis::secs(3), Millis::secs(9));

/// Runs a cluster of nodes from its beginning to its end.
pub(super) fn run(params: RaftParams, keeps_all: bool) -> RaftReport {
    let record = Record::new(keeps_all);
    let mut nodes = Nodes::new(&params, &record, keeps_all);
    let violation = drive_whole(&mut nodes);
    let (mut stats, hash, mut lines, all) = record.conclude(nodes.now());
    stats.add(&crate::Stats { seconds: 0, ..nodes.world.stats() });
    let reached = |what: &str| stats.counts.get(what).copied().unwrap_or(0);
    let too_few = REACHED.into_iter().find(|(what, least)| reached(what) < *least);
    let violation = violation.or_else(|| {
        let (what, least) = too_few?;
        let count = reached(what);
        let detail = format!("{what}: {count}, which proves nothing; {least} are needed");
        Some(Violation { at: nodes.now(), invariant: "reached", detail })
    });
    lines.extend(nodes.world.recent());
    // Each line begins with its time.
    lines.sort();
    let lines = match (&violation, keeps_all) {
        (_, true) => all,
        (Some(_), false) => lines,
        (None, false) => Vec::new(),
    };
    let hash = xxh3_64(&[hash.to_le_bytes(), nodes.world.hash().to_le_bytes()].concat());
    RaftReport::new(params, Subject::Nodes, violation, stats, hash, lines)
}

/// The world of nodes and the engine under it.
struct Nodes {
    engine: engine::World,
    world: World,
    params: RaftParams,
    record: Record,
    hosts: BTreeMap<u64, Host>,
    /// Hosts that lose their power, and when they are gone.
    dying: Vec<(SimTime, u64)>,
    cut: BTreeSet<(u64, u64)>,
    /// How much of what every run has has happened.
    scripted: u64,
    rng: Rng,
}

/// What outlives the starts of a host.
struct Host {
    machine: Machine,
    seat: Seat,
    conditions: Arc<Conditions>,
}

impl Nodes {
    fn new(params: &RaftParams, record: &Record, keeps_all: bool) -> Nodes {
        let rng = Rng::new(params.seed).child("nodes on raft");
        let noted = record.clone();
        let listener = keeps_all.then(|| -> Line { Box::new(move |line| noted.note(line)) });
        Nodes {
            engine: engine::World::new(rng.child("network").draw(), params.latency, TICK),
            world: World::on_real_consensus(params.of_nodes(), listener),
            params: params.sooner(),
            record: record.clone(),
            hosts: BTreeMap::new(),
            dying: Vec::new(),
            cut: BTreeSet::new(),
            scripted: 0,
            rng,
        }
    }

    fn now(&self) -> SimTime {
        SimTime(u64::try_from(self.engine.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn tick(&mut self) {
        self.world.run_until(self.now());
        for (id, host) in &self.hosts {
            for (boot, said) in host.seat.take_said() {
                self.world.log_says(NodeId(*id), boot, said);
            }
        }
        self.script();
        self.add_hosts();
        for order in self.world.take_orders() {
            self.carry_out(order);
        }
        self.end_the_dying();
        self.cut_links();
        self.worsen();
        if let Err(error) = self.engine.tick() {
            self.record.violate("host", error);
        }
        if let Some(violation) = self.record.violation() {
            self.world.violate(violation);
        }
    }

    /// What every run has, so that each has a new leader and a node that needs a snapshot: a leader
    /// without power, a machine that joins late, and a leader that is cut off.
    fn script(&mut self) {
        let turmoil = self.world.params().turmoil;
        let due = SimTime::default() + Millis(turmoil.0 * (self.scripted + 1) / 4);
        if self.now() < due || !self.world.in_turmoil() {
            return;
        }
        match (self.scripted, self.world.leader()) {
            (0, Some(leader)) => self.world.inject(Fault::PowerOff(leader), SCRIPTED.0),
            (1, _) => self.world.buy_machine(),
            (2, Some(leader)) => {
                let links = self.world.links_of(leader);
                self.world.inject(Fault::Blocked(links), SCRIPTED.1);
            }
            (_, _) => return,
        }
        self.scripted += 1;
    }

    /// Whoever was admitted has a host, before anybody calls it.
    fn add_hosts(&mut self) {
        let admitted = self.world.cluster().nodes.keys().map(|node| node.0);
        let new = admitted.chain([1]).filter(|id| !self.hosts.contains_key(id));
        for id in new.collect::<BTreeSet<_>>() {
            self.add_host(id);
        }
    }

    fn add_host(&mut self, id: u64) {
        let machine = Machine::new(id, &self.params, self.record.clone());
        let seat = Seat::default();
        let conditions = Arc::<Conditions>::default();
        let host =
            Host { machine: machine.clone(), seat: seat.clone(), conditions: conditions.clone() };
        self.hosts.insert(id, host);
        let (params, rng) = (self.params.clone(), self.rng.child(&format!("node {id}")));
        self.engine.host(id, move || {
            let (boot, drift, asks) = seat.begins();
            let mut rng = rng.child(&format!("start {boot}"));
            let record = machine.record.clone();
            let context = HostContext {
                drift,
                conditions: conditions.clone(),
                ..HostContext::drawn(&params, &mut rng, record.clone())
            };
            let (machine, seat) = (machine.clone(), seat.clone());
            let pump = Pump { machine, seat, boot, founds: id == 1 };
            OnHost::new(Arc::new(context), until_it_ends(record, pump.run(asks)))
        });
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Start(node) => self.start(node.0),
            Order::Stop(node) => {
                self.hosts[&node.0].machine.loses_power(&mut self.rng);
                let left = Millis(self.rng.below(DYING.0));
                self.dying.push((self.now() + left, node.0));
            }
            Order::Ask(node, boot, ask) => self.hosts[&node.0].seat.ask(boot, ask),
        }
    }

    /// A host starts, with what a power cut left of its disk.
    fn start(&mut self, node: u64) {
        if let Some(place) = self.dying.iter().position(|(_, dying)| *dying == node) {
            self.dying.remove(place);
            self.crash(node);
        }
        let host = &self.hosts[&node];
        host.machine.disk.restart(self.rng.draw());
        // The pace of its clock at its start; of a later one, only the node knows.
        host.seat.has_clock(self.world.host(NodeId(node)).clock.drift());
        self.record.is_down(node, false);
        self.engine.restart(node);
    }

    fn crash(&mut self, node: u64) {
        self.record.line(self.now(), &format!("node {node} is down"));
        self.engine.crash(node);
        self.record.is_down(node, true);
    }

    fn end_the_dying(&mut self) {
        let now = self.now();
        let (due, later) = self.dying.iter().partition(|(at, _)| *at <= now);
        self.dying = later;
        let due: Vec<(SimTime, u64)> = due;
        due.into_iter().for_each(|(_, node)| self.crash(node));
    }

    /// What is bad about the world's network and machines is so for their hosts.
    fn worsen(&self) {
        let extra_loss = self.world.network().extra_loss();
        for host in self.world.hosts() {
            self.hosts[&host.id.0].conditions.set(extra_loss, host.slow_disk);
        }
    }

    /// What is cut in the world's network is cut in the engine's, and nothing else.
    fn cut_links(&mut self) {
        let blocked = self.world.network().blocked().iter().map(|(from, to)| (from.0, to.0));
        let there = |node: &u64| self.hosts.contains_key(node);
        let wanted: BTreeSet<(u64, u64)> =
            blocked.filter(|(from, to)| there(from) && there(to)).collect();
        if wanted == self.cut {
            return;
        }
        // The engine repairs both ways at once.
        self.cut.iter().for_each(|(from, to)| self.engine.repair(*from, *to));
        wanted.iter().for_each(|(from, to)| self.engine.cut(*from, *to));
        self.record.cut(self.now(), &wanted);
        self.cut = wanted;
    }
}

impl Driven for Nodes {
    fn world(&mut self) -> &mut World {
        &mut self.world
    }

    fn quiet(&self) -> Millis {
        QUIET
    }

    fn run_until(&mut self, end: SimTime) {
        while self.now() < end && self.world.violation().is_none() {
            self.tick();
        }
    }
}
