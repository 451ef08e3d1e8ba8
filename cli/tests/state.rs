//! What a daemon keeps in its data directory, and when it refuses to start. Needs no engine.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use self::support::{Host, Running, said};

/// What a daemon that must not start has to say.
fn refusal(daemon: Running, telling: &[&str]) -> String {
    let log = daemon.said();
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(daemon.ended().code(), Some(1));
    for text in telling {
        assert!(log.contains(text), "{text}: {log}");
    }
    log
}

fn boot(host: &Host) -> u64 {
    let text = fs::read(host.path("data/identity.json")).unwrap();
    serde_json::from_slice::<Value>(&text).unwrap()["boot"].as_u64().unwrap()
}

/// Everything in a directory that others may read or enter.
fn open_to_others(place: &Path, found: &mut Vec<String>) {
    let meta = fs::symlink_metadata(place).unwrap();
    if meta.permissions().mode() & 0o077 != 0 {
        found.push(place.display().to_string());
    }
    if meta.is_dir() {
        for entry in fs::read_dir(place).unwrap() {
            open_to_others(&entry.unwrap().path(), found);
        }
    }
}

#[test]
fn nobody_else_may_read_what_a_daemon_keeps() {
    let mut host = Host::bare();
    let data = host.path("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    host.start_daemon();
    let mut found = Vec::new();
    open_to_others(&data, &mut found);
    open_to_others(&host.path("mill.sock"), &mut found);
    assert_eq!(found, [""; 0]);
    assert!(data.join("flight").read_dir().unwrap().count() > 0, "nothing is recorded");
}

#[test]
fn a_second_daemon_on_the_same_directory_is_refused_and_counts_nothing() {
    let mut host = Host::bare();
    host.start_daemon();
    let second = host.spawn_on(&host.path("data"), "second.sock", "second.log", &[]).over();
    refusal(second, &["is in use by another mill daemon (process ", "--data"]);
    assert_eq!(boot(&host), 1);
    assert!(host.mill(&["status"]).status.success());
}

#[test]
fn a_second_daemon_on_the_same_socket_is_refused() {
    let mut host = Host::bare();
    host.start_daemon();
    let second = host.spawn_on(&host.path("other"), "mill.sock", "second.log", &[]).over();
    refusal(second, &["cannot listen on", "is another mill running here?"]);
    assert!(host.mill(&["status"]).status.success());
}

#[test]
fn a_file_where_the_socket_should_be_is_refused_and_stays_as_it_is() {
    let host = Host::bare();
    fs::write(host.path("mill.sock"), "thesis").unwrap();
    let daemon = host.spawn_on(&host.path("data"), "mill.sock", "daemon.log", &[]).over();
    refusal(daemon, &["mill.sock", "not a socket", "--socket"]);
    assert_eq!(fs::read_to_string(host.path("mill.sock")).unwrap(), "thesis");
}

#[test]
fn a_daemon_whose_state_was_lost_refuses_to_begin_anew() {
    let mut host = Host::bare();
    host.start_daemon();
    host.kill_daemon();
    let (raft, kept) = (host.path("data/raft"), host.path("kept"));
    fs::rename(&raft, &kept).unwrap();
    for _ in 0..2 {
        let again = host.spawn_on(&host.path("data"), "mill.sock", "lost.log", &[]).over();
        refusal(again, &["state of this node is lost", "log.redb", "Restore", "start over"]);
    }
    assert_eq!(boot(&host), 1);
    fs::rename(&kept, &raft).unwrap();
    host.start_daemon();
    assert_eq!(boot(&host), 2);
}

#[test]
fn a_directory_of_something_else_is_refused_and_stays_as_it_is() {
    let host = Host::bare();
    let data = host.path("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("thesis.txt"), "done").unwrap();
    let daemon = host.spawn_on(&data, "mill.sock", "daemon.log", &[]).over();
    refusal(daemon, &["thesis.txt", "name an empty"]);
    assert_eq!(data.read_dir().unwrap().count(), 1);
}

#[test]
fn a_damaged_identity_is_refused_with_its_path_and_a_remedy() {
    let mut host = Host::bare();
    host.start_daemon();
    host.kill_daemon();
    fs::write(host.path("data/identity.json"), "{\"format\":1,").unwrap();
    let daemon = host.spawn_on(&host.path("data"), "mill.sock", "damaged.log", &[]).over();
    refusal(daemon, &["identity.json is damaged", "restore it from a backup"]);
}

#[test]
fn a_terminated_daemon_ends_well_and_takes_its_socket_along() {
    let mut host = Host::bare();
    host.start_daemon();
    let daemon = host.take_daemon();
    daemon.interrupt();
    assert!(daemon.ended().success());
    assert!(!host.path("mill.sock").exists());
    let status = host.mill(&["status"]);
    assert_eq!(status.status.code(), Some(3), "{}", said(&status));
}
