//! What can be typed.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};
use mill_core::cluster::admission::Roles;
use mill_core::name::Name;
use mill_runtime_real::LOG_LINES_MAX;
use mill_runtime_real::recovery_key::RecoveryKey;
use mill_runtime_real::token::JoinToken;

/// A container orchestrator for 3 to 20 nodes, in one binary.
#[derive(Debug, Parser)]
#[command(name = "mill", version, disable_help_subcommand = true, max_term_width = 100)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// Print one stable JSON document (or JSON lines) instead of text.
    #[arg(long, global = true)]
    pub json: bool,
}

/// Where the daemon is.
#[derive(Clone, Debug, ClapArgs)]
pub struct Target {
    /// Where the daemon answers: a socket's path, or http://HOST:PORT (with MILL_TOKEN set).
    #[arg(long, env = "MILL_ADDRESS", default_value = DEFAULT_SOCKET, value_name = "ADDRESS")]
    pub address: String,
}

/// The unix socket of a daemon that was told no other.
pub const DEFAULT_SOCKET: &str = "/run/mill/mill.sock";

/// The config to read.
#[derive(Clone, Debug, ClapArgs)]
pub struct Files {
    /// Config file; several are merged.
    #[arg(short, long = "file", default_value = "mill.toml", value_name = "FILE")]
    pub file: Vec<PathBuf>,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a throw-away cluster on this machine, deploy a config to it, and show its logs.
    #[command(after_help = "Example:\n  mill dev -f examples/shop/mill.toml")]
    Dev(Dev),
    /// Start the first node of a new cluster, or this machine's node again.
    #[command(after_help = "Example:\n  mill init --name a --advertise 192.0.2.10 --foreground")]
    Init(Init),
    /// Make this machine a node of a cluster. Safe to repeat.
    #[command(
        after_help = "Example:\n  mill join 192.0.2.10 --token mill1.... --advertise 192.0.2.11 --foreground"
    )]
    Join(Join),
    /// Take this machine out of its cluster: its containers move to other nodes first.
    #[command(after_help = "Example:\n  mill leave")]
    Leave(Leave),
    /// Show and change the nodes of the cluster.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Make and revoke the tokens with which machines join.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Save a cluster to a file, and bring it back on a new machine.
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Go on with this machine alone, when the majority of a cluster is lost for good.
    #[command(after_help = "Example:\n  mill recover --data /var/lib/mill")]
    Recover(Recover),
    /// Check a config and say everything that is wrong with it. Needs no cluster.
    #[command(after_help = "Example:\n  mill validate -f mill.toml")]
    Validate(Files),
    /// Show what a deploy would do.
    #[command(
        after_help = "Examples:\n  mill plan\n  mill plan -f new.toml --state state.json    (offline)"
    )]
    Plan(PlanArgs),
    /// Bring the cluster to what the config says.
    #[command(after_help = "Example:\n  mill deploy -f mill.toml --yes")]
    Deploy(Deploy),
    /// Show nodes, services and the last deploy.
    #[command(after_help = "Example:\n  mill status --json | jq .services")]
    Status(StatusArgs),
    /// List allocs: the containers that Mill runs.
    #[command(after_help = "Example:\n  mill ps web")]
    Ps(Ps),
    /// Say why a service, slot, alloc or node is as it is.
    #[command(after_help = "Example:\n  mill why web.0")]
    Why(Why),
    /// Show the output of services, merged in time order.
    #[command(after_help = "Example:\n  mill logs web api -f -n 20")]
    Logs(Logs),
    /// Replace the containers of a service, one after the other.
    #[command(after_help = "Example:\n  mill restart web")]
    Restart(Restart),
    /// Change how many replicas a service has, until the next deploy.
    #[command(after_help = "Example:\n  mill scale web 5")]
    Scale(Scale),
    /// Print the JSON Schema of `mill.toml`, for editors.
    #[command(after_help = "Example:\n  mill schema > mill.schema.json")]
    Schema,
    /// Check this machine, and say what to do about each problem.
    #[command(after_help = "Example:\n  mill doctor")]
    Doctor(Doctor),
    /// Run simulated clusters under faults; a failing seed is printed with its command.
    #[command(
        after_help = "Examples:\n  mill sim --seed 7\n  mill sim --seeds 0..1000 --jobs 2\n  mill sim --raft --seeds 0..100"
    )]
    Sim(Sim),
    /// Feed a flight recording to the same decision code and compare every decision.
    #[command(after_help = "Example:\n  mill replay /var/lib/mill/flight/00000001-000001.flight")]
    Replay(Replay),
    /// Print completions for a shell.
    #[command(after_help = "Example:\n  mill completions bash > /etc/bash_completion.d/mill")]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the version of this program and of its decision code.
    #[command(after_help = "Example:\n  mill version --json")]
    Version,
}

