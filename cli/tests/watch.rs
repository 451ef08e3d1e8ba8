//! Commands that watch a cluster for a while: what they say when something happens meanwhile.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use self::support::{Host, Running};

/// Goes back after a while.
const BAD: &str = r#"
[service.web]
image = "test/web:1"
port = 8080
health = { path = "/never", interval = "200ms" }
update = { healthy_for = "200ms", deadline = "6s" }
stop = { grace = "1s" }
"#;

/// Starts a deploy of `text` that takes a while.
fn deploying(host: &Host, text: &str, more: &[&str], log: &str) -> Running {
    host.config(text);
    let running = host.spawn_into(&[&["deploy", "--yes"], more].concat(), log);
    host.eventually("it says something", || running.said().contains("deploy #"));
    running
}

#[test]
fn a_daemon_that_is_restarted_is_waited_for_by_who_watches_and_by_who_waits() {
    let Some(mut host) = Host::with_daemon() else { return };
    let first = deploying(&host, BAD, &[], "first.log");
    let changed = BAD.replace("/never", "/healthz");
    let second = deploying(&host, &changed, &["--wait"], "second.log");
    host.eventually("it waits", || second.said().contains("waiting: deploy #1"));
    let daemon = host.take_daemon();
    daemon.terminate();
    assert!(daemon.ended().success());
    host.start_daemon();
    let (first, second) = (first.over(), second.over());
    assert!(first.said().contains("deploy #1 went back"), "{}", first.said());
    let text = second.said();
    assert!(text.contains("deploy #2 succeeded"), "{text}");
    // The other deploy touched the same service, so there is another plan after it.
    assert_eq!(text.matches("waiting: ").count(), 1, "{text}");
    assert!(text.contains("~ web") && text.contains("+ web"), "{text}");
    assert_eq!((first.ended().code(), second.ended().code()), (Some(1), Some(0)));
}
