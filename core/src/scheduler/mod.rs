//! Which node gets which slot: a pure function, the same input gives the same answer.
//!
//! A pipeline per request: what a node must have (`filter`), which of the rest is best (`rank`).
//! What it chose takes effect for the next request. It says nothing of when or whether a slot
//! should be filled; the rollout does. Tested in `core/tests/scheduler.rs`.

mod filter;
mod rank;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cluster::node::{Capacity, PortPool, Trust};
use crate::cluster::{Cluster, alloc::Alloc};
use crate::config::model::{ContainerSpec, PlaceSpec, ServiceSpec};
use crate::name::{Name, NodeId, Slot};
use crate::units::Millis;

/// A node as the scheduler sees it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Which node.
    pub id: NodeId,
    /// Its name, for reasons.
    pub name: String,
    /// Whether it is being emptied: nothing new goes there.
    pub draining: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// All it has.
    pub capacity: Capacity,
    /// Cpu set aside, in millicores.
    pub cpu_used: u64,
    /// Memory set aside, in bytes.
    pub memory_used: u64,
    /// Ports that are given out.
    pub ports: BTreeSet<u16>,
    /// Ports that no service gets but the one that had them.
    pub resting: BTreeMap<u16, Name>,
    /// Where the search for a free port of the pool begins.
    pub next_port: u16,
    /// Allocs that it holds, by service.
    pub services: BTreeMap<Name, u32>,
    /// Why it gets nothing new, while it came and went too often.
    pub watched: Option<Watched>,
}

/// A node that came and went too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Watched {
    /// How often it came back.
    pub returns: u32,
    /// In how long it is trusted again if it stays; only the leader knows.
    pub left: Option<Millis>,
}

/// A slot to be filled.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// The slot; of a run, its task and number.
    pub slot: Slot,
    /// What its service or task needs.
    pub needs: Needs<'a>,
    /// The node that it must be on, for services on each node.
    pub pinned: Option<NodeId>,
    /// Nodes where it failed lately: taken only if no other will do.
    pub avoid: BTreeSet<NodeId>,
    /// Where its last replica is or was: what goes there is nothing new to that node.
    pub home: Option<NodeId>,
}

/// What a service or a task needs of a node.
#[derive(Clone, Copy, Debug)]
pub struct Needs<'a> {
    /// What runs there.
    pub container: &'a ContainerSpec,
    /// Where that may and should be.
    pub place: &'a PlaceSpec,
}

impl<'a> Needs<'a> {
    /// Those of a service.
    pub fn of(spec: &'a ServiceSpec) -> Needs<'a> {
        Needs { container: &spec.container, place: &spec.place }
    }
}

/// What became of an ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes there.
    Placed {
        /// The node.
        node: NodeId,
        /// The port given or owned, if its service has one.
        port: Option<u16>,
    },
    /// No node will do: why each that is asked of will not.
    Unplaced(Vec<Rejected>),
}

/// Why a node will not do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rejected {
    /// The node's name.
    pub node: String,
    /// The first thing that it lacks.
    pub reason: Reason,
}

/// What a node lacks.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error,
)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It is silent.
    #[error("is down")]
    Down,
    /// It came and went too often to get anything new.
    #[error("{0}")]
    Watched(Watched),
    /// It is being emptied.
    #[error("is draining")]
    Draining,
    /// A required label is absent or different.
    #[error("has no label {label} = \"{wanted}\"")]
    Label {
        /// Its key.
        label: String,
        /// The value that is required.
        wanted: String,
    },
    /// Not enough cpu is left.
    #[error("has {free} of {capacity} cores free, {wanted} are needed")]
    Cpu {
        /// What is free.
        free: crate::units::Millicores,
        /// What it has in all.
        capacity: crate::units::Millicores,
        /// What is asked.
        wanted: crate::units::Millicores,
    },
    /// Not enough memory is left.
    #[error("has {free} of {capacity} memory free, {wanted} are needed")]
    Memory {
        /// What is free.
        free: crate::units::Bytes,
        /// What it has in all.
        capacity: crate::units::Bytes,
        /// What is asked.
        wanted: crate::units::Bytes,
    },
    /// The port is owned by another alloc.
    #[error("has given port {0} to another replica")]
    PortTaken(u16),
    /// Another service had the port, and a member may still send to it what is for that one.
    #[error(
        "cannot give port {port} yet: not every node knows that `{service}` gave it up; those that are \
         down have to come back, or be removed"
    )]
    PortRests {
        /// The port.
        port: u16,
        /// The service that had it.
        service: Name,
    },
    /// No port of the pool is left.
    #[error("has no port left between {} and {}", .0.first, .0.last)]
    PoolExhausted(PortPool),
}

/// Nodes in groups that lack the same, in the order of the first of each.
pub fn by_reason(rejected: &[Rejected]) -> Vec<(&Reason, Vec<&str>)> {
    let mut groups: Vec<(&Reason, Vec<&str>)> = Vec::new();
    for Rejected { node, reason } in rejected {
        match groups.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, nodes)) => nodes.push(node),
            None => groups.push((reason, vec![node])),
        }
    }
    groups
}

