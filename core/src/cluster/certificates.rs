//! Certificates in the replicated state: the account that orders them, orders that are under way,
//! what was issued and what people imported.
//!
//! Keys are sealed before they come here. A change names what it was decided on (an order's URL, the
//! operation that failed), so one that is stale or doubled is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::apply::{missing, stale};
use super::{Cluster, Refusal, Reply, Revision};
use crate::acme::{AcmeFailure, AcmeFailureKind, Challenge, ChallengeKind, Directory};
use crate::config::model::{ClusterSettings, RouteMatch};
use crate::effect::OpId;
use crate::name::NodeId;
use crate::sealed::Sealed;
use crate::time::Wall;
use crate::units::Millis;

/// Where certificates are ordered if nothing else is said: Let's Encrypt.
pub const USUAL_DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// The most names that certificates are kept for.
pub const CERTIFICATES_MAX: usize = 1_000;

/// Every certificate of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificates {
    /// Who orders.
    pub account: Option<Account>,
    /// Why there is no account, if making one failed.
    pub unregistered: Option<Failure>,
    /// What is ordered, by host name.
    pub ordered: BTreeMap<String, Certificate>,
    /// What people imported, by the first of its names.
    pub imported: BTreeMap<String, Imported>,
}

/// An account with an authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Whose directory.
    pub directory: String,
    /// Whom the authority may write to.
    pub email: Option<String>,
    /// Its key and name.
    pub sealed: Sealed,
}

/// The certificate of a host name that routes are for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// What was issued last.
    pub issued: Option<Arc<Issued>>,
    /// The order that is under way.
    pub order: Option<Order>,
    /// Why the last try failed; nothing once one succeeds.
    pub failure: Option<Failure>,
    /// Whether a person asked for a new one.
    #[serde(default)]
    pub renew: bool,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// The certificate and those above it, in PEM.
    pub chain: String,
    /// Its key.
    pub key: Sealed,
    /// From when it is good, by the authority's clock.
    pub not_before: Wall,
    /// Until when.
    pub not_after: Wall,
    /// When it came, by the leader's clock.
    pub at: Wall,
    /// Whose it is: the directory where it was ordered; nothing for one that was imported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
}

/// An order under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its URL.
    pub url: String,
    /// The key that the certificate will be for.
    pub key: Sealed,
    /// What every node answers.
    pub challenges: Vec<Challenge>,
    /// Where in the log it was opened: nodes that have applied this answer its challenges.
    pub opened: Revision,
}

/// That something failed, how often in a row, and how long it rests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which operation, of which node.
    pub by: (NodeId, OpId),
    /// Times in a row.
    pub count: u32,
    /// What happened: a sentence.
    pub detail: String,
    /// When, by the leader's clock.
    pub at: Wall,
    /// How long it rests after that.
    pub rest: Millis,
    /// Whether the authority said so.
    #[serde(default)]
    pub limited: bool,
}

/// A certificate that a person imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Names that it is for: `shop.example.com`, `*.example.com`.
    pub names: Vec<String>,
    /// It and its key.
    pub issued: Arc<Issued>,
    /// Shown to clients that name no host, or an unknown one.
    #[serde(default)]
    pub default: bool,
}

/// What changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificateChange {
    /// An account was made. Refused if there is one of that directory and address.
    KeepAccount(Account),
    /// The authority does not know an account any more. Refused if it is another.
    DropAccount {
        /// Which.
        sealed: Sealed,
    },
    /// Making an account failed. Refused if that is known.
    NoAccount {
        /// Which operation.
        by: (NodeId, OpId),
        /// How.
        failure: AcmeFailure,
    },
    /// An order was begun. Refused if one is under way for that name, or none is needed.
    OpenOrder {
        /// Host name.
        name: String,
        /// By which account; refused if there is another by now.
        account: Sealed,
        /// Its URL.
        url: String,
        /// The key that the certificate will be for.
        key: Sealed,
        /// What every node answers.
        challenges: Vec<Challenge>,
    },
    /// A certificate came. Refused unless that order is under way.
    Issue {
        /// Host name.
        name: String,
        /// The order's URL.
        url: String,
        /// The certificate, in PEM.
        chain: String,
        /// From when it is good.
        not_before: Wall,
        /// Until when.
        not_after: Wall,
    },
    /// A step failed. Refused if that is known, or the order is another.
    Fail {
        /// Host name.
        name: String,
        /// The order's URL, if one was begun.
        url: Option<String>,
        /// Which operation.
        by: (NodeId, OpId),
        /// How.
        failure: AcmeFailure,
    },
    /// Nobody needs it any more. Refused if routes do.
    Forget {
        /// Host name.
        name: String,
    },
    /// A person brings one; it takes the place of one for the same first name.
    Import(Imported),
    /// A person takes one back. Refused if it was not imported.
    Remove {
        /// The first of its names.
        name: String,
    },
    /// A person wants a new one now. Refused if no route wants one for that name.
    Renew {
        /// Host name.
        name: String,
    },
}

