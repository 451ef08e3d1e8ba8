//! What a start finds on disk, checked, and how it reaches the events' reader again.
//!
//! A start does not let openraft replay: the reader gets its channel only when opening is over, so
//! a long replay into a bounded channel would wait for itself. [`Found`] proves the log and the
//! snapshot whole and consistent; [`replay`] then feeds the reader in the background, before
//! anything new. Tested in `tests/cluster.rs` and `tests/snapshots.rs`.

use openraft::EntryPayload;
use openraft_rt::AsyncRuntime;
use tokio::sync::mpsc;

use super::ConsensusEvent;
use super::error::ConsensusError;
use super::log::{LogFile, Marks};
use super::log_store::LogStore;
use super::machine::{Applied, EVENT_ENTRIES, members_of};
use super::mutant::{self, Mutant};
use super::snapshots::Snapshots;
use super::types::{Entry, LogId, Snapshot, SnapshotImage, SnapshotMeta, StoredMembership};

/// What a start found on disk.
pub(super) struct Found {
    pub(super) marks: Marks,
    /// The last entry, or the last purged one.
    pub(super) last: Option<LogId>,
    /// Where the replay will have led.
    pub(super) applied: Applied,
    /// The last proposed entry that the replay will send, or 0.
    pub(super) forwarded: u64,
    snapshot: Option<Snapshot>,
    /// First index after the snapshot, and after the committed entries.
    replay: std::ops::Range<u64>,
}

impl Found {
    /// Reads everything once.
    pub(super) fn read(log: &LogFile, snapshots: &Snapshots) -> Result<Found, ConsensusError> {
        let marks = log.marks()?;
        let (applied, snapshot) = match snapshots.load()? {
            Some(snapshot) => {
                let SnapshotMeta { last_log_id, last_membership } = snapshot.meta.clone();
                (Applied { last: last_log_id, membership: last_membership }, Some(snapshot))
            }
            None => (Applied::default(), None),
        };
        let mut found = Found {
            last: marks.purged,
            replay: next(applied.last)..next(applied.last.max(marks.committed)),
            forwarded: snapshot.as_ref().map_or(0, |found| found.snapshot.index),
            applied,
            snapshot,
            marks,
        };
        let damaged = |detail| ConsensusError::Damaged { path: log.path().to_owned(), detail };
        if found.marks.purged > found.applied.last {
            return Err(damaged("its old entries are purged, but no snapshot has them".to_owned()));
        }
        let first = next(found.marks.purged);
        let mut expected = first;
        log.scan(first..u64::MAX, |entry| {
            if expected == entry.log_id.index {
                expected += 1;
            }
            found.see(entry);
        })?;
        if expected != next(found.last)
            || expected < found.replay.end.min(next(found.marks.committed))
        {
            return Err(damaged(format!("entry {expected} is missing")));
        }
        Ok(found)
    }

    fn see(&mut self, entry: Entry) {
        let log_id = entry.log_id;
        self.last = Some(log_id);
        if !self.replay.contains(&log_id.index) {
            return;
        }
        self.applied.last = Some(log_id);
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(_) => self.forwarded = log_id.index,
            EntryPayload::Membership(membership) => {
                self.applied.membership = StoredMembership::new(Some(log_id), membership);
            }
        }
    }

    /// The part that [`replay`] sends.
    pub(super) fn take_replay(&mut self) -> Replay {
        Replay { snapshot: self.snapshot.take(), range: self.replay.clone() }
    }
}

fn next(log_id: Option<LogId>) -> u64 {
    log_id.map_or(0, |log_id| log_id.index + 1)
}

/// A snapshot and the committed entries after it.
pub(super) struct Replay {
    snapshot: Option<Snapshot>,
    range: std::ops::Range<u64>,
}

/// Sends what was committed before this start. False when that was not possible.
pub(super) async fn replay<R: AsyncRuntime>(
    replay: Replay,
    store: LogStore<R>,
    events: mpsc::Sender<ConsensusEvent>,
) -> bool {
    let skipped = u64::from(mutant::is(Mutant::EntrySkippedAfterSnapshot));
    if let Some(Snapshot { meta, snapshot: SnapshotImage { index, bytes } }) = replay.snapshot {
        let members = members_of(meta.last_membership.membership());
        for event in [ConsensusEvent::Restored { index, bytes }, members] {
            if events.send(event).await.is_err() {
                return false;
            }
        }
    }
    let mut start = replay.range.start + skipped;
    while start < replay.range.end {
        let end = replay.range.end.min(start + EVENT_ENTRIES as u64);
        let entries = match store.entries(start..end) {
            Ok(entries) => entries,
            Err(error) => {
                let reason = super::error::in_full(&error);
                let _ = events.send(ConsensusEvent::Failed { reason }).await;
                return false;
            }
        };
        if !send(entries, &events).await {
            return false;
        }
        start = end;
    }
    true
}

/// Sends entries, and between them who the members are.
async fn send(log: Vec<Entry>, events: &mpsc::Sender<ConsensusEvent>) -> bool {
    let mut entries = Vec::new();
    for entry in log {
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(payload) => entries.push((entry.log_id.index, payload.0)),
            EntryPayload::Membership(membership) => {
                if !send_entries(std::mem::take(&mut entries), events).await
                    || events.send(members_of(&membership)).await.is_err()
                {
                    return false;
                }
            }
        }
    }
    send_entries(entries, events).await
}

async fn send_entries(entries: Vec<(u64, Vec<u8>)>, events: &mpsc::Sender<ConsensusEvent>) -> bool {
    entries.is_empty() || events.send(ConsensusEvent::Committed { entries }).await.is_ok()
}
