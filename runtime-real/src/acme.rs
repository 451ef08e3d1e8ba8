//! Steps with a certificate authority, as core asks for them; or with one of this machine's own,
//! for development.
//!
//! Secrets go in and out sealed. A step takes as long as it takes, and is bounded by `mill_acme`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mill_acme::{AcmeError, Credentials, ErrorKind, LocalAuthority};
use mill_core::acme::{
    AcmeFailure, AcmeFailureKind, AcmeOp, AcmeOutput, Challenge, ChallengeKind, Directory,
};
use mill_core::sealed::Sealed;
use mill_core::time::Wall;
use mill_core::units::Millis;

use crate::private;
use crate::vault::{Purpose, Vault};

/// How long an order may take from its challenges to its certificate; it is taken up again after.
const COMPLETE_WITHIN: Duration = Duration::from_secs(120);
/// Certificates of a local authority are good for so many days.
const LOCAL_DAYS: u32 = 90;
/// What the URL of a local authority's order begins with; its certificate follows.
const LOCAL: &str = "local:";
const LOCAL_FILE: &str = "mill-dev-ca.pem";
const LOCAL_KEY_FILE: &str = "mill-dev-ca.key";

/// Asks authorities, in the name of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Certifier {
    vault: Vault,
    local: Option<Arc<LocalAuthority>>,
}

impl Certifier {
    /// Asks whom core names; or the local authority alone, if one is given.
    pub(crate) fn new(vault: Vault, local: Option<Arc<LocalAuthority>>) -> Certifier {
        Certifier { vault, local }
    }

    /// Takes a step.
    pub(crate) async fn perform(&self, op: AcmeOp) -> Result<AcmeOutput, AcmeFailure> {
        match (&self.local, op) {
            (None, op) => self.ask(op).await,
            (Some(local), op) => self.ask_here(local, op),
        }
    }

    async fn ask(&self, op: AcmeOp) -> Result<AcmeOutput, AcmeFailure> {
        match op {
            AcmeOp::Register { directory, email } => {
                let credentials = mill_acme::register(&at(&directory), email.as_deref()).await;
                let credentials = credentials.map_err(|error| failure(&error))?;
                let account = self.seal(Purpose::AcmeAccount, credentials.to_text())?;
                Ok(AcmeOutput::Registered { account })
            }
            AcmeOp::Order { directory, account, name, replaces } => {
                let credentials = self.account(&account)?;
                let key = mill_acme::new_key().map_err(|error| failure(&error))?;
                let key = self.seal(Purpose::CertificateKey, &key)?;
                let (directory, names) = (at(&directory), [name]);
                let ordered =
                    mill_acme::order(&directory, &credentials, &names, replaces.as_deref()).await;
                let ordered = ordered.map_err(|error| failure(&error))?;
                let challenges = ordered.challenges.into_iter().map(challenge).collect();
                Ok(AcmeOutput::Ordered { url: ordered.url, key, challenges })
            }
            AcmeOp::Complete { directory, account, url, name, key, prefer } => {
                let credentials = self.account(&account)?;
                let key = self.open(Purpose::CertificateKey, &key)?;
                let prefer = match prefer {
                    ChallengeKind::Http01 => mill_acme::ChallengeKind::Http01,
                    ChallengeKind::TlsAlpn01 => mill_acme::ChallengeKind::TlsAlpn01,
                };
                let (directory, names) = (at(&directory), [name]);
                let issued = mill_acme::complete(
                    &directory,
                    &credentials,
                    &url,
                    &names,
                    &key,
                    prefer,
                    COMPLETE_WITHIN,
                );
                let issued = issued.await.map_err(|error| failure(&error))?;
                Ok(AcmeOutput::Issued {
                    chain: issued.chain_pem,
                    not_before: Wall(issued.not_before_ms),
                    not_after: Wall(issued.not_after_ms),
                })
            }
            AcmeOp::Look { directory, chain } => {
                let window = mill_acme::renewal(&at(&directory), &chain).await;
                let window = window.map_err(|error| failure(&error))?;
                let again = window.as_ref().map_or(A_DAY, |window| Millis(window.look_again_ms));
                let window = window.map(|window| (Wall(window.start_ms), Wall(window.end_ms)));
                Ok(AcmeOutput::Advised { window, again })
            }
        }
    }

