//! Machines become nodes over links that lose and lag, and are refused in words; a node that was
//! removed while it could not be told ends when it calls.

use std::time::Duration;

use mill_core::api::{Answer, Request};
use mill_core::cluster::admission::Roles;
use mill_core::name::NodeId;
use mill_core::rng::Rng;

use super::super::StartError;
use super::super::joining::JoinError;
use super::stage::{Stage, name_of};
use super::{cluster, invitation, join, nodes, seeds};
use crate::pki::{Authority, fingerprint};
use crate::token::JoinToken;

/// Of a hundred segments on a bad link, these are lost, with all that is on its way.
const LOSS: f64 = 0.04;

/// A machine joins through a node that cannot sign, over a link that loses, while the way from
/// there to the leader is slow and cut for a while; says what happened.
pub(super) fn through_a_bad_link(seed: u64) -> Vec<String> {
    let (mut stage, token) = cluster(seed, 3, 2);
    let mut rng = Rng::new(seed).child("join");
    let [one, two, three] = [1, 2, 3].map(name_of);
    let lag = Duration::from_millis(rng.between(20, 150));
    stage.sim.set_link_latency(one.as_str(), two.as_str(), lag);
    stage.sim.set_link_fail_rate(two.as_str(), three.as_str(), LOSS);
    let through = invitation(&token, 2);
    let joining = stage.begin(3, |machine| join(machine, through));
    stage.pass(Duration::from_millis(rng.below(600)));
    stage.sim.partition(one.as_str(), two.as_str());
    stage.pass(Duration::from_millis(rng.below(6_000)));
    stage.sim.repair(one.as_str(), two.as_str());
    let joined = stage.end(&joining);
    assert_eq!(joined, NodeId(3), "seed {seed}, however often it asked: {}", stage.told());
    // It may not know that it is one, and ask again.
    let through = invitation(&token, 2);
    let again = stage.on(3, |machine| async move {
        for _ in 0..3 {
            match machine.apply(&through).await {
                Ok(welcome) => machine.says(&format!("is welcome again as {}", welcome.node)),
                Err(error) => machine.says(&format!("is not welcome: {error}")),
            }
        }
        machine.running().node
    });
    assert_eq!(again, joined);
    assert_eq!(nodes(&mut stage), 3);
    stage.record.lines()
}

#[test]
fn a_machine_joins_through_a_node_without_the_authority_over_a_link_that_loses() {
    let (mut lost, mut repeated) = (0, 0);
    for seed in 0..seeds() {
        let lines = through_a_bad_link(seed);
        let count = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
        lost += count("does not join") + count("is not welcome");
        repeated += count("is welcome again as n3");
        let vague =
            lines.iter().find(|line| line.lines().any(|line| line.ends_with("http2 error")));
        assert_eq!(vague, None, "it does not say what happened");
        assert_eq!(count("is welcome again"), count("is welcome again as n3"), "{lines:?}");
    }
    assert!(lost > 0, "the link was not bad");
    assert!(repeated > 0, "nobody asked again");
}

/// What a machine is told that asks with such a token.
fn refused(stage: &mut Stage, token: &JoinToken, through: u64) -> JoinError {
    let invitation = invitation(token, through);
    stage.on(3, |machine| async move {
        match machine.join(&invitation).await {
            Err(StartError::Join(error)) => error,
            other => panic!("{:?}", other.err()),
        }
    })
}

#[test]
fn a_token_that_is_not_of_this_cluster_is_refused_in_words_by_any_node() {
    let (mut stage, token) = cluster(1, 3, 2);
    let another = Authority::found("another").unwrap();
    let elsewhere = JoinToken::generate(fingerprint(another.certificate())).unwrap();
    let guessed = JoinToken::generate(token.authority.clone()).unwrap();
    for through in [1, 2] {
        let error = refused(&mut stage, &elsewhere, through);
        assert!(matches!(error, JoinError::WrongAuthority { .. }), "{error}");
        assert!(error.to_string().contains("is not of the cluster that this token is from"));
        let error = refused(&mut stage, &guessed, through);
        assert!(matches!(error, JoinError::Refused(_)), "{error}");
        let said = "this join token is not known here, or was revoked";
        assert!(error.to_string().contains(said), "{error}");
    }
    // Nobody is there at all, or nobody can be reached from there.
    let error = refused(&mut stage, &token, 3);
    assert!(matches!(error, JoinError::Unreachable { .. }), "{error}");
    stage.sim.partition(name_of(1), name_of(2));
    let error = refused(&mut stage, &token, 2);
    assert!(error.to_string().contains("n1, which leads, did not say whether"), "{error}");
    assert!(error.to_string().contains("asking again does no harm"), "{error}");
    assert_eq!(nodes(&mut stage), 2, "nobody was let in");
}

#[test]
fn whoever_joins_as_a_primary_can_let_others_in() {
    let (mut stage, token) = cluster(2, 3, 1);
    let mut primary = invitation(&token, 1);
    primary.roles = Some(Roles::default());
    stage.on(2, |machine| join(machine, primary));
    // It signs, and asks the leader whether to.
    let through = invitation(&token, 2);
    assert_eq!(stage.on(3, |machine| join(machine, through)), NodeId(3));
    assert_eq!(nodes(&mut stage), 3);
}

#[test]
fn a_node_that_was_removed_while_it_was_cut_off_ends_when_it_calls() {
    let (mut stage, _) = cluster(3, 3, 3);
    for other in [1, 3] {
        stage.sim.partition(name_of(2), name_of(other));
    }
    let remove = Request::RemoveNode { node: name_of(2), force: true };
    let removed = stage.on(1, |machine| async move { machine.ask(remove).await });
    assert_eq!(removed, Ok(Answer::Done));
    stage.pass(Duration::from_secs(10));
    assert!(!stage.told().contains("m2 ends"), "nobody can have told it");
    for other in [1, 3] {
        stage.sim.repair(name_of(2), name_of(other));
    }
    stage.until("m2 ends: it was removed");
    assert!(stage.told().contains("m2 is dismissed by n1"), "{}", stage.told());
    assert_eq!(nodes(&mut stage), 2);
}
