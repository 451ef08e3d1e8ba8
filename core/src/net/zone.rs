//! The names of a cluster: what `*.mill` and the reverse names mean, by the tables alone.
//!
//! - `web.mill`: the addresses of a service, the same for as long as it exists
//! - `0.web.mill`: the nodes of the replicas that serve in that slot
//! - `_web._tcp.mill`: the replicas that serve, each with its node's name and its port
//! - `a.node.mill`: a node; where a service is called `node`, its slots come first
//!
//! How questions and answers look on the wire is the runtime's. Tested below.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{ServiceTable, Tables};
use crate::name::NodeId;

/// The zone, without a dot at its end.
pub const ZONE: &str = "mill";
/// For how long an answer is good, in seconds; the same of an answer that there is none.
pub const TTL_SECONDS: u32 = 1;

/// What is asked of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Hosts and ports.
    Srv,
    /// The name of an address.
    Ptr,
    /// All of these.
    Any,
    /// Something that no name here has.
    Other,
}

/// One thing that a name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// A host and a port.
    Srv {
        /// The host's name.
        target: String,
        /// Its address, so that nobody has to ask for it.
        host: IpAddr,
        /// The port there.
        port: u16,
    },
    /// A name.
    Ptr(String),
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The name means this; empty if nothing of the kind that was asked for.
    Found(Vec<Data>),
    /// There is no such name in the cluster.
    NoSuchName,
    /// It is no name of the cluster's: others may know it.
    NotOurs,
}

/// What may stand above the names of addresses.
const REVERSE: [&str; 2] = [".in-addr.arpa", ".ip6.arpa"];

impl Tables {
    /// What a name means: lower-case, without a dot at its end.
    pub fn lookup(&self, name: &str, kind: Kind) -> Lookup {
        if name == ZONE {
            return Lookup::Found(Vec::new());
        }
        if REVERSE.iter().any(|suffix| name.ends_with(suffix)) {
            return self.reverse(name, kind);
        }
        let Some(name) = name.strip_suffix(ZONE).and_then(|name| name.strip_suffix('.')) else {
            return Lookup::NotOurs;
        };
        match self.meaning(name) {
            Some(data) => Lookup::Found(data.into_iter().filter(|data| kind.asks(data)).collect()),
            None => Lookup::NoSuchName,
        }
    }

    fn meaning(&self, name: &str) -> Option<Vec<Data>> {
        // Names of nodes may have dots.
        let Some((first, rest)) = name.rsplit_once('.') else {
            // Names above others are there, and mean nothing.
            let empty = name == "node" || name == "_tcp";
            return self.of_service(name).or(empty.then(Vec::new));
        };
        if rest == "_tcp" {
            let service = self.services.get(first.strip_prefix('_')?)?;
            return Some(self.servers(service));
        }
        let slot = || self.of_slot(first.parse().ok()?, rest);
        let node = || (rest == "node").then(|| self.of_node(first))?;
        slot().or_else(node)
    }

    fn of_service(&self, name: &str) -> Option<Vec<Data>> {
        let service = self.services.get(name)?;
        if service.ports.is_empty() {
            return Some(Vec::new());
        }
        let address = self.network.of_service(service.address);
        let beside = self.network.ipv6_of_service(service.address).map(Data::Aaaa);
        Some(std::iter::once(Data::A(address)).chain(beside).collect())
    }

    fn of_slot(&self, slot: u64, service: &str) -> Option<Vec<Data>> {
        let service = self.services.get(service)?;
        let mut hosts: Vec<IpAddr> = service
            .replicas()
            .filter(|replica| replica.slot == slot)
            .map(|replica| replica.host)
            .collect();
        hosts.dedup();
        (!hosts.is_empty()).then(|| hosts.into_iter().map(Data::of).collect())
    }

    fn of_node(&self, name: &str) -> Option<Vec<Data>> {
        let mut nodes = self.nodes.values();
        let node = nodes.find(|node| node.name.eq_ignore_ascii_case(name))?;
        Some(vec![Data::of(node.host)])
    }

    fn servers(&self, service: &ServiceTable) -> Vec<Data> {
        let server = |replica: &super::Replica| {
            let target = self.node_name(replica.node)?;
            Some(Data::Srv { target, host: replica.host, port: replica.port })
        };
        service.replicas().filter_map(server).collect()
    }

