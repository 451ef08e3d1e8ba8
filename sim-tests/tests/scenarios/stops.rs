//! Stopping well: out of every route first, then what is under way, then the stop, and a receipt.

use mill_core::api::view::DeployView;
use mill_core::api::{Answer, Request};
use mill_core::cluster::alloc::Alloc;
use mill_core::cluster::deploy::DeployState;
use mill_core::name::NodeId;
use mill_core::units::Millis;
use mill_runtime_sim::models::registry::Behaviour;
use mill_runtime_sim::{Fault, Params, World};
use mill_sim_tests::Scenario;

use crate::{WEB, alone};

/// A cluster in which every replica that leaves has requests to finish, or none has.
fn cluster(nodes: u64, busy: u64) -> Scenario {
    let mut scenario = Scenario::with(Params { busy, ..Params::calm(1, nodes) });
    scenario.images(&["web:1", "web:2"]);
    scenario.run(WEB);
    scenario
}

fn shown(scenario: &mut Scenario) -> DeployView {
    let ask = Request::Deployment { number: None, seen: None, hold: Millis(0) };
    match scenario.ask(ask) {
        Ok(Answer::Deployment(view)) => view,
        other => panic!("{other:?}"),
    }
}

fn old(world: &World) -> Option<&Alloc> {
    world.cluster().allocs.values().find(|alloc| alloc.template == 1)
}

#[test]
fn a_receipt_says_who_let_go_of_a_replica_and_how_it_ended() {
    let mut scenario = cluster(3, 0);
    scenario.run(&WEB.replace("web:1", "web:2"));
    let receipt = shown(&mut scenario).receipt;
    let [line] = receipt.as_slice() else { panic!("one was stopped: {receipt:?}") };
    assert_eq!(line.let_go, ["m1", "m2", "m3"]);
    assert_eq!(line.excused, Vec::<String>::new());
    let ending = line.ending.expect("it was stopped");
    assert_eq!(ending.in_flight, Some(0));
    assert_eq!(ending.exit.map(|exit| (exit.code, exit.killed_after_grace)), Some((0, false)));
    assert!(line.released >= Some(line.left) && line.gone >= line.released, "{line:?}");
}

#[test]
fn what_left_the_routes_is_left_alone_for_as_long_as_an_answer_may_be_remembered() {
    let mut scenario = cluster(3, 0);
    let number = scenario.start(&WEB.replace("web:1", "web:2"));
    scenario.until("the old one is released", |world| old(world).is_some_and(Alloc::is_released));
    let released = scenario.world.now();
    scenario.until("it is asked to stop", |world| {
        let mut leaving = world.cluster().deploys[&number].receipt.values();
        leaving.any(|line| line.gone.is_some())
    });
    let waited = scenario.world.now().since(released);
    assert!(waited >= Millis::secs(2) && waited < Millis::secs(4), "{waited}");
}

#[test]
fn a_node_that_stands_still_before_its_first_count_leaves_all_the_time_that_is_to_be_left() {
    // Found by seed 0x2dd13b: the time began when the first count was due, not when it was made.
    let mut scenario = cluster(3, 1_000);
    scenario.start(&WEB.replace("web:1", "web:2"));
    scenario.until("the old one is released", |world| old(world).is_some_and(Alloc::is_released));
    let node = old(&scenario.world).expect("waited for above").node;
    scenario.world.inject(Fault::Freeze(node), Millis::secs(4));
    // The `released` invariant holds that it has its drain.
    scenario.settled();
}

#[test]
fn what_is_under_way_is_finished_before_the_stop_or_has_had_its_time() {
    let mut scenario = cluster(1, 1_000);
    let begun = scenario.world.now();
    scenario.run(&WEB.replace("web:1", "web:2"));
    // The `released` invariant holds that it was none at the stop, or that it had its drain.
    assert!(scenario.world.now().since(begun) < Millis::secs(60));
    let mut scenario = cluster(1, 1_000);
    let hasty = format!("{WEB}[service.web.stop]\ndrain = \"1s\"\n");
    scenario.run(&hasty);
    let begun = scenario.world.now();
    scenario.run(&hasty.replace("web:1", "web:2"));
    assert!(scenario.world.now().since(begun) < Millis::secs(20));
    let ending = shown(&mut scenario).receipt[0].ending.expect("it was stopped");
    assert_eq!(ending.in_flight, Some(1), "it says what it cut off");
}

