//! Gray failures: nodes that are half there, leaders in trouble, and silence that means little.

use std::collections::BTreeSet;

use mill_core::api::{Answer, Request};
use mill_core::cluster::Revision;
use mill_core::cluster::alloc::Phase;
use mill_core::cluster::deploy::DeployState;
use mill_core::cluster::node::Trust;
use mill_core::name::NodeId;
use mill_core::units::Millis;
use mill_runtime_sim::models::registry::Behaviour;
use mill_runtime_sim::{Fault, Params, World};
use mill_sim_tests::Scenario;

use crate::WEB;

fn replicas(count: u64) -> String {
    let health = "path = \"/\"\ninterval = \"1s\"";
    WEB.replace("port = 8080", &format!("port = 8080\nreplicas = {count}"))
        .replace("path = \"/\"", health)
}

/// A cluster in which `web` runs with that many replicas.
fn running(nodes: u64, count: u64) -> Scenario {
    let mut scenario = Scenario::nodes(nodes);
    scenario.images(&["web:1"]);
    scenario.run(&replicas(count));
    scenario
}

fn leader(scenario: &Scenario) -> NodeId {
    scenario.world.leader().expect("somebody leads")
}

/// The nodes that do not lead, from the last to the first.
fn followers(scenario: &Scenario) -> Vec<NodeId> {
    let leader = leader(scenario);
    let mut others: Vec<NodeId> = scenario.world.hosts().map(|host| host.id).collect();
    others.retain(|node| *node != leader);
    others.reverse();
    others
}

fn count(world: &World, what: &str) -> u64 {
    world.stats().counts.get(what).copied().unwrap_or(0)
}

fn down(world: &World) -> usize {
    world.cluster().nodes.values().filter(|record| !record.is_up()).count()
}

#[test]
fn whoever_is_powered_off_has_its_replicas_elsewhere_within_twelve_seconds() {
    for nodes in [3, 5, 20] {
        let mut longest = Millis(0);
        for seed in 0..50 {
            let mut scenario = Scenario::with(Params::calm(seed, nodes));
            scenario.images(&["web:1"]);
            assert_eq!(scenario.deploy(&replicas(nodes)), DeployState::Succeeded);
            let begun = scenario.world.now();
            // The leader, too, in its turn.
            let lost = NodeId(seed % nodes + 1);
            scenario.world.inject(Fault::PowerOff(lost), Millis::mins(10));
            let enough = usize::try_from(nodes).expect("small");
            while scenario.world.cluster().is_up(lost) || serving(&scenario.world) < enough {
                scenario.wait(Millis(50));
            }
            longest = longest.max(scenario.world.now().since(begun));
        }
        assert!(longest <= Millis::secs(12), "{nodes} nodes: {longest}");
    }
}

#[test]
fn a_leader_that_does_not_hear_many_hands_its_lead_on_and_nothing_moves() {
    // It reaches a quorum, so consensus finds no fault with it; seven of twenty do not reach it.
    let mut scenario = running(20, 20);
    let (processes, before) = (scenario.processes(), leader(&scenario));
    let deaf_to = followers(&scenario).into_iter().take(7).map(|node| (node, before)).collect();
    scenario.world.inject(Fault::Blocked(deaf_to), Millis::mins(2));
    scenario.until("another leads", |world| world.leader().is_some_and(|now| now != before));
    scenario.wait(Millis::mins(3));
    assert_eq!(count(&scenario.world, "leads handed on"), 1);
    assert_eq!(down(&scenario.world), 0);
    assert_eq!(scenario.processes(), processes, "{}", scenario.story());
}

#[test]
fn many_that_are_really_gone_are_called_down_after_one_hand_over_and_two_windows() {
    let mut scenario = running(5, 5);
    let begun = scenario.world.now();
    for node in followers(&scenario).into_iter().take(2) {
        scenario.world.inject(Fault::PowerOff(node), Millis::mins(10));
    }
    scenario.until("they are called down", |world| down(world) == 2);
    let took = scenario.world.now().since(begun);
    assert!(took >= Millis::secs(15) && took < Millis::secs(19), "{took}");
    scenario.until("all replicas are healthy without them", |world| serving(world) == 5);
    scenario.wait(Millis::mins(2));
    assert_eq!(count(&scenario.world, "leads handed on"), 1, "{}", scenario.story());
}

