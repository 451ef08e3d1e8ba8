//! This machine's key for the mesh: made here, kept here, and never shown to anybody.
//!
//! The file also says what others were told last, so that whatever is told next counts further up.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use mill_core::cluster::mesh::MeshFacts;
use mill_mesh::PrivateKey;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::pki::PkiError;
use crate::private;

/// In the folder of keys.
const FILE: &str = "mesh.json";

/// The key, and what others are told of it.
#[derive(Debug)]
pub(crate) struct MeshKey {
    path: PathBuf,
    pub(super) private: PrivateKey,
    endpoint: SocketAddr,
    serial: u64,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    private: Zeroizing<String>,
    endpoint: String,
    serial: u64,
}

impl MeshKey {
    /// The key in that folder, or a new one, for a machine whose datagrams come in there.
    ///
    /// # Errors
    /// When the disk refuses, or the file is damaged.
    pub(crate) fn open(folder: &Path, endpoint: SocketAddr) -> Result<MeshKey, PkiError> {
        let path = folder.join(FILE);
        let mut key = match fs::read(&path).map(Zeroizing::new) {
            Ok(bytes) => MeshKey::parse(&path, &bytes, endpoint)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let private = generate()?;
                MeshKey { path, private, endpoint, serial: 0 }
            }
            Err(source) => return Err(PkiError::Io { doing: "read", path, source }),
        };
        if key.serial == 0 || key.endpoint != endpoint {
            key.endpoint = endpoint;
            key.serial = key.serial.saturating_add(1);
            key.keep()?;
        }
        Ok(key)
    }

    fn parse(path: &Path, bytes: &[u8], otherwise: SocketAddr) -> Result<MeshKey, PkiError> {
        let damaged = |detail: String| PkiError::Damaged { path: path.to_owned(), detail };
        let kept: Kept =
            serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        let private = kept.private.parse().map_err(|error| damaged(format!("{error}")))?;
        // One that cannot be read is another than any, and told anew.
        let endpoint = kept.endpoint.parse().unwrap_or(otherwise);
        Ok(MeshKey { path: path.to_owned(), private, endpoint, serial: kept.serial })
    }

    /// What others are told.
    pub(crate) fn facts(&self) -> MeshFacts {
        MeshFacts {
            key: self.private.public().to_string(),
            endpoint: self.endpoint.to_string(),
            serial: self.serial,
        }
    }

    /// The UDP port that others reach.
    pub(super) fn port(&self) -> u16 {
        self.endpoint.port()
    }

    /// Another key takes its place, also on disk.
    pub(super) fn replace(&mut self, serial: u64) -> Result<(), PkiError> {
        let path = self.path.clone();
        let next = MeshKey { path, private: generate()?, serial, ..*self };
        next.keep()?;
        *self = next;
        Ok(())
    }

    fn keep(&self) -> Result<(), PkiError> {
        let kept = Kept {
            private: self.private.to_text(),
            endpoint: self.endpoint.to_string(),
            serial: self.serial,
        };
        let bytes = serde_json::to_vec_pretty(&kept).expect("a key is plain");
        let written = private::replace(&self.path, &Zeroizing::new(bytes));
        let path = self.path.clone();
        written.map_err(|source| PkiError::Io { doing: "write", path, source })
    }
}

fn generate() -> Result<PrivateKey, PkiError> {
    PrivateKey::generate().map_err(|error| PkiError::Make(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn here(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn a_key_is_made_once_and_what_is_told_counts_up_with_what_changes() {
        let folder = tempfile::tempdir().unwrap();
        let first = MeshKey::open(folder.path(), here(7400)).unwrap().facts();
        assert_eq!((first.serial, first.endpoint.as_str()), (1, "192.0.2.1:7400"));
        assert_eq!(MeshKey::open(folder.path(), here(7400)).unwrap().facts(), first);
        let mut moved = MeshKey::open(folder.path(), here(7401)).unwrap();
        assert_eq!((moved.facts().serial, moved.facts().key), (2, first.key.clone()));
        moved.replace(3).unwrap();
        let last = MeshKey::open(folder.path(), here(7401)).unwrap().facts();
        assert_eq!((&last, last.serial), (&moved.facts(), 3));
        assert_ne!(last.key, first.key);
    }

    #[test]
    fn nobody_else_may_read_it_and_it_does_not_show_itself() {
        let folder = tempfile::tempdir().unwrap();
        let key = MeshKey::open(folder.path(), here(7400)).unwrap();
        let mode = fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{key:?}").contains(key.private.to_text().as_str()));
    }

    #[test]
    fn a_damaged_key_is_refused_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "{").unwrap();
        let error = MeshKey::open(folder.path(), here(7400)).unwrap_err();
        assert!(error.to_string().contains("mesh.json is damaged"), "{error}");
    }
}
