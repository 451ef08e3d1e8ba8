//! openraft's view of the log: what is appended is readable at once, and acknowledged when synced.
//!
//! Recent entries stay in memory: those not yet on disk because they must be readable, and some
//! more because openraft reads each entry back to apply it. All writes go through one queue in
//! the order they were made, which is what Raft asks of them.
//! Tested in `tests/log.rs` and through `tests/cluster.rs`.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::marker::PhantomData;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard};

use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft_rt::AsyncRuntime;

use super::codec;
use super::error::ConsensusError;
use super::log::{Change, LogFile, Marks};
use super::mutant::{self, Mutant};
use super::types::{Entry, LogId, Types, Vote};
use super::writer::Writer;

/// Synced entries that stay in memory, at most, in number and in proposed bytes.
const REMEMBERED_ENTRIES: usize = 256;
const REMEMBERED_BYTES: usize = 1 << 20;

/// Entries go to another node until they have this many proposed bytes; the last may exceed it by
/// its own size.
const SENT_BYTES: usize = 1 << 20;
/// Entries that are read at once for that.
const READ_ENTRIES: u64 = 16;

/// The log as openraft uses it. Clones are the same log.
pub(super) struct LogStore<R> {
    log: Arc<LogFile>,
    writer: Writer,
    recent: Arc<Mutex<Recent>>,
    runtime: PhantomData<fn() -> R>,
}

impl<R> Clone for LogStore<R> {
    fn clone(&self) -> Self {
        LogStore {
            log: self.log.clone(),
            writer: self.writer.clone(),
            recent: self.recent.clone(),
            runtime: PhantomData,
        }
    }
}

impl<R: AsyncRuntime> LogStore<R> {
    /// `last` is the last entry of the log, or the last purged one.
    pub(super) fn new(
        log: Arc<LogFile>,
        writer: Writer,
        marks: &Marks,
        last: Option<LogId>,
    ) -> Self {
        let recent = Recent { vote: marks.vote, purged: marks.purged, last, ..Recent::default() };
        LogStore { log, writer, recent: Arc::new(Mutex::new(recent)), runtime: PhantomData }
    }

    /// The entries in the range that the log contains.
    pub(super) fn entries(&self, range: Range<u64>) -> Result<Vec<Entry>, ConsensusError> {
        let (on_disk, in_memory) = {
            let recent = self.recent();
            let range = range.start.max(recent.first())..range.end.min(recent.end());
            if range.is_empty() {
                return Ok(Vec::new());
            }
            let split = recent.entries.first_key_value().map_or(range.end, |(index, _)| *index);
            let split = split.clamp(range.start, range.end);
            let in_memory: Vec<Entry> = recent
                .entries
                .range(split..range.end)
                .map(|(_, remembered)| remembered.entry.clone())
                .collect();
            (range.start..split, in_memory)
        };
        if on_disk.is_empty() {
            return Ok(in_memory);
        }
        let mut entries = self.log.entries(on_disk)?;
        entries.extend(in_memory);
        Ok(entries)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        lock(&self.recent)
    }
}

fn lock(recent: &Mutex<Recent>) -> MutexGuard<'_, Recent> {
    recent.lock().expect("no code panics while it holds the recent entries")
}

/// The log's bounds, which run ahead of the disk, and its newest entries.
#[derive(Default)]
struct Recent {
    vote: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// Without a hole up to `last`; what comes before is on disk.
    entries: BTreeMap<u64, Remembered>,
    bytes: usize,
    /// Counts appends; an entry may be forgotten when its append is synced.
    appended: u64,
    synced: u64,
}

struct Remembered {
    entry: Entry,
    append: u64,
}

impl Recent {
    fn first(&self) -> u64 {
        self.purged.map_or(0, |purged| purged.index + 1)
    }

    fn end(&self) -> u64 {
        self.last.map_or(0, |last| last.index + 1)
    }

    fn remember(&mut self, entry: Entry) {
        self.last = Some(entry.log_id);
        self.bytes += bytes_of(&entry);
        let append = self.appended;
        self.entries.insert(entry.log_id.index, Remembered { entry, append });
    }

    fn forget_old(&mut self) {
        while (self.bytes > REMEMBERED_BYTES || self.entries.len() > REMEMBERED_ENTRIES)
            && self.entries.first_key_value().is_some_and(|(_, old)| old.append <= self.synced)
        {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, forgotten)) = self.entries.pop_first() {
            self.bytes -= bytes_of(&forgotten.entry);
        }
    }

    fn truncate(&mut self, last: Option<LogId>) {
        let end = last.map_or(0, |last| last.index + 1);
        for (_, removed) in self.entries.split_off(&end) {
            self.bytes -= bytes_of(&removed.entry);
        }
        self.last = last.max(self.purged);
    }

    fn purge(&mut self, upto: LogId) {
        self.purged = self.purged.max(Some(upto));
        self.last = self.last.max(Some(upto));
        while self.entries.first_key_value().is_some_and(|(index, _)| *index <= upto.index) {
            self.forget_first();
        }
    }
}

fn bytes_of(entry: &Entry) -> usize {
    match &entry.payload {
        openraft::EntryPayload::Normal(payload) => payload.0.len(),
        openraft::EntryPayload::Blank | openraft::EntryPayload::Membership(_) => 0,
    }
}

impl<R: AsyncRuntime> RaftLogReader<Types<R>> for LogStore<R> {
    async fn try_get_log_entries<B: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: B,
    ) -> Result<Vec<Entry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.entries(start..end).map_err(ConsensusError::into_io)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        let (mut entries, mut bytes, mut next) = (Vec::new(), 0, start);
        while next < end && bytes < SENT_BYTES {
            let upto = end.min(next + READ_ENTRIES);
            let read = self.entries(next..upto).map_err(ConsensusError::into_io)?;
            for entry in read {
                if bytes >= SENT_BYTES {
                    break;
                }
                bytes += bytes_of(&entry);
                entries.push(entry);
            }
            next = upto;
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.recent().vote)
    }
}

impl<R: AsyncRuntime> RaftLogStorage<Types<R>> for LogStore<R> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types<R>>, io::Error> {
        let recent = self.recent();
        Ok(LogState { last_purged_log_id: recent.purged, last_log_id: recent.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        if !mutant::is(Mutant::VoteNotSynced) {
            self.writer.write_through(vec![Change::Vote(*vote)]).await?;
        }
        self.recent().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.writer.set_committed(committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.writer.committed())
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<Types<R>>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut changes = Vec::new();
        let append = {
            let mut recent = self.recent();
            recent.forget_old();
            recent.appended += 1;
            for entry in entries {
                let sealed = codec::encode_entry(&entry);
                changes.push(Change::Append { index: entry.log_id.index, sealed });
                recent.remember(entry);
            }
            recent.appended
        };
        let recent = self.recent.clone();
        let done = Box::new(move |result: io::Result<()>| {
            if result.is_ok() {
                lock(&recent).synced = append;
            }
            callback.io_completed(result);
        });
        self.writer.write(changes, done).await;
        Ok(())
    }

    /// Does not wait for the sync: whatever is acknowledged later is queued behind it.
    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.recent().truncate(last);
        let index = last.map_or(0, |last| last.index + 1);
        self.writer.write(vec![Change::TruncateFrom { index }], Box::new(|_| {})).await;
        Ok(())
    }

    /// Does not wait for the sync: a purge that a crash undoes is repeated after the next snapshot.
    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.recent().purge(upto);
        self.writer.write(vec![Change::PurgeTo(upto)], Box::new(|_| {})).await;
        Ok(())
    }
}
