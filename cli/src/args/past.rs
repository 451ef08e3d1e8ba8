//! What can be typed about deploys that were.

use clap::{Args as ClapArgs, Subcommand};
use mill_core::name::Name;

use super::{Stale, Target};

/// `mill rollback`.
#[derive(Debug, ClapArgs)]
pub struct Rollback {
    #[command(flatten)]
    pub target: Target,
    /// To what ran after this deploy; by default, the latest that differs from what runs now.
    #[arg(long, value_name = "N")]
    pub to: Option<u64>,
    /// Which project, if there are several.
    #[arg(long)]
    pub project: Option<Name>,
    /// Show the plan and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
    /// Do not wait for the end.
    #[arg(short, long)]
    pub detach: bool,
}

/// `mill history`.
#[derive(Debug, ClapArgs)]
pub struct HistoryArgs {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub stale: Stale,
    /// Only this project's.
    #[arg(long)]
    pub project: Option<Name>,
    /// How many at most, the latest.
    #[arg(short = 'n', long, default_value_t = 20)]
    pub lines: usize,
}

/// `mill deploys`.
#[derive(Debug, Subcommand)]
pub enum DeploysCommand {
    /// Show a deploy: how far it is, and each service that it moves.
    #[command(after_help = "Example:\n  mill deploys show 7")]
    Show(WhichDeploy),
    /// Watch a deploy to its end, and exit as it ends.
    #[command(after_help = "Example:\n  mill deploys attach")]
    Attach(WhichDeploy),
    /// Stop the running deploy, and bring everything back to what it ran before.
    #[command(after_help = "Example:\n  mill deploys cancel")]
    Cancel(CancelDeploy),
    /// Let the other replicas follow their canaries now, before those were watched to the end.
    #[command(
        after_help = "Examples:\n  mill deploys promote\n  mill deploys promote --service web"
    )]
    Promote(PromoteDeploy),
}

/// One deploy.
#[derive(Debug, ClapArgs)]
pub struct WhichDeploy {
    #[command(flatten)]
    pub target: Target,
    /// Its number; the latest by default.
    pub number: Option<u64>,
}

/// `mill deploys promote`.
#[derive(Debug, ClapArgs)]
pub struct PromoteDeploy {
    #[command(flatten)]
    pub which: WhichDeploy,
    /// Only this service's; can be repeated.
    #[arg(long = "service", value_name = "NAME")]
    pub services: Vec<Name>,
}

/// `mill deploys cancel`.
#[derive(Debug, ClapArgs)]
pub struct CancelDeploy {
    #[command(flatten)]
    pub which: WhichDeploy,
    /// Do not wait until everything is back.
    #[arg(short, long)]
    pub detach: bool,
}
