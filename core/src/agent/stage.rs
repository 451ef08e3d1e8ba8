//! How far an alloc is on its node, and what follows a stop.

use serde::{Deserialize, Serialize};

use super::drain::Drain;
use super::probe::Probing;
use crate::cluster::alloc::Phase;
use crate::effect::OpId;
use crate::time::Mono;

/// What is done for an alloc just now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    /// Its image is to be fetched, once `at` has come.
    Fetch {
        at: Mono,
    },
    Fetching(OpId),
    /// Its container is to be created or started again, once `at` has come.
    Start {
        at: Mono,
    },
    Starting(OpId),
    /// Its container runs: the process that the engine counts as `started`.
    Up {
        started: u64,
        probing: Probing,
    },
    /// It failed; its output is read before that is counted, so that whoever is told of the
    /// failure sees its last words. `running` if it is of no use though its process lives.
    Tailing {
        op: Option<OpId>,
        running: bool,
    },
    /// Nothing new is sent to it, and it finishes what is under way.
    Drain(Drain),
    /// Its container is to be stopped, once `at` has come.
    Stop {
        at: Mono,
        then: Then,
    },
    Stopping {
        op: OpId,
        then: Then,
    },
    /// Its container is to be removed, once `at` has come.
    Remove {
        at: Mono,
        end: Phase,
    },
    Removing {
        op: OpId,
        end: Phase,
    },
    /// Nothing is left of it.
    Ended(Phase),
}

/// What follows a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Then {
    /// Start it again at that time.
    StartAgain(Mono),
    /// Remove it.
    End(Phase),
}

impl Then {
    /// Whether it is stopped for a failure.
    pub fn follows_failure(self) -> bool {
        match self {
            Then::StartAgain(_) | Then::End(Phase::Failed) => true,
            Then::End(_) => false,
        }
    }

    /// What comes next; the container of a run is kept, for its output.
    pub fn stage(self, is_run: bool) -> Stage {
        match self {
            Then::StartAgain(at) => Stage::Start { at },
            Then::End(end) if is_run => Stage::Ended(end),
            Then::End(end) => Stage::Remove { at: Mono(0), end },
        }
    }
}
