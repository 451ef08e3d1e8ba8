//! Why a daemon could not start, in words that say what to do.

use std::io;
use std::path::PathBuf;

use mill_consensus::ConsensusError;

use super::joining::JoinError;
use crate::backup::BackupError;
use crate::identity::IdentityError;
use crate::pki::PkiError;
use crate::recovery::RecoveryError;

/// Why a daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The directory of its log.
    #[error("cannot open {}", path.display())]
    Disk {
        /// The directory.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// Its keys.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The cluster that it wants to join.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// Its certificates.
    #[error("the certificates of this node do not fit together: {0}")]
    Certificates(io::Error),
    /// What it should go on from.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The backup that it should begin with.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// Its log.
    #[error(transparent)]
    Consensus(#[from] ConsensusError),
    /// A socket.
    #[error("cannot listen on {address}{}", taken(source))]
    Listen {
        /// The address or path.
        address: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something else is where the API's socket should be.
    #[error(
        "cannot listen on {}: something that is not a socket is there, and was left as it is; \
         name another path with --socket, or move it away", path.display()
    )]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The container engine's address.
    #[error("{0}")]
    Engine(String),
    /// Its part of the mesh, without which nobody speaks with it.
    #[error("the nodes of this cluster speak through WireGuard only, and this one cannot: {0}")]
    Mesh(String),
    /// The authority of this machine's own, for development.
    #[error("{0}")]
    LocalAuthority(String),
}

fn taken(source: &io::Error) -> &'static str {
    match source.kind() == io::ErrorKind::AddrInUse {
        true => ", another program does: is another mill running here?",
        false => "",
    }
}
