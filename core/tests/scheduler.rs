//! What the scheduler promises, one sentence a test.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};

use mill_core::cluster::node::{Capacity, PortPool};
use mill_core::config::model::{ContainerSpec, PlaceSpec, Replicas, ServiceSpec};
use mill_core::name::{NodeId, Slot};
use mill_core::scheduler::{Ask, Candidate, Needs, Reason, Verdict, place};
use mill_core::units::{Bytes, Millicores};

fn node(id: u64, cores: u64, labels: &[(&str, &str)]) -> Candidate {
    Candidate {
        id: NodeId(id),
        name: format!("n{id}"),
        draining: false,
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        capacity: Capacity {
            cpu: Millicores(cores * 1000),
            memory: Bytes(cores << 30),
            ports: PortPool { first: 20_000, last: 20_009 },
        },
        cpu_used: 0,
        memory_used: 0,
        ports: BTreeSet::new(),
        resting: BTreeMap::new(),
        next_port: 20_000,
        services: BTreeMap::new(),
        watched: None,
    }
}

fn service(cpu: u64) -> ServiceSpec {
    ServiceSpec {
        replicas: Replicas::Count(1),
        before: None,
        container: ContainerSpec {
            image: "web:1".to_owned(),
            port: Some(8080),
            fixed_port: false,
            cpu: Some(Millicores(cpu)),
            memory: Some(Bytes(64 << 20)),
            command: Vec::new(),
            env: BTreeMap::new(),
            secret_files: BTreeMap::new(),
            health: Default::default(),
            stop: Default::default(),
            volumes: Vec::new(),
            user: None,
            read_only: false,
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            tmpfs: Vec::new(),
        },
        update: Default::default(),
        routes: Vec::new(),
        place: PlaceSpec::default(),
    }
}

fn ask<'a>(slot: &str, spec: &'a ServiceSpec) -> Ask<'a> {
    let slot: Slot = slot.parse().unwrap();
    Ask { slot, needs: Needs::of(spec), pinned: None, avoid: BTreeSet::new(), home: None }
}

fn chosen(verdicts: &[Verdict]) -> Vec<u64> {
    let node = |verdict: &Verdict| match verdict {
        Verdict::Placed { node, .. } => node.0,
        Verdict::Unplaced(_) => 0,
    };
    verdicts.iter().map(node).collect()
}

#[test]
fn replicas_of_a_service_spread_over_nodes() {
    let mut nodes = [node(1, 4, &[]), node(2, 4, &[]), node(3, 4, &[])];
    let spec = service(100);
    let asks: Vec<_> = (0..6).map(|i| ask(&format!("web.{i}"), &spec)).collect();
    assert_eq!(chosen(&place(&mut nodes, &asks)), [1, 2, 3, 1, 2, 3]);
}

#[test]
fn replicas_spread_over_the_values_of_a_label_first() {
    let mut nodes =
        [node(1, 4, &[("zone", "a")]), node(2, 4, &[("zone", "a")]), node(3, 4, &[("zone", "b")])];
    let mut spec = service(100);
    spec.place.spread = Some("zone".to_owned());
    let asks: Vec<_> = (0..4).map(|i| ask(&format!("web.{i}"), &spec)).collect();
    assert_eq!(chosen(&place(&mut nodes, &asks)), [1, 3, 2, 3]);
}

#[test]
fn the_node_with_the_least_dominant_share_is_taken() {
    let mut nodes = [node(1, 2, &[]), node(2, 8, &[])];
    let (web, api) = (service(500), service(500));
    let verdicts = place(&mut nodes, &[ask("web.0", &web), ask("api.0", &api)]);
    assert_eq!(chosen(&verdicts), [2, 2]);
}

#[test]
fn a_required_label_excludes_and_a_preferred_one_only_prefers() {
    let mut nodes = [node(1, 4, &[]), node(2, 1, &[("disk", "ssd")])];
    let mut required = service(600);
    required.place.require = BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]);
    let mut preferred = service(600);
    preferred.place.prefer = required.place.require.clone();
    let verdicts = place(&mut nodes, &[ask("a.0", &required), ask("b.0", &preferred)]);
    assert_eq!(chosen(&verdicts), [2, 1], "the second has no room where it would rather be");
}

