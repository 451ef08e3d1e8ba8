//! A daemon without an engine: who may ask it, what it logs, plans with and without it.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::fs;
use std::process::{Command, Output};

use serde_json::Value;

use self::support::{Host, free_port, said, wait};

/// Runs `mill ARGS` over TCP with a token.
fn over_tcp(address: &str, token: Option<&str>, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mill"));
    command.args(args).env("MILL_ADDRESS", format!("http://{address}")).env_remove("MILL_TOKEN");
    if let Some(token) = token {
        command.env("MILL_TOKEN", token);
    }
    command.output().unwrap()
}

#[test]
fn over_tcp_only_the_token_that_was_shown_once_is_let_in() {
    let host = Host::bare();
    let address = format!("127.0.0.1:{}", free_port());
    let data = host.path("data");
    let daemon = host.spawn_on(&data, "mill.sock", "daemon.log", &["--listen", &address]);
    host.eventually("it leads", || host.mill(&["status"]).status.success());
    let log = daemon.said();
    let shown: Vec<&str> = log.split("API token, shown only now: ").skip(1).collect();
    assert_eq!(shown.len(), 1, "{log}");
    let token = shown[0].lines().next().unwrap();
    let status = over_tcp(&address, Some(token), &["status"]);
    assert!(status.status.success(), "{}", said(&status));
    for wrong in [None, Some("mill-00"), Some("")] {
        let refused = over_tcp(&address, wrong, &["status"]);
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
        assert!(said(&refused).contains("set MILL_TOKEN"), "{}", said(&refused));
    }
    // Streams come over the same way.
    let exec = ["exec", "nobody", "--", "sh"];
    for (token, telling) in [(Some(token), "no service, slot or alloc `nobody`"), (None, "TOKEN")] {
        let refused = over_tcp(&address, token, &exec);
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
        assert!(said(&refused).contains(telling), "{}", said(&refused));
    }
    assert!(!fs::read_to_string(data.join("identity.json")).unwrap().contains(token));
    drop(daemon);
    let gone = over_tcp(&address, Some(token), &["status"]);
    assert_eq!(gone.status.code(), Some(3), "{}", said(&gone));
    let again = host.spawn_on(&data, "mill.sock", "again.log", &["--listen", &address]);
    assert!(wait(|| over_tcp(&address, Some(token), &["status"]).status.success()));
    assert!(!again.said().contains("API token"), "{}", again.said());
}

#[test]
fn a_daemon_logs_what_matters_and_no_more() {
    let mut host = Host::bare();
    host.start_daemon();
    host.eventually("the engine is missed", || {
        let log = fs::read_to_string(host.path("daemon.log")).unwrap();
        log.contains("the container engine does not answer")
    });
    let log = fs::read_to_string(host.path("daemon.log")).unwrap();
    assert!(log.contains(" INFO ") && log.contains("started"), "{log}");
    assert!(!log.contains("openraft") && !log.contains('\x1b'), "{log}");
    assert!(log.lines().count() < 15, "{log}");
}

#[test]
fn logs_and_beginnings_are_documents_for_programs() {
    let host = Host::bare();
    let json = ["--log-json", "--json"];
    let daemon = host.spawn_on(&host.path("data"), "mill.sock", "daemon.log", &json);
    host.eventually("it leads", || host.mill(&["status"]).status.success());
    let told: Vec<Value> =
        daemon.said().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let begun = told.iter().find(|line| line.get("cluster").is_some()).unwrap();
    assert!(begun["new_token"].as_str().unwrap().starts_with("mill-"), "{begun}");
    let started = told.iter().find(|line| line["fields"]["message"] == "started").unwrap();
    assert_eq!((&started["level"], &started["fields"]["name"]), (&"INFO".into(), &"a".into()));
    let refused = host.mill(&["ps", "nosuch", "--json"]);
    let document: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(document["error"]["code"], "not-found", "{document}");
}

#[test]
fn a_plan_without_a_cluster_is_the_plan_with_it() {
    let mut host = Host::bare();
    host.start_daemon();
    host.config("[service.web]\nimage = \"test/web:1\"\nport = 80\nreplicas = 2\n");
    let online = host.mill(&["plan"]);
    assert!(online.status.success() && said(&online).contains("web.1"), "{}", said(&online));
    fs::write(host.path("state.json"), host.mill(&["status", "--state"]).stdout).unwrap();
    host.kill_daemon();
    let offline = host.mill(&["plan", "--state", "state.json"]);
    assert_eq!(said(&offline), said(&online));
    fs::write(host.path("state.json"), "{}").unwrap();
    let wrong = host.mill(&["plan", "--state", "state.json"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(said(&wrong).contains("mill status --state"), "{}", said(&wrong));
}

#[test]
fn what_is_not_there_is_named_with_where_to_look() {
    let mut host = Host::bare();
    host.start_daemon();
    let empty = said(&host.mill(&["status"])) + &said(&host.mill(&["ps"]));
    assert_eq!(empty.matches("`mill deploy`").count(), 2, "{empty}");
    for args in [
        &["why", "nosuch"][..],
        &["why", "no/such"],
        &["ps", "nosuch"],
        &["logs", "nosuch"],
        &["restart", "nosuch"],
        &["scale", "nosuch", "2"],
    ] {
        let output = host.mill(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", said(&output));
        assert!(said(&output).contains("such`"), "{args:?}: {}", said(&output));
    }
}
