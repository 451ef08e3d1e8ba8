//! Certificates of the hosts that routes want them for: ordered by the leader alone, one step after
//! the other, each decided anew from the state.
//!
//! What came of a step is kept until the state shows it, so a proposal that is lost costs nothing;
//! what a lost leader had under way is taken up by the next from the order's URL, with the key that
//! the state keeps. An order's challenges are shown to the authority once every node that is up
//! answers them. Wall clocks say when a certificate ends, and may be wrong: none is ordered again
//! soon after it came, and no failure rests longer than it was to.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Brain, Draft};
use crate::acme::{AcmeFailure, AcmeFailureKind, AcmeOp, AcmeOutput};
use crate::cluster::Cluster;
use crate::cluster::certificates::{
    Account, CERTIFICATES_MAX, Certificate, CertificateChange, Failure, Issued, Order,
};
use crate::cluster::command::Command;
use crate::effect::OpId;
use crate::mutant::{self, Mutant};
use crate::name::NodeId;
use crate::node::Wake;
use crate::outbox::Outbox;
use crate::sealed::Sealed;
use crate::time::{Mono, Now, Wall};
use crate::units::Millis;

/// Steps under way at once.
const AT_ONCE: usize = 4;
/// Looked at again after this long at the latest: wall clocks jump.
const LOOK_AGAIN: Millis = Millis::mins(60);
/// A certificate is not ordered again within this long of its coming, or a third of its life.
const LEAST_LIFE: Millis = Millis::mins(36 * 60);

/// What this leader has under way.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Certifying {
    /// By the number of the operation in this boot.
    under_way: BTreeMap<u64, Step>,
    /// What came of steps, until the state shows it.
    done: BTreeMap<u64, (OpId, Step, Result<AcmeOutput, AcmeFailure>)>,
    /// What the authority said of renewing the certificate of a name, and when it is asked again.
    advice: BTreeMap<String, Advice>,
}

/// A step, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Step {
    Register { directory: String, email: Option<String> },
    Order { name: String, account: Sealed },
    Complete { name: String, url: String, account: Sealed },
    Look { name: String, at: Wall },
}

/// What the authority said of a certificate.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Advice {
    /// Of the one that came then.
    of: Wall,
    renew_at: Option<Wall>,
    again: Mono,
}

impl Brain {
    /// A step came to its end.
    pub fn acme_done(&mut self, now: Now, id: OpId, result: Result<AcmeOutput, AcmeFailure>) {
        let Some(step) = self.certifying.under_way.remove(&id.seq) else { return };
        self.dirty = true;
        match (step, result) {
            (Step::Look { name, at }, result) => {
                let (window, again) = match result {
                    Ok(AcmeOutput::Advised { window, again }) => (window, again),
                    Ok(_) | Err(_) => (None, LOOK_AGAIN),
                };
                let renew_at = window.map(|(first, last)| within(&name, first, last));
                let again = now.mono + again.max(Millis::mins(1));
                self.certifying.advice.insert(name, Advice { of: at, renew_at, again });
            }
            (step, result) => drop(self.certifying.done.insert(id.seq, (id, step, result))),
        }
    }

    /// What came of steps becomes replicated.
    pub(super) fn record_certificates(&mut self, draft: &mut Draft<'_>) {
        let (me, cluster) = (self.me, draft.cluster);
        self.certifying.done.retain(|_, (id, step, result)| {
            let change = change_of(cluster, (me, *id), step, result);
            let news = change.is_some();
            draft.commands.extend(change.map(Command::Certificates));
            news
        });
    }

    /// Takes the steps that are due.
    pub(super) fn certify(&mut self, draft: &mut Draft<'_>, out: &mut Outbox) {
        let cluster = draft.cluster;
        let wanted = cluster.wants_certificates();
        self.certifying.advice.retain(|name, _| wanted.contains(name));
        let forgotten = cluster.certificates.ordered.iter().filter(|(name, known)| {
            let ended = known.issued.as_ref().is_none_or(|i| i.not_after <= draft.now.wall);
            let rests = known.failure.as_ref().and_then(|failure| rests_until(failure, draft.now));
            let full = cluster.certificates.ordered.len() >= CERTIFICATES_MAX;
            (ended && rests.is_none() || full) && !wanted.contains(*name)
        });
        let forgotten = forgotten.map(|(name, _)| CertificateChange::Forget { name: name.clone() });
        draft.commands.extend(forgotten.map(Command::Certificates));
        if wanted.is_empty() {
            return;
        }
        let Some(account) = cluster.acme_account() else { return self.register(draft, out) };
        for name in &wanted {
            let known = cluster.certificates.ordered.get(name);
            if !cluster.certificates.has_room(name) {
                continue;
            }
            if self.certifying.is_busy(name) || self.certifying.under_way.len() >= AT_ONCE {
                continue;
            }
            let failure = known.and_then(|known| known.failure.as_ref());
            if let Some(at) = failure.and_then(|failure| rests_until(failure, draft.now)) {
                draft.wake_at(at, Wake::Certificate);
                continue;
            }
            match known.and_then(|known| Some((known, known.order.as_ref()?))) {
                Some((known, order)) => self.complete(draft, out, (name, known, order), account),
                None => self.order(draft, out, (name, known), account),
            }
        }
    }

