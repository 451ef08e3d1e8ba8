//! The encrypted network between real machines: nodes speak through nothing else, find each other
//! again, and move into it with what they run.

use serde_json::Value;

use super::machines::Machines;
use super::support::{json, said};

const NODES: usize = 3;
/// Where nodes answer, and where datagrams of the mesh come in.
const PORT: &str = "7400";

const WEB: &str = r#"
    [service.web]
    image = "test/web:1"
    port = 8080
    replicas = 3
    health = { path = "/", interval = "500ms" }
    update = { healthy_for = "0s" }
"#;

/// What a node says of the mesh.
fn mesh(machines: &Machines, machine: usize) -> Value {
    let socket = machines.path(machine, "mill.sock");
    let mut command = machines.command(machine);
    command.args(["curl", "-fsS", "--unix-socket", socket.to_str().unwrap()]);
    json(&command.arg("http://mill/v1/mesh").output().unwrap())
}

/// Whether it speaks through the mesh only, and has met that many others there.
fn is_inside(machines: &Machines, machine: usize, others: usize) -> bool {
    let told = mesh(machines, machine);
    let peers = told["interface"]["peers"].as_array().cloned().unwrap_or_default();
    let met = peers.iter().filter(|peer| !peer["handshake_seconds"].is_null()).count();
    told["only"] == true && met == others && peers.len() == others
}

fn all_are_inside(machines: &Machines) -> bool {
    (1..=NODES).all(|machine| is_inside(machines, machine, NODES - 1))
}

fn all_are_up(machines: &Machines, machine: usize) -> bool {
    let nodes = machines.nodes(machine);
    nodes.len() == NODES && nodes.iter().all(|node| node["up"] == true)
}

/// Between every two machines, nothing of that kind passes.
fn block_all(machines: &Machines, what: &str) {
    for from in 1..=NODES {
        let others = (1..=NODES).filter(|to| *to != from);
        others.for_each(|to| machines.block_only(from, to, what));
    }
}

fn key(machines: &Machines, of: usize) -> (String, u64) {
    let detail = json(&machines.mill(of, &["node", "inspect", &machines.name(of), "--json"]));
    let mesh = &detail["mesh"];
    (mesh["key"].as_str().unwrap().to_owned(), mesh["serial"].as_u64().unwrap())
}

#[test]
fn nodes_speak_through_the_mesh_only_and_find_each_other_there_after_a_restart() {
    let Some(mut machines) = Machines::with_cluster(NODES) else { return };
    machines.eventually("all are in the mesh", all_are_inside);
    // Whatever passes from now on passes as datagrams: consensus, heartbeats, requests, streams.
    block_all(&machines, &format!("tcp/{PORT}"));
    machines.deploy(1, WEB);
    let allocs = machines.allocs(1);
    let elsewhere = allocs.iter().find(|alloc| alloc["node"] == "m3").unwrap();
    let (id, there) = (elsewhere["id"].as_str().unwrap(), ["--", "echo", "hello"]);
    let echoed = machines.done(1, &[&["exec", id], &there[..]].concat());
    assert_eq!(echoed, "hello\n");
    // All daemons at once: nobody is there to ask, and the door outside is closed.
    for machine in 1..=NODES {
        machines.kill_daemon(machine);
    }
    for machine in 1..=NODES {
        machines.init_on(machine);
    }
    machines.some_leader();
    machines.eventually("they are up again", |machines| all_are_up(machines, 1));
    machines.deploy(2, &WEB.replace("replicas = 3", "replicas = 4"));
    let doctor = said(&machines.mill(1, &["doctor"]));
    assert!(doctor.contains("2 of 2 other nodes met, and nodes speak through nothing"), "{doctor}");
}

#[test]
fn keys_are_replaced_and_whoever_was_away_meanwhile_is_met_again() {
    let Some(mut machines) = Machines::with_cluster(NODES) else { return };
    machines.eventually("all are in the mesh", all_are_inside);
    machines.deploy(1, WEB);
    let before = key(&machines, 2);
    machines.done(1, &["node", "rotate-key", "m2"]);
    machines.eventually("node 2 has another key", |machines| key(machines, 2).1 > before.1);
    machines.eventually("all are in the mesh again", all_are_inside);
    assert_ne!(key(&machines, 2).0, before.0);
    assert!(all_are_up(&machines, 1), "nobody was called down");
    // The third knows neither of the new keys, and nobody could tell it.
    machines.power_off(3);
    for of in [1, 2] {
        let before = key(&machines, of).1;
        let leader = machines.some_leader();
        machines.done(leader, &["node", "rotate-key", &machines.name(of)]);
        machines.eventually("it has another key", |machines| key(machines, of).1 > before);
    }
    machines.power_on(3);
    machines.eventually("all are in the mesh once more", all_are_inside);
    machines.eventually("they are up", |machines| all_are_up(machines, 3));
}

