//! What names mean on each node while replicas come and go.

use std::collections::BTreeSet;
use std::net::IpAddr;

use mill_core::cluster::Cluster;
use mill_core::cluster::alloc::{Alloc, Phase};
use mill_core::cluster::deploy::DeployState;
use mill_core::name::NodeId;
use mill_core::net::{Data, Kind, Lookup};
use mill_core::units::Millis;
use mill_runtime_sim::{Fault, World};
use mill_sim_tests::Scenario;

const NODES: u64 = 3;

fn web(version: u32) -> String {
    format!(
        "[service.web]\nimage = \"web:{version}\"\nport = 8080\nreplicas = 3\n\
         [service.web.health]\npath = \"/\"\n"
    )
}

/// What a node answers, if it has anything to answer from.
fn asks(world: &World, node: u64, name: &str, kind: Kind) -> Option<Vec<Data>> {
    match world.host(NodeId(node)).tables()?.lookup(name, kind) {
        Lookup::Found(data) => Some(data),
        Lookup::NoSuchName => Some(Vec::new()),
        Lookup::NotOurs => panic!("{name} is ours"),
    }
}

type Places = BTreeSet<(IpAddr, u16)>;

/// Where the replicas are that a node names.
fn places(world: &World, node: u64) -> Places {
    let servers = asks(world, node, "_web._tcp.mill", Kind::Srv).unwrap_or_default();
    let place = |data: &Data| match data {
        Data::Srv { host, port, .. } => (*host, *port),
        other => panic!("{other:?}"),
    };
    servers.iter().map(place).collect()
}

/// Where those are that should run.
fn right_places(scenario: &Scenario) -> Places {
    let allocs = scenario.allocs("web");
    let cluster = scenario.world.cluster();
    allocs.values().filter_map(|alloc| place(cluster, alloc)).collect()
}

fn place(cluster: &Cluster, alloc: &Alloc) -> Option<(IpAddr, u16)> {
    let address = cluster.mesh_address(cluster.nodes.get(&alloc.node)?)?;
    Some((IpAddr::V4(address), alloc.port?))
}

fn three() -> Scenario {
    let mut scenario = Scenario::nodes(NODES);
    scenario.images(&["web:1", "web:2"]);
    scenario.run(&web(1));
    scenario
}

#[test]
fn once_a_deploy_is_done_every_node_names_what_it_brought_and_nothing_else() {
    let mut scenario = three();
    let before = asks(&scenario.world, 1, "web.mill", Kind::A);
    let number = scenario.start(&web(2));
    let is_over = |world: &World| world.cluster().deploys[&number].state.is_end();
    while !is_over(&scenario.world) {
        scenario.wait(Millis(100));
        for node in 1..=NODES {
            let address = asks(&scenario.world, node, "web.mill", Kind::A);
            assert_eq!(address, before, "the address of a service stays");
            assert!(!places(&scenario.world, node).is_empty(), "somebody is always named");
        }
    }
    let right = right_places(&scenario);
    for node in 1..=NODES {
        assert_eq!(places(&scenario.world, node), right, "node {node}");
    }
}

#[test]
fn a_name_of_a_slot_is_the_address_of_its_node_in_the_mesh() {
    let scenario = three();
    let cluster = scenario.world.cluster();
    for alloc in scenario.allocs("web").values() {
        let name = format!("{}.web.mill", alloc.slot.index);
        let address = cluster.mesh_address(&cluster.nodes[&alloc.node]).unwrap();
        for node in 1..=NODES {
            let found = asks(&scenario.world, node, &name, Kind::A);
            assert_eq!(found, Some(vec![Data::A(address)]), "{name}");
        }
    }
}

#[test]
fn a_node_that_hears_nobody_answers_with_what_it_knew_and_follows_when_it_is_back() {
    let mut scenario = three();
    let knew = places(&scenario.world, 3);
    scenario.world.inject(crate::alone(NodeId(3), NODES), Millis::mins(5));
    scenario.until("it is called down", |world| !world.cluster().is_up(NodeId(3)));
    scenario.deploy(&web(2));
    assert_eq!(places(&scenario.world, 3), knew, "it is excused, and knows no better");
    scenario.settled();
    let right = right_places(&scenario);
    assert!(right != knew && places(&scenario.world, 3) == right);
}

#[test]
fn what_was_on_a_lost_node_is_named_no_more() {
    let mut scenario = three();
    scenario.world.inject(Fault::PowerOff(NodeId(3)), Millis::mins(30));
    scenario.until("it is called down", |world| !world.cluster().is_up(NodeId(3)));
    scenario.wait(Millis::secs(2));
    let cluster = scenario.world.cluster();
    let there = cluster.allocs.values().filter(|alloc| alloc.node == NodeId(3));
    let gone: Places = there.filter_map(|alloc| place(cluster, alloc)).collect();
    assert!(!gone.is_empty() && places(&scenario.world, 1).is_disjoint(&gone));
}

#[test]
fn a_service_that_is_removed_has_no_name() {
    let mut scenario = three();
    let other = "[service.other]\nimage = \"web:1\"\n";
    scenario.run(other);
    for node in 1..=NODES {
        assert_eq!(asks(&scenario.world, node, "web.mill", Kind::A), Some(Vec::new()));
    }
}

/// Seed 0x1518 has it between people and other faults.
#[test]
fn a_node_that_is_heard_and_hears_nothing_is_waited_for_until_the_deadline() {
    let mut scenario = Scenario::nodes(2);
    scenario.images(&["web:1"]);
    let deadline = "[service.web.update]\ndeadline = \"60s\"\n";
    let number = scenario.start(&[&web(1), deadline].concat());
    scenario.until("all begin", |world| {
        let allocs = world.cluster().allocs.values();
        allocs.filter(|alloc| alloc.status.phase != Phase::Placed).count() == 3
    });
    scenario.world.inject(Fault::Blocked(vec![(NodeId(1), NodeId(2))]), Millis::mins(5));
    scenario.wait(Millis::secs(50));
    assert_eq!(scenario.world.cluster().running_deploy().map(|(number, _)| number), Some(number));
    assert!(scenario.world.cluster().is_up(NodeId(2)));
    assert_eq!(scenario.end_of(number), DeployState::Succeeded);
    assert!(places(&scenario.world, 2).len() < 3, "{}", scenario.story());
    scenario.settled();
    assert_eq!(places(&scenario.world, 2), right_places(&scenario));
}
