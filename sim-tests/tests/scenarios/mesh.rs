//! The encrypted network between nodes: who is in it, how it is found again after keys were
//! replaced, and how a cluster moves into it.

use std::collections::BTreeSet;

use mill_core::api::view::NodeDetail;
use mill_core::api::{Answer, ErrorCode, Request};
use mill_core::name::NodeId;
use mill_core::units::Millis;
use mill_runtime_sim::{Fault, Params, World};
use mill_sim_tests::Scenario;

use crate::members::{ask, token};
use crate::{WEB, alone};

fn rotate(scenario: &mut Scenario, node: u64) {
    let asked = scenario.ask(Request::RotateKey { node: NodeId(node).to_string() });
    assert_eq!(asked, Ok(Answer::Done));
    scenario.until("the key is known", |world| {
        let record = &world.cluster().nodes[&NodeId(node)];
        record.facts.mesh.as_ref().is_some_and(|facts| facts.serial == record.rotate_to)
    });
}

fn detail(scenario: &mut Scenario, node: &str) -> NodeDetail {
    let asked = scenario.ask(Request::Node { node: node.to_owned(), stale: false });
    let Ok(Answer::Node(detail)) = asked else { panic!("{asked:?}") };
    *detail
}

fn all_have_met(world: &World, nodes: u64) -> bool {
    (1..=nodes).all(|one| (1..one).all(|other| world.have_met(NodeId(one), NodeId(other))))
}

/// A cluster of three whose programs know no mesh for its first minute.
fn from_before() -> Scenario {
    Scenario::with(Params { mesh_after: Millis::secs(60), ..Params::calm(1, 3) })
}

#[test]
fn nodes_speak_through_the_mesh_from_the_beginning() {
    let mut scenario = Scenario::nodes(3);
    scenario.settled();
    let cluster = scenario.world.cluster();
    assert!(cluster.mesh_only && all_have_met(&scenario.world, 3));
    let addresses = cluster.nodes.values().filter_map(|record| cluster.mesh_address(record));
    assert_eq!(addresses.collect::<BTreeSet<_>>().len(), 3);
}

#[test]
fn requests_go_to_replicas_through_the_mesh() {
    let mut scenario = Scenario::nodes(2);
    scenario.images(&["web:1"]);
    scenario.run(WEB);
    let (cluster, tables) =
        (scenario.world.cluster(), mill_core::net::Tables::of(scenario.world.cluster()));
    let replica = tables.services.values().next().unwrap().replicas().next().unwrap();
    let address = cluster.mesh_address(&cluster.nodes[&replica.node]).unwrap();
    assert_eq!(replica.host, address);
}

#[test]
fn a_machine_without_a_mesh_is_not_admitted_to_one() {
    let mut scenario = Scenario::nodes(1);
    scenario.settled();
    token(&mut scenario, "t", None, false);
    let without = mill_core::api::JoinAsk { mesh: None, ..ask(&scenario, "t", "b") };
    let refused = scenario.refusal(Request::Join(Box::new(without)));
    assert_eq!(refused.code, ErrorCode::Unsupported);
    assert!(refused.message.contains("WireGuard") && refused.hint.is_some(), "{refused}");
}

