//! All that is left of an order, from whatever state it is in to the certificate.
//!
//! An order may have been begun, and even nearly completed, by a process that is gone. So nothing
//! is remembered here: the authority is asked for the state (RFC 8555 section 7.1.6), the next
//! step is made, and so on. Only one thing is kept during one call: that challenges were announced,
//! because authorities may check again each time they are told.

use std::time::Duration;

use instant_acme::{Account, AuthorizationState, AuthorizationStatus, ChallengeStatus, Error};
use instant_acme::{Order, OrderStatus};
use tokio::time::{sleep, timeout};

use crate::account::{Credentials, Directory, open};
use crate::challenge::{ChallengeKind, none_answerable};
use crate::error::{AcmeError, ErrorKind, quoted};
use crate::explain::{Step, explain, nonced, problem_words};
use crate::inspect::inspect;
use crate::keys::request;

/// The first wait before an order is looked at again; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest wait before an order is looked at again.
const LAST_PAUSE: Duration = Duration::from_secs(4);

/// A certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The certificate and those that lead to the authority, leaf first, as PEM.
    pub chain_pem: String,
    /// From when it is valid, in milliseconds since 1970.
    pub not_before_ms: u64,
    /// Until when it is valid, in milliseconds since 1970.
    pub not_after_ms: u64,
}

/// Does all that is left of an order and fetches the certificate for this key. It tells the
/// authority that challenges are ready (one for each name, of the preferred kind if it is
/// offered), waits, asks for the certificate, waits, downloads. It may be repeated at any time,
/// also by another process: an order that is completed is just downloaded.
///
/// # Errors
/// `Validation` if a name could not be proven; `OrderGone` if the order was invalid before, is
/// unknown, or is one of another key; `Unreachable` also if `within` has passed.
pub async fn complete(
    directory: &Directory,
    credentials: &Credentials,
    url: &str,
    names: &[String],
    key_pem: &str,
    prefer: ChallengeKind,
    within: Duration,
) -> Result<Issued, AcmeError> {
    let csr = request(names, key_pem)?;
    let mut state = "not known";
    let chain_pem = timeout(within, async {
        let account = open(directory, credentials).await?;
        let mut follower = Follower { directory, prefer, csr: &csr, announced: false };
        follower.run(&account, url, &mut state).await
    })
    .await
    .unwrap_or_else(|_| {
        let words = format!(
            "the order was not completed within {within:?}, its state is {state}; complete it again"
        );
        Err(AcmeError::new(ErrorKind::Unreachable, words))
    })?;
    issued(chain_pem, key_pem)
}

/// What one call of [`complete`] knows.
struct Follower<'a> {
    directory: &'a Directory,
    prefer: ChallengeKind,
    csr: &'a [u8],
    /// Whether the authority was told which challenges to check.
    announced: bool,
}

impl Follower<'_> {
    /// Makes step after step until the order yields its certificate.
    async fn run(
        &mut self,
        account: &Account,
        url: &str,
        state: &mut &'static str,
    ) -> Result<String, AcmeError> {
        let failed = |error| explain(Step::Follow, self.directory, error);
        let read = nonced!(account.order(url.to_owned()));
        let mut order = read.map_err(failed)?;
        let (mut pause, mut first) = (FIRST_PAUSE, true);
        loop {
            let status = order.state().status;
            *state = words(status);
            match status {
                OrderStatus::Pending => self.announce(&mut order).await?,
                OrderStatus::Ready => self.finalize(&mut order).await?,
                OrderStatus::Processing => {}
                OrderStatus::Valid => return self.download(&mut order).await,
                OrderStatus::Invalid => return Err(self.why_invalid(&mut order, first).await),
            }
            first = false;
            if order.state().status == status {
                sleep(pause).await;
                pause = LAST_PAUSE.min(pause * 2);
                self.refresh(&mut order).await?;
            }
        }
    }

    async fn refresh(&self, order: &mut Order) -> Result<(), AcmeError> {
        nonced!(async { order.refresh().await.map(drop) })
            .map_err(|error| explain(Step::Follow, self.directory, error))
    }

    /// Tells the authority, once, which challenges are ready.
    async fn announce(&mut self, order: &mut Order) -> Result<(), AcmeError> {
        if std::mem::replace(&mut self.announced, true) {
            return Ok(());
        }
        let failed = |error| explain(Step::Follow, self.directory, error);
        for (position, kind) in self.to_announce(order).await? {
            let Err(error) = set_ready(order, position, kind).await else { continue };
            // Another process may have told it a moment ago; then nothing is left to tell.
            self.refresh(order).await?;
            if order.state().status != OrderStatus::Pending {
                return Ok(());
            }
            load(order, self.directory).await?;
            if waits_for_us(order, position, kind) {
                return Err(failed(error));
            }
        }
        Ok(())
    }

    /// The authorizations that wait for us, and by which challenge.
    async fn to_announce(
        &self,
        order: &mut Order,
    ) -> Result<Vec<(usize, ChallengeKind)>, AcmeError> {
        load(order, self.directory).await?;
        let mut found = Vec::new();
        for (position, one) in order.state().authorizations.iter().enumerate() {
            let Some(state) = &one.state else { continue };
            if state.status != AuthorizationStatus::Pending {
                continue;
            }
            let offered =
                self.prefer.first().into_iter().find(|kind| status(state, *kind).is_some());
            let Some(kind) = offered else {
                return Err(none_answerable(&state.identifier().to_string()));
            };
            if status(state, kind) == Some(ChallengeStatus::Pending) {
                found.push((position, kind));
            }
        }
        Ok(found)
    }

    async fn finalize(&self, order: &mut Order) -> Result<(), AcmeError> {
        match nonced!(order.finalize_csr(self.csr)) {
            Ok(()) => Ok(()),
            Err(error) => {
                // Another process may have asked a moment ago; then the order has moved on.
                let error = explain(Step::Follow, self.directory, error);
                match self.refresh(order).await {
                    Ok(()) if order.state().status != OrderStatus::Ready => Ok(()),
                    Ok(()) | Err(_) => Err(error),
                }
            }
        }
    }

    async fn download(&self, order: &mut Order) -> Result<String, AcmeError> {
        let chain = nonced!(order.certificate());
        chain.map_err(|error| explain(Step::Follow, self.directory, error))?.ok_or_else(|| {
            let words = "the certificate authority has no certificate for a valid order";
            AcmeError::new(ErrorKind::Unreachable, words)
        })
    }

    /// What made the order invalid: names that could not be proven, or something else.
    async fn why_invalid(&self, order: &mut Order, before: bool) -> AcmeError {
        if let Err(error) = load(order, self.directory).await {
            return error;
        }
        let unproven: Vec<String> = order
            .state()
            .authorizations
            .iter()
            .filter_map(|one| one.state.as_ref())
            .filter_map(unproven)
            .collect();
        let whole = order.state().error.as_ref().map(problem_words);
        match (unproven.is_empty(), before) {
            (false, false) => AcmeError::new(
                ErrorKind::Validation,
                format!("the certificate authority could not validate {}", unproven.join("; ")),
            ),
            (false, true) => {
                gone(&format!("the authority could not validate {}", unproven.join("; ")))
            }
            (true, _) => gone(&whole.unwrap_or_else(|| "the authority gives no reason".to_owned())),
        }
    }
}

