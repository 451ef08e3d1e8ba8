//! A deploy that keeps going: what fails goes back by itself, and the rest goes on.

use mill_core::api::{Answer, Request};
use mill_core::cluster::deploy::DeployState;
use mill_core::name::{Name, NodeId};
use mill_core::units::Millis;
use mill_runtime_sim::models::registry::{Behaviour, Crash};
use mill_runtime_sim::{Fault, World};
use mill_sim_tests::{Scenario, project};

/// Three services, of which one waits for a task.
fn shop(api: &str, web: &str, worker: &str) -> String {
    format!(
        "
        [service.api]
        image = \"{api}\"
        port = 8081
        replicas = 2
        health = {{ tcp = true, interval = \"1s\" }}
        update = {{ deadline = \"2m\" }}
        [service.web]
        image = \"{web}\"
        port = 8080
        replicas = 3
        health = {{ path = \"/\", interval = \"1s\", start_period = \"5m\" }}
        update = {{ deadline = \"2m\" }}
        [service.worker]
        image = \"{worker}\"
        before = \"migrate\"
        health = {{ command = [\"true\"], interval = \"1s\" }}
        update = {{ deadline = \"2m\" }}
        [task.migrate]
        image = \"migrate:1\"
        timeout = \"1m\"
        "
    )
}

/// The first versions run; what is called bad never becomes healthy.
fn cluster() -> Scenario {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["api:1", "api:2", "web:1", "web:2", "worker:1", "worker:2"]);
    let crashes = Behaviour { crash: Crash::Always(Millis(100)), ..Behaviour::default() };
    scenario.image("api:bad", crashes);
    scenario.image("web:bad", Behaviour { ready_after: None, ..Behaviour::default() });
    scenario.image("migrate:1", done(0));
    scenario.run(&shop("api:1", "web:1", "worker:1"));
    scenario
}

fn done(code: i32) -> Behaviour {
    Behaviour { crash: Crash::Done(Millis::secs(1), code), ..Behaviour::default() }
}

fn start(scenario: &mut Scenario, config: &str) -> u64 {
    let project = Box::new(project(config));
    match scenario.ask(Request::Deploy { project, expect: None, keep_going: true }) {
        Ok(Answer::Started { number, .. }) => number,
        other => panic!("the deploy did not start: {other:?}"),
    }
}

fn end(scenario: &mut Scenario, config: &str) -> DeployState {
    let number = start(scenario, config);
    let end = scenario.end_of(number);
    scenario.settled();
    end
}

fn partly(state: DeployState) -> String {
    let DeployState::Partial { reason } = state else { panic!("{state:?}") };
    reason
}

/// The image that each service runs.
fn images(world: &World) -> Vec<String> {
    let services = world.cluster().services.values();
    let versions = services.filter_map(|service| service.target());
    versions.map(|(_, version)| version.spec.container.image.clone()).collect()
}

#[test]
fn what_fails_goes_back_and_the_rest_arrives() {
    let mut scenario = cluster();
    let reason = partly(end(&mut scenario, &shop("api:bad", "web:2", "worker:2")));
    assert!(reason.starts_with("api failed: api."), "{reason}");
    assert!(reason.contains("exit code 1") && reason.contains("the last words"), "{reason}");
    assert_eq!(images(&scenario.world), ["api:1", "web:2", "worker:2"]);
    assert_eq!((scenario.healthy("api"), scenario.healthy("web")), (2, 3));
}

#[test]
fn what_is_late_goes_back_alone() {
    let mut scenario = cluster();
    let reason = partly(end(&mut scenario, &shop("api:2", "web:bad", "worker:2")));
    assert!(reason.starts_with("web failed: not finished within 2m"), "{reason}");
    assert!(reason.contains("health check"), "{reason}");
    assert_eq!(images(&scenario.world), ["api:2", "web:1", "worker:2"]);
}

#[test]
fn a_service_whose_image_is_missing_does_not_begin_and_the_rest_does() {
    let mut scenario = cluster();
    let reason = partly(end(&mut scenario, &shop("api:2", "web:none", "worker:1")));
    assert_eq!(reason, "web failed: there is no image `web:none`");
    assert_eq!(images(&scenario.world), ["api:2", "web:1", "worker:1"]);
}

#[test]
fn a_gate_that_fails_takes_back_what_waits_for_it() {
    let mut scenario = cluster();
    let config = shop("api:2", "web:1", "worker:2");
    let config = config.replace("migrate:1", "migrate:2");
    scenario.image("migrate:2", done(4));
    let reason = partly(end(&mut scenario, &config));
    assert!(reason.starts_with("worker failed: task migrate"), "{reason}");
    assert!(reason.contains("failed with exit code 4"), "{reason}");
    assert_eq!(images(&scenario.world), ["api:2", "web:1", "worker:1"]);
}

#[test]
fn where_all_fail_the_deploy_has_gone_back() {
    let mut scenario = cluster();
    let state = end(&mut scenario, &shop("api:bad", "web:bad", "worker:1"));
    let DeployState::RolledBack { reason } = state else { panic!("{state:?}") };
    assert!(reason.contains("api failed: ") && reason.contains("\nweb failed: "), "{reason}");
    assert_eq!(images(&scenario.world), ["api:1", "web:1", "worker:1"]);
}

#[test]
fn nothing_is_removed_when_others_fail_and_all_of_it_when_none_does() {
    let mut scenario = cluster();
    let without = |config: String| config.split("[service.worker]").next().unwrap().to_owned();
    let reason = partly(end(&mut scenario, &without(shop("api:bad", "web:2", ""))));
    assert!(reason.contains("worker not removed: others failed"), "{reason}");
    assert_eq!(images(&scenario.world), ["api:1", "web:2", "worker:1"]);
    let state = end(&mut scenario, &without(shop("api:2", "web:2", "")));
    assert_eq!(state, DeployState::Succeeded);
    assert_eq!(images(&scenario.world), ["api:2", "web:2"]);
}

#[test]
fn a_new_service_that_fails_is_removed() {
    let mut scenario = cluster();
    let new = "[service.zero]\nimage = \"api:bad\"\nhealth = { command = [\"true\"] }\n";
    let config = format!("{}{new}", shop("api:2", "web:1", "worker:1"));
    let reason = partly(end(&mut scenario, &config));
    assert!(reason.starts_with("zero failed: "), "{reason}");
    assert_eq!(images(&scenario.world), ["api:2", "web:1", "worker:1"]);
    let zero: Name = "zero".parse().unwrap();
    assert!(!scenario.world.cluster().services.contains_key(&zero));
}

#[test]
fn what_arrived_in_part_can_be_gone_back_from_and_to() {
    let mut scenario = cluster();
    partly(end(&mut scenario, &shop("api:bad", "web:2", "worker:1")));
    scenario.run(&shop("api:2", "web:2", "worker:1"));
    for (to, images_then) in
        [(2, ["api:1", "web:2", "worker:1"]), (1, ["api:1", "web:1", "worker:1"])]
    {
        let back = |expect| Request::Rollback { project: None, to: Some(to), expect };
        let Ok(Answer::Return { plan, .. }) = scenario.ask(back(None)) else { panic!("it can be") };
        let Ok(Answer::Started { number, .. }) = scenario.ask(back(Some(plan.fingerprint())))
        else {
            panic!("it was shown")
        };
        assert_eq!(scenario.end_of(number), DeployState::Succeeded);
        assert_eq!(images(&scenario.world), images_then);
    }
}

#[test]
fn it_can_be_cancelled_and_then_all_of_it_goes_back() {
    let mut scenario = cluster();
    let number = start(&mut scenario, &shop("api:bad", "web:bad", "worker:1"));
    scenario.until("one failed", move |world| {
        let mut changes = world.cluster().deploys[&number].changes.values();
        changes.any(|change| change.failed.is_some())
    });
    assert_eq!(scenario.ask(Request::Cancel { number: None }), Ok(Answer::Done));
    let state = scenario.end_of(number);
    assert_eq!(state, DeployState::RolledBack { reason: "it was cancelled".to_owned() });
    assert_eq!(images(&scenario.world), ["api:1", "web:1", "worker:1"]);
}

#[test]
fn what_failed_stays_failed_whoever_leads() {
    for seconds in [2, 5, 10, 20, 40, 80] {
        let mut scenario = cluster();
        let number = start(&mut scenario, &shop("api:bad", "web:bad", "worker:2"));
        scenario.wait(Millis::secs(seconds));
        scenario.world.inject(Fault::Depose, Millis(0));
        let reason = partly(scenario.end_of(number));
        assert!(reason.contains("api failed") && reason.contains("web failed"), "{reason}");
        assert_eq!(images(&scenario.world), ["api:1", "web:1", "worker:2"]);
    }
}

/// Nothing that is started on any node works for a while.
fn no_engines(scenario: &mut Scenario, length: Millis) {
    for node in 1..=3 {
        scenario.world.inject(Fault::EngineDown(NodeId(node)), length);
    }
}

fn has_failed(world: &World, number: u64, service: &str) -> bool {
    let name: Name = service.parse().expect("scenarios name services");
    world.cluster().deploys[&number].changes[&name].failed.is_some()
}

#[test]
fn one_that_cannot_go_back_either_is_not_waited_for_for_ever() {
    let mut scenario = cluster();
    let number = start(&mut scenario, &shop("api:2", "web:bad", "worker:1"));
    scenario.until("web goes back", move |world| has_failed(world, number, "web"));
    no_engines(&mut scenario, Millis::mins(6));
    let reason = partly(scenario.end_of(number));
    assert!(reason.contains("\ngoing back did not finish within 2m either"), "{reason}");
    scenario.settled();
    assert_eq!(images(&scenario.world), ["api:2", "web:1", "worker:1"]);
}

#[test]
fn a_gate_has_its_time_after_one_that_could_not_go_back() {
    let mut scenario = cluster();
    let number = start(&mut scenario, &shop("api:1", "web:bad", "worker:2"));
    scenario.until("web goes back", move |world| has_failed(world, number, "web"));
    no_engines(&mut scenario, Millis::secs(140));
    let reason = partly(scenario.end_of(number));
    assert!(reason.starts_with("web failed: ") && !reason.contains("worker"), "{reason}");
    assert_eq!(images(&scenario.world), ["api:1", "web:1", "worker:2"]);
}

#[test]
fn where_all_fail_and_one_cannot_go_back_a_person_is_told() {
    let mut scenario = cluster();
    let number = start(&mut scenario, &shop("api:1", "web:bad", "worker:1"));
    scenario.until("web goes back", move |world| has_failed(world, number, "web"));
    no_engines(&mut scenario, Millis::mins(6));
    let state = scenario.end_of(number);
    let DeployState::RollbackStuck { reason } = state else { panic!("{state:?}") };
    assert!(reason.contains("what is healthy") || reason.contains("What is healthy"), "{reason}");
}

#[test]
fn what_never_moved_is_not_waited_for_though_it_is_ill() {
    let mut scenario = cluster();
    for node in 1..=3 {
        for container in 0..8 {
            scenario.world.inject(Fault::SickContainer(NodeId(node), container), Millis::mins(60));
        }
    }
    scenario.wait(Millis::secs(30));
    let begun = scenario.world.now();
    let number = start(&mut scenario, &shop("api:none", "web:none", "worker:1"));
    let state = scenario.end_of(number);
    assert!(matches!(&state, DeployState::RolledBack { .. }), "{state:?}");
    assert!(scenario.world.now().since(begun) < Millis::secs(30));
}

#[test]
fn what_stays_keeps_the_task_that_it_waits_for_and_can_be_gone_back_to() {
    let mut scenario = cluster();
    let without = shop("api:bad", "web:2", "").split("[service.worker]").next().unwrap().to_owned();
    let reason = partly(end(&mut scenario, &without));
    assert!(reason.contains("worker not removed: others failed"), "{reason}");
    let task: Name = "migrate".parse().unwrap();
    assert!(scenario.world.cluster().tasks.contains_key(&task));
    scenario.run(&shop("api:2", "web:2", "worker:1"));
    let back = |expect| Request::Rollback { project: None, to: Some(2), expect };
    let answer = scenario.ask(back(None));
    assert!(matches!(answer, Ok(Answer::Return { .. })), "{answer:?}");
}

#[test]
fn canaries_that_fail_take_only_their_service_back() {
    let mut scenario = cluster();
    let careful = |config: String| {
        let canary = "update = { deadline = \"2m\", canary = 1 }";
        // Those with more than one replica.
        config.replacen("update = { deadline = \"2m\" }", canary, 2)
    };
    scenario.run(&careful(shop("api:1", "web:1", "worker:1")));
    let reason = partly(end(&mut scenario, &careful(shop("api:bad", "web:2", "worker:1"))));
    assert!(reason.starts_with("api failed: ") && !reason.contains("web"), "{reason}");
    assert_eq!(images(&scenario.world), ["api:1", "web:2", "worker:1"]);
    assert_eq!((scenario.healthy("api"), scenario.healthy("web")), (2, 3));
}