/// The nodes that are down, and so were not even asked, of those that a slot may go to.
pub fn down(cluster: &Cluster, pinned: Option<NodeId>) -> impl Iterator<Item = Rejected> {
    let down = cluster.nodes.iter().filter(|(_, record)| !record.is_up() && record.roles.secondary);
    let may = down.filter(move |(id, _)| pinned.is_none_or(|node| node == **id));
    may.map(|(_, record)| Rejected { node: record.name.clone(), reason: Reason::Down })
}

/// Decides each ask in order; earlier answers take effect for later ones.
pub fn place(nodes: &mut [Candidate], asks: &[Ask<'_>]) -> Vec<Verdict> {
    let mut verdicts = Vec::with_capacity(asks.len());
    let mut rest = asks;
    while let Some(first) = rest.first() {
        // Slots of one service share its static needs: they are checked once per run of them.
        let same = rest.iter().take_while(|ask| ask.slot.service == first.slot.service);
        let (run, after) = rest.split_at(same.count());
        place_service(nodes, run, &mut verdicts);
        rest = after;
    }
    verdicts
}

fn place_service(nodes: &mut [Candidate], asks: &[Ask<'_>], verdicts: &mut Vec<Verdict>) {
    let Some(first) = asks.first() else { return };
    let suitable: Vec<usize> =
        (0..nodes.len()).filter(|i| filter::suits(&nodes[*i], first.needs).is_ok()).collect();
    let mut ranking = rank::Ranking::new(nodes, &suitable, &first.slot.service, first.needs);
    for ask in asks {
        let chosen = ranking.best(nodes, ask);
        let Some(chosen) = chosen else {
            verdicts.push(Verdict::Unplaced(filter::rejections(nodes, ask)));
            continue;
        };
        let port = filter::port(&nodes[chosen], &ask.slot.service, ask.needs);
        let port = port.expect("the filter has passed");
        nodes[chosen].take(&ask.slot.service, ask.needs, port);
        ranking.took(nodes, chosen);
        verdicts.push(Verdict::Placed { node: nodes[chosen].id, port });
    }
}

/// Every node that is up and runs containers, with what its live allocs leave free.
pub fn candidates(cluster: &Cluster) -> Vec<Candidate> {
    let up = cluster.nodes.iter().filter(|(_, record)| record.is_up() && record.roles.secondary);
    up.map(|(id, record)| {
        let mut candidate = Candidate {
            id: *id,
            name: record.name.clone(),
            draining: record.draining,
            labels: record.labels.clone(),
            capacity: record.facts.capacity,
            cpu_used: 0,
            memory_used: 0,
            ports: BTreeSet::new(),
            resting: cluster
                .resting_on(*id)
                .map(|(port, resting)| (port, resting.service.clone()))
                .collect(),
            next_port: record.next_port,
            services: BTreeMap::new(),
            watched: match record.trust {
                Trust::Full => None,
                Trust::Watched => Some(Watched { returns: record.returns, left: None }),
            },
        };
        let live = cluster.allocs_on(*id).filter(|(_, alloc)| alloc.is_live());
        live.for_each(|(_, alloc)| candidate.hold(alloc));
        candidate
    })
    .collect()
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "came back {} times lately and gets nothing new", self.returns)?;
        match self.left {
            Some(left) => write!(f, "; trusted again in {}", Millis::secs(left.0.div_ceil(1000))),
            None => write!(f, " until it stayed up for a while"),
        }
    }
}

impl Candidate {
    fn hold(&mut self, alloc: &Alloc) {
        self.cpu_used += alloc.cpu.0;
        self.memory_used += alloc.memory.0;
        self.ports.extend(alloc.port);
        *self.services.entry(alloc.slot.service.clone()).or_default() += 1;
    }

    /// Gives back what an alloc holds: what a plan assumes of one that will have stopped.
    pub fn release(&mut self, alloc: &Alloc) {
        self.cpu_used = self.cpu_used.saturating_sub(alloc.cpu.0);
        self.memory_used = self.memory_used.saturating_sub(alloc.memory.0);
        if let Some(port) = alloc.port {
            self.ports.remove(&port);
        }
        if let Some(count) = self.services.get_mut(&alloc.slot.service) {
            *count = count.saturating_sub(1);
        }
    }

    fn take(&mut self, service: &Name, needs: Needs<'_>, port: Option<u16>) {
        self.cpu_used += needs.container.reserved_cpu().0;
        self.memory_used += needs.container.reserved_memory().0;
        if let Some(port) = port {
            self.ports.insert(port);
            if !needs.container.fixed_port {
                self.next_port = if port >= self.capacity.ports.last {
                    self.capacity.ports.first
                } else {
                    port + 1
                };
            }
        }
        match self.services.get_mut(service) {
            Some(count) => *count += 1,
            None => {
                self.services.insert(service.clone(), 1);
            }
        }
    }
}
