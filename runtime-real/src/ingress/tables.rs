//! From the cluster's tables to an ingress's.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use mill_core::config::model::{RouteMatch, RouteSpec};
use mill_core::name::{Name, NodeId};
use mill_core::net::{RouteTable, ServiceTable, Tables};
use mill_core::units::Millis;
use mill_ingress::{Backend, HeaderRule, HttpRoute, Login, RateLimit, Service, Table, TcpRoute};

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
    table
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
        // A text that is no network was refused with its config.
        allow: spec.allow.iter().filter_map(|network| network.parse().ok()).collect(),
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
