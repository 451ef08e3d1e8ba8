//! `mill init` and `mill join`: the daemon of a node.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use mill_core::cluster::admission::Roles;
use mill_core::name::Name;
use mill_runtime_real::daemon::{Beginning, Daemon, DaemonOptions, End, Invitation, TokenWish};
use mill_runtime_real::ingress::IngressOptions;
use mill_runtime_real::recovery_key::RecoveryKey;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::{Outcome, done, nodes, unit};
use crate::args::{DEFAULT_SOCKET, Init, Join, Label, Listen, Machine};
use crate::failure::Failure;
use crate::render;
use crate::render::progress::Waiting;

/// Where nodes serve each other, if nothing else is said.
const RPC_PORT: u16 = 7400;
/// How long the token is good that `mill init` prints.
const INVITED_FOR: Duration = Duration::from_secs(HOURS_INVITED * 3600);
const HOURS_INVITED: u64 = 24;
/// Threads of the daemon; it waits far more than it works.
const THREADS: usize = 2;

/// The daemon's runtime.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(THREADS).enable_all().build();
    runtime.map_err(|error| Failure::of(&error))
}

/// What the daemon logs: all that an operator would care about. Of openraft only what it cannot go
/// on from: its warnings are about its inner workings, and `consensus` says what matters in
/// words of its own. The same of boringtun, which calls a lost datagram an error.
const LOG: &str = "info,openraft=off,boringtun=off";

/// Logs to standard error; `MILL_LOG` or `RUST_LOG` says how much.
pub fn log(json: bool, default: &str) {
    let asked = ["MILL_LOG", "RUST_LOG"].into_iter().find_map(|name| std::env::var(name).ok());
    let filter = EnvFilter::new(asked.as_deref().unwrap_or(default));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(render::colour_on(&std::io::stderr()))
        .with_writer(std::io::stderr);
    // A second subscriber in one process is refused, and the first is as good.
    let _ = match json {
        true => builder.json().try_init(),
        false => builder.try_init(),
    };
}

/// `mill init`.
pub async fn init(args: Init, json: bool) -> Outcome {
    let machine = args.machine;
    begin(&machine)?;
    if !machine.foreground {
        return init_service(&machine, json).await;
    }
    let mut stop = Stop::new()?;
    let daemon = Daemon::start(options(&machine)).await;
    let daemon = daemon.map_err(|error| Failure::of(&error))?;
    if !json {
        print_secrets(&daemon.beginning);
    }
    // `mill token create` makes another: what was shown only now must not be lost with this one.
    let invited = match (&daemon.beginning.new_token, &daemon.rpc) {
        (Some(_), Some(rpc)) if is_reachable(&machine) => {
            let token = daemon.create_token(invitation()).await.ok();
            token.map(|token| (rpc.clone(), token.reveal()))
        }
        (_, _) => None,
    };
    match json {
        true => println!("{}", beginning(&daemon.beginning, &machine, invited)),
        false => print_invitation(&daemon.beginning, &machine, invited),
    }
    until_stopped(daemon, &mut stop).await
}

/// The daemon is systemd's business. What is shown once is shown before anything can fail.
async fn init_service(machine: &Machine, json: bool) -> Outcome {
    let show = |node: &Beginning| {
        if !json {
            print_secrets(node);
        }
    };
    let node = Daemon::enroll(&options(machine), show).map_err(|error| Failure::of(&error))?;
    let client = unit::install(machine).await;
    let invited = match (&client, node.new_token.is_some() && is_reachable(machine)) {
        (Ok(client), true) => nodes::create(client, &invitation()).await.ok(),
        (_, _) => None,
    };
    match json {
        true => println!("{}", beginning(&node, machine, invited)),
        false if client.is_ok() => print_invitation(&node, machine, invited),
        false => {}
    }
    client?;
    done()
}

/// Nobody else can reach a node that advertises this machine to itself.
fn is_reachable(machine: &Machine) -> bool {
    !machine.advertise.is_loopback()
}

/// `mill join`.
pub async fn join(args: Join, json: bool) -> Outcome {
    let machine = args.machine;
    begin(&machine)?;
    let address = with_port(&args.cluster);
    if machine.advertise.is_loopback() && !is_loopback(&address) {
        let message = format!(
            "{} is an address that no other machine can reach: name one of this machine with \
             --advertise",
            machine.advertise
        );
        return Err(Failure::Usage(message));
    }
    let invitation = Invitation {
        address: address.clone(),
        token: args.token,
        roles: args.role.map(|role| role.0),
        labels: args.labels.into_iter().map(|Label(key, value)| (key, value)).collect(),
    };
    let options = options(&machine);
    let what = format!("joining the cluster of {address}");
    let waiting = (!json).then(|| Waiting::on(&what));
    if !machine.foreground {
        let node = Daemon::enroll_joining(&options, &invitation).await;
        let node = node.map_err(|error| Failure::of(&error))?;
        unit::install(&machine).await?;
        drop(waiting);
        print_joined(&node, &machine, json);
        return done();
    }
    let mut stop = Stop::new()?;
    let daemon = tokio::select! {
        () = stop.wait() => {
            let message = "interrupted; the same command goes on where this one stopped";
            return Err(Failure::Failed(message.to_owned()));
        }
        joined = Daemon::join(options, invitation) => joined.map_err(|error| Failure::of(&error))?,
    };
    drop(waiting);
    print_joined(&daemon.beginning, &machine, json);
    until_stopped(daemon, &mut stop).await
}

/// What `mill init` lets others join with.
fn invitation() -> TokenWish {
    TokenWish { roles: Roles::default(), lasts: Some(INVITED_FOR), once: false }
}

