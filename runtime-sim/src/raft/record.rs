//! What all of a run is told: what was applied, who led, what clients saw; checked as it comes in.
//!
//! The safety that needs no end of the run is here: equal applied entries, one leader per term,
//! nothing forgotten over a restart, no panic. `history.rs` checks the rest at the end. So is what
//! an engine promises: nothing passes a cut, and a host that is down does nothing. Every line goes
//! into the hash with its time, so equal hashes mean equal runs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use mill_core::units::Millis;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::engine::{Engine, World};
use crate::invariants::Violation;
use crate::stats::Stats;
use crate::time::SimTime;

/// What was sent just before a cut arrives within so long.
const ON_ITS_WAY: Millis = Millis(100);
/// Lines that a failure report shows.
const RECENT: usize = 80;

/// The record of a run. Clones are the same one.
#[derive(Clone, Debug)]
pub(super) struct Record {
    state: Arc<Mutex<State>>,
}

/// What a client wrote, unique in its run.
pub(super) type Value = u64;

#[derive(Default)]
struct State {
    hash: Xxh3,
    recent: VecDeque<String>,
    all: Option<Vec<String>>,
    stats: Stats,
    violation: Option<Violation>,
    /// What each index holds, as the first node that applied it said.
    agreed: BTreeMap<u64, Value>,
    /// The last entry that each node ever applied.
    applied: BTreeMap<u64, u64>,
    leaders: BTreeMap<u64, u64>,
    /// The newest term that each node ever promised to know.
    terms: BTreeMap<u64, u64>,
    /// Which ways nothing may arrive on, and since when.
    cut: BTreeMap<(u64, u64), SimTime>,
    /// When each node began to hear.
    hears: BTreeMap<u64, SimTime>,
    /// Who has crashed and did not start again.
    down: BTreeSet<u64>,
    /// The time of the last line: outside the world there is no other.
    latest: SimTime,
}

impl std::fmt::Debug for State {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("State").field("stats", &self.stats).finish_non_exhaustive()
    }
}

