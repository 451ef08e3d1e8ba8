//! Each phase of a deploy, and what goes wrong in it: how the deploy ends, in one table; and what
//! rollouts look like from their first command to their last, as transcripts.
//!
//! The config that is deployed has all there is: a task that must succeed first, a canary, replicas
//! with requests to finish, and a service that is left out. Whatever happens, every invariant of
//! the simulator holds, the gate is run once at most, and the cluster settles. Read a difference
//! in the table as an operator would.

use std::fmt::Write as _;

use mill_core::api::{Answer, ErrorCode, Request};
use mill_core::cluster::alloc::Phase as AllocPhase;
use mill_core::cluster::deploy::DeployState;
use mill_core::cluster::task::{Cause, RunState};
use mill_core::name::NodeId;
use mill_core::units::Millis;
use mill_runtime_sim::models::registry::{Behaviour, Crash};
use mill_runtime_sim::{Fault, Params, SimTime, World};
use mill_sim_tests::{Scenario, project};

/// Where a deploy is when something goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Resolving,
    Gate,
    Canary,
    Rolling,
    Draining,
    Removing,
    GoingBack,
}

const PHASES: [Phase; 7] = [
    Phase::Resolving,
    Phase::Gate,
    Phase::Canary,
    Phase::Rolling,
    Phase::Draining,
    Phase::Removing,
    Phase::GoingBack,
];

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Nothing,
    LeaderKilled,
    LeaderDeposed,
    LeaderCutOff,
    NodeLost,
    NodeEmptied,
    NodeDeaf,
    EngineDown,
    EnginesDownForLong,
    DiskFull,
    RegistryDown,
    NeverHealthyFromNow,
    CrashesFromNow,
    SlowStops,
    SecondDeploy,
    RemovalMeanwhile,
    Cancelled,
}

const TROUBLES: [Trouble; 17] = [
    Trouble::Nothing,
    Trouble::LeaderKilled,
    Trouble::LeaderDeposed,
    Trouble::LeaderCutOff,
    Trouble::NodeLost,
    Trouble::NodeEmptied,
    Trouble::NodeDeaf,
    Trouble::EngineDown,
    Trouble::EnginesDownForLong,
    Trouble::DiskFull,
    Trouble::RegistryDown,
    Trouble::NeverHealthyFromNow,
    Trouble::CrashesFromNow,
    Trouble::SlowStops,
    Trouble::SecondDeploy,
    Trouble::RemovalMeanwhile,
    Trouble::Cancelled,
];

const NODES: u64 = 3;

