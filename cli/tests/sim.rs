//! `mill sim` as people run it: the same seed in two processes is the same to the byte.

#![allow(clippy::unwrap_used, reason = "a command that cannot be run fails its test")]

use std::process::{Command, Output};

fn sim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mill")).arg("sim").args(args).output().unwrap()
}

#[test]
fn one_seed_in_two_processes_leaves_the_same_trace_byte_for_byte() {
    for seed in ["3", "0x2a", "77"] {
        let [first, second] = [0, 1].map(|_| sim(&["--seed", seed, "--trace"]));
        assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stdout));
        assert!(first.stdout.len() > 10_000, "a trace has more to say");
        assert!(first.stdout == second.stdout, "seed {seed} differs between two processes");
    }
}

#[test]
fn several_seeds_are_summed_up_whatever_runs_at_the_same_time() {
    let [one, two] = ["1", "2"].map(|jobs| sim(&["--seeds", "0..12", "--jobs", jobs, "--json"]));
    assert!(one.status.success() && two.status.success());
    assert_eq!(one.stdout, two.stdout);
}

#[test]
fn a_seed_that_makes_no_sense_is_wrong_usage() {
    let output = sim(&["--seeds", "9..3"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no seed in that range"));
}