/// The time of the world, from wherever it runs.
pub(super) fn now() -> SimTime {
    let elapsed = World::elapsed_here();
    SimTime(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
}

impl Record {
    /// With `keeps_all`, every line is kept, not only the last.
    pub(super) fn new(keeps_all: bool) -> Record {
        let state = State { all: keeps_all.then(Vec::new), ..State::default() };
        Record { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the record")
    }

    /// Something that happened.
    pub(super) fn line(&self, at: SimTime, text: &str) {
        self.state().line(at, text);
    }

    /// A line of another trace, which is compared by a hash of its own.
    pub(super) fn note(&self, line: &str) {
        if let Some(all) = &mut self.state().all {
            all.push(line.to_owned());
        }
    }

    /// A message: its bytes go into the hash, and nothing into the last lines.
    pub(super) fn message(&self, from: u64, to: u64, bytes: &[u8]) {
        let now = now();
        let numbers = [now.0, from, to, xxh3_64(bytes)];
        let mut state = self.state();
        // What came while it started has waited for it, and is taken in one after the other.
        let waited = state.hears.get(&to).is_some_and(|since| now <= *since + ON_ITS_WAY);
        if !waited && state.cut.get(&(from, to)).is_some_and(|since| now > *since + ON_ITS_WAY) {
            state.violate("cut", format!("node {to} heard of node {from}, though that is cut"));
        }
        state.works(to);
        numbers.iter().for_each(|number| state.hash.update(&number.to_le_bytes()));
        state.stats.events += 1;
    }

    /// A node begins to hear.
    pub(super) fn hears(&self, node: u64) {
        self.state().hears.insert(node, now());
    }

    /// From now on nothing is sent these ways, and everything all others.
    pub(super) fn cut(&self, now: SimTime, ways: &BTreeSet<(u64, u64)>) {
        let cut = &mut self.state().cut;
        cut.retain(|way, _| ways.contains(way));
        for way in ways {
            cut.entry(*way).or_insert(now);
        }
    }

    /// A node's host has crashed, or starts again.
    pub(super) fn is_down(&self, node: u64, down: bool) {
        let mut state = self.state();
        match down {
            true => state.down.insert(node),
            false => state.down.remove(&node),
        };
    }

    pub(super) fn count(&self, what: &'static str) {
        self.state().stats.count(what);
    }

    pub(super) fn counted(&self, what: &str) -> u64 {
        self.state().stats.counts.get(what).copied().unwrap_or(0)
    }

    /// The first thing that did not hold is the one that is reported.
    pub(super) fn violate(&self, invariant: &'static str, detail: String) {
        self.state().violate(invariant, detail);
    }

    pub(super) fn violation(&self) -> Option<Violation> {
        self.state().violation.clone()
    }

    /// A node was sent an entry.
    pub(super) fn applied(&self, node: u64, index: u64, value: Value) {
        let mut state = self.state();
        state.detail(now(), format!("node {node} applied {index}: {value:x}"));
        state.works(node);
        state.agree(node, index, value);
        let last = state.applied.entry(node).or_default();
        *last = (*last).max(index);
    }

    /// A node was sent a whole state.
    pub(super) fn restored(&self, node: u64, entries: &[(u64, Value)]) {
        let mut state = self.state();
        let last = entries.last().map_or(0, |(index, _)| *index);
        state.line(now(), &format!("node {node} restored a state as of {last}"));
        for (index, value) in entries {
            state.agree(node, *index, *value);
        }
        let missing = state.agreed.range(..=last).count().saturating_sub(entries.len());
        if missing > 0 {
            state.violate("applied", format!("node {node}'s state lacks {missing} entries"));
        }
        let held = state.applied.entry(node).or_default();
        *held = (*held).max(last);
    }

    /// A start has all that was committed before it; `last` is the last entry that it applied.
    pub(super) fn caught_up(&self, node: u64, last: u64) {
        let mut state = self.state();
        state.line(now(), &format!("node {node} is caught up at {last}"));
        let before = state.applied.get(&node).copied().unwrap_or(0);
        if last < before {
            let detail = format!("node {node} is caught up at {last}, but it had applied {before}");
            state.violate("caught-up", detail);
        }
    }

    pub(super) fn leads(&self, node: u64, term: u64) {
        let mut state = self.state();
        state.line(now(), &format!("node {node} leads in term {term}"));
        state.stats.count("leaders");
        if let Some(other) = state.leaders.insert(term, node).filter(|other| *other != node) {
            let detail = format!("nodes {other} and {node} both lead in term {term}");
            state.violate("one leader", detail);
        }
    }

    /// A node gave a vote, or took entries, of that term.
    pub(super) fn promised(&self, node: u64, term: u64) {
        let mut state = self.state();
        let newest = state.terms.entry(node).or_default();
        *newest = (*newest).max(term);
    }

    /// A start remembers that term: one that is older than what others were promised could vote
    /// twice.
    pub(super) fn starts_in(&self, node: u64, term: u64) {
        let mut state = self.state();
        let newest = state.terms.get(&node).copied().unwrap_or(0);
        if term < newest {
            let detail =
                format!("node {node} starts in term {term}, but it gave its word in {newest}");
            state.violate("votes", detail);
        }
    }

    /// All that was agreed on, in order.
    pub(super) fn agreed(&self) -> Vec<(u64, Value)> {
        self.state().agreed.iter().map(|(index, value)| (*index, *value)).collect()
    }

    /// What was reached, the hash, the last lines and all of them.
    pub(super) fn conclude(&self, at: SimTime) -> (Stats, u64, Vec<String>, Vec<String>) {
        let mut state = self.state();
        state.stats.seconds = at.0 / 1_000_000_000;
        let recent = state.recent.iter().cloned().collect();
        let all = state.all.take().unwrap_or_default();
        (state.stats.clone(), state.hash.digest(), recent, all)
    }
}

impl State {
    /// What is too frequent for the last lines.
    fn detail(&mut self, at: SimTime, text: String) {
        self.hash.update(&at.0.to_le_bytes());
        self.hash.update(text.as_bytes());
        self.stats.events += 1;
        self.latest = at;
        if let Some(all) = &mut self.all {
            all.push(format!("{at}    {text}"));
        }
    }

    fn line(&mut self, at: SimTime, text: &str) {
        let line = format!("{at}  {text}");
        self.hash.update(line.as_bytes());
        self.stats.events += 1;
        self.latest = at;
        if let Some(all) = &mut self.all {
            all.push(line.clone());
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(line);
    }

    fn violate(&mut self, invariant: &'static str, detail: String) {
        let violation = Violation { at: now().max(self.latest), invariant, detail };
        self.line(violation.at, &violation.to_string());
        self.violation.get_or_insert(violation);
    }

    /// A node does something.
    fn works(&mut self, node: u64) {
        if self.down.contains(&node) {
            self.violate("down", format!("node {node} goes on though it has crashed"));
        }
    }

    fn agree(&mut self, node: u64, index: u64, value: Value) {
        let agreed = *self.agreed.entry(index).or_insert(value);
        if agreed != value {
            let detail = format!("entry {index} is {value:x} on node {node}, but was {agreed:x}");
            self.violate("applied", detail);
        }
    }
}