fn shop(version: u32) -> String {
    let legacy = "
        [service.legacy]
        image = \"legacy:1\"
        port = 9090
        health = { tcp = true, interval = \"1s\" }
        ";
    let legacy = if version == 1 { legacy } else { "" };
    format!(
        "
        [service.web]
        image = \"web:{version}\"
        port = 8080
        replicas = 3
        before = \"migrate\"
        health = {{ path = \"/\", interval = \"1s\" }}
        update = {{ canary = 1, healthy_for = \"5s\", deadline = \"3m\" }}
        stop = {{ grace = \"5s\", drain = \"5s\" }}
        [task.migrate]
        image = \"migrate:{version}\"
        timeout = \"2m\"
        {legacy}"
    )
}

/// The first version runs.
fn running(scenario: &mut Scenario, slow_stops: bool) {
    let stops_after = if slow_stops { None } else { Some(Millis::secs(1)) };
    let web = Behaviour { stops_after, ..Behaviour::default() };
    for image in ["web:1", "web:2", "legacy:1"] {
        scenario.image(image, web.clone());
    }
    let migrate = Behaviour { crash: Crash::Done(Millis::secs(4), 0), ..Behaviour::default() };
    scenario.image("migrate:1", migrate.clone());
    scenario.image("migrate:2", migrate);
    scenario.run(&shop(1));
}

fn state(world: &World) -> &DeployState {
    &world.cluster().deploys[&2].state
}

/// Replicas of the second version that should run, and how many of them are healthy.
fn new(world: &World) -> (usize, usize) {
    let web = "web".parse().expect("a name");
    let new = || world.cluster().allocs_of(&web).filter(|(_, a)| a.template == 2 && a.is_wanted());
    let healthy = new().filter(|(_, alloc)| alloc.status.phase == AllocPhase::Healthy);
    (new().count(), healthy.count())
}

impl Phase {
    fn is_now(self, world: &World) -> bool {
        let cluster = world.cluster();
        match self {
            Phase::Resolving => *state(world) == DeployState::Resolving,
            Phase::Gate => cluster.runs.values().any(|run| {
                run.cause == Cause::Gate(2) && matches!(run.state, RunState::Placed { .. })
            }),
            Phase::Canary => new(world) == (1, 1),
            Phase::Rolling | Phase::GoingBack => new(world).0 == 2,
            Phase::Draining => cluster
                .allocs
                .values()
                .any(|alloc| alloc.template == 1 && alloc.is_live() && alloc.is_released()),
            Phase::Removing => *state(world) == DeployState::Removing,
        }
    }
}

impl Trouble {
    fn strikes(self, scenario: &mut Scenario) {
        let leader = scenario.world.leader().expect("somebody leads");
        let other = (1..=NODES).map(NodeId).find(|node| *node != leader).expect("there are three");
        let ways = |node: NodeId| (1..=NODES).map(NodeId).filter(move |other| *other != node);
        let (a_while, long) = (Millis::secs(30), Millis::mins(20));
        let world = &mut scenario.world;
        match self {
            Trouble::Nothing | Trouble::SlowStops => {}
            Trouble::LeaderKilled => world.inject(Fault::Crash(leader), Millis::secs(5)),
            Trouble::LeaderDeposed => world.inject(Fault::Depose, Millis(0)),
            Trouble::LeaderCutOff => {
                let both = ways(leader).flat_map(|node| [(node, leader), (leader, node)]);
                world.inject(Fault::Blocked(both.collect()), Millis::secs(40));
            }
            Trouble::NodeLost => world.inject(Fault::PowerOff(other), Millis::mins(2)),
            Trouble::NodeEmptied => world.inject(Fault::Drain(other), Millis::mins(2)),
            Trouble::NodeDeaf => {
                let into = ways(other).map(|node| (node, other));
                world.inject(Fault::Blocked(into.collect()), Millis::secs(40));
            }
            Trouble::EngineDown => world.inject(Fault::EngineDown(other), a_while),
            Trouble::EnginesDownForLong => {
                (1..=NODES).for_each(|node| world.inject(Fault::EngineDown(NodeId(node)), long));
            }
            Trouble::DiskFull => world.inject(Fault::DiskFull(other), a_while),
            Trouble::RegistryDown => world.inject(Fault::RegistryDown, a_while),
            Trouble::NeverHealthyFromNow => {
                let never = Behaviour { ready_after: None, ..Behaviour::default() };
                world.registry().rebuild("web:2", never);
            }
            Trouble::CrashesFromNow => {
                let crash = Crash::Always(Millis::secs(2));
                world.registry().rebuild("web:2", Behaviour { crash, ..Behaviour::default() });
            }
            Trouble::SecondDeploy => is_refused(scenario, &shop(2).replace("web:2", "web:1")),
            Trouble::RemovalMeanwhile => {
                is_refused(scenario, "[service.legacy]\nimage = \"legacy:1\"\n");
            }
            Trouble::Cancelled => match scenario.ask(Request::Cancel { number: None }) {
                Ok(Answer::Done) => {}
                Err(error) => assert_eq!(error.code, ErrorCode::Conflict, "{error}"),
                Ok(other) => panic!("it was cancelled: {other:?}"),
            },
        }
    }
}

fn is_refused(scenario: &mut Scenario, config: &str) {
    let project = Box::new(project(config));
    let refused = scenario.refusal(Request::Deploy { project, expect: None, keep_going: false });
    assert_eq!(refused.message, "deploy #2 is still running");
}

/// How a deploy ends that trouble strikes in that phase.
fn end(phase: Phase, trouble: Trouble) -> &'static str {
    let mut scenario = Scenario::with(Params { busy: 500, ..Params::calm(1, NODES) });
    running(&mut scenario, trouble == Trouble::SlowStops);
    assert_eq!(scenario.start(&shop(2)), 2);
    scenario.until(&format!("{phase:?}, before {trouble:?}"), |world| phase.is_now(world));
    if phase == Phase::GoingBack {
        assert_eq!(scenario.ask(Request::Cancel { number: None }), Ok(Answer::Done));
    }
    trouble.strikes(&mut scenario);
    let end = scenario.end_of(2);
    scenario.settled();
    let gates = scenario.world.cluster().runs.values().filter(|run| run.cause == Cause::Gate(2));
    assert!(gates.count() <= 1, "{phase:?}, {trouble:?}: {}", scenario.story());
    match end {
        DeployState::Succeeded => "succeeds",
        DeployState::Partial { .. } => "succeeds in part",
        DeployState::RolledBack { .. } => "goes back",
        DeployState::RollbackStuck { .. } => "is stuck",
        DeployState::Resolving
        | DeployState::Rolling
        | DeployState::Removing
        | DeployState::RollingBack { .. } => panic!("{phase:?}, {trouble:?}: not an end"),
    }
}

#[test]
fn each_trouble_in_each_phase_ends_as_the_table_says() {
    let mut table = String::from("|");
    PHASES.iter().for_each(|phase| _ = write!(table, " | {phase:?}"));
    table.push_str(" |\n| --- |");
    PHASES.iter().for_each(|_| table.push_str(" --- |"));
    for trouble in TROUBLES {
        let ends: Vec<&str> = PHASES.iter().map(|phase| end(*phase, trouble)).collect();
        _ = write!(table, "\n| {trouble:?} | {} |", ends.join(" | "));
    }
    insta::assert_snapshot!(table);
}

/// The commands of a deploy as they were committed, each with how long after its start.
fn transcript(prepare: impl FnOnce(&mut Scenario), config: &str) -> String {
    let (mut scenario, lines) = Scenario::traced(Params::calm(1, NODES));
    running(&mut scenario, false);
    prepare(&mut scenario);
    lines.borrow_mut().clear();
    let begun = scenario.world.now().since(SimTime::default());
    let number = scenario.start(config);
    scenario.end_of(number);
    scenario.settled();
    let lines = lines.borrow();
    let committed = lines.iter().filter_map(|line| {
        let (at, line) = line.trim_start().split_once("s  ")?;
        let (revision, command) = line.split_once(' ')?;
        let millis = at.replace('.', "").parse::<u64>().ok()? / 1_000;
        let after = Millis(millis.saturating_sub(begun.0)).to_string();
        revision.starts_with("0.").then(|| format!("{after:>9}  {command}"))
    });
    committed.collect::<Vec<_>>().join("\n")
}

#[test]
fn an_update_with_a_gate_and_a_canary_reads_like_this() {
    insta::assert_snapshot!(transcript(|_| (), &shop(2)));
}

#[test]
fn an_update_that_never_gets_healthy_reads_like_this() {
    let never = Behaviour { ready_after: None, ..Behaviour::default() };
    insta::assert_snapshot!(transcript(|scenario| scenario.image("web:2", never), &shop(2)));
}

#[test]
fn an_update_whose_gate_fails_reads_like_this() {
    let fails = Behaviour { crash: Crash::Done(Millis::secs(2), 1), ..Behaviour::default() };
    insta::assert_snapshot!(transcript(|scenario| scenario.image("migrate:2", fails), &shop(2)));
}

#[test]
fn an_update_that_stops_first_reads_like_this() {
    let stop_first =
        shop(2).replace("canary = 1", "order = \"stop-first\"").replace("before = \"migrate\"", "");
    insta::assert_snapshot!(transcript(|_| (), &stop_first));
}
