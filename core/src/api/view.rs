//! What people and programs are shown: stable documents made from the replicated state.

use core::net::Ipv4Addr;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cluster::admission::Roles;
use crate::cluster::alloc::{Ending, Phase, StopReason, Trouble};
use crate::cluster::deploy::{DeployKind, DeployState};
use crate::cluster::mesh::MeshFacts;
use crate::cluster::task::{Cause, Outcome};
use crate::config::model::RouteSpec;
use crate::name::{AllocId, Name, NodeId, Slot};
use crate::time::Wall;
use crate::units::{Bytes, Millicores, Millis};

/// `mill status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// Cluster id.
    pub cluster: String,
    /// Revision of the state this was made from: `epoch.index`.
    pub revision: String,
    /// The node that answered.
    pub node: NodeId,
    /// Who leads.
    pub leader: Option<NodeId>,
    /// Every node.
    pub nodes: Vec<NodeView>,
    /// Every service.
    pub services: Vec<ServiceView>,
    /// Every task.
    #[serde(default)]
    pub tasks: Vec<TaskView>,
    /// The deploy that runs, or else the last one.
    pub deploy: Option<DeployView>,
    /// How old this is, if it is this node's own copy; absent where the leader answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<Age>,
}

/// How old a node's own copy of the state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Age {
    /// Since this long the node has not heard of anything newer, and could have.
    AtMost(Millis),
    /// No leader has been heard since the node started; or it leads, stood still for a while, and
    /// has not found out since whether another leads now.
    Unknown,
}

/// A node, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its number.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Whether the leader hears it.
    pub up: bool,
    /// Whether it was admitted and has never been heard.
    #[serde(default)]
    pub joining: bool,
    /// Whether it is being emptied.
    #[serde(default)]
    pub draining: bool,
    /// What it does.
    #[serde(default)]
    pub roles: Roles,
    /// Whether it votes, as consensus has it just now.
    #[serde(default)]
    pub votes: bool,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Where it is reached.
    pub advertise: String,
    /// Cpu set aside and in all.
    pub cpu: (Millicores, Millicores),
    /// Memory set aside and in all.
    pub memory: (Bytes, Bytes),
    /// Allocs on it.
    pub allocs: usize,
    /// Version of the program.
    pub version: String,
    /// Why its container engine cannot be asked, while it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// `mill node inspect`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDetail {
    /// What a list of nodes says of it.
    pub node: NodeView,
    /// Fingerprint of its public key, in hex.
    pub key: String,
    /// Address and port that other nodes reach it at.
    pub rpc: String,
    /// How it is reached through the mesh, if its machine can be part of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<MeshFacts>,
    /// Its address there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh_address: Option<Ipv4Addr>,
    /// Whether it is to make another key for the mesh, and has not told of it yet.
    #[serde(default)]
    pub key_due: bool,
    /// How often it has started.
    pub boot: u64,
    /// Since when it is down, by the clock of the leader that said so.
    pub down_since: Option<Wall>,
    /// What runs on it.
    pub allocs: Vec<AllocView>,
    /// What happened to it lately, oldest first.
    pub lately: Vec<String>,
}

/// A service, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its name.
    pub name: Name,
    /// Whose it is.
    pub project: Name,
    /// Image as written.
    pub image: String,
    /// Replicas that are healthy.
    pub healthy: u32,
    /// Replicas that are wanted.
    pub wanted: u32,
    /// Deploy number of what it runs or moves to.
    pub version: Option<u64>,
    /// The port that callers use, as its config says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Addresses of healthy replicas, `host:port`.
    pub endpoints: Vec<String>,
    /// Address and port at which any container on any node calls it, whichever replicas it has;
    /// absent for a service without a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Why it is not as wanted; empty if it is.
    pub waiting: Vec<String>,
}

/// A task, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskView {
    /// Its name.
    pub name: Name,
    /// Whose it is.
    pub project: Name,
    /// Image as written.
    pub image: String,
    /// Deploy number of what it is or is being brought to.
    pub version: Option<u64>,
    /// Its cron expression, if it runs by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// The time zone of that; UTC if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// When that is due next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Wall>,
    /// Its latest run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<RunView>,
}

/// A run, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunView {
    /// Its number.
    pub number: u64,
    /// Its task and number, `migrate.12`.
    pub id: Slot,
    /// The task.
    pub task: Name,
    /// Whose it is.
    pub project: Name,
    /// What asked for it.
    pub cause: Cause,
    /// The deploy that brought the version of the task that it executes.
    pub version: u64,
    /// Image as written.
    pub image: String,
    /// Its alloc, once it has one.
    pub alloc: Option<AllocId>,
    /// The name of its node, as long as that is known.
    pub node: Option<String>,
    /// When it was asked for.
    pub asked: Wall,
    /// When it was over.
    pub ended: Option<Wall>,
    /// How far its alloc is.
    pub phase: Option<Phase>,
    /// How it ended, once it has.
    pub outcome: Option<Outcome>,
    /// How far it is, or how it ended, in words.
    pub state: String,
    /// What it waits for: sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<String>,
    /// What stands in its way, or went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
    /// Changes whenever anything above does.
    pub fingerprint: u64,
}