/// The address with the usual port, if it names none.
fn with_port(address: &str) -> String {
    match address.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, RPC_PORT).to_string(),
        Err(_) if address.contains(':') => address.to_owned(),
        Err(_) => format!("{address}:{RPC_PORT}"),
    }
}

fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

/// What must be so before a daemon is started.
pub fn begin(machine: &Machine) -> Result<(), Failure> {
    if !machine.foreground && !unit::has_systemd() {
        let message = "there is no systemd here to run the daemon; use --foreground";
        return Err(Failure::Usage(message.to_owned()));
    }
    if machine.foreground {
        log(machine.log_json, LOG);
    }
    Ok(())
}

/// What the flags of a machine mean.
pub fn options(machine: &Machine) -> DaemonOptions {
    let usual = || SocketAddr::new(machine.advertise, RPC_PORT).to_string();
    DaemonOptions {
        data: machine.data.clone(),
        name: machine.name.as_ref().map(Name::to_string),
        advertise: machine.advertise.to_string(),
        socket: machine.socket.clone(),
        rpc: Some(machine.rpc.clone().unwrap_or_else(usual)),
        listen: machine.listen.clone(),
        engine: machine.engine.clone(),
        ports: machine.ports.0,
        ingress: ingress(machine),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn ingress(machine: &Machine) -> IngressOptions {
    let usual = IngressOptions::usual();
    let asked = |listen: Option<Listen>, usual| listen.map_or(usual, |Listen(address)| address);
    IngressOptions {
        http: asked(machine.http, usual.http),
        https: asked(machine.https, usual.https),
        ..usual
    }
}

/// Runs until it is asked to stop, or cannot go on.
pub async fn until_stopped(mut daemon: Daemon, stop: &mut Stop) -> Outcome {
    let ended = tokio::select! {
        () = stop.wait() => None,
        ended = daemon.ended() => Some(ended),
    };
    match ended {
        None => {
            daemon.stop().await;
            Ok(ExitCode::SUCCESS)
        }
        Some(ended @ End::Failed(_)) => {
            daemon.stop().await;
            Err(Failure::Failed(format!("the daemon stopped: {ended}")))
        }
        Some(End::Removed) => {
            let Beginning { name, cluster, .. } = daemon.beginning.clone();
            let left = daemon.remove().await.err();
            let left = left.map(|left| format!("; containers are left here: {left}"));
            println!(
                "node {name} was removed from cluster {cluster}: the daemon has ended, and what ran \
                 here was removed{}\nto join a cluster again, give it an empty data directory",
                left.unwrap_or_default()
            );
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// `invited` is the address and the token with which others can join.
fn beginning(
    node: &Beginning,
    machine: &Machine,
    invited: Option<(String, String)>,
) -> serde_json::Value {
    json!({
        "cluster": node.cluster,
        "socket": machine.socket,
        "new_token": node.new_token,
        "recovery_key": node.new_recovery_key.as_ref().map(RecoveryKey::reveal),
        "join": invited.map(|(address, token)| json!({ "address": address, "token": token })),
    })
}

fn print_secrets(node: &Beginning) {
    if let (Some(token), Some(key)) = (&node.new_token, &node.new_recovery_key) {
        println!("cluster {} has begun", node.cluster);
        println!("API token, shown only now: {token}");
        println!("recovery key, shown only now, keep it elsewhere: {}", key.reveal());
    }
}

fn print_invitation(node: &Beginning, machine: &Machine, invited: Option<(String, String)>) {
    match invited {
        Some((rpc, token)) => {
            println!("to add a machine, within {HOURS_INVITED} hours, run on it:");
            println!("  {}", join_command(&rpc, &token));
        }
        None if node.new_token.is_some() && !is_reachable(machine) => println!(
            "only this machine reaches this node: name an address with --advertise, so that others \
             can join"
        ),
        None if node.new_token.is_some() => {
            println!("`mill token create` prints how other machines join");
        }
        None => {}
    }
    print_socket(machine);
}

fn print_joined(node: &Beginning, machine: &Machine, json: bool) {
    let Beginning { name, cluster, .. } = node;
    if json {
        let document = json!({ "cluster": cluster, "socket": machine.socket, "name": name });
        println!("{document}");
        return;
    }
    println!("this machine is node {name} of cluster {cluster}");
    print_socket(machine);
}

/// What a person types on a machine that is to join.
pub fn join_command(rpc: &str, token: &str) -> String {
    let foreground = if unit::has_systemd() { "" } else { " --foreground" };
    format!("mill join {rpc} --token {token} --advertise ITS-ADDRESS{foreground}")
}

pub fn print_socket(machine: &Machine) {
    let socket = &machine.socket;
    println!("the API answers at {}", socket.display());
    if socket != Path::new(DEFAULT_SOCKET) {
        println!("set MILL_ADDRESS={} for the other commands", socket.display());
    }
}

/// The signals that ask a process to stop.
pub struct Stop {
    signals: Vec<Signal>,
}

impl Stop {
    /// Listens for an interrupt and for termination from now on.
    pub fn new() -> Result<Stop, Failure> {
        Stop::on(&[SignalKind::interrupt(), SignalKind::terminate()])
    }

    /// The same and the end of the terminal, which must not leave a throw-away cluster behind.
    pub fn with_hangup() -> Result<Stop, Failure> {
        Stop::on(&[SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()])
    }

    fn on(kinds: &[SignalKind]) -> Result<Stop, Failure> {
        let listening = kinds.iter().map(|kind| signal(*kind)).collect::<Result<_, _>>();
        Ok(Stop { signals: listening.map_err(|error| Failure::of(&error))? })
    }

    /// Waits for one of them.
    pub async fn wait(&mut self) {
        let each = self.signals.iter_mut().map(|signal| Box::pin(signal.recv()));
        futures_util::future::select_all(each).await;
    }
}
