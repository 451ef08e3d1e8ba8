//! Requests that a node passes on to a leader that is cut off before or after it was asked: what is
//! said to be done was done once, what is said not to be done was not, and the rest is unknown.

use std::time::Duration;

use mill_core::api::{Answer, ErrorCode, Outcome, Request};
use mill_core::cluster::admission::Roles;
use mill_core::rng::Rng;

use super::machine::Machine;
use super::stage::{Begun, Stage, name_of};
use super::{cluster, seeds};

/// Longer than a dead connection goes unnoticed (`rpc`: a ping each second, answered within two).
const NOTICED: Duration = Duration::from_secs(4);
/// Requests of a run with links that come and go.
const ROUNDS: u64 = 15;

/// Somebody asks a node for something that its leader must do, of that name.
fn ask(stage: &Stage, node: u64, hash: String) -> Begun<Outcome> {
    stage.begin(node, |machine: Machine| async move {
        let roles = Roles::default();
        let request = Request::CreateToken { hash: hash.clone(), roles, expires: None, once: true };
        let outcome = machine.ask(request).await;
        let said = outcome.as_ref().map_or_else(|error| error.to_string(), |_| "done".to_owned());
        machine.says(&format!("{hash}: {said}"));
        outcome
    })
}

/// What was said is true of how often the leader was asked.
fn is_true(stage: &Stage, hash: &str, outcome: &Outcome) -> bool {
    let times = stage.record.times_passed_on(hash);
    match outcome {
        Ok(_) => times == 1,
        Err(error) if error.code == ErrorCode::NoLeader => times == 0,
        Err(error) if error.code == ErrorCode::Unknown => times <= 1,
        Err(_) => false,
    }
}

/// Whether the leader has a token of that name.
fn is_done(stage: &mut Stage, hash: &str) -> bool {
    let asked = stage.on(1, |machine| async move { machine.ask(Request::State).await });
    let Ok(Answer::State(state)) = asked else { panic!("{asked:?}") };
    state.contains(hash)
}

#[test]
fn what_a_leader_that_is_cut_off_was_not_asked_is_not_done() {
    let (mut stage, _) = cluster(0, 2, 2);
    stage.sim.partition(name_of(1), name_of(2));
    stage.pass(NOTICED);
    let asked = ask(&stage, 2, "before".to_owned());
    let outcome = stage.end(&asked);
    let error = outcome.expect_err("the leader cannot be reached");
    assert_eq!(error.code, ErrorCode::NoLeader, "{error}");
    assert!(error.message.contains("nothing was changed"), "{error}");
    stage.sim.repair(name_of(1), name_of(2));
    stage.pass(2 * NOTICED);
    assert_eq!(stage.record.times_passed_on("before"), 0);
    assert!(!is_done(&mut stage, "before"));
    let asked = ask(&stage, 2, "after".to_owned());
    assert_eq!(stage.end(&asked), Ok(Answer::Done), "it goes on after repair");
}

#[test]
fn what_a_leader_was_asked_whose_answer_is_lost_is_unknown_and_done_once() {
    let (mut stage, _) = cluster(0, 2, 2);
    // The connection is there.
    let asked = ask(&stage, 2, "first".to_owned());
    assert_eq!(stage.end(&asked), Ok(Answer::Done));
    stage.sim.partition_oneway(name_of(1), name_of(2));
    let asked = ask(&stage, 2, "second".to_owned());
    let error = stage.end(&asked).expect_err("no answer comes through");
    assert_eq!(error.code, ErrorCode::Unknown, "{error}");
    assert!(error.message.contains("it may or may not have been done"), "{error}");
    stage.sim.repair(name_of(1), name_of(2));
    stage.pass(2 * NOTICED);
    assert_eq!(stage.record.times_passed_on("second"), 1);
    assert!(is_done(&mut stage, "second"), "here it was");
}

/// Requests while links to the leader are cut and mended, in one direction or in both, before and
/// after they were passed on; says what happened.
pub(super) fn while_links_come_and_go(seed: u64) -> Vec<String> {
    let (mut stage, _) = cluster(seed, 3, 3);
    let mut rng = Rng::new(seed).child("links");
    let mut asked = Vec::new();
    for round in 0..ROUNDS {
        let node = rng.between(2, 3);
        let (leader, follower) = (name_of(1), name_of(node));
        let hash = format!("request-{round}.");
        asked.push((hash.clone(), ask(&stage, node, hash)));
        stage.pass(Duration::from_millis(rng.below(100)));
        match rng.below(4) {
            0 => stage.sim.partition(leader.as_str(), follower.as_str()),
            1 => stage.sim.partition_oneway(leader.as_str(), follower.as_str()),
            2 => stage.sim.partition_oneway(follower.as_str(), leader.as_str()),
            _ => stage.sim.repair(leader.as_str(), follower.as_str()),
        }
        stage.pass(Duration::from_millis(rng.below(4_000)));
        if rng.chance(500) {
            stage.sim.repair(leader.as_str(), follower.as_str());
        }
        stage.pass(Duration::from_millis(rng.below(2_000)));
    }
    for follower in [2, 3] {
        stage.sim.repair(name_of(1), name_of(follower));
    }
    for (hash, asked) in &asked {
        let outcome = stage.end(asked);
        assert!(
            is_true(&stage, hash, &outcome),
            "seed {seed}, {hash} {outcome:?}: {}",
            stage.told()
        );
        let done = is_done(&mut stage, hash);
        assert_eq!(done, stage.record.times_passed_on(hash) == 1, "seed {seed}, {hash}");
    }
    stage.record.lines()
}

#[test]
fn whatever_becomes_of_links_nothing_is_done_twice_and_no_answer_is_wrong() {
    let mut reached = [0; 3];
    for seed in 0..seeds() {
        let lines = while_links_come_and_go(seed);
        let said = [": done", "nothing was changed", "it may or may not have been done"];
        for (reached, said) in reached.iter_mut().zip(said) {
            *reached += lines.iter().filter(|line| line.contains(said)).count();
        }
    }
    assert!(reached.iter().all(|times| *times > 3), "hardly tried: {reached:?}");
}
