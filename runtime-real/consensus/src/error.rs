//! Why consensus could not start, or had to stop, in words for the operator.
//!
//! Every error names the path and the cause. Causes are sources, so a reporter prints the chain;
//! [`in_full`] flattens it where only text is passed on.

use std::error::Error;
use std::fmt::Write;
use std::io;
use std::sync::{Arc, OnceLock};

/// Why consensus could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    /// The disk refused, for one when it is full. Nothing acknowledged is lost.
    #[error("cannot {doing} {path}")]
    Io {
        /// A verb phrase that the path completes.
        doing: &'static str,
        /// The file or directory.
        path: String,
        /// What the disk said.
        source: io::Error,
    },
    /// Another process has the directory open.
    #[error(
        "the data directory {path} is in use by another mill daemon{}: stop it, or give this one \
         a directory of its own", by.map(|id| format!(" (process {id})")).unwrap_or_default()
    )]
    InUse {
        /// The directory.
        path: String,
        /// The other daemon's process id, if known.
        by: Option<u32>,
    },
    /// A newer Mill wrote the file.
    #[error(
        "{path} was written by a newer mill (format {found}; this one reads up to {known}): run \
         the newer mill, or restore a copy from before the upgrade"
    )]
    Newer {
        /// The file.
        path: String,
        /// The format it has.
        found: u32,
        /// The newest format that this Mill reads.
        known: u32,
    },
    /// The directory was written by another node or for another cluster.
    #[error(
        "{path} belongs to {found}, but this daemon is {expected}: point it at its own data \
         directory, or empty this one and join the cluster again"
    )]
    Foreign {
        /// The file.
        path: String,
        /// Whose it is.
        found: String,
        /// Who asked.
        expected: String,
    },
    /// What was read is not what was written.
    #[error(
        "{path} is damaged: {detail}; check the disk, then restore the directory from a backup, \
         or empty it and join the cluster again"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        detail: String,
    },
    /// An option has a value that cannot work.
    #[error("consensus options: {0}")]
    Options(String),
    /// Consensus has stopped and takes no more calls.
    #[error("consensus has stopped: {reason}")]
    Stopped {
        /// Why, as far as known.
        reason: String,
    },
}

impl ConsensusError {
    /// The form in which openraft carries a storage error.
    pub(super) fn into_io(self) -> io::Error {
        let kind = match &self {
            ConsensusError::Io { source, .. } => source.kind(),
            ConsensusError::Damaged { .. } => io::ErrorKind::InvalidData,
            ConsensusError::InUse { .. }
            | ConsensusError::Newer { .. }
            | ConsensusError::Foreign { .. }
            | ConsensusError::Options(_)
            | ConsensusError::Stopped { .. } => io::ErrorKind::Other,
        };
        io::Error::new(kind, in_full(&self))
    }
}

/// An error and its causes in one line, each said once.
pub(super) fn in_full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            write!(text, ": {more}").expect("writing to a string cannot fail");
        }
        source = cause.source();
    }
    text
}

/// The first failure of the storage, which is why everything else stops. openraft wraps it in
/// words of its own. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct FirstFailure {
    text: Arc<OnceLock<String>>,
}

impl FirstFailure {
    /// Notes a failure, unless one came before.
    pub(super) fn note(&self, text: &str) {
        self.text.get_or_init(|| text.to_owned());
    }

    /// Why consensus stopped: the failure of the storage if there was one, or else this error.
    pub(super) fn explain(&self, error: &dyn Error) -> String {
        self.text.get().cloned().unwrap_or_else(|| in_full(error))
    }
}
