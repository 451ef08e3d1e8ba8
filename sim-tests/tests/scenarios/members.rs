//! Who may join, under which number, who votes, and what whoever may not is told.

use std::collections::BTreeMap;

use mill_core::api::{Answer, ApiError, ErrorCode, JoinAsk, Request};
use mill_core::cluster::FeatureLevel;
use mill_core::cluster::admission::Roles;
use mill_core::cluster::mesh::MeshFacts;
use mill_core::effect::Peer;
use mill_core::name::NodeId;
use mill_core::time::Wall;
use mill_core::units::Millis;
use mill_runtime_sim::{Fault, World};
use mill_sim_tests::Scenario;

use crate::{WEB, alone};

const SECONDARY: Roles = Roles { primary: false, secondary: true };

/// What the leader's clock shows.
fn wall(scenario: &Scenario) -> Wall {
    let leader = scenario.world.leader().expect("somebody leads");
    scenario.world.host(leader).clock.now(scenario.world.now()).wall
}

/// How a machine is reached in the mesh.
pub fn mesh(name: &str) -> MeshFacts {
    let (key, endpoint) = (format!("mesh key of {name}"), "192.0.2.9:7433".to_owned());
    MeshFacts { key, endpoint, serial: 1 }
}

pub fn ask(scenario: &Scenario, token: &str, name: &str) -> JoinAsk {
    JoinAsk {
        token: token.to_owned(),
        key: format!("key of {name}"),
        name: name.to_owned(),
        roles: None,
        labels: BTreeMap::new(),
        advertise: "192.0.2.9".to_owned(),
        rpc: "192.0.2.9:7433".to_owned(),
        version: "0.1.0".to_owned(),
        supports: FeatureLevel::NEWEST,
        mesh: Some(mesh(name)),
        wall: wall(scenario),
    }
}

fn join(scenario: &mut Scenario, ask: JoinAsk) -> Result<NodeId, ApiError> {
    match scenario.ask(Request::Join(Box::new(ask)))? {
        Answer::Admitted { node, .. } => Ok(node),
        other => panic!("{other:?}"),
    }
}

pub fn token(scenario: &mut Scenario, hash: &str, expires: Option<Wall>, once: bool) {
    let (hash, roles) = (hash.to_owned(), Roles::default());
    let made = scenario.ask(Request::CreateToken { hash, roles, expires, once });
    assert_eq!(made, Ok(Answer::Done));
}

/// A cluster of one, and a token.
fn one_with_token() -> Scenario {
    let mut scenario = Scenario::nodes(1);
    token(&mut scenario, "t", None, false);
    scenario
}

fn refused(scenario: &mut Scenario, ask: JoinAsk) -> (ErrorCode, String) {
    let before = scenario.world.cluster().nodes.len();
    let error = join(scenario, ask).expect_err("it is refused");
    assert_eq!(scenario.world.cluster().nodes.len(), before);
    assert!(error.hint.is_some(), "{error}");
    (error.code, error.message)
}

#[test]
fn a_machine_is_admitted_once_however_often_it_asks() {
    let mut scenario = one_with_token();
    let first = ask(&scenario, "t", "b");
    assert_eq!(join(&mut scenario, first.clone()), Ok(NodeId(2)));
    assert_eq!(join(&mut scenario, first), Ok(NodeId(2)));
    let other = ask(&scenario, "t", "c");
    assert_eq!(join(&mut scenario, other), Ok(NodeId(3)));
}

