//! Engines, registries and disks that fail: named while they do, made up for afterwards.

use mill_core::api::{Answer, Request};
use mill_core::cluster::alloc::TroubleKind;
use mill_core::cluster::deploy::DeployState;
use mill_core::container::OpErrorKind;
use mill_core::name::NodeId;
use mill_core::units::Millis;
use mill_runtime_sim::{Fault, Params};
use mill_sim_tests::Scenario;

use crate::WEB;

/// What the deploy, the status and `why` say of `web`.
fn told(scenario: &mut Scenario) -> [String; 3] {
    let deploy = scenario.ask(Request::Deployment { number: None, seen: None, hold: Millis(0) });
    let Ok(Answer::Deployment(deploy)) = deploy else { panic!("there is a deploy: {deploy:?}") };
    let Ok(Answer::Status(status)) = scenario.ask(Request::Status { stale: false }) else {
        panic!("a status")
    };
    let why = scenario.ask(Request::Why { subject: "web".to_owned(), stale: false });
    let Ok(Answer::Why(why)) = why else { panic!("there is a reason: {why:?}") };
    let waiting = |lines: Vec<Vec<String>>| lines.concat().join("\n");
    [
        waiting(deploy.services.into_iter().map(|service| service.waiting).collect()),
        waiting(status.services.into_iter().map(|service| service.waiting).collect()),
        format!("{}\n{}", why.summary, why.because.join("\n")),
    ]
}

#[test]
fn an_engine_that_is_down_is_named_and_waited_for() {
    let mut scenario = Scenario::nodes(1);
    scenario.images(&["web:1"]);
    scenario.world.inject(Fault::EngineDown(NodeId(1)), Millis::secs(40));
    let number = scenario.start(WEB);
    scenario.wait(Millis::secs(10));
    for text in told(&mut scenario) {
        assert!(text.contains("engine does not answer"), "{text}\n{}", scenario.story());
    }
    assert_eq!(scenario.end_of(number), DeployState::Succeeded);
}

#[test]
fn a_registry_that_is_down_is_named_and_given_up_after_a_minute() {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1"]);
    scenario.world.inject(Fault::RegistryDown, Millis::mins(3));
    let number = scenario.start(WEB);
    scenario.wait(Millis::secs(15));
    for text in told(&mut scenario) {
        assert!(text.contains("registry does not answer"), "{text}");
    }
    let begun = scenario.world.now();
    let state = scenario.end_of(number);
    assert!(matches!(&state, DeployState::RolledBack { reason } if reason.contains("registry")));
    assert!(scenario.world.now().since(begun) < Millis::secs(60), "it is not waited for longer");
    scenario.wait(Millis::mins(3));
    scenario.run(WEB);
}

#[test]
fn a_registry_that_is_slow_to_fail_is_named_and_given_up_as_well() {
    let mut scenario = Scenario::nodes(1);
    scenario.images(&["web:1"]);
    scenario.world.inject(Fault::RegistryDown, Millis::mins(20));
    scenario.world.registry().fails_after = Millis::secs(20);
    let number = scenario.start(WEB);
    let begun = scenario.world.now();
    let state = scenario.end_of(number);
    assert!(matches!(&state, DeployState::RolledBack { reason } if reason.contains("registry")));
    assert!(scenario.world.now().since(begun) < Millis::secs(110), "it is not waited for longer");
}

#[test]
fn a_pool_port_that_is_taken_is_stepped_over_also_if_the_engine_fails_then() {
    let mut params = Params::calm(1, 1);
    params.engine = (Millis(500), Millis(500));
    let mut scenario = Scenario::with(params);
    scenario.images(&["web:1"]);
    scenario.world.inject(Fault::TakePort(NodeId(1), 20_000), Millis::mins(30));
    let number = scenario.start(WEB);
    scenario.until("the port is found taken", |world| {
        let troubles = world.cluster().allocs.values().filter_map(|a| a.status.trouble.as_ref());
        troubles.into_iter().any(|t| t.kind == TroubleKind::Op(OpErrorKind::PortTaken))
    });
    // What was made of it cannot be removed for a while.
    scenario.world.inject(Fault::EngineDown(NodeId(1)), Millis::secs(4));
    assert_eq!(scenario.end_of(number), DeployState::Succeeded, "{}", scenario.story());
}

#[test]
fn a_full_disk_is_named_and_made_up_for() {
    let mut scenario = Scenario::nodes(1);
    scenario.images(&["web:1"]);
    scenario.world.inject(Fault::DiskFull(NodeId(1)), Millis::secs(30));
    let number = scenario.start(WEB);
    scenario.wait(Millis::secs(10));
    for text in told(&mut scenario) {
        assert!(text.contains("no space is left"), "{text}");
    }
    assert_eq!(scenario.end_of(number), DeployState::Succeeded);
}

#[test]
fn a_port_that_another_program_took_is_stepped_over() {
    let mut scenario = Scenario::nodes(1);
    scenario.images(&["web:1"]);
    scenario.world.inject(Fault::TakePort(NodeId(1), 20_000), Millis::mins(30));
    scenario.run(WEB);
    assert_ne!(scenario.alloc("web").1.port, Some(20_000));
}

#[test]
fn a_fixed_port_that_another_program_owns_fails_the_deploy_and_is_named() {
    let mut scenario = Scenario::nodes(1);
    scenario.images(&["web:1"]);
    scenario.world.inject(Fault::TakePort(NodeId(1), 8080), Millis::mins(30));
    let state = scenario.deploy(&WEB.replace("port = 8080", "port = 8080\nfixed_port = true"));
    let named =
        matches!(&state, DeployState::RolledBack { reason } if reason.contains("port 8080"));
    assert!(named, "{state:?}");
    scenario.settled();
    assert!(scenario.processes().is_empty());
}

#[test]
fn an_engine_that_goes_away_in_a_rollout_loses_nothing() {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1", "web:2"]);
    let config = WEB.replace("port = 8080", "port = 8080\nreplicas = 6");
    scenario.run(&config);
    let number = scenario.start(&config.replace("web:1", "web:2"));
    for node in [1, 2, 3, 1, 2, 3] {
        scenario.wait(Millis::secs(4));
        scenario.world.inject(Fault::EngineDown(NodeId(node)), Millis::secs(6));
    }
    assert_eq!(scenario.end_of(number), DeployState::Succeeded);
    scenario.settled();
    assert_eq!(scenario.healthy("web"), 6);
}
