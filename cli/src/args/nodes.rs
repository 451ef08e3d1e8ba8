//! What can be typed about machines, nodes, tokens and backups.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Subcommand};
use mill_core::cluster::admission::Roles;
use mill_core::name::Name;
use mill_runtime_real::recovery_key::RecoveryKey;
use mill_runtime_real::token::JoinToken;

use super::{DEFAULT_SOCKET, Listen, Stale, Target};

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
    /// Where plain HTTP from outside comes in, once there are routes; `none` for nowhere. Port 80
    /// of every address by default.
    #[arg(long, value_name = "HOST:PORT")]
    pub http: Option<Listen>,
    /// Where HTTPS comes in, the same. Port 443 of every address by default.
    #[arg(long, value_name = "HOST:PORT")]
    pub https: Option<Listen>,
    /// Log as JSON lines.
    #[arg(long)]
    pub log_json: bool,
}

/// The same path, for a process that begins in another directory.
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

impl Machine {
    /// What would have to be typed to start the daemon in the same way.
    pub fn words(&self) -> Vec<String> {
        let PortRange(ports) = self.ports;
        let options = [
            ("--name", self.name.as_ref().map(Name::to_string)),
            ("--advertise", Some(self.advertise.to_string())),
            ("--rpc", self.rpc.clone()),
            ("--data", Some(absolute(&self.data).display().to_string())),
            ("--socket", Some(absolute(&self.socket).display().to_string())),
            ("--listen", self.listen.clone()),
            ("--engine", self.engine.clone()),
            ("--http", self.http.map(|listen| listen.to_string())),
            ("--https", self.https.map(|listen| listen.to_string())),
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
    /// Let a node make another key for the mesh, in place of the one that it has. It does so once
    /// every node that is up has answered it outside the mesh, since through it they cannot be told.
    #[command(after_help = "Example:\n  mill node rotate-key b")]
    RotateKey(NodeName),
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
    /// Make a token in place of all that there are.
    #[command(after_help = "Example:\n  mill token rotate --lasts 7d")]
    Rotate(TokenCreate),
    /// Make all tokens worthless; nodes that have joined stay.
    #[command(after_help = "Example:\n  mill token revoke")]
    Revoke(TokenRevoke),
}

/// `mill token create` and `mill token rotate`.
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
        after_help = "Example:\n  MILL_RECOVERY_KEY=millrec1.... mill backup restore mill.backup --advertise 192.0.2.10 --foreground"
    )]
    Restore(Box<BackupRestore>),
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