fn gone(why: &str) -> AcmeError {
    let words = format!("the order is invalid: {why}; begin a new order");
    AcmeError::new(ErrorKind::OrderGone, words)
}

async fn load(order: &mut Order, directory: &Directory) -> Result<(), AcmeError> {
    crate::order::load(order).await.map_err(|error| explain(Step::Follow, directory, error))
}

/// Tells the authority that the challenge of the authorization at this position can be checked.
async fn set_ready(order: &mut Order, position: usize, kind: ChallengeKind) -> Result<(), Error> {
    let mut authorizations = order.authorizations();
    for _ in 0..position {
        authorizations.next().await;
    }
    let Some(found) = authorizations.next().await else { return Ok(()) };
    let mut authorization = found?;
    let Some(mut challenge) = authorization.challenge(kind.wire()) else { return Ok(()) };
    nonced!(challenge.set_ready())
}

fn waits_for_us(order: &mut Order, position: usize, kind: ChallengeKind) -> bool {
    let found = order.state().authorizations.get(position).and_then(|one| one.state.as_ref());
    found.is_some_and(|state| {
        state.status == AuthorizationStatus::Pending
            && status(state, kind) == Some(ChallengeStatus::Pending)
    })
}

fn status(state: &AuthorizationState, kind: ChallengeKind) -> Option<ChallengeStatus> {
    state.challenges.iter().find(|one| one.r#type == kind.wire()).map(|one| one.status)
}

/// The name of an authorization that failed, with what failed about it.
fn unproven(state: &AuthorizationState) -> Option<String> {
    let name = quoted(&state.identifier().to_string());
    match state.status {
        AuthorizationStatus::Valid | AuthorizationStatus::Pending => return None,
        AuthorizationStatus::Expired => return Some(format!("{name}: the proof has expired")),
        AuthorizationStatus::Revoked => return Some(format!("{name}: the proof was revoked")),
        AuthorizationStatus::Deactivated => {
            return Some(format!("{name}: the proof was given up"));
        }
        AuthorizationStatus::Invalid => {}
    }
    let failed = state.challenges.iter().find_map(|one| {
        let problem = one.error.as_ref()?;
        let kinds = ChallengeKind::Http01.first();
        let kind = kinds.into_iter().find(|kind| kind.wire() == one.r#type);
        Some((kind.map_or("a challenge", ChallengeKind::words), problem))
    });
    Some(match failed {
        Some((kind, problem)) => format!("{name} by {kind}: {}", problem_words(problem)),
        None => format!("{name}: no reason given"),
    })
}

fn words(status: OrderStatus) -> &'static str {
    match status {
        OrderStatus::Pending => "pending (names are being proven)",
        OrderStatus::Ready => "ready (the certificate can be asked for)",
        OrderStatus::Processing => "processing (the certificate is being made)",
        OrderStatus::Valid => "valid (the certificate can be downloaded)",
        OrderStatus::Invalid => "invalid",
    }
}

fn issued(chain_pem: String, key_pem: &str) -> Result<Issued, AcmeError> {
    match inspect(&chain_pem, Some(key_pem)) {
        Ok(seen) => Ok(Issued {
            chain_pem,
            not_before_ms: seen.not_before_ms,
            not_after_ms: seen.not_after_ms,
        }),
        Err(error) => {
            let words = format!(
                "the order yields a certificate that cannot be used: {error}; begin a new order"
            );
            Err(AcmeError::new(ErrorKind::OrderGone, words))
        }
    }
}
