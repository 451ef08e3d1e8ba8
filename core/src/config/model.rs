//! What a project asks for, typed: the meaning of `mill.toml` after parsing and validation.
//!
//! This is what deploys carry, the replicated state keeps and the scheduler reads. It knows
//! nothing of TOML, files or spans. Everything that makes a running container differ sits in
//! [`ContainerSpec`]: a change there replaces replicas, a change beside it does not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::text::Text;
use crate::name::Name;
use crate::units::{Bytes, Millicores, Millis};

/// One project: everything that a deploy of it may add, change or remove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Project {
    /// Its name; `main` when the file names none.
    pub name: Name,
    /// Cluster-wide settings that this file changes.
    #[serde(default)]
    pub cluster: ClusterSettings,
    /// Long-running workloads.
    #[serde(default)]
    pub services: BTreeMap<Name, ServiceSpec>,
    /// Templates for work that runs to completion.
    #[serde(default)]
    pub tasks: BTreeMap<Name, TaskSpec>,
}

/// `[cluster]`: settings that any deploy may change; absent means unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// Contact address of the ACME account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme_email: Option<String>,
    /// URL of the ACME directory that certificates are ordered from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme_directory: Option<String>,
    /// PEM of the authority that the directory itself is trusted by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme_root: Option<String>,
    /// Networks of proxies whose word on who their clients are is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusted_proxies: Option<Vec<String>>,
}

impl ClusterSettings {
    /// Takes over what others set; the rest stays.
    pub fn adopt(&mut self, others: &ClusterSettings) {
        let ClusterSettings { acme_email, acme_directory, acme_root, trusted_proxies } = others;
        fn change<T: Clone>(mine: &mut Option<T>, other: &Option<T>) {
            if other.is_some() {
                mine.clone_from(other);
            }
        }
        change(&mut self.acme_email, acme_email);
        change(&mut self.acme_directory, acme_directory);
        change(&mut self.acme_root, acme_root);
        change(&mut self.trusted_proxies, trusted_proxies);
    }

    /// Whether it sets nothing.
    pub fn is_empty(&self) -> bool {
        *self == ClusterSettings::default()
    }
}

/// `[service.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// How many copies run.
    pub replicas: Replicas,
    /// A task that must succeed before this service changes, once per deploy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Name>,
    /// What one replica runs.
    pub container: ContainerSpec,
    /// How replicas are replaced.
    #[serde(default)]
    pub update: UpdateSpec,
    /// Where requests from outside come in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteSpec>,
    /// Which nodes may and should run it.
    #[serde(default)]
    pub place: PlaceSpec,
}

/// How many copies of a service run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Replicas {
    /// This many, 0 to 1000.
    Count(u32),
    /// One on every node that its constraints allow.
    EachNode,
}

/// `[task.NAME]`: a template; each execution of it is a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// What the run executes.
    pub container: ContainerSpec,
    /// A run that takes longer is killed and marked failed.
    pub timeout: Millis,
    /// Cron expression, when it runs by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// IANA time zone of `schedule`; UTC when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// What happens when the schedule is due and its last run is not over.
    #[serde(default)]
    pub overlap: Overlap,
    /// What happens when nobody could serve the schedule in time.
    #[serde(default)]
    pub missed: Missed,
    /// Runs of it that may be under way at a time, 1 to 100; others wait in line.
    pub concurrency: u32,
    /// Which nodes may and should run it.
    #[serde(default)]
    pub place: PlaceSpec,
}

/// What happens when a schedule is due and its last run is not over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlap {
    /// Nothing is run for that time.
    #[default]
    Skip,
    /// It is run besides, or after it if `concurrency` says so.
    Allow,
    /// The last run is killed and the new one takes its place.
    Replace,
}

/// What happens when a schedule was due and nobody could serve it in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Missed {
    /// It is run once, as soon as it can be, however often it was missed.
    #[default]
    Run,
    /// It is run the next time that it is due.
    Skip,
}

