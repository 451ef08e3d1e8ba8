//! Ports that are given up while a node is cut off, and still sends to them.

use mill_core::api::Request;
use mill_core::cluster::deploy::DeployState;
use mill_core::name::NodeId;
use mill_core::units::Millis;
use mill_sim_tests::Scenario;

const NODES: u64 = 3;
const PORT: u16 = 6379;

/// A service that owns its port on both nodes that it may be on.
fn owner(name: &str, version: u32) -> String {
    format!(
        "[service.{name}]\nimage = \"{name}:{version}\"\nport = {PORT}\nfixed_port = true\n\
         replicas = 2\nplace.require = {{ disk = \"fast\" }}\n"
    )
}

/// `old` runs on two of three nodes and is removed while the third is cut off; `new` is to have its
/// port.
fn replaced() -> (Scenario, u64) {
    let mut scenario = Scenario::nodes(NODES);
    scenario.images(&["old:1", "old:2", "new:1"]);
    for node in ["n1", "n2"] {
        label(&mut scenario, node);
    }
    scenario.run(&owner("old", 1));
    scenario.world.inject(crate::alone(NodeId(3), NODES), Millis::mins(5));
    scenario.until("it is called down", |world| !world.cluster().is_up(NodeId(3)));
    assert_eq!(scenario.deploy("[service.other]\nimage = \"new:1\"\n"), DeployState::Succeeded);
    let number = scenario.start(&owner("new", 1));
    (scenario, number)
}

fn label(scenario: &mut Scenario, node: &str) {
    let set = [("disk".to_owned(), "fast".to_owned())].into();
    let request = Request::Label { node: node.to_owned(), set, remove: Vec::new() };
    scenario.ask(request).expect("the node is known");
}

#[test]
fn another_service_gets_a_port_once_the_node_that_was_cut_off_knows_that_it_was_given_up() {
    let (mut scenario, number) = replaced();
    scenario.wait(Millis::mins(1));
    assert!(scenario.allocs("new").is_empty(), "{}", scenario.story());
    let resting: Vec<u16> =
        scenario.world.cluster().resting.values().flat_map(|ports| ports.keys().copied()).collect();
    assert_eq!(resting, [PORT, PORT]);
    assert_eq!(scenario.end_of(number), DeployState::Succeeded);
    assert_eq!(scenario.healthy("new"), 2);
    assert!(scenario.world.cluster().resting.is_empty());
}

#[test]
fn removing_the_node_that_was_cut_off_frees_the_port() {
    let (mut scenario, number) = replaced();
    let removed = scenario.ask(Request::RemoveNode { node: "n3".to_owned(), force: true });
    removed.expect("it is down");
    scenario.wait(Millis::secs(30));
    assert_eq!(scenario.healthy("new"), 2, "{}", scenario.story());
    assert_eq!(scenario.end_of(number), DeployState::Succeeded);
}

#[test]
fn the_same_service_has_its_port_again_whoever_is_cut_off() {
    let mut scenario = Scenario::nodes(NODES);
    scenario.images(&["old:1", "old:2"]);
    for node in ["n1", "n2"] {
        label(&mut scenario, node);
    }
    scenario.run(&owner("old", 1));
    scenario.world.inject(crate::alone(NodeId(3), NODES), Millis::mins(30));
    scenario.until("it is called down", |world| !world.cluster().is_up(NodeId(3)));
    assert_eq!(scenario.deploy(&owner("old", 2)), DeployState::Succeeded);
}
