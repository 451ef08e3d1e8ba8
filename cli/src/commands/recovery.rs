//! `mill backup` and `mill recover`: a cluster in a file and back, and going on after a majority
//! was lost.

use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use mill_runtime_real::backup::Backup;
use mill_runtime_real::daemon::Daemon;
use mill_runtime_real::recovery::Survey;
use serde_json::json;

use super::{Outcome, daemon, done};
use crate::args::{BackupCommand, BackupRestore, BackupSave, Recover};
use crate::client::Client;
use crate::failure::Failure;

/// `mill backup save`.
pub async fn save(args: BackupSave, json: bool) -> Outcome {
    let client = Client::new(&args.target.address)?;
    let text = client.text("/v1/backup").await?;
    // What cannot be read back is none.
    let backup = Backup::read(&text).map_err(|error| Failure::of(&error))?;
    let usual = || PathBuf::from(format!("mill-{}-{}.backup", backup.cluster, backup.revision));
    let file = args.file.unwrap_or_else(usual);
    write(&file, text.as_bytes())
        .map_err(|error| Failure::Failed(format!("cannot write {}: {error}", file.display())))?;
    let revision = backup.revision.to_string();
    match json {
        true => println!("{}", json!({ "file": file, "revision": revision })),
        false => println!(
            "cluster {} as of revision {revision} is in {}; to restore it takes the recovery key \
             as well",
            backup.cluster,
            file.display()
        ),
    }
    done()
}

/// Beside, synced, renamed: an older backup of that name is there until the new one is whole.
fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    let mut new =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    new.write_all(bytes)?;
    new.sync_all()?;
    fs::rename(&beside, file)
}

/// `mill backup ...`.
pub fn backup(command: BackupCommand, json: bool) -> Outcome {
    match command {
        BackupCommand::Save(args) => super::client_runtime()?.block_on(save(args, json)),
        BackupCommand::Restore(args) => daemon::runtime()?.block_on(restore(*args, json)),
    }
}

/// `mill backup restore`.
async fn restore(args: BackupRestore, json: bool) -> Outcome {
    let machine = args.machine;
    let text = fs::read_to_string(&args.file).map_err(|error| {
        Failure::Failed(format!("cannot read {}: {error}", args.file.display()))
    })?;
    let backup = Backup::read(&text).map_err(|error| Failure::of(&error))?;
    if !machine.foreground {
        let message = "a restored node begins in the foreground: add --foreground; when it runs, \
                       stop it, and `mill init` with the same options makes it a service of systemd";
        return Err(Failure::Usage(message.to_owned()));
    }
    daemon::begin(&machine)?;
    let mut stop = daemon::Stop::new()?;
    let started = Daemon::restore(daemon::options(&machine), &backup, &args.recovery_key).await;
    let daemon = started.map_err(|error| Failure::of(&error))?;
    match json {
        true => println!(
            "{}",
            json!({
                "cluster": daemon.beginning.cluster,
                "socket": machine.socket,
                "name": daemon.beginning.name,
            })
        ),
        false => {
            println!(
                "cluster {} goes on from revision {} on node {} alone; its services start here now",
                daemon.beginning.cluster, backup.revision, daemon.beginning.name
            );
            println!("other machines join with `mill token create`");
            daemon::print_socket(&machine);
        }
    }
    daemon::until_stopped(daemon, &mut stop).await
}

/// `mill recover`.
pub fn recover(args: Recover, json: bool) -> Outcome {
    let survey = Survey::of(&args.data).map_err(|error| Failure::of(&error))?;
    if !json {
        tell(&survey);
    }
    if !args.yes && !agreed()? {
        return Err(Failure::Failed("nothing was changed".to_owned()));
    }
    let revision = survey.recover().map_err(|error| Failure::of(&error))?;
    match json {
        true => println!("{}", json!({ "revision": revision.to_string() })),
        false => println!(
            "this node is the only one now, from revision {revision} on. Start its daemon again \
             (`systemctl start mill`, or `mill init` with the options it had), then let other \
             machines join with `mill token create`"
        ),
    }
    done()
}

/// What is there, and what may be lost.
fn tell(survey: &Survey) {
    let (identity, cluster) = (&survey.identity, &survey.cluster);
    println!(
        "this machine is node {} of cluster {}, and has its state up to revision {}",
        identity.name, identity.cluster, cluster.revision
    );
    let others = cluster.nodes.iter().filter(|(id, _)| **id != identity.node);
    let others: Vec<String> =
        others.map(|(_, record)| format!("{} ({})", record.name, record.facts.advertise)).collect();
    println!("recovering makes it the only node, and the cluster goes on from what it has:");
    if others.is_empty() {
        println!("  - there is no other node");
    } else {
        println!("  - removed for good: {}", others.join(", "));
        println!("  - what these decided without this node is lost, also if it was acknowledged");
        println!(
            "  - one that comes back and reaches this node ends, and what runs on it is removed"
        );
        println!(
            "  - do this on one machine only: on the one with the highest revision, if several are \
             left"
        );
    }
    if survey.uncertain > 0 {
        println!(
            "  - of the entries in its log, the last {} may never have been acknowledged, and will be \
             in force",
            survey.uncertain
        );
    }
}

fn agreed() -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        let message = "nobody is at a terminal to be asked; --yes says that you know what is lost";
        return Err(Failure::Usage(message.to_owned()));
    }
    print!("type `recover` to go on: ");
    let mut line = String::new();
    io::stdout()
        .flush()
        .and_then(|()| io::stdin().read_line(&mut line))
        .map_err(|error| Failure::of(&error))?;
    Ok(line.trim() == "recover")
}