/// `mill dev`.
#[derive(Debug, ClapArgs)]
pub struct Dev {
    #[command(flatten)]
    pub files: Files,
    /// How many nodes; this version runs one.
    #[arg(long, default_value_t = 1)]
    pub nodes: u32,
    /// Stop as soon as everything is healthy and answers, instead of at Ctrl-C.
    #[arg(long)]
    pub once: bool,
}

/// `mill init`.
#[derive(Debug, ClapArgs)]
pub struct Init {
    #[command(flatten)]
    pub machine: Machine,
}

/// `mill join`.
#[derive(Debug, ClapArgs)]
pub struct Join {
    /// Where any node of the cluster is reached by others; port 7400 if none is named.
    #[arg(value_name = "ADDRESS")]
    pub cluster: String,
    /// The token, which `mill init` or `mill token create` printed.
    #[arg(long, env = "MILL_JOIN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: JoinToken,
    /// What this node does: `primary` (may vote and lead), `secondary` (runs containers), or both
    /// with a comma; all that the token gives by default.
    #[arg(long, value_name = "ROLES")]
    pub role: Option<RoleList>,
    /// A label for constraints; as many as you like.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<Label>,
    #[command(flatten)]
    pub machine: Machine,
}

/// How a daemon runs on this machine.
#[derive(Clone, Debug, ClapArgs)]
pub struct Machine {
    /// What people call this node; the host's name by default.
    #[arg(long)]
    pub name: Option<Name>,
    /// Address that others reach this node at.
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    pub advertise: IpAddr,
    /// Address and port to serve other nodes at; port 7400 of --advertise by default.
    #[arg(long, value_name = "HOST:PORT")]
    pub rpc: Option<String>,
    /// Stay in the foreground, instead of running as a service of systemd.
    #[arg(long)]
    pub foreground: bool,
    /// Where the node keeps everything.
    #[arg(long, default_value = "/var/lib/mill", value_name = "DIR")]
    pub data: PathBuf,
    /// Path of the API's unix socket.
    #[arg(long, default_value = DEFAULT_SOCKET, value_name = "PATH")]
    pub socket: PathBuf,
    /// Serve the API on this address as well; every request must then carry the token.
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// The container engine; unix:///var/run/docker.sock by default.
    #[arg(long, env = "DOCKER_HOST", value_name = "ADDRESS")]
    pub engine: Option<String>,
    /// Ports that containers are given, as FIRST-LAST.
    #[arg(long, default_value = "20000-29999", value_name = "RANGE")]
    pub ports: PortRange,
    /// Log as JSON lines.
    #[arg(long)]
    pub log_json: bool,
}

impl Machine {
    /// What would have to be typed to start the daemon in the same way.
    pub fn words(&self) -> Vec<String> {
        let PortRange(ports) = self.ports;
        let options = [
            ("--name", self.name.as_ref().map(Name::to_string)),
            ("--advertise", Some(self.advertise.to_string())),
            ("--rpc", self.rpc.clone()),
            ("--data", Some(self.data.display().to_string())),
            ("--socket", Some(self.socket.display().to_string())),
            ("--listen", self.listen.clone()),
            ("--engine", self.engine.clone()),
            ("--ports", Some(format!("{}-{}", ports.first, ports.last))),
        ];
        let given = options
            .into_iter()
            .filter_map(|(option, value)| value.map(|value| [option.to_owned(), value]));
        let flags = self.log_json.then(|| "--log-json".to_owned());
        given.flatten().chain(["--foreground".to_owned()]).chain(flags).collect()
    }
}

