//! Many seeds: every invariant holds after every event, every cluster converges, and the runs
//! reach what they are meant to reach. More of them: `make hunt`.

use std::ops::Range;

use mill_runtime_sim::{FaultKind, Params, Stats, run};

/// Runs seeds and adds up what they reached.
fn swarm(seeds: Range<u64>) -> Stats {
    let mut stats = Stats::default();
    for seed in seeds {
        let report = run(Params::from_seed(seed));
        assert!(report.passed(), "{report}");
        stats.add(&report.stats);
    }
    stats
}

#[test]
fn every_seed_holds_and_together_they_reach_everything() {
    let stats = swarm(0..100);
    let reached = |what: &str| stats.counts.get(what).copied().unwrap_or(0);
    let reachable = [
        "deploys acknowledged",
        "deploys succeeded",
        "deploys succeeded in part",
        "deploys went back",
        "returns to earlier deploys",
        "canaries promoted by hand",
        "canaries watched to the end",
        "images pruned",
        "refusals",
        "elections",
        "snapshots sent",
        "leads handed on",
        "leads taken over",
        "machines joined",
        "changes of members",
        "requests passed on",
    ];
    for what in reachable {
        assert!(reached(what) > 0, "no run reached: {what}");
    }
    for kind in FaultKind::ALL {
        assert!(reached(kind.name()) > 0, "no run had: {}", kind.name());
    }
}

#[test]
#[ignore = "takes minutes: `make soak` runs it"]
fn two_thousand_seeds_hold() {
    let failed = |seeds: Range<u64>| {
        let reports = seeds.map(|seed| run(Params::from_seed(seed)));
        reports.filter(|report| !report.passed()).map(|r| r.to_string()).collect::<Vec<_>>()
    };
    let halves = [0..1_000, 1_000..2_000].map(|half| std::thread::spawn(move || failed(half)));
    let failed = halves.map(|half| half.join().expect("a panic in a run is a violation")).concat();
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn equal_seeds_lead_to_equal_traces() {
    for seed in 1_000..1_006 {
        assert_eq!(run(Params::from_seed(seed)).hash, run(Params::from_seed(seed)).hash);
    }
}

#[test]
fn different_seeds_lead_to_different_traces() {
    let mut hashes: Vec<u64> =
        (2_000..2_008).map(|seed| run(Params::from_seed(seed)).hash).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 8);
}
