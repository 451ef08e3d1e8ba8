//! A checkpoint taken at any moment, and the events since, lead to the same effects again.

use mill_core::name::NodeId;
use mill_core::recording::{CORE_VERSION, EffectHash, ReplayError, replay};
use mill_core::units::Millis;
use mill_runtime_sim::{Params, World};
use mill_sim_tests::Scenario;

/// A world in turmoil on few nodes.
fn turmoil(seed: u64) -> World {
    let params = Params { nodes: 3, turmoil: Millis::mins(5), ..Params::from_seed(seed) };
    let mut world = World::new(Params { fault_gap: Millis::secs(10), ..params });
    world.begin_faults();
    world.begin_people();
    world
}

/// The first node whose daemon runs.
fn running(world: &World) -> NodeId {
    let up = world.hosts().find(|host| host.is_up()).expect("one of three runs");
    up.id
}

#[test]
fn a_recording_begun_at_any_moment_is_reproduced() {
    let mut events = 0;
    for seed in 0..20 {
        let mut world = turmoil(seed);
        for _ in 0..8 {
            world.run_for(Millis(17_531));
            let node = running(&world);
            world.begin_recording(node);
            let boot = world.host(node).boots;
            world.run_for(Millis(10_007));
            let lines = world.end_recording(node);
            if world.host(node).boots != boot {
                // Another daemon wrote on: on disk that would be another file.
                continue;
            }
            let found = replay(lines.into_iter(), |_, _| {});
            events += found.unwrap_or_else(|error| panic!("seed {seed}: {error}")).events;
        }
    }
    assert!(events > 5_000, "{events} events prove little");
}

/// A short recording of a node that follows.
fn recorded() -> Vec<String> {
    let mut scenario = Scenario::nodes(3);
    scenario.settled();
    let leader = scenario.world.leader();
    let world = &mut scenario.world;
    let node = (1..=3).map(NodeId).find(|node| Some(*node) != leader).expect("two follow");
    world.begin_recording(node);
    world.run_for(Millis::secs(20));
    world.end_recording(node)
}

fn refusal(lines: &[String]) -> String {
    replay(lines.iter().cloned(), |_, _| {}).expect_err("it is refused").to_string()
}

#[test]
fn what_is_no_recording_of_this_core_is_refused_in_words() {
    let whole = recorded();
    let mut other = whole.clone();
    other[0] = other[0].replace(CORE_VERSION, "0.0.1-other");
    let told = refusal(&other);
    assert!(told.contains("0.0.1-other") && told.contains("use the mill that made it"), "{told}");
    other[0] = whole[0].replace("\"mill_flight\":1", "\"mill_flight\":99");
    assert!(refusal(&other).contains("format 99"));
    assert!(refusal(&["# notes".to_owned()]).contains("line 1 is not part"));
    let checkpoint = whole[1][..whole[1].len() / 2].to_owned();
    for short in [&[][..], &whole[..1], &[whole[0].clone(), checkpoint]] {
        assert!(refusal(short).contains("ends before its checkpoint"), "{} lines", short.len());
    }
}

#[test]
fn a_recording_that_was_cut_off_is_replayed_up_to_there() {
    let mut lines = recorded();
    let last = lines.last_mut().expect("there are events");
    last.truncate(last.len() / 2);
    let events = lines.len() as u64 - 3;
    let found = replay(lines.into_iter(), |_, _| {}).expect("the rest is whole");
    assert_eq!((found.events, found.torn), (events, true));
}

#[test]
fn a_recording_that_was_tampered_with_is_told_apart() {
    let mut lines = recorded();
    let nothing = format!("\"effects\":{}", EffectHash::default().finish());
    let told = |line: &String| line.contains("\"wake\"") && !line.contains(&nothing);
    let place = lines.iter().position(told).expect("nodes are woken and do something");
    lines.remove(place);
    let replayed = replay(lines.into_iter(), |_, _| {});
    assert!(matches!(replayed, Err(ReplayError::Differs { .. })), "{replayed:?}");
}
