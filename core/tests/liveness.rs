//! What a leader makes of silence when it was itself that stood still. All else that it makes of
//! silence is told in `sim-tests/tests/scenarios/gray.rs`.

mod support;

use mill_core::units::Millis;
use support::Leader;

#[test]
fn a_leader_that_stood_still_gives_everybody_a_full_window_anew() {
    let mut leader = Leader::new();
    leader.hears_the_other();
    assert!(leader.thinks_it_up());
    // What was said meanwhile waits behind the call that wakes it.
    leader.after(Millis::secs(20));
    assert!(leader.thinks_it_up());
    for _ in 0..7 {
        leader.after(Millis::secs(1));
    }
    assert!(leader.thinks_it_up());
    leader.after(Millis::secs(1));
    assert!(!leader.thinks_it_up());
    leader.hears_the_other();
    assert!(leader.thinks_it_up());
}

#[test]
fn a_leader_that_looks_all_the_time_calls_a_node_down_after_one_window() {
    let mut leader = Leader::new();
    leader.hears_the_other();
    for _ in 0..7 {
        leader.after(Millis::secs(1));
    }
    assert!(leader.thinks_it_up());
    leader.after(Millis::secs(1));
    assert!(!leader.thinks_it_up());
}
