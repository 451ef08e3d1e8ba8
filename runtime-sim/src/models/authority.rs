//! A certificate authority: accounts, orders, and limits that it really has.

use std::collections::{BTreeMap, BTreeSet};

use mill_core::acme::{AcmeFailure, AcmeFailureKind, AcmeOp, AcmeOutput, Challenge, ChallengeKind};
use mill_core::sealed::Sealed;
use mill_core::time::Wall;
use mill_core::units::Millis;

/// The one authority of a world.
#[derive(Clone, Debug)]
pub struct Authority {
    accounts: BTreeSet<String>,
    orders: BTreeMap<String, Order>,
    /// Certificates issued, in all.
    pub issued: u64,
    /// It does not answer.
    pub down: bool,
    /// How long a certificate is good.
    pub life: Millis,
    /// Whether it says when certificates had better be renewed, and that this is now.
    pub revokes: bool,
}

#[derive(Clone, Debug)]
struct Order {
    account: String,
    name: String,
    key: String,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Pending,
    Invalid,
    Valid { chain: String, not_before: Wall, not_after: Wall },
}

/// What becomes of a step.
#[derive(Debug)]
pub enum Verdict {
    /// This.
    Done(Result<AcmeOutput, AcmeFailure>),
    /// A name is to be looked at first, from outside.
    Validate {
        /// The order.
        url: String,
        /// The name.
        name: String,
        /// How it is looked at.
        kind: ChallengeKind,
    },
}

const DAY: Millis = Millis::mins(24 * 60);

impl Authority {
    /// One whose certificates are good for that long.
    pub fn new(life: Millis) -> Authority {
        Authority {
            accounts: BTreeSet::new(),
            orders: BTreeMap::new(),
            issued: 0,
            down: false,
            life,
            revokes: false,
        }
    }

    /// Takes a step, at a moment by its own clock.
    pub fn take(&mut self, now: Wall, op: &AcmeOp) -> Verdict {
        if self.down {
            return failed(AcmeFailureKind::Unreachable, "the authority does not answer");
        }
        match op {
            AcmeOp::Register { .. } => {
                let account = format!("account {}", self.accounts.len() + 1);
                self.accounts.insert(account.clone());
                Verdict::Done(Ok(AcmeOutput::Registered { account: Sealed::new(account) }))
            }
            AcmeOp::Order { account, name, .. } => match self.knows(account) {
                true => self.order(account.text(), name),
                false => failed(AcmeFailureKind::Account, "it knows no such account"),
            },
            AcmeOp::Complete { account, url, key, prefer, .. } => {
                if !self.knows(account) {
                    return failed(AcmeFailureKind::Account, "it knows no such account");
                }
                self.complete(account.text(), url, key.text(), *prefer)
            }
            AcmeOp::Look { .. } => {
                let long_ago = Wall(now.0.saturating_sub(DAY.0));
                let window = self.revokes.then_some((long_ago, now));
                Verdict::Done(Ok(AcmeOutput::Advised { window, again: Millis::mins(6 * 60) }))
            }
        }
    }

    fn knows(&self, account: &Sealed) -> bool {
        self.accounts.contains(account.text())
    }

    /// It loses every account, with the orders of each.
    pub fn forget_accounts(&mut self) {
        // Numbers are not given again.
        self.accounts = self.accounts.iter().map(|known| format!("was {known}")).collect();
        self.orders.clear();
    }

    fn order(&mut self, account: &str, name: &str) -> Verdict {
        let number = self.orders.len() + 1;
        let (url, key) = (format!("order {number} of {account}"), format!("key {number}"));
        let challenge = |kind| Challenge {
            kind,
            name: name.to_owned(),
            token: format!("token {number}"),
            authorization: format!("proof {number}"),
        };
        let challenges = [ChallengeKind::Http01, ChallengeKind::TlsAlpn01].map(challenge).to_vec();
        let (account, name) = (account.to_owned(), name.to_owned());
        let order = Order { account, name, key: key.clone(), state: State::Pending };
        self.orders.insert(url.clone(), order);
        Verdict::Done(Ok(AcmeOutput::Ordered { url, key: Sealed::new(key), challenges }))
    }

    fn complete(&mut self, account: &str, url: &str, key: &str, kind: ChallengeKind) -> Verdict {
        let Some(order) = self.orders.get(url).filter(|order| order.account == account) else {
            return failed(AcmeFailureKind::OrderGone, "it knows no such order");
        };
        if order.key != key {
            return failed(AcmeFailureKind::OrderGone, "its certificate is for another key");
        }
        match &order.state {
            State::Invalid => failed(AcmeFailureKind::OrderGone, "the order is invalid"),
            State::Pending => {
                Verdict::Validate { url: url.to_owned(), name: order.name.clone(), kind }
            }
            State::Valid { chain, not_before, not_after } => {
                let (not_before, not_after) = (*not_before, *not_after);
                let chain = chain.clone();
                Verdict::Done(Ok(AcmeOutput::Issued { chain, not_before, not_after }))
            }
        }
    }

    /// It looked at a name, and it was as it should be or not.
    pub fn validated(
        &mut self,
        now: Wall,
        url: &str,
        proven: Result<(), String>,
    ) -> Result<AcmeOutput, AcmeFailure> {
        let gone = || failure(AcmeFailureKind::OrderGone, "it knows no such order");
        let order = self.orders.get_mut(url).ok_or_else(gone)?;
        if let Err(detail) = proven {
            order.state = State::Invalid;
            return Err(failure(AcmeFailureKind::Validation, &detail));
        }
        self.issued += 1;
        let chain = format!("certificate {} for {} with {}", self.issued, order.name, order.key);
        let (not_before, not_after) = (now, Wall(now.0 + self.life.0));
        order.state = State::Valid { chain: chain.clone(), not_before, not_after };
        Ok(AcmeOutput::Issued { chain, not_before, not_after })
    }
}

fn failure(kind: AcmeFailureKind, detail: &str) -> AcmeFailure {
    AcmeFailure { kind, detail: detail.to_owned() }
}

fn failed(kind: AcmeFailureKind, detail: &str) -> Verdict {
    Verdict::Done(Err(failure(kind, detail)))
}
