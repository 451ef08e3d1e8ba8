//! The beginning of an order: which names, and what must be shown to prove them.

use instant_acme::{Account, AuthorizationStatus, CertificateIdentifier, Error, Identifier};
use instant_acme::{NewOrder, Order};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::account::{Credentials, Directory, open};
use crate::challenge::{Challenge, answerable};
use crate::client::Trouble;
use crate::error::{AcmeError, ErrorKind, quoted};
use crate::explain::{Step, explain, nonced};

/// The most names of one order; Let's Encrypt's limit.
pub const MAX_NAMES: usize = 100;

/// An order that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ordered {
    /// What the order is known by; with the credentials and the key, all that
    /// [`complete`](crate::complete) needs.
    pub url: String,
    /// What must be shown, of every name that is still to be proven: each name has one challenge
    /// of either kind that the authority offers, and one of them suffices. Empty if all names are
    /// proven.
    pub challenges: Vec<Challenge>,
}

/// Begins an order for these DNS names (not wildcards, which take dns-01). `replaces` is the chain
/// of the certificate that it renews, in PEM: authorities with renewal information (RFC 9773
/// section 5) spare such orders their rate limits; where it cannot be told, it is left out.
///
/// # Errors
/// `Refused` if there are no names, more than [`MAX_NAMES`], a wildcard, or one that the authority
/// does not take; `Account` if it does not know the account.
pub async fn order(
    directory: &Directory,
    credentials: &Credentials,
    names: &[String],
    replaces: Option<&str>,
) -> Result<Ordered, AcmeError> {
    check(names)?;
    let account = open(directory, credentials).await?;
    let failed = |error| explain(Step::Order, directory, error).naming(names);
    let mut order = begin(&account, names, replaces).await.map_err(failed)?;
    load(&mut order).await.map_err(|error| explain(Step::Follow, directory, error))?;
    let mut challenges = Vec::new();
    for one in &order.state().authorizations {
        let Some(state) = &one.state else { continue };
        match state.status {
            AuthorizationStatus::Valid => {}
            AuthorizationStatus::Pending => {
                challenges.extend(answerable(state, account.key_thumbprint())?);
            }
            AuthorizationStatus::Invalid
            | AuthorizationStatus::Revoked
            | AuthorizationStatus::Expired
            | AuthorizationStatus::Deactivated => {
                let name = quoted(&state.identifier().to_string());
                return Err(AcmeError::new(
                    ErrorKind::OrderGone,
                    format!(
                        "the certificate authority gave an order in which {name} can no longer be \
                         proven; begin a new order"
                    ),
                ));
            }
        }
    }
    Ok(Ordered { url: order.url().to_owned(), challenges })
}

/// Reads all authorizations of an order; what was read before is not asked for again.
pub(crate) async fn load(order: &mut Order) -> Result<(), Error> {
    nonced!(async {
        let mut names = order.identifiers();
        while let Some(one) = names.next().await {
            one?;
        }
        Ok(())
    })
}

/// What identifies a certificate in renewal information; nothing if it names no authority key.
pub(crate) fn identifier(chain_pem: &str) -> Option<CertificateIdentifier<'static>> {
    let leaf = CertificateDer::from_pem_slice(chain_pem.as_bytes()).ok()?;
    CertificateIdentifier::try_from(&leaf).ok().map(CertificateIdentifier::into_owned)
}

fn check(names: &[String]) -> Result<(), AcmeError> {
    let refused = |words: String| Err(AcmeError::new(ErrorKind::Refused, words));
    if names.is_empty() || names.len() > MAX_NAMES {
        return refused(format!(
            "a certificate is ordered for 1 to {MAX_NAMES} names, not for {}",
            names.len()
        ));
    }
    if let Some(wildcard) = names.iter().find(|name| name.contains('*')) {
        return refused(format!(
            "{} is proven by a record in the DNS (dns-01) only, which mill does not make: import \
             a certificate for it",
            quoted(wildcard)
        ));
    }
    Ok(())
}

/// The new order, without `replaces` if that is what the authority dislikes: it has been replaced
/// already, it is another authority's, or there is no renewal information.
async fn begin(
    account: &Account,
    names: &[String],
    replaces: Option<&str>,
) -> Result<Order, Error> {
    let names: Vec<Identifier> = names.iter().cloned().map(Identifier::Dns).collect();
    if let Some(replaced) = replaces.and_then(identifier) {
        let asked = NewOrder::new(&names).replaces(replaced);
        match nonced!(account.new_order(&asked)) {
            Err(error) if minds_replacing(&error) => {}
            answer => return answer,
        }
    }
    let asked = NewOrder::new(&names);
    nonced!(account.new_order(&asked))
}

/// Whether an order may be taken without `replaces`. Not if it failed for a reason that would be
/// met again: requests count.
fn minds_replacing(error: &Error) -> bool {
    match error {
        Error::Unsupported(_) => true,
        Error::Other(other) => match other.downcast_ref::<Trouble>() {
            Some(Trouble::Refusal(refusal)) => matches!(refusal.status, 400 | 404 | 409),
            Some(Trouble::Unreached { .. }) => false,
            // The library misses the field in the answer.
            None => true,
        },
        _ => false,
    }
}
