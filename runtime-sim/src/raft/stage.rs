//! The hosts of a run of lists, and what its driver can do to them: start, crash, tell, look.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mill_core::rng::Rng;
use tokio::sync::mpsc;

use super::client::{Client, History};
use super::engine::{Engine, World};
use super::host::{ListHost, Told};
use super::machine::Machine;
use super::params::RaftParams;
use super::record::Record;
use super::runtime::{HostContext, OnHost};
use crate::time::SimTime;

/// How far the world's time moves at once.
const TICK: Duration = Duration::from_millis(1);
/// Clients' ids begin here.
const CLIENTS: u64 = 100;

/// Ways to tell the nodes something, by node; each start has its own.
type Ways = Arc<Mutex<BTreeMap<u64, mpsc::UnboundedSender<Told>>>>;

/// A simulated network with its hosts.
pub(super) struct Stage {
    pub(super) world: World,
    pub(super) params: RaftParams,
    pub(super) machines: BTreeMap<u64, ListHost>,
    pub(super) record: Record,
    pub(super) history: History,
    /// Who shall vote, and who shall learn.
    pub(super) wanted: (BTreeSet<u64>, BTreeSet<u64>),
    /// Set when clients shall end.
    pub(super) clients_are_over: Arc<AtomicBool>,
    ways: Ways,
}

impl Stage {
    pub(super) fn new(params: RaftParams, record: Record) -> Self {
        let rng = Rng::new(params.seed).child("raft");
        let world = World::new(rng.child("network").draw(), params.latency, TICK);
        let wanted = ((1..=params.voters).collect(), BTreeSet::new());
        let mut stage = Stage {
            world,
            machines: BTreeMap::new(),
            record,
            history: History::default(),
            wanted,
            clients_are_over: Arc::default(),
            ways: Ways::default(),
            params,
        };
        for id in 1..=stage.params.voters + 1 {
            stage.add_node(id, &rng);
        }
        for id in CLIENTS..CLIENTS + stage.params.clients {
            stage.add_client(id, &rng);
        }
        stage
    }

    fn add_node(&mut self, id: u64, rng: &Rng) {
        let host = ListHost::new(Machine::new(id, &self.params, self.record.clone()));
        self.machines.insert(id, host.clone());
        let rng = rng.child(&format!("node {id}"));
        let (params, ways) = (self.params.clone(), self.ways.clone());
        let starts = Mutex::new(0_u64);
        self.world.host(id, move || {
            let start = {
                let mut starts = starts.lock().expect("it only counts");
                *starts += 1;
                *starts
            };
            let mut rng = rng.child(&format!("start {start}"));
            let context = HostContext::drawn(&params, &mut rng, host.machine.record.clone());
            let (way, told) = mpsc::unbounded_channel();
            ways.lock().expect("it only holds channels").insert(id, way);
            let (record, runs) = (host.machine.record.clone(), host.clone().run(told));
            OnHost::new(Arc::new(context), until_it_ends(record, runs))
        });
    }

    fn add_client(&mut self, id: u64, rng: &Rng) {
        let rng = rng.child(&format!("client {id}"));
        let (record, history) = (self.record.clone(), self.history.clone());
        let (params, is_over) = (self.params.clone(), self.clients_are_over.clone());
        self.world.host(id, move || {
            let context = HostContext {
                offset: 0,
                drift: 0,
                disk: (0, 0),
                loss: params.loss,
                conditions: Arc::default(),
                rng: Mutex::new(rng.child("draws")),
                record: record.clone(),
            };
            let client = Client {
                id,
                nodes: params.voters + 1,
                pause: params.pause,
                padding: params.padding,
                rng: rng.child("requests"),
                record: record.clone(),
                history: history.clone(),
                is_over: is_over.clone(),
            };
            OnHost::new(Arc::new(context), until_it_ends(record.clone(), client.run()))
        });
    }

    /// One tick of the world; false when it cannot go on.
    pub(super) fn tick(&mut self) -> bool {
        if let Err(error) = self.world.tick() {
            self.record.violate("host", error);
        }
        self.record.violation().is_none()
    }

    pub(super) fn now(&self) -> SimTime {
        SimTime(u64::try_from(self.world.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    pub(super) fn line(&self, text: &str) {
        self.record.line(self.now(), text);
    }

    pub(super) fn want(&mut self, voters: BTreeSet<u64>, learners: BTreeSet<u64>) {
        self.line(&format!("wanted: {voters:?} vote and {learners:?} learn"));
        self.wanted = (voters, learners);
    }

    /// The node that leads with the newest term, as far as nodes say.
    pub(super) fn leader(&self) -> Option<u64> {
        let leads = self.machines.iter().filter_map(|(id, machine)| {
            let term = machine.shown().leads?;
            Some((term, *id))
        });
        leads.max().map(|(_, id)| id)
    }

    pub(super) fn tell(&self, node: u64, told: Told) {
        let ways = self.ways.lock().expect("it only holds channels");
        // A node that is down hears nothing.
        let _ = ways.get(&node).map(|way| way.send(told));
    }

    pub(super) fn crash(&mut self, node: u64) {
        self.line(&format!("node {node} is down"));
        self.world.crash(node);
        self.record.is_down(node, true);
        self.machines[&node].shown().leads = None;
    }

    /// Starts a node that is down, with what a power cut left of its disk.
    pub(super) fn restart(&mut self, node: u64, seed: u64) {
        self.machines[&node].machine.disk.restart(seed);
        self.record.is_down(node, false);
        self.world.restart(node);
    }
}

/// Hosts end by crashing; one that gives up is a bug.
pub(super) async fn until_it_ends(record: Record, runs: impl Future<Output = io::Result<()>>) {
    if let Err(error) = runs.await {
        record.violate("host", error.to_string());
    }
}
