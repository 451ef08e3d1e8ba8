//! One file per command, or per family of them.

mod cert;
mod config;
mod daemon;
mod deploy;
mod dev;
mod doctor;
mod events;
mod exec;
mod forward;
mod logs;
mod nodes;
mod operate;
mod past;
mod plan;
mod recovery;
mod replay;
mod route;
mod runs;
mod show;
mod sim;
mod unit;

use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::args::{Args, Command};
use crate::failure::Failure;

/// What a command comes to.
pub type Outcome = Result<ExitCode, Failure>;

/// Runs a command.
pub fn run(args: Args) -> Outcome {
    let json = args.json;
    match args.command {
        Command::Dev(args) => daemon::runtime()?.block_on(dev::dev(args, json)),
        Command::Init(args) => daemon::runtime()?.block_on(daemon::init(args, json)),
        Command::Join(args) => daemon::runtime()?.block_on(daemon::join(args, json)),
        Command::Leave(args) => client_runtime()?.block_on(nodes::leave(args, json)),
        Command::Node(command) => client_runtime()?.block_on(nodes::node(command, json)),
        Command::Token(command) => client_runtime()?.block_on(nodes::token(command, json)),
        Command::Backup(command) => recovery::backup(command, json),
        Command::Recover(args) => recovery::recover(args, json),
        Command::Validate(files) => config::validate(&files, json),
        Command::Plan(args) => client_runtime()?.block_on(plan::plan(args, json)),
        Command::Deploy(args) => client_runtime()?.block_on(deploy::deploy(args, json)),
        Command::Status(args) => client_runtime()?.block_on(show::status(args, json)),
        Command::Ps(args) => client_runtime()?.block_on(show::ps(args, json)),
        Command::Why(args) => client_runtime()?.block_on(show::why(args, json)),
        Command::Logs(args) => client_runtime()?.block_on(logs::logs(args, json)),
        Command::Events(args) => client_runtime()?.block_on(events::events(args, json)),
        Command::Cert(command) => client_runtime()?.block_on(cert::cert(command, json)),
        Command::Route(command) => client_runtime()?.block_on(route::route(command, json)),
        Command::Restart(args) => client_runtime()?.block_on(operate::restart(args, json)),
        Command::Scale(args) => client_runtime()?.block_on(operate::scale(args, json)),
        Command::Rollback(args) => client_runtime()?.block_on(past::rollback(args, json)),
        Command::History(args) => client_runtime()?.block_on(past::history(args, json)),
        Command::Deploys(command) => client_runtime()?.block_on(past::deploys(command, json)),
        Command::Run(args) => client_runtime()?.block_on(runs::run(args, json)),
        Command::Runs(command) => client_runtime()?.block_on(runs::runs(command, json)),
        Command::Exec(args) => client_runtime()?.block_on(exec::exec(args, json)),
        Command::Forward(args) => client_runtime()?.block_on(forward::forward(args, json)),
        Command::Schema => {
            println!("{}", pretty(&mill_core::config::schema()));
            done()
        }
        Command::Doctor(args) => client_runtime()?.block_on(doctor::doctor(args, json)),
        Command::Sim(args) => sim::sim(&args, json),
        Command::Replay(args) => replay::replay(&args, json),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "mill", &mut script);
            print!("{}", String::from_utf8_lossy(&script));
            done()
        }
        Command::Version => version(json),
    }
}

/// The command did what it was asked to.
pub fn done() -> Outcome {
    Ok(ExitCode::SUCCESS)
}

/// A document for programs.
pub fn pretty(document: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(document).expect("documents have text keys only")
}

/// Enough for a client.
fn client_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::of(&error))
}

fn version(json: bool) -> Outcome {
    let (version, core) = (env!("CARGO_PKG_VERSION"), mill_core::recording::CORE_VERSION);
    match json {
        true => println!("{}", pretty(&serde_json::json!({ "version": version, "core": core }))),
        false => println!("mill {version} (core {core})"),
    }
    done()
}
