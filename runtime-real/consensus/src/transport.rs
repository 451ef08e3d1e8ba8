//! The seam to other nodes: calls of consensus, as opaque bytes, and whoever carries them.
//!
//! Consensus decides what to ask, when and for how long; a [`Transport`] only carries it. Calls
//! may be lost, repeated and answered late: Raft allows all of that, so a transport needs no
//! retries of its own. Mill's RPC, a simulated network and a table of nodes in one process (in
//! `tests/`) implement it, and [`NoTransport`] serves a cluster of one.

use std::fmt::Debug;
use std::io;
use std::time::Duration;

/// The most bytes of a call's body, and of an answer's: the largest entry, and room around it.
pub const BODY_BYTES: usize = 6 << 20;

/// What one node asks of another's consensus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// Entries and the committed index, from a leader. Without entries it is a heartbeat.
    Append,
    /// A vote in an election.
    Vote,
    /// Whether there would be a vote, before the term is raised.
    PreVote,
    /// A piece of a snapshot, from a leader.
    Snapshot,
    /// A leader's wish that another node leads.
    TransferLead,
}

impl Call {
    /// Every call.
    pub const ALL: [Call; 5] =
        [Call::Append, Call::Vote, Call::PreVote, Call::Snapshot, Call::TransferLead];

    /// Its name in a path, the same in every version.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Call::Append => "append",
            Call::Vote => "vote",
            Call::PreVote => "pre-vote",
            Call::Snapshot => "snapshot",
            Call::TransferLead => "transfer-lead",
        }
    }

    /// The call with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Call> {
        Call::ALL.into_iter().find(|call| call.name() == name)
    }
}

/// Carries calls to other nodes.
///
/// A node may be asked several things at once; calls may overtake each other.
pub trait Transport: Clone + Debug + Send + Sync + 'static {
    /// Asks node `to`, whose [`Consensus::answer`](super::Consensus::answer) is the answer.
    ///
    /// # Errors
    /// When there was no answer within `limit`, or none that is sure to be whole. The call may
    /// have been carried out all the same.
    fn call(
        &self,
        to: u64,
        call: Call,
        body: Vec<u8>,
        limit: Duration,
    ) -> impl Future<Output = io::Result<Vec<u8>>> + Send;
}

/// The transport of a cluster with a single node, which has nobody to ask.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoTransport;

impl Transport for NoTransport {
    async fn call(&self, to: u64, _: Call, _: Vec<u8>, _: Duration) -> io::Result<Vec<u8>> {
        Err(io::Error::other(format!("node {to} cannot be reached: this node has no network")))
    }
}
