//! Tasks with real containers: runs, their output and exit codes, and gates.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use self::support::{Host, json, said};

const SHOP: &str = r#"
[service.web]
image = "test/web:1"
port = 8080
before = "migrate"
health = { path = "/healthz", interval = "200ms" }
update = { healthy_for = "200ms", deadline = "60s" }
stop = { grace = "1s" }

[task.migrate]
image = "test/web:1"
command = ["sh", "-c", "echo migrating; exit 0"]
timeout = "1m"
stop = { grace = "1s" }

[task.report]
image = "test/web:1"
command = ["sh", "-c", "echo day $DAY; echo oops >&2; exit $CODE"]
timeout = "5s"
concurrency = 2
stop = { grace = "1s" }
"#;

#[test]
fn a_run_prints_what_its_container_prints_and_exits_as_it_does() {
    let Some(host) = Host::with_daemon() else { return };
    host.deploy(SHOP);
    let run = host.mill(&["run", "report", "-e", "DAY=monday", "-e", "CODE=3"]);
    assert_eq!(run.status.code(), Some(3), "{}", said(&run));
    assert_eq!(String::from_utf8_lossy(&run.stdout), "day monday\n");
    assert_eq!(String::from_utf8_lossy(&run.stderr), "oops\n");
    let lines = "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done";
    let run = host.mill(&["run", "report", "--", "sh", "-c", lines]);
    let printed = String::from_utf8_lossy(&run.stdout).into_owned();
    let expected: Vec<String> = (0..500).map(|i| format!("line {i}")).collect();
    assert_eq!(printed.lines().collect::<Vec<_>>(), expected);
    assert!(run.status.success(), "{}", said(&run));

    let shown = said(&host.mill(&["runs", "show", "2"]));
    assert!(shown.contains("run report.2: failed with exit code 3"), "{shown}");
    assert!(shown.contains("day monday"), "{shown}");
    let logs = said(&host.mill(&["logs", "--all", "report.2"]));
    assert!(logs.contains("day monday") && logs.contains("oops"), "{logs}");
    let listed = json(&host.mill(&["runs", "ls", "--json"]));
    let causes: Vec<String> =
        listed.as_array().unwrap().iter().map(|run| run["cause"].to_string()).collect();
    assert_eq!(causes, ["\"person\"", "\"person\"", "{\"gate\":1}"]);
    let why = said(&host.mill(&["why", "report.2"]));
    assert!(why.starts_with("run report.2 failed with exit code 3"), "{why}");
    let unknown = host.mill(&["run", "nothing"]);
    assert!(said(&unknown).contains("there is no task `nothing`"), "{}", said(&unknown));
}

#[test]
fn a_run_goes_on_without_its_daemon_and_is_killed_when_it_takes_too_long() {
    let Some(mut host) = Host::with_daemon() else { return };
    host.deploy(SHOP);
    let run = host.mill(&["run", "report", "--detach", "--", "sleep", "3"]);
    assert!(said(&run).contains("run 2 goes on"), "{}", said(&run));
    host.eventually("it runs", || {
        json(&host.mill(&["runs", "show", "2", "--json"]))["phase"] == "running"
    });
    host.kill_daemon();
    host.start_daemon();
    host.eventually("it is over", || {
        said(&host.mill(&["runs", "show", "2"])).contains("run report.2: succeeded")
    });
    let slow = host.mill(&["run", "report", "--", "sleep", "60"]);
    assert_eq!(slow.status.code(), Some(1));
    assert!(said(&slow).contains("it took longer than its `timeout`"), "{}", said(&slow));
    let run = host.mill(&["run", "report", "--detach", "--json", "--", "sleep", "60"]);
    assert_eq!(json(&run)["run"], 4);
    let killed = host.mill(&["runs", "kill", "report.4"]);
    assert!(killed.status.success(), "{}", said(&killed));
    host.eventually("it is killed", || {
        said(&host.mill(&["runs", "show", "4"])).contains("was killed")
    });
    let again = host.mill(&["runs", "kill", "4"]);
    assert!(said(&again).contains("run 4 is over: it was killed"), "{}", said(&again));
}

#[test]
fn a_gate_that_fails_leaves_everything_as_it_was() {
    let Some(host) = Host::with_daemon() else { return };
    host.deploy(SHOP);
    let containers = || {
        let all = host.containers().into_iter().map(|(name, _)| name);
        all.filter(|name| name.contains("web.0")).collect::<Vec<_>>()
    };
    let before = containers();
    let broken = SHOP
        .replace("echo migrating; exit 0", "echo the table is locked; exit 4")
        .replacen("test/web:1", "test/web:2", 1);
    host.config(&broken);
    let plan = said(&host.mill(&["plan"]));
    let gate = "task migrate has to succeed before anything of it moves";
    assert!(plan.contains(gate), "{plan}");
    let told = host.deploy_fails(&broken);
    assert!(told.contains("task migrate, which has to succeed first, failed with exit code 4"));
    assert!(told.contains("the table is locked"), "{told}");
    assert_eq!(containers(), before);
    host.deploy(&broken.replace("exit 4", "exit 0"));
    let shown = said(&host.mill(&["deploys", "show"]));
    assert!(shown.contains("task migrate: succeeded (run 3)"), "{shown}");
}
