//! Snapshots on disk: one file each, whole or absent, and only the newest is kept.
//!
//! A snapshot is a file of its own and no row of the log, so that writing megabytes neither stalls
//! appends behind it nor passes through the log's small cache. It is written under a temporary
//! name, synced, renamed, and the directory synced; only then is the older one removed and may
//! the log be purged. Layout: magic, format (u32), length of the header (u32), header (JSON), the
//! state's bytes, XXH3-64 of all before; numbers are little-endian. Tested in `tests/snapshots.rs`.

use std::io;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::disk::{Claim, Disk};
use super::error::ConsensusError;
use super::types::{LogId, Snapshot, SnapshotImage, SnapshotMeta, StoredMembership};

const MAGIC: &[u8; 8] = b"MILLSNAP";

/// The format that this code writes, and the newest that it reads.
const FORMAT: u32 = 1;

const PREFIX: &str = "snapshot-";
const TEMPORARY: &str = "snapshot.tmp";

const CHECKSUM_BYTES: usize = size_of::<u64>();

/// The snapshots of one directory.
#[derive(Debug)]
pub(super) struct Snapshots {
    disk: Arc<dyn Disk>,
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    newest: Option<String>,
    /// Nobody else may have the directory while a snapshot is being written.
    _claim: Arc<Claim>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    last_log_id: Option<LogId>,
    last_membership: StoredMembership,
    /// As in [`SnapshotImage`].
    index: u64,
}

impl Snapshots {
    /// Finds the newest snapshot and removes what a crash left behind.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        claim: Arc<Claim>,
    ) -> Result<Snapshots, ConsensusError> {
        let path = disk.location();
        let fail = |doing, source| ConsensusError::Io { doing, path: path.clone(), source };
        let names = disk.names().map_err(|source| fail("list the files of", source))?;
        let mut snapshots: Vec<String> =
            names.iter().filter(|name| name.starts_with(PREFIX)).cloned().collect();
        let newest = snapshots.pop();
        for left_over in snapshots.iter().map(String::as_str).chain([TEMPORARY]) {
            disk.remove(left_over).map_err(|source| fail("remove old snapshots from", source))?;
        }
        Ok(Snapshots { disk, open: Mutex::new(Some(Open { newest, _claim: claim })) })
    }

    /// Waits for a save that is under way and gives the directory back; later calls say so.
    pub(super) fn close(&self) {
        *self.lock() = None;
    }

    /// The newest snapshot, checked.
    pub(super) fn load(&self) -> Result<Option<Snapshot>, ConsensusError> {
        // The lock is held while reading, so that no save removes the file meanwhile.
        let open = self.lock();
        let open = open.as_ref().ok_or_else(closed)?;
        let Some(name) = open.newest.as_deref() else { return Ok(None) };
        let path = self.path(name);
        let read = || -> io::Result<Vec<u8>> {
            let file = self.disk.open(name)?;
            let length = usize::try_from(file.len()?).map_err(io::Error::other)?;
            let mut bytes = vec![0; length];
            file.read_at(0, &mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|source| ConsensusError::Io {
            doing: "read",
            path: path.clone(),
            source,
        })?;
        decode(&path, bytes).map(Some)
    }

    /// Makes this the newest snapshot and returns when it survives a power cut.
    pub(super) fn save(
        &self,
        meta: &SnapshotMeta,
        image: &SnapshotImage,
    ) -> Result<(), ConsensusError> {
        let mut open = self.lock();
        let newest = &mut open.as_mut().ok_or_else(closed)?.newest;
        let last = meta.last_log_id.map_or(0, |last| last.index);
        let name = format!("{PREFIX}{last:020}");
        if newest.as_ref().is_some_and(|newest| *newest > name) {
            return Ok(());
        }
        let write = || -> io::Result<()> {
            let bytes = encode(meta, image)?;
            let file = self.disk.open(TEMPORARY)?;
            file.set_len(0)?;
            file.write_at(0, &bytes)?;
            file.sync()?;
            self.disk.rename(TEMPORARY, &name)?;
            self.disk.sync_names()
        };
        write().map_err(|source| ConsensusError::Io {
            doing: "write",
            path: self.path(&name),
            source,
        })?;
        if let Some(older) = newest.replace(name.clone()).filter(|older| *older != name)
            && let Err(error) = self.disk.remove(&older)
        {
            // The next open removes it; until then it only takes room.
            tracing::warn!(%error, path = self.path(&older), "an old snapshot cannot be removed");
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Open>> {
        self.open.lock().expect("no code panics while it holds the snapshots")
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.disk.location())
    }
}

fn closed() -> ConsensusError {
    ConsensusError::Stopped { reason: "the snapshots are closed".to_owned() }
}

fn encode(meta: &SnapshotMeta, image: &SnapshotImage) -> io::Result<Vec<u8>> {
    let header = Header {
        last_log_id: meta.last_log_id,
        last_membership: meta.last_membership.clone(),
        index: image.index,
    };
    let header = serde_json::to_vec(&header)?;
    let header_length = u32::try_from(header.len()).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(image.bytes.len() + header.len() + 64);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&header_length.to_le_bytes());
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(&image.bytes);
    bytes.extend_from_slice(&xxh3_64(&bytes).to_le_bytes());
    Ok(bytes)
}

fn decode(path: &str, mut bytes: Vec<u8>) -> Result<Snapshot, ConsensusError> {
    let damaged = |detail: String| ConsensusError::Damaged { path: path.to_owned(), detail };
    let short = || damaged("it ends too early".to_owned());
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| damaged("it is no snapshot".to_owned()))?;
    let (format, rest) = rest.split_first_chunk().ok_or_else(short)?;
    let found = u32::from_le_bytes(*format);
    if found > FORMAT {
        return Err(ConsensusError::Newer { path: path.to_owned(), found, known: FORMAT });
    }
    let (checked, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or_else(short)?;
    let (expected, actual) = (u64::from_le_bytes(*checksum), xxh3_64(checked));
    if expected != actual {
        return Err(damaged(format!(
            "the checksum is {actual:016x}, but {expected:016x} was written"
        )));
    }
    let (length, rest) = rest.split_first_chunk().ok_or_else(short)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).expect("a usize has 32 bits or more");
    let header = rest.get(..length).ok_or_else(short)?;
    let header: Header =
        serde_json::from_slice(header).map_err(|error| damaged(format!("its header: {error}")))?;
    let start = MAGIC.len() + size_of_val(&FORMAT) + size_of::<u32>() + length;
    let end = checked.len();
    bytes.truncate(end);
    bytes.drain(..start.min(end));
    let Header { last_log_id, last_membership, index } = header;
    let meta = SnapshotMeta { last_log_id, last_membership };
    Ok(Snapshot { meta, snapshot: SnapshotImage { index, bytes } })
}
