//! Services call each other by name, from every node, wherever the replicas are.

use std::net::{SocketAddrV4, SocketAddrV6};

use mill_core::net::Network;
use serde_json::Value;

use super::machines::Machines;
use super::support::said;

const NODES: usize = 3;

/// A service with replicas on some nodes, one that owns its port on its node, on all interfaces,
/// and one on each node that calls both.
const SHOP: &str = r#"
    [service.web]
    image = "test/serve:1"
    port = 8080
    replicas = 2
    health = { path = "/", interval = "500ms" }
    update = { healthy_for = "0s" }

    [service.db]
    image = "test/serve:1"
    port = 5432
    fixed_port = true
    health = { path = "/", interval = "500ms" }
    update = { healthy_for = "0s" }

    [service.caller]
    image = "test/serve:1"
    replicas = "each-node"
    update = { healthy_for = "0s" }
    env = { WEB = "${service.web.address}", DB = "${service.db.address}" }
"#;

/// What the caller on a node is answered, by whoever it finds under that name or in that variable.
fn asks(machines: &Machines, machine: usize, whom: &str) -> String {
    let (allocs, node) = (machines.allocs(1), machines.name(machine));
    let here = |alloc: &&Value| {
        alloc["node"] == node.as_str() && alloc["slot"].as_str().unwrap().starts_with("caller.")
    };
    let alloc = allocs.iter().find(here).expect("there is one on each node")["id"].clone();
    said(&machines.mill(1, &["exec", alloc.as_str().unwrap(), "--", "/bin/serve", "ask", whom]))
}

/// Where a service is called.
fn address(machines: &Machines, service: &str) -> SocketAddrV4 {
    let status = machines.status(1);
    let services = status["services"].as_array().unwrap();
    let found = services.iter().find(|known| known["name"] == service).expect("it was deployed");
    found["address"].as_str().unwrap().parse().unwrap()
}

/// The same over IPv6.
fn beside(address: SocketAddrV4) -> SocketAddrV6 {
    let [first, second, ..] = address.ip().octets();
    SocketAddrV6::new(Network(first, second).ipv6(*address.ip()), address.port(), 0, 0)
}

/// What whoever calls a service by its name is answered, at which of its addresses is up to the
/// caller's library.
fn expected(machines: &Machines, service: &str, version: u32) -> [String; 2] {
    let address = address(machines, service);
    [address.to_string(), beside(address).to_string()].map(|at| format!("{at} version={version}\n"))
}

/// What `dig` is told on a machine, in the network that an address is of.
fn dig(machines: &Machines, machine: usize, of: SocketAddrV4, question: &[&str]) -> String {
    let [first, second, ..] = of.ip().octets();
    let mut command = machines.command(machine);
    command.arg("dig").arg(format!("@{}", Network(first, second).resolver()));
    said(&command.arg("+short").args(question).output().unwrap())
}

#[test]
fn services_are_called_by_name_from_every_node_and_follow_their_replicas() {
    let Some(mut machines) = Machines::start(NODES) else { return };
    machines.load_server();
    machines.form(NODES);
    machines.deploy(1, SHOP);
    let (web, db) = (expected(&machines, "web", 1), expected(&machines, "db", 1));
    for machine in 1..=NODES {
        assert!(web.contains(&asks(&machines, machine, "WEB")));
        // One of the nodes has a container that listens on port 5432 of all interfaces.
        assert!(db.contains(&asks(&machines, machine, "DB")));
        let unknown = asks(&machines, machine, "nobody.mill:80");
        assert!(unknown.contains("Name or service not known"), "{unknown}");
    }
    // Over IPv6 it is as over IPv4.
    let v4 = address(&machines, "web");
    let v6 = beside(v4);
    for machine in 1..=NODES {
        let found = dig(&machines, machine, v4, &["web.mill", "AAAA"]);
        assert_eq!(found, format!("{}\n", v6.ip()));
        assert_eq!(dig(&machines, machine, v4, &["-x", &v6.ip().to_string()]), "web.mill.\n");
        for at in expected(&machines, "web", 1) {
            let (literal, _) = at.split_once(' ').unwrap();
            assert_eq!(asks(&machines, machine, literal), at);
        }
    }
    // The doctor asks as a container does.
    let told = said(&machines.mill(1, &["doctor"]));
    assert!(told.contains("answers for the cluster (A and AAAA)"), "{told}");
    assert!(told.contains("ok   tables: names and addresses are those of now"), "{told}");
    assert!(told.contains(" resolvers: "), "{told}");
    let why = said(&machines.mill(1, &["why", "web"]));
    let called = format!("called at web.mill:8080 ({}, {})", v4.ip(), v6.ip());
    assert!(why.contains(&called), "{why}");
    // The replicas move, the address stays.
    machines.deploy(1, &SHOP.replacen("test/serve:1", "test/serve:2", 1));
    let newer = expected(&machines, "web", 2);
    assert_eq!(newer[0].split(' ').next(), web[0].split(' ').next());
    for machine in 1..=NODES {
        assert!(newer.contains(&asks(&machines, machine, "WEB")));
    }
    // A daemon that was killed answers for its containers again.
    machines.kill_daemon(2);
    machines.init_on(2);
    machines.eventually("services are called again on node 2", |machines| {
        newer.contains(&asks(machines, 2, "WEB"))
    });
    // Without a leader, a node goes by its last table, and the doctor says so.
    machines.kill_daemon(1);
    machines.kill_daemon(2);
    machines.eventually("the doctor knows that no leader is heard", |machines| {
        said(&machines.mill(3, &["doctor"])).contains("ago: no leader was heard")
    });
    assert_eq!(dig(&machines, 3, v4, &["web.mill", "A"]), format!("{}\n", v4.ip()));
}