#[test]
fn what_finishes_what_is_under_way_does_not_fail_its_deploy() {
    let mut waited = 0;
    for seed in 0..20 {
        let mut scenario = Scenario::with(Params { busy: 1_000, ..Params::calm(seed, 1) });
        scenario.images(&["web:1", "web:2"]);
        let patient = format!(
            "{WEB}[service.web.stop]\ndrain = \"10m\"\n[service.web.update]\n\
             healthy_for = \"1s\"\ndeadline = \"8s\"\n"
        );
        scenario.run(&patient);
        let begun = scenario.world.now();
        scenario.run(&patient.replace("web:1", "web:2"));
        waited += u32::from(scenario.world.now().since(begun) > Millis::secs(9));
    }
    assert!(waited > 0, "some took longer than their deadline");
}

#[test]
fn a_stop_that_ends_in_a_kill_is_on_the_receipt() {
    let mut scenario = Scenario::nodes(1);
    scenario.image("web:1", Behaviour { stops_after: None, ..Behaviour::default() });
    scenario.images(&["web:2"]);
    scenario.run(WEB);
    scenario.run(&WEB.replace("web:1", "web:2"));
    let exit = shown(&mut scenario).receipt[0].ending.and_then(|ending| ending.exit);
    assert!(exit.is_some_and(|exit| exit.killed_after_grace), "{exit:?}");
}

#[test]
fn nothing_stops_while_a_node_may_still_send_something_to_it() {
    let mut scenario = cluster(3, 0);
    let runs = scenario.alloc("web").1.node;
    let leader = scenario.world.leader().expect("somebody leads");
    let nodes = (1..=3).map(NodeId);
    let deaf = nodes.into_iter().find(|node| *node != runs && *node != leader).unwrap_or(NodeId(3));
    let number = scenario.start(&WEB.replace("web:1", "web:2"));
    scenario.until("the new one is healthy", |world| {
        let mut allocs = world.cluster().allocs.values();
        allocs
            .any(|a| a.template == 2 && a.status.phase == mill_core::cluster::alloc::Phase::Healthy)
    });
    // It hears nothing of the change, and the leader does not know yet that it is gone.
    scenario.world.inject(alone(deaf, 3), Millis::secs(60));
    scenario.until("the old one leaves", |world| old(world).is_some_and(|a| !a.is_wanted()));
    let left = scenario.world.now();
    // The others say so within a moment.
    scenario.wait(Millis(500));
    let why = Request::Why { subject: the_old_one(&scenario), stale: false };
    let Ok(Answer::Why(why)) = scenario.ask(why) else { panic!("it is known why") };
    let held = format!("nodes that may still send something to it: m{}", deaf.0);
    assert!(why.because.contains(&held), "{why:?}");
    scenario.until("it is released", |world| old(world).is_none_or(Alloc::is_released));
    assert!(scenario.world.now().since(left) > Millis::secs(2), "until that node is down");
    assert_eq!(scenario.end_of(number), DeployState::Succeeded);
    let receipt = shown(&mut scenario).receipt;
    assert_eq!(receipt[0].excused, [format!("m{}", deaf.0)], "{receipt:?}");
    scenario.settled();
}

fn the_old_one(scenario: &Scenario) -> String {
    let allocs = &scenario.world.cluster().allocs;
    let (id, _) = allocs.iter().find(|(_, alloc)| alloc.template == 1).expect("it is there");
    id.to_string()
}

#[test]
fn a_new_leader_releases_what_the_one_before_did_not() {
    let mut scenario = cluster(3, 0);
    let number = scenario.start(&WEB.replace("web:1", "web:2"));
    scenario.until("the old one leaves", |world| old(world).is_some_and(|a| !a.is_wanted()));
    let leader = scenario.world.leader().expect("somebody leads");
    scenario.world.inject(Fault::PowerOff(leader), Millis::secs(30));
    assert_eq!(scenario.end_of(number), DeployState::Succeeded);
    scenario.settled();
    assert_eq!(scenario.healthy("web"), 1);
}

#[test]
fn what_does_not_run_yet_or_has_no_port_is_not_waited_for() {
    let mut scenario = Scenario::with(Params { busy: 1_000, ..Params::calm(1, 1) });
    scenario.image("web:1", Behaviour { ready_after: None, ..Behaviour::default() });
    let number = scenario.start(WEB);
    scenario.until("it is placed", |world| !world.cluster().allocs.is_empty());
    scenario.ask(Request::Cancel { number: Some(number) }).expect("it is cancelled");
    let begun = scenario.world.now();
    scenario.settled();
    assert!(scenario.world.now().since(begun) < Millis::secs(15));
    let worker = "[service.worker]\nimage = \"worker:1\"\n";
    scenario.images(&["worker:1", "worker:2"]);
    scenario.run(worker);
    let begun = scenario.world.now();
    scenario.run(&worker.replace("worker:1", "worker:2"));
    assert!(scenario.world.now().since(begun) < Millis::secs(20));
    assert_eq!(shown(&mut scenario).receipt[0].ending.and_then(|ending| ending.in_flight), None);
}
