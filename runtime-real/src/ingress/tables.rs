//! From the cluster's tables to an ingress's.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use mill_core::config::model::{RouteMatch, RouteSpec};
use mill_core::name::{Name, NodeId};
use mill_core::net::{RouteTable, ServiceTable, Tables};
use mill_core::units::Millis;
use mill_ingress::{
    Backend, Cidr, HeaderRule, HttpRoute, Login, RateLimit, Service, Table, TcpRoute,
};

/// The routes of a cluster as a node serves them; with `local` ones, each host also below
/// `.localhost`.
pub(super) fn of(tables: &Tables, node: NodeId, local: bool) -> Table {
    let mut table = Table::default();
    let mut used: BTreeSet<&Name> = BTreeSet::new();
    // What the replicas of a service speak is said by its routes; one word of it is enough.
    let mut h2c: BTreeSet<&Name> = BTreeSet::new();
    for RouteTable { service, spec } in &tables.routes {
        used.insert(service);
        if spec.h2c {
            h2c.insert(service);
        }
        match &spec.accept {
            RouteMatch::Http { host, path } => {
                let route = http(host, path, service, spec);
                if local && !host.ends_with("localhost") {
                    let host = format!("{host}.localhost");
                    table.http.push(HttpRoute { host, ..route.clone() });
                }
                table.http.push(route);
            }
            RouteMatch::Tcp { listen, host } => table.tcp.push(TcpRoute {
                listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, *listen)),
                server_name: host.clone(),
                service: service.to_string(),
            }),
        }
    }
    let replicas = |name: &Name| tables.services.get(name).map(|s| backends(s, node, &h2c, name));
    let services = used.into_iter().map(|name| {
        let backends = replicas(name).unwrap_or_default();
        Service { name: name.to_string(), backends }
    });
    table.services = services.collect();
    table.trusted_proxies = networks(&tables.trusted_proxies);
    table
}

/// A text that is no network was refused with its config.
fn networks(texts: &[String]) -> Vec<Cidr> {
    texts.iter().filter_map(|network| network.parse().ok()).collect()
}

fn backends(
    service: &ServiceTable,
    node: NodeId,
    h2c: &BTreeSet<&Name>,
    name: &Name,
) -> Vec<Backend> {
    let backend = |replica: &mill_core::net::Replica| Backend {
        id: replica.alloc.to_string(),
        address: SocketAddr::new(replica.host, replica.port),
        same_node: replica.node == node,
        h2c: h2c.contains(name),
    };
    service.replicas().map(backend).collect()
}

fn http(host: &str, path: &str, service: &Name, spec: &RouteSpec) -> HttpRoute {
    let duration = |Millis(millis): Millis| Duration::from_millis(millis);
    let headers = |wanted: &std::collections::BTreeMap<String, String>| {
        let rule = |(name, value): (&String, &String)| match value.is_empty() {
            true => HeaderRule::Remove { name: name.clone() },
            false => HeaderRule::Set { name: name.clone(), value: value.clone() },
        };
        wanted.iter().map(rule).collect()
    };
    HttpRoute {
        tls: spec.tls,
        strip_prefix: spec.strip_prefix,
        websocket: spec.websocket,
        timeout: spec.timeout.map(duration),
        max_body: spec.max_body.map(|bytes| bytes.0),
        redirect: spec.redirect.clone(),
        hold: duration(spec.hold),
        allow: networks(&spec.allow),
        rate_limit: spec
            .rate_limit
            .map(|per_second| RateLimit { per_second, burst: spec.burst.unwrap_or(per_second) }),
        basic_auth: spec
            .basic_auth
            .iter()
            .map(|(name, hash)| Login { name: name.clone(), hash: hash.clone() })
            .collect(),
        request_headers: headers(&spec.request_headers),
        response_headers: headers(&spec.response_headers),
        maintenance: spec.maintenance.clone(),
        ..HttpRoute::new(host, path, service.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    use mill_core::name::AllocId;
    use mill_core::net::Replica;

    use super::*;

    fn tables() -> Tables {
        let replica = |node: u64, port| Replica {
            slot: node,
            alloc: AllocId::known(&format!("web.{node}-aaaa")),
            node: NodeId(node),
            host: IpAddr::from([192, 0, 2, u8::try_from(node).unwrap()]),
            port,
        };
        let ports = BTreeMap::from([(8080, vec![replica(1, 20_000), replica(2, 20_001)])]);
        let web: Name = "web".parse().unwrap();
        let http = |host: &str| RouteMatch::Http { host: host.to_owned(), path: "/".to_owned() };
        let route = |spec| RouteTable { service: web.clone(), spec };
        let plain =
            RouteSpec { rate_limit: Some(5), h2c: true, ..RouteSpec::new(http("a.example")) };
        let headers =
            BTreeMap::from([("X-A".to_owned(), "b".to_owned()), ("X-B".to_owned(), String::new())]);
        let limited = RouteSpec {
            allow: vec!["192.0.2.0/24".to_owned()],
            request_headers: headers,
            ..RouteSpec::new(http("b.example"))
        };
        let tcp =
            RouteSpec::new(RouteMatch::Tcp { listen: 5432, host: Some("db.example".to_owned()) });
        Tables {
            services: BTreeMap::from([(web.clone(), ServiceTable { address: 1, ports })]),
            routes: vec![route(plain), route(limited), route(tcp)],
            ..Tables::default()
        }
    }

    #[test]
    fn routes_lead_to_the_replicas_of_their_service() {
        let table = of(&tables(), NodeId(2), false);
        let hosts: Vec<&str> = table.http.iter().map(|route| route.host.as_str()).collect();
        assert_eq!(hosts, ["a.example", "b.example"]);
        assert_eq!(table.http[0].rate_limit, Some(RateLimit { per_second: 5, burst: 5 }));
        assert_eq!(table.http[1].allow.len(), 1);
        let rules = &table.http[1].request_headers;
        assert!(matches!(&rules[..], [HeaderRule::Set { .. }, HeaderRule::Remove { .. }]));
        assert_eq!(table.tcp[0].server_name.as_deref(), Some("db.example"));
        let [service] = &table.services[..] else { panic!("one service has routes") };
        let told = service.backends.iter().map(|b| (b.address.to_string(), b.same_node, b.h2c));
        let told: Vec<_> = told.collect();
        assert_eq!(
            told,
            [
                ("192.0.2.1:20000".to_owned(), false, true),
                ("192.0.2.2:20001".to_owned(), true, true)
            ]
        );
    }

    #[test]
    fn on_a_machine_of_a_developer_each_host_has_another_name() {
        let table = of(&tables(), NodeId(1), true);
        let hosts = table.http.iter().map(|route| route.host.as_str());
        let hosts: Vec<&str> = hosts.collect();
        let expected = ["a.example.localhost", "a.example", "b.example.localhost", "b.example"];
        assert_eq!(hosts, expected);
    }
}
