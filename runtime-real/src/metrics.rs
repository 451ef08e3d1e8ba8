//! What this node counts of traffic, as Prometheus reads it (text format 0.0.4).
//!
//! Label sets are bounded: services and routes are those of the tables, nodes those of the mesh.

use std::fmt::Write as _;
use std::time::Duration;

use mill_ingress::{LATENCY_BUCKETS, RouteLabel, Snapshot};
use mill_traffic::{Asked, Counted};

use crate::mesh::MeshReport;

/// What is counted, each where there is such a thing on this node.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) forwarders: Vec<Counted>,
    pub(crate) names: Option<Asked>,
    pub(crate) ingress: Option<Snapshot>,
    pub(crate) mesh: MeshReport,
}

/// The document.
pub(crate) fn text(counts: &Counts) -> String {
    let mut page = Page::default();
    forwarders(&mut page, &counts.forwarders);
    if let Some(asked) = &counts.names {
        names(&mut page, asked);
    }
    if let Some(ingress) = &counts.ingress {
        connections(&mut page, ingress);
        routes(&mut page, ingress);
    }
    mesh(&mut page, &counts.mesh);
    page.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a string cannot fail.
        let _ = writeln!(self.0, "# HELP mill_{name} {help}\n# TYPE mill_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> =
            labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escaped(text))).collect();
        let _ = match labels.is_empty() {
            true => writeln!(self.0, "mill_{name} {value}"),
            false => writeln!(self.0, "mill_{name}{{{}}} {value}", labels.join(",")),
        };
    }

    /// A family of one sample.
    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn forwarders(page: &mut Page, services: &[Counted]) {
    type Read = fn(&Counted) -> u64;
    let families: [(&str, &str, &str, Read); 5] = [
        (
            "forwarder_connections_total",
            "counter",
            "Connections accepted at service addresses.",
            |counted| counted.connections,
        ),
        (
            "forwarder_failed_connections_total",
            "counter",
            "Connections that reached no replica, or broke off.",
            |counted| counted.failed,
        ),
        ("forwarder_open_connections", "gauge", "Connections that are open now.", |counted| {
            counted.open
        }),
        ("forwarder_sent_bytes_total", "counter", "Bytes to replicas.", |counted| {
            counted.bytes_there
        }),
        ("forwarder_received_bytes_total", "counter", "Bytes from replicas.", |counted| {
            counted.bytes_back
        }),
    ];
    for (name, kind, help, read) in families {
        page.family(name, kind, help);
        for counted in services {
            page.sample(name, &[("service", counted.service.as_str())], read(counted));
        }
    }
}

fn names(page: &mut Page, asked: &Asked) {
    let name = "names_questions_total";
    page.family(name, "counter", "Questions for names, by what became of them.");
    for (outcome, count) in [
        ("known", asked.known),
        ("remembered", asked.remembered),
        ("forwarded", asked.forwarded),
        ("limited", asked.limited),
        ("malformed", asked.malformed),
    ] {
        page.sample(name, &[("outcome", outcome)], count);
    }
    let help = "Forwarded questions to which no resolver gave an answer.";
    page.one("names_failed_forwards_total", "counter", help, asked.failed_forwards);
    let help = "Connections for questions that are open now.";
    page.one("names_open_connections", "gauge", help, asked.open_connections);
    let help = "Connections for questions that limits turned away.";
    page.one("names_refused_connections_total", "counter", help, asked.refused_connections);
}

fn connections(page: &mut Page, ingress: &Snapshot) {
    let counters = [
        (
            "refused_connections",
            "Connections that limits turned away.",
            ingress.refused_connections,
        ),
        ("received_bytes", "Bytes from clients.", ingress.bytes_in),
        ("sent_bytes", "Bytes to clients.", ingress.bytes_out),
        ("retries", "Requests sent again.", ingress.retries),
        ("ejections", "Times a replica was left out for its failures.", ingress.ejections),
        ("held_requests", "Requests that waited for a replica.", ingress.held),
        ("tcp_connections", "Connections of TCP routes.", ingress.tcp_connections),
        ("upstream_connects", "Connections opened to replicas.", ingress.upstream_connects),
        (
            "access_records_lost",
            "Lines that the access log had no room for.",
            ingress.access_records_lost,
        ),
    ];
    let open = ingress.open_connections;
    page.one("ingress_open_connections", "gauge", "Connections that are open now.", open);
    for (name, help, value) in counters {
        page.one(&format!("ingress_{name}_total"), "counter", help, value);
    }
}

