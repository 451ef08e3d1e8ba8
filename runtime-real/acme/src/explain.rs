//! From what the authority answered to what it means: the kind of the error, and one sentence.
//!
//! The same problem type means different things in different steps: `unauthorized` is a
//! deactivated account where an order begins, and someone else's order where one is read.

use instant_acme::{Error, Problem};

use crate::account::Directory;
use crate::client::{Refusal, Trouble};
use crate::error::{AcmeError, ErrorKind, quoted};

/// The prefix of the problem types of RFC 8555 section 6.7.
const TYPES: &str = "urn:ietf:params:acme:error:";
/// A nonce was used up or has expired; every other request may meet this.
pub(crate) const BAD_NONCE: &str = "urn:ietf:params:acme:error:badNonce";
/// How often a call is made that meets nothing but bad nonces. The library makes three requests
/// in each.
pub(crate) const NONCE_CALLS: usize = 4;

/// What was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Reading the directory.
    Directory,
    /// Making an account.
    Register,
    /// Beginning an order.
    Order,
    /// Anything with an order that exists.
    Follow,
    /// Asking when to renew.
    Renewal,
}

impl Step {
    fn words(self) -> &'static str {
        match self {
            Step::Directory => "give its directory",
            Step::Register => "register an account",
            Step::Order => "begin an order",
            Step::Follow => "complete the order",
            Step::Renewal => "say when to renew",
        }
    }
}

/// Makes a call again while its only fault is a bad nonce. A macro, since a function that takes
/// an asynchronous closure would yield futures that cannot be sent to other threads.
macro_rules! nonced {
    ($call:expr) => {{
        let mut left = crate::explain::NONCE_CALLS;
        loop {
            left -= 1;
            match $call.await {
                Err(error) if left > 0 && crate::explain::is_bad_nonce(&error) => {}
                other => break other,
            }
        }
    }};
}
pub(crate) use nonced;

/// Whether an error is a bad nonce.
pub(crate) fn is_bad_nonce(error: &Error) -> bool {
    matches!(error, Error::Api(problem) if problem.r#type.as_deref() == Some(BAD_NONCE))
}

/// The error of the library as one of ours.
pub(crate) fn explain(step: Step, directory: &Directory, error: Error) -> AcmeError {
    match error {
        Error::Api(problem) => {
            let status = problem.status.unwrap_or_default();
            let problem = Some(problem);
            refused(step, &Refusal { status, retry_after: None, problem, of_directory: false })
        }
        Error::Other(other) => match other.downcast::<Trouble>().map(|trouble| *trouble) {
            Ok(Trouble::Refusal(refusal)) if refusal.of_directory => {
                refused(Step::Directory, &refusal)
            }
            Ok(Trouble::Refusal(refusal)) => refused(step, &refusal),
            Ok(Trouble::Unreached { host, why }) => AcmeError::new(
                ErrorKind::Unreachable,
                format!("cannot reach the certificate authority at {host}: {why}"),
            ),
            Err(other) => AcmeError::internal("cannot speak ACME", quoted(&other.to_string())),
        },
        // What was read is no ACME: a wrong URL, a proxy, or a server in trouble.
        Error::Json(_) | Error::Str(_) | Error::Unsupported(_) => AcmeError::new(
            ErrorKind::Unreachable,
            format!(
                "what answers at {} does not speak ACME (RFC 8555) when it is to {}: {}; check \
                 the directory's URL",
                directory.url,
                step.words(),
                quoted(&error.to_string())
            ),
        ),
        Error::KeyRejected | Error::Crypto => AcmeError::new(
            ErrorKind::Account,
            "the private key of the ACME account cannot be used: register anew",
        ),
        other => AcmeError::internal("cannot speak ACME", quoted(&other.to_string())),
    }
}

/// A problem in one sentence: what the authority says, for which names, and the problem's type.
pub(crate) fn problem_words(problem: &Problem) -> String {
    let mut words = quoted(problem.detail.as_deref().unwrap_or("no reason given"));
    for sub in &problem.subproblems {
        let detail = sub.detail.as_deref().unwrap_or("no reason given");
        match &sub.identifier {
            Some(name) => words.push_str(&format!("; {}: {detail}", name.authorized(false))),
            None => words.push_str(&format!("; {detail}")),
        }
    }
    let words = quoted(&words);
    match short_type(problem) {
        "" => words,
        kind => format!("{words} ({})", quoted(kind)),
    }
}

/// What the authority says, and which kind of error that is.
pub(crate) fn refused(step: Step, refusal: &Refusal) -> AcmeError {
    let kind = kind(step, refusal);
    let said = match &refusal.problem {
        Some(problem) => problem_words(problem),
        None => format!("HTTP status {}, without a reason", refusal.status),
    };
    let advice = match kind {
        ErrorKind::Account => "; register anew",
        ErrorKind::OrderGone => "; begin a new order",
        ErrorKind::RateLimited { .. }
        | ErrorKind::Unreachable
        | ErrorKind::Validation
        | ErrorKind::Refused
        | ErrorKind::Internal => "",
    };
    let words = format!("the certificate authority did not {}: {said}{advice}", step.words());
    AcmeError::new(kind, words)
}

fn kind(step: Step, refusal: &Refusal) -> ErrorKind {
    let retry_after = refusal.retry_after;
    match refusal.problem.as_ref().map_or("", short_type) {
        "rateLimited" => return ErrorKind::RateLimited { retry_after },
        "accountDoesNotExist" => return ErrorKind::Account,
        "caa" | "connection" | "dns" | "incorrectResponse" | "tls" => return ErrorKind::Validation,
        "badNonce" => return ErrorKind::Unreachable,
        "unauthorized" if step == Step::Order => return ErrorKind::Account,
        _ => {}
    }
    match (refusal.status, step) {
        (429, _) => ErrorKind::RateLimited { retry_after },
        // An authority that sheds load says when to come back.
        (503, _) if retry_after.is_some() => ErrorKind::RateLimited { retry_after },
        (500.., _) | (_, Step::Directory) => ErrorKind::Unreachable,
        (401 | 403 | 404 | 410, Step::Follow) => ErrorKind::OrderGone,
        (_, Step::Register | Step::Order | Step::Follow | Step::Renewal) => {
            match refusal.problem.as_ref().map_or("", short_type) {
                "serverInternal" => ErrorKind::Unreachable,
                _ => ErrorKind::Refused,
            }
        }
    }
}

/// The type of a problem without the prefix that all of them share.
pub(crate) fn short_type(problem: &Problem) -> &str {
    let full = problem.r#type.as_deref().unwrap_or_default();
    full.strip_prefix(TYPES).unwrap_or(full)
}
