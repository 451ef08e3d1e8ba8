//! What fails: daemons, machines, cables, directions.

use std::time::Duration;

use serde_json::Value;

use super::machines::{Machines, now};
use super::support::{pause, said};

/// Times that the leader is killed, if nothing else is said.
const KILLS: usize = 3;

const WEB: &str = r#"
[service.web]
image = "test/web:1"
port = 8080
replicas = 3
health = { path = "/healthz", interval = "1s" }
update = { healthy_for = "500ms", parallel = 3 }
stop = { grace = "2s" }
"#;

fn healthy(allocs: &[Value], not_on: usize) -> usize {
    let elsewhere = |alloc: &&Value| alloc["node"] != format!("m{not_on}");
    let fine = |alloc: &&Value| alloc["phase"] == "healthy" && alloc["stopping"] == false;
    allocs.iter().filter(elsewhere).filter(fine).count()
}

fn another(machines: &Machines, than: usize) -> usize {
    machines.all().find(|machine| *machine != than).unwrap()
}

/// Median and maximum, for people.
fn report(what: &str, mut took: Vec<Duration>) {
    took.sort();
    let (median, most) = (took[took.len() / 2], took[took.len() - 1]);
    println!("{what}: median {median:.2?}, maximum {most:.2?} of {}", took.len());
}

#[test]
fn a_killed_leader_is_succeeded_and_no_container_notices() {
    let Some(mut machines) = Machines::with_cluster(3) else { return };
    machines.deploy(2, WEB);
    let containers = |machines: &Machines| -> Vec<_> {
        machines.all().map(|machine| machines.containers(machine)).collect()
    };
    let before = containers(&machines);
    assert_eq!(before.iter().map(Vec::len).sum::<usize>(), 3);
    let kills = std::env::var("MILL_LEADER_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let mut took = Vec::new();
    for kill in 0..kills {
        let leader = machines.some_leader();
        let other = another(&machines, leader);
        machines.kill_daemon(leader);
        let killed = now();
        let label = format!("round=r{kill}");
        machines.eventually("a write is accepted again", |machines| {
            machines.mill(other, &["node", "label", "m1", &label]).status.success()
        });
        took.push(killed.elapsed());
        machines.init_on(leader);
        machines.eventually("it is back", |machines| {
            machines.leader(leader).is_some()
                && machines.nodes(leader).iter().all(|node| node["up"] == true)
        });
    }
    report("leader killed, until a write is accepted", took);
    assert_eq!(containers(&machines), before, "a new leader moves and restarts nothing");
}

#[test]
fn what_ran_on_a_machine_without_power_runs_elsewhere_and_it_comes_back_clean() {
    let Some(mut machines) = Machines::with_cluster(3) else { return };
    machines.deploy(1, WEB);
    let lost = another(&machines, machines.some_leader());
    let other = another(&machines, lost);
    machines.power_off(lost);
    let off = now();
    machines.eventually("three are healthy elsewhere", |machines| {
        healthy(&machines.allocs(other), lost) == 3
    });
    report("power off, until replicas are healthy elsewhere", vec![off.elapsed()]);
    machines.power_on(lost);
    machines.eventually("it is up, and what was replaced is gone from it", |machines| {
        machines.nodes(lost).iter().all(|node| node["up"] == true)
            && !machines.nodes(lost).is_empty()
            && machines.containers(lost).is_empty()
    });
    assert_eq!(healthy(&machines.allocs(other), lost), 3);
}

#[test]
fn a_leader_that_is_cut_off_refuses_in_words_and_disturbs_nobody_when_it_is_back() {
    let Some(machines) = Machines::with_cluster(3) else { return };
    machines.deploy(1, WEB);
    let old = machines.some_leader();
    let other = another(&machines, old);
    let before = machines.containers(old);
    machines.cut(old);
    machines.eventually("the others have a leader of their own", |machines| {
        machines.leader(other).is_some_and(|leader| leader != old)
    });
    machines.done(other, &["node", "label", "m1", "side=majority"]);
    let refused = machines.mill(old, &["node", "label", "m1", "side=minority"]);
    assert_eq!(refused.status.code(), Some(3), "{}", said(&refused));
    assert!(said(&refused).contains("cannot reach a majority"), "{}", said(&refused));
    assert_eq!(machines.containers(old), before, "its containers go on running");
    let view = said(&machines.mill(old, &["status", "--stale"]));
    assert!(view.contains("as this node knows it"), "{view}");
    let leader = machines.leader(other);
    machines.heal(old);
    machines.eventually("it follows", |machines| machines.leader(old) == leader);
    machines.eventually("it is up and knows what the others decided", |machines| {
        let nodes = machines.nodes(old);
        nodes.iter().all(|node| node["up"] == true)
            && nodes.iter().any(|node| node["labels"]["side"] == "majority")
    });
    assert_eq!(machines.leader(other), leader, "a working leader goes on leading");
}

#[test]
fn a_leader_that_is_not_heard_by_one_node_and_one_that_hears_nobody_are_lived_with() {
    let Some(machines) = Machines::with_cluster(3) else { return };
    machines.deploy(1, WEB);
    let containers = |machines: &Machines| -> Vec<_> {
        machines.all().map(|machine| machines.containers(machine)).collect()
    };
    let before = containers(&machines);
    let leader = machines.some_leader();
    let deaf = another(&machines, leader);
    machines.block(leader, deaf);
    pause(4_000);
    let third = machines.all().find(|machine| ![leader, deaf].contains(machine)).unwrap();
    machines.done(third, &["node", "label", "m1", "one=way"]);
    machines.unblock();
    machines.eventually("all are up", |machines| {
        let nodes = machines.nodes(third);
        nodes.len() == 3 && nodes.iter().all(|node| node["up"] == true)
    });
    // The leader hears nobody any more, and everybody hears it.
    let leader = machines.some_leader();
    machines.all().filter(|machine| *machine != leader).for_each(|other| {
        machines.block(other, leader);
    });
    let other = another(&machines, leader);
    machines.eventually("another leads and takes writes", |machines| {
        machines.leader(other).is_some_and(|now| now != leader)
            && machines.mill(other, &["node", "label", "m1", "two=ways"]).status.success()
    });
    machines.unblock();
    machines.eventually("all are up again", |machines| {
        let nodes = machines.nodes(leader);
        nodes.len() == 3 && nodes.iter().all(|node| node["up"] == true)
    });
    let after = containers(&machines);
    let running: usize = after.iter().map(Vec::len).sum();
    assert_eq!(running, 3, "{before:?} became {after:?}");
}

#[test]
fn daemons_that_restart_in_turn_hand_the_lead_on_and_touch_no_container() {
    let Some(mut machines) = Machines::with_cluster(3) else { return };
    machines.deploy(3, WEB);
    let containers = |machines: &Machines| -> Vec<_> {
        machines.all().map(|machine| machines.containers(machine)).collect()
    };
    let before = containers(&machines);
    let mut took = Vec::new();
    for machine in machines.all() {
        let other = another(&machines, machine);
        machines.stop_daemon(machine);
        let stopped = now();
        machines.eventually("a write is accepted", |machines| {
            machines
                .mill(other, &["node", "label", "m1", &format!("turn=t{machine}")])
                .status
                .success()
        });
        took.push(stopped.elapsed());
        machines.init_on(machine);
        machines.eventually("it is back", |machines| {
            let nodes = machines.nodes(machine);
            machines.leader(machine).is_some()
                && nodes.len() == 3
                && nodes.iter().all(|node| node["up"] == true)
        });
    }
    report("daemon stopped, until a write is accepted", took);
    assert_eq!(containers(&machines), before);
}
