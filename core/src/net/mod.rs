//! What traffic needs to know: which services there are, at which address they are called, and
//! where requests may go.
//!
//! [`Tables`] are a pure view of the replicated state, equal on every node that has applied the
//! same entries. A node gives them out whenever they change ([`crate::Effect::Publish`]), and only
//! then says that it has applied what changed them: what left the tables is sent nothing new by
//! whoever said so. Names are looked up in `zone`. Tested below, and by the invariant `routed`.

mod certificates;
mod network;
mod routes;
mod zone;

use core::net::IpAddr;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::certificates::Shown;
pub(crate) use self::network::next_free;
pub use self::network::{NODE_ADDRESSES, Network, SERVICE_ADDRESSES};
pub use self::routes::RouteTable;
pub use self::zone::{Data, Kind, Lookup, TTL_SECONDS, ZONE};
use crate::acme::Challenge;
use crate::cluster::Cluster;
use crate::cluster::alloc::{Alloc, Desired, Phase};
use crate::cluster::deploy::Service;
use crate::mutant::{self, Mutant};
use crate::name::{AllocId, Name, NodeId};

/// What a node carries traffic by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tables {
    /// Addresses of the cluster's own.
    pub network: Network,
    /// Every service, by name.
    pub services: BTreeMap<Name, ServiceTable>,
    /// Every member whose address is one.
    pub nodes: BTreeMap<NodeId, NodeTable>,
    /// Where requests from outside come in, in the order of what they take.
    #[serde(default)]
    pub routes: Vec<RouteTable>,
    /// Networks of proxies that are believed who their clients are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<String>,
    /// Certificates that are shown.
    #[serde(default)]
    pub certificates: Vec<Shown>,
    /// What certificate authorities are answered.
    #[serde(default)]
    pub challenges: Vec<Challenge>,
}

/// How a service is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceTable {
    /// Which of the network's service addresses is its own.
    pub address: u16,
    /// By the port that callers use, the replicas that serve it; empty while none does. More than
    /// one port while a deploy changes it, none for a service without.
    pub ports: BTreeMap<u16, Vec<Replica>>,
}

/// A replica that requests may go to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Replica {
    /// The place that it fills.
    pub slot: u64,
    /// Which alloc.
    pub alloc: AllocId,
    /// Its node.
    pub node: NodeId,
    /// Where it listens.
    pub host: IpAddr,
    /// On which port.
    pub port: u16,
}

/// A node, as traffic sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeTable {
    /// What people call it.
    pub name: String,
    /// Where its containers are reached: in the mesh, once nodes speak through nothing else.
    pub host: IpAddr,
}

impl Tables {
    /// The tables that a state means.
    pub fn of(cluster: &Cluster) -> Tables {
        let nodes = cluster.nodes.iter().filter_map(|(id, record)| {
            let advertised = || record.facts.advertise.parse().ok();
            let inside = cluster.mesh_address(record).filter(|_| cluster.mesh_only);
            let host = inside.map(IpAddr::V4).or_else(advertised)?;
            Some((*id, NodeTable { name: record.name.clone(), host }))
        });
        let nodes: BTreeMap<NodeId, NodeTable> = nodes.collect();
        let services = cluster.services.iter().map(|(name, service)| {
            let ports = ports_of(cluster, &nodes, name, service);
            (name.clone(), ServiceTable { address: service.address, ports })
        });
        Tables {
            network: cluster.network,
            services: services.collect(),
            nodes,
            routes: cluster.routes(),
            trusted_proxies: cluster.settings.trusted_proxies.clone().unwrap_or_default(),
            certificates: cluster.shown(),
            challenges: cluster.challenges(),
        }
    }

    /// Whether it says of every request what others say: certificates, and what authorities are
    /// answered, lead nowhere.
    pub(crate) fn leads_as(&self, others: &Tables) -> bool {
        let Tables {
            network,
            services,
            nodes,
            routes,
            trusted_proxies,
            certificates: _,
            challenges: _,
        } = self;
        *network == others.network
            && *trusted_proxies == others.trusted_proxies
            && *services == others.services
            && *nodes == others.nodes
            && *routes == others.routes
    }

    /// Whether requests may go to an alloc.
    pub fn names(&self, alloc: &AllocId) -> bool {
        let replicas = |service: &ServiceTable| {
            let mut replicas = service.ports.values().flatten();
            replicas.any(|replica| replica.alloc == *alloc)
        };
        self.services.values().any(replicas)
    }
}

impl ServiceTable {
    /// Its replicas, whichever port they serve.
    pub fn replicas(&self) -> impl Iterator<Item = &Replica> {
        self.ports.values().flatten()
    }
}

impl Alloc {
    /// Whether requests may go to it.
    pub(crate) fn is_serving(&self, cluster: &Cluster) -> bool {
        let stays = self.desired == Desired::Run || mutant::is(Mutant::LeavesStayRouted);
        stays && self.status.phase == Phase::Healthy && cluster.is_up(self.node)
    }
}

fn ports_of(
    cluster: &Cluster,
    nodes: &BTreeMap<NodeId, NodeTable>,
    name: &Name,
    service: &Service,
) -> BTreeMap<u16, Vec<Replica>> {
    let mut ports: BTreeMap<u16, Vec<Replica>> = BTreeMap::new();
    let wanted = cluster.wanted_version(name).and_then(|version| version.spec.container.port);
    ports.extend(wanted.map(|port| (port, Vec::new())));
    for (id, alloc) in cluster.allocs_of(name).filter(|(_, alloc)| alloc.is_serving(cluster)) {
        let version = service.versions.get(&alloc.template);
        let called = version.and_then(|version| version.spec.container.port);
        let (Some(called), Some(port), Some(node)) = (called, alloc.port, nodes.get(&alloc.node))
        else {
            continue;
        };
        let (slot, host) = (alloc.slot.index, node.host);
        let replica = Replica { slot, alloc: id.clone(), node: alloc.node, host, port };
        ports.entry(called).or_default().push(replica);
    }
    ports.values_mut().for_each(|replicas| replicas.sort());
    ports
}
