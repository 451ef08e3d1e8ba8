//! What can be typed about tasks and their runs.

use clap::{Args as ClapArgs, Subcommand};
use mill_core::name::{Name, Slot};

use super::{Stale, Target};

/// `mill run`.
#[derive(Debug, ClapArgs)]
pub struct Run {
    #[command(flatten)]
    pub target: Target,
    /// Which task.
    pub task: Name,
    /// Set a variable for this run, in place of the task's or besides them; can be repeated.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// Do not wait for the end.
    #[arg(short, long)]
    pub detach: bool,
    /// The command, in place of the task's.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `mill runs`.
#[derive(Debug, Subcommand)]
pub enum RunsCommand {
    /// List runs, the latest first.
    #[command(after_help = "Example:\n  mill runs ls migrate")]
    Ls(RunsLs),
    /// Show a run: how far it is, or how it ended.
    #[command(after_help = "Example:\n  mill runs show 12")]
    Show(WhichRun),
    /// End a run: it is asked to stop, and killed after its grace period.
    #[command(after_help = "Example:\n  mill runs kill 12")]
    Kill(WhichRun),
}

/// `mill runs ls`.
#[derive(Debug, ClapArgs)]
pub struct RunsLs {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub stale: Stale,
    /// Only this task's.
    pub task: Option<Name>,
    /// How many at most, the latest.
    #[arg(short = 'n', long, default_value_t = 20)]
    pub lines: usize,
}

/// One run.
#[derive(Debug, ClapArgs)]
pub struct WhichRun {
    #[command(flatten)]
    pub target: Target,
    /// Its number, alone or after its task: 12 or migrate.12.
    #[arg(value_parser = number, value_name = "RUN")]
    pub run: u64,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("write a variable and its value, as in DEBUG=1".to_owned()),
    }
}

fn number(text: &str) -> Result<u64, String> {
    let number = text.parse::<u64>().ok().or_else(|| Some(text.parse::<Slot>().ok()?.index));
    number.ok_or_else(|| "write the number of a run, alone or after its task: 12".to_owned())
}
