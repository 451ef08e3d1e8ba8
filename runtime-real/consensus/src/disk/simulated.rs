//! A disk in memory that fails the way disks fail.
//!
//! The power can be cut at any operation: a sync that had returned is kept; of everything after
//! it, a seeded part survives, torn at a block's edge. It can be full, and a byte can be flipped.
//! It counts what is asked of it, so tests also use it to see how often a store syncs.
//! The model follows Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014):
//! unsynced writes reach the disk in any order, block by block; names change in order.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{Claim, ClaimError, Disk, DiskFile, Held};

/// What a disk writes in one piece, in bytes: the sector of a common drive.
const BLOCK: usize = 512;

/// A simulated directory. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

/// What has been asked of a disk so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Operations {
    /// Everything that changes the disk, syncs included.
    pub all: u64,
    /// Syncs of files.
    pub syncs: u64,
    /// Bytes written to files.
    pub bytes_written: u64,
}

#[derive(Debug, Default)]
struct State {
    files: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    unsynced_names: Vec<NameChange>,
    done: Operations,
    cut_at: Option<u64>,
    power_is_off: bool,
    /// Counts restarts; handles from before a restart no longer work.
    boot: u64,
    claimed: bool,
    capacity: Option<u64>,
}

#[derive(Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    SetLen { length: u64 },
}

#[derive(Debug, Clone)]
enum NameChange {
    Link { name: String, file: usize },
    Rename { from: String, to: String },
    Unlink { name: String },
}

impl SimulatedDisk {
    /// An empty disk with power and room.
    #[must_use]
    pub fn new() -> SimulatedDisk {
        SimulatedDisk::default()
    }

    /// Cuts the power during this operation, counted as in [`Operations::all`]. It and all later
    /// ones fail until [`SimulatedDisk::restart`].
    pub fn cut_power_at(&self, operation: u64) {
        self.lock().cut_at = Some(operation);
    }

    /// True once the power was cut.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.lock().power_is_off
    }

    /// Turns the power off, loses a seeded part of what was not synced, and turns it on again.
    /// Handles and claims from before are dead.
    pub fn restart(&self, seed: u64) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut state = self.lock();
        for file in &mut state.files {
            file.lose_unsynced(&mut random);
        }
        let kept = below(&mut random, state.unsynced_names.len() + 1);
        let changes: Vec<NameChange> = state.unsynced_names.drain(..).take(kept).collect();
        for change in &changes {
            change.apply(&mut state.durable_names);
        }
        state.names = state.durable_names.clone();
        state.power_is_off = false;
        state.cut_at = None;
        state.boot += 1;
        state.claimed = false;
    }

    /// Limits the bytes that all files may hold together; `None` is no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// Bytes that all files hold together.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    /// What has been asked of the disk so far.
    #[must_use]
    pub fn operations(&self) -> Operations {
        self.lock().done
    }

    /// Flips every bit of the last byte of the first place where these bytes occur in the file.
    /// False when they do not occur.
    pub fn damage(&self, name: &str, needle: &[u8]) -> bool {
        let mut state = self.lock();
        let Some(file) = state.names.get(name).copied() else { return false };
        let inode = &mut state.files[file];
        let Some(at) = inode.bytes.windows(needle.len()).position(|window| window == needle) else {
            return false;
        };
        let at = at + needle.len() - 1;
        inode.bytes[at] ^= 0xff;
        inode.durable = inode.bytes.clone();
        inode.unsynced.clear();
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the simulated disk")
    }
}

impl State {
    /// Fails without power; otherwise counts one change and tells whether the power goes now.
    fn begin(&mut self, boot: u64) -> io::Result<Power> {
        if self.power_is_off || boot != self.boot {
            return Err(power_is_off());
        }
        self.done.all += 1;
        self.power_is_off = self.cut_at.is_some_and(|at| self.done.all >= at);
        Ok(if self.power_is_off { Power::Fails } else { Power::Stays })
    }

    fn used(&self) -> u64 {
        self.names.values().map(|file| self.files[*file].bytes.len() as u64).sum()
    }

