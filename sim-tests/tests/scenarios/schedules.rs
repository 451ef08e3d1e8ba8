//! Schedules: each moment is served once, by whoever leads then.

use mill_core::cluster::task::{Cause, Outcome, RunState};
use mill_core::time::Wall;
use mill_core::units::Millis;
use mill_runtime_sim::models::registry::{Behaviour, Crash};
use mill_runtime_sim::{Fault, World};
use mill_sim_tests::Scenario;

use crate::alone;

/// A task that runs every other minute, unless something is different.
fn backup(extra: &str) -> String {
    format!(
        "
        [task.backup]
        image = \"backup:1\"
        timeout = \"1h\"
        schedule = \"*/2 * * * *\"
        {extra}
        "
    )
}

fn with_backup(takes: Crash, extra: &str) -> Scenario {
    let mut scenario = Scenario::nodes(3);
    scenario.image("backup:1", Behaviour { crash: takes, ..Behaviour::default() });
    let number = scenario.start(&backup(extra));
    scenario.end_of(number);
    scenario
}

/// Moments that were served with a run, in order.
fn served(world: &World) -> Vec<Wall> {
    let causes = world.cluster().runs.values().map(|run| run.cause);
    let due = causes.filter_map(|cause| match cause {
        Cause::Schedule(due) => Some(due),
        Cause::Person | Cause::Gate(_) => None,
    });
    due.collect()
}

fn minutes_between(moments: &[Wall]) -> Vec<u64> {
    moments.windows(2).map(|pair| (pair[1].0 - pair[0].0) / 60_000).collect()
}

fn told(scenario: &Scenario, what: &str) -> bool {
    let events = &scenario.world.cluster().history.events;
    events.iter().any(|event| event.text.contains(what))
}

#[test]
fn each_moment_is_served_once_whoever_leads() {
    let mut scenario = with_backup(Crash::Done(Millis::secs(5), 0), "");
    for _ in 0..8 {
        scenario.wait(Millis::secs(75));
        scenario.world.inject(Fault::Depose, Millis(0));
    }
    let moments = served(&scenario.world);
    assert!((4..=6).contains(&moments.len()), "{moments:?}");
    assert!(minutes_between(&moments).iter().all(|minutes| *minutes == 2), "{moments:?}");
    assert!(moments.iter().all(|moment| moment.0 % 120_000 == 0), "{moments:?}");
}

#[test]
fn a_clock_that_is_set_forth_and_back_serves_no_moment_twice() {
    let mut scenario = with_backup(Crash::Done(Millis::secs(5), 0), "");
    scenario.wait(Millis::mins(3));
    let leader = scenario.world.leader().expect("somebody leads");
    scenario.world.inject(Fault::ClockJump(leader, 30 * 60_000), Millis::mins(1));
    scenario.wait(Millis::mins(10));
    let moments = served(&scenario.world);
    assert!(moments.is_sorted() && moments.len() >= 2, "{moments:?}");
}

#[test]
fn what_was_missed_is_made_up_for_once() {
    let mut scenario = with_backup(Crash::Done(Millis::secs(5), 0), "");
    scenario.wait(Millis::mins(3));
    let before = served(&scenario.world).len();
    for node in [1, 2] {
        scenario.world.inject(alone(mill_core::name::NodeId(node), 3), Millis::mins(11));
    }
    scenario.wait(Millis::mins(12));
    let moments = served(&scenario.world);
    let late = moments.len() - before;
    assert!((1..=3).contains(&late), "{moments:?}");
    assert!(minutes_between(&moments).iter().any(|minutes| *minutes >= 8), "{moments:?}");
}

#[test]
fn what_was_missed_is_let_go_where_that_is_wanted() {
    let mut scenario = with_backup(Crash::Done(Millis::secs(5), 0), "missed = \"skip\"");
    for node in [1, 2] {
        scenario.world.inject(alone(mill_core::name::NodeId(node), 3), Millis::mins(11));
    }
    scenario.wait(Millis::mins(13));
    assert!(told(&scenario, "it was not run: "), "{}", scenario.story());
}

#[test]
fn a_moment_is_skipped_while_the_last_run_goes_on() {
    let mut scenario = with_backup(Crash::Never, "");
    scenario.wait(Millis::mins(5));
    assert_eq!(served(&scenario.world).len(), 1);
    assert!(told(&scenario, "it was not run: run 1 is not over yet"), "{}", scenario.story());
}

#[test]
fn the_last_run_makes_way_for_the_next_where_that_is_wanted() {
    let mut scenario = with_backup(Crash::Never, "overlap = \"replace\"");
    scenario.wait(Millis::mins(5));
    let runs = &scenario.world.cluster().runs;
    assert_eq!(runs[&1].outcome(), Some(&Outcome::Killed), "{}", scenario.story());
    assert!(matches!(runs[&2].state, RunState::Placed { .. }));
}

#[test]
fn runs_overlap_as_far_as_they_may() {
    let mut scenario = with_backup(Crash::Never, "overlap = \"allow\"\nconcurrency = 2");
    scenario.wait(Millis::mins(7));
    let runs = scenario.world.cluster().runs.values();
    let placed = runs.filter(|run| matches!(run.state, RunState::Placed { .. })).count();
    assert_eq!((placed, served(&scenario.world).len()), (2, 3), "{}", scenario.story());
}

#[test]
fn a_schedule_counts_from_when_it_came_to_be() {
    let mut scenario = with_backup(Crash::Done(Millis::secs(5), 0), "");
    let yearly = backup("").replace("*/2 * * * *", "0 0 1 1 *");
    let number = scenario.start(&yearly);
    scenario.end_of(number);
    let before = served(&scenario.world).len();
    scenario.wait(Millis::mins(5));
    assert_eq!(served(&scenario.world).len(), before);
}
