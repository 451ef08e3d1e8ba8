//! Nodes that are lost, cut off, slow or wrong about the time.

use mill_core::api::{Answer, ErrorCode, Request};
use mill_core::cluster::deploy::DeployState;
use mill_core::event::Leadership;
use mill_core::name::NodeId;
use mill_core::units::Millis;
use mill_runtime_sim::Fault;
use mill_sim_tests::{Scenario, project};

use crate::WEB;

fn three_replicas() -> String {
    WEB.replace("port = 8080", "port = 8080\nreplicas = 3")
}

/// Nothing gets through between these nodes and the others.
fn cut(alone: &[u64], nodes: u64) -> Fault {
    let others = (1..=nodes).filter(|id| !alone.contains(id));
    let both = |one: u64, other: u64| [(NodeId(one), NodeId(other)), (NodeId(other), NodeId(one))];
    Fault::Blocked(others.flat_map(|o| alone.iter().flat_map(move |a| both(*a, o))).collect())
}

#[test]
fn a_node_that_is_lost_has_its_replicas_elsewhere_within_twelve_seconds() {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1"]);
    scenario.run(&three_replicas());
    let leader = scenario.world.leader().expect("settled").0;
    let lost = NodeId(if leader == 3 { 2 } else { 3 });
    let begun = scenario.world.now();
    scenario.world.inject(Fault::PowerOff(lost), Millis::mins(5));
    scenario.until("its replica is healthy elsewhere", |world| {
        let name = "web".parse().expect("a name");
        let healthy = world.cluster().allocs_of(&name).filter(|(id, alloc)| {
            let container = world.host(alloc.node).engine.container(id);
            alloc.node != lost && container.is_some_and(|c| c.serves(world.now()))
        });
        healthy.count() == 3
    });
    let took = scenario.world.now().since(begun);
    assert!(took <= Millis::secs(12), "{took}");
}

#[test]
fn a_node_that_comes_back_stops_what_was_replaced_meanwhile() {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1"]);
    scenario.run(&three_replicas());
    let leader = scenario.world.leader().expect("settled").0;
    let cut_off = if leader == 3 { 2 } else { 3 };
    scenario.world.inject(cut(&[cut_off], 3), Millis::secs(40));
    scenario.wait(Millis::secs(39));
    assert_eq!(scenario.processes().len(), 4, "the node that is cut off keeps its container");
    scenario.settled();
    assert_eq!(scenario.processes().len(), 3);
}

#[test]
fn a_minority_refuses_writes_and_keeps_its_containers() {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1", "web:2"]);
    scenario.run(&three_replicas());
    let processes = scenario.processes();
    let leader = scenario.world.leader().expect("settled");
    scenario.world.inject(cut(&[leader.0], 3), Millis::secs(60));
    scenario.wait(Millis::secs(1));
    let second = Box::new(project(&three_replicas().replace("web:1", "web:2")));
    let request = Request::Deploy { project: second, expect: None, keep_going: false };
    let refusal = scenario.world.request(leader, request).expect_err("it has no quorum");
    assert_eq!(refusal.code, ErrorCode::NoLeader);
    let mine: Vec<_> = processes.keys().filter(|id| scenario.container(id).is_some()).collect();
    assert_eq!(mine.len(), 3, "nothing was stopped");
    scenario.settled();
    assert_eq!(scenario.healthy("web"), 3);
}

#[test]
fn a_leader_change_by_itself_moves_nothing() {
    let mut scenario = Scenario::nodes(5);
    scenario.images(&["web:1"]);
    scenario.run(&three_replicas());
    let (processes, operations) = (scenario.processes(), scenario.world.activity().1);
    for _ in 0..5 {
        scenario.world.inject(Fault::Depose, Millis(0));
        scenario.wait(Millis::secs(20));
        scenario.settled();
    }
    assert_eq!(scenario.processes(), processes);
    assert_eq!(scenario.world.activity().1, operations);
}

#[test]
fn clocks_that_are_an_hour_wrong_change_nothing() {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1", "web:2"]);
    scenario.run(&three_replicas());
    let processes = scenario.processes();
    for (node, by) in [(1, 3_600_000), (2, -3_600_000), (3, 1_800_000)] {
        scenario.world.inject(Fault::ClockJump(NodeId(node), by), Millis::mins(10));
    }
    scenario.wait(Millis::mins(2));
    assert_eq!(scenario.processes(), processes);
    scenario.run(&three_replicas().replace("web:1", "web:2"));
}