/// `mill leave`.
#[derive(Debug, ClapArgs)]
pub struct Leave {
    #[command(flatten)]
    pub target: Target,
    /// Also where its containers have no other place to go to: they stop.
    #[arg(long)]
    pub force: bool,
}

/// `mill node`.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List the nodes.
    #[command(after_help = "Example:\n  mill node ls --json | jq '.[].name'")]
    Ls(NodeLs),
    /// Show everything about a node.
    #[command(after_help = "Example:\n  mill node inspect b")]
    Inspect(NodeInspect),
    /// Set and remove labels of a node, for constraints.
    #[command(after_help = "Example:\n  mill node label b zone=east disk-")]
    Label(NodeLabel),
    /// Empty a node: what runs on it starts elsewhere first. It gets nothing new until `undrain`.
    #[command(after_help = "Example:\n  mill node drain b")]
    Drain(NodeDrain),
    /// Let a node take containers again.
    #[command(after_help = "Example:\n  mill node undrain b")]
    Undrain(NodeName),
    /// Remove a node from the cluster for good.
    #[command(after_help = "Example:\n  mill node rm b")]
    Rm(NodeRm),
}

/// `mill node ls`.
#[derive(Debug, ClapArgs)]
pub struct NodeLs {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub stale: Stale,
}

/// A node, and where to ask.
#[derive(Debug, ClapArgs)]
pub struct NodeName {
    #[command(flatten)]
    pub target: Target,
    /// Its name or number.
    #[arg(value_name = "NODE")]
    pub node: String,
}

/// `mill node inspect`.
#[derive(Debug, ClapArgs)]
pub struct NodeInspect {
    #[command(flatten)]
    pub name: NodeName,
    #[command(flatten)]
    pub stale: Stale,
}

/// `mill node label`.
#[derive(Debug, ClapArgs)]
pub struct NodeLabel {
    #[command(flatten)]
    pub name: NodeName,
    /// `KEY=VALUE` sets a label, `KEY-` removes it.
    #[arg(required = true, value_name = "CHANGE")]
    pub changes: Vec<LabelChange>,
}

/// `mill node drain`.
#[derive(Debug, ClapArgs)]
pub struct NodeDrain {
    #[command(flatten)]
    pub name: NodeName,
    /// Do not wait until it is empty.
    #[arg(short, long)]
    pub detach: bool,
}

/// `mill node rm`.
#[derive(Debug, ClapArgs)]
pub struct NodeRm {
    #[command(flatten)]
    pub name: NodeName,
    /// Also a node that was not drained, because its machine is gone.
    #[arg(long)]
    pub force: bool,
}

/// `mill token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token, and print the command with which a machine joins.
    #[command(after_help = "Example:\n  mill token create --role secondary --lasts 1h --once")]
    Create(TokenCreate),
    /// Make all tokens worthless; nodes that have joined stay.
    #[command(after_help = "Example:\n  mill token revoke")]
    Revoke(TokenRevoke),
}

/// `mill token create`.
#[derive(Debug, ClapArgs)]
pub struct TokenCreate {
    #[command(flatten)]
    pub target: Target,
    /// The roles that it gives: `primary`, `secondary`, or both with a comma.
    #[arg(long, default_value = "primary,secondary", value_name = "ROLES")]
    pub role: RoleList,
    /// How long it is good: `1h`, `7d`.
    #[arg(long, default_value = "24h", value_name = "DURATION")]
    pub lasts: mill_core::units::Millis,
    /// Good for one machine only.
    #[arg(long)]
    pub once: bool,
}

/// `mill token revoke`.
#[derive(Debug, ClapArgs)]
pub struct TokenRevoke {
    #[command(flatten)]
    pub target: Target,
}

/// `mill backup`.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Write the cluster's state to a file, with its authority sealed to the recovery key.
    #[command(after_help = "Example:\n  mill backup save /backups/mill.backup")]
    Save(BackupSave),
    /// Start a new machine as the only node of a cluster that was saved.
    #[command(
        after_help = "Example:\n  mill backup restore mill.backup --recovery-key millrec1.... --advertise 192.0.2.10 --foreground"
    )]
    Restore(BackupRestore),
}

