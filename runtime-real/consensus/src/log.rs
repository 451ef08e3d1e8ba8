//! The log on disk: entries, vote, committed index and purge mark in one redb file.
//!
//! It is synchronous and knows no queue: [`LogFile::write`] makes a batch of changes durable with
//! one commit, which is one sync. Who batches is `writer.rs`; who speaks openraft's language is
//! `log_store.rs`. It reads back only what it can prove it wrote, and says what it cannot.
//! Tested in `tests/log.rs`, with a power cut at every operation.

use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock, RwLock, RwLockReadGuard};

use redb::{Builder, Database, Durability, ReadableDatabase, StorageBackend, TableDefinition};

use super::codec::{self, Damage};
use super::disk::{Claim, Disk, DiskFile};
use super::error::ConsensusError;
use super::mutant::{self, Mutant};
use super::types::{Entry, LogId, Vote};

/// The log's file in its directory.
pub const LOG_FILE: &str = "log.redb";
/// A log that is being made; it gets its name when it is whole.
const TEMPORARY: &str = "log.tmp";

/// The format that this code writes, and the newest that it reads.
pub(super) const FORMAT: u32 = 1;

/// redb's cache. The log is appended to and read back at once, from memory; the cache only has to
/// hold the upper pages of the tree.
const CACHE_BYTES: usize = 4 << 20;

/// Log entries by index.
const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");
/// Everything else by name.
const MARKS: TableDefinition<&str, &[u8]> = TableDefinition::new("marks");

const FORMAT_MARK: &str = "format";
const OWNER_MARK: &str = "owner";
const VOTE_MARK: &str = "vote";
const COMMITTED_MARK: &str = "committed";
const PURGED_MARK: &str = "purged";

/// One change of the log; a batch is applied in order and becomes durable as a whole.
#[derive(Debug)]
pub(super) enum Change {
    Append { index: u64, sealed: Vec<u8> },
    TruncateFrom { index: u64 },
    PurgeTo(LogId),
    Vote(Vote),
    Committed(LogId),
}

/// What the log holds beside its entries.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
}

/// An open log.
#[derive(Debug)]
pub(super) struct LogFile {
    path: String,
    open: RwLock<Option<Open>>,
    failure: Failure,
}

#[derive(Debug)]
struct Open {
    // Dropped in this order: the file is closed before the directory is given back.
    database: Database,
    _claim: Arc<Claim>,
}

impl LogFile {
    /// Opens the log or creates an empty one, and proves all of it readable.
    ///
    /// `owner` names the node and cluster that the log belongs to; it is compared as a whole.
    pub(super) fn open(
        disk: &dyn Disk,
        claim: Arc<Claim>,
        owner: &str,
    ) -> Result<LogFile, ConsensusError> {
        let path = format!("{}/{LOG_FILE}", disk.location());
        let fail = |doing, source| ConsensusError::Io { doing, path: path.clone(), source };
        let names = disk.names().map_err(|source| fail("look for", source))?;
        if !names.iter().any(|name| name == LOG_FILE) {
            // A power cut while a log is made leaves either none or a whole one: half a log could
            // not be told from a damaged one.
            disk.remove(TEMPORARY).map_err(|source| fail("create", source))?;
            let log = LogFile::of(disk, TEMPORARY, claim.clone())?;
            log.found(owner)?;
            log.close();
            let named = disk.rename(TEMPORARY, LOG_FILE).and_then(|()| disk.sync_names());
            named.map_err(|source| fail("create", source))?;
        }
        let log = LogFile::of(disk, LOG_FILE, claim)?;
        log.check_owner(owner)?;
        Ok(log)
    }

    fn of(disk: &dyn Disk, name: &str, claim: Arc<Claim>) -> Result<LogFile, ConsensusError> {
        let path = format!("{}/{name}", disk.location());
        let failure = Failure::default();
        let opened = disk.open(name);
        let file = opened.map_err(|source| failure.explain("open", &path, source))?;
        let database = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create_with_backend(Backend { file, failure: failure.clone() })
            .map_err(|error| failure.explain("open", &path, error))?;
        let open = RwLock::new(Some(Open { database, _claim: claim }));
        Ok(LogFile { path, open, failure })
    }

