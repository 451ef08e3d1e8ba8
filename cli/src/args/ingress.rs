//! What can be typed about requests from outside.

use std::net::SocketAddr;
use std::str::FromStr;

use clap::{Args as ClapArgs, Subcommand};

use super::{Stale, Target};

/// `mill route`.
#[derive(Debug, Subcommand)]
pub enum RouteCommand {
    /// List the routes: what comes in where, and which service answers.
    #[command(after_help = "Example:\n  mill route ls --json | jq '.routes[].service'")]
    Ls(RouteLs),
}

/// `mill route ls`.
#[derive(Debug, ClapArgs)]
pub struct RouteLs {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub stale: Stale,
}

/// Where to listen; nowhere for `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub Option<SocketAddr>);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Listen, String> {
        if text == "none" {
            return Ok(Listen(None));
        }
        let address = text.parse().map(Some).map(Listen);
        address.map_err(|_| "write an address and port like 192.0.2.10:80, or `none`".to_owned())
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("none"),
        }
    }
}
