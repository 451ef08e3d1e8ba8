//! Real consensus under simulation, by seed: what must hold, and that a seed is a run.
//!
//! Sized to about a minute on two cores. More of them: `mill sim --raft --seeds A..B --jobs N`.

#![allow(clippy::unwrap_used, reason = "a process that cannot be started fails its test")]

use std::ops::Range;
use std::process::Command;

use mill_runtime_sim::Stats;
use mill_runtime_sim::raft::{RaftParams, run};

/// Runs seeds and adds up what they reached.
fn swarm(seeds: Range<u64>) -> Stats {
    let mut stats = Stats::default();
    for seed in seeds {
        let report = run(RaftParams::from_seed(seed));
        assert!(report.passed(), "{report}");
        stats.add(&report.stats);
    }
    stats
}

fn reaches_everything(stats: &Stats) {
    println!("{stats:?}");
    let reachable = [
        "crashes",
        "cuts",
        "members changed",
        "reads confirmed",
        "snapshots taken",
        "transfers asked for",
        "writes refused",
        "writes unknown",
    ];
    for what in reachable {
        assert!(stats.counts.contains_key(what), "no run reached: {what}");
    }
}

#[test]
fn every_seed_holds_and_together_they_reach_everything() {
    reaches_everything(&swarm(0..10));
}

#[test]
fn so_do_as_many_others_on_another_core() {
    reaches_everything(&swarm(10..20));
}

/// Set for the processes that [`equal_seeds_lead_to_equal_traces_in_any_process`] starts.
const SEED: &str = "MILL_TEST_RAFT_SEED";

#[test]
fn equal_seeds_lead_to_equal_traces_in_any_process() {
    if let Ok(seed) = std::env::var(SEED) {
        let report = run(RaftParams::from_seed(seed.parse().unwrap()));
        println!("\ntrace {:016x}", report.hash);
        return;
    }
    let trace = |seed: u64| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let name = "equal_seeds_lead_to_equal_traces_in_any_process";
        command.args(["--exact", name, "--nocapture"]).env(SEED, seed.to_string());
        let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let trace = said.lines().find_map(|line| line.strip_prefix("trace "));
        trace.unwrap_or_else(|| panic!("seed {seed} has no trace: {said}")).to_owned()
    };
    let mut traces = Vec::new();
    for seed in 100..103 {
        let first = trace(seed);
        assert_eq!(first, trace(seed), "seed {seed}");
        traces.push(first);
    }
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 3, "each seed has a trace of its own");
}
