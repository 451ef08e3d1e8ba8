//! What core asks of a container engine, and what it may hear: no engine's own notions.
//!
//! Every operation is idempotent by alloc id: asked twice, it is done once and answers the same.
//! The real adapter speaks to Docker, the simulated one to a model; the agent decides.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::model::HealthCheck;
use crate::name::AllocId;
use crate::units::{Bytes, Millicores, Millis};

/// An image as the engine is to run it: what was asked for, and the bytes that it meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PinnedImage {
    /// As written in the config: `registry.example.com/shop/web:3.1`.
    pub reference: String,
    /// What it resolved to: a manifest digest `sha256:...` of the registry, or the engine's own
    /// image id for an image that was never in one.
    pub digest: Digest,
}

/// What fixes an image's bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Digest {
    /// Digest of the manifest in its registry: any node can fetch it.
    Registry(String),
    /// Id of an image that exists only in the engines it was loaded into.
    Local(String),
}

/// All that is needed to start one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    /// Whose container it is.
    pub alloc: AllocId,
    /// What it runs.
    pub image: PinnedImage,
    /// Replaces the image's command; empty keeps it.
    pub command: Vec<String>,
    /// Complete, with `PORT` and `MILL_*`.
    pub env: BTreeMap<String, String>,
    /// Ceiling; absent for none.
    pub cpu: Option<Millicores>,
    /// Ceiling; absent for none.
    pub memory: Option<Bytes>,
    /// User (and group); the image's own when absent.
    pub user: Option<String>,
    /// Read-only root file system.
    pub read_only: bool,
    /// Capabilities added to the hardened default set, without `CAP_`.
    pub cap_add: Vec<String>,
    /// Capabilities removed from the hardened default set, without `CAP_`.
    pub cap_drop: Vec<String>,
    /// Paths that are writable memory.
    pub tmpfs: Vec<String>,
    /// The port that it is to listen on, checked to be free before the start.
    pub port: Option<u16>,
    /// Whether it is executed once: a container that was created for it is started, never replaced.
    #[serde(default)]
    pub once: bool,
    /// Signal that the engine should know as its stop signal.
    pub stop_signal: String,
    /// How its health is known; kept as a label, so that a restarted daemon can show it.
    pub labels: BTreeMap<String, String>,
}

/// How a container is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopPlan {
    /// Command run in the container before the signal.
    pub pre_stop: Vec<String>,
    /// Signal that asks it to stop.
    pub signal: String,
    /// After the signal, how long until SIGKILL.
    pub grace: Millis,
}

/// An operation on this node's engine or containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerOp {
    /// Find out what a reference means and have it here. Answers [`OpOutput::Image`].
    Resolve {
        /// As written in the config.
        reference: String,
    },
    /// Have exactly these bytes here. Answers [`OpOutput::Done`].
    Fetch {
        /// What to have.
        image: PinnedImage,
    },
    /// Remove images that were pulled for this cluster and are not among these, but for such as
    /// containers use. What others brought here stays. Answers [`OpOutput::Done`].
    PruneImages {
        /// What may be needed.
        keep: Vec<PinnedImage>,
    },
    /// Create the container and start it. Answers [`OpOutput::Container`].
    Start {
        /// All that is needed.
        spec: Box<RunSpec>,
    },
    /// Start the stopped container of an alloc again. Answers [`OpOutput::Container`].
    Restart {
        /// Whose container.
        alloc: AllocId,
        /// Checked to be free before the start.
        port: Option<u16>,
    },
    /// Ask it to stop, wait, kill. Answers [`OpOutput::Exited`], also when it was not running.
    Stop {
        /// Whose container.
        alloc: AllocId,
        /// How.
        plan: StopPlan,
    },
    /// Remove it, killing it if it runs. Answers [`OpOutput::Done`], also when there is none.
    Remove {
        /// Whose container.
        alloc: AllocId,
    },
    /// All containers of this cluster on this node. Answers [`OpOutput::Containers`].
    List,
    /// One health probe. Answers [`OpOutput::Done`] or an error that says what it answered.
    Probe {
        /// Whose container.
        alloc: AllocId,
        /// The port that it listens on, for http and tcp.
        port: Option<u16>,
        /// What to ask.
        check: HealthCheck,
        /// Give up after this long.
        timeout: Millis,
    },
    /// How many connections to a port of this node are open. Answers [`OpOutput::InFlight`].
    CountInFlight {
        /// Whose port.
        alloc: AllocId,
        /// Which.
        port: u16,
    },
    /// The last lines of its output. Answers [`OpOutput::Lines`].
    Tail {
        /// Whose container.
        alloc: AllocId,
        /// At most this many lines.
        lines: u32,
    },
}

