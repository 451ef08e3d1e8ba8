//! `mill sim`: simulated clusters under faults, by seed; with `--raft`, on real consensus.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use mill_runtime_sim::raft::{self, RaftParams, RaftReport};
use mill_runtime_sim::{Line, Params, Report, Stats, run, run_traced};
use serde::Serialize;

use super::{Outcome, done, pretty};
use crate::args::Sim;
use crate::failure::Failure;

/// Failing seeds that are shown in full; more are only counted.
const SHOWN: usize = 3;

/// What both kinds of run report.
trait Reported: Serialize + std::fmt::Display + Send {
    fn passed(&self) -> bool;
    fn seed(&self) -> u64;
    fn stats(&self) -> &Stats;
    fn reproduce(&self) -> &str;
}

impl Reported for Report {
    fn passed(&self) -> bool {
        Report::passed(self)
    }

    fn seed(&self) -> u64 {
        self.params.seed
    }

    fn stats(&self) -> &Stats {
        &self.stats
    }

    fn reproduce(&self) -> &str {
        &self.reproduce
    }
}

impl Reported for RaftReport {
    fn passed(&self) -> bool {
        RaftReport::passed(self)
    }

    fn seed(&self) -> u64 {
        self.params.seed
    }

    fn stats(&self) -> &Stats {
        &self.stats
    }

    fn reproduce(&self) -> &str {
        &self.reproduce
    }
}

/// `mill sim`.
pub fn sim(args: &Sim, json: bool) -> Outcome {
    match (args.seed, &args.seeds, args.raft) {
        (Some(seed), _, false) => one(params(seed, args), args.trace, json),
        (Some(seed), _, true) => one_raft(seed, args.trace, json),
        (None, Some(seeds), false) => {
            many(seeds.clone(), args.jobs, json, |seed| run(params(seed, args)))
        }
        (None, Some(seeds), true) => {
            many(seeds.clone(), args.jobs, json, |seed| raft::run(RaftParams::from_seed(seed)))
        }
        (None, None, _) => Err(Failure::Usage("name a seed, or several as A..B".to_owned())),
    }
}

fn params(seed: u64, args: &Sim) -> Params {
    let params = Params::from_seed(seed);
    Params { nodes: args.nodes.map_or(params.nodes, u64::from), ..params }
}

fn one(params: Params, trace: bool, json: bool) -> Outcome {
    let print: Option<Line> = trace.then(|| -> Line { Box::new(move |line| traced(line, json)) });
    say(&run_traced(params, print), trace, json)
}

fn one_raft(seed: u64, trace: bool, json: bool) -> Outcome {
    let mut report = raft::run_traced(RaftParams::from_seed(seed), trace);
    std::mem::take(&mut report.lines).iter().for_each(|line| traced(line, json));
    say(&report, trace, json)
}

/// A line of the trace, among other documents where those are wanted.
fn traced(line: &str, json: bool) {
    match json {
        true => println!("{}", serde_json::json!({ "trace": line })),
        false => println!("{line}"),
    }
}

fn say(report: &impl Reported, trace: bool, json: bool) -> Outcome {
    match json {
        true if trace => println!("{}", serde_json::json!(report)),
        true => println!("{}", pretty(report)),
        false => {
            println!("{report}");
            report.stats().counts.iter().for_each(|(what, count)| println!("  {count:>7}  {what}"));
        }
    }
    if report.passed() { done() } else { Err(Failure::Said) }
}

fn many<R: Reported>(
    seeds: std::ops::Range<u64>,
    jobs: u32,
    json: bool,
    run: impl Fn(u64) -> R + Sync,
) -> Outcome {
    let bar = progress(seeds.end - seeds.start, json);
    let next = AtomicU64::new(seeds.start);
    let (into_reports, reports) = mpsc::channel::<R>();
    let (mut passed, mut failed, mut stats) = (0_u64, Vec::new(), Stats::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (into_reports, next, end) = (into_reports.clone(), &next, seeds.end);
            let run = &run;
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    // Who listens is gone only when this program ends.
                    if seed >= end || into_reports.send(run(seed)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(into_reports);
        for report in reports {
            bar.inc(1);
            stats.add(report.stats());
            match report.passed() {
                true => passed += 1,
                false => {
                    bar.suspend(|| eprintln!("{}", report.reproduce()));
                    failed.push(report);
                }
            }
        }
    });
    bar.finish_and_clear();
    failed.sort_by_key(Reported::seed);
    conclude(passed, &failed, &stats, json)
}

fn progress(seeds: u64, json: bool) -> ProgressBar {
    if json {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(seeds);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} seeds, {eta} left");
    bar.set_style(style.expect("the template is valid"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn conclude<R: Reported>(passed: u64, failed: &[R], stats: &Stats, json: bool) -> Outcome {
    if json {
        let failures: Vec<&R> = failed.iter().collect();
        let document = serde_json::json!({ "passed": passed, "failed": failures, "stats": stats });
        println!("{}", pretty(&document));
    } else {
        failed.iter().take(SHOWN).for_each(|report| println!("{report}\n"));
        let hours = stats.seconds / 3600;
        println!(
            "{passed} seeds held, {} did not; {hours} simulated hours, {} events",
            failed.len(),
            stats.events
        );
        stats.counts.iter().for_each(|(what, count)| println!("  {count:>9}  {what}"));
    }
    if failed.is_empty() { done() } else { Err(Failure::Said) }
}
