//! Updates under load: nobody who calls a service notices that its replicas are replaced.

use std::time::Instant;

use super::callers::{Called, Callers, Keep, Tally};
use super::machines::{Machines, now};
use super::support::pause;

/// Updates under load, if nothing else is said.
const UPDATES: u32 = 1;
/// Requests per second, if nothing else is said: few enough for a machine that runs other tests too.
const RATE: u64 = 100;
/// A request takes a fiftieth of a second at most, on a machine that is busy.
const UNDER_WAY: u64 = 50;
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

/// Where the service is called from outside.
const HOST: &str = "shop.example.com";

fn routed(version: u32) -> String {
    format!("{}\n[[service.web.route]]\nhost = \"{HOST}\"\n", web(version))
}

/// What somebody said for a soak.
fn said<T: std::str::FromStr>(name: &str, otherwise: T) -> T {
    let said = std::env::var(name).ok();
    said.map_or(otherwise, |text| text.parse().ok().unwrap_or_else(|| panic!("{name} is a number")))
}

/// A cluster that runs the service, a machine beside it, and callers on that.
fn called(keep: Keep) -> Option<(Machines, Callers)> {
    let mut machines = Machines::start(NODES + 1)?;
    machines.load_server();
    machines.form(NODES);
    machines.deploy(1, &web(1));
    let sockets = (1..=NODES).map(|machine| machines.path(machine, "mill.sock")).collect();
    let callers = Callers::start(
        &machines.network(NODES + 1),
        Called::Endpoints(sockets),
        "web",
        (said("MILL_RATE", RATE), keep),
    );
    // Connections are kept by now, to all of them.
    pause(1_000);
    Some((machines, callers))
}

/// Versions take turns; `during` happens while each update moves.
fn update(machines: &mut Machines, mut during: impl FnMut(&mut Machines)) {
    for turn in 0..said("MILL_UPDATES", UPDATES) {
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

/// Through the service's address on the first node. Each request has a connection of its own: one
/// that is kept goes on for as long as the drain says.
fn through_the_address() -> Option<(Machines, Callers)> {
    let mut machines = Machines::start(NODES)?;
    machines.load_server();
    machines.form(NODES);
    machines.deploy(1, &web(1));
    let status = machines.status(1);
    let address = status["services"][0]["address"].as_str().expect("it has a port").to_owned();
    let (network, rate) = (machines.network(1), said("MILL_RATE", RATE));
    let callers = Callers::start(&network, Called::Address(address), "web", (rate, Keep::None));
    pause(1_000);
    Some((machines, callers))
}

#[test]
fn an_update_under_load_through_the_service_address_drops_no_request() {
    let Some((mut machines, callers)) = through_the_address() else { return };
    update(&mut machines, |_| ());
    none_failed(&callers.stop());
}

#[test]
fn a_drain_under_load_through_the_service_address_drops_no_request() {
    let Some((machines, callers)) = through_the_address() else { return };
    drain(&machines);
    none_failed(&callers.stop());
}

/// What was in flight to it may fail; a connection that was not made yet is made elsewhere.
#[test]
fn a_lost_node_costs_no_request_through_the_service_address_but_those_in_flight_to_it() {
    let Some((mut machines, callers)) = through_the_address() else { return };
    let off = lose_the_last(&mut machines);
    few_failed(&callers.stop(), off);
}

/// Empties the second node.
fn drain(machines: &Machines) {
    machines.done(1, &["node", "drain", "m2"]);
    machines.eventually("nothing runs there", |machines| {
        machines.allocs(1).iter().all(|alloc| alloc["node"] != "m2")
    });
}

/// The last node has no power any more, and its replica is elsewhere. Says when it had none.
fn lose_the_last(machines: &mut Machines) -> Instant {
    machines.power_off(NODES);
    let off = now();
    machines.eventually("its replica is elsewhere", |machines| {
        let allocs = machines.allocs(1);
        let here = allocs.iter().filter(|alloc| alloc["node"] != "m3");
        here.filter(|alloc| alloc["phase"] == "healthy").count() == NODES
    });
    off
}

/// None but those that were under way when a machine lost its power.
fn few_failed(tally: &Tally, off: Instant) {
    println!("{} requests were answered, {} failed", tally.answered, tally.failed);
    let late = tally.failed_last.filter(|began| *began > off).map(|began| began - off);
    assert!(late.is_none(), "one failed that began {late:?} later: {:#?}", tally.told);
    // Those of an instant, at this rate.
    let under_way = 4.max(said("MILL_RATE", RATE) / UNDER_WAY);
    assert!(tally.failed <= under_way, "{} failed: {:#?}", tally.failed, tally.told);
    assert!(tally.answered > RATE, "too little was seen: {tally:?}");
}

/// From outside, at every node, half of the requests on connections that are kept.
fn from_outside() -> Option<(Machines, Callers)> {
    let mut machines = Machines::start(NODES + 1)?;
    machines.load_server();
    machines.form(NODES);
    machines.deploy(1, &routed(1));
    let nodes = (1..=NODES).map(|machine| format!("{}:80", machines.address(machine)));
    let called = Called::Host(HOST.to_owned(), nodes.collect());
    let network = machines.network(NODES + 1);
    let callers = Callers::start(&network, called, "web", (said("MILL_RATE", RATE), Keep::Half));
    pause(1_000);
    Some((machines, callers))
}

fn none_failed(tally: &Tally) {
    println!("{} requests were answered", tally.answered);
    assert_eq!(tally.failed, 0, "{} of {} failed: {:#?}", tally.failed, tally.answered, tally.told);
    assert!(tally.answered > RATE, "too little was seen: {tally:?}");
}

#[test]
fn an_update_under_load_through_ingress_drops_no_request() {
    let Some((machines, callers)) = from_outside() else { return };
    for turn in 0..said("MILL_UPDATES", UPDATES) {
        machines.deploy(1, &routed(2 - turn % 2));
        println!("update {} is done", turn + 1);
    }
    none_failed(&callers.stop());
}

#[test]
fn a_drain_under_load_through_ingress_drops_no_request() {
    let Some((machines, callers)) = from_outside() else { return };
    drain(&machines);
    none_failed(&callers.stop());
}

/// What was in flight to it may fail; all that can be asked again elsewhere is.
#[test]
fn a_lost_node_costs_no_request_through_ingress_but_those_in_flight_to_it() {
    let Some(mut machines) = Machines::start(NODES + 1) else { return };
    machines.load_server();
    machines.form(NODES);
    machines.deploy(1, &routed(1));
    let nodes = (1..NODES).map(|machine| format!("{}:80", machines.address(machine)));
    let called = Called::Host(HOST.to_owned(), nodes.collect());
    let network = machines.network(NODES + 1);
    let callers = Callers::start(&network, called, "web", (said("MILL_RATE", RATE), Keep::Half));
    pause(1_000);
    let off = lose_the_last(&mut machines);
    few_failed(&callers.stop(), off);
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
