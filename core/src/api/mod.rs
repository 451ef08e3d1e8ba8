//! What can be asked of a node, and what it answers: the API's types, without its transport.

pub mod view;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cluster::FeatureLevel;
use crate::cluster::admission::Roles;
use crate::cluster::certificates::Imported;
use crate::cluster::history::Happened;
use crate::cluster::mesh::MeshFacts;
use crate::cluster::task::Overrides;
use crate::config::model::Project;
use crate::effect::Book;
use crate::name::{Name, NodeId};
use crate::plan::Plan;
use crate::time::Wall;
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
        /// Whether a service that fails goes back by itself, and the others go on.
        #[serde(default)]
        keep_going: bool,
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
    /// Execute a task once. Answered when that is committed, before it is begun.
    Run {
        /// Which.
        task: Name,
        /// What is different this time.
        overrides: Box<Overrides>,
    },
    /// How a run is doing. Held until it differs from what the caller has seen.
    RunState {
        /// Its number.
        number: u64,
        /// The fingerprint of the view that the caller has; answered at once if absent.
        seen: Option<u64>,
        /// Answered after this long, changed or not; at most [`HOLD_MAX`].
        hold: Millis,
    },
    /// Every run that is kept, of one task if named.
    Runs {
        /// Which task's.
        task: Option<Name>,
        /// Whether this node's own copy will do.
        stale: bool,
    },
    /// End a run.
    Kill {
        /// Its number.
        number: u64,
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
    Status {
        /// Whether this node's own copy will do, however old.
        stale: bool,
    },
    /// Every alloc, of one service if named.
    Allocs {
        /// Which service's.
        service: Option<Name>,
        /// Whether this node's own copy will do.
        stale: bool,
    },
    /// Why something is as it is.
    Why {
        /// A service, slot, alloc or node.
        subject: String,
        /// Whether this node's own copy will do; what only the leader knows is missing there.
        stale: bool,
    },
    /// Everything about a node.
    Node {
        /// Its name or number.
        node: String,
        /// Whether this node's own copy will do.
        stale: bool,
    },
    /// To be a member. The same key again gets the same answer.
    Join(Box<JoinAsk>),
    /// A new right to join.
    CreateToken {
        /// Hash of its secret, which does not come here.
        hash: String,
        /// The roles that it can give.
        roles: Roles,
        /// Until when it is good; for ever if absent.
        expires: Option<Wall>,
        /// Whether it is good for one node only.
        once: bool,
    },
    /// No join token is good any more.
    RevokeTokens,
    /// Empty a node, or let it take containers again.
    Drain {
        /// Its name or number.
        node: String,
        /// Whether it is to be emptied.
        on: bool,
    },
    /// Let a node make another key for the mesh.
    RotateKey {
        /// Its name or number.
        node: String,
    },
    /// Change a node's labels.
    Label {
        /// Its name or number.
        node: String,
        /// Labels to set.
        set: BTreeMap<String, String>,
        /// Keys to remove.
        remove: Vec<String>,
    },
    /// A node is to be no member any more.
    RemoveNode {
        /// Its name or number.
        node: String,
        /// Also one that has containers or was not drained.
        force: bool,
    },
    /// Go back to what a project ran after an earlier deploy.
    Rollback {
        /// Which project; needed if there are several.
        project: Option<Name>,
        /// After which deploy; the last successful one but one if absent.
        to: Option<u64>,
        /// The fingerprint of the plan that the caller agreed to. If absent, the plan is the
        /// answer, and nothing is done.
        expect: Option<String>,
    },
    /// The deploy that runs is to go back to where it began.
    Cancel {
        /// Its number; whichever runs if absent.
        number: Option<u64>,
    },
    /// Replicas that wait for canaries follow them now.
    Promote {
        /// The deploy; whichever runs if absent.
        number: Option<u64>,
        /// Whose canaries; all that are waited for if empty.
        services: Vec<Name>,
    },
    /// What happened lately, oldest first. Held until there is something, if `after` is all so far.
    Events {
        /// Only what came after this number; all that is kept if absent.
        after: Option<u64>,
        /// Answered after this long, empty or not; at most [`HOLD_MAX`].
        hold: Millis,
        /// Whether this node's own copy will do; never held then.
        stale: bool,
    },
    /// Every deploy that is kept.
    Deploys {
        /// Whether this node's own copy will do.
        stale: bool,
    },
    /// Where requests from outside come in.
    Routes {
        /// Whether this node's own copy will do.
        stale: bool,
    },
    /// Which certificates there are.
    Certificates {
        /// Whether this node's own copy will do.
        stale: bool,
    },
    /// Show this certificate from now on, in place of one that is ordered.
    ImportCertificate(Box<Imported>),
    /// Take back a certificate that was imported.
    RemoveCertificate {
        /// One of its names.
        name: String,
    },
    /// Order a certificate anew, now.
    RenewCertificate {
        /// Host name.
        name: String,
    },
    /// The replicated state, for `mill plan --state`.
    State,
}