#[test]
fn a_third_of_the_nodes_is_not_many_and_neither_is_one_of_two() {
    for (nodes, lost) in [(3, 1), (6, 2), (2, 1)] {
        let mut scenario = running(nodes, nodes);
        for node in followers(&scenario).into_iter().take(lost) {
            scenario.world.inject(Fault::PowerOff(node), Millis::mins(1));
        }
        scenario.wait(Millis::secs(30));
        assert_eq!(count(&scenario.world, "leads handed on"), 0);
        // Of two nodes one votes, so that the loss of the other stops nothing.
        assert_eq!(down(&scenario.world), lost, "of {nodes}: {}", scenario.story());
        scenario.settled();
    }
}

#[test]
fn nodes_that_fall_silent_shortly_after_each_other_count_as_many() {
    let mut scenario = running(5, 5);
    let mut others = followers(&scenario).into_iter();
    for node in others.by_ref().take(2) {
        scenario.world.inject(Fault::PowerOff(node), Millis::mins(10));
        scenario.wait(Millis::secs(5));
    }
    scenario.until("the first is called down", |world| down(world) == 1);
    scenario.until("the second is called down", |world| down(world) == 2);
    assert_eq!(count(&scenario.world, "leads handed on"), 1, "{}", scenario.story());
}

#[test]
fn a_leader_doubts_itself_again_when_many_more_fall_silent_later() {
    // Found by seed 0xc7e8: nobody had looked since the first incident was over.
    for later in 0..12 {
        let mut scenario = Scenario::nodes(9);
        scenario.wait(Millis::mins(1));
        let leader = leader(&scenario);
        let (voters, others): (Vec<NodeId>, Vec<NodeId>) =
            followers(&scenario).into_iter().partition(|id| scenario.world.voters().contains(id));
        // It keeps its lead: the one to whom it would go never hears of it.
        let heir = *voters.last().expect("five vote");
        scenario.world.inject(Fault::Blocked(vec![(leader, heir)]), Millis::secs(12));
        for node in others {
            scenario.world.inject(Fault::PowerOff(node), Millis::mins(10));
        }
        scenario.until("four are called down", |world| down(world) == 4);
        scenario.wait(Millis::secs(later));
        for node in voters.into_iter().take(2) {
            scenario.world.inject(Fault::PowerOff(node), Millis::mins(10));
        }
        scenario.until("two more are called down", |world| down(world) == 6);
    }
}

#[test]
fn a_leader_whose_heir_is_not_able_waits_a_window_and_goes_ahead() {
    let mut scenario = running(8, 8);
    let before = leader(&scenario);
    // Whoever would be asked never hears of it: nothing leaves the leader but towards a quorum
    // that stays silent about it.
    let begun = scenario.world.now();
    let gone: Vec<NodeId> = followers(&scenario).into_iter().take(3).collect();
    let heir = followers(&scenario).pop().expect("others follow");
    for node in gone {
        scenario.world.inject(Fault::PowerOff(node), Millis::mins(10));
    }
    scenario.world.inject(Fault::Blocked(vec![(before, heir)]), Millis::mins(1));
    scenario.until("they are called down", |world| down(world) == 3);
    let took = scenario.world.now().since(begun);
    assert_eq!(leader(&scenario), before);
    assert!(took >= Millis::secs(15) && took < Millis::secs(19), "{took}");
}

/// Allocs of `web` that were placed since `after` and are not healthy yet.
fn on_their_way(world: &World, after: Revision) -> usize {
    let name = "web".parse().expect("a name");
    let new = world.cluster().allocs_of(&name).filter(|(_, alloc)| alloc.placed > after);
    new.filter(|(_, alloc)| alloc.is_wanted() && alloc.status.phase != Phase::Healthy).count()
}

#[test]
fn lost_replicas_are_replaced_five_at_a_time_and_the_others_say_so() {
    let mut scenario = running(3, 24);
    let before = scenario.world.cluster().revision;
    let lost = followers(&scenario)[0];
    scenario.world.inject(Fault::PowerOff(lost), Millis::mins(10));
    scenario.until("it is called down", |world| down(world) == 1);
    let (mut most, mut told) = (0, String::new());
    while serving(&scenario.world) < 24 {
        scenario.wait(Millis(20));
        most = most.max(on_their_way(&scenario.world, before));
        if most > 0 && told.is_empty() {
            let why = scenario.ask(Request::Why { subject: "web".to_owned(), stale: false });
            let Ok(Answer::Why(why)) = why else { panic!("there is a reason: {why:?}") };
            told = why.because.join("\n");
        }
    }
    assert!(told.contains("its node is down; it is placed elsewhere after 5"), "{told}");
    assert_eq!(most, 5);
}

