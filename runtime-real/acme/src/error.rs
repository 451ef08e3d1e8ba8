//! What can go wrong between us and an authority: one sentence for people, and a kind for whoever
//! decides what is done about it.

use std::fmt;
use std::time::Duration;

/// The longest text of an authority that is repeated, in characters.
const MAX_QUOTED: usize = 600;

/// Why a step did not succeed. Its text is one sentence with the authority's own words in it, and
/// never contains a key or credentials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct AcmeError {
    kind: ErrorKind,
    words: String,
}

/// What an error asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Nobody answered, or not in time, or not as an ACME authority does: the same step may succeed
    /// later. Nothing is lost: an order can be completed by repeating the step.
    Unreachable,
    /// The authority asks to wait. The same step may succeed after that.
    RateLimited {
        /// How long, if it says so, from when the answer came.
        retry_after: Option<Duration>,
    },
    /// The authority could not convince itself that the names are ours. The order is lost; a new
    /// one helps only once the cause, which the text names, is gone.
    Validation,
    /// The authority refuses this request for good: a bad name or email, or its policy.
    Refused,
    /// The account is unknown there, deactivated or revoked, or the credentials cannot be read:
    /// register anew.
    Account,
    /// The order has expired, is unknown, or is invalid: begin a new one.
    OrderGone,
    /// What we hold or made is wrong: a bug of mill, or a file that was damaged.
    Internal,
}

impl AcmeError {
    pub(crate) fn new(kind: ErrorKind, words: impl Into<String>) -> AcmeError {
        AcmeError { kind, words: words.into() }
    }

    pub(crate) fn internal(what: &str, why: impl fmt::Display) -> AcmeError {
        AcmeError::new(ErrorKind::Internal, format!("{what}: {why}; report this as a bug of mill"))
    }

    /// The same error, with the names that were asked for where they help to understand it.
    pub(crate) fn naming(mut self, names: &[String]) -> AcmeError {
        match self.kind {
            ErrorKind::Refused | ErrorKind::RateLimited { .. } => {
                self.words.push_str(&format!(" (asked for {})", quoted(&names.join(", "))));
            }
            ErrorKind::Unreachable
            | ErrorKind::Validation
            | ErrorKind::Account
            | ErrorKind::OrderGone
            | ErrorKind::Internal => {}
        }
        self
    }

    /// What this error asks for.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

/// Words of somebody else, made fit for a line of ours: no control characters, not endless, no
/// full stop at the end.
pub(crate) fn quoted(text: &str) -> String {
    let plain = text.chars().map(|one| if one.is_control() { ' ' } else { one });
    let mut short: String = plain.take(MAX_QUOTED).collect();
    if text.chars().nth(MAX_QUOTED).is_some() {
        short.push_str("...");
        return short;
    }
    short.trim().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_others_are_cut_and_lose_control_characters() {
        assert_eq!(quoted("no\r\nsuch\x1b[1m name."), "no  such [1m name");
        let long = quoted(&"x".repeat(5_000));
        assert_eq!(long.len(), MAX_QUOTED + 3);
    }
}
