//! Names and service addresses of this node, from the tables that its node gives out.
//!
//! What is given out is in force at once (`mill_traffic`); that there is a name server at all takes
//! a moment after the start, which containers wait for, since they ask it for as long as they live.
//! Without the right to make one, everything else works. Also which addresses a new cluster takes.

mod report;

use std::fs;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

pub use self::report::{NamesReport, Serving};
use mill_core::name::NodeId;
use mill_core::net::{Network, ServiceTable, Tables, ZONE};
use mill_traffic::{Asked, Counted, NamespaceError, StartError, Traffic, can_make, interface};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// The kernel takes a moment to remove what a daemon that was killed leaves.
const LEFT_BEHIND: u32 = 40;
/// Between two tries.
const RETRY: Duration = Duration::from_millis(500);
/// A container does not wait longer for the name server.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Networks that are tried are 10.FIRST to 10.LAST: seldom another's.
const FIRST: u8 = 129;
const LAST: u8 = 250;

/// Where containers ask for names, once that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resolver {
    Starting,
    /// Here, of this node.
    At(IpAddr),
    /// Nowhere: each container is told what there is.
    Told,
    /// Of the host, since this node has none.
    Hosts,
}

/// How a container is to know names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// From this name server.
    Asked(IpAddr),
    /// These; all others as the host does.
    Told(Vec<(String, IpAddr)>),
    /// As the host does.
    Hosts,
}

/// What containers are to be told of names. Clones know the same.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    resolver: watch::Receiver<Resolver>,
    tables: watch::Receiver<Arc<Tables>>,
}

impl Names {
    /// Of an engine without a node.
    pub(crate) fn of_the_host() -> Names {
        Names {
            resolver: watch::channel(Resolver::Hosts).1,
            tables: watch::channel(Arc::default()).1,
        }
    }

    /// How a container that is made now is to know names.
    pub(crate) async fn known(&self) -> Known {
        let mut resolver = self.resolver.clone();
        let known =
            timeout(READY_WITHIN, resolver.wait_for(|now| *now != Resolver::Starting)).await;
        let Ok(Ok(known)) = known else { return Known::Hosts };
        match *known {
            Resolver::At(address) => Known::Asked(address),
            Resolver::Told => Known::Told(services(&self.tables.borrow())),
            Resolver::Starting | Resolver::Hosts => Known::Hosts,
        }
    }
}

/// The names of all services, with their addresses.
fn services(tables: &Tables) -> Vec<(String, IpAddr)> {
    let named = |(name, service): (&mill_core::name::Name, &ServiceTable)| {
        let address = IpAddr::V4(tables.network.of_service(service.address));
        (format!("{name}.{ZONE}"), address)
    };
    tables.services.iter().map(named).collect()
}

/// What is carried, for whoever looks. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Carried {
    node: NodeId,
    tables: watch::Receiver<Arc<Tables>>,
    /// Once it is known; why there is none, if there is none.
    traffic: Arc<OnceLock<Result<Weak<Traffic>, String>>>,
}

impl Carried {
    /// What was carried since the start, by service.
    pub(crate) fn counted(&self) -> Vec<Counted> {
        self.traffic().map(|traffic| traffic.counted()).unwrap_or_default()
    }

    /// What its name server was asked since then, if there is one.
    pub(crate) fn asked(&self) -> Option<Asked> {
        self.traffic().map(|traffic| traffic.asked())
    }

    /// How names are on this node. Takes a few seconds if somebody does not answer.
    pub(crate) async fn names(&self) -> NamesReport {
        let tables = self.tables.borrow().clone();
        match (self.traffic.get(), self.traffic()) {
            (Some(Err(why)), _) => NamesReport::Missing(why.clone()),
            (_, Some(traffic)) => report::report(self.node, &tables, &traffic).await,
            (Some(Ok(_)) | None, None) => NamesReport::Starting,
        }
    }

    fn traffic(&self) -> Option<Arc<Traffic>> {
        self.traffic.get()?.as_ref().ok()?.upgrade()
    }
}

/// What a node's traffic is made of.
pub(crate) struct Started {
    /// What it is carried by.
    pub(crate) tables: watch::Sender<Arc<Tables>>,
    /// What containers are told.
    pub(crate) names: Names,
    /// What is counted.
    pub(crate) carried: Carried,
    /// It ends when this is aborted.
    pub(crate) carrying: JoinHandle<()>,
}

/// Carries traffic by what is given out, from the first time on.
pub(crate) fn start(node: NodeId) -> Started {
    let (tables, seen) = watch::channel(Arc::default());
    let (resolver, known) = watch::channel(Resolver::Starting);
    let names = Names { resolver: known, tables: seen.clone() };
    let carried = Carried { node, tables: seen.clone(), traffic: Arc::default() };
    let carrying = tokio::spawn(carry(node, seen, resolver, carried.clone()));
    Started { tables, names, carried, carrying }
}

