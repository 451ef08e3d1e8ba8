//! How long placing takes: `cargo bench -p mill-core`.
//!
//! The aims: 1,000 slots on 20 nodes in under 5 ms, 10,000 on 1,000 nodes in under 1 s.

use std::collections::{BTreeMap, BTreeSet};

use divan::Bencher;
use mill_core::cluster::node::{Capacity, PortPool};
use mill_core::config::model::{ContainerSpec, Replicas, ServiceSpec};
use mill_core::name::{NodeId, Slot};
use mill_core::scheduler::{Ask, Candidate, Needs, Verdict, place};
use mill_core::units::{Bytes, Millicores};

fn main() {
    divan::main();
}

/// Slots and nodes; services have ten replicas each.
#[divan::bench(args = [(1_000, 20), (10_000, 1_000)])]
fn slots_on_nodes(bencher: Bencher, (slots, nodes): (u64, u64)) {
    let spec = spec();
    let asks: Vec<Ask<'_>> = (0..slots).map(|slot| ask(slot, &spec)).collect();
    bencher.with_inputs(|| (1..=nodes).map(node).collect::<Vec<_>>()).bench_refs(|nodes| {
        let verdicts = place(nodes, &asks);
        assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Placed { .. })));
    });
}

fn ask(slot: u64, spec: &ServiceSpec) -> Ask<'_> {
    let service = format!("service-{:04}", slot / 10).parse().expect("a valid name");
    let slot = Slot { service, index: slot % 10 };
    Ask { slot, needs: Needs::of(spec), pinned: None, avoid: BTreeSet::new(), home: None }
}

fn node(id: u64) -> Candidate {
    Candidate {
        id: NodeId(id),
        name: format!("n{id}"),
        draining: false,
        labels: BTreeMap::from([("zone".to_owned(), format!("z{}", id % 3))]),
        capacity: Capacity {
            cpu: Millicores(64_000),
            memory: Bytes(256 << 30),
            ports: PortPool::default(),
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

fn spec() -> ServiceSpec {
    let container = ContainerSpec {
        image: "web:1".to_owned(),
        port: Some(8080),
        fixed_port: false,
        cpu: Some(Millicores(100)),
        memory: Some(Bytes(128 << 20)),
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
    };
    let mut spec = ServiceSpec {
        replicas: Replicas::Count(10),
        before: None,
        container,
        update: Default::default(),
        routes: Vec::new(),
        place: Default::default(),
    };
    spec.place.spread = Some("zone".to_owned());
    spec
}