fn routes(page: &mut Page, ingress: &Snapshot) {
    let name = "ingress_requests_total";
    page.family(name, "counter", "Requests by route and class of status.");
    for (label, route) in &ingress.routes {
        for (class, count) in route.by_class.iter().enumerate() {
            let class = format!("{}xx", class + 1);
            page.sample(name, &[of(label)[0], of(label)[1], ("status", &class)], count);
        }
    }
    let name = "ingress_request_duration_seconds";
    page.family(name, "histogram", "From a request's head to the end of its answer.");
    for (label, route) in &ingress.routes {
        let [host, path] = of(label);
        let mut sum = 0;
        for (at, count) in route.latency.iter().enumerate() {
            sum += count;
            let bound =
                LATENCY_BUCKETS.get(at).map(|millis| seconds(Duration::from_millis(*millis)));
            let bound = bound.unwrap_or_else(|| "+Inf".to_owned());
            page.sample(&format!("{name}_bucket"), &[host, path, ("le", &bound)], sum);
        }
        page.sample(&format!("{name}_sum"), &[host, path], seconds(route.latency_sum));
        page.sample(&format!("{name}_count"), &[host, path], sum);
    }
}

fn of(label: &RouteLabel) -> [(&str, &str); 2] {
    [("host", &label.host), ("path", &label.path)]
}

fn mesh(page: &mut Page, report: &MeshReport) {
    let Some(interface) = &report.interface else { return };
    let nodes: Vec<String> = interface.peers.iter().map(|peer| peer.node.0.to_string()).collect();
    let peers = || nodes.iter().zip(&interface.peers);
    let name = "mesh_handshake_age_seconds";
    page.family(name, "gauge", "Since the last handshake with a node; absent before the first.");
    for (node, peer) in peers() {
        if let Some(age) = peer.handshake_seconds {
            page.sample(name, &[("node", node)], age);
        }
    }
    let name = "mesh_sent_bytes_total";
    page.family(name, "counter", "Bytes of datagrams to a node.");
    peers().for_each(|(node, peer)| page.sample(name, &[("node", node)], peer.sent_bytes));
    let name = "mesh_received_bytes_total";
    page.family(name, "counter", "Bytes of datagrams from a node.");
    peers().for_each(|(node, peer)| page.sample(name, &[("node", node)], peer.received_bytes));
}

/// As a decimal, without a detour over floats.
fn seconds(length: Duration) -> String {
    let text = format!("{}.{:06}", length.as_secs(), length.subsec_micros());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use mill_ingress::RouteSnapshot;

    use super::*;

    #[test]
    fn buckets_add_up_and_labels_are_escaped() {
        let mut route = RouteSnapshot { by_class: [0, 3, 0, 0, 1], ..RouteSnapshot::default() };
        route.latency[0] = 1;
        route.latency[1] = 2;
        route.latency[LATENCY_BUCKETS.len()] = 1;
        route.latency_sum = Duration::from_micros(31_002_500);
        let label = RouteLabel { host: "a\"b".to_owned(), path: "/".to_owned() };
        let ingress = Snapshot { routes: [(label, route)].into(), ..Snapshot::default() };
        let told = text(&Counts { ingress: Some(ingress), ..Counts::default() });
        let labels = "host=\"a\\\"b\",path=\"/\"";
        for line in [
            format!("mill_ingress_requests_total{{{labels},status=\"2xx\"}} 3"),
            format!("mill_ingress_request_duration_seconds_bucket{{{labels},le=\"0.001\"}} 1"),
            format!("mill_ingress_request_duration_seconds_bucket{{{labels},le=\"30\"}} 3"),
            format!("mill_ingress_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 4"),
            format!("mill_ingress_request_duration_seconds_sum{{{labels}}} 31.0025"),
            format!("mill_ingress_request_duration_seconds_count{{{labels}}} 4"),
        ] {
            assert!(told.lines().any(|told| told == line), "{line}\n{told}");
        }
    }

    #[test]
    fn questions_are_counted_by_what_became_of_them() {
        let asked = Asked { known: 7, limited: 2, open_connections: 1, ..Asked::default() };
        let told = text(&Counts { names: Some(asked), ..Counts::default() });
        for line in [
            "# TYPE mill_names_questions_total counter",
            "mill_names_questions_total{outcome=\"known\"} 7",
            "mill_names_questions_total{outcome=\"forwarded\"} 0",
            "mill_names_questions_total{outcome=\"limited\"} 2",
            "mill_names_open_connections 1",
        ] {
            assert!(told.lines().any(|told| told == line), "{line}\n{told}");
        }
    }

    #[test]
    fn a_node_that_carries_nothing_says_so_in_a_document() {
        let told = text(&Counts::default());
        assert!(told.contains("# TYPE mill_forwarder_connections_total counter"), "{told}");
        assert!(!told.contains("mill_ingress"), "{told}");
    }
}