async fn carry(
    node: NodeId,
    mut tables: watch::Receiver<Arc<Tables>>,
    resolver: watch::Sender<Resolver>,
    carried: Carried,
) {
    if tables.changed().await.is_err() {
        return;
    }
    for tries in 1.. {
        match Traffic::start(node, tables.clone()).await {
            Ok(traffic) => {
                resolver.send_replace(traffic.resolver().map_or(Resolver::Told, Resolver::At));
                let traffic = Arc::new(traffic);
                // It is started once.
                let _ = carried.traffic.set(Ok(Arc::downgrade(&traffic)));
                std::future::pending::<()>().await;
            }
            Err(StartError::Namespace(NamespaceError::Taken(_))) if tries < LEFT_BEHIND => {
                sleep(RETRY).await;
            }
            Err(error) => {
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::warn!(
                    error,
                    "containers of this node cannot call services by name, the rest works"
                );
                let _ = carried.traffic.set(Err(told(error)));
                resolver.send_replace(Resolver::Hosts);
                return;
            }
        }
    }
}

/// An error with what caused it.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Addresses for a new cluster that lead nowhere on this machine yet: which is tried first depends
/// on its id, so that clusters that are made side by side do not take the same. For one that stays
/// alone, on a machine where the daemon may make none, those of loopback.
pub(crate) fn free_network(cluster: &str, is_alone: bool) -> Network {
    if is_alone && !can_make() {
        return candidates(cluster).next().unwrap_or_default().on_loopback();
    }
    let used = used();
    let is_free = |network: &Network| {
        let here = fs::exists(format!("/sys/class/net/{}", interface(*network))).unwrap_or(false);
        !here && !used.iter().any(|used| overlaps(*network, *used))
    };
    candidates(cluster).find(is_free).unwrap_or_default()
}

/// Networks in the order in which a cluster tries them.
fn candidates(cluster: &str) -> impl Iterator<Item = Network> {
    let choices = u32::from(LAST - FIRST) + 1;
    let add = |sum: u32, byte: u8| sum.wrapping_mul(31).wrapping_add(u32::from(byte));
    let begin = cluster.bytes().fold(0, add);
    (0..choices).map(move |turn| {
        let offset = u8::try_from(begin.wrapping_add(turn) % choices).expect("fewer than 256");
        Network(10, FIRST + offset)
    })
}

fn overlaps(network: Network, (to, mask): (u32, u32)) -> bool {
    let shared = mask & (u32::MAX << (32 - Network::PREFIX));
    u32::from(network.first()) & shared == to & shared
}

/// Where this machine has routes to, but for the one to everywhere.
fn used() -> Vec<(u32, u32)> {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    routes.lines().skip(1).filter_map(leads_to).collect()
}

/// The address and mask of a route (proc_net(5): hexadecimal, the bytes in this machine's order).
fn leads_to(line: &str) -> Option<(u32, u32)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let number = |field: usize| u32::from_str_radix(fields.get(field)?, 16).ok();
    let (to, mask) = (number(1)?, number(7)?);
    (mask != 0).then_some((u32::from_be(to), u32::from_be(mask)))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn route(address: [u8; 4], prefix: u32) -> (u32, u32) {
        (u32::from(Ipv4Addr::from(address)), u32::MAX << (32 - prefix))
    }

    #[test]
    fn what_is_used_is_seen_whichever_is_wider() {
        let network = Network(10, 200);
        assert!(overlaps(network, route([10, 200, 3, 0], 24)));
        assert!(overlaps(network, route([10, 0, 0, 0], 8)));
        assert!(!overlaps(network, route([10, 201, 0, 0], 16)));
        assert!(!overlaps(network, route([192, 168, 0, 0], 16)));
    }

    #[test]
    fn the_route_to_everywhere_takes_no_addresses() {
        let way = "eth0 0000D50A 00000000 0001 0 0 0 0000FFFF 0 0 0";
        assert_eq!(leads_to(way), Some(route([10, 213, 0, 0], 16)));
        assert_eq!(leads_to("eth0 00000000 0100000A 0003 0 0 0 00000000 0 0 0"), None);
    }

    #[test]
    fn clusters_side_by_side_begin_elsewhere() {
        let first = |cluster| candidates(cluster).next().unwrap();
        assert_ne!(first("75347008a5e12b77"), first("20a44d55bfd3a6e0"));
        assert_eq!(candidates("75347008a5e12b77").count(), 122);
    }
}
