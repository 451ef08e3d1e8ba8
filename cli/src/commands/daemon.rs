//! `mill init`: the daemon of the first node.

use std::path::Path;
use std::process::ExitCode;

use mill_runtime_real::daemon::{Daemon, DaemonOptions};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::Outcome;
use crate::args::{DEFAULT_SOCKET, Init};
use crate::failure::Failure;
use crate::render;

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
/// words of its own.
const LOG: &str = "info,openraft=error";

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
    if !args.foreground && !Path::new("/run/systemd/system").exists() {
        let message = "there is no systemd here to run the daemon; use --foreground";
        return Err(Failure::Usage(message.to_owned()));
    }
    if !args.foreground {
        let message = "installing a systemd unit is not supported yet by this version; \
                       use --foreground, for example in a unit of your own";
        return Err(Failure::Usage(message.to_owned()));
    }
    log(args.log_json, LOG);
    let mut stop = Stop::new()?;
    let mut daemon = Daemon::start(DaemonOptions {
        data: args.data,
        name: args.name.map(|name| name.to_string()),
        advertise: args.advertise.to_string(),
        socket: args.socket.clone(),
        listen: args.listen.clone(),
        engine: args.engine,
        ports: args.ports.0,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
    .await
    .map_err(|error| Failure::of(&error))?;
    if json {
        let (cluster, token) = (&daemon.cluster, &daemon.new_token);
        println!("{}", json!({ "cluster": cluster, "socket": args.socket, "new_token": token }));
    } else {
        print_beginning(&daemon, &args.socket);
    }
    let failed = tokio::select! {
        () = stop.wait() => None,
        reason = daemon.failed() => Some(reason),
    };
    daemon.stop().await;
    match failed {
        Some(reason) => Err(Failure::Failed(format!("the daemon stopped: {reason}"))),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn print_beginning(daemon: &Daemon, socket: &Path) {
    if let Some(token) = &daemon.new_token {
        println!("cluster {} has begun", daemon.cluster);
        println!("API token, shown only now: {token}");
    }
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
