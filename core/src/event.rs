//! Everything the world can tell a node.
//!
//! Closed on purpose: what is not here cannot influence a decision. Events may be lost, doubled
//! or reordered wherever a network or an engine is involved; only the log's are exact.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::acme::{AcmeFailure, AcmeOutput};
use crate::api::{Outcome, Request, RequestId};
use crate::cluster::Revision;
use crate::cluster::command::{Entry, ProposalId};
use crate::cluster::mesh::MeshFacts;
use crate::container::{Observed, OpError, OpOutput};
use crate::effect::{Book, OpId};
use crate::message::Message;
use crate::name::NodeId;

/// Something that happened, handed to [`crate::Node::handle`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The next committed entry of the log. In order, each once per boot.
    Committed {
        /// Where in the log.
        at: Revision,
        /// What was committed.
        entry: Arc<Entry>,
    },
    /// The state at `at`, in place of all entries up to there.
    Restored {
        /// Where in the log; the epoch is that of the state.
        at: Revision,
        /// What [`crate::cluster::Cluster::encode`] made.
        bytes: Vec<u8>,
    },
    /// All that was committed before this boot has been handed over. Once per boot.
    CaughtUp,
    /// The log wants a snapshot; answered by [`crate::Effect::Snapshot`].
    SnapshotWanted,
    /// Who leads.
    Leadership(Leadership),
    /// A proposal of this node will not be seen as `Committed` soon, or ever.
    ProposalFailed {
        /// Which.
        id: ProposalId,
        /// How sure that is.
        fate: Fate,
    },
    /// Answer to [`crate::Effect::ConfirmRead`].
    ReadConfirmed {
        /// Which request waits for it.
        id: RequestId,
        /// Whether this node led, confirmed by a quorum, after it was asked.
        confirmed: bool,
    },
    /// A message of another node.
    Message {
        /// Its sender, authenticated.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// Who votes and who follows, as consensus has it: at the start, and whenever it changes.
    Members {
        /// Nodes that vote.
        voters: BTreeSet<NodeId>,
        /// Nodes that follow.
        learners: BTreeSet<NodeId>,
    },
    /// Someone asks through the API, or another node in a client's name.
    Request {
        /// Names the answer.
        id: RequestId,
        /// What is asked.
        request: Request,
        /// Who asks.
        origin: Origin,
    },
    /// Answer to [`crate::Effect::Forward`].
    Forwarded {
        /// Which request.
        id: RequestId,
        /// What the other node answered; `None` if no answer came and it may have been asked. One
        /// that was not reached at all is [`crate::api::ErrorCode::NoLeader`].
        outcome: Option<Box<Outcome>>,
    },
    /// Another node does not listen to this one any more, because it was removed: whoever was away
    /// for long is told so by nobody else.
    Dismissed {
        /// Who says so, authenticated.
        by: NodeId,
    },
    /// This daemon will be stopped in a moment.
    Stopping,
    /// Who asked is gone; its answer is not wanted any more.
    RequestDropped {
        /// Which.
        id: RequestId,
    },
    /// The result of [`crate::Effect::Container`]. At most once each, in any order.
    OpDone {
        /// Which.
        id: OpId,
        /// How it went.
        result: Result<OpOutput, OpError>,
    },
    /// The result of [`crate::Effect::Acme`]. At most once each, in any order.
    AcmeDone {
        /// Which.
        id: OpId,
        /// How it went.
        result: Result<AcmeOutput, AcmeFailure>,
    },
    /// A container ended.
    ContainerDied(Observed),
    /// Whether this node takes requests from outside changed: why not, or not all, if so.
    Unrouted {
        /// Why; a sentence.
        why: Option<String>,
    },
    /// Another node said who is where in the mesh, from outside of it.
    Greeted {
        /// Who, authenticated.
        from: NodeId,
        /// All that it knows of, itself among them.
        book: Book,
    },
    /// With whom of its peers in the mesh this node has a session: a level, said when it changes,
    /// and again after a while for as long as there is one without.
    Met {
        /// All of them.
        met: BTreeSet<NodeId>,
        /// All others.
        unmet: BTreeSet<NodeId>,
    },
    /// This node is reached otherwise through the mesh than it said.
    MeshChanged {
        /// How, from now on.
        mesh: MeshFacts,
    },
    /// The engine can be reached (again): what was seen before may be stale.
    EngineConnected,
    /// The time of [`crate::Node::poll_timeout`] has come.
    Wake,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A client of this node's API.
    Client,
    /// Another node, which took this one for the leader: it is not passed on again.
    Node(NodeId),
}

/// Who leads, as this node's log knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leadership {
    /// This node, and every entry of earlier terms has been handed over.
    Leader {
        /// Raft term.
        term: u64,
    },
    /// Another node or nobody.
    Follower {
        /// The leader, if one is known.
        leader: Option<NodeId>,
        /// Raft term.
        term: u64,
    },
}

/// What is known of a proposal that was not seen committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It will never be committed.
    Refused,
    /// It may have been, or may yet be, committed.
    Unknown,
}
