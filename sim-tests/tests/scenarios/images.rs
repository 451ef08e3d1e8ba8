//! Images that are not needed any more go, and no others.

use mill_core::name::NodeId;
use mill_core::units::Millis;
use mill_runtime_sim::{Fault, Params};
use mill_sim_tests::Scenario;

use crate::WEB;

/// Images on the node that has the most.
fn most(scenario: &Scenario) -> usize {
    scenario.world.hosts().map(|host| host.engine.images().count()).max().unwrap_or(0)
}

fn web(version: u32) -> String {
    WEB.replace("web:1", &format!("web:{version}"))
}

#[test]
fn a_node_keeps_the_images_of_the_last_three_versions() {
    let mut scenario = Scenario::nodes(2);
    for version in 1..=8 {
        scenario.images(&[&format!("web:{version}")]);
        scenario.run(&web(version));
        // Whoever deploys one after the other is not disturbed by it.
        scenario.wait(Millis::secs(20));
    }
    scenario.wait(Millis::mins(3));
    assert_eq!(most(&scenario), 3);
    scenario.wait(Millis::mins(30));
    assert_eq!(most(&scenario), 3);
    scenario.run(&web(7));
}

#[test]
fn what_is_removed_leaves_no_image_once_nobody_can_go_back_to_it() {
    let mut scenario = Scenario::nodes(1);
    scenario.images(&["web:1", "api:1"]);
    let api = "[service.api]\nimage = \"api:1\"\n";
    scenario.run(&format!("{WEB}{api}"));
    for version in 2..=14 {
        scenario.images(&[&format!("web:{version}")]);
        scenario.run(&web(version));
    }
    scenario.wait(Millis::mins(3));
    assert_eq!(most(&scenario), 3);
}

#[test]
fn an_engine_that_is_away_is_asked_again() {
    let mut scenario = Scenario::nodes(1);
    for version in 1..=5 {
        scenario.images(&[&format!("web:{version}")]);
        scenario.run(&web(version));
    }
    scenario.world.inject(Fault::EngineDown(NodeId(1)), Millis::mins(5));
    scenario.wait(Millis::mins(4));
    assert_eq!(most(&scenario), 5);
    scenario.wait(Millis::mins(20));
    assert_eq!(most(&scenario), 3);
}

#[test]
fn what_is_fetched_again_while_images_are_removed_waits_for_that_and_runs() {
    // A node's engine takes its time, so that the return comes while it removes what it is for.
    for after in 55..75 {
        let mut scenario = Scenario::with(Params {
            engine: (Millis::secs(2), Millis::secs(2)),
            ..Params::calm(after, 1)
        });
        for version in 1..=5 {
            scenario.images(&[&format!("web:{version}")]);
            scenario.run(&web(version));
        }
        scenario.wait(Millis::secs(after));
        scenario.run(&web(1));
    }
}
