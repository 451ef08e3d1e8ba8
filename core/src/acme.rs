//! What a node can ask of a certificate authority (RFC 8555): steps, and what came of them.
//!
//! A step is safe to repeat. When each is taken is decided in `brain/certificates.rs`; what is kept
//! of it is in `cluster/certificates.rs`.

use serde::{Deserialize, Serialize};

use crate::sealed::Sealed;
use crate::time::Wall;
use crate::units::Millis;

/// An authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Its directory's URL.
    pub url: String,
    /// PEM of what its own certificate is trusted by, besides the usual authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AcmeOp {
    /// Make an account.
    Register {
        /// Where.
        directory: Directory,
        /// Whom the authority may write to.
        email: Option<String>,
    },
    /// Order a certificate, and make its key.
    Order {
        /// Where.
        directory: Directory,
        /// By whom.
        account: Sealed,
        /// Host name.
        name: String,
        /// The chain that it is to replace, in PEM.
        replaces: Option<String>,
    },
    /// Take an order to its end, from wherever it is: every node answers its challenges.
    Complete {
        /// Where.
        directory: Directory,
        /// By whom.
        account: Sealed,
        /// The order's URL.
        url: String,
        /// Host name.
        name: String,
        /// The key that the certificate is for.
        key: Sealed,
        /// Which kind of challenge is to be used.
        prefer: ChallengeKind,
    },
    /// Ask when a certificate had better be renewed (RFC 9773).
    Look {
        /// Where.
        directory: Directory,
        /// The certificate, in PEM.
        chain: String,
    },
}

/// What came of a step that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AcmeOutput {
    /// To `Register`.
    Registered {
        /// The account.
        account: Sealed,
    },
    /// To `Order`.
    Ordered {
        /// The order's URL.
        url: String,
        /// The key that the certificate will be for.
        key: Sealed,
        /// What the authority will ask of the name; nothing if it knows enough.
        challenges: Vec<Challenge>,
    },
    /// To `Complete`.
    Issued {
        /// The certificate and those above it, in PEM.
        chain: String,
        /// From when it is good.
        not_before: Wall,
        /// Until when.
        not_after: Wall,
    },
    /// To `Look`.
    Advised {
        /// When it had better be renewed; `None` if the authority has no opinion.
        window: Option<(Wall, Wall)>,
        /// When to ask again.
        again: Millis,
    },
}

/// How a name is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChallengeKind {
    /// A file below `/.well-known/acme-challenge/` on port 80.
    #[default]
    Http01,
    /// A certificate shown to clients that ask for `acme-tls/1` on port 443.
    TlsAlpn01,
}

/// What the authority will ask of a name, and what it is to be answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// How it will ask.
    pub kind: ChallengeKind,
    /// The name.
    pub name: String,
    /// What it will ask for.
    pub token: String,
    /// The key authorization that it is answered with.
    pub authorization: String,
}

/// Why a step was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcmeFailure {
    /// What follows from it.
    pub kind: AcmeFailureKind,
    /// What happened: a sentence.
    pub detail: String,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AcmeFailureKind {
    /// Nobody answered, or the authority is ill: the same may work later.
    Unreachable,
    /// Too many asked for: not before that time is over, if it was said.
    RateLimited {
        /// How long.
        after: Option<Millis>,
    },
    /// The name could not be proven.
    Validation,
    /// It will not do this.
    Refused,
    /// It does not know the account any more.
    Account,
    /// It does not know the order any more, or has given it up.
    OrderGone,
    /// Something failed on this side.
    Internal,
}

impl AcmeFailureKind {
    /// Whether an order is lost with it.
    pub fn ends_order(self) -> bool {
        match self {
            AcmeFailureKind::Validation
            | AcmeFailureKind::Refused
            | AcmeFailureKind::Account
            | AcmeFailureKind::OrderGone => true,
            AcmeFailureKind::Unreachable
            | AcmeFailureKind::RateLimited { .. }
            | AcmeFailureKind::Internal => false,
        }
    }
}