/// A task that services of a deploy wait for, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateView {
    /// The task.
    pub task: Name,
    /// Its run, once it was begun.
    pub run: Option<u64>,
    /// How far that is, in words.
    pub state: String,
}

/// An alloc, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocView {
    /// Its id.
    pub id: AllocId,
    /// Its slot; of a run, its task and number.
    pub slot: Slot,
    /// Whether it executes a run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_run: bool,
    /// Its node's name.
    pub node: String,
    /// Where its node is reached.
    pub host: String,
    /// Its port.
    pub port: Option<u16>,
    /// How far it is.
    pub phase: Phase,
    /// Whether it is to stop.
    pub stopping: bool,
    /// Version whose container it runs.
    pub version: u64,
    /// Image as written.
    pub image: String,
    /// How often its container was started again.
    pub restarts: u32,
    /// What stands in its way.
    pub trouble: Option<Trouble>,
}

/// A deploy, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployView {
    /// Its number.
    pub number: u64,
    /// Whose services.
    pub project: Name,
    /// What asked for it.
    pub kind: DeployKind,
    /// The earlier deploy that it goes back to, if that is what it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_to: Option<u64>,
    /// Whether a service that fails goes back by itself, and the others go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_going: bool,
    /// How far it is.
    pub state: DeployState,
    /// Each service that it touches.
    pub services: Vec<DeployServiceView>,
    /// Tasks that it changes, adds or removes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<Name>,
    /// Tasks that must succeed before services move that name them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<GateView>,
    /// When it started.
    pub started: Wall,
    /// When it ended.
    pub ended: Option<Wall>,
    /// What became of each replica that it stopped, in the order of their slots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub receipt: Vec<ReceiptView>,
    /// Changes whenever anything above does.
    pub fingerprint: u64,
}

/// What became of a replica that a deploy stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptView {
    /// Which.
    pub alloc: AllocId,
    /// Its node's name.
    pub node: String,
    /// Why it was stopped.
    pub reason: StopReason,
    /// When it left the routes.
    pub left: Wall,
    /// Nodes that let go of it, once all that were up had: they send nothing to it any more.
    pub let_go: Vec<String>,
    /// Nodes that were down, and were not waited for.
    pub excused: Vec<String>,
    /// When they all had, and it was asked to stop as soon as what was under way was done.
    pub released: Option<Wall>,
    /// When it was gone.
    pub gone: Option<Wall>,
    /// How its stop went; absent if it ended otherwise.
    pub ending: Option<Ending>,
}

/// A deploy in a list of all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploySummary {
    /// Its number.
    pub number: u64,
    /// Whose services.
    pub project: Name,
    /// What asked for it.
    pub kind: DeployKind,
    /// The earlier deploy that it goes back to, if that is what it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_to: Option<u64>,
    /// How far it is.
    pub state: DeployState,
    /// The services that it touches.
    pub services: Vec<Name>,
    /// The tasks that it touches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<Name>,
    /// Whether its project can go back to what it left.
    pub returnable: bool,
    /// When it started.
    pub started: Wall,
    /// When it ended.
    pub ended: Option<Wall>,
}

/// One service of a deploy, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployServiceView {
    /// The service.
    pub service: Name,
    /// Replicas that are new and healthy.
    pub ready: u32,
    /// Replicas that are wanted.
    pub wanted: u32,
    /// Whether it is done.
    pub settled: bool,
    /// That it failed, in a deploy that keeps going.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<FailedView>,
    /// What it waits for: sentences.
    pub waiting: Vec<String>,
}

/// A service that failed in a deploy that keeps going.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedView {
    /// What becomes of it: `failed`, `goes back`, or `not removed`.
    pub how: String,
    /// Why: a sentence.
    pub reason: String,
}

/// `mill why`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyView {
    /// What was asked about.
    pub subject: String,
    /// The short answer.
    pub summary: String,
    /// The facts that it rests on, most telling first.
    pub because: Vec<String>,
}

/// `mill route ls`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutesView {
    /// Every route in force.
    pub routes: Vec<RouteView>,
    /// Nodes that do not take requests, or not all, and why: a sentence.
    pub unrouted: BTreeMap<String, String>,
}

/// A route, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteView {
    /// Which service answers.
    pub service: Name,
    /// Its healthy replicas: without one, requests wait for a moment and are answered 503.
    pub healthy: usize,
    /// What it takes, and how.
    pub route: RouteSpec,
}

/// `mill cert ls`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificatesView {
    /// URL of the directory where they are ordered.
    pub directory: String,
    /// Every certificate that is shown or wanted.
    pub certificates: Vec<CertificateView>,
}

/// A certificate, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateView {
    /// What it is for.
    pub names: Vec<String>,
    /// Where it comes from.
    pub source: CertificateSource,
    /// Whether clients see it that name no host, or an unknown one.
    pub default: bool,
    /// From when it is good; nothing while there is none.
    pub not_before: Option<Wall>,
    /// Until when.
    pub not_after: Option<Wall>,
    /// Whether an order is under way.
    pub ordering: bool,
    /// Why the last try failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Failures in a row.
    pub failures: u32,
    /// When it is tried again, after a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Wall>,
}

/// Where a certificate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateSource {
    /// Mill ordered it and renews it.
    Ordered,
    /// A person imported it, and has to bring the next one.
    Imported,
}
