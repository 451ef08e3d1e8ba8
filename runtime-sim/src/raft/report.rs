//! How a run of real consensus went, for people and programs.

use std::fmt;

use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use super::Subject;
use super::engine::{Engine, World};
use super::params::RaftParams;
use crate::invariants::Violation;
use crate::stats::Stats;

/// The outcome of a run.
#[derive(Clone, Debug, Serialize)]
pub struct RaftReport {
    /// What was run.
    pub params: RaftParams,
    /// What was on it: the one that did not hold, or all.
    pub subjects: Vec<Subject>,
    /// What played time and network: equal seeds are equal runs on the same one.
    pub engine: &'static str,
    /// What did not hold; `None` if everything did.
    pub violation: Option<Violation>,
    /// What it reached.
    pub stats: Stats,
    /// Hash of every message, applied entry and change of leader with its time.
    pub hash: u64,
    /// The last lines before a violation, or all lines if they were asked for.
    pub lines: Vec<String>,
    /// The command that runs the same again.
    pub reproduce: String,
}

impl RaftReport {
    pub(super) fn new(
        params: RaftParams,
        subject: Subject,
        violation: Option<Violation>,
        stats: Stats,
        hash: u64,
        lines: Vec<String>,
    ) -> RaftReport {
        let reproduce = World::reproduce(params.seed);
        let (subjects, engine) = (vec![subject], World::NAME);
        RaftReport { params, subjects, engine, violation, stats, hash, lines, reproduce }
    }

    /// This run, which held, and another of the same seed after it.
    pub(super) fn followed_by(self, mut next: RaftReport) -> RaftReport {
        let hash = xxh3_64(&[self.hash.to_le_bytes(), next.hash.to_le_bytes()].concat());
        next.stats.add(&self.stats);
        next.lines = [self.lines, next.lines].concat();
        if next.passed() {
            next.subjects = [self.subjects, next.subjects].concat();
        }
        RaftReport { hash, ..next }
    }

    /// Whether everything held.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.violation.is_none()
    }
}

impl fmt::Display for RaftReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RaftParams { seed, voters, .. } = self.params;
        let engine = self.engine;
        let Some(violation) = &self.violation else {
            return write!(
                f,
                "seed {seed:#x}: real consensus of {voters} on {engine} held for {} simulated \
                 seconds, trace {:016x}",
                self.stats.seconds, self.hash
            );
        };
        writeln!(f, "VIOLATION  {violation}")?;
        writeln!(f, "ENGINE     {engine}")?;
        writeln!(f, "SUBJECT    {:?}", self.subjects)?;
        writeln!(f, "PARAMETERS {:?}", self.params)?;
        writeln!(f, "LAST LINES")?;
        self.lines.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        write!(f, "REPRODUCE  {}", self.reproduce)
    }
}
