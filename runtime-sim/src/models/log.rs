//! The replicated log as a model: an adversary within Raft's contract.
//!
//! What is committed stays, in one order, and every node sees it in that order. Everything else
//! may happen: leaders that do not know they are none, entries that are lost or survive their
//! leader, nodes that lag, elections without a cause. Who can reach whom is the world's knowledge;
//! this decides nothing by itself. [`Log::reference`] is the state after all that is committed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mill_core::cluster::command::{Entry, ProposalId};
use mill_core::cluster::{Cluster, Revision};
use mill_core::name::NodeId;
use mill_core::node::Members;

/// The log of a cluster.
#[derive(Clone, Debug)]
pub struct Log {
    /// Index 1 first; `None` where a leader began its term.
    entries: Vec<Option<Arc<Entry>>>,
    /// The current term.
    pub term: u64,
    /// Who can commit in it, while anybody can.
    pub leader: Option<NodeId>,
    /// Accepted by that leader and not committed yet, in order.
    in_flight: VecDeque<Arc<Entry>>,
    members: Members,
    /// How often they have changed.
    members_version: u64,
    /// The state after every committed entry.
    pub reference: Cluster,
    /// What nodes wrote down instead of entries, by index: the latest few.
    snapshots: BTreeMap<u64, Arc<Vec<u8>>>,
}

/// Snapshots that can be sent to nodes that lag.
const SNAPSHOTS_KEPT: usize = 3;

impl Log {
    /// An empty log, of which one node is the only member.
    pub fn new(first: NodeId) -> Log {
        Log {
            entries: Vec::new(),
            term: 0,
            leader: None,
            in_flight: VecDeque::new(),
            members: Members { voters: BTreeSet::from([first]), learners: BTreeSet::new() },
            members_version: 1,
            reference: Cluster::default(),
            snapshots: BTreeMap::new(),
        }
    }

    /// Index of the last committed entry.
    pub fn end(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The nodes that vote.
    pub fn voters(&self) -> &BTreeSet<NodeId> {
        &self.members.voters
    }

    /// Who votes and who follows, and how often that has changed.
    pub fn members(&self) -> (u64, &Members) {
        (self.members_version, &self.members)
    }

    /// Whether it is sent the log.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.members.voters.contains(&node) || self.members.learners.contains(&node)
    }

    /// Other members from here on; an entry of the log like any other.
    pub fn change_members(&mut self, members: Members) {
        self.entries.push(None);
        self.members = members;
        self.members_version += 1;
    }

    /// These are the members, as somebody was told.
    pub fn learn_members(&mut self, members: Members) {
        self.members = members;
        self.members_version += 1;
    }

    /// What is committed at an index beyond the end; between them there is nothing to apply.
    pub fn learn(&mut self, index: u64, entry: Arc<Entry>) {
        while self.end() + 1 < index {
            self.entries.push(None);
        }
        self.entries.push(Some(entry));
    }

    /// The first index after `after` and before `before` at which there is something to apply.
    pub fn entry_between(&self, after: u64, before: u64) -> Option<u64> {
        (after + 1..before).find(|index| self.entry(*index).is_some())
    }

    /// The committed entry at an index; `None` where there is nothing to apply.
    pub fn entry(&self, index: u64) -> Option<&Arc<Entry>> {
        let place = usize::try_from(index.checked_sub(1)?).ok()?;
        self.entries.get(place)?.as_ref()
    }

    /// The leader takes an entry; it is not committed yet.
    pub fn accept(&mut self, entry: Entry) {
        self.in_flight.push_back(Arc::new(entry));
    }

    /// Whether anything waits to be committed.
    pub fn has_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// What waits to be committed, oldest first.
    pub fn in_flight(&self) -> impl Iterator<Item = ProposalId> {
        self.in_flight.iter().map(|entry| entry.id)
    }

    /// Commits the oldest entry in flight; `None` if there is none.
    pub fn commit_next(&mut self) -> Option<(Revision, Arc<Entry>)> {
        let entry = self.in_flight.pop_front()?;
        self.entries.push(Some(entry.clone()));
        Some((Revision { epoch: 0, index: self.end() }, entry))
    }

    /// A new term with a new leader begins; what was in flight and did not survive is returned.
    pub fn begin_term(&mut self, leader: NodeId, skip: u64) -> Vec<Arc<Entry>> {
        self.term += 1 + skip;
        self.leader = Some(leader);
        self.entries.push(None);
        self.in_flight.drain(..).collect()
    }

    /// Somebody wrote down the state at an index.
    pub fn keep_snapshot(&mut self, at: Revision, bytes: Arc<Vec<u8>>) {
        self.snapshots.insert(at.index, bytes);
        while self.snapshots.len() > SNAPSHOTS_KEPT {
            self.snapshots.pop_first();
        }
    }

    /// The latest snapshot beyond an index.
    pub fn snapshot_beyond(&self, index: u64) -> Option<(Revision, Arc<Vec<u8>>)> {
        let (at, bytes) = self.snapshots.last_key_value().filter(|(at, _)| **at > index)?;
        Some((Revision { epoch: 0, index: *at }, bytes.clone()))
    }
}
