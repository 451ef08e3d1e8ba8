//! Containers that end, fall ill or are taken away; daemons that are restarted.

use mill_core::cluster::alloc::{Phase, TroubleKind};
use mill_core::name::NodeId;
use mill_core::units::Millis;
use mill_runtime_sim::models::engine::KILLED;
use mill_runtime_sim::models::registry::Behaviour;
use mill_runtime_sim::{Fault, SimTime};
use mill_sim_tests::Scenario;

use crate::WEB;

/// Kills the container of `web` from outside; says how long it was until its next process.
fn kill_and_wait(scenario: &mut Scenario) -> Millis {
    let (id, alloc) = scenario.alloc("web");
    let before = scenario.container(&id).map(|container| container.started);
    let killed_at = scenario.world.now();
    assert!(scenario.world.kill_named(alloc.node, &id, KILLED));
    scenario.until("it is started again", |world| {
        let container = world.host(alloc.node).engine.container(&id);
        container.is_some_and(|c| c.runs() && Some(c.started) != before)
    });
    let since = scenario.container(&id).map_or(SimTime::default(), |container| container.since);
    scenario
        .until("it is healthy", |world| world.cluster().allocs[&id].status.phase == Phase::Healthy);
    since.since(killed_at)
}

#[test]
fn a_container_killed_from_outside_is_started_again_after_waits_that_double() {
    let mut scenario = Scenario::nodes(1);
    scenario.images(&["web:1"]);
    scenario.run(WEB);
    // The engine takes up to 0.3 s to tell of the end, to give the last words and to start.
    for (least, most) in [(1_000, 1_400), (2_000, 2_500), (4_000, 4_700), (8_000, 9_100)] {
        let waited = kill_and_wait(&mut scenario);
        assert!((least..=most).contains(&waited.0), "{waited} for {least}");
    }
}

#[test]
fn after_ten_healthy_minutes_the_waits_begin_anew() {
    let mut scenario = Scenario::nodes(1);
    scenario.images(&["web:1"]);
    scenario.run(WEB);
    kill_and_wait(&mut scenario);
    let second = kill_and_wait(&mut scenario);
    assert!(second.0 >= 2_000, "{second}");
    scenario.wait(Millis::mins(11));
    let third = kill_and_wait(&mut scenario);
    assert!(third.0 < 1_500, "{third}");
}

#[test]
fn the_fifth_failure_in_ten_minutes_moves_the_slot_to_another_node() {
    let mut scenario = Scenario::nodes(2);
    scenario.images(&["web:1"]);
    scenario.run(WEB);
    let (first, alloc) = scenario.alloc("web");
    for _ in 0..4 {
        kill_and_wait(&mut scenario);
    }
    scenario.world.kill_named(alloc.node, &first, KILLED);
    scenario.until("another alloc fills the slot", |world| {
        let failed = world.cluster().allocs.get(&first);
        failed.is_some_and(|alloc| alloc.status.phase == Phase::Failed)
    });
    scenario.settled();
    assert_ne!(scenario.alloc("web").1.node, alloc.node);
}

#[test]
fn a_container_that_somebody_removes_is_created_again() {
    let mut scenario = Scenario::nodes(1);
    scenario.images(&["web:1"]);
    scenario.run(WEB);
    let (id, alloc) = scenario.alloc("web");
    scenario.world.inject(Fault::RemoveContainer(alloc.node, 0), Millis(0));
    assert!(scenario.container(&id).is_none());
    scenario.settled();
    assert!(scenario.container(&id).is_some_and(|container| container.runs()));
}

#[test]
fn a_container_that_fails_its_health_check_is_restarted_and_says_why() {
    let mut scenario = Scenario::nodes(1);
    scenario.images(&["web:1"]);
    scenario.run(WEB);
    let (id, alloc) = scenario.alloc("web");
    let before = scenario.processes();
    scenario.world.inject(Fault::SickContainer(alloc.node, 0), Millis::secs(16));
    scenario.until("it is found unhealthy", |world| {
        world.cluster().allocs[&id].status.phase == Phase::Unhealthy
    });
    let trouble = scenario.world.cluster().allocs[&id].status.trouble.clone();
    let trouble = trouble.expect("unhealthy for a reason");
    assert_eq!(trouble.kind, TroubleKind::Unhealthy);
    assert!(trouble.detail.contains("connection refused"), "{}", trouble.detail);
    scenario.settled();
    assert!(scenario.processes()[&id] > before[&id]);
    assert_eq!(scenario.alloc("web").0, id, "in place");
}

#[test]
fn what_a_container_was_stopped_for_is_told_also_if_it_had_to_be_killed() {
    let mut scenario = Scenario::nodes(1);
    scenario.image("web:1", Behaviour { stops_after: None, ..Behaviour::default() });
    scenario.run(WEB);
    let (id, alloc) = scenario.alloc("web");
    scenario.world.inject(Fault::SickContainer(alloc.node, 0), Millis::secs(20));
    scenario.until("it was killed", |world| {
        let trouble = world.cluster().allocs[&id].status.trouble.as_ref();
        trouble.is_some_and(|trouble| trouble.detail.contains("grace period"))
    });
    let trouble = scenario.world.cluster().allocs[&id].status.trouble.clone();
    let trouble = trouble.expect("waited for above");
    assert_eq!(trouble.kind, TroubleKind::Unhealthy);
    assert!(trouble.detail.contains("connection refused"), "{}", trouble.detail);
    assert_eq!(trouble.output, ["the last words"]);
}

#[test]
fn a_daemon_that_is_killed_and_restarted_finds_its_containers_and_touches_none() {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1"]);
    scenario.run(&WEB.replace("port = 8080", "port = 8080\nreplicas = 6"));
    let (processes, activity) = (scenario.processes(), scenario.world.activity());
    for node in 1..=3 {
        scenario.world.inject(Fault::Crash(NodeId(node)), Millis::secs(3));
        scenario.wait(Millis::secs(4));
        scenario.settled();
    }
    assert_eq!(scenario.processes(), processes);
    assert_eq!(scenario.world.activity().1, activity.1, "not one operation");
}

#[test]
fn a_container_that_ends_while_no_daemon_runs_is_found_and_started_again() {
    let mut scenario = Scenario::nodes(1);
    scenario.images(&["web:1"]);
    scenario.run(WEB);
    let (id, alloc) = scenario.alloc("web");
    scenario.world.inject(Fault::Crash(alloc.node), Millis::secs(3));
    scenario.world.kill_named(alloc.node, &id, KILLED);
    scenario.settled();
    assert!(scenario.container(&id).is_some_and(|container| container.runs()));
}

#[test]
fn a_machine_that_lost_its_power_starts_its_containers_again() {
    let mut scenario = Scenario::nodes(1);
    scenario.images(&["web:1"]);
    scenario.run(WEB);
    let id = scenario.alloc("web").0;
    scenario.world.inject(Fault::PowerOff(NodeId(1)), Millis::secs(20));
    scenario.settled();
    assert_eq!(scenario.alloc("web").0, id);
}
