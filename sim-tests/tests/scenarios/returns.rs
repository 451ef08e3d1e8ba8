//! Nodes that were away and come back: what still runs and is still wanted goes on, what was
//! replaced stops, and nobody else notices.

use std::collections::BTreeMap;

use mill_core::api::{ErrorCode, Request};
use mill_core::name::{AllocId, NodeId};
use mill_core::units::Millis;
use mill_runtime_sim::Fault;
use mill_sim_tests::{Scenario, project};

use crate::WEB;

/// `web` with a replica for each node, and `agent`, of which each node has its own.
fn config() -> String {
    let web = WEB.replace("port = 8080", "port = 8080\nreplicas = 3");
    let agent = "[service.agent]\nimage = \"agent:1\"\nreplicas = \"each-node\"\n";
    format!("{web}{agent}")
}

fn running() -> Scenario {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1", "agent:1", "web:2"]);
    scenario.run(&config());
    scenario
}

/// A node that does not lead.
fn some_follower(scenario: &Scenario) -> NodeId {
    let leader = scenario.world.leader().expect("settled");
    NodeId(leader.0 % 3 + 1)
}

fn cut_off(node: NodeId) -> Fault {
    let others = (1..=3).map(NodeId).filter(|other| *other != node);
    Fault::Blocked(others.flat_map(|other| [(node, other), (other, node)]).collect())
}

/// Processes on the other nodes, and that of `agent` on this one: what nothing may touch.
fn untouched(scenario: &Scenario, away: NodeId) -> BTreeMap<AllocId, u64> {
    let mut processes = scenario.processes();
    processes.retain(|id, _| {
        let alloc = &scenario.world.cluster().allocs[id];
        alloc.node != away || alloc.slot.service.as_str() == "agent"
    });
    processes
}

fn is_part_of(few: &BTreeMap<AllocId, u64>, all: &BTreeMap<AllocId, u64>) -> bool {
    few.iter().all(|(id, started)| all.get(id) == Some(started))
}

#[test]
fn who_was_away_for_less_than_a_window_is_not_missed() {
    for fault in [cut_off, Fault::Crash] {
        let mut scenario = running();
        let (node, leader) = (some_follower(&scenario), scenario.world.leader());
        let before = (scenario.processes(), scenario.world.activity().1);
        scenario.world.inject(fault(node), Millis::secs(5));
        scenario.wait(Millis::secs(30));
        scenario.settled();
        assert_eq!((scenario.processes(), scenario.world.activity().1), before);
        assert_eq!(scenario.world.leader(), leader);
    }
}

#[test]
fn who_was_away_for_longer_stops_what_was_replaced_and_goes_on_with_the_rest() {
    for length in [Millis::secs(30), Millis::mins(10)] {
        for fault in [cut_off, Fault::Crash] {
            let mut scenario = running();
            let (node, leader) = (some_follower(&scenario), scenario.world.leader());
            let before = untouched(&scenario, node);
            scenario.world.inject(fault(node), length);
            scenario.until("it is called down", |world| !world.cluster().is_up(node));
            scenario.until("it is back", |world| world.cluster().is_up(node));
            scenario.settled();
            let after = scenario.processes();
            assert_eq!(after.len(), 6, "{}", scenario.story());
            assert!(is_part_of(&before, &after), "{}", scenario.story());
            assert_eq!(scenario.world.leader(), leader, "it disturbs no leader");
        }
    }
}

#[test]
fn a_power_cycle_touches_nothing_on_other_machines() {
    for length in [Millis::secs(5), Millis::secs(30), Millis::mins(10)] {
        let mut scenario = running();
        let node = some_follower(&scenario);
        let mut before = untouched(&scenario, node);
        before.retain(|id, _| scenario.world.cluster().allocs[id].node != node);
        scenario.world.inject(Fault::PowerOff(node), length);
        scenario.wait(length);
        scenario.settled();
        assert!(is_part_of(&before, &scenario.processes()), "{}", scenario.story());
        assert_eq!((scenario.healthy("web"), scenario.healthy("agent")), (3, 3));
    }
}

#[test]
fn what_was_changed_while_a_node_was_away_is_made_up_for_when_it_is_back() {
    let mut scenario = running();
    let node = some_follower(&scenario);
    scenario.world.inject(cut_off(node), Millis::mins(5));
    scenario.until("it is called down", |world| !world.cluster().is_up(node));
    let second = config().replace("web:1", "web:2").replace("replicas = 3", "replicas = 2");
    scenario.deploy(&second);
    assert!(!scenario.world.cluster().is_up(node));
    scenario.settled();
    assert_eq!((scenario.healthy("web"), scenario.healthy("agent")), (2, 3));
    assert_eq!(scenario.processes().len(), 5);
}

#[test]
fn a_minority_keeps_what_it_runs_and_refuses_writes_in_words() {
    let mut scenario = running();
    let (node, before) = (some_follower(&scenario), scenario.processes());
    scenario.world.inject(cut_off(node), Millis::mins(2));
    scenario.wait(Millis::mins(1));
    let second = Box::new(project(&config().replace("web:1", "web:2")));
    let request = Request::Deploy { project: second, expect: None, keep_going: false };
    let refusal = scenario.world.request(node, request).expect_err("it has no quorum");
    // It passed the request on to whom it knows as the leader, and no answer came.
    assert_eq!(refusal.code, ErrorCode::Unknown);
    assert_eq!(scenario.world.cluster().last_deploy, 1, "nothing was changed");
    assert!(!refusal.message.is_empty() && refusal.hint.is_some(), "{refusal:?}");
    assert!(is_part_of(&before, &scenario.processes()), "nothing was stopped");
    // The majority has replaced what it cannot hear, and takes writes.
    assert_eq!(scenario.processes().len(), before.len() + 1);
    scenario.deploy(&config().replace("web:1", "web:2"));
}