/// `mill backup save`.
#[derive(Debug, ClapArgs)]
pub struct BackupSave {
    #[command(flatten)]
    pub target: Target,
    /// Where to; named after the cluster and its revision by default.
    pub file: Option<PathBuf>,
}

/// `mill backup restore`.
#[derive(Debug, ClapArgs)]
pub struct BackupRestore {
    /// The backup.
    pub file: PathBuf,
    /// The key that `mill init` printed when the cluster began.
    #[arg(long, env = "MILL_RECOVERY_KEY", hide_env_values = true, value_name = "KEY")]
    pub recovery_key: RecoveryKey,
    #[command(flatten)]
    pub machine: Machine,
}

/// `mill recover`.
#[derive(Debug, ClapArgs)]
pub struct Recover {
    /// Where the node keeps everything; its daemon must not run.
    #[arg(long, default_value = "/var/lib/mill", value_name = "DIR")]
    pub data: PathBuf,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
}

/// Whether the answer may be old.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub struct Stale {
    /// Answer from the asked node's own copy, also without a leader; says how old it may be.
    #[arg(long = "stale")]
    pub wanted: bool,
}

/// Roles as typed.
#[derive(Clone, Copy, Debug)]
pub struct RoleList(pub Roles);

impl std::str::FromStr for RoleList {
    type Err = String;

    fn from_str(text: &str) -> Result<RoleList, String> {
        let mut roles = Roles { primary: false, secondary: false };
        for word in text.split(',') {
            match word.trim() {
                "primary" => roles.primary = true,
                "secondary" => roles.secondary = true,
                other => {
                    return Err(format!(
                        "`{other}` is not a role; write primary, secondary or primary,secondary"
                    ));
                }
            }
        }
        Ok(RoleList(roles))
    }
}

/// A label as typed.
#[derive(Clone, Debug)]
pub struct Label(pub String, pub String);

impl std::str::FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Label, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Label(key.to_owned(), value.to_owned())),
            Some(_) | None => Err(format!("`{text}` is not a label; write KEY=VALUE")),
        }
    }
}

/// A change of a label as typed.
#[derive(Clone, Debug)]
pub enum LabelChange {
    Set(Label),
    Remove(String),
}

impl std::str::FromStr for LabelChange {
    type Err = String;

    fn from_str(text: &str) -> Result<LabelChange, String> {
        match text.strip_suffix('-') {
            Some(key) if !key.is_empty() && !key.contains('=') => {
                Ok(LabelChange::Remove(key.to_owned()))
            }
            Some(_) | None => text.parse().map(LabelChange::Set).map_err(|_: String| {
                format!("`{text}` changes no label; write KEY=VALUE to set one, KEY- to remove it")
            }),
        }
    }
}

/// A range of ports as typed.
#[derive(Clone, Copy, Debug)]
pub struct PortRange(pub mill_core::cluster::node::PortPool);

impl std::str::FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<PortRange, String> {
        let bad = || format!("`{text}` is not a range of ports; write 20000-29999");
        let (first, last) = text.split_once('-').ok_or_else(bad)?;
        let first: u16 = first.parse().map_err(|_| bad())?;
        let last: u16 = last.parse().map_err(|_| bad())?;
        if first < 1024 || last < first {
            return Err(format!("{}, from 1024 up", bad()));
        }
        Ok(PortRange(mill_core::cluster::node::PortPool { first, last }))
    }
}

/// `mill plan`.
#[derive(Debug, ClapArgs)]
pub struct PlanArgs {
    #[command(flatten)]
    pub files: Files,
    #[command(flatten)]
    pub target: Target,
    /// Plan against this state instead of a cluster; `mill status --state` writes one.
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
}

/// `mill deploy`.
#[derive(Debug, ClapArgs)]
pub struct Deploy {
    #[command(flatten)]
    pub files: Files,
    #[command(flatten)]
    pub target: Target,
    /// Show the plan and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
    /// Do not wait for the end.
    #[arg(short, long)]
    pub detach: bool,
    /// If another deploy runs, wait for its end instead of being refused.
    #[arg(long)]
    pub wait: bool,
}

