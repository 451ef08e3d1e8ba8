//! Who this node is: a small file in its data directory, made once and counted up per start.
//!
//! It holds the hash of the API token, never the token, and remembers that the replicated state
//! has begun: a log that is missing later was lost, and must not be taken for a new cluster's.
//! Written whole and synced before it replaces the old one, so a power cut leaves one or the other.

use std::path::{Path, PathBuf};
use std::{fs, io};

use mill_consensus::disk::{Claim, ClaimError, Disk as _, FileDisk};
use mill_core::name::NodeId;
use serde::{Deserialize, Serialize};

use crate::book;
use crate::digest::{self, hex};
use crate::private;
use crate::recovery_key::RecoveryKey;

/// Version of the file's format.
const FORMAT: u32 = 1;
/// Name of the file in the data directory.
pub const IDENTITY_FILE: &str = "identity.json";
const FILE: &str = IDENTITY_FILE;
/// Where it is written before it gets its name.
const BESIDE: &str = "identity.new";
/// What a directory may hold that no daemon has begun in: our own first steps, a new disk's.
const BEFORE_IDENTITY: [&str; 7] =
    ["lock", BESIDE, "lost+found", PKI_FOLDER, NEW_LOG_FOLDER, book::FILE, book::BESIDE];

/// Where in the data directory consensus keeps its log.
pub const LOG_FOLDER: &str = "raft";

/// Where a new log is made that takes the place of that one.
pub(crate) const NEW_LOG_FOLDER: &str = "raft.new";

/// Where in the data directory a node keeps its keys and certificates.
pub const PKI_FOLDER: &str = "pki";

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
    /// Public half of the recovery key, in hex.
    #[serde(default)]
    pub recovery: String,
    /// Whether it was admitted to a cluster that was there before; the first node was not.
    #[serde(default)]
    pub joined: bool,
    /// Whether the token and the recovery key of a first node were shown, and are kept.
    #[serde(default)]
    announced: bool,
    /// Whether the replicated state has begun here: its log must be there from then on.
    #[serde(default)]
    begun: bool,
}

/// Why an identity could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The disk refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// A verb phrase that the path completes.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// Another daemon has the directory.
    #[error(
        "the data directory {} is in use by another mill daemon{}: stop it, or give this one a \
         directory of its own with --data",
        path.display(), by.map(|id| format!(" (process {id})")).unwrap_or_default()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other daemon's process id, if known.
        by: Option<u32>,
    },
    /// Something else lives in the directory.
    #[error(
        "{} is not empty and was not made by mill (it has `{found}` but no {FILE}): name an empty \
         or a new directory with --data, or restore the missing file from a backup", path.display()
    )]
    Occupied {
        /// The directory.
        path: PathBuf,
        /// Something in it.
        found: String,
    },
    /// The replicated state was here, and is not any more.
    #[error(
        "the replicated state of this node is lost: it had begun, and {} is missing or empty. To \
         start without it would remove every container as unknown, so nothing was started. Restore \
         {} from a backup; or, to give up the state, remove the whole directory {} and the \
         containers whose label `mill.cluster` is {cluster}, then start over", log.display(),
        log.parent().unwrap_or(directory).display(), directory.display()
    )]
    StateLost {
        /// The data directory.
        directory: PathBuf,
        /// The file that is missing.
        log: PathBuf,
        /// Id of the cluster whose state it was.
        cluster: String,
    },
    /// The file is not an identity.
    #[error(
        "{} is damaged; restore it from a backup, or remove the whole data directory and start \
         over", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A newer mill wrote it.
    #[error("{} was written by a newer mill (format {found}); run that one", path.display())]
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

/// A data directory that this process has for itself, until this is dropped.
#[derive(Debug)]
pub struct Opened {
    /// Who this node is; its `boot` counts this start only once [`Opened::begin`] was called.
    pub identity: Identity,
    /// Shown once to the person; only its hash is kept. New until a first start succeeded.
    pub new_token: Option<String>,
    /// The same; only its public half is kept.
    pub new_recovery_key: Option<RecoveryKey>,
    directory: PathBuf,
    _claim: Claim,
}

/// A data directory that this process has for itself, and whose it is so far.
#[derive(Debug)]
pub struct Claimed {
    /// Who this node is, if it is one.
    pub known: Option<Identity>,
    directory: PathBuf,
    claim: Claim,
}