#[test]
fn a_key_is_not_replaced_while_nodes_cannot_speak_outside_the_mesh() {
    let Some(machines) = Machines::with_cluster(NODES) else { return };
    machines.eventually("all are in the mesh", all_are_inside);
    let before = key(&machines, 2);
    block_all(&machines, &format!("tcp/{PORT}"));
    machines.done(1, &["node", "rotate-key", "m2"]);
    let due = |machines: &Machines| {
        said(&machines.mill(1, &["node", "inspect", "m2"])).contains("its key is replaced once")
    };
    // It would be replaced at once.
    for _ in 0..5 {
        assert!(due(&machines) && all_are_up(&machines, 1) && all_are_inside(&machines));
        super::support::pause(1_000);
    }
    assert_eq!(key(&machines, 2), before);
    machines.unblock();
    machines.eventually("it has another key", |machines| key(machines, 2).1 > before.1);
    machines.eventually("all are in the mesh again", all_are_inside);
    machines.eventually("nothing is due", |machines| !due(machines));
}

#[test]
fn a_node_whose_address_outside_changes_is_followed_by_the_others() {
    let Some(machines) = Machines::with_cluster(NODES) else { return };
    machines.eventually("all are in the mesh", all_are_inside);
    machines.deploy(1, WEB);
    let before: Vec<_> = (1..=NODES).map(|machine| machines.containers(machine)).collect();
    let moved = machines.address(100 + NODES);
    for args in [&["flush", "dev", "eth0"][..], &["add", &format!("{moved}/24"), "dev", "eth0"]] {
        let mut ip = machines.command(NODES);
        assert!(ip.args(["ip", "addr"]).args(args).status().unwrap().success());
    }
    machines.eventually("the others know where it is", |machines| {
        (1..NODES).all(|machine| {
            let peers = mesh(machines, machine)["interface"]["peers"].clone();
            let mut peers = peers.as_array().unwrap().iter();
            peers.any(|peer| peer["endpoint"] == format!("{moved}:{PORT}"))
        })
    });
    assert!(all_are_up(&machines, 1), "it was called down");
    machines.deploy(NODES, &WEB.replace("replicas = 3", "replicas = 4"));
    let after = (1..=NODES).map(|machine| machines.containers(machine));
    let stayed = after.zip(&before).all(|(after, before)| before.iter().all(|c| after.contains(c)));
    assert!(stayed, "no container was stopped");
}

#[test]
fn a_cluster_from_before_moves_into_the_mesh_with_what_it_runs() {
    let Some(mut machines) = Machines::start(NODES) else { return };
    machines.daemon_outside(1, &["init"]);
    machines.eventually("the first node leads", |machines| machines.leader(1).is_some());
    let (token, at) = (machines.token(&[]), machines.address(1));
    for machine in 2..=NODES {
        machines.daemon_outside(machine, &["join", &at, "--token", &token]);
    }
    machines.eventually("all are up", |machines| all_are_up(machines, 1));
    assert_eq!(mesh(&machines, 1)["only"], false);
    let doctor = said(&machines.mill(1, &["doctor"]));
    assert!(doctor.contains("warn names: cannot make the way to service addresses"), "{doctor}");
    machines.deploy(1, WEB);
    let before: Vec<_> = (1..=NODES).map(|machine| machines.containers(machine)).collect();
    for machine in 1..=NODES {
        machines.stop_daemon(machine);
        machines.init_on(machine);
        machines.eventually("it is back", |machines| all_are_up(machines, machine));
    }
    machines.eventually("all are in the mesh", all_are_inside);
    block_all(&machines, &format!("tcp/{PORT}"));
    let after: Vec<_> = (1..=NODES).map(|machine| machines.containers(machine)).collect();
    assert_eq!(before, after, "no container was stopped");
    machines.deploy(3, &WEB.replace("test/web:1", "test/web:2"));
    // A machine that can be in none is told so.
    machines.stop_daemon(3);
    machines.daemon_outside(3, &["init"]);
    let told = machines.ended(3);
    assert!(told.contains("speak through WireGuard only, and this one cannot"), "{told}");
    assert!(told.contains("CAP_NET_ADMIN"), "{told}");
}

#[test]
fn a_handshake_that_does_not_happen_is_explained() {
    let Some(mut machines) = Machines::start(2) else { return };
    machines.init();
    let token = machines.token(&[]);
    machines.block_only(1, 2, &format!("udp/{PORT}"));
    machines.block_only(2, 1, &format!("udp/{PORT}"));
    machines.join(2, &token, &[]);
    machines.eventually("the doctor knows why", |machines| {
        let told = said(&machines.mill(1, &["doctor"]));
        told.contains("was ever answered") && told.contains(&format!("UDP port {PORT}"))
    });
    machines.unblock();
    machines.eventually("they meet", |machines| is_inside(machines, 1, 1));
    machines.eventually("it is up", |machines| {
        machines.nodes(1).iter().filter(|node| node["up"] == true).count() == 2
    });
}
