//! The first replicas of an update, watched while the others stay as they were.

use mill_core::api::{Answer, ErrorCode, Request};
use mill_core::cluster::deploy::DeployState;
use mill_core::name::NodeId;
use mill_core::units::Millis;
use mill_runtime_sim::models::registry::Behaviour;
use mill_runtime_sim::{Fault, World};
use mill_sim_tests::Scenario;

const SOAK: Millis = Millis::secs(60);

/// Four replicas, of which the first two come first and are watched for a minute.
fn web(image: &str) -> String {
    format!(
        "
        [service.web]
        image = \"{image}\"
        port = 8080
        replicas = 4
        health = {{ path = \"/\" }}
        update = {{ canary = 2, parallel = 2, healthy_for = \"60s\" }}
        "
    )
}

/// Three nodes on which the first version runs, and a deploy of the second.
fn begun() -> (Scenario, u64) {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1", "web:2"]);
    scenario.run(&web("web:1"));
    let number = scenario.start(&web("web:2"));
    (scenario, number)
}

/// Slots in which that version is healthy.
fn healthy(world: &World, version: u64) -> Vec<u64> {
    use mill_core::cluster::alloc::Phase;
    let allocs = world.cluster().allocs.values();
    let fine = allocs.filter(|alloc| {
        alloc.template == version && alloc.is_wanted() && alloc.status.phase == Phase::Healthy
    });
    let mut slots: Vec<u64> = fine.map(|alloc| alloc.slot.index).collect();
    slots.sort_unstable();
    slots
}

fn promote(services: &[&str]) -> Request {
    let services = services.iter().map(|name| name.parse().expect("a name"));
    Request::Promote { number: None, services: services.collect() }
}

#[test]
fn the_others_follow_when_the_canaries_were_healthy_for_long_enough() {
    let (mut scenario, number) = begun();
    scenario.until("both canaries are healthy", |world| healthy(world, 2) == [0, 1]);
    let since = scenario.world.now();
    assert_eq!(healthy(&scenario.world, 1), [0, 1, 2, 3], "beside what was there");
    scenario.until("another follows", |world| healthy(world, 2).len() > 2);
    assert!(scenario.world.now().since(since) >= SOAK);
    assert_eq!(scenario.end_of(number), DeployState::Succeeded);
    scenario.settled();
    let history = scenario.story();
    assert!(history.contains("canaries of web promoted, watched"), "{history}");
}

#[test]
fn a_person_promotes_what_is_healthy_and_need_not_wait() {
    let (mut scenario, number) = begun();
    let early = scenario.refusal(promote(&[]));
    assert_eq!(early.code, ErrorCode::Conflict, "{early}");
    scenario
        .until("it rolls", |world| world.cluster().deploys[&number].state == DeployState::Rolling);
    let unhealthy = scenario.refusal(promote(&["web"]));
    assert!(unhealthy.message.contains("canary web.0 is not healthy"), "{unhealthy}");
    let unknown = scenario.refusal(promote(&["db"]));
    assert_eq!(unknown.code, ErrorCode::NotFound, "{unknown}");
    scenario.until("both canaries are healthy", |world| healthy(world, 2) == [0, 1]);
    let since = scenario.world.now();
    assert_eq!(scenario.ask(promote(&["web"])), Ok(Answer::Done));
    scenario.until("others follow", |world| healthy(world, 2).len() == 4);
    assert!(scenario.world.now().since(since) < SOAK);
    let again = scenario.refusal(promote(&[]));
    assert!(again.message.contains("waits for no canaries"), "{again}");
    assert_eq!(scenario.end_of(number), DeployState::Succeeded);
    let ended = scenario.refusal(Request::Promote { number: Some(number), services: Vec::new() });
    assert!(ended.message.contains("has ended"), "{ended}");
}

#[test]
fn a_canary_that_fails_takes_only_itself_back() {
    let (mut scenario, _) = begun();
    scenario.until("both canaries are healthy", |world| healthy(world, 2) == [0, 1]);
    let number = scenario.world.cluster().last_deploy;
    scenario.ask(Request::Cancel { number: Some(number) }).expect("it is cancelled");
    scenario.settled();
    assert_eq!(healthy(&scenario.world, 1), [0, 1, 2, 3]);
    let kept = scenario.allocs("web");
    scenario.image("web:3", Behaviour { ready_after: None, ..Behaviour::default() });
    let DeployState::RolledBack { reason } = scenario.deploy(&web("web:3")) else {
        panic!("it goes back")
    };
    assert!(reason.contains("web.0") || reason.contains("web.1"), "{reason}");
    scenario.settled();
    assert!(kept.keys().all(|id| scenario.allocs("web").contains_key(id)), "nothing else moved");
}

#[test]
fn what_is_lost_while_canaries_are_watched_comes_back_as_it_was() {
    let (mut scenario, number) = begun();
    scenario.until("both canaries are healthy", |world| healthy(world, 2) == [0, 1]);
    let of = |world: &World, index: u64| {
        let mut allocs = world.cluster().allocs.values();
        let alloc = allocs.find(|a| a.slot.index == index && a.template == 1 && a.is_wanted());
        alloc.expect("it runs").node
    };
    let lost = of(&scenario.world, 3);
    scenario.world.inject(Fault::PowerOff(lost), Millis::mins(10));
    scenario.until("its slot is filled elsewhere", |world| of(world, 3) != lost);
    assert_eq!(scenario.world.cluster().deploys[&number].state, DeployState::Rolling);
    assert!(scenario.world.cluster().allocs.values().all(|a| a.template == 1 || a.slot.index < 2));
    assert_eq!(scenario.end_of(number), DeployState::Succeeded);
    scenario.settled();
    assert_eq!(healthy(&scenario.world, 2), [0, 1, 2, 3]);
}

#[test]
fn a_new_leader_knows_what_was_promoted_and_what_was_not() {
    let (mut scenario, number) = begun();
    scenario.until("both canaries are healthy", |world| healthy(world, 2) == [0, 1]);
    let kill = |scenario: &mut Scenario| {
        let leader = scenario.world.leader().expect("somebody leads");
        scenario.world.inject(Fault::PowerOff(leader), Millis::secs(20));
        scenario.until("another leads", |world| world.leader().is_some_and(|l| l != leader));
    };
    kill(&mut scenario);
    scenario.wait(Millis::secs(30));
    let change = |scenario: &Scenario| {
        scenario.world.cluster().deploys[&number].changes.values().next().expect("one").promoted
    };
    assert_eq!(change(&scenario), None, "its minute begins anew");
    scenario.until("the others follow", |world| healthy(world, 2).len() > 2);
    let promoted = change(&scenario);
    kill(&mut scenario);
    assert_eq!(scenario.end_of(number), DeployState::Succeeded);
    assert_eq!(change(&scenario), promoted);
    scenario.settled();
}

#[test]
fn an_update_that_adds_replicas_begins_with_those() {
    // Found by plans of generated clusters: the only replica may not stop before another serves,
    // and the other waited for its canary.
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1", "web:2"]);
    let one = web("web:1").replace("replicas = 4", "replicas = 1");
    scenario.run(&one.replace("canary = 2", "canary = 0"));
    let two = web("web:2").replace("replicas = 4", "replicas = 2");
    let first = "canary = 1, order = \"stop-first\"";
    let number = scenario.start(&two.replace("canary = 2, parallel = 2", first));
    scenario.until("the canary is healthy", |world| healthy(world, 2) == [1]);
    assert_eq!(healthy(&scenario.world, 1), [0]);
    assert_eq!(scenario.end_of(number), DeployState::Succeeded);
}

#[test]
fn a_replica_that_serves_nobody_is_the_first_canary() {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1", "web:2"]);
    let careful =
        web("web:1").replace("canary = 2, parallel = 2", "canary = 1, order = \"stop-first\"");
    scenario.run(&careful);
    let allocs = scenario.allocs("web");
    let (sick, alloc) = allocs.iter().find(|(_, alloc)| alloc.slot.index == 2).expect("four run");
    let beside = allocs.iter().filter(|(_, other)| other.node == alloc.node);
    let which = beside.map(|(id, _)| id).position(|id| id == sick).expect("it is there");
    let which = u64::try_from(which).expect("few");
    scenario.world.inject(Fault::SickContainer(alloc.node, which), Millis::mins(20));
    scenario.until("it is not healthy", |world| healthy(world, 1) == [0, 1, 3]);
    let number = scenario.start(&careful.replace("web:1", "web:2"));
    scenario.until("its successor is healthy", |world| healthy(world, 2) == [2]);
    assert_eq!(healthy(&scenario.world, 1), [0, 1, 3]);
    assert_eq!(scenario.end_of(number), DeployState::Succeeded);
}

#[test]
fn a_canary_on_a_node_that_was_away_stays_beside_the_one_that_came_instead() {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1", "web:2"]);
    let each = |image: &str| {
        let each = web(image).replace("replicas = 4", "replicas = \"each-node\"");
        each.replace("canary = 2", "canary = 1").replace("60s", "90s")
    };
    scenario.run(&each("web:1"));
    let number = scenario.start(&each("web:2"));
    scenario.until("the canary is healthy", |world| healthy(world, 2) == [1]);
    scenario.world.inject(Fault::PowerOff(NodeId(1)), Millis::secs(30));
    scenario.until("another comes", |world| healthy(world, 2).contains(&2));
    let instead = scenario.world.cluster().clone();
    assert_eq!(scenario.end_of(number), DeployState::Succeeded);
    let kept = |id: &&mill_core::name::AllocId| {
        let alloc = &instead.allocs[*id];
        alloc.template == 2 && alloc.node == NodeId(2)
    };
    let new = instead.allocs.keys().find(kept).expect("it came");
    assert!(scenario.allocs("web").contains_key(new), "it was not taken back");
}

#[test]
fn a_service_that_moves_to_each_node_keeps_what_it_has_until_its_canary_is_promoted() {
    // Found by seed 482: the number of a node's slot was taken for that of a replica.
    let mut scenario = Scenario::nodes(4);
    scenario.images(&["web:1", "web:2"]);
    scenario.run(&web("web:1").replace("replicas = 4", "replicas = 3"));
    let each = web("web:2").replace("replicas = 4", "replicas = \"each-node\"");
    let number = scenario.start(&each.replace("canary = 2", "canary = 1"));
    scenario.until("the canary is healthy", |world| healthy(world, 2) == [1]);
    assert_eq!(healthy(&scenario.world, 1).len(), 3);
    assert_eq!(scenario.end_of(number), DeployState::Succeeded);
    scenario.settled();
    assert_eq!(healthy(&scenario.world, 2), [1, 2, 3, 4]);
}

#[test]
fn a_first_deploy_and_a_change_that_replaces_nothing_wait_for_no_canaries() {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1"]);
    let number = scenario.start(&web("web:1"));
    scenario.until("all are healthy", |world| healthy(world, 1).len() == 4);
    scenario.end_of(number);
    let wider = web("web:1").replace("replicas = 4", "replicas = 6");
    scenario.start(&wider);
    scenario.until("more are healthy", |world| healthy(world, 1).len() == 6);
}
