//! Tasks: a run is executed once, whatever happens to its container, its node or the leader.

use std::collections::BTreeMap;

use mill_core::api::view::RunView;
use mill_core::api::{Answer, ErrorCode, Request};
use mill_core::cluster::alloc::Phase;
use mill_core::cluster::deploy::DeployState;
use mill_core::cluster::task::{Outcome, Overrides, RunState};
use mill_core::config::text::Text;
use mill_core::name::{AllocId, NodeId};
use mill_core::units::Millis;
use mill_runtime_sim::models::registry::{Behaviour, Crash};
use mill_runtime_sim::{Fault, World};
use mill_sim_tests::Scenario;

use crate::{WEB, alone};

/// One task, and how many of its runs may be under way.
fn report(concurrency: u32) -> String {
    format!(
        "
        [task.report]
        image = \"report:1\"
        timeout = \"1m\"
        concurrency = {concurrency}
        env = {{ FORMAT = \"text\" }}
        "
    )
}

/// That task on three nodes; each run takes so long and ends with that code.
fn with_report(takes: Crash) -> Scenario {
    let mut scenario = Scenario::nodes(3);
    scenario.image("report:1", Behaviour { crash: takes, ..Behaviour::default() });
    scenario.run(&report(1));
    scenario
}

fn run(scenario: &mut Scenario) -> u64 {
    let task = "report".parse().expect("a name");
    match scenario.ask(Request::Run { task, overrides: Box::default() }) {
        Ok(Answer::RunStarted { number }) => number,
        other => panic!("the run did not start: {other:?}"),
    }
}

fn is_running(world: &World, number: u64) -> bool {
    let alloc = world.cluster().runs[&number].alloc();
    let alloc = alloc.and_then(|id| world.cluster().allocs.get(id));
    alloc.is_some_and(|alloc| alloc.status.phase == Phase::Running)
}

fn running(scenario: &mut Scenario, number: u64) -> (AllocId, NodeId) {
    scenario.until("it runs", move |world| is_running(world, number));
    let alloc = scenario.world.cluster().runs[&number].alloc().expect("it runs").clone();
    let node = scenario.world.cluster().allocs[&alloc].node;
    (alloc, node)
}

fn outcome(scenario: &mut Scenario, number: u64) -> Outcome {
    scenario.until("the run is over", move |world| world.cluster().runs[&number].has_ended());
    scenario.world.cluster().runs[&number].outcome().expect("it is over").clone()
}

fn look(scenario: &mut Scenario, number: u64) -> RunView {
    let request = Request::RunState { number, seen: None, hold: Millis(0) };
    match scenario.ask(request) {
        Ok(Answer::Run(view)) => *view,
        other => panic!("not a run: {other:?}"),
    }
}

#[test]
fn a_run_exits_as_its_container_and_that_stays_for_its_output() {
    let mut scenario = with_report(Crash::Done(Millis::secs(3), 0));
    let number = run(&mut scenario);
    assert!(outcome(&mut scenario, number).is_success());
    let view = look(&mut scenario, number);
    assert_eq!(view.state, "succeeded");
    let alloc = view.alloc.expect("it had one");
    scenario.wait(Millis::mins(2));
    assert!(scenario.container(&alloc).is_some(), "{}", scenario.story());
    assert_eq!(scenario.processes()[&alloc], 1);
}

#[test]
fn a_run_that_fails_says_its_code_and_last_words() {
    let mut scenario = with_report(Crash::Done(Millis::secs(1), 3));
    let number = run(&mut scenario);
    let Outcome::Exited(exit) = outcome(&mut scenario, number) else { panic!("it exited") };
    assert_eq!(exit.code, 3);
    let view = look(&mut scenario, number);
    assert_eq!(view.state, "failed with exit code 3");
    let trouble = view.trouble.expect("it failed");
    assert_eq!(trouble.output, ["the last words"]);
}

#[test]
fn a_run_that_takes_too_long_is_killed_and_has_failed() {
    let mut scenario = with_report(Crash::Never);
    let number = run(&mut scenario);
    let (alloc, _) = running(&mut scenario, number);
    let since = scenario.world.now();
    assert_eq!(outcome(&mut scenario, number), Outcome::TimedOut);
    let took = scenario.world.now().since(since);
    assert!(took >= Millis::secs(59) && took < Millis::secs(75), "{took}");
    assert!(!scenario.container(&alloc).expect("it is kept").runs());
}

#[test]
fn a_restarted_daemon_goes_on_counting_the_time_of_a_run() {
    let mut scenario = with_report(Crash::Never);
    let number = run(&mut scenario);
    let (_, node) = running(&mut scenario, number);
    let since = scenario.world.now();
    scenario.wait(Millis::secs(40));
    scenario.world.inject(Fault::Crash(node), Millis::secs(2));
    scenario.until("it is back", move |world| world.host(node).is_caught_up());
    assert_eq!(outcome(&mut scenario, number), Outcome::TimedOut);
    let took = scenario.world.now().since(since);
    assert!(took < Millis::secs(80), "{took}");
}

#[test]
fn a_daemon_that_was_gone_when_a_run_ended_finds_out_how() {
    let mut scenario = with_report(Crash::Done(Millis::secs(5), 3));
    let number = run(&mut scenario);
    let (_, node) = running(&mut scenario, number);
    scenario.world.inject(Fault::Crash(node), Millis::secs(6));
    let Outcome::Exited(exit) = outcome(&mut scenario, number) else { panic!("it exited") };
    assert_eq!(exit.code, 3);
}

#[test]
fn runs_wait_in_line_and_a_killed_one_makes_way() {
    let mut scenario = with_report(Crash::Never);
    let first = run(&mut scenario);
    running(&mut scenario, first);
    let second = run(&mut scenario);
    scenario.wait(Millis::secs(5));
    let view = look(&mut scenario, second);
    assert_eq!(view.state, "waiting for a node");
    let waiting = "report.2: 1 run of its task may be under way at a time; waiting for 1";
    assert_eq!(view.waiting, [waiting]);
    assert_eq!(scenario.ask(Request::Kill { number: first }), Ok(Answer::Done));
    assert_eq!(outcome(&mut scenario, first), Outcome::Killed);
    running(&mut scenario, second);
    let third = run(&mut scenario);
    assert_eq!(scenario.ask(Request::Kill { number: third }), Ok(Answer::Done));
    assert_eq!(outcome(&mut scenario, third), Outcome::Killed, "it never had a node");
    let over = scenario.refusal(Request::Kill { number: first });
    assert!(over.message.contains("run 1 is over: it was killed"), "{over}");
}

#[test]
fn what_is_overridden_is_so_in_that_run_only() {
    let mut scenario = with_report(Crash::Never);
    let overrides = Overrides {
        env: BTreeMap::from([("DAY".to_owned(), Text::from("monday"))]),
        command: vec![Text::from("./report"), Text::from("--all")],
    };
    let request = Request::Run {
        task: "report".parse().expect("a name"),
        overrides: Box::new(overrides.clone()),
    };
    assert_eq!(scenario.ask(request), Ok(Answer::RunStarted { number: 1 }));
    let (alloc, _) = running(&mut scenario, 1);
    let container = scenario.container(&alloc).expect("it runs").clone();
    let env = |name: &str| container.spec.env.get(name).map(String::as_str);
    assert_eq!([env("DAY"), env("FORMAT")], [Some("monday"), Some("text")]);
    assert_eq!([env("MILL_TASK"), env("MILL_RUN")], [Some("report"), Some("1")]);
    assert_eq!(container.spec.command, ["./report", "--all"]);
    let task = &scenario.world.cluster().tasks["report"];
    let (_, version) = task.current().expect("it was deployed");
    assert!(version.spec.container.command.is_empty());
}

#[test]
fn what_cannot_be_run_is_refused_in_words() {
    let mut scenario = with_report(Crash::Never);
    let run = |task: &str, env: &[(&str, &str)]| Request::Run {
        task: task.parse().expect("a name"),
        overrides: Box::new(Overrides {
            env: env.iter().map(|(k, v)| ((*k).to_owned(), Text::from(*v))).collect(),
            command: Vec::new(),
        }),
    };
    let unknown = scenario.refusal(run("nothing", &[]));
    assert_eq!(unknown.code, ErrorCode::NotFound, "{unknown}");
    let own = scenario.refusal(run("report", &[("MILL_RUN", "7"), ("A", "${secret(x)}")]));
    assert_eq!(own.code, ErrorCode::Invalid);
    assert_eq!(own.details.len(), 2, "{own}");
    let none = scenario.refusal(Request::Kill { number: 7 });
    assert_eq!(none.message, "there is no run 7");
}

#[test]
fn a_run_is_lost_with_its_node_and_ends_there_when_that_is_back() {
    let mut scenario = with_report(Crash::Never);
    let number = run(&mut scenario);
    let (alloc, node) = running(&mut scenario, number);
    scenario.world.inject(alone(node, 3), Millis::secs(40));
    let Outcome::Lost { .. } = outcome(&mut scenario, number) else { panic!("it is lost") };
    assert!(scenario.container(&alloc).expect("it goes on there").runs());
    scenario.until("the node is back", move |world| world.cluster().is_up(node));
    scenario.settled();
    assert!(!scenario.container(&alloc).is_some_and(|container| container.runs()));
    let told = scenario.ask(Request::Why { subject: "report.1".to_owned(), stale: false });
    let Ok(Answer::Why(why)) = told else { panic!("it is told") };
    assert!(why.summary.contains("was lost while it was under way"), "{why:?}");
}

#[test]
fn a_new_leader_does_not_run_a_task_again() {
    let mut scenario = with_report(Crash::Done(Millis::secs(20), 0));
    let number = run(&mut scenario);
    let (alloc, node) = running(&mut scenario, number);
    let leader = scenario.world.leader().expect("somebody leads");
    if leader == node {
        scenario.world.inject(Fault::Depose, Millis(0));
    } else {
        scenario.world.inject(Fault::PowerOff(leader), Millis::mins(5));
    }
    assert!(outcome(&mut scenario, number).is_success());
    assert_eq!(scenario.processes()[&alloc], 1);
    assert_eq!(scenario.world.cluster().last_run, 1);
}

#[test]
fn a_run_without_room_waits_and_says_why() {
    let mut scenario = Scenario::nodes(1);
    scenario.images(&["report:1", "web:1"]);
    let large = report(1).replace("env", "memory = \"9GiB\"\nenv");
    scenario.run(&format!("{large}{}", WEB.replace("image", "memory = \"9GiB\"\nimage")));
    let number = run(&mut scenario);
    scenario.wait(Millis::secs(5));
    let view = look(&mut scenario, number);
    assert_eq!(scenario.world.cluster().runs[&number].state, RunState::Waiting);
    assert!(view.waiting[0].contains("no node can take it: m1 has"), "{view:?}");
}

#[test]
fn a_task_changes_and_goes_with_deploys_and_comes_back_with_a_rollback() {
    let mut scenario = with_report(Crash::Done(Millis::secs(1), 0));
    scenario.images(&["report:2", "web:1"]);
    scenario.run(&report(1).replace("report:1", "report:2"));
    let image = |world: &World| {
        let task = world.cluster().tasks.get("report")?;
        task.current().map(|(_, version)| version.spec.container.image.clone())
    };
    assert_eq!(image(&scenario.world).as_deref(), Some("report:2"));
    let request = Request::Rollback { project: None, to: None, expect: None };
    let Ok(Answer::Return { to, plan }) = scenario.ask(request) else { panic!("a plan") };
    assert_eq!(to, 1);
    assert!(plan.to_string().contains("~ task report: change"), "{plan}");
    let expect = Some(plan.fingerprint());
    let request = Request::Rollback { project: None, to: Some(1), expect };
    let Ok(Answer::Started { number, .. }) = scenario.ask(request) else { panic!("it starts") };
    assert_eq!(scenario.end_of(number), DeployState::Succeeded);
    assert_eq!(image(&scenario.world).as_deref(), Some("report:1"));
    scenario.run(WEB);
    assert_eq!(image(&scenario.world), None, "it was left out");
    let gone = scenario.refusal(Request::Run {
        task: "report".parse().expect("a name"),
        overrides: Box::default(),
    });
    assert_eq!(gone.code, ErrorCode::NotFound);
}

#[test]
fn old_runs_and_their_containers_are_forgotten() {
    let mut scenario = with_report(Crash::Done(Millis(100), 0));
    for _ in 0..30 {
        let number = run(&mut scenario);
        outcome(&mut scenario, number);
    }
    scenario.wait(Millis::mins(2));
    assert_eq!(scenario.world.cluster().runs.len(), mill_core::cluster::RUNS_KEPT);
    assert_eq!(scenario.processes().len(), 3, "{:?}", scenario.processes());
}