    fn node_name(&self, node: NodeId) -> Option<String> {
        let name = self.nodes.get(&node)?.name.to_ascii_lowercase();
        Some(format!("{name}.node.{ZONE}"))
    }

    /// Only what is the cluster's own: the rest is answered by who knows it.
    fn reverse(&self, name: &str, kind: Kind) -> Lookup {
        let Some(address) = reversed(name) else { return Lookup::NotOurs };
        let number = self.network.service_at(address);
        let named = match number {
            Some(number) => {
                let mut services = self.services.iter();
                let found = services.find(|(_, service)| service.address == number);
                found.map(|(name, _)| format!("{name}.{ZONE}"))
            }
            None => {
                let mut nodes = self.nodes.iter();
                let found = nodes.find(|(_, node)| node.host == address);
                found.and_then(|(id, _)| self.node_name(*id))
            }
        };
        match (named, number) {
            (Some(name), _) => {
                let data = Data::Ptr(name);
                Lookup::Found(if kind.asks(&data) { vec![data] } else { Vec::new() })
            }
            (None, Some(_)) => Lookup::NoSuchName,
            (None, None) => Lookup::NotOurs,
        }
    }
}

impl Data {
    fn of(host: IpAddr) -> Data {
        match host {
            IpAddr::V4(address) => Data::A(address),
            IpAddr::V6(address) => Data::Aaaa(address),
        }
    }
}

impl Kind {
    fn asks(self, data: &Data) -> bool {
        match (self, data) {
            (Kind::Any, _)
            | (Kind::A, Data::A(_))
            | (Kind::Aaaa, Data::Aaaa(_))
            | (Kind::Srv, Data::Srv { .. })
            | (Kind::Ptr, Data::Ptr(_)) => true,
            (Kind::A | Kind::Aaaa | Kind::Srv | Kind::Ptr | Kind::Other, _) => false,
        }
    }
}