/// Takes `dir` and reads the identity in it.
///
/// # Errors
/// When another process has it, it holds something else, or the disk refuses.
pub fn claim(dir: &Path) -> Result<Claimed, IdentityError> {
    let disk = FileDisk::new(dir).map_err(io_error("create", dir))?;
    let path = dir.join(FILE);
    if !path.exists() {
        refuse_occupied(dir)?;
    }
    let claim = disk.claim().map_err(|error| match error {
        ClaimError::Held { by } => IdentityError::InUse { path: dir.to_path_buf(), by },
        ClaimError::Io(source) => io_error("lock", dir)(source),
    })?;
    private::folder(dir).map_err(io_error("make private", dir))?;
    let known = match fs::read(&path) {
        Ok(bytes) => Some(parse(&path, &bytes)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    Ok(Claimed { known, directory: dir.to_path_buf(), claim })
}

impl Claimed {
    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Goes on as the node that this is, or else as a `new` one. `log` is the file of the
    /// replicated state, which must be there if it ever was.
    ///
    /// # Errors
    /// When that state is lost, or the disk refuses.
    pub fn open(
        self,
        log: &Path,
        new: impl FnOnce() -> Result<Identity, IdentityError>,
    ) -> Result<Opened, IdentityError> {
        let Claimed { known, directory, claim } = self;
        let is_new = known.is_none();
        let mut identity = known.map_or_else(new, Ok)?;
        let (mut new_token, mut new_recovery_key) = (None, None);
        if identity.begun {
            if !fs::metadata(log).is_ok_and(|found| found.len() > 0) {
                let (log, cluster) = (log.to_path_buf(), identity.cluster);
                return Err(IdentityError::StateLost { directory, log, cluster });
            }
        } else if !identity.joined && !identity.announced {
            let token = secret()?;
            identity.token_hash = token_hash(&token);
            new_token = Some(token);
            let key = RecoveryKey::generate();
            identity.recovery = key.public();
            new_recovery_key = Some(key);
        }
        let opened = Opened { identity, new_token, new_recovery_key, directory, _claim: claim };
        if is_new {
            // What is made under this identity belongs to it, also if this start goes no further.
            opened.write()?;
        }
        Ok(opened)
    }
}

/// The identity of a daemon that is gone, with the directory taken; `None` where one runs, or none
/// ever began.
pub fn left_behind(dir: &Path) -> Option<(Identity, Claim)> {
    let path = dir.join(FILE);
    // A daemon takes the directory before it writes this.
    let bytes = fs::read(&path).ok()?;
    let claim = FileDisk::new(dir).ok()?.claim().ok()?;
    Some((parse(&path, &bytes).ok()?, claim))
}

impl Opened {
    /// The replicated state is there and everything else is ready: counts this start.
    pub fn begin(&mut self) -> Result<(), IdentityError> {
        self.identity.boot += 1;
        self.identity.begun = true;
        self.write()
    }

    /// The token and the recovery key are shown now, before the first start: they stay as they are.
    pub fn announce(&mut self) -> Result<(), IdentityError> {
        self.identity.announced = true;
        self.write()
    }

    fn write(&self) -> Result<(), IdentityError> {
        let path = self.directory.join(FILE);
        let text = serde_json::to_vec_pretty(&self.identity).expect("an identity is plain");
        private::replace(&path, &text).map_err(io_error("write", &path))
    }
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_path_buf();
    move |source| IdentityError::Io { doing, path, source }
}

/// A directory with other things in it is a slip of the hand, or lost its identity.
fn refuse_occupied(dir: &Path) -> Result<(), IdentityError> {
    let entries = fs::read_dir(dir).map_err(io_error("read", dir))?;
    let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    match names.find(|name| !BEFORE_IDENTITY.contains(&name.as_str())) {
        Some(found) => Err(IdentityError::Occupied { path: dir.to_path_buf(), found }),
        None => Ok(()),
    }
}

/// A fresh random number for the node's generators.
pub fn entropy() -> Result<u64, IdentityError> {
    getrandom::u64().map_err(|error| IdentityError::Entropy(error.to_string()))
}

/// The hash that is kept of an API token.
pub fn token_hash(token: &str) -> String {
    digest::sha256(token.as_bytes())
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Identity, IdentityError> {
    let damaged = |source| IdentityError::Damaged { path: path.to_path_buf(), source };
    let identity: Identity = serde_json::from_slice(bytes).map_err(damaged)?;
    if identity.format > FORMAT {
        return Err(IdentityError::Newer { path: path.to_path_buf(), found: identity.format });
    }
    Ok(identity)
}

impl Identity {
    /// The first node of a cluster, which begins with it.
    ///
    /// # Errors
    /// When there is no entropy.
    pub fn found(name: Option<String>) -> Result<Identity, IdentityError> {
        Ok(Identity {
            format: FORMAT,
            cluster: hex(&random::<8>()?),
            node: NodeId(1),
            name: name.unwrap_or_else(host_name),
            boot: 0,
            token_hash: String::new(),
            recovery: String::new(),
            joined: false,
            announced: false,
            begun: false,
        })
    }

    /// A node that a cluster has admitted, which goes on using its API token and recovery key.
    pub fn joined(
        cluster: String,
        node: NodeId,
        name: String,
        (token_hash, recovery): (String, String),
    ) -> Identity {
        Identity {
            format: FORMAT,
            cluster,
            node,
            name,
            boot: 0,
            token_hash,
            recovery,
            joined: true,
            announced: false,
            begun: false,
        }
    }

    /// Whether the replicated state has begun here.
    pub fn has_begun(&self) -> bool {
        self.begun
    }
}

/// What this machine is called.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn secret() -> Result<String, IdentityError> {
    Ok(format!("mill-{}", hex(&random::<32>()?)))
}

/// Random bytes, from the kernel.
pub fn random<const N: usize>() -> Result<[u8; N], IdentityError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| IdentityError::Entropy(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn open(dir: &Path, name: Option<&str>) -> Result<Opened, IdentityError> {
        claim(dir)?.open(&dir.join("log"), || Identity::found(name.map(str::to_owned)))
    }

    /// One start of a daemon in `dir`, with a log that is there from then on.
    fn start(dir: &Path, name: &str) -> Opened {
        let log = dir.join("log");
        let mut opened = open(dir, Some(name)).unwrap();
        fs::write(&log, "state").unwrap();
        opened.begin().unwrap();
        opened
    }

    fn refusal(dir: &Path) -> String {
        open(dir, None).unwrap_err().to_string()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn an_identity_is_made_once_and_counts_its_starts() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = start(dir.path(), "a");
        assert_eq!(first.identity.boot, 1);
        let token = first.new_token.take().unwrap();
        drop(first);
        let second = start(dir.path(), "b");
        assert_eq!((second.identity.boot, second.identity.name.as_str()), (2, "a"));
        assert_eq!(token_hash(&token), second.identity.token_hash);
        assert!(second.new_token.is_none());
    }

    #[test]
    fn a_start_that_went_no_further_counts_nothing_and_shows_a_token_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), None).unwrap().identity;
        let second = start(dir.path(), "a");
        assert_eq!((&first.cluster, 1), (&second.identity.cluster, second.identity.boot));
        assert_eq!(token_hash(second.new_token.as_ref().unwrap()), second.identity.token_hash);
    }

    #[test]
    fn a_second_daemon_on_the_same_directory_is_refused_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let _first = start(dir.path(), "a");
        let before = fs::read(dir.path().join(FILE)).unwrap();
        let told = refusal(dir.path());
        assert!(told.contains(&format!("(process {})", std::process::id())), "{told}");
        assert_eq!(fs::read(dir.path().join(FILE)).unwrap(), before);
    }

    #[test]
    fn a_state_that_was_lost_is_not_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        drop(start(dir.path(), "a"));
        fs::write(dir.path().join("log"), "").unwrap();
        assert!(refusal(dir.path()).contains("is lost"));
        fs::remove_file(dir.path().join("log")).unwrap();
        assert!(refusal(dir.path()).contains("Restore"));
        drop(start_after_restore(dir.path()));
    }

    fn start_after_restore(dir: &Path) -> Opened {
        fs::write(dir.join("log"), "state").unwrap();
        start(dir, "a")
    }

    #[test]
    fn a_directory_of_something_else_is_refused_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.path().join("thesis.txt"), "").unwrap();
        assert!(refusal(dir.path()).contains("thesis.txt"));
        assert_eq!(mode(dir.path()), 0o755);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn nobody_else_may_read_an_identity() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.path().join(BESIDE), "").unwrap();
        drop(start(dir.path(), "a"));
        assert_eq!((mode(dir.path()), mode(&dir.path().join(FILE))), (0o700, 0o600));
    }

    #[test]
    fn a_damaged_identity_is_refused_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{").unwrap();
        let told = refusal(dir.path());
        assert!(told.contains("identity.json is damaged"), "{told}");
    }
}