    fn reserve(&self, file: usize, end: u64) -> io::Result<()> {
        let grows_by = end.saturating_sub(self.files[file].bytes.len() as u64);
        match self.capacity {
            Some(capacity) if grows_by > 0 && self.used() + grows_by > capacity => {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }
}

/// Whether the operation that begins is the one that the power fails in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    Stays,
    Fails,
}

impl Power {
    fn result(self) -> io::Result<()> {
        match self {
            Power::Stays => Ok(()),
            Power::Fails => Err(power_is_off()),
        }
    }
}

fn power_is_off() -> io::Error {
    io::Error::other("the simulated disk has no power")
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            NameChange::Link { name, file } => {
                names.insert(name.clone(), *file);
            }
            NameChange::Rename { from, to } => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            NameChange::Unlink { name } => {
                names.remove(name);
            }
        }
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes: written } => {
                let start = usize::try_from(*offset).expect("a simulated file fits into memory");
                let end = start + written.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[start..end].copy_from_slice(written);
            }
            Change::SetLen { length } => {
                let length = usize::try_from(*length).expect("a simulated file fits into memory");
                bytes.resize(length, 0);
            }
        }
    }

    /// The pieces that reach the disk one by one: a write's blocks.
    fn pieces(self) -> Vec<Change> {
        let Change::Write { offset, bytes } = self else { return vec![self] };
        let mut pieces = Vec::new();
        let mut rest = &bytes[..];
        let mut at = offset;
        while !rest.is_empty() {
            let into_block = usize::try_from(at % BLOCK as u64).expect("less than a block");
            let (piece, tail) = rest.split_at(rest.len().min(BLOCK - into_block));
            pieces.push(Change::Write { offset: at, bytes: piece.to_vec() });
            at += piece.len() as u64;
            rest = tail;
        }
        pieces
    }
}

impl Inode {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.bytes);
        self.unsynced.push(change);
    }

    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    fn lose_unsynced(&mut self, random: &mut ChaCha8Rng) {
        let pieces: Vec<Change> = self.unsynced.drain(..).flat_map(Change::pieces).collect();
        let in_order = below(random, 2) == 0;
        let kept = below(random, pieces.len() + 1);
        for (position, piece) in pieces.iter().enumerate() {
            let survives = match piece {
                Change::SetLen { .. } => true,
                Change::Write { .. } if in_order => position < kept,
                Change::Write { .. } => below(random, 2) == 0,
            };
            if survives {
                piece.apply(&mut self.durable);
            }
        }
        self.bytes = self.durable.clone();
    }
}

/// A number below the bound; the tiny bias of the remainder does not matter here.
fn below(random: &mut ChaCha8Rng, bound: usize) -> usize {
    let bound = bound as u64;
    usize::try_from(random.next_u64() % bound).expect("smaller than a usize")
}

impl Disk for SimulatedDisk {
    fn location(&self) -> String {
        "simulated-disk".to_owned()
    }

    fn claim(&self) -> Result<Claim, ClaimError> {
        let mut state = self.lock();
        if state.claimed {
            return Err(ClaimError::Held { by: None });
        }
        state.claimed = true;
        Ok(Claim { _held: Box::new(SimulatedClaim { disk: self.clone(), boot: state.boot }) })
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.lock();
        let boot = state.boot;
        let file = match state.names.get(name) {
            Some(file) => *file,
            None => {
                let power = state.begin(boot)?;
                state.files.push(Inode::default());
                let file = state.files.len() - 1;
                state.change_name(NameChange::Link { name: name.to_owned(), file });
                power.result()?;
                file
            }
        };
        Ok(Box::new(SimulatedFile { disk: self.clone(), file, boot }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        let boot = state.boot;
        let power = state.begin(boot)?;
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_name(NameChange::Rename { from: from.to_owned(), to: to.to_owned() });
        power.result()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        let boot = state.boot;
        let power = state.begin(boot)?;
        state.change_name(NameChange::Unlink { name: name.to_owned() });
        power.result()
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.lock();
        let boot = state.boot;
        state.begin(boot)?.result()?;
        state.durable_names = state.names.clone();
        state.unsynced_names.clear();
        Ok(())
    }
}

#[derive(Debug)]
struct SimulatedClaim {
    disk: SimulatedDisk,
    boot: u64,
}

impl Held for SimulatedClaim {}

impl Drop for SimulatedClaim {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        if state.boot == self.boot {
            state.claimed = false;
        }
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    file: usize,
    boot: u64,
}

impl SimulatedFile {
    fn readable(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.lock();
        if state.power_is_off || state.boot != self.boot {
            return Err(power_is_off());
        }
        Ok(state)
    }
}

impl DiskFile for SimulatedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.readable()?.files[self.file].bytes.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let state = self.readable()?;
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let bytes = state.files[self.file]
            .bytes
            .get(start..start + buffer.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.lock();
        let power = state.begin(self.boot)?;
        state.reserve(self.file, offset + bytes.len() as u64)?;
        state.done.bytes_written += bytes.len() as u64;
        state.files[self.file].change(Change::Write { offset, bytes: bytes.to_vec() });
        power.result()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        let power = state.begin(self.boot)?;
        state.reserve(self.file, length)?;
        state.files[self.file].change(Change::SetLen { length });
        power.result()
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.begin(self.boot)?.result()?;
        state.done.syncs += 1;
        state.files[self.file].sync();
        Ok(())
    }
}
