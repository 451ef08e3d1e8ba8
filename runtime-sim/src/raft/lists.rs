//! A run of lists: clients append values to one list and read it, under faults.
//!
//! Least is between the clients and consensus here, so this is where its own promises are checked:
//! what clients saw is explained by one list (`history.rs`). The run forms a cluster, lets clients
//! work under faults (safety), heals it and waits until all nodes have the same (liveness).

use std::sync::atomic::Ordering;

use mill_core::rng::Rng;
use mill_core::units::Millis;

use super::Subject;
use super::faults::Faults;
use super::history;
use super::host::{self, Told};
use super::params::RaftParams;
use super::record::Record;
use super::report::RaftReport;
use super::stage::Stage;
use crate::time::SimTime;

/// A cluster must have formed by then.
const FORMED_BY: Millis = Millis::secs(15);
/// After healing, clients go on for so long, and must get something done.
const AFTERWARDS: Millis = Millis::secs(3);

/// What a run must reach to count, and how often.
const REACHED: [(&str, u64); 3] =
    [("writes acknowledged", 50), ("leaders", 2), ("snapshots installed", 1)];

/// Runs a cluster of lists from its beginning to its end.
pub(super) fn run(params: RaftParams, keeps_all: bool) -> RaftReport {
    let record = Record::new(keeps_all);
    let mut stage = Stage::new(params, record.clone());
    drive(&mut stage);
    if record.violation().is_none() {
        check_end(&stage);
    }
    let (stats, hash, recent, all) = record.conclude(stage.now());
    let violation = record.violation();
    let lines = match (&violation, keeps_all) {
        (_, true) => all,
        (Some(_), false) => recent,
        (None, false) => Vec::new(),
    };
    RaftReport::new(stage.params.clone(), Subject::Lists, violation, stats, hash, lines)
}

/// Stops early when something does not hold.
fn drive(stage: &mut Stage) {
    let mut rng = Rng::new(stage.params.seed).child("raft faults");
    let mut faults = Faults::default();
    if !form(stage, &mut faults) {
        return;
    }
    let begun = stage.now();
    let turmoil = Millis(u64::try_from(stage.params.turmoil.as_millis()).unwrap_or(u64::MAX));
    while stage.now() < begun + turmoil {
        faults.step(stage, &mut rng, begun);
        faults.insist(stage);
        if !stage.tick() {
            return;
        }
    }
    stage.line("everything heals");
    faults.heal(stage, &mut rng);
    converge(stage, &mut faults);
}

fn form(stage: &mut Stage, faults: &mut Faults) -> bool {
    stage.tell(1, Told::Found);
    while stage.machines[&1].shown().members != stage.wanted {
        if stage.now() > SimTime::default() + FORMED_BY {
            stage.record.violate("liveness", "no cluster was formed".to_owned());
        }
        faults.insist(stage);
        if !stage.tick() {
            return false;
        }
    }
    true
}

/// Clients go on for a while, then every member must come to have the same.
fn converge(stage: &mut Stage, faults: &mut Faults) {
    let patience = Millis(u64::try_from(stage.params.patience.as_millis()).unwrap_or(u64::MAX));
    let healed = stage.now();
    let acknowledged = stage.record.counted("writes acknowledged");
    loop {
        let now = stage.now();
        let works = stage.record.counted("writes acknowledged") > acknowledged;
        if now >= healed + AFTERWARDS && works {
            stage.clients_are_over.store(true, Ordering::Relaxed);
        }
        let pending = pending(stage);
        if now >= healed + AFTERWARDS + Millis::secs(2) && works && pending.is_none() {
            return;
        }
        if now >= healed + AFTERWARDS + patience {
            let pending = pending.unwrap_or_else(|| "no write is acknowledged".to_owned());
            stage.record.violate("liveness", format!("not converged: {pending}"));
        }
        faults.insist(stage);
        if !stage.tick() {
            return;
        }
    }
}

/// What keeps the cluster from having converged.
fn pending(stage: &Stage) -> Option<String> {
    let agreed = stage.record.agreed();
    let last = host::last(&agreed);
    let leader = stage.leader();
    if leader.is_none() {
        return Some("nobody leads".to_owned());
    }
    let (voters, learners) = &stage.wanted;
    voters.union(learners).find_map(|node| {
        let shown = stage.machines[node].shown();
        if shown.members != stage.wanted {
            return Some(format!("node {node} knows other members: {:?}", shown.members));
        }
        let has = host::last(&shown.entries);
        (has < last).then(|| format!("node {node} has entries up to {has} of {last}"))
    })
}

/// What can be said only when all is over.
fn check_end(stage: &Stage) {
    let agreed = stage.record.agreed();
    let (voters, learners) = &stage.wanted;
    for node in voters.union(learners) {
        if stage.machines[node].shown().entries != agreed {
            stage.record.violate("equal state", format!("node {node} has another list"));
        }
    }
    let list: Vec<u64> = agreed.iter().map(|(_, value)| *value).collect();
    if let Some(detail) = history::contradiction(&stage.history.all(), &list) {
        stage.record.violate("linearizable", detail);
    }
    for (what, least) in REACHED {
        let reached = stage.record.counted(what);
        if reached < least {
            let detail = format!("{what}: {reached}, which proves nothing; {least} are needed");
            stage.record.violate("reached", detail);
        }
    }
}