#[test]
fn a_node_that_only_hears_is_down_and_one_that_only_speaks_is_not_told() {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1"]);
    scenario.run(&three_replicas());
    let leader = scenario.world.leader().expect("settled");
    let other = NodeId(leader.0 % 3 + 1);
    scenario.world.inject(Fault::Blocked(vec![(other, leader)]), Millis::secs(60));
    scenario.until("it is called down", |world| !world.cluster().is_up(other));
    assert_eq!(scenario.world.leader(), Some(leader), "the leader has a quorum without it");
    scenario.settled();
}

#[test]
fn a_node_that_stood_still_does_not_act_on_what_it_thought_before() {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1", "web:2"]);
    scenario.run(&three_replicas());
    let leader = scenario.world.leader().expect("settled");
    let number = scenario.start(&three_replicas().replace("web:1", "web:2"));
    scenario.wait(Millis::secs(3));
    // Long enough for another to lead; when it goes on it still believes that it leads itself.
    scenario.world.inject(Fault::Freeze(leader), Millis::secs(20));
    scenario.until("another leads", |world| world.leader().is_some_and(|now| now != leader));
    let believes = scenario.world.beliefs()[&leader];
    assert!(matches!(believes, Leadership::Leader { .. }), "{believes:?}");
    assert!(scenario.end_of(number).is_end());
    scenario.settled();
}

#[test]
fn twenty_nodes_form_and_converge() {
    let mut scenario = Scenario::nodes(20);
    scenario.images(&["web:1"]);
    scenario.run(&WEB.replace("port = 8080", "port = 8080\nreplicas = \"each-node\""));
    assert_eq!(scenario.healthy("web"), 20);
    for node in [3, 9, 14] {
        scenario.world.inject(Fault::PowerOff(NodeId(node)), Millis::secs(30));
    }
    scenario.settled();
    assert_eq!(scenario.healthy("web"), 20);
}

#[test]
fn a_node_lost_while_images_are_resolved_is_made_up_for() {
    // What was placed then was refused, again and again (found by seed 0x5537).
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1", "web:2"]);
    scenario.run(&three_replicas());
    let leader = scenario.world.leader().expect("settled").0;
    let lost = NodeId(if leader == 3 { 2 } else { 3 });
    scenario.world.inject(Fault::RegistryDown, Millis::secs(40));
    let number = scenario.start(&three_replicas().replace("web:1", "web:2"));
    scenario.world.inject(Fault::PowerOff(lost), Millis::mins(5));
    scenario.until("three replicas are healthy without it", |world| {
        let name = "web".parse().expect("a name");
        let served = world.cluster().allocs_of(&name).filter(|(id, alloc)| {
            let container = world.host(alloc.node).engine.container(id);
            container.is_some_and(|container| container.serves(world.now()))
        });
        served.count() == 3
    });
    assert_eq!(scenario.world.cluster().deploys[&number].state, DeployState::Resolving);
    assert!(scenario.end_of(number).is_end());
}

#[test]
fn slots_that_no_node_takes_for_the_same_reasons_are_told_of_in_one_sentence() {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1"]);
    scenario.run(&WEB.replace("port = 8080", "port = 8080\nreplicas = 4"));
    for node in ["n2", "n3"] {
        let node = node.to_owned();
        assert_eq!(scenario.ask(Request::Drain { node, on: true }), Ok(Answer::Done));
    }
    scenario.until("all are on the first", |world| {
        world.cluster().allocs_on(NodeId(1)).filter(|(_, alloc)| alloc.is_live()).count() == 4
    });
    scenario.wait(Millis::secs(30));
    scenario.world.inject(Fault::PowerOff(NodeId(1)), Millis::mins(2));
    scenario.until("it is down", |world| !world.cluster().is_up(NodeId(1)));
    scenario.wait(Millis::secs(5));
    let status = scenario.ask(Request::Status { stale: false });
    let Ok(Answer::Status(status)) = status else { panic!("{status:?}") };
    let reasons = "m2, m3: each is draining, m1 is down";
    let told = format!("web slots 0-3: no node can take them: {reasons}");
    assert_eq!(status.services[0].waiting, [told]);
}
