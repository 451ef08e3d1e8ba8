//! Commands that watch a cluster for a while: what they say when something happens meanwhile.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use self::support::{Host, Running, Signal, said};

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
    let running = host.spawn_logged(&[&["deploy", "--yes"], more].concat(), log);
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

const TICKS: &str = r#"
[service.clock]
image = "test/web:1"
command = ["/bin/sh", "-c", "echo begins; i=0; while true; do echo tick $i; i=$((i+1)); sleep 0.1; done"]
update = { healthy_for = "200ms" }
stop = { grace = "0s" }
"#;

/// What is followed so far, without the alloc.
fn followed(following: &Running) -> Vec<String> {
    let said = following.said();
    let lines = said.lines().filter_map(|line| Some(line.split_once(' ')?.1.trim().to_owned()));
    lines.filter(|line| line == "begins" || line.starts_with("tick ")).collect()
}

#[test]
fn logs_are_followed_through_the_lives_of_a_container_and_of_the_engine() {
    let Some(host) = Host::with_daemon() else { return };
    host.deploy(TICKS);
    let following = host.spawn(&["logs", "-f", "-n", "0"]);
    host.eventually("it follows", || followed(&following).len() > 5);
    assert!(!followed(&following).contains(&"begins".to_owned()), "{}", following.said());
    let (name, _) = host.containers().into_iter().next().unwrap();
    host.docker(&["kill", &name]);
    let lives = || followed(&following).iter().filter(|line| *line == "begins").count();
    host.eventually("the next life is shown", || lives() == 1);
    host.kill_engine();
    host.eventually("the engine is missed", || following.said().contains("error: "));
    let logs = host.mill(&["logs"]);
    assert_eq!(logs.status.code(), Some(1), "{}", said(&logs));
    assert!(said(&logs).contains("engine"), "{}", said(&logs));
    host.start_engine();
    let before = followed(&following).len();
    host.eventually("it goes on", || followed(&following).len() > before + 5);
    let lines = followed(&following);
    let second = lines.iter().position(|line| line == "begins").unwrap();
    for life in [&lines[..second], &lines[second + 1..]] {
        let number = |line: &String| line["tick ".len()..].parse::<u32>().unwrap();
        let ticks: Vec<u32> =
            life.iter().take_while(|line| *line != "begins").map(number).collect();
        assert!(ticks.is_sorted_by(|a, b| a < b), "a line came twice: {ticks:?}");
    }
    following.interrupt();
    assert!(following.ended().success());
}

#[test]
fn a_daemon_that_is_stuck_is_not_waited_for_without_end() {
    let mut host = Host::bare();
    host.start_daemon();
    host.config(TICKS);
    let daemon = host.take_daemon();
    daemon.signal(Signal::STOP);
    let commands = [&["status"][..], &["logs", "-f"], &["restart", "clock"]];
    let running = commands.map(|args| host.spawn_logged(args, args[0]));
    let running = running.map(Running::over);
    daemon.signal(Signal::CONT);
    for (asked, changes) in running.into_iter().zip([false, false, true]) {
        let text = asked.said();
        assert!(text.contains("did not answer for 15 s"), "{text}");
        assert_eq!(text.contains("may or may not be done"), changes, "{text}");
        assert_eq!(asked.ended().code(), Some(3));
    }
}
