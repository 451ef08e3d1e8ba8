//! What openraft is instantiated with: ids, entries and votes, generic only over its runtime.
//!
//! A leader is alone in its term (standard Raft), entries are opaque bytes, and membership holds
//! node ids without addresses, which the network layer knows from elsewhere.

use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;

use openraft::impls::{BoxedErrorSource, EmptyNode, InlineBatch, ProgressResponder, leader_id_std};
use openraft::{OptionalSend, RaftTypeConfig};
use openraft_rt::AsyncRuntime;
use serde::{Deserialize, Serialize};

/// A proposed command, which consensus does not look into.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Payload(pub(super) Vec<u8>);

impl fmt::Debug for Payload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Payload({} bytes)", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes", self.0.len())
    }
}

pub(super) type LeaderId = leader_id_std::LeaderId<u64, u64>;
type CommittedLeaderId = <LeaderId as openraft::vote::RaftLeaderId>::Committed;
pub(super) type Vote = openraft::impls::Vote<LeaderId>;
pub(super) type LogId = openraft::LogId<CommittedLeaderId>;
pub(super) type EntryPayload = openraft::EntryPayload<Payload, u64, EmptyNode>;
pub(super) type Entry = openraft::Entry<CommittedLeaderId, EntryPayload>;
pub(super) type Membership = openraft::Membership<u64, EmptyNode>;
pub(super) type StoredMembership = openraft::StoredMembership<CommittedLeaderId, u64, EmptyNode>;
pub(super) type SnapshotMeta = openraft::storage::SnapshotMeta<CommittedLeaderId, u64, EmptyNode>;
pub(super) type Snapshot =
    openraft::storage::Snapshot<CommittedLeaderId, u64, EmptyNode, SnapshotImage>;

/// A snapshot's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapshotImage {
    /// The last proposed entry in it; the log entries after it, if any, were openraft's own.
    pub(super) index: u64,
    pub(super) bytes: Vec<u8>,
}

/// openraft's type configuration on the runtime `R`.
pub(super) struct Types<R>(PhantomData<fn() -> R>);

impl<R: AsyncRuntime> RaftTypeConfig for Types<R> {
    type D = Payload;
    type R = ();
    type NodeId = u64;
    type Node = EmptyNode;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = EntryPayload;
    type Entry = Entry;
    type AsyncRuntime = R;
    type Responder<T>
        = ProgressResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

// openraft asks these of the configuration itself; derived, they would ask the same of `R`.
impl<R> Clone for Types<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Types<R> {}

impl<R> Default for Types<R> {
    fn default() -> Self {
        Types(PhantomData)
    }
}

impl<R> fmt::Debug for Types<R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Types")
    }
}

impl<R> PartialEq for Types<R> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<R> Eq for Types<R> {}

impl<R> PartialOrd for Types<R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<R> Ord for Types<R> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}