    /// The local authority proves nothing and answers at once.
    fn ask_here(&self, local: &LocalAuthority, op: AcmeOp) -> Result<AcmeOutput, AcmeFailure> {
        match op {
            AcmeOp::Register { .. } => {
                let account = self.seal(Purpose::AcmeAccount, "local")?;
                Ok(AcmeOutput::Registered { account })
            }
            AcmeOp::Order { name, .. } => {
                let names = [name.clone(), format!("{name}.localhost")];
                let (chain, key) =
                    local.issue(&names, LOCAL_DAYS).map_err(|error| failure(&error))?;
                let key = self.seal(Purpose::CertificateKey, &key)?;
                let url = format!("{LOCAL}{chain}");
                Ok(AcmeOutput::Ordered { url, key, challenges: Vec::new() })
            }
            AcmeOp::Complete { url, .. } => {
                let chain = url.strip_prefix(LOCAL).ok_or_else(|| AcmeFailure {
                    kind: AcmeFailureKind::OrderGone,
                    detail: "this order is another authority's".to_owned(),
                })?;
                let read = mill_acme::inspect(chain, None);
                let read = read.map_err(|error| internal(error.to_string()))?;
                Ok(AcmeOutput::Issued {
                    chain: chain.to_owned(),
                    not_before: Wall(read.not_before_ms),
                    not_after: Wall(read.not_after_ms),
                })
            }
            AcmeOp::Look { .. } => Ok(AcmeOutput::Advised { window: None, again: A_DAY }),
        }
    }

    fn account(&self, sealed: &Sealed) -> Result<Credentials, AcmeFailure> {
        self.open(Purpose::AcmeAccount, sealed).map(Credentials::from_text)
    }

    fn seal(&self, purpose: Purpose, text: &str) -> Result<Sealed, AcmeFailure> {
        self.vault.seal(purpose, text).map_err(|error| internal(error.to_string()))
    }

    fn open(&self, purpose: Purpose, sealed: &Sealed) -> Result<String, AcmeFailure> {
        self.vault.open(purpose, sealed).map_err(|error| internal(error.to_string()))
    }
}

const A_DAY: Millis = Millis::mins(24 * 60);

fn at(directory: &Directory) -> mill_acme::Directory {
    mill_acme::Directory { url: directory.url.clone(), root: directory.root.clone() }
}

fn challenge(challenge: mill_acme::Challenge) -> Challenge {
    Challenge {
        kind: match challenge.kind {
            mill_acme::ChallengeKind::Http01 => ChallengeKind::Http01,
            mill_acme::ChallengeKind::TlsAlpn01 => ChallengeKind::TlsAlpn01,
        },
        name: challenge.name,
        token: challenge.token,
        authorization: challenge.authorization,
    }
}

fn failure(error: &AcmeError) -> AcmeFailure {
    let kind = match error.kind() {
        ErrorKind::Unreachable => AcmeFailureKind::Unreachable,
        ErrorKind::RateLimited { retry_after } => {
            let millis = |after: Duration| u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            AcmeFailureKind::RateLimited { after: retry_after.map(|after| Millis(millis(after))) }
        }
        ErrorKind::Validation => AcmeFailureKind::Validation,
        ErrorKind::Refused => AcmeFailureKind::Refused,
        ErrorKind::Account => AcmeFailureKind::Account,
        ErrorKind::OrderGone => AcmeFailureKind::OrderGone,
        ErrorKind::Internal => AcmeFailureKind::Internal,
    };
    AcmeFailure { kind, detail: error.to_string() }
}

/// A step that hit a bug.
pub(crate) fn failed(error: &tokio::task::JoinError) -> AcmeFailure {
    internal(format!("asking the authority hit a bug: {error}"))
}

fn internal(detail: String) -> AcmeFailure {
    AcmeFailure { kind: AcmeFailureKind::Internal, detail }
}

/// Where a person's local authority is kept: trusted once, it stays the same.
pub(crate) struct LocalFiles(PathBuf);

impl LocalFiles {
    pub(crate) fn new(folder: &Path) -> LocalFiles {
        LocalFiles(folder.to_path_buf())
    }

    /// Its certificate, for a person to trust.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.0.join(LOCAL_FILE)
    }

    /// The authority that is there, or a new one; a damaged one is replaced.
    pub(crate) fn open(&self) -> Result<LocalAuthority, String> {
        let [certificate, key] = [LOCAL_FILE, LOCAL_KEY_FILE].map(|name| self.0.join(name));
        let read = |path: &Path| std::fs::read_to_string(path).ok();
        if let (Some(certificate), Some(key)) = (read(&certificate), read(&key))
            && let Ok(known) = LocalAuthority::from_pem(&certificate, &key)
        {
            return Ok(known);
        }
        let made = LocalAuthority::found().map_err(|error| error.to_string())?;
        let (certificate_pem, key_pem) = made.to_pem();
        let kept = private::folder(&self.0)
            .and_then(|()| private::replace(&key, key_pem.as_bytes()))
            .and_then(|()| private::replace(&certificate, certificate_pem.as_bytes()));
        kept.map_err(|error| format!("cannot keep an authority in {}: {error}", self.0.display()))?;
        Ok(made)
    }
}