impl CertificateChange {
    /// Bytes of what others said.
    pub(super) fn weight(&self) -> usize {
        match self {
            CertificateChange::KeepAccount(account) => account.sealed.text().len(),
            CertificateChange::OpenOrder { account: _, key, challenges, .. } => {
                let challenge = |c: &Challenge| c.token.len() + c.authorization.len();
                key.text().len() + challenges.iter().map(challenge).sum::<usize>()
            }
            CertificateChange::Issue { chain, .. } => chain.len(),
            CertificateChange::Import(imported) => {
                imported.issued.chain.len() + imported.issued.key.text().len()
            }
            CertificateChange::Fail { failure, .. }
            | CertificateChange::NoAccount { failure, .. } => failure.detail.len(),
            CertificateChange::DropAccount { .. }
            | CertificateChange::Forget { .. }
            | CertificateChange::Remove { .. }
            | CertificateChange::Renew { .. } => 0,
        }
    }
}

impl Certificates {
    /// They belong to an account that there is no more.
    fn drop_orders(&mut self) {
        self.ordered.values_mut().for_each(|known| known.order = None);
    }

    /// Whether one more name has room.
    pub fn has_room(&self, name: &str) -> bool {
        room(&self.ordered, name).is_ok()
    }
}

impl Failure {
    /// Whether a person may end its rest.
    pub fn may_be_retried(&self) -> bool {
        !self.limited && self.count <= FAILURES_TO_RETRY
    }
}

impl Imported {
    /// Whether it is for a host.
    pub fn covers(&self, host: &str) -> bool {
        let above = host.split_once('.').map(|(_, above)| above);
        self.names.iter().any(|name| {
            name == host || name.strip_prefix("*.").is_some_and(|rest| Some(rest) == above)
        })
    }
}

impl Certificate {
    /// How the next order proves the name: the other way, after one that failed.
    pub fn proves_by(&self) -> ChallengeKind {
        match self.failure.as_ref().map_or(0, |failure| failure.count) % 2 {
            0 => ChallengeKind::Http01,
            _ => ChallengeKind::TlsAlpn01,
        }
    }
}

impl ClusterSettings {
    /// Where certificates are ordered.
    pub fn directory(&self) -> Directory {
        let url = self.acme_directory.as_deref().unwrap_or(USUAL_DIRECTORY).to_owned();
        Directory { url, root: self.acme_root.clone() }
    }
}

impl Cluster {
    /// Hosts that routes want certificates of, and people have imported none for.
    pub fn wants_certificates(&self) -> BTreeSet<String> {
        let hosts = self.routes().into_iter().filter(|route| route.spec.tls);
        let hosts = hosts.filter_map(|route| match route.spec.accept {
            RouteMatch::Http { host, .. } => Some(host),
            RouteMatch::Tcp { .. } => None,
        });
        let imported = |host: &String| self.certificates.imported.values().any(|i| i.covers(host));
        hosts.filter(|host| !imported(host)).collect()
    }

    /// The account that orders are made by, if there is one.
    pub fn acme_account(&self) -> Option<&Account> {
        let directory = self.settings.directory().url;
        let email = &self.settings.acme_email;
        self.certificates.account.as_ref().filter(|a| a.directory == directory && a.email == *email)
    }