/// What one container is: any change here means a new container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Image reference as written: `registry.example.com/shop/web:3.1`.
    pub image: String,
    /// The port that callers use; absent for a worker that nobody calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The image cannot listen on `$PORT`: it owns `port` on its node.
    #[serde(default)]
    pub fixed_port: bool,
    /// Reservation and ceiling. Absent: no ceiling, [`DEFAULT_CPU`] reserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Millicores>,
    /// Reservation and ceiling. Absent: no ceiling, [`DEFAULT_MEMORY`] reserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Replaces the image's command; empty keeps it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<Text>,
    /// Environment, besides what Mill adds (`PORT`, `MILL_*`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Text>,
    /// Absolute path in the container -> content, on tmpfs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_files: BTreeMap<String, Text>,
    /// How its health is known.
    #[serde(default)]
    pub health: HealthSpec,
    /// How it is asked to stop.
    #[serde(default)]
    pub stop: StopSpec,
    /// Storage mounted into it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeSpec>,
    /// User (and group) to run as; the image's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The root file system is mounted read-only.
    #[serde(default)]
    pub read_only: bool,
    /// Linux capabilities added to the hardened default set, without `CAP_`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cap_add: Vec<String>,
    /// Linux capabilities removed from the hardened default set, without `CAP_`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cap_drop: Vec<String>,
    /// Absolute paths that are writable memory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tmpfs: Vec<String>,
}

/// Cpu that is reserved where a container names none.
pub const DEFAULT_CPU: Millicores = Millicores(100);
/// Memory that is reserved where a container names none.
pub const DEFAULT_MEMORY: Bytes = Bytes(64 << 20);

impl ContainerSpec {
    /// Cpu that the scheduler sets aside.
    pub fn reserved_cpu(&self) -> Millicores {
        self.cpu.unwrap_or(DEFAULT_CPU)
    }

    /// Memory that the scheduler sets aside.
    pub fn reserved_memory(&self) -> Bytes {
        self.memory.unwrap_or(DEFAULT_MEMORY)
    }

    /// The port that it owns on its node, if it cannot take one from the pool.
    pub fn owned_port(&self) -> Option<u16> {
        self.port.filter(|_| self.fixed_port)
    }

    /// Whether losing its node loses data: a volume that outlives the container.
    pub fn has_persistent_volume(&self) -> bool {
        self.volumes.iter().any(VolumeSpec::is_persistent)
    }
}

impl VolumeSpec {
    /// Whether its data outlives the container.
    pub fn is_persistent(&self) -> bool {
        match self.kind {
            VolumeKind::Persistent { .. } => true,
            VolumeKind::Ephemeral { .. } => false,
        }
    }
}

/// `[service.NAME.health]`: how, how often and how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSpec {
    /// What is asked.
    pub check: HealthCheck,
    /// From the end of one probe to the start of the next.
    pub interval: Millis,
    /// A probe that takes longer has failed.
    pub timeout: Millis,
    /// Passing probes in a row before it is healthy.
    pub healthy_after: u32,
    /// Failing probes in a row before it is unhealthy.
    pub unhealthy_after: u32,
    /// Failing probes do not count for this long after a start.
    pub start_period: Millis,
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthCheck {
    /// Nothing: a container that runs is healthy.
    Running,
    /// `GET path` on the container's port answers 200 to 399.
    Http {
        /// Absolute path, with query if any.
        path: String,
    },
    /// The container's port accepts a connection.
    Tcp,
    /// This command in the container exits 0.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
}

impl Default for HealthSpec {
    fn default() -> HealthSpec {
        HealthSpec {
            check: HealthCheck::Running,
            interval: Millis::secs(5),
            timeout: Millis::secs(2),
            healthy_after: 1,
            unhealthy_after: 3,
            start_period: Millis::secs(30),
        }
    }
}

/// `[service.NAME.update]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateSpec {
    /// Replicas replaced at the same time, from 1.
    pub parallel: u32,
    /// New replicas that are watched alone before the rest follow; 0 for none.
    pub canary: u32,
    /// Which comes first.
    pub order: UpdateOrder,
    /// How long a new replica stays healthy before it counts.
    pub healthy_for: Millis,
    /// A service that has not finished by then has failed.
    pub deadline: Millis,
}

/// Which comes first when a replica is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    /// The new one is healthy before the old one stops.
    StartFirst,
    /// The old one is gone before the new one starts.
    StopFirst,
}

impl Default for UpdateSpec {
    fn default() -> UpdateSpec {
        UpdateSpec {
            parallel: 1,
            canary: 0,
            order: UpdateOrder::StartFirst,
            healthy_for: Millis::secs(5),
            deadline: Millis::mins(5),
        }
    }
}

