//! Real consensus under simulation: openraft and the real log store on a simulated network.
//!
//! The other simulator models the replicated log; this one runs it. Each node is a host of turmoil
//! (of madsim, in a build for it) with a clock, a generator and a disk of its own, and runs
//! `mill-consensus` as the daemon does. [`run`] puts two [`Subject`]s on it, each in a world of its
//! own, first under faults, then healed. Equal seeds give equal traces in any process.
//! - `engine`: the seam to turmoil and madsim
//! - `runtime`, `sync`, `watch`: openraft's async runtime on a simulated host
//! - `network`, `machine`: consensus on a disk, and its calls; `record`: what must hold there
//! - `lists`: `host` is a list of values, `client` appends to it, `stage` and `faults` are theirs,
//!   `history` is whether clients saw one list
//! - `nodes`: the nodes, people and faults of [`World`](crate::World) on it, through `pump`
//!
//! This folder alone in this crate uses tokio: the engine gives it a clock and a scheduler that
//! follow the seed. Tested in `sim-tests/tests/raft.rs`.

mod client;
mod engine;
mod faults;
mod history;
mod host;
mod lists;
mod machine;
mod network;
mod nodes;
mod params;
mod pump;
mod record;
mod report;
mod runtime;
mod stage;
mod sync;
mod watch;

#[cfg(feature = "mutants")]
pub use mill_consensus::mutant;

use serde::Serialize;

pub use self::params::RaftParams;
pub use self::report::RaftReport;

/// What is put on real consensus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// A list of values, to which clients append: consensus alone.
    Lists,
    /// Nodes of Mill, as in [`crate::World`].
    Nodes,
}

impl Subject {
    /// Each of them.
    pub const ALL: [Subject; 2] = [Subject::Lists, Subject::Nodes];
}

/// Runs each subject from its beginning to its end, until something does not hold.
#[must_use]
pub fn run(params: RaftParams) -> RaftReport {
    run_traced(params, false)
}

/// The same; with `keeps_all`, the report has every line.
#[must_use]
pub fn run_traced(params: RaftParams, keeps_all: bool) -> RaftReport {
    let first = run_one(params.clone(), Subject::Lists, keeps_all);
    match first.passed() {
        true => first.followed_by(run_one(params, Subject::Nodes, keeps_all)),
        false => first,
    }
}

/// Runs one subject.
#[must_use]
pub fn run_one(params: RaftParams, subject: Subject, keeps_all: bool) -> RaftReport {
    match subject {
        Subject::Lists => lists::run(params, keeps_all),
        Subject::Nodes => nodes::run(params, keeps_all),
    }
}
