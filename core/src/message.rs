//! What nodes say to each other outside the log: observations, never decisions.
//!
//! A node speaks to the leader, and the leader says that it heard. Any may be lost or late.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::cluster::Revision;
use crate::cluster::alloc::Status;
use crate::cluster::node::NodeFacts;
use crate::container::OpError;
use crate::name::{AllocId, NodeId};

/// Something that one node says to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// From a node to the leader: "I am here", and what the replicated state does not know yet.
    Heartbeat {
        /// Counts up within a boot: an older one that arrives late changes nothing.
        seq: u64,
        /// What the node is.
        facts: Box<NodeFacts>,
        /// The last entry that it has applied.
        revision: Revision,
        /// Why its engine cannot be asked, while it cannot.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trouble: Option<OpError>,
        /// Allocs whose status differs from the replicated one.
        reports: BTreeMap<AllocId, Status>,
        /// Answers to the leader's questions about images: reference -> what it means here.
        images: BTreeMap<String, ImageReport>,
        /// Peers in the mesh with whom it has a session.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        met: BTreeSet<NodeId>,
    },
    /// From the leader to a node, once for each heartbeat and only after it.
    Heard {
        /// Which heartbeat.
        seq: u64,
        /// What was committed by then.
        revision: Revision,
    },
    /// From a node that no leader answers to any other: "who does not take me for a member, say
    /// so". It is no heartbeat: whoever hears nobody is not to be taken for well.
    Hello,
}

/// What became of resolving an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageReport {
    /// It is here and means this.
    Pinned(crate::container::PinnedImage),
    /// It could not be had, and trying again cannot help.
    Failed(OpError),
    /// It could not be had yet; the node goes on trying.
    Trying(OpError),
}
