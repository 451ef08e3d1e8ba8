//! Real files in a real directory.
//!
//! The claim is an exclusive lock (flock) on a file `lock`, which the kernel drops with the
//! process, however it ends. Tested in `consensus/tests`.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Claim, ClaimError, Disk, DiskFile, Held};

/// The file whose lock is the claim; it holds the owner's process id, for people.
const LOCK_FILE: &str = "lock";

/// The log holds the cluster's state: only the daemon's user may read it.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// A directory of the file system.
#[derive(Debug, Clone)]
pub struct FileDisk {
    directory: PathBuf,
}

impl FileDisk {
    /// Uses this directory, and creates it with its parents if it does not exist.
    ///
    /// # Errors
    /// When the directory cannot be created or made to survive a power cut.
    pub fn new(directory: impl Into<PathBuf>) -> io::Result<FileDisk> {
        let directory = directory.into();
        std::fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(&directory)?;
        let directory = directory.canonicalize()?;
        if let Some(parent) = directory.parent() {
            sync_directory(parent)?;
        }
        Ok(FileDisk { directory })
    }

    fn open_file(&self, name: &str) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(self.directory.join(name))
    }
}

impl Disk for FileDisk {
    fn location(&self) -> String {
        self.directory.display().to_string()
    }

    fn claim(&self) -> Result<Claim, ClaimError> {
        let mut file = self.open_file(LOCK_FILE).map_err(ClaimError::Io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let by = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(ClaimError::Held { by });
            }
            Err(TryLockError::Error(error)) => return Err(ClaimError::Io(error)),
        }
        // The process id only serves the refusal's text, so a full disk does not matter here.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Claim { _held: Box::new(LockedFile { _file: file }) })
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenFile { file: self.open_file(name)? }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.directory.join(from), self.directory.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match std::fs::remove_file(self.directory.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn sync_names(&self) -> io::Result<()> {
        sync_directory(&self.directory)
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The lock goes with the file's descriptor.
#[derive(Debug)]
struct LockedFile {
    _file: File,
}

impl Held for LockedFile {}

#[derive(Debug)]
struct OpenFile {
    file: File,
}

impl DiskFile for OpenFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
