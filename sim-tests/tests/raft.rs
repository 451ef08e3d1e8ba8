//! Real consensus under simulation, by seed: what must hold, and that a seed is a run.
//!
//! On turmoil, sized to about a minute on two cores; more: `mill sim --raft --seeds A..B --jobs N`.
//! On madsim (`make madsim SEEDS=A..B`), where a run needs a process of its own, every seed runs each
//! subject in a pair of them.

#![allow(clippy::unwrap_used, reason = "a process that cannot be started fails its test")]

use std::collections::BTreeSet;
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::thread;

use mill_runtime_sim::raft::{RaftParams, Subject, run_one};

/// What some run of several must reach.
const REACHABLE: [&str; 14] = [
    "changes acknowledged",
    "crashes",
    "cuts",
    "deploys succeeded",
    "fault: machine replaced",
    "fault: partition",
    "machines joined",
    "members changed",
    "reads confirmed",
    "requests passed on",
    "snapshots taken",
    "transfers asked for",
    "writes refused",
    "writes unknown",
];

#[cfg(not(madsim))]
mod in_one_process {
    use super::{REACHABLE, RaftParams, Range};
    use mill_runtime_sim::Stats;
    use mill_runtime_sim::raft::run;

    /// Runs seeds and adds up what they reached.
    fn swarm(seeds: Range<u64>) {
        let mut stats = Stats::default();
        for seed in seeds {
            let report = run(RaftParams::from_seed(seed));
            assert!(report.passed(), "{report}");
            stats.add(&report.stats);
        }
        println!("{stats:?}");
        for what in REACHABLE {
            assert!(stats.counts.contains_key(what), "no run reached: {what}");
        }
    }

    #[test]
    fn every_seed_holds_and_together_they_reach_everything() {
        swarm(0..10);
    }

    #[test]
    fn so_do_as_many_others_on_another_core() {
        swarm(10..20);
    }
}

/// Set for the processes that [`equal_seeds_lead_to_equal_traces_in_any_process`] starts.
const SEED: &str = "MILL_TEST_RAFT_SEED";
/// And which subject, by its place.
const SUBJECT: &str = "MILL_TEST_RAFT_SUBJECT";
/// Which seeds it compares, as `A..B`, if others than a few.
const SEEDS: &str = "MILL_TEST_RAFT_SEEDS";
/// What stands before the lines that a run is compared by.
const SAYS: &str = "run  ";

#[test]
fn equal_seeds_lead_to_equal_traces_in_any_process() {
    if let Ok(seed) = std::env::var(SEED) {
        let subject: usize = std::env::var(SUBJECT).unwrap().parse().unwrap();
        return say(seed.parse().unwrap(), Subject::ALL[subject]);
    }
    let (mut traces, mut reached) = (BTreeSet::new(), BTreeSet::new());
    let seeds = seeds();
    let runs = seeds.clone().flat_map(|seed| [0, 1].map(|subject| (seed, subject)));
    for (seed, subject) in runs.clone() {
        // Both at once: one for each of two cores.
        let [first, second] = thread::scope(|scope| {
            [(); 2]
                .map(|()| scope.spawn(|| said(start(seed, subject))))
                .map(|run| run.join().unwrap())
        });
        let failed = first.iter().any(|line| line.starts_with("VIOLATION"));
        assert!(!failed, "{}", first.join("\n"));
        let differs = first.iter().zip(&second).find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed} leads to two traces");
        assert_eq!(first.len(), second.len(), "seed {seed} leads to two traces");
        println!("{}", first.iter().find(|line| line.starts_with("seed ")).unwrap());
        reached.extend(REACHABLE.into_iter().filter(|what| first.iter().any(|line| line == what)));
        traces.insert(first);
    }
    assert_eq!(traces.len(), runs.count(), "each run has a trace of its own");
    if traces.len() >= 40 {
        assert_eq!(reached, BTreeSet::from(REACHABLE), "no run reached the others");
    }
}

fn seeds() -> Range<u64> {
    let Ok(named) = std::env::var(SEEDS) else { return 100..103 };
    let (from, to) = named.split_once("..").unwrap();
    let seeds = from.parse().unwrap()..to.parse().unwrap();
    assert!(!seeds.is_empty(), "{named} names no seed");
    seeds
}

/// Prints every line of a run, what it reached, and how it ended.
fn say(seed: u64, subject: Subject) {
    let report = run_one(RaftParams::from_seed(seed), subject, true);
    let reached = report.stats.counts.keys().map(ToString::to_string);
    let ends = report.to_string();
    let lines = report.lines.iter().cloned().chain(reached);
    // Libtest prints before, on the line on which a test begins.
    println!();
    lines.chain(ends.lines().map(str::to_owned)).for_each(|line| println!("{SAYS}{line}"));
}

fn start(seed: u64, subject: usize) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = "equal_seeds_lead_to_equal_traces_in_any_process";
    command.args(["--exact", name, "--nocapture"]).env(SEED, seed.to_string());
    command.env(SUBJECT, subject.to_string());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What a run said, line by line.
fn said(run: Child) -> Vec<String> {
    let output = run.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<String> =
        text.lines().filter_map(|line| line.strip_prefix(SAYS)).map(str::to_owned).collect();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !lines.is_empty(), "a run did not end: {text}{error}");
    lines
}