    pub(super) fn change_certificates(
        &mut self,
        at: Revision,
        wall: Wall,
        change: &CertificateChange,
    ) -> Result<Reply, Refusal> {
        match change {
            CertificateChange::KeepAccount(account) => {
                let known = self.certificates.account.as_ref();
                if known
                    .is_some_and(|k| k.directory == account.directory && k.email == account.email)
                {
                    return Err(stale("there is an account already"));
                }
                self.certificates.account = Some(account.clone());
                self.certificates.unregistered = None;
                self.certificates.drop_orders();
                let text = format!("an account was made with {}", account.directory);
                self.history.record(wall, "certificates", text);
            }
            CertificateChange::DropAccount { sealed } => {
                if self.certificates.account.as_ref().is_none_or(|known| known.sealed != *sealed) {
                    return Err(stale("the account is another"));
                }
                self.certificates.account = None;
                self.certificates.drop_orders();
            }
            CertificateChange::NoAccount { by, failure } => {
                let known = &mut self.certificates.unregistered;
                if let Some(failure) = fail(known, *by, failure, wall)? {
                    self.history.record(wall, "certificates", failure);
                }
            }
            CertificateChange::OpenOrder { name, account, url, key, challenges } => {
                if self.acme_account().is_none_or(|known| known.sealed != *account) {
                    return Err(stale("the account is another"));
                }
                self.open_order(at, name, url, key, challenges)?;
            }
            CertificateChange::Issue { name, url, chain, not_before, not_after } => {
                let directory = Some(self.settings.directory().url);
                let certificate = self.ordered(name, url)?;
                let Some(Order { key, .. }) = certificate.order.take() else {
                    return Err(missing("order for", name));
                };
                let (chain, not_before, not_after) = (chain.clone(), *not_before, *not_after);
                let issued = Issued { chain, key, not_before, not_after, at: wall, directory };
                *certificate =
                    Certificate { issued: Some(issued.into()), ..Certificate::default() };
                self.history.record(wall, name, "its certificate was issued".to_owned());
            }
            CertificateChange::Fail { name, url, by, failure } => {
                self.fail_order(wall, name, url.as_deref(), *by, failure)?;
            }
            CertificateChange::Forget { name } => {
                if self.wants_certificates().contains(name) {
                    return Err(stale(format!("routes want a certificate for {name}")));
                }
                let gone = self.certificates.ordered.remove(name);
                gone.ok_or_else(|| missing("certificate for", name))?;
            }
            CertificateChange::Import(imported) => self.import(wall, imported)?,
            CertificateChange::Remove { name } => {
                let gone = self.certificates.imported.remove(name);
                gone.ok_or_else(|| missing("imported certificate for", name))?;
                self.history.record(wall, name, "its imported certificate was removed".to_owned());
            }
            CertificateChange::Renew { name } => {
                self.renew(name)?;
            }
        }
        Ok(Reply::Done)
    }

    /// The certificate of a name, if that order is under way.
    fn ordered(&mut self, name: &str, url: &str) -> Result<&mut Certificate, Refusal> {
        let known = self.certificates.ordered.get_mut(name);
        let known = known.ok_or_else(|| missing("certificate for", name))?;
        match known.order.as_ref().is_some_and(|order| order.url == url) {
            true => Ok(known),
            false => Err(stale(format!("another order is under way for {name}, or none"))),
        }
    }

    fn open_order(
        &mut self,
        at: Revision,
        name: &str,
        url: &str,
        key: &Sealed,
        challenges: &[Challenge],
    ) -> Result<(), Refusal> {
        if !self.wants_certificates().contains(name) {
            return Err(stale(format!("no route wants a certificate for {name}")));
        }
        let ordered = &mut self.certificates.ordered;
        room(ordered, name)?;
        let known = ordered.entry(name.to_owned()).or_default();
        if known.order.is_some() {
            return Err(stale(format!("an order is under way for {name}")));
        }
        known.order = Some(Order {
            url: url.to_owned(),
            key: key.clone(),
            challenges: challenges.to_vec(),
            opened: at,
        });
        Ok(())
    }

    fn fail_order(
        &mut self,
        wall: Wall,
        name: &str,
        url: Option<&str>,
        by: (NodeId, OpId),
        failure: &AcmeFailure,
    ) -> Result<(), Refusal> {
        if !self.wants_certificates().contains(name) {
            return Err(stale(format!("no route wants a certificate for {name}")));
        }
        let certificate = match url {
            Some(url) => self.ordered(name, url)?,
            None => {
                room(&self.certificates.ordered, name)?;
                self.certificates.ordered.entry(name.to_owned()).or_default()
            }
        };
        if url.is_none() && certificate.order.is_some() {
            return Err(stale(format!("an order is under way for {name}")));
        }
        let told = fail(&mut certificate.failure, by, failure, wall)?;
        if failure.kind.ends_order() {
            certificate.order = None;
        }
        if let Some(told) = told {
            self.history.record(wall, name, told);
        }
        Ok(())
    }

