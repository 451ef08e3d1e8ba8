//! How fast simulated time passes: five nodes with twenty services, for a hundred seconds.
//! Promised are 2,000 simulated seconds per second of one core: at most 50 ms here.

use divan::Bencher;
use mill_core::api::Request;
use mill_core::units::Millis;
use mill_runtime_sim::models::registry::Behaviour;
use mill_runtime_sim::{Fault, Params, World, workload};

fn main() {
    divan::main();
}

/// Five nodes on which twenty services with two replicas each run.
fn busy() -> World {
    let mut world = World::new(Params::calm(1, 5));
    let services = (0..20).map(|number| {
        let image = format!("service-{number}:1");
        let name = format!("service-{number}").parse().expect("a name");
        (name, workload::service(&image, 2))
    });
    let project = workload::project("bench", services);
    for spec in project.services.values() {
        world.registry().publish(&spec.container.image, Behaviour::default());
    }
    while world.leader().is_none() || world.cluster().nodes.len() < 5 {
        world.step();
    }
    let leader = world.leader().expect("waited for above");
    let request = Request::Deploy { project: Box::new(project), expect: None, keep_going: false };
    world.request(leader, request).expect("nothing is in its way");
    while !world.pending().is_empty() {
        world.run_for(Millis::secs(1));
    }
    world
}

#[divan::bench]
fn a_hundred_quiet_seconds(bencher: Bencher<'_, '_>) {
    bencher.with_inputs(busy).bench_values(|mut world| world.run_for(Millis::secs(100)));
}

#[divan::bench]
fn a_hundred_seconds_of_turmoil(bencher: Bencher<'_, '_>) {
    bencher.with_inputs(busy).bench_values(|mut world| {
        for second in 0..100_u64 {
            let node = mill_core::name::NodeId(second % 5 + 1);
            match second % 4 {
                0 => world.inject(Fault::Crash(node), Millis::secs(2)),
                1 => world.inject(Fault::KillContainer(node, second), Millis(0)),
                2 => world.inject(Fault::EngineDown(node), Millis::secs(3)),
                _ => world.inject(Fault::Depose, Millis(0)),
            }
            world.run_for(Millis::secs(1));
        }
    });
}
