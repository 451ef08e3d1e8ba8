//! Consensus: proposals go in, committed entries come out in one order on every node.
//!
//! It wraps openraft and hides it: entries are opaque bytes here, and nothing outside sees
//! openraft's types. It does, and decides nothing about Mill. [`Consensus`] is the handle;
//! [`ConsensusEvent`]s go to one reader, which holds the only copy of the state.
//! - `log`, `writer`, `log_store`: the log on redb, its task, openraft's view of it
//! - `snapshots`: snapshot files; `disk`: what both ask of a disk, real or simulated
//! - `machine`, `replay`, `watch`: what becomes an event, and in which order
//! - `transport`: the seam to other nodes; `network` asks through it, `answer` answers
//! - `members`: who votes, and how that changes; `caught_up`: when a start has all from before
//!
//! Generic over openraft's async runtime, so that a simulator can run it; `runtime` is the real
//! one. Tested in `tests/`, on
//! real files and on a disk that loses what was not synced.

pub mod disk;

mod answer;
mod caught_up;
mod codec;
mod error;
mod handle;
mod log;
mod log_store;
mod machine;
mod members;
#[cfg(feature = "mutants")]
pub mod mutant;
#[cfg(not(feature = "mutants"))]
mod mutant;
mod network;
mod options;
mod promise;
pub mod recovery;
mod replay;
mod runtime;
mod snapshots;
mod transport;
mod types;
mod watch;
mod wire;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use tokio::sync::oneshot;

pub use error::ConsensusError;
pub use handle::Consensus;
pub use log::LOG_FILE;
pub use members::ChangeError;
pub use options::Options;
pub use promise::promised_term;
pub use runtime::PooledRuntime;
pub use transport::{BODY_BYTES, Call, NoTransport, Transport};

/// What the one reader of the events is told, in order.
#[derive(Debug)]
pub enum ConsensusEvent {
    /// Replace the whole state: first thing after a start that finds a snapshot, and whenever a
    /// leader sends one.
    Restored {
        /// The last proposed entry that the state contains.
        index: u64,
        /// What a reader answered to [`ConsensusEvent::SnapshotWanted`], here or on another node.
        bytes: Vec<u8>,
    },
    /// Apply these; each comes exactly once per start, in the order of its index. Indices have
    /// gaps where consensus itself used an entry.
    Committed {
        /// Indices and what was proposed.
        entries: Vec<(u64, Vec<u8>)>,
    },
    /// Answer with the state and the index of the last entry in it, exactly as of this event;
    /// index 0 if there was none. Dropping the reply fails consensus.
    SnapshotWanted {
        /// Takes the index and the bytes.
        reply: oneshot::Sender<(u64, Vec<u8>)>,
    },
    /// Who the members are, in order with the entries: after each entry that changes them, and
    /// after [`ConsensusEvent::Restored`]. While they change from one set to another, whoever has
    /// a vote in either is a voter.
    Members {
        /// Who votes and may lead.
        voters: BTreeSet<u64>,
        /// Who gets every entry and has no vote.
        learners: BTreeSet<u64>,
    },
    /// All that was committed before this start has been sent, as far as the leader knew, and at
    /// least all that this node was ever sent before. Once per start.
    CaughtUp,
    /// Who leads has changed.
    Leadership(Leadership),
    /// Consensus has stopped for good, for instance because the disk is full: no proposal will be
    /// accepted and no entry follows. Nothing acknowledged is lost; a new start may succeed.
    Failed {
        /// What happened, with the path.
        reason: String,
    },
}

/// Who leads, as this node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leadership {
    /// This node, and every entry committed in earlier terms was sent to the reader before.
    Leader {
        /// The term, in which no other node leads.
        term: u64,
    },
    /// Another node, or nobody that is known.
    Follower {
        /// The leader, if known.
        leader: Option<u64>,
        /// The newest term that this node has seen.
        term: u64,
    },
}

/// What became of a proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proposal {
    /// It is durable on a majority, and the reader was sent it.
    Committed {
        /// The entry's index.
        index: u64,
    },
    /// It was not taken, because another node leads or none does. It may be proposed again.
    NotLeader {
        /// The leader, if known.
        leader: Option<u64>,
    },
    /// It was not taken, because it is larger than an entry may be.
    TooLarge {
        /// The most bytes that an entry may have.
        limit: usize,
    },
    /// It may or may not be committed, now or later.
    Unknown {
        /// Why that is not known.
        reason: String,
    },
}

/// Why a read could not be confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Another node leads, or none does.
    #[error(
        "this node does not lead{}: ask the leader",
        leader.map(|id| format!(", node {id} does")).unwrap_or_default()
    )]
    NotLeader {
        /// The leader, if known.
        leader: Option<u64>,
    },
    /// This node believes to lead, but a majority did not confirm it in time.
    #[error("a majority of the voters did not answer: check that they run and can be reached")]
    NoMajority,
    /// Consensus has stopped.
    #[error("consensus has stopped: {reason}")]
    Stopped {
        /// Why, as far as known.
        reason: String,
    },
}

/// A glance at consensus, for people and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The newest term that this node has seen.
    pub term: u64,
    /// The leader, if known.
    pub leader: Option<u64>,
    /// Index of the last entry in this node's log.
    pub last_log: Option<u64>,
    /// Index of the last entry applied here, entries of consensus itself included.
    pub applied: Option<u64>,
    /// Index of the last entry in the newest snapshot.
    pub snapshot: Option<u64>,
    /// Who votes, as the newest entry says that this node has.
    pub voters: BTreeSet<u64>,
    /// Who gets every entry and has no vote.
    pub learners: BTreeSet<u64>,
}