    fn register(&mut self, draft: &mut Draft<'_>, out: &mut Outbox) {
        let settings = &draft.cluster.settings;
        let (directory, email) = (settings.directory(), settings.acme_email.clone());
        let step = Step::Register { directory: directory.url.clone(), email: email.clone() };
        let done = self.certifying.done.values().map(|(_, step, _)| step);
        if self.certifying.under_way.values().chain(done).any(|known| *known == step) {
            return;
        }
        let failure = draft.cluster.certificates.unregistered.as_ref();
        if let Some(at) = failure.and_then(|failure| rests_until(failure, draft.now)) {
            return draft.wake_at(at, Wake::Certificate);
        }
        let id = out.acme(AcmeOp::Register { directory, email });
        self.certifying.under_way.insert(id.seq, step);
    }

    /// An order is taken to its end once every node that is up answers its challenges.
    fn complete(
        &mut self,
        draft: &Draft<'_>,
        out: &mut Outbox,
        (name, known, order): (&String, &Certificate, &Order),
        account: &Account,
    ) {
        self.awaited.insert(order.opened);
        let holders = self.holders(draft.cluster, order.opened);
        if !holders.is_empty() && !mutant::is(Mutant::ValidatedUnanswered) {
            return;
        }
        let id = out.acme(AcmeOp::Complete {
            directory: draft.cluster.settings.directory(),
            account: account.sealed.clone(),
            url: order.url.clone(),
            name: name.clone(),
            key: order.key.clone(),
            prefer: known.proves_by(),
        });
        let (name, url) = (name.clone(), order.url.clone());
        let step = Step::Complete { name, url, account: account.sealed.clone() };
        self.certifying.under_way.insert(id.seq, step);
    }

    fn order(
        &mut self,
        draft: &mut Draft<'_>,
        out: &mut Outbox,
        (name, known): (&String, Option<&Certificate>),
        account: &Account,
    ) {
        let directory = draft.cluster.settings.directory();
        // Of another authority, it is as good as none.
        let issued = known.and_then(|known| known.issued.as_deref());
        let issued = issued.filter(|issued| issued.directory.as_ref() == Some(&directory.url));
        let asked = known.is_some_and(|known| known.renew);
        if let Some(issued) = issued.filter(|_| !asked) {
            let advice = self.certifying.advice.get(name).filter(|a| a.of == issued.at).copied();
            let due = renew_at(issued, advice.and_then(|a| a.renew_at), draft.now.wall);
            if due > draft.now.wall {
                let wait = Millis(due.0 - draft.now.wall.0).min(LOOK_AGAIN);
                draft.wake_at(draft.now.mono + wait, Wake::Certificate);
                match advice.map(|advice| advice.again) {
                    Some(again) if again > draft.now.mono => {
                        draft.wake_at(again, Wake::Certificate);
                    }
                    Some(_) | None => {
                        let chain = issued.chain.clone();
                        let id = out.acme(AcmeOp::Look { directory, chain });
                        let step = Step::Look { name: name.clone(), at: issued.at };
                        self.certifying.under_way.insert(id.seq, step);
                    }
                }
                return;
            }
        }
        let id = out.acme(AcmeOp::Order {
            directory,
            account: account.sealed.clone(),
            name: name.clone(),
            replaces: issued.map(|issued| issued.chain.clone()),
        });
        let (name, account) = (name.clone(), account.sealed.clone());
        self.certifying.under_way.insert(id.seq, Step::Order { name, account });
    }
}

impl Certifying {
    /// Whether something is under way for a name.
    fn is_busy(&self, name: &str) -> bool {
        let done = self.done.values().map(|(_, step, _)| step);
        self.under_way.values().chain(done).any(|step| match step {
            Step::Register { .. } => false,
            Step::Order { name: of, .. } | Step::Complete { name: of, .. } => of == name,
            Step::Look { name: of, .. } => of == name,
        })
    }
}

