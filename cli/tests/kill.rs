//! SIGKILL of the daemon at any moment, over and over, while deploys run.
//!
//! `MILL_KILLS` says how often (10 in CI, 200 in `make soak`), `MILL_SEED` when; both are printed.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::collections::BTreeSet;
use std::fs;

use mill_core::rng::Rng;
use serde_json::Value;

use self::support::{Host, json, pause, said, wait};

/// Kills without being told how many.
const KILLS: u64 = 10;
/// The longest that a daemon lives, in milliseconds.
const LIFE_MAX: u64 = 2500;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

fn config(rng: &mut Rng) -> String {
    let mut text = String::new();
    for service in ["web", "api"] {
        let (image, replicas) = (1 + rng.below(2), 1 + rng.below(3));
        text.push_str(&format!(
            "[service.{service}]\nimage = \"test/web:{image}\"\nport = 8080\nreplicas = {replicas}\n\
             health = {{ path = \"/healthz\", interval = \"500ms\" }}\n\
             update = {{ healthy_for = \"100ms\", parallel = 3 }}\nstop = {{ grace = \"2s\" }}\n\
             [service.{service}.env]\nROUND = \"{}\"\n",
            rng.below(4)
        ));
    }
    text
}

/// What the daemon says of the last deploy: its number, and whether it has ended.
fn last_deploy(host: &Host) -> Option<(u64, bool)> {
    let output = host.mill(&["status", "--json"]);
    if !output.status.success() {
        return None;
    }
    let deploy = json(&output)["deploy"].clone();
    let state = &deploy["state"];
    let ended = *state == "succeeded"
        || state.get("rolled-back").is_some()
        || state.get("rollback-stuck").is_some();
    Some((deploy["number"].as_u64().unwrap_or(0), ended || deploy.is_null()))
}

#[test]
fn a_daemon_killed_at_any_moment_loses_doubles_and_orphans_nothing() {
    let Some(mut host) = Host::with_daemon() else { return };
    let seed = number("MILL_SEED").unwrap_or(1);
    let kills = number("MILL_KILLS").unwrap_or(KILLS);
    println!("MILL_SEED={seed} MILL_KILLS={kills}");
    let mut rng = Rng::new(seed);
    let (mut acknowledged, mut replayed) = (0, 0);
    for round in 0..kills {
        host.config(&config(&mut rng));
        // What earlier rounds printed is theirs.
        let _ = fs::remove_file(host.path("spawned.log"));
        let deploying = host.spawn(&["deploy", "--yes", "--detach", "--json"]);
        let life = rng.below(LIFE_MAX);
        pause(life);
        host.kill_daemon();
        if deploying.ended().success() {
            let told = fs::read_to_string(host.path("spawned.log")).unwrap();
            let told: Value = serde_json::from_str(&told).unwrap();
            acknowledged = told["deploy"].as_u64().unwrap_or(acknowledged);
        }
        replayed += replay_recordings(&host);
        host.start_daemon();
        let (number, _) = last_deploy(&host).expect("a daemon that leads answers");
        assert!(number >= acknowledged, "round {round}: deploy #{acknowledged} was lost");
        if rng.chance(400) {
            settle(&host);
        }
    }
    settle(&host);
    println!("{acknowledged} deploys acknowledged, {replayed} recorded events replayed");
    assert!(acknowledged > 0 && replayed > 0, "the rounds did nothing");
}

/// Waits for the end of the last deploy; then every container is one that should be, once.
fn settle(host: &Host) {
    host.eventually("the last deploy ends", || last_deploy(host).is_some_and(|(_, ended)| ended));
    let matches = wait(|| {
        let allocs = host.allocs();
        let wanted: BTreeSet<String> =
            allocs.iter().map(|a| format!("mill-{}", a["id"].as_str().unwrap())).collect();
        let there: Vec<String> = host.containers().into_iter().map(|(name, _)| name).collect();
        let slots: BTreeSet<&str> = allocs.iter().map(|a| a["slot"].as_str().unwrap()).collect();
        let healthy = allocs.iter().all(|alloc| alloc["phase"] == "healthy");
        healthy && slots.len() == allocs.len() && there == Vec::from_iter(wanted)
    });
    let ps = said(&host.mill(&["ps", "--all"]));
    assert!(matches, "containers and allocs differ:\n{ps}\n{:?}", host.containers());
}

/// Every recording that is there leads to the same decisions again.
fn replay_recordings(host: &Host) -> u64 {
    let mut events = 0;
    for entry in fs::read_dir(host.path("data/flight")).unwrap() {
        let path = entry.unwrap().path();
        let output = host.mill(&["replay", "--json", path.to_str().unwrap()]);
        // A daemon that was killed while it began a recording has nothing in it yet.
        if said(&output).contains("before its checkpoint") {
            continue;
        }
        assert!(output.status.success(), "{}: {}", path.display(), said(&output));
        events += json(&output)["events"].as_u64().unwrap();
    }
    events
}