#[test]
fn a_fixed_port_is_given_once_per_node() {
    let mut nodes = [node(1, 4, &[])];
    let mut spec = service(100);
    spec.container.fixed_port = true;
    let verdicts = place(&mut nodes, &[ask("web.0", &spec), ask("web.1", &spec)]);
    assert_eq!(verdicts[0], Verdict::Placed { node: NodeId(1), port: Some(8080) });
    let Verdict::Unplaced(rejected) = &verdicts[1] else { panic!("{verdicts:?}") };
    assert_eq!(rejected[0].reason, Reason::PortTaken(8080));
}

#[test]
fn a_port_that_rests_is_given_to_the_service_that_had_it_alone() {
    let mut nodes = [node(1, 4, &[])];
    nodes[0].resting = [(8080, "web".parse().unwrap()), (20_000, "web".parse().unwrap())].into();
    let (mut fixed, pooled) = (service(100), service(100));
    fixed.container.fixed_port = true;
    let asks = [ask("api.0", &fixed), ask("web.0", &fixed), ask("api.0", &pooled)];
    let verdicts = place(&mut nodes, &asks);
    let Verdict::Unplaced(rejected) = &verdicts[0] else { panic!("{verdicts:?}") };
    let rests = Reason::PortRests { port: 8080, service: "web".parse().unwrap() };
    assert_eq!(rejected[0].reason, rests);
    assert_eq!(verdicts[1], Verdict::Placed { node: NodeId(1), port: Some(8080) });
    assert_eq!(verdicts[2], Verdict::Placed { node: NodeId(1), port: Some(20_001) });
}

#[test]
fn ports_of_the_pool_go_round_and_run_out() {
    let mut nodes = [node(1, 4, &[])];
    nodes[0].next_port = 20_008;
    nodes[0].ports.insert(20_009);
    let spec = service(1);
    let asks: Vec<_> = (0..10).map(|i| ask(&format!("web.{i}"), &spec)).collect();
    let verdicts = place(&mut nodes, &asks);
    let port = |verdict: &Verdict| match verdict {
        Verdict::Placed { port, .. } => *port,
        Verdict::Unplaced(_) => None,
    };
    let first: Vec<_> = verdicts.iter().take(3).map(port).collect();
    assert_eq!(first, [Some(20_008), Some(20_000), Some(20_001)]);
    let Verdict::Unplaced(rejected) = &verdicts[9] else { panic!("{verdicts:?}") };
    assert!(matches!(rejected[0].reason, Reason::PoolExhausted(_)));
}

#[test]
fn what_cannot_be_placed_is_told_why_for_each_node() {
    let mut nodes = [node(1, 1, &[("disk", "ssd")]), node(2, 8, &[])];
    let mut spec = service(2000);
    spec.place.require = BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]);
    let verdicts = place(&mut nodes, &[ask("web.0", &spec)]);
    let Verdict::Unplaced(rejected) = &verdicts[0] else { panic!("{verdicts:?}") };
    let reasons: Vec<String> =
        rejected.iter().map(|r| format!("{} {}", r.node, r.reason)).collect();
    assert_eq!(
        reasons,
        ["n1 has 1 of 1 cores free, 2 are needed", "n2 has no label disk = \"ssd\""]
    );
}

#[test]
fn a_node_where_it_failed_is_taken_only_if_no_other_will_do() {
    let mut nodes = [node(1, 8, &[]), node(2, 1, &[])];
    let spec = service(600);
    let avoiding = Ask { avoid: BTreeSet::from([NodeId(1)]), ..ask("web.0", &spec) };
    let verdicts =
        place(&mut nodes, &[avoiding.clone(), Ask { slot: "web.1".parse().unwrap(), ..avoiding }]);
    assert_eq!(chosen(&verdicts), [2, 1]);
}
