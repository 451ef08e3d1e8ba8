//! Any node can be asked: it passes requests on to the leader, or looks at its own copy.

use mill_core::api::view::Age;
use mill_core::api::{Answer, ErrorCode, Request};
use mill_core::name::NodeId;
use mill_core::units::Millis;
use mill_runtime_sim::{Fault, Params};
use mill_sim_tests::{Scenario, project};

use crate::{WEB, alone};

/// Three nodes that vote, and one that does not lead.
fn three_and_a_follower() -> (Scenario, NodeId) {
    three_of(Params::calm(1, 3))
}

fn three_of(params: Params) -> (Scenario, NodeId) {
    let mut scenario = Scenario::with(params);
    scenario.until("three vote", |world| world.voters().len() == 3);
    scenario.wait(Millis::secs(5));
    let leader = scenario.world.leader().expect("settled");
    (scenario, NodeId(leader.0 % 3 + 1))
}

#[test]
fn a_follower_passes_reads_and_writes_on_to_the_leader() {
    let (mut scenario, follower) = three_and_a_follower();
    scenario.images(&["web:1"]);
    let request =
        Request::Deploy { project: Box::new(project(WEB)), expect: None, keep_going: false };
    let started = scenario.world.request(follower, request);
    assert!(matches!(started, Ok(Answer::Started { number: 1, .. })), "{started:?}");
    let status = scenario.world.request(follower, Request::Status { stale: false });
    let Ok(Answer::Status(status)) = status else { panic!("{status:?}") };
    assert_eq!(Some(status.node), scenario.world.leader(), "the leader answered");
    assert_eq!(status.stale, None);
    scenario.settled();
}

#[test]
fn a_request_waits_for_the_next_leader() {
    let (mut scenario, follower) = three_and_a_follower();
    scenario.world.inject(Fault::Depose, Millis(0));
    let answer = scenario.world.request(follower, Request::Status { stale: false });
    assert!(matches!(answer, Ok(Answer::Status(_))), "{answer:?}");
}

#[test]
fn a_leader_that_does_not_know_yet_that_it_leads_is_asked_again() {
    // Killed leaders of real clusters showed it: the next one is known to others before its first
    // entry is committed, and until then it says that it does not lead.
    for seed in 0..20 {
        let sync = (Millis(500), Millis(800));
        let (mut scenario, follower) = three_of(Params { sync, ..Params::calm(seed, 3) });
        let leader = scenario.world.leader().expect("settled");
        scenario.world.inject(Fault::PowerOff(leader), Millis::mins(5));
        scenario.until("somebody wins", |world| world.leader().is_some());
        let begun = scenario.world.now();
        let answer = scenario.world.request(follower, Request::RevokeTokens);
        assert_eq!(answer, Ok(Answer::Done), "seed {seed}");
        let took = scenario.world.now().since(begun);
        assert!(took < Millis(2_500), "seed {seed}: {took}");
    }
}

#[test]
fn a_node_that_is_cut_off_says_so_and_shows_what_it_has() {
    let (mut scenario, follower) = three_and_a_follower();
    scenario.world.inject(alone(follower, 3), Millis::secs(90));
    scenario.wait(Millis::secs(10));
    let request = Request::Status { stale: true };
    let Ok(Answer::Status(status)) = scenario.world.request(follower, request) else { panic!() };
    let Some(Age::AtMost(age)) = status.stale else { panic!("{:?}", status.stale) };
    assert!((Millis::secs(9)..Millis::secs(13)).contains(&age), "{age}");
    assert_eq!(status.nodes.len(), 3);
    let cut_off = scenario.world.request(follower, Request::RevokeTokens);
    let error = cut_off.expect_err("it cannot be done");
    assert!(matches!(error.code, ErrorCode::NoLeader | ErrorCode::Unknown), "{error}");
    scenario.settled();
}

#[test]
fn a_leader_without_a_majority_says_so() {
    let (mut scenario, _) = three_and_a_follower();
    let leader = scenario.world.leader().expect("settled");
    scenario.world.inject(alone(leader, 3), Millis::secs(60));
    let error = scenario.world.request(leader, Request::State).expect_err("nobody confirms it");
    assert_eq!(error.code, ErrorCode::NoLeader);
    let said = "this node cannot reach a majority of the nodes that vote";
    assert!(error.message.starts_with(said), "{error}");
    scenario.settled();
}

#[test]
fn a_write_whose_answer_is_lost_is_called_unknown_and_a_read_is_not() {
    let (mut scenario, follower) = three_and_a_follower();
    let leader = scenario.world.leader().expect("settled");
    // Long enough that the other node waits in vain, too short to be called dead for good.
    for (request, code) in
        [(Request::RevokeTokens, ErrorCode::Unknown), (Request::State, ErrorCode::NoLeader)]
    {
        scenario.world.inject(Fault::Blocked(vec![(leader, follower)]), Millis::secs(20));
        let error = scenario.world.request(follower, request).expect_err("no answer comes");
        assert_eq!(error.code, code, "{error}");
        scenario.wait(Millis::secs(30));
    }
    scenario.settled();
}

#[test]
fn a_leader_that_stood_still_does_not_say_that_its_copy_is_of_now() {
    // Found by seed 18, when people began to go back: it was asked while it stood still, and
    // answered before it heard of others.
    let (mut scenario, _) = three_and_a_follower();
    let frozen = scenario.world.leader().expect("settled");
    scenario.world.inject(Fault::Freeze(frozen), Millis::secs(30));
    scenario.until("another leads", |world| world.leader().is_some_and(|now| now != frozen));
    scenario.wait(Millis::secs(5));
    let asked = scenario.world.request(frozen, Request::Status { stale: true });
    let Ok(Answer::Status(status)) = asked else { panic!("{asked:?}") };
    match status.stale {
        Some(Age::Unknown) => {}
        Some(Age::AtMost(age)) => assert!(age > Millis::secs(20), "{age}"),
        None => panic!("it was asked for its copy"),
    }
    scenario.wait(Millis::secs(20));
    let asked = scenario.world.request(frozen, Request::Status { stale: true });
    let Ok(Answer::Status(status)) = asked else { panic!("{asked:?}") };
    let Some(Age::AtMost(age)) = status.stale else { panic!("{:?}", status.stale) };
    assert!(age < Millis(2_100), "{age}");
}

#[test]
fn what_a_node_has_just_applied_is_at_most_a_heartbeat_old() {
    let (mut scenario, follower) = three_and_a_follower();
    let request = Request::Status { stale: true };
    let Ok(Answer::Status(status)) = scenario.world.request(follower, request) else { panic!() };
    assert_eq!(status.node, follower, "nobody else was asked");
    let Some(Age::AtMost(age)) = status.stale else { panic!("{:?}", status.stale) };
    assert!(age < Millis(2_100), "{age}");
}
