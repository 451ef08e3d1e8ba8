//! A cluster in a file: its replicated state; the authority and the cluster's key sealed to the
//! recovery key.
//!
//! JSON with a digest around it, so that a file that was cut or changed is refused. Containers and
//! volumes are not in it. Whoever has the file and the key has the cluster.

use mill_core::cluster::Revision;
use mill_core::time::Wall;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::clock;
use crate::digest::sha256;
use crate::pki::AuthorityPem;
use crate::recovery_key::{RecoveryKey, seal};
use crate::vault::ClusterKey;

/// Version of the form.
const FORMAT: u32 = 1;

/// Why there is no backup, or it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It is not one.
    #[error("this is not a backup of mill; `mill backup save` writes one")]
    Malformed,
    /// A newer mill wrote it.
    #[error("this backup has format {found}, and this version reads {FORMAT}: use a newer mill")]
    Newer {
        /// The format that was found.
        found: u32,
    },
    /// It is not as it was written.
    #[error("this backup is damaged: what is in it is not what was written; take another copy")]
    Damaged,
    /// The key is another cluster's.
    #[error(
        "this recovery key does not open this backup: it is of cluster {cluster}, whose key `mill \
         init` printed when it began"
    )]
    WrongKey {
        /// The cluster whose backup it is.
        cluster: String,
    },
    /// There is nothing to seal with.
    #[error("this cluster has no recovery key, so its authority cannot be sealed")]
    NoKey,
}

/// What a primary seals into each backup.
#[derive(Clone, Debug)]
pub(crate) struct Sealing {
    pub(crate) cluster: String,
    pub(crate) authority: AuthorityPem,
    pub(crate) cluster_key: ClusterKey,
    pub(crate) token_hash: String,
    /// Public half of the recovery key.
    pub(crate) recovery: String,
}

#[derive(Serialize, Deserialize)]
struct File {
    format: u32,
    sha256: String,
    backup: Box<RawValue>,
}

/// What is in the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Backup {
    /// Id of the cluster.
    pub cluster: String,
    /// When it was taken, by the clock of the node that took it.
    pub taken: Wall,
    /// The state's revision.
    pub revision: Revision,
    pub(crate) token_hash: String,
    pub(crate) recovery: String,
    authority: String,
    #[serde(default)]
    cluster_key: Option<String>,
    /// What [`mill_core::cluster::Cluster::encode`] made.
    pub(crate) state: String,
}

impl Sealing {
    /// The file's text.
    pub(crate) fn backup(&self, revision: Revision, state: String) -> Result<String, BackupError> {
        let authority = serde_json::to_vec(&self.authority).expect("an authority is plain");
        let backup = Backup {
            cluster: self.cluster.clone(),
            taken: clock::wall(),
            revision,
            token_hash: self.token_hash.clone(),
            recovery: self.recovery.clone(),
            authority: seal(&self.recovery, &authority).ok_or(BackupError::NoKey)?,
            cluster_key: seal(&self.recovery, self.cluster_key.reveal().as_bytes()),
            state,
        };
        let backup = serde_json::value::to_raw_value(&backup).expect("a backup is plain");
        let file = File { format: FORMAT, sha256: sha256(backup.get().as_bytes()), backup };
        Ok(serde_json::to_string(&file).expect("a backup is plain"))
    }
}

impl Backup {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is not a backup, not whole, or of a newer Mill.
    pub fn read(text: &str) -> Result<Backup, BackupError> {
        let File { format, sha256: expected, backup } =
            serde_json::from_str(text).map_err(|_| BackupError::Malformed)?;
        if format > FORMAT {
            return Err(BackupError::Newer { found: format });
        }
        if sha256(backup.get().as_bytes()) != expected {
            return Err(BackupError::Damaged);
        }
        serde_json::from_str(backup.get()).map_err(|_| BackupError::Malformed)
    }

    pub(crate) fn authority(&self, key: &RecoveryKey) -> Result<AuthorityPem, BackupError> {
        let wrong = || BackupError::WrongKey { cluster: self.cluster.clone() };
        let opened = key.unseal(&self.authority).ok_or_else(wrong)?;
        serde_json::from_slice(&opened).map_err(|_| wrong())
    }

    /// What the cluster sealed with; none is in a backup from before there was one.
    pub(crate) fn cluster_key(&self, key: &RecoveryKey) -> Result<Option<ClusterKey>, BackupError> {
        let Some(sealed) = &self.cluster_key else { return Ok(None) };
        let wrong = || BackupError::WrongKey { cluster: self.cluster.clone() };
        let opened = key.unseal(sealed).ok_or_else(wrong)?;
        let text = String::from_utf8(opened).map_err(|_| wrong())?;
        ClusterKey::read(&text).map(Some).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::Authority;

    #[test]
    fn a_backup_is_read_back_whole_or_refused() {
        let (key, authority) = (RecoveryKey::generate(), Authority::found("c1").unwrap());
        let cluster_key = ClusterKey::generate().unwrap();
        let sealing = Sealing {
            cluster: "c1".to_owned(),
            authority: authority.to_pem(),
            cluster_key: cluster_key.clone(),
            token_hash: "hash".to_owned(),
            recovery: key.public(),
        };
        let text = sealing.backup(Revision { epoch: 1, index: 7 }, "{}".to_owned()).unwrap();
        let backup = Backup::read(&text).unwrap();
        assert_eq!((backup.state.as_str(), backup.revision.index), ("{}", 7));
        assert_eq!(backup.authority(&key).unwrap().key, authority.to_pem().key);
        assert_eq!(backup.cluster_key(&key).unwrap(), Some(cluster_key.clone()));
        assert!(!text.contains("PRIVATE KEY") && !text.contains(&cluster_key.reveal()));
        let wrong = backup.authority(&RecoveryKey::generate()).unwrap_err();
        assert!(matches!(wrong, BackupError::WrongKey { .. }), "{wrong}");
        let changed = text.replace("hash", "hush");
        assert!(matches!(Backup::read(&changed), Err(BackupError::Damaged)));
        assert!(matches!(Backup::read(&text[1..]), Err(BackupError::Malformed)));
        let newer = text.replacen("\"format\":1", "\"format\":9", 1);
        assert!(matches!(Backup::read(&newer), Err(BackupError::Newer { found: 9 })));
    }
}