#[test]
fn an_address_of_a_node_that_was_removed_rests() {
    let mut scenario = Scenario::nodes(2);
    scenario.settled();
    let removed = Request::RemoveNode { node: "n2".to_owned(), force: true };
    scenario.world.inject(Fault::PowerOff(NodeId(2)), Millis::mins(60));
    assert_eq!(scenario.ask(removed), Ok(Answer::Done));
    token(&mut scenario, "t", None, false);
    let asks = ask(&scenario, "t", "b");
    assert!(scenario.ask(Request::Join(Box::new(asks))).is_ok());
    let addresses = scenario.world.cluster().nodes.values().map(|record| record.address);
    assert_eq!(addresses.collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn nodes_that_were_there_before_move_into_the_mesh_and_their_containers_run_on() {
    let mut scenario = from_before();
    scenario.images(&["web:1"]);
    let state = scenario.deploy(WEB);
    assert!(state.is_end() && !scenario.world.cluster().mesh_only);
    let before = scenario.allocs("web");
    scenario.until("they speak through the mesh", |world| world.cluster().mesh_only);
    scenario.settled();
    let after = scenario.allocs("web");
    assert!(before.keys().eq(after.keys()), "{}", scenario.story());
    let restarts = after.values().map(|alloc| alloc.status.restarts).sum::<u32>();
    assert_eq!(restarts, 0, "{}", scenario.story());
}

#[test]
fn a_cluster_stays_outside_while_two_nodes_do_not_meet() {
    for seed in 0..20 {
        let calm = Params::calm(seed, 2);
        let params = Params { firewall: true, mesh_after: Millis::secs(20), ..calm };
        let mut scenario = Scenario::with(params);
        scenario.wait(Millis::mins(2));
        let cluster = scenario.world.cluster();
        assert!(cluster.nodes.values().all(|record| record.address != 0), "all could be inside");
        assert!(!cluster.mesh_only);
    }
}

#[test]
fn a_node_that_is_away_keeps_the_others_outside_until_it_is_back() {
    let mut scenario = from_before();
    scenario.world.inject(Fault::PowerOff(NodeId(3)), Millis::mins(10));
    scenario.wait(Millis::mins(5));
    assert!(!scenario.world.cluster().mesh_only);
    scenario.until("they speak through the mesh", |world| world.cluster().mesh_only);
}

#[test]
fn a_key_is_replaced_and_everybody_is_met_again() {
    let mut scenario = Scenario::nodes(3);
    scenario.settled();
    for node in [1, 2, 3, 1] {
        rotate(&mut scenario, node);
        scenario.until("all have met", |world| all_have_met(world, 3));
    }
    scenario.settled();
}

#[test]
fn a_node_that_was_away_while_all_keys_were_replaced_finds_the_others() {
    let mut scenario = Scenario::nodes(3);
    scenario.settled();
    scenario.world.inject(Fault::PowerOff(NodeId(3)), Millis::mins(2));
    rotate(&mut scenario, 1);
    rotate(&mut scenario, 2);
    scenario.settled();
    assert!(all_have_met(&scenario.world, 3));
}

#[test]
fn a_node_that_was_away_for_long_finds_a_cluster_whose_nodes_it_never_knew() {
    let mut scenario = Scenario::nodes(3);
    scenario.settled();
    scenario.world.inject(alone(NodeId(3), 12), Millis::mins(30));
    scenario.world.buy_machine();
    scenario.world.buy_machine();
    let joined = |world: &World| [4, 5].iter().all(|id| world.cluster().is_up(NodeId(*id)));
    scenario.until("two more have joined", joined);
    for node in [1, 2] {
        rotate(&mut scenario, node);
    }
    scenario.settled();
    assert!(all_have_met(&scenario.world, 5));
}

#[test]
fn a_key_is_not_replaced_while_the_others_cannot_be_told() {
    let mut scenario = Scenario::nodes(3);
    scenario.settled();
    scenario.world.inject(Fault::OutsideClosed, Millis::mins(5));
    let asked = scenario.ask(Request::RotateKey { node: "n2".to_owned() });
    assert_eq!(asked, Ok(Answer::Done));
    scenario.wait(Millis::mins(4));
    assert!(all_have_met(&scenario.world, 3));
    assert!(detail(&mut scenario, "n2").key_due);
    scenario.until("it is replaced", |world| {
        let record = &world.cluster().nodes[&NodeId(2)];
        record.facts.mesh.as_ref().is_some_and(|facts| facts.serial == record.rotate_to)
    });
    scenario.settled();
    assert!(all_have_met(&scenario.world, 3) && !detail(&mut scenario, "n2").key_due);
}

#[test]
fn a_node_that_is_down_does_not_keep_another_from_replacing_its_key() {
    let mut scenario = Scenario::nodes(3);
    scenario.settled();
    scenario.world.inject(Fault::PowerOff(NodeId(3)), Millis::mins(30));
    rotate(&mut scenario, 2);
}

#[test]
fn a_key_that_nobody_could_be_told_is_told_once_somebody_listens() {
    let mut scenario = Scenario::nodes(3);
    scenario.settled();
    rotate(&mut scenario, 2);
    // The disk loses it while the others cannot be told which it has then.
    scenario.world.inject(Fault::OutsideClosed, Millis::mins(2));
    scenario.world.lose_key(NodeId(2));
    scenario.wait(Millis::secs(90));
    assert!(!all_have_met(&scenario.world, 3));
    scenario.settled();
    assert!(all_have_met(&scenario.world, 3));
}

#[test]
fn a_node_whose_disk_lost_its_key_makes_one_that_the_others_take_for_newer() {
    let mut scenario = Scenario::nodes(3);
    scenario.settled();
    let serial = |world: &World| {
        let record = &world.cluster().nodes[&NodeId(2)];
        record.facts.mesh.as_ref().unwrap().serial
    };
    // Others know one of the same serial, and later one of a higher.
    for expected in [2, 5] {
        while serial(&scenario.world) + 1 < expected {
            rotate(&mut scenario, 2);
        }
        scenario.world.lose_key(NodeId(2));
        scenario.settled();
        assert!(all_have_met(&scenario.world, 3));
        scenario.until("its key is known", |world| serial(world) == expected);
    }
}

#[test]
fn a_node_that_is_alone_and_in_no_mesh_any_more_can_be_joined() {
    let mut scenario = Scenario::nodes(1);
    scenario.settled();
    assert!(scenario.world.cluster().mesh_only);
    scenario.world.leave_mesh(NodeId(1));
    scenario.until("it speaks outside", |world| !world.cluster().mesh_only);
    token(&mut scenario, "t", None, false);
    let asks = ask(&scenario, "t", "b");
    assert!(scenario.ask(Request::Join(Box::new(asks))).is_ok());
}

#[test]
fn a_node_without_a_mesh_has_no_key_to_replace() {
    let mut scenario = from_before();
    let refused = scenario.refusal(Request::RotateKey { node: "n2".to_owned() });
    assert_eq!(refused.code, ErrorCode::Conflict);
    assert!(refused.hint.is_some(), "{refused}");
}
