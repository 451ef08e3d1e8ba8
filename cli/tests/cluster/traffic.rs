//! Updates under load: nobody who calls a service notices that its replicas are replaced.

use super::callers::{Callers, Keep, Tally};
use super::machines::Machines;
use super::support::pause;

/// Updates under load, if nothing else is said.
const UPDATES: u32 = 1;
/// Requests per second.
const RATE: u64 = 1_000;
/// Machines with daemons; the callers are on another.
const NODES: usize = 3;

fn web(version: u32) -> String {
    format!(
        "
        [service.web]
        image = \"test/serve:{version}\"
        port = 8080
        replicas = 3
        health = {{ path = \"/\", interval = \"500ms\" }}
        update = {{ healthy_for = \"1s\" }}
        "
    )
}

fn updates() -> u32 {
    let asked = std::env::var("MILL_UPDATES").ok();
    asked.map_or(UPDATES, |asked| asked.parse().expect("MILL_UPDATES is a number"))
}

/// A cluster that runs the service, a machine beside it, and callers on that.
fn called(keep: Keep) -> Option<(Machines, Callers)> {
    let mut machines = Machines::start(NODES + 1)?;
    machines.load_server();
    machines.form(NODES);
    machines.deploy(1, &web(1));
    let sockets = (1..=NODES).map(|machine| machines.path(machine, "mill.sock")).collect();
    let callers = Callers::start(&machines.network(NODES + 1), sockets, "web", (RATE, keep));
    // Connections are kept by now, to all of them.
    pause(1_000);
    Some((machines, callers))
}

/// Versions take turns; `during` happens while each update moves.
fn update(machines: &mut Machines, mut during: impl FnMut(&mut Machines)) {
    for turn in 0..updates() {
        machines.set_config(&web(2 - turn % 2));
        machines.done(1, &["deploy", "--yes", "--detach"]);
        during(machines);
        machines.done(1, &["deploys", "attach"]);
        println!("update {} is done", turn + 1);
    }
}

fn all_answered(tally: &Tally) {
    println!("{} requests to {} endpoints were answered", tally.answered, tally.endpoints);
    assert_eq!(tally.failed, 0, "{} of {} failed: {:#?}", tally.failed, tally.answered, tally.told);
    let replaced = tally.endpoints > NODES;
    assert!(replaced && tally.answered > RATE, "too little was seen: {tally:?}");
}

#[test]
fn an_update_under_load_drops_no_request() {
    let Some((mut machines, callers)) = called(Keep::Half) else { return };
    update(&mut machines, |_| ());
    all_answered(&callers.stop());
}

#[test]
fn an_update_under_load_of_new_connections_drops_no_request() {
    let Some((mut machines, callers)) = called(Keep::None) else { return };
    update(&mut machines, |_| ());
    all_answered(&callers.stop());
}

#[test]
fn an_update_under_load_whose_leader_is_killed_drops_no_request() {
    let Some((mut machines, callers)) = called(Keep::Half) else { return };
    update(&mut machines, |machines| {
        machines.eventually("a replica was replaced", |machines| {
            let allocs = machines.allocs(1);
            allocs.iter().any(|alloc| alloc["stopping"] == true)
        });
        let leader = machines.some_leader();
        machines.kill_daemon(leader);
        machines.init_on(leader);
        machines.eventually("somebody leads", |machines| machines.leader(1).is_some());
    });
    all_answered(&callers.stop());
}