/// `mill status`.
#[derive(Debug, ClapArgs)]
pub struct StatusArgs {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub stale: Stale,
    /// Print the whole replicated state, for `mill plan --state`.
    #[arg(long, conflicts_with = "wanted")]
    pub state: bool,
}

/// `mill ps`.
#[derive(Debug, ClapArgs)]
pub struct Ps {
    #[command(flatten)]
    pub target: Target,
    /// Only this service's.
    pub service: Option<Name>,
    /// Also those that have ended.
    #[arg(short, long)]
    pub all: bool,
    #[command(flatten)]
    pub stale: Stale,
}

/// `mill why`.
#[derive(Debug, ClapArgs)]
pub struct Why {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub stale: Stale,
    /// A service, slot (`web.0`), alloc (`web.0-k3f9`) or node.
    pub name: String,
}

/// `mill logs`.
#[derive(Debug, ClapArgs)]
pub struct Logs {
    #[command(flatten)]
    pub target: Target,
    /// Services, slots or allocs; everything by default.
    pub names: Vec<String>,
    /// Go on with what is written from now on.
    #[arg(short, long)]
    pub follow: bool,
    /// Lines of each alloc to begin with.
    #[arg(short = 'n', long, default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(..=i64::from(LOG_LINES_MAX)))]
    pub lines: u32,
    /// Only what is younger: `10m`, `2h`.
    #[arg(long)]
    pub since: Option<mill_core::units::Millis>,
    /// Also allocs that have ended.
    #[arg(short, long)]
    pub all: bool,
}

/// `mill restart`.
#[derive(Debug, ClapArgs)]
pub struct Restart {
    #[command(flatten)]
    pub target: Target,
    /// Which service.
    pub service: Name,
    /// Do not wait for the end.
    #[arg(short, long)]
    pub detach: bool,
}

/// `mill scale`.
#[derive(Debug, ClapArgs)]
pub struct Scale {
    #[command(flatten)]
    pub target: Target,
    /// Which service.
    pub service: Name,
    /// How many replicas.
    pub replicas: u32,
    /// Do not wait for the end.
    #[arg(short, long)]
    pub detach: bool,
}

/// `mill doctor`.
#[derive(Debug, ClapArgs)]
pub struct Doctor {
    /// The container engine; unix:///var/run/docker.sock by default.
    #[arg(long, env = "DOCKER_HOST", value_name = "ADDRESS")]
    pub engine: Option<String>,
    /// Where the node keeps (or would keep) everything.
    #[arg(long, default_value = "/var/lib/mill", value_name = "DIR")]
    pub data: PathBuf,
    /// Ports that containers are given, as FIRST-LAST.
    #[arg(long, default_value = "20000-29999", value_name = "RANGE")]
    pub ports: PortRange,
}

/// `mill sim`.
#[derive(Debug, ClapArgs)]
pub struct Sim {
    /// One seed; its timeline and verdict are printed.
    #[arg(long, value_parser = seed, conflicts_with = "seeds", required_unless_present = "seeds")]
    pub seed: Option<u64>,
    /// Seeds from A up to but not including B.
    #[arg(long, value_parser = seeds, value_name = "A..B")]
    pub seeds: Option<std::ops::Range<u64>>,
    /// Seeds that run at the same time.
    #[arg(long, default_value_t = 1)]
    pub jobs: u32,
    /// Nodes, instead of what the seed says.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub nodes: Option<u32>,
    /// Print every event of one seed, not only the last ones.
    #[arg(long, conflicts_with = "seeds")]
    pub trace: bool,
    /// Run the real consensus on simulated networks, disks and clocks, and nothing above it.
    #[arg(long, conflicts_with = "nodes")]
    pub raft: bool,
}

fn seed(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("`{text}` is not a seed; write a number, as 7 or 0x1f"))
}

fn seeds(text: &str) -> Result<std::ops::Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("write seeds as A..B, for example 0..1000")?;
    let range = seed(from)?..seed(to)?;
    if range.is_empty() {
        return Err("there is no seed in that range".to_owned());
    }
    Ok(range)
}

/// `mill replay`.
#[derive(Debug, ClapArgs)]
pub struct Replay {
    /// The recording.
    pub file: PathBuf,
    /// Print every event and its effects.
    #[arg(long)]
    pub verbose: bool,
}