#[test]
fn who_is_admitted_is_told_where_the_others_are() {
    let mut scenario = one_with_token();
    scenario.settled();
    let asks = ask(&scenario, "t", "b");
    let answer = scenario.ask(Request::Join(Box::new(asks)));
    let Ok(Answer::Admitted { node, cluster, name, roles, book }) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!((node, name.as_str(), roles), (NodeId(2), "b", Roles::default()));
    assert_eq!(cluster, "sim");
    let at = |(id, peer): (&NodeId, &Peer)| (id.0, peer.key.clone(), peer.rpc.clone());
    let at: Vec<_> = book.peers.iter().map(at).collect();
    let told = |id, key: &str, rpc: &str| (id, key.to_owned(), rpc.to_owned());
    assert_eq!(at[0], told(1, "key 1", "10.0.0.1:7433"));
    assert_eq!(at[1..], [told(2, "key of b", "192.0.2.9:7433")]);
    assert_eq!((book.known_below, book.mesh_only), (NodeId(3), true));
    let inside = book.peers.values().map(|peer| peer.mesh.as_ref().unwrap().address.octets()[3]);
    assert_eq!(inside.collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_number_is_never_given_again() {
    let mut scenario = one_with_token();
    let first = ask(&scenario, "t", "b");
    assert_eq!(join(&mut scenario, first.clone()), Ok(NodeId(2)));
    let removed = scenario.ask(Request::RemoveNode { node: "b".to_owned(), force: false });
    assert_eq!(removed, Ok(Answer::Done));
    assert_eq!(join(&mut scenario, first), Ok(NodeId(3)));
}

#[test]
fn a_token_that_nobody_made_is_refused() {
    let mut scenario = one_with_token();
    let asks = ask(&scenario, "other", "b");
    let (code, message) = refused(&mut scenario, asks);
    assert_eq!(code, ErrorCode::Forbidden);
    assert_eq!(message, "this join token is not known here, or was revoked");
}

#[test]
fn a_token_that_was_revoked_is_refused() {
    let mut scenario = one_with_token();
    for _ in 0..2 {
        assert_eq!(scenario.ask(Request::RevokeTokens), Ok(Answer::Done));
    }
    let asks = ask(&scenario, "t", "b");
    assert_eq!(refused(&mut scenario, asks).0, ErrorCode::Forbidden);
}

#[test]
fn a_token_that_has_expired_is_refused() {
    let mut scenario = Scenario::nodes(1);
    let expires = Some(Wall(wall(&scenario).0 + 60_000));
    token(&mut scenario, "t", expires, false);
    let in_time = ask(&scenario, "t", "b");
    assert_eq!(join(&mut scenario, in_time), Ok(NodeId(2)));
    scenario.wait(Millis::secs(61));
    let late = ask(&scenario, "t", "c");
    let expected = (ErrorCode::Forbidden, "this join token has expired".to_owned());
    assert_eq!(refused(&mut scenario, late), expected);
}

#[test]
fn a_token_for_one_node_names_the_one_that_has_used_it() {
    let mut scenario = Scenario::nodes(1);
    token(&mut scenario, "t", None, true);
    let first = ask(&scenario, "t", "b");
    assert_eq!(join(&mut scenario, first.clone()), Ok(NodeId(2)));
    let second = ask(&scenario, "t", "c");
    let (code, message) = refused(&mut scenario, second);
    assert_eq!(code, ErrorCode::Forbidden);
    assert_eq!(message, "this join token was good for one node, and node `b` has used it");
    assert_eq!(join(&mut scenario, first), Ok(NodeId(2)), "its own node may ask again");
}

#[test]
fn a_role_that_the_token_does_not_give_is_refused() {
    let mut scenario = Scenario::nodes(1);
    let hash = "t".to_owned();
    let request = Request::CreateToken { hash, roles: SECONDARY, expires: None, once: false };
    assert_eq!(scenario.ask(request), Ok(Answer::Done));
    let mut asks = ask(&scenario, "t", "b");
    asks.roles = Some(Roles::default());
    let (code, message) = refused(&mut scenario, asks.clone());
    assert_eq!(code, ErrorCode::Forbidden);
    assert_eq!(message, "this join token gives the roles secondary, not primary,secondary");
    asks.roles = None;
    assert_eq!(join(&mut scenario, asks), Ok(NodeId(2)));
    assert_eq!(scenario.world.cluster().nodes[&NodeId(2)].roles, SECONDARY);
}

#[test]
fn a_name_that_another_node_has_is_refused() {
    let mut scenario = one_with_token();
    let asks = ask(&scenario, "t", "m1");
    let (code, message) = refused(&mut scenario, asks);
    assert_eq!(code, ErrorCode::Conflict);
    assert_eq!(message, "node n1 is called `m1` already, and has another key");
}

#[test]
fn a_clock_that_is_far_off_is_refused_and_told_how_far() {
    let mut scenario = one_with_token();
    let mut asks = ask(&scenario, "t", "b");
    asks.wall = Wall(asks.wall.0 + 95_000);
    let (code, message) = refused(&mut scenario, asks.clone());
    assert_eq!(code, ErrorCode::Conflict);
    assert!(message.contains("ahead of that of the leader, and 30s are allowed"), "{message}");
    asks.wall = Wall(asks.wall.0 - 190_000);
    assert!(refused(&mut scenario, asks.clone()).1.contains("behind that of the leader"));
    asks.wall = Wall(wall(&scenario).0 - 20_000);
    assert_eq!(join(&mut scenario, asks), Ok(NodeId(2)));
}

#[test]
fn a_version_more_than_one_minor_apart_is_refused() {
    let mut scenario = one_with_token();
    let mut asks = ask(&scenario, "t", "b");
    for version in ["0.3.0", "1.1.0", "next"] {
        asks.version = version.to_owned();
        let (code, message) = refused(&mut scenario, asks.clone());
        assert_eq!(code, ErrorCode::Unsupported, "{message}");
    }
    asks.version = "0.2.7-rc1".to_owned();
    assert_eq!(join(&mut scenario, asks), Ok(NodeId(2)));
}

#[test]
fn a_cluster_takes_no_more_nodes_than_it_is_made_for() {
    let mut scenario = one_with_token();
    for number in 2..=50 {
        let asks = ask(&scenario, "t", &format!("b{number}"));
        assert_eq!(join(&mut scenario, asks), Ok(NodeId(number)));
    }
    let asks = ask(&scenario, "t", "b51");
    let (code, message) = refused(&mut scenario, asks);
    assert_eq!(code, ErrorCode::Conflict);
    assert_eq!(message, "this cluster has 50 nodes, and no room for more");
}

#[test]
fn names_and_labels_that_cannot_be_are_refused() {
    let mut scenario = one_with_token();
    for name in ["", "two words", &"x".repeat(64)] {
        let asks = ask(&scenario, "t", name);
        let error = join(&mut scenario, asks).expect_err("it is refused");
        assert_eq!(error.code, ErrorCode::Invalid);
    }
    let set = BTreeMap::from([("zone".to_owned(), "x".repeat(64))]);
    let request = Request::Label { node: "m1".to_owned(), set, remove: Vec::new() };
    assert_eq!(scenario.refusal(request).code, ErrorCode::Invalid);
}

#[test]
fn labels_change_where_services_may_run() {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1"]);
    scenario
        .run(&WEB.replace("port = 8080", "port = 8080\nplace = { prefer = { disk = \"ssd\" } }"));
    let mut label = |set: &[(&str, &str)], remove: &[&str]| {
        let set = set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let remove = remove.iter().map(|key| (*key).to_owned()).collect();
        let done = scenario.ask(Request::Label { node: "n2".to_owned(), set, remove });
        assert_eq!(done, Ok(Answer::Done));
        scenario.world.cluster().nodes[&NodeId(2)].labels.get("disk").cloned()
    };
    assert_eq!(label(&[("disk", "ssd")], &[]).as_deref(), Some("ssd"));
    assert_eq!(label(&[("disk", "ssd")], &[]).as_deref(), Some("ssd"), "it is safe to repeat");
    assert_eq!(label(&[], &["disk"]), None);
}

fn voters(world: &World) -> Vec<u64> {
    world.voters().iter().map(|id| id.0).collect()
}

#[test]
fn up_to_five_nodes_vote_and_always_an_odd_number() {
    for (nodes, vote) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (7, 5)] {
        let mut scenario = Scenario::nodes(nodes);
        scenario.until("so many vote", |world| voters(world).len() == vote);
        scenario.wait(Millis::secs(30));
        assert_eq!(voters(&scenario.world).len(), vote, "of {nodes}");
    }
}

#[test]
fn a_voter_that_is_down_for_a_minute_is_replaced_and_stays_a_learner() {
    let mut scenario = Scenario::nodes(4);
    scenario.until("three vote", |world| voters(world).len() == 3);
    scenario.wait(Millis::secs(5));
    let leader = scenario.world.leader().expect("settled");
    let lost = *scenario.world.voters().iter().find(|id| **id != leader).expect("three vote");
    scenario.world.inject(Fault::PowerOff(lost), Millis::mins(5));
    scenario.wait(Millis::secs(50));
    assert!(scenario.world.voters().contains(&lost), "it may come back any moment");
    scenario.until("another votes", |world| !world.voters().contains(&lost));
    assert_eq!(voters(&scenario.world).len(), 3);
    scenario.settled();
    scenario.wait(Millis::secs(30));
    assert!(!scenario.world.voters().contains(&lost), "nothing is gained by another change");
}

#[test]
fn a_lost_voter_keeps_its_vote_where_nobody_can_take_it() {
    let mut scenario = Scenario::nodes(3);
    scenario.until("three vote", |world| voters(world).len() == 3);
    let leader = scenario.world.leader().expect("settled");
    let lost = *scenario.world.voters().iter().find(|id| **id != leader).expect("three vote");
    scenario.world.inject(Fault::PowerOff(lost), Millis::mins(5));
    scenario.wait(Millis::mins(3));
    assert_eq!(voters(&scenario.world), [1, 2, 3]);
    scenario.settled();
}

#[test]
fn a_node_that_is_removed_by_force_has_its_replicas_elsewhere_and_votes_no_more() {
    let mut scenario = Scenario::nodes(4);
    scenario.images(&["web:1"]);
    scenario.run(&WEB.replace("port = 8080", "port = 8080\nreplicas = 4"));
    scenario.until("three vote", |world| voters(world).len() == 3);
    let leader = scenario.world.leader().expect("settled");
    let gone = *scenario.world.voters().iter().find(|id| **id != leader).expect("three vote");
    scenario.world.inject(Fault::PowerOff(gone), Millis::mins(25));
    scenario.wait(Millis::secs(2));
    let refusal = scenario.refusal(Request::RemoveNode { node: gone.to_string(), force: false });
    assert_eq!(refusal.code, ErrorCode::Conflict);
    assert!(refusal.message.ends_with("still has 1 allocs"), "{refusal}");
    let removed = scenario.ask(Request::RemoveNode { node: gone.to_string(), force: true });
    assert_eq!(removed, Ok(Answer::Done));
    scenario.until("another votes", |world| {
        voters(world).len() == 3 && !world.voters().contains(&gone)
    });
    scenario.settled();
    assert_eq!(scenario.healthy("web"), 4);
}

#[test]
fn a_voter_stays_while_the_others_could_decide_nothing_without_it() {
    let mut scenario = Scenario::nodes(3);
    scenario.until("three vote", |world| voters(world).len() == 3);
    let leader = scenario.world.leader().expect("settled");
    let mut others = scenario.world.voters().clone();
    others.remove(&leader);
    let [down, up] = others.into_iter().collect::<Vec<_>>()[..] else { panic!() };
    scenario.world.inject(Fault::PowerOff(down), Millis::secs(60));
    scenario.until("it is down", |world| !world.cluster().nodes[&down].is_up());
    let refusal = scenario.refusal(Request::RemoveNode { node: up.to_string(), force: true });
    let name = &scenario.world.cluster().nodes[&down].name;
    assert!(refusal.message.contains(&format!("{name} cannot be reached")), "{refusal}");
    let removed = scenario.ask(Request::RemoveNode { node: down.to_string(), force: true });
    assert_eq!(removed, Ok(Answer::Done));
}

#[test]
fn a_node_that_hears_that_it_was_removed_takes_its_containers_with_it() {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1"]);
    scenario.run(&WEB.replace("port = 8080", "port = 8080\nreplicas = 3"));
    let gone = NodeId(3);
    let removed = scenario.ask(Request::RemoveNode { node: gone.to_string(), force: true });
    assert_eq!(removed, Ok(Answer::Done));
    scenario.until("it has ended", |world| world.host(gone).gone);
    scenario.settled();
    assert_eq!(scenario.healthy("web"), 3);
}

#[test]
fn a_node_that_was_removed_while_it_was_away_learns_of_it_when_it_is_back() {
    let mut scenario = Scenario::nodes(3);
    scenario.until("three vote", |world| voters(world).len() == 3);
    let leader = scenario.world.leader().expect("settled");
    let away = *scenario.world.voters().iter().find(|id| **id != leader).expect("three vote");
    scenario.world.inject(Fault::PowerOff(away), Millis::secs(60));
    scenario.until("it is down", |world| !world.cluster().nodes[&away].is_up());
    let removed = scenario.ask(Request::RemoveNode { node: away.to_string(), force: true });
    assert_eq!(removed, Ok(Answer::Done));
    scenario.wait(Millis::secs(50));
    assert!(!scenario.world.host(away).gone);
    scenario.until("it is back, and has ended", |world| world.host(away).gone);
    scenario.settled();
}

#[test]
fn a_node_without_a_vote_learns_that_it_was_removed_from_whomever_is_left() {
    let mut scenario = Scenario::nodes(4);
    scenario.until("three vote", |world| voters(world).len() == 3);
    scenario.wait(Millis::secs(5));
    let leader = scenario.world.leader().expect("settled");
    let away = (1..=4).map(NodeId).find(|id| !scenario.world.voters().contains(id));
    let away = away.expect("one of four does not vote");
    scenario.world.inject(alone(away, 4), Millis::secs(60));
    scenario.until("it is down", |world| !world.cluster().nodes[&away].is_up());
    // The only one that it knows to lead is gone before it is back.
    scenario.world.inject(Fault::PowerOff(leader), Millis::mins(20));
    let removed = scenario.ask(Request::RemoveNode { node: away.to_string(), force: true });
    assert_eq!(removed, Ok(Answer::Done));
    scenario.wait(Millis::mins(2));
    assert!(scenario.world.host(away).gone, "{}", scenario.story());
}

#[test]
fn the_last_node_that_votes_cannot_be_removed() {
    let mut scenario = Scenario::nodes(2);
    let refusal = scenario.refusal(Request::RemoveNode { node: "m1".to_owned(), force: true });
    assert_eq!(refusal.message, "node m1 is the only one that votes");
}