/// What the state has still to learn of a step; nothing once it shows it, or it does not matter.
fn change_of(
    cluster: &Cluster,
    by: (NodeId, OpId),
    step: &Step,
    result: &Result<AcmeOutput, AcmeFailure>,
) -> Option<CertificateChange> {
    let wanted: BTreeSet<String> = cluster.wants_certificates();
    let known = |name: &String| cluster.certificates.ordered.get(name);
    let failed_before = |failure: Option<&Failure>| failure.is_some_and(|f| f.by == by);
    if let Err(AcmeFailure { kind: AcmeFailureKind::Account, .. }) = result
        && let Step::Order { account, .. } | Step::Complete { account, .. } = step
        && cluster.certificates.account.as_ref().is_some_and(|known| known.sealed == *account)
    {
        return Some(CertificateChange::DropAccount { sealed: account.clone() });
    }
    match (step, result) {
        (Step::Register { directory, email }, Ok(AcmeOutput::Registered { account })) => {
            let settings = &cluster.settings;
            let wants = settings.directory().url == *directory && settings.acme_email == *email;
            let (directory, email, sealed) = (directory.clone(), email.clone(), account.clone());
            let account = Account { directory, email, sealed };
            let missing = wants && cluster.acme_account().is_none();
            missing.then_some(CertificateChange::KeepAccount(account))
        }
        (Step::Register { directory, email }, Err(failure)) => {
            let settings = &cluster.settings;
            let wants = settings.directory().url == *directory && settings.acme_email == *email;
            let known = failed_before(cluster.certificates.unregistered.as_ref());
            let failure = failure.clone();
            let news = wants && !known && cluster.acme_account().is_none();
            news.then_some(CertificateChange::NoAccount { by, failure })
        }
        (Step::Order { name, account }, Ok(AcmeOutput::Ordered { url, key, challenges })) => {
            let free = known(name).is_none_or(|known| known.order.is_none());
            let room = cluster.certificates.has_room(name) && wanted.contains(name);
            let same = cluster.acme_account().is_some_and(|known| known.sealed == *account);
            let (name, url, key) = (name.clone(), url.clone(), key.clone());
            let (account, challenges) = (account.clone(), challenges.clone());
            let change = CertificateChange::OpenOrder { name, account, url, key, challenges };
            (free && room && same).then_some(change)
        }
        (
            Step::Complete { name, url, .. },
            Ok(AcmeOutput::Issued { chain, not_before, not_after }),
        ) => {
            let order = known(name)?.order.as_ref().filter(|order| order.url == *url)?;
            let (name, url, chain) = (name.clone(), order.url.clone(), chain.clone());
            let (not_before, not_after) = (*not_before, *not_after);
            Some(CertificateChange::Issue { name, url, chain, not_before, not_after })
        }
        (Step::Order { name, .. }, Err(failure)) => {
            let room = cluster.certificates.has_room(name);
            let free = known(name).is_none_or(|known| known.order.is_none());
            let told = failed_before(known(name).and_then(|known| known.failure.as_ref()));
            let (name, failure) = (name.clone(), failure.clone());
            let news = free && room && !told && wanted.contains(&name);
            news.then_some(CertificateChange::Fail { name, url: None, by, failure })
        }
        (Step::Complete { name, url, .. }, Err(failure)) => {
            let order = known(name)?.order.as_ref().filter(|order| order.url == *url)?;
            let told = failed_before(known(name).and_then(|known| known.failure.as_ref()));
            let (name, url, failure) = (name.clone(), Some(order.url.clone()), failure.clone());
            let news = !told && wanted.contains(&name);
            news.then_some(CertificateChange::Fail { name, url, by, failure })
        }
        (Step::Register { .. } | Step::Order { .. } | Step::Complete { .. }, Ok(_)) => None,
        (Step::Look { .. }, _) => None,
    }
}

/// Until when a failure rests; `None` if it is over. A clock that was set back lets it end early.
fn rests_until(failure: &Failure, now: Now) -> Option<Mono> {
    let since = now.wall.0.checked_sub(failure.at.0)?;
    let left = failure.rest.0.checked_sub(since).filter(|left| *left > 0)?;
    Some(now.mono + Millis(left).min(LOOK_AGAIN))
}

/// When a certificate is to be renewed: with a third of its life left, or when the authority says.
/// Not soon after it came, whatever a clock says that may be wrong.
fn renew_at(issued: &Issued, advised: Option<Wall>, now: Wall) -> Wall {
    let life = issued.not_after.0.saturating_sub(issued.not_before.0);
    let usual = Wall(issued.not_after.0.saturating_sub(life / 3));
    let due = advised.map_or(usual, |advised| advised.min(usual));
    let rest = Wall(issued.at.0.saturating_add(LEAST_LIFE.0.min(life / 3)));
    match issued.at > now || mutant::is(Mutant::RenewedAtOnce) {
        // It came when the clock said a later time: nothing follows from that.
        true => due,
        false => due.max(rest),
    }
}

/// A moment of a window: one for each name, so that not all are renewed together, and the same for
/// every leader.
fn within(name: &str, first: Wall, last: Wall) -> Wall {
    let length = last.0.saturating_sub(first.0).max(1);
    Wall(first.0.saturating_add(xxhash_rust::xxh3::xxh3_64(name.as_bytes()) % length))
}
