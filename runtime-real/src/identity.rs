//! Who this node is: a small file in its data directory, written once and counted up per start.
//!
//! It also holds the hash of the API token, never the token. Written whole and synced before it
//! replaces the old one, so a power cut leaves one or the other.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use mill_core::name::NodeId;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Version of the file's format.
const FORMAT: u32 = 1;
const FILE: &str = "identity.json";

/// A node's identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    format: u32,
    /// Id of the cluster, made once.
    pub cluster: String,
    /// Number of this node in it.
    pub node: NodeId,
    /// What people call this node.
    pub name: String,
    /// How often the daemon has started here.
    pub boot: u64,
    /// SHA-256 of the API token, in hex.
    pub token_hash: String,
}

/// Why an identity could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The disk refused.
    #[error("cannot {doing} {path}")]
    Io {
        /// A verb phrase that the path completes.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// The file is not an identity.
    #[error("{path} is damaged; restore it from a backup, or empty the directory and start anew")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A newer mill wrote it.
    #[error("{path} was written by a newer mill (format {found}); run that one")]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format that was found.
        found: u32,
    },
    /// The kernel gave no entropy.
    #[error("the kernel gives no random numbers: {0}")]
    Entropy(String),
}

/// An identity, and the API token if it was just made.
#[derive(Debug)]
pub struct Opened {
    /// Who this node is.
    pub identity: Identity,
    /// Shown once to the person; only its hash is kept.
    pub new_token: Option<String>,
}

/// Reads the identity in `dir`, or makes one; counts this start.
pub fn open(dir: &Path, name: Option<String>) -> Result<Opened, IdentityError> {
    let io = |doing, path: &Path| {
        let path = path.to_path_buf();
        move |source| IdentityError::Io { doing, path, source }
    };
    fs::create_dir_all(dir).map_err(io("create", dir))?;
    let path = dir.join(FILE);
    let (mut identity, new_token) = match fs::read(&path) {
        Ok(bytes) => (parse(&path, &bytes)?, None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (identity, token) = make(name)?;
            (identity, Some(token))
        }
        Err(error) => return Err(io("read", &path)(error)),
    };
    identity.boot += 1;
    let text = serde_json::to_vec_pretty(&identity).expect("an identity is plain");
    replace(dir, &path, &text).map_err(io("write", &path))?;
    Ok(Opened { identity, new_token })
}

/// A fresh random number for the node's generators.
pub fn entropy() -> Result<u64, IdentityError> {
    getrandom::u64().map_err(|error| IdentityError::Entropy(error.to_string()))
}

/// The hash that is kept of an API token.
pub fn token_hash(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Identity, IdentityError> {
    let damaged = |source| IdentityError::Damaged { path: path.to_path_buf(), source };
    let identity: Identity = serde_json::from_slice(bytes).map_err(damaged)?;
    if identity.format > FORMAT {
        return Err(IdentityError::Newer { path: path.to_path_buf(), found: identity.format });
    }
    Ok(identity)
}

fn make(name: Option<String>) -> Result<(Identity, String), IdentityError> {
    let mut random = [0; 40];
    getrandom::fill(&mut random).map_err(|error| IdentityError::Entropy(error.to_string()))?;
    let (cluster, secret) = random.split_at(8);
    let token = format!("mill-{}", hex(secret));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let identity = Identity {
        format: FORMAT,
        cluster: hex(cluster),
        node: NodeId(1),
        name: name.unwrap_or(host),
        boot: 0,
        token_hash: token_hash(&token),
    };
    Ok((identity, token))
}

/// Writes beside, syncs, renames, syncs the directory.
fn replace(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = fs::File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    fs::File::open(dir)?.sync_all()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once_and_counts_its_starts() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), Some("a".to_owned())).unwrap();
        let second = open(dir.path(), Some("b".to_owned())).unwrap();
        assert_eq!((first.identity.boot, second.identity.boot), (1, 2));
        assert_eq!(second.identity.name, "a");
        assert_eq!(token_hash(&first.new_token.unwrap()), second.identity.token_hash);
        assert!(second.new_token.is_none());
    }

    #[test]
    fn a_damaged_identity_is_refused_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{").unwrap();
        let error = open(dir.path(), None).unwrap_err().to_string();
        assert!(error.contains("identity.json is damaged"), "{error}");
    }
}
