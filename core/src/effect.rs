//! Everything a node can ask of the world.
//!
//! An effect with a result carries an id and comes back at most once as an event. Nothing here
//! is done for a decision that is not committed.

use core::net::Ipv4Addr;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::acme::AcmeOp;
use crate::api::{Outcome, Request, RequestId};
use crate::cluster::Revision;
use crate::cluster::command::Entry;
use crate::cluster::mesh::MeshFacts;
use crate::container::ContainerOp;
use crate::message::Message;
use crate::name::NodeId;
use crate::net::Tables;

/// Something to do, taken from [`crate::Node::poll_effect`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Append to the log. It comes back as `Committed`, or else as `ProposalFailed`.
    Propose {
        /// What to append; its id names it.
        entry: Box<Entry>,
    },
    /// Make sure that this node still leads. Comes back as `ReadConfirmed`.
    ConfirmRead {
        /// The request that waits.
        id: RequestId,
    },
    /// The state that `SnapshotWanted` asked for.
    Snapshot {
        /// The last entry in it.
        at: Revision,
        /// To be handed back as `Restored`.
        bytes: Vec<u8>,
    },
    /// Send to another node; may be lost.
    Send {
        /// Whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Ask another node, which is thought to lead, in a client's name. Comes back as `Forwarded`.
    Forward {
        /// Which node.
        to: NodeId,
        /// Names the answer.
        id: RequestId,
        /// What to ask.
        request: Request,
    },
    /// Who the members are and where: a level, also before `CaughtUp`. This node is among them.
    Peers {
        /// All of them.
        book: Book,
        /// Whether that is so now, and worth keeping; not what was so long ago, for want of better.
        current: bool,
    },
    /// Tell another node from outside the mesh who is where in it, and ask the same: one of the two
    /// does not know what became of the other's key. Comes back as `Greeted`, or not at all.
    Greet {
        /// Whom.
        to: NodeId,
    },
    /// Make a new key for the mesh, and use it: the others are greeted then. Comes back as `MeshChanged`, or not at all.
    RotateKey {
        /// What its serial is to be.
        serial: u64,
    },
    /// Carry traffic by these from now on: a level. It is in force before any effect that follows
    /// is carried out: only then does this node say that it has let go of what left them.
    Publish {
        /// The tables.
        tables: Arc<Tables>,
    },
    /// Let these vote and those follow. A level, asked for by the leader, and again after a while
    /// for as long as `Members` says something else.
    ChangeMembers {
        /// Nodes that should vote.
        voters: BTreeSet<NodeId>,
        /// Nodes that should follow.
        learners: BTreeSet<NodeId>,
    },
    /// Hand the lead on. May come to nothing.
    TransferLead {
        /// To whom.
        to: NodeId,
    },
    /// This node is no member any more, for good: what still runs here was replaced elsewhere, so
    /// remove it, and end.
    Retire,
    /// Answer a request of the API. Once each.
    Reply {
        /// Which request.
        id: RequestId,
        /// The answer.
        outcome: Box<Outcome>,
    },
    /// Ask a certificate authority. Comes back as `AcmeDone`.
    Acme {
        /// Names the answer.
        id: OpId,
        /// What to ask.
        op: Box<AcmeOp>,
    },
    /// Do something with this node's containers. Comes back as `OpDone`.
    Container {
        /// Names the answer.
        id: OpId,
        /// What to do.
        op: ContainerOp,
    },
}

/// Where the members are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    /// All of them.
    pub peers: BTreeMap<NodeId, Peer>,
    /// Below this number, whoever is not among them was removed.
    pub known_below: NodeId,
    /// Whether nodes speak through the mesh only: from outside, others may join and greet.
    #[serde(default)]
    pub mesh_only: bool,
}

/// Nobody is known.
impl Default for Book {
    fn default() -> Book {
        Book { peers: BTreeMap::new(), known_below: NodeId(0), mesh_only: false }
    }
}

/// Where a member is, and how to tell that it is the one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Address and port that other nodes reach it at.
    pub rpc: String,
    /// Fingerprint of its public key, in hex.
    pub key: String,
    /// How it is reached through the mesh, if it is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<MeshPeer>,
}

/// How a member is reached through the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshPeer {
    /// Its address there.
    pub address: Ipv4Addr,
    /// What it says of itself.
    #[serde(flatten)]
    pub facts: MeshFacts,
}

/// Names an operation and its answer; answers to an earlier boot's are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OpId {
    /// How often this node had started.
    pub boot: u64,
    /// Counts up within a boot.
    pub seq: u64,
}
