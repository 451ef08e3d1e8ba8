//! What a directory holds without consensus running, and a new one that begins with a state.
//!
//! For when no majority is left, or nothing at all: who does this decides that what this machine
//! has, or a backup, is what the cluster goes on from. Tested in `tests/recovery.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;

use openraft::EntryPayload;
use openraft::vote::RaftLeaderId as _;

use super::disk::Disk;
use super::error::ConsensusError;
use super::handle::read_directory;
use super::log::Change;
use super::options::Options;
use super::types::{
    LeaderId, LogId, Membership, SnapshotImage, SnapshotMeta, StoredMembership, Vote,
};

/// The term in which a directory begins that [`begin_with`] made.
const TERM: u64 = 1;

/// All that a directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The newest snapshot: index of the last proposed entry in it, and its bytes.
    pub state: Option<(u64, Vec<u8>)>,
    /// Every proposed entry after it, with its index, also those of which it is not known here
    /// whether a majority has them: one that was acknowledged may be among these.
    pub entries: Vec<(u64, Vec<u8>)>,
    /// Of these, how many are not known to be committed.
    pub uncertain: usize,
}

/// Reads all that a directory holds, while no daemon runs on it.
///
/// # Errors
/// When it is in use, foreign, damaged or written by a newer Mill, and when the disk fails.
pub fn read(options: &Options, disk: Arc<dyn Disk>) -> Result<Held, ConsensusError> {
    let directory = read_directory(disk, &options.owner())?;
    let snapshot = directory.snapshots.load()?;
    let after = snapshot.as_ref().and_then(|snapshot| snapshot.meta.last_log_id);
    let after = after.map_or(0, |last| last.index + 1);
    let committed = directory.found.marks.committed.map_or(0, |committed| committed.index);
    let (mut entries, mut uncertain) = (Vec::new(), 0);
    directory.log.scan(after..u64::MAX, |entry| match entry.payload {
        EntryPayload::Blank | EntryPayload::Membership(_) => {}
        EntryPayload::Normal(payload) => {
            uncertain += usize::from(entry.log_id.index > committed);
            entries.push((entry.log_id.index, payload.0));
        }
    })?;
    directory.log.close();
    directory.snapshots.close();
    let state = snapshot.map(|snapshot| (snapshot.snapshot.index, snapshot.snapshot.bytes));
    Ok(Held { state, entries, uncertain })
}

/// Makes an empty directory the log of a cluster whose only member is this node, and whose state is
/// `bytes` as of `index`.
///
/// # Errors
/// When it is not empty, and when the disk fails.
pub fn begin_with(
    options: &Options,
    disk: Arc<dyn Disk>,
    index: u64,
    bytes: Vec<u8>,
) -> Result<(), ConsensusError> {
    let directory = read_directory(disk.clone(), &options.owner())?;
    if directory.found.last.is_some() || directory.snapshots.load()?.is_some() {
        let detail = "there is a log already, where a new one should begin".to_owned();
        return Err(ConsensusError::Damaged { path: disk.location(), detail });
    }
    let leader = LeaderId::new(TERM, options.node);
    let last = LogId::new(leader.to_committed(), index);
    let members = Membership::new_with_defaults(vec![BTreeSet::from([options.node])], []);
    let meta = SnapshotMeta {
        last_log_id: Some(last),
        last_membership: StoredMembership::new(Some(last), members),
    };
    directory.snapshots.save(&meta, &SnapshotImage { index, bytes })?;
    let vote = Vote::new(TERM, options.node);
    directory.log.write(&[Change::Vote(vote), Change::PurgeTo(last)])?;
    directory.log.close();
    directory.snapshots.close();
    Ok(())
}
