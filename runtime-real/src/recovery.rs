//! Going on after a majority was lost, or everything: from what one machine has, or a backup.
//!
//! The new log is made whole beside the old one before it takes its place, and the old one is
//! kept. Nothing here runs while a daemon has the directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mill_consensus::disk::FileDisk;
use mill_consensus::recovery::{Held, begin_with, read};
use mill_consensus::{ConsensusError, Options};
use mill_core::cluster::command::Entry;
use mill_core::cluster::recovery::Survivor;
use mill_core::cluster::{BadSnapshot, Cluster, Refusal, Revision};

use crate::book;
use crate::clock;
use crate::identity::{self, Claimed, Identity, IdentityError, LOG_FOLDER, NEW_LOG_FOLDER};

/// Why a cluster does not go on from here.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The directory.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// There is no node in it.
    #[error("{} is not of a node: name its data directory with --data", path.display())]
    NoNode {
        /// The directory.
        path: PathBuf,
    },
    /// Its log.
    #[error(transparent)]
    Consensus(#[from] ConsensusError),
    /// Its state.
    #[error(transparent)]
    State(#[from] BadSnapshot),
    /// An entry of the log.
    #[error(
        "entry {index} of the log cannot be read: it was written by a newer mill, use that one"
    )]
    Entry {
        /// Where in the log.
        index: u64,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It cannot go on from there.
    #[error("{0}")]
    Refused(Refusal),
    /// The disk refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// A verb that the path completes.
        doing: &'static str,
        /// The directory.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
}

/// What a machine has, for a person to decide.
#[derive(Debug)]
pub struct Survey {
    /// The node.
    pub identity: Identity,
    /// The replicated state with every entry that its log holds.
    pub cluster: Cluster,
    /// Entries in it that may never have been acknowledged.
    pub uncertain: usize,
    claimed: Claimed,
}

impl Survey {
    /// Reads what a data directory has, while no daemon runs on it.
    ///
    /// # Errors
    /// When it is in use, of no node, or damaged.
    pub fn of(data: &Path) -> Result<Survey, RecoveryError> {
        let claimed = identity::claim(data)?;
        let identity = claimed.known.clone();
        let identity = identity.ok_or_else(|| RecoveryError::NoNode { path: data.to_owned() })?;
        finish_swap(&claimed)?;
        let options = Options::new(identity.node.0, identity.cluster.clone());
        let held = read(&options, disk(&data.join(LOG_FOLDER))?)?;
        let uncertain = held.uncertain;
        Ok(Survey { cluster: cluster_of(held)?, identity, uncertain, claimed })
    }

    /// Makes this machine's node the only one, which goes on from what it has. What the old log
    /// held stays beside the new one.
    ///
    /// # Errors
    /// When the node cannot lead, or the disk refuses; nothing is changed then.
    pub fn recover(self) -> Result<Revision, RecoveryError> {
        let node = self.identity.node;
        let survivor = Survivor::Node(node);
        let recovered = self.cluster.recovered(clock::wall(), &survivor);
        let (cluster, _) = recovered.map_err(RecoveryError::Refused)?;
        let data = self.claimed.directory();
        make_beside(data, &self.identity, &cluster)?;
        let old = data.join(format!("{LOG_FOLDER}.before-{}", cluster.revision.epoch));
        rename(&data.join(LOG_FOLDER), &old)?;
        swap(data)?;
        Ok(cluster.revision)
    }
}

/// The state with every entry that was held.
fn cluster_of(held: Held) -> Result<Cluster, RecoveryError> {
    let mut cluster = match held.state {
        Some((index, bytes)) => {
            let mut cluster = Cluster::decode(&bytes)?;
            cluster.revision.index = index;
            cluster
        }
        None => Cluster::default(),
    };
    for (index, bytes) in held.entries {
        let entry: Entry = serde_json::from_slice(&bytes)
            .map_err(|source| RecoveryError::Entry { index, source })?;
        let at = Revision { epoch: cluster.revision.epoch, index };
        // What is refused was refused everywhere.
        let _ = cluster.apply(at, &entry);
    }
    Ok(cluster)
}

/// Makes the log of a node that begins with a state; it counts once it is swapped in.
pub(crate) fn make_beside(
    data: &Path,
    identity: &Identity,
    cluster: &Cluster,
) -> Result<(), RecoveryError> {
    remove_beside(data)?;
    let beside = data.join(NEW_LOG_FOLDER);
    let options = Options::new(identity.node.0, identity.cluster.clone());
    Ok(begin_with(&options, disk(&beside)?, cluster.revision.index, cluster.encode())?)
}

fn remove_beside(data: &Path) -> Result<(), RecoveryError> {
    let beside = data.join(NEW_LOG_FOLDER);
    match fs::remove_dir_all(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", &beside)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What a power cut interrupted is done: a node's new log takes its place, and one that was made
/// for a node that did not come to be is removed.
pub(crate) fn finish_swap(claimed: &Claimed) -> Result<(), RecoveryError> {
    match claimed.known {
        Some(_) => swap(claimed.directory()),
        None => remove_beside(claimed.directory()),
    }
}

/// The new log takes the old one's place. Who was where by the old one does not count any more.
pub(crate) fn swap(data: &Path) -> Result<(), RecoveryError> {
    let (log, beside) = (data.join(LOG_FOLDER), data.join(NEW_LOG_FOLDER));
    if !log.exists() && beside.exists() {
        book::forget(data).map_err(io_error("remove the address book in", data))?;
        rename(&beside, &log)?;
    }
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Result<(), RecoveryError> {
    let synced =
        |path: &Path| fs::File::open(path.parent().expect("a folder is in one"))?.sync_all();
    fs::rename(from, to).and_then(|()| synced(to)).map_err(io_error("rename", from))
}

fn disk(path: &Path) -> Result<Arc<FileDisk>, RecoveryError> {
    FileDisk::new(path).map(Arc::new).map_err(io_error("open", path))
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RecoveryError {
    let path = path.to_path_buf();
    move |source| RecoveryError::Io { doing, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_log_takes_its_place_if_it_is_of_the_node_that_is_there_and_goes_if_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let [log, new] = [LOG_FOLDER, NEW_LOG_FOLDER].map(|name| dir.path().join(name));
        fs::create_dir(&new).unwrap();
        let claimed = identity::claim(dir.path()).unwrap();
        finish_swap(&claimed).unwrap();
        assert_eq!((log.exists(), new.exists()), (false, false));
        drop(claimed.open(&log, || Identity::found(None)).unwrap());
        fs::create_dir(&new).unwrap();
        finish_swap(&identity::claim(dir.path()).unwrap()).unwrap();
        assert_eq!((log.exists(), new.exists()), (true, false));
    }
}
