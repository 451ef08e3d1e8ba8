//! Deploys of what cannot work: each ends in a clear state and says why, what ran runs on, and
//! nothing is left of it.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::net::TcpListener;

use self::support::{Host, Registry, free_port, json, said};

/// What runs all the while.
const GOOD: &str = r#"
[service.good]
image = "test/web:1"
port = 8080
health = { path = "/healthz", interval = "200ms" }
update = { healthy_for = "200ms", deadline = "20s" }
stop = { grace = "1s", drain = "1s" }
"#;

/// A second service, beside the good one.
fn with(bad: &str) -> String {
    format!(
        "{GOOD}\n[service.bad]\n{bad}\nstop = {{ grace = \"1s\" }}\n\
         update = {{ healthy_for = \"200ms\", deadline = \"10s\" }}\n"
    )
}

/// A host on which the good one runs.
fn host() -> Option<Host> {
    let host = Host::with_daemon()?;
    host.deploy(GOOD);
    Some(host)
}

/// The deploy goes back and says these; the containers are those that there were.
fn goes_back(host: &Host, config: &str, says: &[&str]) {
    let before = host.containers();
    let told = host.deploy_fails(config);
    says.iter().for_each(|words| assert!(told.contains(words), "{words} is not in:\n{told}"));
    host.eventually("nothing is left of it", || host.containers() == before);
    let status = json(&host.mill(&["status", "--json"]));
    let services = status["services"].as_array().unwrap();
    assert!(services.len() == 1 && services[0]["name"] == "good", "{services:?}");
}

#[test]
fn what_cannot_work_goes_back_and_leaves_nothing() {
    let Some(host) = host() else { return };
    let Some(registry) = Registry::start(false) else { return };
    let missing = format!("{}/shop/none:1", registry.address);
    goes_back(&host, &with(&format!("image = \"{missing}\"")), &["went back", &missing]);
    let ends = "image = \"test/web:1\"\ncommand = [\"sh\", \"-c\", \"exit 0\"]";
    goes_back(&host, &with(ends), &["bad.0-", "it ended by itself with exit code 0"]);
    let says = "image = \"test/web:1\"\ncommand = [\"sh\", \"-c\", \"echo bye; exit 7\"]";
    goes_back(&host, &with(says), &["bad.0-", "exit code 7", "its last lines", "bye"]);
    let sick = "image = \"test/web:1\"\nport = 8081\n\
                health = { path = \"/nothing\", interval = \"200ms\", start_period = \"1s\" }";
    goes_back(&host, &with(sick), &["bad.0-", "health check", "404"]);
    let silent = "image = \"test/web:1\"\ncommand = [\"sleep\", \"1000\"]\nport = 8081\n\
                  health = { tcp = true, interval = \"200ms\", start_period = \"1h\" }";
    goes_back(&host, &with(silent), &["not finished within 10s", "bad.0", "refused"]);
}

#[test]
fn a_port_that_another_program_has_is_named_and_free_again_afterwards() {
    let Some(host) = host() else { return };
    let port = free_port();
    let taken = TcpListener::bind(("0.0.0.0", port)).unwrap();
    let bad = format!("image = \"test/web:1\"\nport = {port}\nfixed_port = true");
    goes_back(&host, &with(&bad), &[&format!("port {port}"), "another program"]);
    drop(taken);
    host.deploy(&with(&bad));
    host.deploy(GOOD);
    host.eventually("the port is free", || TcpListener::bind(("0.0.0.0", port)).is_ok());
    // Of two that want the same one, the plan says which finds none.
    let clash = format!(
        "{}\n[service.worse]\nimage = \"test/web:1\"\nport = {port}\nfixed_port = true\n\
         update = {{ deadline = \"10s\" }}",
        with(&bad)
    );
    goes_back(&host, &clash, &[&format!("has given port {port} to another replica"), "worse.0"]);
}

#[test]
fn a_config_that_changes_while_its_deploy_runs_is_a_deploy_of_its_own() {
    let Some(host) = host() else { return };
    let slow = with(
        "image = \"test/web:1\"\nport = 8081\nenv = { WORD = \"first\" }\n\
         health = { path = \"/healthz\", interval = \"2s\" }",
    );
    host.config(&slow);
    let started = host.mill(&["deploy", "--yes", "--detach"]);
    assert!(started.status.success(), "{}", said(&started));
    // What is deployed is what was read then.
    host.config(&slow.replace("first", "second"));
    let second = host.mill(&["deploy", "--yes"]);
    assert!(said(&second).contains("deploy #2 is still running"), "{}", said(&second));
    assert_eq!(second.status.code(), Some(1), "{}", said(&second));
    let waited = host.mill(&["deploy", "--yes", "--wait"]);
    assert!(waited.status.success(), "{}", said(&waited));
    let history = said(&host.mill(&["history"]));
    assert!(history.contains("#2") && history.contains("#3"), "{history}");
    assert_eq!(host.containers().len(), 2);
}

#[test]
fn what_another_names_is_not_removed_unnoticed() {
    let Some(host) = host() else { return };
    let gate = "image = \"test/web:1\"\nbefore = \"migrate\"";
    let task = "[task.migrate]\nimage = \"test/web:1\"\ncommand = [\"sh\", \"-c\", \"exit 0\"]\ntimeout = \"10s\"\n";
    host.config(&with(gate));
    let told = said(&host.mill(&["deploy", "--yes"]));
    assert!(told.contains("there is no task `migrate`"), "{told}");
    let address = "image = \"test/web:1\"\nenv = { DB = \"${service.db.address}\" }";
    host.config(&with(address));
    let told = said(&host.mill(&["deploy", "--yes"]));
    assert!(told.contains("there is no service `db` in this project"), "{told}");
    // The task went from the file, and the service that waits for it stayed.
    host.deploy(&format!(
        "{}{task}",
        with("image = \"test/web:1\"\nbefore = \"migrate\"\ncommand = [\"sleep\", \"1000\"]")
    ));
    host.config(&with(
        "image = \"test/web:1\"\nbefore = \"migrate\"\ncommand = [\"sleep\", \"1001\"]",
    ));
    let told = said(&host.mill(&["deploy", "--yes"]));
    assert!(told.contains("there is no task `migrate`"), "{told}");
    assert_eq!(host.containers().iter().filter(|(name, _)| name.contains("bad")).count(), 1);
}

#[test]
fn with_keep_going_what_works_arrives() {
    let Some(host) = host() else { return };
    let before = host.containers();
    let config = with("image = \"test/web:1\"\ncommand = [\"sh\", \"-c\", \"exit 3\"]");
    host.config(&config.replace("[service.good]", "[service.good]\nenv = { A = \"b\" }"));
    let output = host.mill(&["deploy", "--yes", "--keep-going"]);
    let told = said(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("succeeded in part: bad failed: bad.0-"), "{told}");
    let after = host.containers();
    assert!(after.len() == 1 && after != before, "{before:?} became {after:?}\n{told}");
    let shown = said(&host.mill(&["deploys", "show"]));
    let bad = shown.lines().find(|line| line.starts_with("bad")).unwrap_or_default();
    assert!(bad.ends_with("failed"), "{shown}");
}
