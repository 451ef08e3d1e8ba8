//! Where there is systemd, a node's daemon is a service of it: `mill.service`, written and started.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mill_runtime_real::identity::IDENTITY_FILE;

use crate::args::{Machine, absolute};
use crate::client::Client;
use crate::failure::Failure;

/// It is there exactly where systemd has started the machine (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
const UNIT: &str = "mill.service";
const FILE: &str = "/etc/systemd/system/mill.service";
/// A daemon that does not answer by then has a reason, which its log says.
const ANSWERS_WITHIN: u32 = 300;
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Whether systemd runs this machine.
pub fn has_systemd() -> bool {
    Path::new(BOOTED).exists()
}

/// Writes the unit, starts it now and at every boot, and waits until the daemon answers:
/// through the client that is returned.
pub async fn install(machine: &Machine) -> Result<Client, Failure> {
    let program = std::env::current_exe().map_err(|error| Failure::of(&error))?;
    fs::write(FILE, text(&program, machine)).map_err(|error| {
        Failure::Failed(format!("cannot write {FILE}: {error}; are you root? or use --foreground"))
    })?;
    for arguments in [&["daemon-reload"][..], &["enable", UNIT], &["restart", UNIT]] {
        systemctl(arguments)?;
    }
    let client = Client::new(&machine.socket.display().to_string())?;
    for _ in 0..ANSWERS_WITHIN {
        if client.text("/v1/version").await.is_ok() {
            return Ok(client);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Err(Failure::Failed(format!(
        "{UNIT} was started, and its daemon does not answer: `journalctl -u {UNIT}` says why"
    )))
}

fn systemctl(arguments: &[&str]) -> Result<(), Failure> {
    let told = format!("systemctl {}", arguments.join(" "));
    let output = Command::new("systemctl").args(arguments).output();
    let output = output.map_err(|error| Failure::Failed(format!("cannot run {told}: {error}")))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(Failure::Failed(format!("{told} failed: {}", said.trim())))
        }
    }
}

/// The unit's file. `mill init` goes on with whatever node the data directory is of, so no token
/// stands here.
fn text(program: &Path, machine: &Machine) -> String {
    let mut words = vec![program.display().to_string(), "init".to_owned()];
    words.extend(machine.words());
    let command: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!(
        "# Written by `mill init` or `mill join`, and again whenever they are repeated.\n\
         [Unit]\n\
         Description=Mill\n\
         After=network-online.target docker.service\n\
         Wants=network-online.target\n\
         StartLimitIntervalSec=0\n\
         # Never begins a cluster: a directory that is empty or not mounted starts nothing.\n\
         ConditionPathExists={}\n\
         \n\
         [Service]\n\
         # Where Docker's client keeps what it needs to log in to registries.\n\
         Environment=HOME=%h\n\
         ExecStart={}\n\
         # A node that was removed from its cluster ends without a failure, and stays ended.\n\
         Restart=on-failure\n\
         RestartSec=1\n\
         LimitNOFILE=65536\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        path_of(&absolute(&machine.data).join(IDENTITY_FILE)),
        command.join(" ")
    )
}

/// A path where no quotes are known (systemd.unit(5)).
fn path_of(path: &Path) -> String {
    path.display().to_string().replace('%', "%%")
}

/// As systemd reads it (systemd.service(5), "Command lines").
fn quoted(word: &str) -> String {
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", escaped.replace('%', "%%").replace('$', "$$"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_daemon_as_they_were_typed() {
        assert_eq!(quoted("/var/lib/mill"), "\"/var/lib/mill\"");
        assert_eq!(quoted("50% of $HOME \"x\" \\"), "\"50%% of $$HOME \\\"x\\\" \\\\\"");
    }
}
