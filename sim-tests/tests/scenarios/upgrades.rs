//! Programs of two versions in one cluster: which rules it uses, and what an old one is told.

use mill_core::api::{ErrorCode, Request};
use mill_core::cluster::{EVENTS_KEPT_IN_REHEARSAL, FeatureLevel};
use mill_core::name::NodeId;
use mill_core::units::Millis;
use mill_runtime_sim::Params;
use mill_sim_tests::Scenario;

use crate::WEB;
use crate::members::{ask, token};

fn level(scenario: &Scenario) -> FeatureLevel {
    scenario.world.cluster().features
}

/// Each node gets the next program in turn; the leader goes first, so that one that knows more than
/// the others leads for a while.
fn upgrade(scenario: &mut Scenario, pause: Millis) {
    let nodes: Vec<NodeId> = scenario.world.cluster().nodes.keys().copied().collect();
    let leader = scenario.world.leader().expect("a settled cluster has one");
    let others = nodes.iter().copied().filter(|node| *node != leader);
    for node in std::iter::once(leader).chain(others) {
        assert_eq!(level(scenario), FeatureLevel::FIRST, "some do not know more yet");
        scenario.world.install(node, FeatureLevel::REHEARSAL);
        scenario.until("the node is back", |world| {
            let record = &world.cluster().nodes[&node];
            let knows_more = record.facts.supports == FeatureLevel::REHEARSAL;
            record.is_up() && (knows_more || world.cluster().features > FeatureLevel::FIRST)
        });
        scenario.wait(pause);
    }
}

#[test]
fn the_rules_change_when_the_last_node_knows_them_and_the_state_is_the_same_everywhere() {
    let mut scenario = Scenario::with(Params {
        services: 4,
        people: 2,
        pause: Millis::secs(4),
        turmoil: Millis::mins(10),
        ..Params::calm(7, 5)
    });
    scenario.world.begin_people();
    scenario.wait(Millis::secs(60));
    let happened = |scenario: &Scenario| scenario.world.cluster().history.events.len();
    assert!(happened(&scenario) > EVENTS_KEPT_IN_REHEARSAL, "the rules make a difference");
    upgrade(&mut scenario, Millis::secs(20));
    assert_eq!(level(&scenario), FeatureLevel::REHEARSAL);
    scenario.wait(Millis::secs(60));
    assert!(happened(&scenario) <= EVENTS_KEPT_IN_REHEARSAL);
    // That states are equal is what `equal_state` looks at all the while, and this at the end.
    scenario.settled();
    scenario.world.compare_all();
}

#[test]
fn a_machine_with_an_old_program_is_told_so_when_it_wants_to_join() {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1"]);
    scenario.run(WEB);
    upgrade(&mut scenario, Millis::secs(1));
    token(&mut scenario, "t", None, false);
    let old = ask(&scenario, "t", "old");
    let refusal = scenario.refusal(Request::Join(Box::new(old)));
    assert_eq!(refusal.code, ErrorCode::Unsupported);
    let told = "this mill supports feature level 1, and the cluster uses 2: it is too old";
    assert_eq!(refusal.message, told);
}

#[test]
#[should_panic(expected = "install the version that the other nodes run")]
fn a_program_that_is_too_old_stops_and_says_so() {
    let mut scenario = Scenario::nodes(3);
    upgrade(&mut scenario, Millis::secs(1));
    scenario.settled();
    scenario.world.install(NodeId(3), FeatureLevel::FIRST);
    scenario.wait(Millis::secs(10));
}
