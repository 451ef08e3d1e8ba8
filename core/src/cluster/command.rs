//! What can be written to the log: facts and decisions, each with its preconditions.
//!
//! `apply` refuses what no longer holds, so a stale proposal changes nothing. Ids and times are
//! the proposer's; `apply` draws nothing and reads no clock.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::cluster::admission::{Admission, JoinToken};
use crate::cluster::alloc::{Status, StopReason};
use crate::cluster::certificates::CertificateChange;
use crate::cluster::deploy::{DeployKind, DeployState, Failure};
use crate::cluster::node::NodeFacts;
use crate::cluster::task::{Cause, Overrides};
use crate::cluster::{FeatureLevel, Revision};
use crate::config::model::{ClusterSettings, ServiceSpec, TaskSpec};
use crate::container::PinnedImage;
use crate::name::{AllocId, Name, NodeId, Slot};
use crate::net::Network;
use crate::time::Wall;

/// Names a proposal for ever: node, boot and count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProposalId {
    /// Who proposed.
    pub node: NodeId,
    /// How often it had started.
    pub boot: u64,
    /// Counts up within a boot.
    pub seq: u64,
}

/// One entry of the log. Its commands are applied in order, each by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Who proposed it.
    pub id: ProposalId,
    /// The proposer's wall clock, for what people read.
    pub wall: Wall,
    /// The [`crate::cluster::Cluster::intent`] that its decisions were made for: they are refused
    /// under another, when a node may have been removed that they count on, or their deploy
    /// cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<u64>,
    /// What to do, at most [`COMMANDS_PER_ENTRY`].
    pub commands: Vec<Command>,
}

/// The most commands in one entry; what is more waits for the next.
pub const COMMANDS_PER_ENTRY: usize = 1000;

/// The most bytes in one entry, by [`Command::weight`]; what is more waits for the next.
pub const BYTES_PER_ENTRY: usize = 2 << 20;

impl Command {
    /// Whether it is the leader's decision, made of all that is there; not a fact, nor a person's
    /// wish.
    pub fn is_decision(&self) -> bool {
        match self {
            Command::AdvanceDeploy { .. }
            | Command::SettleService { .. }
            | Command::FailServices { .. }
            | Command::Promote { .. }
            | Command::Place { .. }
            | Command::PlaceRun { .. }
            | Command::Stop { .. } => true,
            Command::Found { .. }
            | Command::AdmitNode { .. }
            | Command::RemoveNode { .. }
            | Command::SetDrain { .. }
            | Command::SetLabels { .. }
            | Command::PutToken { .. }
            | Command::RevokeTokens
            | Command::UseMesh
            | Command::RotateKey { .. }
            | Command::RaiseFeatures { .. }
            | Command::RegisterNode { .. }
            | Command::SetLiveness { .. }
            | Command::Trust { .. }
            | Command::StartDeploy { .. }
            | Command::PinImage { .. }
            | Command::Release { .. }
            | Command::FreePorts { .. }
            | Command::Certificates(_)
            | Command::Report { .. }
            | Command::StartRun { .. }
            | Command::SkipDue { .. }
            | Command::KillRun { .. }
            | Command::Forget { .. } => false,
        }
    }

    /// How many bytes it takes at most when it is written, as far as that is bounded by what
    /// people and containers say.
    pub fn weight(&self) -> usize {
        // A control character takes six bytes in JSON.
        const ESCAPED: usize = 6;
        let said = match self {
            Command::Report { status, .. } => status.trouble.as_ref().map_or(0, |trouble| {
                trouble.detail.len() + trouble.output.iter().map(String::len).sum::<usize>()
            }),
            Command::AdvanceDeploy { from, to, .. } => from.reason().len() + to.reason().len(),
            Command::FailServices { failed, .. } => {
                failed.values().map(|failure| failure.reason.len()).sum()
            }
            Command::Certificates(change) => change.weight(),
            Command::Found { .. }
            | Command::AdmitNode { .. }
            | Command::RemoveNode { .. }
            | Command::SetDrain { .. }
            | Command::SetLabels { .. }
            | Command::PutToken { .. }
            | Command::RevokeTokens
            | Command::UseMesh
            | Command::RotateKey { .. }
            | Command::RaiseFeatures { .. }
            | Command::RegisterNode { .. }
            | Command::SetLiveness { .. }
            | Command::Trust { .. }
            | Command::StartDeploy { .. }
            | Command::PinImage { .. }
            | Command::SettleService { .. }
            | Command::Promote { .. }
            | Command::Place { .. }
            | Command::Stop { .. }
            | Command::Release { .. }
            | Command::FreePorts { .. }
            | Command::StartRun { .. }
            | Command::PlaceRun { .. }
            | Command::SkipDue { .. }
            | Command::KillRun { .. }
            | Command::Forget { .. } => 0,
        };
        1024 + ESCAPED * said
    }
}

