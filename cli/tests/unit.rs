//! Where there is systemd: a namespace in which it seems to be, with a `systemctl` that does with
//! the unit's command what systemd would.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use self::support::{Host, check, json, limited, possible, said};

/// Runs its arguments where systemd's directories are there, and private.
const NAMESPACE: &str = r#"
mkdir -p /etc/systemd/system
mount -t tmpfs none /run && mkdir -p /run/systemd/system
mount -t tmpfs none /etc/systemd/system
exec "$@"
"#;

/// Starts the unit's command as a process of its own, whose id it leaves behind.
const SYSTEMCTL: &str = r#"#!/bin/sh
echo "$@" >>"$MILL_TEST_DIR/systemctl.log"
[ "$1" = restart ] || exit 0
cp /etc/systemd/system/mill.service "$MILL_TEST_DIR/"
command=$(sed -n 's/^ExecStart=//p' /etc/systemd/system/mill.service)
eval "setsid $command >>\"$MILL_TEST_DIR/daemon.log\" 2>&1 </dev/null &"
echo $! >"$MILL_TEST_DIR/daemon.pid"
"#;

struct Daemon(i32);

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_raw(self.0).unwrap();
        // It may have ended.
        let _ = rustix::process::kill_process(pid, support::Signal::KILL);
    }
}

#[test]
fn init_leaves_the_daemon_to_systemd_and_shows_what_is_shown_once() {
    if possible(&["unshare"]).is_none() {
        return;
    }
    let host = Host::bare();
    let bin = host.path("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("systemctl"), SYSTEMCTL).unwrap();
    fs::set_permissions(bin.join("systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
    let init = || {
        let mut command = limited("unshare");
        command.args(["--mount", "sh", "-ec", NAMESPACE, "sh", env!("CARGO_BIN_EXE_mill")]);
        command.args(["init", "--json", "--name", "a", "--advertise", "127.0.0.1"]);
        command.args(["--rpc", "127.0.0.1:0", "--engine", &host.engine, "--data"]);
        command.arg(host.path("data dir")).arg("--socket").arg(host.path("mill.sock"));
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).env("MILL_TEST_DIR", host.path("")).output().unwrap()
    };
    let begun = init();
    check(&begun);
    let pid = fs::read_to_string(host.path("daemon.pid")).unwrap().trim().parse().unwrap();
    let daemon = Daemon(pid);
    let begun = json(&begun);
    let (token, key) = (begun["new_token"].as_str(), begun["recovery_key"].as_str());
    let (token, key) = (token.unwrap(), key.unwrap());
    host.eventually("the daemon leads", || host.mill(&["status"]).status.success());
    let unit = fs::read_to_string(host.path("mill.service")).unwrap();
    assert!(unit.contains("data dir\"") && unit.contains("Restart=on-failure"), "{unit}");
    let begins_nothing =
        format!("ConditionPathExists={}", host.path("data dir/identity.json").display());
    assert!(unit.contains(&begins_nothing), "{unit}");
    // What was shown is what holds; neither the unit nor the log has it.
    let log = fs::read_to_string(host.path("daemon.log")).unwrap();
    for secret in [token, key] {
        assert!(!unit.contains(secret) && !log.contains(secret), "{unit}\n{log}");
    }
    let identity = fs::read_to_string(host.path("data dir/identity.json")).unwrap();
    assert!(identity.contains(&mill_runtime_real::identity::token_hash(token)), "{identity}");
    let told = fs::read_to_string(host.path("systemctl.log")).unwrap();
    assert_eq!(told, "daemon-reload\nenable mill.service\nrestart mill.service\n");
    let again = init();
    assert!(said(&again).contains("in use by another mill daemon"), "{}", said(&again));
    drop(daemon);
}
