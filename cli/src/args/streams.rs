//! What can be typed of streams: `mill exec` and `mill forward`.

use std::str::FromStr;

use clap::Args as ClapArgs;

use super::Target;

/// `mill exec`.
#[derive(Debug, ClapArgs)]
pub struct Exec {
    #[command(flatten)]
    pub at: Target,
    /// Pass on what is typed here.
    #[arg(short = 'i', long)]
    pub interactive: bool,
    /// Give the command a terminal: this one.
    #[arg(short = 't', long)]
    pub tty: bool,
    /// A service, slot (`web.0`) or alloc (`web.0-k3f9`); of several replicas, a healthy one.
    pub target: String,
    /// The program and its arguments, after `--`.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// `mill forward`.
#[derive(Debug, ClapArgs)]
pub struct Forward {
    #[command(flatten)]
    pub at: Target,
    /// A service, slot (`web.0`) or alloc (`web.0-k3f9`); a service's healthy replicas take turns.
    pub target: String,
    /// The port that callers use, or the replica's own; before it another one for this machine.
    #[arg(value_name = "[LOCAL:]PORT")]
    pub ports: Ports,
}

/// A port here, and the one there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// On this machine; 0 for any that is free.
    pub local: u16,
    /// Of the service.
    pub remote: u16,
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Ports, String> {
        let (local, remote) = text.split_once(':').unwrap_or((text, text));
        let port = |text: &str| text.parse::<u16>().ok();
        match (port(local), port(remote).filter(|port| *port > 0)) {
            (Some(local), Some(remote)) => Ok(Ports { local, remote }),
            _ => Err("write a port, as 8080, or two, as 18080:8080".to_owned()),
        }
    }
}