#[test]
fn a_lost_replica_that_never_becomes_healthy_does_not_hold_the_others_up_for_ever() {
    let mut scenario = Scenario::nodes(3);
    scenario.images(&["web:1"]);
    scenario.run(&replicas(24).replace("interval = ", "start_period = \"20m\"\ninterval = "));
    let never = Behaviour { ready_after: None, ..Behaviour::default() };
    scenario.world.registry().rebuild("web:1", never);
    let lost = followers(&scenario)[0];
    scenario.world.inject(Fault::PowerOff(lost), Millis::mins(30));
    scenario.until("every slot has a replica elsewhere", |world| {
        let name = "web".parse().expect("a name");
        let live = world
            .cluster()
            .allocs_of(&name)
            .filter(|(_, alloc)| alloc.is_wanted() && world.cluster().is_up(alloc.node));
        let slots: BTreeSet<u64> = live.map(|(_, alloc)| alloc.slot.index).collect();
        slots.len() == 24
    });
}

#[test]
fn a_leader_that_hears_nobody_is_followed_by_another_and_only_it_is_missed() {
    let mut scenario = running(5, 5);
    let (deaf, processes) = (leader(&scenario), scenario.processes());
    let into = followers(&scenario).into_iter().map(|node| (node, deaf)).collect();
    scenario.world.inject(Fault::Blocked(into), Millis::mins(1));
    scenario.until("another leads", |world| world.leader().is_some_and(|now| now != deaf));
    scenario.wait(Millis::secs(30));
    let up = |node: &NodeId| scenario.world.cluster().is_up(*node);
    assert!(!up(&deaf) && followers(&scenario).iter().filter(|node| **node != deaf).all(up));
    let after = scenario.processes();
    assert!(processes.iter().all(|(id, started)| after.get(id) == Some(started)));
    scenario.settled();
    assert_eq!(scenario.processes().len(), 5, "{}", scenario.story());
}

#[test]
fn a_leader_with_a_slow_disk_leads_on_slowly_and_nothing_moves() {
    let mut scenario = running(3, 3);
    scenario.images(&["web:2"]);
    let (slow, processes) = (leader(&scenario), scenario.processes());
    scenario.world.inject(Fault::SlowDisk(slow), Millis::mins(5));
    scenario.wait(Millis::mins(1));
    assert_eq!(scenario.processes(), processes);
    let begun = scenario.world.now();
    let state = scenario.deploy(&replicas(3).replace("web:1", "web:2"));
    assert_eq!(state, DeployState::Succeeded, "{}", scenario.story());
    assert!(scenario.world.now().since(begun) > Millis::secs(20), "it was slow");
    assert_eq!(leader(&scenario), slow);
    assert_eq!(down(&scenario.world), 0);
}

#[test]
fn half_of_the_nodes_silent_for_less_than_two_windows_move_nothing() {
    let mut scenario = running(20, 20);
    let (processes, before) = (scenario.processes(), leader(&scenario));
    let half = (11..=20).map(NodeId);
    let mute = half.flat_map(|node| (1..=10).map(move |other| (node, NodeId(other)))).collect();
    scenario.world.inject(Fault::Blocked(mute), Millis::secs(14));
    scenario.wait(Millis::mins(1));
    assert_eq!(count(&scenario.world, "leads handed on"), 1);
    assert_ne!(leader(&scenario), before);
    assert_eq!(down(&scenario.world), 0);
    assert_eq!(scenario.processes(), processes, "{}", scenario.story());
}

#[test]
fn a_follower_that_takes_in_and_never_answers_stops_what_was_replaced() {
    let mut scenario = running(3, 3);
    let (mute, lead) = (followers(&scenario)[0], leader(&scenario));
    let links = scenario.world.hosts().map(|host| host.id).filter(|other| *other != mute);
    let links = links.map(|other| (mute, other)).collect();
    scenario.world.inject(Fault::Blocked(links), Millis::mins(2));
    scenario.until("it is called down", |world| !world.cluster().is_up(mute));
    scenario.until("its replica serves elsewhere", |world| serving(world) == 3);
    scenario.wait(Millis::secs(30));
    assert_eq!(scenario.processes().len(), 3, "it heard that its own is to stop");
    assert_eq!(leader(&scenario), lead);
    scenario.settled();
}

/// A node is cut off for long enough to be called down, and is back.
fn goes_and_comes(scenario: &mut Scenario, node: NodeId) {
    let others = scenario.world.hosts().map(|host| host.id).filter(|other| *other != node);
    let links = others.flat_map(|other| [(node, other), (other, node)]).collect();
    scenario.world.inject(Fault::Blocked(links), Millis::secs(12));
    scenario.until("it is called down", |world| !world.cluster().is_up(node));
    scenario.until("it is back", |world| world.cluster().is_up(node));
}

