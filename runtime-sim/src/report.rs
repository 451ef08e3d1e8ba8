//! How a run went, for people and programs: on failure with all that is needed to see it again.

use std::fmt;

use serde::Serialize;

use crate::invariants::Violation;
use crate::params::Params;
use crate::stats::Stats;
use crate::world::World;

/// The outcome of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was run.
    pub params: Params,
    /// What did not hold; `None` if everything did.
    pub violation: Option<Violation>,
    /// What it reached.
    pub stats: Stats,
    /// Hash of the whole trace: equal runs have equal hashes.
    pub hash: u64,
    /// The last transitions before a violation.
    pub recent: Vec<String>,
    /// The command that runs the same again.
    pub reproduce: String,
}

impl Report {
    pub(crate) fn of(world: &World, violation: Option<Violation>) -> Report {
        let params = world.params().clone();
        let mut reproduce = format!("mill sim --seed {:#x}", params.seed);
        if params.nodes != Params::from_seed(params.seed).nodes {
            reproduce.push_str(&format!(" --nodes {}", params.nodes));
        }
        let recent = if violation.is_some() { world.recent() } else { Vec::new() };
        Report { violation, stats: world.stats(), hash: world.hash(), recent, reproduce, params }
    }

    /// Whether everything held.
    pub fn passed(&self) -> bool {
        self.violation.is_none()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Params { seed, nodes, .. } = self.params;
        let Stats { seconds, events, .. } = self.stats;
        let Some(violation) = &self.violation else {
            return write!(
                f,
                "seed {seed:#x}: held on {nodes} nodes for {seconds} simulated seconds, \
                 {events} events, trace {:016x}",
                self.hash
            );
        };
        writeln!(f, "VIOLATION  {violation}")?;
        writeln!(f, "PARAMETERS {:?}", self.params)?;
        writeln!(f, "LAST TRANSITIONS")?;
        self.recent.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        write!(f, "REPRODUCE  {}", self.reproduce)
    }
}