    /// The file, for messages.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Closes the file and gives the directory back; later calls say so.
    pub(super) fn close(&self) {
        *self.open.write().expect("no code panics while it holds the log") = None;
    }

    /// Applies the changes in order and returns when all of them survive a power cut.
    pub(super) fn write(&self, changes: &[Change]) -> Result<(), ConsensusError> {
        let guard = self.database()?;
        self.commit(&database_of(&guard).database, changes)
            .map_err(|error| self.failure.explain("write to", &self.path, error))
    }

    fn commit(&self, database: &Database, changes: &[Change]) -> Result<(), redb::Error> {
        let mut transaction = database.begin_write()?;
        if mutant::is(Mutant::LogNotSynced) {
            transaction.set_durability(Durability::None)?;
        }
        {
            let mut entries = transaction.open_table(ENTRIES)?;
            let mut marks = transaction.open_table(MARKS)?;
            for change in changes {
                match change {
                    Change::Append { index, sealed } => {
                        entries.insert(index, sealed.as_slice())?;
                    }
                    Change::TruncateFrom { index } => {
                        entries.retain_in(*index.., |_, _| false)?;
                    }
                    Change::PurgeTo(log_id) => {
                        entries.retain_in(..=log_id.index, |_, _| false)?;
                        marks.insert(PURGED_MARK, codec::encode_log_id(log_id).as_slice())?;
                    }
                    Change::Vote(vote) => {
                        marks.insert(VOTE_MARK, codec::encode_vote(vote).as_slice())?;
                    }
                    Change::Committed(log_id) => {
                        marks.insert(COMMITTED_MARK, codec::encode_log_id(log_id).as_slice())?;
                    }
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// The entries with an index in the range, which may lack some at either end.
    pub(super) fn entries(&self, range: Range<u64>) -> Result<Vec<Entry>, ConsensusError> {
        let mut entries = Vec::new();
        self.scan(range, |entry| entries.push(entry))?;
        Ok(entries)
    }

    /// Visits the entries with an index in the range, in order and without a hole.
    pub(super) fn scan(
        &self,
        range: Range<u64>,
        mut visit: impl FnMut(Entry),
    ) -> Result<(), ConsensusError> {
        let guard = self.database()?;
        let read = |error: redb::Error| self.failure.explain("read", &self.path, error);
        let transaction =
            database_of(&guard).database.begin_read().map_err(|error| read(error.into()))?;
        let table = transaction.open_table(ENTRIES).map_err(|error| read(error.into()))?;
        let mut next = None;
        for row in table.range(range).map_err(|error| read(error.into()))? {
            let (key, value) = row.map_err(|error| read(error.into()))?;
            let index = key.value();
            if next.is_some_and(|next| next != index) {
                return Err(self.damaged(format!("entries before {index} are missing")));
            }
            let entry = codec::decode_entry(value.value())
                .map_err(|Damage(detail)| self.damaged(format!("entry {index}: {detail}")))?;
            if entry.log_id.index != index {
                let found = entry.log_id.index;
                return Err(self.damaged(format!("entry {index} holds entry {found}")));
            }
            next = Some(index + 1);
            visit(entry);
        }
        Ok(())
    }

    /// Vote, committed index and purge mark.
    pub(super) fn marks(&self) -> Result<Marks, ConsensusError> {
        let vote = self.mark(VOTE_MARK)?.map(|sealed| codec::decode_vote(&sealed));
        let committed = self.mark(COMMITTED_MARK)?.map(|sealed| codec::decode_log_id(&sealed));
        let purged = self.mark(PURGED_MARK)?.map(|sealed| codec::decode_log_id(&sealed));
        Ok(Marks {
            vote: self.readable(VOTE_MARK, vote.transpose())?,
            committed: self.readable(COMMITTED_MARK, committed.transpose())?,
            purged: self.readable(PURGED_MARK, purged.transpose())?,
        })
    }

    fn check_owner(&self, owner: &str) -> Result<(), ConsensusError> {
        let Some(format) = self.mark(FORMAT_MARK)? else {
            return Err(self.damaged("it does not say which format it has".to_owned()));
        };
        let format = self.readable(FORMAT_MARK, codec::unseal(&format))?;
        let format = u32::from_le_bytes(
            format.try_into().map_err(|_| self.damaged("its format is no number".to_owned()))?,
        );
        if format > FORMAT {
            let path = self.path.clone();
            return Err(ConsensusError::Newer { path, found: format, known: FORMAT });
        }
        let found = self.mark(OWNER_MARK)?.unwrap_or_default();
        let found = self.readable(OWNER_MARK, codec::unseal(&found))?;
        if found != owner.as_bytes() {
            return Err(ConsensusError::Foreign {
                path: self.path.clone(),
                found: String::from_utf8_lossy(found).into_owned(),
                expected: owner.to_owned(),
            });
        }
        Ok(())
    }

    /// Makes a new log: its tables, format and owner, in one commit.
    fn found(&self, owner: &str) -> Result<(), ConsensusError> {
        let create = |database: &Database| -> Result<(), redb::Error> {
            let transaction = database.begin_write()?;
            {
                transaction.open_table(ENTRIES)?;
                let mut marks = transaction.open_table(MARKS)?;
                let format = codec::seal(&FORMAT.to_le_bytes());
                marks.insert(FORMAT_MARK, format.as_slice())?;
                marks.insert(OWNER_MARK, codec::seal(owner.as_bytes()).as_slice())?;
            }
            transaction.commit()?;
            Ok(())
        };
        let guard = self.database()?;
        create(&database_of(&guard).database)
            .map_err(|error| self.failure.explain("create", &self.path, error))
    }

    fn mark(&self, name: &str) -> Result<Option<Vec<u8>>, ConsensusError> {
        let read = |database: &Database| -> Result<Option<Vec<u8>>, redb::Error> {
            let transaction = database.begin_read()?;
            match transaction.open_table(MARKS) {
                Ok(table) => Ok(table.get(name)?.map(|value| value.value().to_vec())),
                Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
                Err(error) => Err(error.into()),
            }
        };
        let guard = self.database()?;
        read(&database_of(&guard).database)
            .map_err(|error| self.failure.explain("read", &self.path, error))
    }

    fn readable<T>(&self, name: &str, read: Result<T, Damage>) -> Result<T, ConsensusError> {
        read.map_err(|Damage(detail)| self.damaged(format!("its {name} mark: {detail}")))
    }

    fn damaged(&self, detail: String) -> ConsensusError {
        ConsensusError::Damaged { path: self.path.clone(), detail }
    }

    fn database(&self) -> Result<RwLockReadGuard<'_, Option<Open>>, ConsensusError> {
        let guard = self.open.read().expect("no code panics while it holds the log");
        match *guard {
            Some(_) => Ok(guard),
            None => Err(ConsensusError::Stopped { reason: "the log is closed".to_owned() }),
        }
    }
}

fn database_of<'a>(guard: &'a RwLockReadGuard<'_, Option<Open>>) -> &'a Open {
    guard.as_ref().expect("`database` has just seen it open, and the guard keeps it so")
}

/// The first thing that went wrong on the disk, which redb does not always pass on: after one
/// failed write it refuses everything with "previous I/O error".
#[derive(Debug, Clone, Default)]
struct Failure {
    first: Arc<OnceLock<(io::ErrorKind, String)>>,
}

impl Failure {
    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            self.first.get_or_init(|| (error.kind(), error.to_string()));
        }
        result
    }

    fn explain(
        &self,
        doing: &'static str,
        path: &str,
        error: impl Into<redb::Error>,
    ) -> ConsensusError {
        let path = path.to_owned();
        if let Some((kind, text)) = self.first.get() {
            let source = io::Error::new(*kind, text.clone());
            return ConsensusError::Io { doing, path, source };
        }
        match error.into() {
            redb::Error::Corrupted(detail) => ConsensusError::Damaged { path, detail },
            redb::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => {
                ConsensusError::Damaged { path, detail: source.to_string() }
            }
            redb::Error::Io(source) => ConsensusError::Io { doing, path, source },
            other => ConsensusError::Io { doing, path, source: io::Error::other(other) },
        }
    }
}

/// redb's seam to our disk. Locking is left out: the directory's claim is the lock.
#[derive(Debug)]
struct Backend {
    file: Box<dyn DiskFile>,
    failure: Failure,
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.failure.note(self.file.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.failure.note(self.file.read_at(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.failure.note(self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.failure.note(self.file.sync())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.failure.note(self.file.write_at(offset, data))
    }
}
