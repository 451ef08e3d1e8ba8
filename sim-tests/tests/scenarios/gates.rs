//! Gates: tasks that must succeed before services of a deploy move, once per deploy.

use mill_core::api::{Answer, Request};
use mill_core::cluster::deploy::DeployState;
use mill_core::cluster::task::{Cause, Outcome, RunState};
use mill_core::name::NodeId;
use mill_core::units::Millis;
use mill_runtime_sim::models::registry::{Behaviour, Crash};
use mill_runtime_sim::{Fault, World};
use mill_sim_tests::Scenario;

/// A service that waits for a task, and one that does not.
fn shop(version: u32) -> String {
    format!(
        "
        [service.web]
        image = \"web:{version}\"
        port = 8080
        before = \"migrate\"
        health = {{ path = \"/\", interval = \"1s\" }}
        update = {{ deadline = \"2m\" }}
        [service.db]
        image = \"db:1\"
        port = 5432
        health = {{ tcp = true, interval = \"1s\" }}
        update = {{ deadline = \"2m\" }}
        [task.migrate]
        image = \"migrate:{version}\"
        timeout = \"10m\"
        "
    )
}

fn with_migrations(takes: Crash) -> Scenario {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1", "web:2", "db:1", "migrate:1"]);
    let quick = Behaviour { crash: Crash::Done(Millis::secs(1), 0), ..Behaviour::default() };
    scenario.image("migrate:1", quick);
    scenario.image("migrate:2", Behaviour { crash: takes, ..Behaviour::default() });
    scenario
}

fn begun(takes: Crash) -> (Scenario, u64) {
    let mut scenario = with_migrations(takes);
    scenario.run(&shop(1));
    let number = scenario.start(&shop(2));
    (scenario, number)
}

fn gate_of(world: &World, deploy: u64) -> Option<u64> {
    world.cluster().deploys[&deploy].gates.get("migrate").copied().flatten()
}

fn gate_is_running(world: &World, deploy: u64) -> bool {
    let run = gate_of(world, deploy).and_then(|run| world.cluster().runs.get(&run));
    run.is_some_and(|run| matches!(run.state, RunState::Placed { .. }))
}

fn runs_for(world: &World, deploy: u64) -> usize {
    let runs = world.cluster().runs.values();
    runs.filter(|run| run.cause == Cause::Gate(deploy)).count()
}

fn templates(scenario: &Scenario, service: &str) -> Vec<u64> {
    scenario.allocs(service).into_values().map(|alloc| alloc.template).collect()
}

#[test]
fn a_first_deploy_brings_what_waits_for_nothing_before_the_gate_and_the_rest_after() {
    let mut scenario = with_migrations(Crash::Never);
    let number = scenario.start(&shop(1));
    scenario.until("the gate runs", move |world| gate_is_running(world, number));
    assert_eq!((scenario.healthy("db"), scenario.allocs("web").len()), (1, 0));
    assert_eq!(scenario.end_of(number), DeployState::Succeeded);
    scenario.settled();
    assert_eq!((runs_for(&scenario.world, number), scenario.healthy("web")), (1, 1));
}

#[test]
fn nothing_of_a_service_moves_before_its_gate_and_its_deadline_begins_after_it() {
    let (mut scenario, number) = begun(Crash::Done(Millis::mins(5), 0));
    scenario.until("the gate runs", move |world| gate_is_running(world, number));
    scenario.wait(Millis::mins(4));
    assert_eq!(templates(&scenario, "web"), [1]);
    let Ok(Answer::Why(why)) =
        scenario.ask(Request::Why { subject: "web".to_owned(), stale: false })
    else {
        panic!("it is told")
    };
    assert_eq!(why.because[0], "waiting for task migrate to succeed (run 2)");
    assert_eq!(scenario.end_of(number), DeployState::Succeeded);
    scenario.settled();
    assert_eq!(templates(&scenario, "web"), [2]);
}

#[test]
fn a_gate_that_fails_takes_the_deploy_back_with_its_last_words() {
    let (mut scenario, number) = begun(Crash::Done(Millis::secs(3), 3));
    let DeployState::RolledBack { reason } = scenario.end_of(number) else { panic!("it failed") };
    assert_eq!(
        reason,
        "task migrate, which has to succeed first, failed with exit code 3 (run 2); its last \
         lines:\n    the last words"
    );
    scenario.settled();
    assert_eq!(templates(&scenario, "web"), [1]);
    let (_, task) = scenario.world.cluster().tasks["migrate"].current().expect("it was deployed");
    assert_eq!(task.spec.container.image, "migrate:1");
}

#[test]
fn a_gate_is_run_once_whatever_happens_to_the_leader() {
    for seconds in [1, 3, 6, 9] {
        let (mut scenario, number) = begun(Crash::Done(Millis::secs(8), 0));
        scenario.wait(Millis::secs(seconds));
        scenario.world.inject(Fault::Depose, Millis(0));
        assert_eq!(scenario.end_of(number), DeployState::Succeeded);
        assert_eq!(runs_for(&scenario.world, number), 1);
    }
}

#[test]
fn a_gate_that_is_lost_with_its_node_is_not_run_again() {
    let (mut scenario, number) = begun(Crash::Done(Millis::mins(1), 0));
    scenario.until("the gate runs", move |world| gate_is_running(world, number));
    let run = gate_of(&scenario.world, number).expect("it runs");
    let cluster = scenario.world.cluster();
    let node = cluster.allocs[cluster.runs[&run].alloc().expect("it runs")].node;
    scenario.world.inject(Fault::PowerOff(node), Millis::mins(5));
    let DeployState::RolledBack { reason } = scenario.end_of(number) else { panic!("it failed") };
    assert!(reason.contains(&format!("node m{} was lost", node.0)), "{reason}");
    assert_eq!(runs_for(&scenario.world, number), 1);
}

#[test]
fn a_cancelled_deploy_leaves_the_run_of_its_gate_to_itself() {
    let (mut scenario, number) = begun(Crash::Done(Millis::secs(30), 0));
    scenario.until("the gate runs", move |world| {
        let run = gate_of(world, number).and_then(|run| world.cluster().runs.get(&run));
        run.is_some_and(|run| !world.cluster().has_not_begun(run))
    });
    let run = gate_of(&scenario.world, number).expect("it runs");
    assert_eq!(scenario.ask(Request::Cancel { number: None }), Ok(Answer::Done));
    let DeployState::RolledBack { .. } = scenario.end_of(number) else { panic!("it went back") };
    scenario.until("the run is over", move |world| world.cluster().runs[&run].has_ended());
    let outcome = scenario.world.cluster().runs[&run].outcome();
    assert!(outcome.is_some_and(Outcome::is_success));
}

#[test]
fn a_gate_that_cannot_begin_is_given_up_with_its_deploy() {
    let (mut scenario, number) = begun(Crash::Done(Millis::secs(1), 0));
    scenario.until("the gate has its run", move |world| gate_of(world, number).is_some());
    for node in 1..=3 {
        scenario.world.inject(Fault::EngineDown(NodeId(node)), Millis::mins(3));
    }
    let run = gate_of(&scenario.world, number).expect("waited for above");
    let DeployState::RolledBack { reason } = scenario.end_of(number) else { panic!("it failed") };
    assert!(reason.contains("was not begun within 2m"), "{reason}");
    scenario.until("the run is over", move |world| world.cluster().runs[&run].has_ended());
    assert_eq!(scenario.world.cluster().runs[&run].outcome(), Some(&Outcome::Killed));
}

#[test]
fn what_is_restarted_scaled_or_goes_back_needs_no_gate() {
    let (mut scenario, number) = begun(Crash::Done(Millis::secs(1), 0));
    assert_eq!(scenario.end_of(number), DeployState::Succeeded);
    let web = || "web".parse().expect("a name");
    let mut done = |request| {
        let Ok(Answer::Started { number, .. }) = scenario.ask(request) else { panic!("it starts") };
        assert_eq!(scenario.end_of(number), DeployState::Succeeded);
    };
    done(Request::Restart { service: web() });
    done(Request::Scale { service: web(), replicas: 2 });
    let request = Request::Rollback { project: None, to: Some(1), expect: None };
    let Ok(Answer::Return { plan, .. }) = scenario.ask(request) else { panic!("a plan") };
    let expect = Some(plan.fingerprint());
    let Ok(Answer::Started { number, .. }) =
        scenario.ask(Request::Rollback { project: None, to: Some(1), expect })
    else {
        panic!("it starts")
    };
    assert_eq!(scenario.end_of(number), DeployState::Succeeded);
    assert_eq!(scenario.world.cluster().last_run, 2, "those of the two configs");
}

#[test]
fn a_gate_without_room_is_not_waited_for_for_ever() {
    let mut scenario = with_migrations(Crash::Never);
    let with_large_db = |config: &str| {
        config.replace("port = 5432", "port = 5432\nreplicas = 3\nmemory = \"2GiB\"")
    };
    scenario.run(&with_large_db(&shop(1)));
    let large = shop(2).replace("timeout", "memory = \"15GiB\"\ntimeout");
    let large = with_large_db(&large);
    let number = scenario.start(&large);
    let DeployState::RolledBack { reason } = scenario.end_of(number) else { panic!("it failed") };
    let begun = "task migrate, which has to succeed first, was not begun within 2m (migrate.2: no \
                 node can take it: ";
    assert!(reason.starts_with(begun), "{reason}");
}
