//! The few things that the log and the snapshots ask of a directory on a disk.
//!
//! Nothing here knows what is stored. There are two implementors: [`FileDisk`] for real files and
//! [`SimulatedDisk`], which loses, tears and refuses writes on purpose. All calls block; the
//! callers are short-lived blocking tasks.
//! Tested through both stores in `consensus/tests`.

mod file;
mod simulated;

use std::fmt;
use std::io;

pub use file::FileDisk;
pub use simulated::SimulatedDisk;

/// A directory that one daemon owns.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Where it is, for people: a path.
    fn location(&self) -> String;

    /// Takes the directory for this process until the claim is dropped.
    ///
    /// # Errors
    /// [`ClaimError::Held`] when another daemon has it.
    fn claim(&self) -> Result<Claim, ClaimError>;

    /// Opens a file for reading and writing; creates it, empty, if it does not exist.
    ///
    /// # Errors
    /// Whatever the disk reports.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name in one step, replacing the file that had it.
    /// Survives a power cut only after [`Disk::sync_names`].
    ///
    /// # Errors
    /// Whatever the disk reports.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; it is no error if there is none.
    ///
    /// # Errors
    /// Whatever the disk reports.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// The names of all files, in order.
    ///
    /// # Errors
    /// Whatever the disk reports.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Makes creations, renames and removals survive a power cut.
    ///
    /// # Errors
    /// Whatever the disk reports.
    fn sync_names(&self) -> io::Result<()>;
}

/// One open file.
#[allow(clippy::len_without_is_empty, reason = "a file's length is a fact, not a collection's")]
pub trait DiskFile: fmt::Debug + Send + Sync + 'static {
    /// The length in bytes.
    ///
    /// # Errors
    /// Whatever the disk reports.
    fn len(&self) -> io::Result<u64>;

    /// Fills the buffer from this offset.
    ///
    /// # Errors
    /// Also when the file ends before the buffer is full.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all bytes at this offset; the file grows as needed.
    ///
    /// # Errors
    /// Whatever the disk reports, a full disk among it.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts the file, or grows it with zeros.
    ///
    /// # Errors
    /// Whatever the disk reports.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Returns when everything written before survives a power cut.
    ///
    /// # Errors
    /// Whatever the disk reports. What was written before is then of unknown fate.
    fn sync(&self) -> io::Result<()>;
}

/// Proof that this process owns the directory; dropping it gives the directory back.
#[derive(Debug)]
pub struct Claim {
    _held: Box<dyn Held>,
}

/// Whatever gives a claim back when it is dropped.
trait Held: fmt::Debug + Send + Sync {}

/// Why a directory could not be claimed.
#[derive(Debug)]
pub enum ClaimError {
    /// Another daemon has it; its process id, if it left one.
    Held {
        /// The other daemon's process id.
        by: Option<u32>,
    },
    /// The disk failed.
    Io(io::Error),
}