/// What an operation that worked answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpOutput {
    /// It holds now.
    Done,
    /// What the reference means.
    Image(PinnedImage),
    /// The container as it is now.
    Container(Observed),
    /// How it ended; absent if there was nothing to stop.
    Exited(Option<Exit>),
    /// Every container of this cluster on this node.
    Containers(Vec<Observed>),
    /// Output lines, oldest first.
    Lines(Vec<String>),
    /// So many connections.
    InFlight(u32),
}

/// A container as the engine sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// From its label.
    pub alloc: AllocId,
    /// Whether it runs.
    pub state: ContainerState,
    /// How often it was started, counted by the adapter from the engine's start time: two
    /// observations with the same number saw the same process.
    pub started: u64,
    /// In a listing: for how long its process has run, by the machine's wall clock; 0 elsewhere, and
    /// if it does not run.
    #[serde(default)]
    pub running_for: Millis,
    /// Labels it was started with.
    pub labels: BTreeMap<String, String>,
}

/// Whether a container runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// Created and never started.
    Created,
    /// It runs.
    Running,
    /// It ran and ended.
    Exited(Exit),
}

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + N for a signal N, as shells count.
    pub code: i32,
    /// The kernel killed it because it reached its memory ceiling.
    pub out_of_memory: bool,
    /// It ended only after SIGKILL because it outlived its grace period.
    pub killed_after_grace: bool,
}

/// Why an operation failed: what the agent's retry and the person's remedy depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{detail}")]
pub struct OpError {
    /// What kind of failure.
    pub kind: OpErrorKind,
    /// A sentence for people: what happened, why, what to do.
    pub detail: String,
}

/// Kinds of failure, coarse enough to decide on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OpErrorKind {
    /// The engine does not answer: retried until it does.
    EngineDown,
    /// No such image, in the registry nor here: permanent.
    ImageMissing,
    /// The registry refused the credentials, or wants some: permanent.
    RegistryRefused,
    /// The registry does not answer or fails: retried.
    RegistryDown,
    /// Another program listens on the port: permanent for this alloc.
    PortTaken,
    /// No space left: retried slowly.
    DiskFull,
    /// The engine refuses this container (bad command, unknown user, ...): permanent.
    Rejected,
    /// The container does not exist.
    Gone,
    /// A probe that got no or the wrong answer.
    Unhealthy,
    /// It took longer than allowed: retried.
    TimedOut,
    /// Anything else: retried.
    Other,
}

impl OpErrorKind {
    /// Whether trying the same again cannot help.
    pub fn is_permanent(self) -> bool {
        match self {
            OpErrorKind::ImageMissing
            | OpErrorKind::RegistryRefused
            | OpErrorKind::PortTaken
            | OpErrorKind::Rejected => true,
            OpErrorKind::EngineDown
            | OpErrorKind::RegistryDown
            | OpErrorKind::DiskFull
            | OpErrorKind::Gone
            | OpErrorKind::Unhealthy
            | OpErrorKind::TimedOut
            | OpErrorKind::Other => false,
        }
    }
}

/// Labels on every container that Mill starts.
pub mod label {
    /// Cluster id: containers of other clusters on the same engine are not ours.
    pub const CLUSTER: &str = "mill.cluster";
    /// Node id: test clusters share one engine.
    pub const NODE: &str = "mill.node";
    /// Alloc id.
    pub const ALLOC: &str = "mill.alloc";
    /// Service name.
    pub const SERVICE: &str = "mill.service";
    /// Number of the deploy whose config it runs.
    pub const VERSION: &str = "mill.version";
    /// Port that it was given.
    pub const PORT: &str = "mill.port";
}
