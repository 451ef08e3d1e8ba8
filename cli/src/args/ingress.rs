//! What can be typed about requests from outside.

use std::net::SocketAddr;
use std::path::PathBuf;
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

/// `mill cert`.
#[derive(Debug, Subcommand)]
pub enum CertCommand {
    /// List the certificates: until when each is good, and why one is missing.
    #[command(after_help = "Example:\n  mill cert ls")]
    Ls(CertLs),
    /// Show a certificate of your own in place of one that Mill orders.
    #[command(after_help = "Example:\n  mill cert import --cert fullchain.pem --key privkey.pem")]
    Import(CertImport),
    /// Take back a certificate that was imported; Mill orders one where routes want it.
    #[command(after_help = "Example:\n  mill cert rm shop.example.com")]
    Rm(CertName),
    /// Order a certificate anew, now: when a key is lost, or a failure is mended.
    #[command(after_help = "Example:\n  mill cert renew shop.example.com")]
    Renew(CertName),
}

/// `mill cert ls`.
#[derive(Debug, ClapArgs)]
pub struct CertLs {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub stale: Stale,
}

/// `mill cert import`.
#[derive(Debug, ClapArgs)]
pub struct CertImport {
    #[command(flatten)]
    pub target: Target,
    /// The certificate and those above it, in PEM, the certificate first.
    #[arg(long, value_name = "FILE")]
    pub cert: PathBuf,
    /// Its key, in PEM.
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// Show it also to clients that name no host, or an unknown one.
    #[arg(long)]
    pub default: bool,
}

/// A certificate, by one of its names.
#[derive(Debug, ClapArgs)]
pub struct CertName {
    #[command(flatten)]
    pub target: Target,
    /// A host name that it is for.
    pub name: String,
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
