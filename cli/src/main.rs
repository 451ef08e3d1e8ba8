//! The mill binary: arguments in, a client's request or a daemon out, words for people.
//!
//! It decides nothing about clusters. `args` is what can be typed, `commands` has a file for each
//! command, `client` speaks to a daemon, `render` turns answers into text. Exit codes: 0 done,
//! 1 it failed, 2 wrong usage, 3 the cluster could not be reached.

mod args;
mod client;
mod commands;
mod failure;
mod render;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::Args;

fn main() -> ExitCode {
    let args = Args::parse();
    let json = args.json;
    render::pipe::quietly(|| commands::run(args).unwrap_or_else(|failure| failure.report(json)))
}