    fn renew(&mut self, name: &str) -> Result<(), Refusal> {
        if !self.wants_certificates().contains(name) {
            return Err(missing("route that wants a certificate for", name));
        }
        room(&self.certificates.ordered, name)?;
        let known = self.certificates.ordered.entry(name.to_owned()).or_default();
        known.renew = known.issued.is_some();
        let failures = [&mut known.failure, &mut self.certificates.unregistered];
        for failure in failures.into_iter().flatten().filter(|f| f.may_be_retried()) {
            failure.rest = Millis(0);
        }
        Ok(())
    }

    fn import(&mut self, wall: Wall, imported: &Imported) -> Result<(), Refusal> {
        let Some(name) = imported.names.first() else {
            return Err(Refusal::Invalid("this certificate is for no name".to_owned()));
        };
        let all = &mut self.certificates.imported;
        if all.len() >= CERTIFICATES_MAX && !all.contains_key(name) {
            return Err(Refusal::TooMany { what: "imported certificates", most: CERTIFICATES_MAX });
        }
        if imported.default {
            all.values_mut().for_each(|other| other.default = false);
        }
        all.insert(name.clone(), imported.clone());
        // Nobody waits for what was ordered for them.
        let covered =
            self.certificates.ordered.iter_mut().filter(|(host, _)| imported.covers(host));
        covered.for_each(|(_, known)| known.order = None);
        let text = format!("a certificate was imported for {}", imported.names.join(", "));
        self.history.record(wall, name, text);
        Ok(())
    }
}

/// How long it rests after so many failures in a row. Let's Encrypt allows five failed validations
/// of a name in an hour (its documentation, "Rate Limits"): no hour holds more than four of these.
const RESTS: [Millis; 6] = [
    Millis::mins(1),
    Millis::mins(5),
    Millis::mins(20),
    Millis::mins(60),
    Millis::mins(3 * 60),
    Millis::mins(12 * 60),
];

/// The longest that an authority may make it rest.
const LONGEST_REST: Millis = Millis::mins(7 * 24 * 60);

/// A person may end the rest after this many failures in a row, and not after more: an hour must not
/// hold too many.
pub const FAILURES_TO_RETRY: u32 = 3;

/// Whether there is room for one more name.
fn room(ordered: &BTreeMap<String, Certificate>, name: &str) -> Result<(), Refusal> {
    match ordered.len() >= CERTIFICATES_MAX && !ordered.contains_key(name) {
        true => Err(Refusal::TooMany { what: "certificates", most: CERTIFICATES_MAX }),
        false => Ok(()),
    }
}

/// Notes a failure; says what to tell people, if it is another than before.
fn fail(
    known: &mut Option<Failure>,
    by: (NodeId, OpId),
    failure: &AcmeFailure,
    wall: Wall,
) -> Result<Option<String>, Refusal> {
    if known.as_ref().is_some_and(|known| known.by == by) {
        return Err(stale("this failure is known"));
    }
    let count = known.as_ref().map_or(0, |known| known.count);
    let usual = RESTS[(count as usize).min(RESTS.len() - 1)];
    let (rest, limited) = match failure.kind {
        AcmeFailureKind::RateLimited { after } => {
            (usual.max(after.unwrap_or(usual)).min(LONGEST_REST), true)
        }
        AcmeFailureKind::Unreachable
        | AcmeFailureKind::Validation
        | AcmeFailureKind::Refused
        | AcmeFailureKind::Account
        | AcmeFailureKind::OrderGone
        | AcmeFailureKind::Internal => (usual, false),
    };
    let detail = failure.detail.clone();
    let news = known.as_ref().is_none_or(|known| known.detail != detail);
    let count = count.saturating_add(1);
    *known = Some(Failure { by, count, detail, at: wall, rest, limited });
    Ok(news.then(|| format!("no certificate: {}", failure.detail)))
}