/// The address that a reverse name is of (RFC 1035, section 3.5; RFC 3596, section 2.5).
fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(REVERSE[0]) {
        let octets: Vec<u8> = octets.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
        let mut octets: [u8; 4] = octets.try_into().ok()?;
        octets.reverse();
        return Some(IpAddr::from(octets));
    }
    let nibbles = name.strip_suffix(REVERSE[1])?.split('.');
    let nibble = |text: &str| match text.len() {
        1 => u128::from_str_radix(text, 16).ok(),
        _ => None,
    };
    let nibbles: Vec<u128> = nibbles.map(nibble).collect::<Option<_>>()?;
    let address = nibbles.iter().rev().fold(0, |address, nibble| address << 4 | nibble);
    (nibbles.len() == 32).then(|| IpAddr::from(Ipv6Addr::from(address)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{NodeTable, Replica};
    use super::*;
    use crate::name::AllocId;

    fn replica(slot: u64, node: u64, port: u16) -> Replica {
        let alloc = AllocId::known(&format!("web.{slot}-{port}"));
        let host = IpAddr::from([192, 0, 2, u8::try_from(node).unwrap()]);
        Replica { slot, alloc, node: NodeId(node), host, port }
    }

    fn tables() -> Tables {
        let node = |name: &str, last| NodeTable {
            name: name.to_owned(),
            host: IpAddr::from([192, 0, 2, last]),
        };
        let replicas = vec![replica(0, 1, 20_000), replica(0, 2, 20_001), replica(1, 1, 20_002)];
        let web = ServiceTable { address: 7, ports: BTreeMap::from([(8080, replicas)]) };
        let worker = ServiceTable { address: 8, ports: BTreeMap::new() };
        Tables {
            services: BTreeMap::from([
                ("web".parse().unwrap(), web),
                ("worker".parse().unwrap(), worker),
            ]),
            nodes: BTreeMap::from([
                (NodeId(1), node("Alpha", 1)),
                (NodeId(2), node("b.c", 2)),
                (
                    NodeId(3),
                    NodeTable { name: "six".to_owned(), host: "2001:db8::1".parse().unwrap() },
                ),
            ]),
            ..Tables::default()
        }
    }

    fn shown(name: &str, kind: Kind) -> String {
        match tables().lookup(name, kind) {
            Lookup::Found(data) => {
                let shown = data.iter().map(|data| match data {
                    Data::A(address) => address.to_string(),
                    Data::Aaaa(address) => address.to_string(),
                    Data::Srv { target, host, port } => format!("{target}:{port}@{host}"),
                    Data::Ptr(name) => name.clone(),
                });
                format!("[{}]", shown.collect::<Vec<_>>().join(" "))
            }
            Lookup::NoSuchName => "no such name".to_owned(),
            Lookup::NotOurs => "not ours".to_owned(),
        }
    }

    #[test]
    fn names_mean_what_the_tables_say() {
        let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
        let service = |last: u16| {
            let nibbles: Vec<String> =
                format!("{last:04x}").chars().rev().map(String::from).collect();
            format!(
                "{}.5.d.a.0.0.0.0.0.0.0.0.0.0.0.0.0.5.d.a.0.5.2.b.c.7.e.d.f.ip6.arpa",
                nibbles.join(".")
            )
        };
        for (name, kind, means) in [
            ("web.mill", Kind::A, "[10.213.128.7]"),
            ("web.mill", Kind::Aaaa, "[fde7:cb25:ad5::ad5:8007]"),
            ("web.mill", Kind::Any, "[10.213.128.7 fde7:cb25:ad5::ad5:8007]"),
            ("web.mill", Kind::Srv, "[]"),
            ("worker.mill", Kind::A, "[]"),
            ("worker.mill", Kind::Aaaa, "[]"),
            ("0.web.mill", Kind::A, "[192.0.2.1 192.0.2.2]"),
            ("1.web.mill", Kind::Any, "[192.0.2.1]"),
            ("2.web.mill", Kind::A, "no such name"),
            ("alpha.node.mill", Kind::A, "[192.0.2.1]"),
            ("b.c.node.mill", Kind::A, "[192.0.2.2]"),
            ("six.node.mill", Kind::Aaaa, "[2001:db8::1]"),
            ("node.mill", Kind::A, "[]"),
            ("mill", Kind::A, "[]"),
            ("nobody.mill", Kind::A, "no such name"),
            ("a.b.c.mill", Kind::A, "no such name"),
            ("windmill", Kind::A, "not ours"),
            ("example.com", Kind::A, "not ours"),
            ("7.128.213.10.in-addr.arpa", Kind::Ptr, "[web.mill]"),
            ("9.128.213.10.in-addr.arpa", Kind::Ptr, "no such name"),
            (v6, Kind::Ptr, "[six.node.mill]"),
            (&service(0x8007), Kind::Ptr, "[web.mill]"),
            (&service(0x8009), Kind::Ptr, "no such name"),
            (&service(0x7ffe), Kind::Ptr, "not ours"),
            ("1.2.0.192.in-addr.arpa", Kind::Ptr, "[alpha.node.mill]"),
            ("9.2.0.192.in-addr.arpa", Kind::Ptr, "not ours"),
            ("256.2.0.192.in-addr.arpa", Kind::Ptr, "not ours"),
        ] {
            assert_eq!(shown(name, kind), means, "{name} {kind:?}");
        }
    }

    #[test]
    fn a_service_has_one_address_on_loopback() {
        let tables = tables();
        let tables = Tables { network: tables.network.on_loopback(), ..tables };
        let Lookup::Found(found) = tables.lookup("web.mill", Kind::Any) else { panic!("it is") };
        assert_eq!(found, [Data::A(Ipv4Addr::new(127, 213, 128, 7))]);
    }

    #[test]
    fn the_replicas_of_a_service_are_listed_with_where_they_listen() {
        assert_eq!(
            shown("_web._tcp.mill", Kind::Srv),
            "[alpha.node.mill:20000@192.0.2.1 b.c.node.mill:20001@192.0.2.2 \
             alpha.node.mill:20002@192.0.2.1]"
        );
        assert_eq!(shown("_worker._tcp.mill", Kind::Srv), "[]");
        assert_eq!(shown("web._tcp.mill", Kind::Srv), "no such name");
    }
}