/// What a machine says that wants to be a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinAsk {
    /// Hash of the token's secret.
    pub token: String,
    /// Fingerprint of its public key, in hex, which the runtime has verified to be its own.
    pub key: String,
    /// What people should call it.
    pub name: String,
    /// What it wants to do; all that the token gives if absent.
    pub roles: Option<Roles>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Address that callers reach its containers at.
    pub advertise: String,
    /// Address and port that other nodes reach it at.
    pub rpc: String,
    /// Version of its program.
    pub version: String,
    /// The highest feature level that its program supports.
    #[serde(default)]
    pub supports: FeatureLevel,
    /// How it is reached through the mesh, if its machine can be part of one.
    #[serde(default)]
    pub mesh: Option<MeshFacts>,
    /// Its wall clock.
    pub wall: Wall,
}

impl Request {
    /// Whether this node's own copy of the state will do.
    pub fn is_stale(&self) -> bool {
        match self {
            Request::Status { stale }
            | Request::Allocs { stale, .. }
            | Request::Why { stale, .. }
            | Request::Deploys { stale }
            | Request::Events { stale, .. }
            | Request::Routes { stale }
            | Request::Certificates { stale }
            | Request::Runs { stale, .. }
            | Request::Node { stale, .. } => *stale,
            Request::Plan { .. } | Request::Deployment { .. } | Request::State => false,
            Request::RunState { .. } | Request::Run { .. } | Request::Kill { .. } => false,
            Request::Deploy { .. }
            | Request::Restart { .. }
            | Request::Scale { .. }
            | Request::Rollback { .. }
            | Request::Cancel { .. }
            | Request::Promote { .. }
            | Request::Join(_)
            | Request::CreateToken { .. }
            | Request::RevokeTokens
            | Request::Drain { .. }
            | Request::Label { .. }
            | Request::RotateKey { .. }
            | Request::ImportCertificate(_)
            | Request::RemoveCertificate { .. }
            | Request::RenewCertificate { .. }
            | Request::RemoveNode { .. } => false,
        }
    }

    /// Whether it changes something, so that one without an answer may have been done.
    pub fn is_write(&self) -> bool {
        match self {
            Request::Status { .. }
            | Request::Allocs { .. }
            | Request::Why { .. }
            | Request::Node { .. }
            | Request::Plan { .. }
            | Request::Deployment { .. }
            | Request::Deploys { .. }
            | Request::Events { .. }
            | Request::Rollback { expect: None, .. }
            | Request::RunState { .. }
            | Request::Runs { .. }
            | Request::Routes { .. }
            | Request::Certificates { .. }
            | Request::State => false,
            Request::Deploy { .. }
            | Request::Run { .. }
            | Request::Kill { .. }
            | Request::Restart { .. }
            | Request::Scale { .. }
            | Request::Rollback { expect: Some(_), .. }
            | Request::Cancel { .. }
            | Request::Promote { .. }
            | Request::Join(_)
            | Request::CreateToken { .. }
            | Request::RevokeTokens
            | Request::Drain { .. }
            | Request::Label { .. }
            | Request::RotateKey { .. }
            | Request::ImportCertificate(_)
            | Request::RemoveCertificate { .. }
            | Request::RenewCertificate { .. }
            | Request::RemoveNode { .. } => true,
        }
    }
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
    /// To `Deploy`, `Restart`, `Scale` and `Rollback`: committed under this number.
    Started {
        /// The deploy's number.
        number: u64,
        /// What it does.
        plan: Plan,
    },
    /// To `Deploy` and `Rollback`: the cluster runs exactly this already.
    Unchanged,
    /// To `Rollback` without a fingerprint.
    Return {
        /// After which deploy.
        to: u64,
        /// What going back does.
        plan: Plan,
    },
    /// To `Run`: committed under this number.
    RunStarted {
        /// The run's number.
        number: u64,
    },
    /// To `RunState`.
    Run(Box<view::RunView>),
    /// To `Runs`: the latest first.
    Runs(Vec<view::RunView>),
    /// To `Events`: oldest first.
    Events(Vec<Happened>),
    /// To `Deploys`: the latest first.
    Deploys(Vec<view::DeploySummary>),
    /// To `Deployment`.
    Deployment(view::DeployView),
    /// To `Status`.
    Status(view::StatusView),
    /// To `Allocs`.
    Allocs(Vec<view::AllocView>),
    /// To `Routes`.
    Routes(view::RoutesView),
    /// To `Certificates`.
    Certificates(view::CertificatesView),
    /// To `Why`.
    Why(view::WhyView),
    /// To `Node`.
    Node(Box<view::NodeDetail>),
    /// To `Join`: committed.
    Admitted {
        /// The number of the new node, for ever.
        node: NodeId,
        /// Id of the cluster.
        cluster: String,
        /// What it is called.
        name: String,
        /// What it does.
        roles: Roles,
        /// Where every member is, itself included.
        book: Book,
    },
    /// To what changes nodes and tokens, and to `Kill`: it is so now.
    Done,
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
