//! Gray failures: nodes that are half there, leaders in trouble, and silence that means little.

use mill_core::name::NodeId;
use mill_core::units::Millis;
use mill_runtime_sim::{Fault, World};
use mill_sim_tests::Scenario;

use crate::WEB;

fn replicas(count: u64) -> String {
    let health = "path = \"/\"\ninterval = \"1s\"";
    WEB.replace("port = 8080", &format!("port = 8080\nreplicas = {count}"))
        .replace("path = \"/\"", health)
}

/// A cluster in which `web` runs with that many replicas.
fn running(nodes: u64, count: u64) -> Scenario {
    let mut scenario = Scenario::nodes(nodes);
    scenario.images(&["web:1"]);
    scenario.run(&replicas(count));
    scenario
}

fn leader(scenario: &Scenario) -> NodeId {
    scenario.world.leader().expect("somebody leads")
}

/// The nodes that do not lead, from the last to the first.
fn followers(scenario: &Scenario) -> Vec<NodeId> {
    let leader = leader(scenario);
    let mut others: Vec<NodeId> = scenario.world.hosts().map(|host| host.id).collect();
    others.retain(|node| *node != leader);
    others.reverse();
    others
}

fn count(world: &World, what: &str) -> u64 {
    world.stats().counts.get(what).copied().unwrap_or(0)
}

fn down(world: &World) -> usize {
    world.cluster().nodes.values().filter(|record| !record.is_up()).count()
}

#[test]
fn a_leader_that_does_not_hear_many_hands_its_lead_on_and_nothing_moves() {
    // It reaches a quorum, so consensus finds no fault with it; seven of twenty do not reach it.
    let mut scenario = running(20, 20);
    let (processes, before) = (scenario.processes(), leader(&scenario));
    let deaf_to = followers(&scenario).into_iter().take(7).map(|node| (node, before)).collect();
    scenario.world.inject(Fault::Blocked(deaf_to), Millis::mins(2));
    scenario.until("another leads", |world| world.leader().is_some_and(|now| now != before));
    scenario.wait(Millis::mins(3));
    assert_eq!(count(&scenario.world, "leads handed on"), 1);
    assert_eq!(down(&scenario.world), 0);
    assert_eq!(scenario.processes(), processes, "{}", scenario.story());
}

#[test]
fn many_that_are_really_gone_are_called_down_after_one_hand_over_and_two_windows() {
    let mut scenario = running(5, 5);
    let begun = scenario.world.now();
    for node in followers(&scenario).into_iter().take(2) {
        scenario.world.inject(Fault::PowerOff(node), Millis::mins(10));
    }
    scenario.until("they are called down", |world| down(world) == 2);
    let took = scenario.world.now().since(begun);
    assert!(took >= Millis::secs(15) && took < Millis::secs(19), "{took}");
    scenario.until("all replicas are healthy without them", |world| serving(world) == 5);
    scenario.wait(Millis::mins(2));
    assert_eq!(count(&scenario.world, "leads handed on"), 1, "{}", scenario.story());
}

#[test]
fn a_third_of_the_nodes_is_not_many_and_neither_is_one_of_two() {
    for (nodes, lost) in [(3, 1), (6, 2), (2, 1)] {
        let mut scenario = running(nodes, nodes);
        for node in followers(&scenario).into_iter().take(lost) {
            scenario.world.inject(Fault::PowerOff(node), Millis::mins(1));
        }
        scenario.wait(Millis::secs(30));
        assert_eq!(count(&scenario.world, "leads handed on"), 0);
        // One of two cannot write that the other is down.
        let called = if nodes == 2 { 0 } else { lost };
        assert_eq!(down(&scenario.world), called, "of {nodes}: {}", scenario.story());
        scenario.settled();
    }
}

#[test]
fn nodes_that_fall_silent_shortly_after_each_other_count_as_many() {
    let mut scenario = running(5, 5);
    let mut others = followers(&scenario).into_iter();
    for node in others.by_ref().take(2) {
        scenario.world.inject(Fault::PowerOff(node), Millis::mins(10));
        scenario.wait(Millis::secs(5));
    }
    scenario.until("the first is called down", |world| down(world) == 1);
    scenario.until("the second is called down", |world| down(world) == 2);
    assert_eq!(count(&scenario.world, "leads handed on"), 1, "{}", scenario.story());
}

#[test]
fn a_leader_whose_heir_is_not_able_waits_a_window_and_goes_ahead() {
    let mut scenario = running(8, 8);
    let before = leader(&scenario);
    // Whoever would be asked never hears of it: nothing leaves the leader but towards a quorum
    // that stays silent about it.
    let begun = scenario.world.now();
    let gone: Vec<NodeId> = followers(&scenario).into_iter().take(3).collect();
    let heir = followers(&scenario).pop().expect("others follow");
    for node in gone {
        scenario.world.inject(Fault::PowerOff(node), Millis::mins(10));
    }
    scenario.world.inject(Fault::Blocked(vec![(before, heir)]), Millis::mins(1));
    scenario.until("they are called down", |world| down(world) == 3);
    let took = scenario.world.now().since(begun);
    assert_eq!(leader(&scenario), before);
    assert!(took >= Millis::secs(15) && took < Millis::secs(19), "{took}");
}

/// Replicas of `web` that answer requests now.
fn serving(world: &World) -> usize {
    let name = "web".parse().expect("a name");
    let served = world.cluster().allocs_of(&name).filter(|(id, alloc)| {
        let container = world.host(alloc.node).engine.container(id);
        world.cluster().is_up(alloc.node)
            && container.is_some_and(|container| container.serves(world.now()))
    });
    served.count()
}
