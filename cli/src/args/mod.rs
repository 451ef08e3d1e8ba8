//! What can be typed.

mod ingress;
mod nodes;
mod past;
mod runs;
mod streams;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};
use mill_core::name::Name;
use mill_runtime_real::LOG_LINES_MAX;

pub use self::ingress::{CertCommand, Listen, RouteCommand};
pub use self::nodes::{
    BackupCommand, BackupRestore, BackupSave, Init, Join, Label, LabelChange, Leave, Machine,
    NodeCommand, NodeDrain, NodeInspect, NodeLabel, NodeLs, NodeName, NodeRm, PortRange, Recover,
    TokenCommand, TokenCreate, TokenRevoke, absolute,
};
pub use self::past::{
    CancelDeploy, DeploysCommand, HistoryArgs, PromoteDeploy, Rollback, WhichDeploy,
};
pub use self::runs::{Run, RunsCommand, RunsLs, WhichRun};
pub use self::streams::{Exec, Forward, Ports};

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
    #[command(subcommand, after_help = "Example:\n  mill node ls")]
    Node(NodeCommand),
    /// Make and revoke the tokens with which machines join.
    #[command(subcommand, after_help = "Example:\n  mill token create --once")]
    Token(TokenCommand),
    /// Save a cluster to a file, and bring it back on a new machine.
    #[command(subcommand, after_help = "Example:\n  mill backup save")]
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
    /// Say why a service, slot, task, run, alloc or node is as it is.
    #[command(after_help = "Example:\n  mill why web.0")]
    Why(Why),
    /// Show the output of services, merged in time order.
    #[command(after_help = "Example:\n  mill logs web api -f -n 20")]
    Logs(Logs),
    /// What happened and why: what was placed, stopped, lost, deployed, and by whom.
    #[command(after_help = "Examples:\n  mill events -f\n  mill events web '#12'")]
    Events(Events),
    /// Show where requests from outside come in.
    #[command(subcommand, after_help = "Example:\n  mill route ls")]
    Route(RouteCommand),
    /// Show and bring the certificates of hosts that routes are for.
    #[command(subcommand, after_help = "Example:\n  mill cert ls")]
    Cert(CertCommand),
    /// Replace the containers of a service, one after the other.
    #[command(after_help = "Example:\n  mill restart web")]
    Restart(Restart),
    /// Change how many replicas a service has, until the next deploy.
    #[command(after_help = "Example:\n  mill scale web 5")]
    Scale(Scale),
    /// Go back to what a project ran after an earlier deploy.
    #[command(after_help = "Examples:\n  mill rollback\n  mill rollback --to 7 --dry-run")]
    Rollback(Rollback),
    /// List past deploys.
    #[command(after_help = "Example:\n  mill history -n 5")]
    History(HistoryArgs),
    /// Look at a deploy, watch it, cancel it, or promote its canaries.
    #[command(subcommand, after_help = "Example:\n  mill deploys cancel")]
    Deploys(DeploysCommand),
    /// Execute a task once, show its output, and exit as it exits.
    #[command(
        after_help = "Examples:\n  mill run migrate\n  mill run report --env DAY=monday -- ./report --all"
    )]
    Run(Run),
    /// Look at runs of tasks, or end one.
    #[command(subcommand, after_help = "Example:\n  mill runs ls")]
    Runs(RunsCommand),
    /// Run a command in a container, on whichever node that is.
    #[command(
        after_help = "Examples:\n  mill exec -it web -- sh\n  mill exec db.0 -- pg_dump shop > shop.sql\n  mill exec -i db -- psql shop < fix.sql"
    )]
    Exec(Exec),
    /// Take connections on this machine and carry them to replicas of a service.
    #[command(
        after_help = "Examples:\n  mill forward web 8080\n  mill forward db.0-k3f9 15432:5432"
    )]
    Forward(Forward),
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

/// Whether the answer may be old.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub struct Stale {
    /// Answer from the asked node's own copy, also without a leader; says how old it may be.
    #[arg(long = "stale")]
    pub wanted: bool,
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
    /// A service that fails goes back by itself, and the others go on.
    #[arg(long)]
    pub keep_going: bool,
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

/// `mill events`.
#[derive(Debug, ClapArgs)]
pub struct Events {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub stale: Stale,
    /// Services, slots, allocs, nodes by number, or deploys as `#12`; everything by default.
    pub names: Vec<String>,
    /// Go on with what happens from now on.
    #[arg(short, long)]
    pub follow: bool,
    /// How many at most to begin with, the latest.
    #[arg(short = 'n', long, default_value_t = 50)]
    pub lines: usize,
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
    #[command(flatten)]
    pub target: Target,
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
    /// Run the real consensus on simulated networks, disks and clocks: under the nodes, and under
    /// lists whose histories are checked.
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
