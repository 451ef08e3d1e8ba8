//! What can be asked of a node, and what it answers: the API's types, without its transport.

pub mod view;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::model::Project;
use crate::name::Name;
use crate::plan::Plan;
use crate::units::Millis;

/// Names a request and its answer. Counts up within a boot, given by the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u64);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// What a deploy of this project would do.
    Plan {
        /// The whole project.
        project: Box<Project>,
    },
    /// Do it. Answered when the deploy is committed, long before it is done.
    Deploy {
        /// The whole project.
        project: Box<Project>,
        /// The plan that the person saw, by [`Plan::fingerprint`]; refused if it would differ.
        expect: Option<String>,
    },
    /// Replace the containers of a service one after the other.
    Restart {
        /// Which.
        service: Name,
    },
    /// Change how many replicas a service has, until the next deploy says otherwise.
    Scale {
        /// Which.
        service: Name,
        /// How many.
        replicas: u32,
    },
    /// How a deploy is doing. Held until it differs from what the caller has seen.
    Deployment {
        /// Its number; the latest if absent.
        number: Option<u64>,
        /// The fingerprint of the view that the caller has; answered at once if absent.
        seen: Option<u64>,
        /// Answered after this long, changed or not; at most [`HOLD_MAX`].
        hold: Millis,
    },
    /// Nodes, services and the running deploy.
    Status,
    /// Every alloc, of one service if named.
    Allocs {
        /// Which service's.
        service: Option<Name>,
    },
    /// Why something is as it is.
    Why {
        /// A service, slot, alloc or node.
        subject: String,
    },
    /// The replicated state, for `mill plan --state`.
    State,
}

/// The longest that a request is held.
pub const HOLD_MAX: Millis = Millis::secs(30);

/// The answer to a request.
pub type Outcome = Result<Answer, ApiError>;

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To `Plan`.
    Plan(Plan),
    /// To `Deploy`, `Restart` and `Scale`: committed under this number.
    Started {
        /// The deploy's number.
        number: u64,
        /// What it does.
        plan: Plan,
    },
    /// To `Deploy`: the cluster runs exactly this already.
    Unchanged,
    /// To `Deployment`.
    Deployment(view::DeployView),
    /// To `Status`.
    Status(view::StatusView),
    /// To `Allocs`.
    Allocs(Vec<view::AllocView>),
    /// To `Why`.
    Why(view::WhyView),
    /// To `State`: JSON.
    State(String),
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// Stable, for programs.
    pub code: ErrorCode,
    /// What happened and why: a sentence.
    pub message: String,
    /// What to do: a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// More of the same kind, when there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

/// Stable codes of refused requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// What was asked for cannot be, whatever the state.
    Invalid,
    /// A part of the config is not supported yet by this version.
    Unsupported,
    /// The caller may not.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// The state does not allow it now.
    Conflict,
    /// The plan that the person saw is not what would be done any more.
    PlanChanged,
    /// This node does not lead, or cannot reach a quorum.
    NoLeader,
    /// It may or may not have been done.
    Unknown,
    /// Too many requests wait.
    Busy,
    /// The runtime failed.
    Internal,
}

impl ApiError {
    /// An error without a hint.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> ApiError {
        ApiError { code, message: message.into(), hint: None, details: Vec::new() }
    }

    /// The same error with what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> ApiError {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.details.iter().try_for_each(|detail| write!(f, "\n  {detail}"))?;
        match &self.hint {
            Some(hint) => write!(f, "\n{hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ApiError {}