/// Nodes on which something was placed since `after`.
fn placed_on(world: &World, after: Revision) -> BTreeSet<NodeId> {
    let new = world.cluster().allocs.values().filter(|alloc| alloc.placed > after);
    new.map(|alloc| alloc.node).collect()
}

#[test]
fn a_node_that_came_back_three_times_gets_nothing_new_until_it_stayed() {
    let mut scenario = running(3, 1);
    let node = followers(&scenario)[0];
    for _ in 0..3 {
        assert_eq!(scenario.world.cluster().nodes[&node].trust, Trust::Full);
        goes_and_comes(&mut scenario, node);
    }
    let (back, before) = (scenario.world.now(), scenario.world.cluster().revision);
    assert_eq!(scenario.deploy(&replicas(6)), DeployState::Succeeded);
    assert!(!placed_on(&scenario.world, before).contains(&node), "{}", scenario.story());
    scenario
        .until("it is trusted again", |world| world.cluster().nodes[&node].trust == Trust::Full);
    let took = scenario.world.now().since(back);
    assert!(took >= Millis::secs(30) && took < Millis::secs(32), "{took}");
    scenario.run(&replicas(12));
    assert!(placed_on(&scenario.world, before).contains(&node), "{}", scenario.story());
}

#[test]
fn a_node_that_is_watched_is_named_where_nothing_else_will_do() {
    let mut scenario = running(3, 1);
    let node = followers(&scenario)[0];
    for _ in 0..3 {
        goes_and_comes(&mut scenario, node);
    }
    // One replica takes all of a node, and the other two are taken.
    let large = replicas(3).replace("image =", "cpu = 5\nimage =");
    let number = scenario.start(&large);
    scenario.wait(Millis::secs(10));
    let why = scenario.ask(Request::Why { subject: "web".to_owned(), stale: false });
    let Ok(Answer::Why(why)) = why else { panic!("there is a reason: {why:?}") };
    let told = why.because.join("\n");
    let name = &scenario.world.cluster().nodes[&node].name;
    let words = format!("{name} came back 3 times lately and gets nothing new; trusted again in ");
    assert!(told.contains(&words), "{told}");
    let why = scenario.ask(Request::Why { subject: node.to_string(), stale: false });
    let Ok(Answer::Why(why)) = why else { panic!("there is a reason: {why:?}") };
    assert!(why.because.join("\n").contains("it came back 3 times lately"), "{why:?}");
    assert_eq!(scenario.end_of(number), DeployState::Succeeded, "{}", scenario.story());
}

#[test]
fn every_further_return_doubles_the_watch_and_staying_forgets_them() {
    let mut scenario = running(3, 1);
    let node = followers(&scenario)[0];
    let watched = |scenario: &mut Scenario| {
        let back = scenario.world.now();
        scenario.until("it is trusted again", |world| {
            world.cluster().nodes[&node].trust == Trust::Full
        });
        scenario.world.now().since(back).0 / 1_000
    };
    goes_and_comes(&mut scenario, node);
    goes_and_comes(&mut scenario, node);
    let mut lengths = Vec::new();
    for _ in 0..4 {
        goes_and_comes(&mut scenario, node);
        lengths.push(watched(&mut scenario));
    }
    assert_eq!(lengths, [30, 60, 120, 240]);
    // A new leader watches anew, and forgets as well.
    let mut changed = false;
    while !changed || leader(&scenario) == node {
        scenario.world.inject(Fault::Depose, Millis(0));
        scenario.until("somebody leads", |world| world.leader().is_some());
        changed = true;
    }
    scenario.wait(Millis::mins(11));
    goes_and_comes(&mut scenario, node);
    assert_eq!(scenario.world.cluster().nodes[&node].returns, 1);
}

#[test]
fn a_leader_change_makes_trust_later_and_never_sooner() {
    let mut scenario = running(3, 1);
    let node = followers(&scenario)[0];
    for _ in 0..3 {
        goes_and_comes(&mut scenario, node);
    }
    let back = scenario.world.now();
    scenario.wait(Millis::secs(20));
    scenario.world.inject(Fault::Depose, Millis(0));
    scenario
        .until("it is trusted again", |world| world.cluster().nodes[&node].trust == Trust::Full);
    let took = scenario.world.now().since(back);
    assert!(took >= Millis::secs(50) && took < Millis::secs(55), "{took}");
}

/// Replicas of `web` that answer requests now.
fn serving(world: &World) -> usize {
    let name = "web".parse().expect("a name");
    let served = world.cluster().allocs_of(&name).filter(|(id, alloc)| {
        let container = world.host(alloc.node).engine.container(id);
        world.cluster().is_up(alloc.node)
            && container.is_some_and(|container| container.serves(world.now()))
    });
    served.count()
}