/// A change of the replicated state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Begin a cluster with its first node. Refused if it has begun.
    Found {
        /// Its id, for ever.
        cluster: String,
        /// Number of the first node; the next ones count up from there.
        node: NodeId,
        /// What the first node is.
        first: Box<Admission>,
        /// Addresses of its own.
        #[serde(default)]
        network: Network,
    },
    /// Admit a node under the next number; the same key again is given the same number and changes
    /// nothing. Refused if the name is another's, the token is unknown, spent or gives other roles.
    AdmitNode {
        /// What it is.
        admission: Box<Admission>,
        /// Hash of its token; absent if it needs none.
        token: Option<String>,
    },
    /// A node is no member any more. Refused while it has live allocs, or is heard and does not
    /// drain, and for the last primary.
    RemoveNode {
        /// Which.
        node: NodeId,
        /// Also with live allocs, which count as stopped, and without draining.
        force: bool,
    },
    /// A node is to be emptied, or not any more. Refused unless it was the opposite.
    SetDrain {
        /// Which.
        node: NodeId,
        /// Whether it is to be emptied.
        draining: bool,
    },
    /// A node's labels change. Refused if they do not.
    SetLabels {
        /// Which.
        node: NodeId,
        /// Labels to set.
        set: BTreeMap<String, String>,
        /// Keys to remove.
        remove: Vec<String>,
    },
    /// A new right to join. Refused if it is known, or if there are too many.
    PutToken {
        /// Hash of its secret.
        hash: String,
        /// What it gives.
        token: JoinToken,
    },
    /// No token is good any more. Refused if there is none.
    RevokeTokens,
    /// Commands are applied by the rules of a higher level from here on. Refused unless it is
    /// higher, and while a member's program does not support it.
    RaiseFeatures {
        /// The level.
        to: FeatureLevel,
    },
    /// Nodes speak with each other through the mesh only from here on. Refused if they do, and while
    /// a member is down or not in it.
    UseMesh,
    /// A node is to make another key for the mesh. Refused if it is not in it, or was told so.
    RotateKey {
        /// Which.
        node: NodeId,
        /// The serial of its next key.
        to: u64,
    },
    /// What a member says of itself changed. Refused if it is known, and for one that is no member.
    RegisterNode {
        /// Which.
        node: NodeId,
        /// What it says of itself.
        facts: Box<NodeFacts>,
    },
    /// A node fell silent or is heard again. Refused unless it was the opposite.
    SetLiveness {
        /// Which.
        node: NodeId,
        /// Whether it is heard.
        up: bool,
    },
    /// A node that came and went is trusted. Refused if it is down, or known like that.
    Trust {
        /// Which.
        node: NodeId,
        /// How many of its returns are not forgotten.
        returns: u32,
    },
    /// Begin a deploy. Refused while another runs, or if `number` is taken.
    StartDeploy {
        /// The next number, as the proposer saw it.
        number: u64,
        /// Whose services.
        project: Name,
        /// What it is, for people.
        kind: DeployKind,
        /// Services to change and what to; `None` removes one.
        changes: BTreeMap<Name, Option<Box<ServiceSpec>>>,
        /// Tasks to change and what to; `None` removes one.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        tasks: BTreeMap<Name, Option<Box<TaskSpec>>>,
        /// Services whose containers are replaced though nothing changed.
        restart: Vec<Name>,
        /// What images meant when they ran before, of services and tasks that go back to that.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        images: BTreeMap<Name, PinnedImage>,
        /// The deploy that it goes back to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        back_to: Option<u64>,
        /// Whether a service that fails goes back by itself, and the others go on.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        keep_going: bool,
        /// Settings of the cluster to change, once the deploy succeeds.
        #[serde(default, skip_serializing_if = "ClusterSettings::is_empty")]
        settings: ClusterSettings,
    },
    /// What an image of a deploy means. Refused unless the deploy is resolving images.
    PinImage {
        /// The deploy.
        deploy: u64,
        /// As written in the config.
        reference: String,
        /// What it means.
        image: PinnedImage,
    },
    /// A deploy moves on. Refused unless it is in `from`.
    AdvanceDeploy {
        /// The deploy.
        deploy: u64,
        /// Where it was.
        from: DeployState,
        /// Where it goes.
        to: DeployState,
    },
    /// A service runs what the deploy wants, everywhere. Refused unless it was rolling there.
    SettleService {
        /// The deploy.
        deploy: u64,
        /// The service.
        service: Name,
    },
    /// Services failed in a deploy that keeps going: they go back, the others go on. Refused unless
    /// the deploy keeps going and is under way, and each of them either had not failed, or goes back
    /// and is stuck.
    FailServices {
        /// The deploy.
        deploy: u64,
        /// Each service, and how.
        failed: BTreeMap<Name, Failure>,
    },
    /// The other replicas of services follow their canaries. Refused unless all of these wait for
    /// theirs, and those are healthy.
    Promote {
        /// The deploy.
        deploy: u64,
        /// The services.
        services: Vec<Name>,
        /// Whether a person said so, before they were watched for long enough.
        early: bool,
    },
    /// A new alloc. Refused if its id is taken, its node takes nothing new, the version is not wanted, or
    /// the slot has a wanted alloc of that template on a node that is up and does not drain.
    Place {
        /// The new alloc's id.
        alloc: AllocId,
        /// The slot.
        slot: Slot,
        /// On which node.
        node: NodeId,
        /// Which version's container.
        template: u64,
        /// Port given or owned.
        port: Option<u16>,
    },
    /// An alloc is to leave the routes, and to stop when nobody sends anything to it any more.
    /// Refused if it is.
    Stop {
        /// Which.
        alloc: AllocId,
        /// Why.
        reason: StopReason,
    },
    /// Nobody sends anything to an alloc that leaves, so it is asked to stop. Refused unless every
    /// node that is up has said so.
    Release {
        /// Which.
        alloc: AllocId,
        /// Who said so.
        by: BTreeSet<NodeId>,
    },
    /// What a node says of an alloc. Refused for another node's, and once it reached an end.
    Report {
        /// Who says so.
        node: NodeId,
        /// Of which.
        alloc: AllocId,
        /// What.
        status: Status,
    },
    /// A task is to be executed once. Refused if its cause was served already, or too many runs are
    /// under way.
    StartRun {
        /// Which.
        task: Name,
        /// What asks for it.
        cause: Cause,
        /// What is different this time.
        overrides: Box<Overrides>,
    },
    /// A run is given to a node. Refused unless it waits, and as long as others of its task are in
    /// its way.
    PlaceRun {
        /// The run.
        run: u64,
        /// Its alloc's id.
        alloc: AllocId,
        /// On which node.
        node: NodeId,
    },
    /// A schedule was due and nothing is run for it. Refused if it was served for that moment.
    SkipDue {
        /// Whose schedule.
        task: Name,
        /// Due when.
        due: Wall,
        /// Why it is not run: a sentence.
        why: String,
    },
    /// A run is to end. Refused if it has, or is on its way to.
    KillRun {
        /// Which.
        run: u64,
    },
    /// Something about certificates. Refused as each says.
    Certificates(CertificateChange),
    /// Every member has said that it sends nothing to ports that were given up until then. Refused
    /// if none rests since then or before.
    FreePorts {
        /// The revision that all of them have applied.
        until: Revision,
    },
    /// Ended allocs of which nobody needs to know any more. Refused for live ones.
    Forget {
        /// Which.
        alloc: AllocId,
    },
}