/// `[service.NAME.stop]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopSpec {
    /// Signal that asks it to stop: `SIGTERM`.
    pub signal: String,
    /// After the signal, how long until SIGKILL.
    pub grace: Millis,
    /// How long requests in flight may finish before the signal.
    pub drain: Millis,
    /// Command run in the container before the signal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pre_stop: Vec<String>,
}

impl Default for StopSpec {
    fn default() -> StopSpec {
        StopSpec {
            signal: "SIGTERM".to_owned(),
            grace: Millis::secs(10),
            drain: Millis::secs(30),
            pre_stop: Vec::new(),
        }
    }
}

/// `[[service.NAME.volume]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// Unique in the cluster.
    pub name: Name,
    /// Absolute path in the container.
    pub path: String,
    /// What happens to the data.
    pub kind: VolumeKind,
}

/// What happens to the data of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeKind {
    /// A block device that follows its service.
    Persistent {
        /// Its size; may grow, never shrink.
        size: Bytes,
    },
    /// A directory on the node, lost when the replica moves.
    Ephemeral {
        /// Limit, where the file system can enforce one.
        size: Option<Bytes>,
    },
}

/// `[[service.NAME.route]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSpec {
    /// Which requests or connections it takes.
    pub accept: RouteMatch,
    /// Remove the matched path prefix before forwarding.
    #[serde(default)]
    pub strip_prefix: bool,
    /// Allow WebSocket upgrades.
    #[serde(default)]
    pub websocket: bool,
    /// Whole request, from first byte to last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Millis>,
    /// Largest request body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_body: Option<Bytes>,
    /// Answer with a redirect to this URL instead of forwarding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<String>,
    /// Serve HTTPS with a certificate from ACME.
    #[serde(default)]
    pub tls: bool,
    /// How long a request waits while no replica is healthy.
    #[serde(default = "hold")]
    pub hold: Millis,
    /// Networks that are let in; everybody if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Requests each second from one address in the long run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<u32>,
    /// Requests at once from one address; as many as `rate_limit` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Who may come: name -> bcrypt hash of the password; everybody if empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub basic_auth: BTreeMap<String, String>,
    /// Headers that requests have on their way to a replica; an empty value removes one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub request_headers: BTreeMap<String, String>,
    /// The same of answers on their way back.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub response_headers: BTreeMap<String, String>,
    /// Answer every request 503 with this text instead of forwarding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<String>,
    /// Replicas speak HTTP/2 without TLS.
    #[serde(default)]
    pub h2c: bool,
}

impl RouteSpec {
    /// A route with nothing out of the ordinary.
    pub fn new(accept: RouteMatch) -> RouteSpec {
        RouteSpec {
            accept,
            strip_prefix: false,
            websocket: false,
            timeout: None,
            max_body: None,
            redirect: None,
            tls: false,
            hold: RouteSpec::HOLD,
            allow: Vec::new(),
            rate_limit: None,
            burst: None,
            basic_auth: BTreeMap::new(),
            request_headers: BTreeMap::new(),
            response_headers: BTreeMap::new(),
            maintenance: None,
            h2c: false,
        }
    }

    /// How long requests wait where nothing else is said.
    pub const HOLD: Millis = Millis::secs(5);
    /// The longest that they may be made to wait.
    pub const LONGEST_HOLD: Millis = Millis::secs(60);
}

fn hold() -> Millis {
    RouteSpec::HOLD
}

/// Which requests or connections a route takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteMatch {
    /// HTTP requests for this host whose path has this prefix; the longest prefix wins.
    Http {
        /// Host name, lower case.
        host: String,
        /// Absolute path prefix.
        path: String,
    },
    /// TCP connections to this port of every ingress node.
    Tcp {
        /// The port.
        listen: u16,
        /// TLS connections for this server name only, which are passed on as they are.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
    },
}

impl RouteMatch {
    /// Where every node listens once there is any HTTP route.
    pub const HTTP_PORTS: [u16; 2] = [80, 443];
}

/// `[service.NAME.place]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceSpec {
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub require: BTreeMap<String, String>,
    /// Labels that a node had better have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prefer: BTreeMap<String, String>,
    /// A label over whose values replicas are spread, besides over nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<String>,
}
