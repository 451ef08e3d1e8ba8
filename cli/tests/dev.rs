//! `mill dev` leaves nothing behind, however it ends.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;

use self::support::{Host, Running, pause, wait};

const WEB: &str = r#"
[service.web]
image = "test/web:1"
port = 8080
replicas = 2
health = { path = "/healthz", interval = "500ms" }
update = { healthy_for = "200ms", parallel = 2 }
stop = { grace = "2s" }
[service.worker]
image = "test/web:1"
command = ["/bin/sh", "-c", "trap 'exit 0' TERM; while true; do echo at work; sleep 0.1; done"]
update = { healthy_for = "200ms" }
stop = { grace = "2s" }
"#;

/// The endpoints that were printed.
fn urls(text: &str) -> Vec<String> {
    let urls = text.split_whitespace().filter_map(|word| word.strip_prefix("http://"));
    urls.map(str::to_owned).collect()
}

fn running(host: &Host) -> Running {
    host.config(WEB);
    let dev = host.spawn(&["dev"]);
    host.eventually("it prints where everything answers", || {
        let said = dev.said();
        urls(&said).len() == 2 && said.contains("at work")
    });
    dev
}

fn assert_nothing_left(host: &Host, dev: &Running) {
    assert_eq!(host.containers(), [], "{}", dev.said());
    let left = fs::read_dir(host.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> =
        left.filter(|name| name.to_string_lossy().starts_with("mill-dev-")).collect();
    assert!(left.is_empty(), "{left:?}");
    for url in urls(&dev.said()) {
        assert!(wait(|| TcpStream::connect(&url).is_err()), "{url} still answers");
    }
}

#[test]
fn ctrl_c_stops_everything_and_removes_what_was_started() {
    let Some(host) = Host::start() else { return };
    let dev = running(&host);
    for url in urls(&dev.said()) {
        TcpStream::connect(&url).unwrap();
    }
    assert_eq!(host.containers().len(), 3);
    dev.interrupt();
    let dev = dev.over();
    assert_nothing_left(&host, &dev);
    let said = dev.said();
    assert!(said.contains("removing what was started"), "{said}");
    assert!(!said.contains("goes on") && !said.contains("error"), "{said}");
    assert_eq!(dev.ended().code(), Some(0));
}

/// A service, one that owns its port on its machine, and one that calls both.
const CALLING: &str = r#"
[service.web]
image = "test/web:1"
port = 28437
update = { healthy_for = "200ms" }
[service.fixed]
image = "test/web:2"
port = 28438
fixed_port = true
update = { healthy_for = "200ms" }
[service.caller]
image = "test/web:1"
command = ["/bin/sh", "-c", """
    trap 'exit 0' TERM
    while sleep 0.2; do
        for at in "web.mill 28437" "fixed.mill 28438"; do
            echo "$at: $(echo GET / HTTP/1.0 | nc $at)"
        done
    done"""]
update = { healthy_for = "200ms" }
stop = { grace = "2s" }
"#;

#[test]
fn services_find_each_other_where_it_may_make_no_networks() {
    let Some(host) = Host::start() else { return };
    host.config(CALLING);
    let dev = host.spawn_by(&["setpriv", "--bounding-set", "-all"], &["dev"]);
    host.eventually("both answer", || {
        let said = dev.said();
        said.contains("web.mill 28437: HTTP/1.") && said.contains("fixed.mill 28438: HTTP/1.")
    });
    dev.interrupt();
    let dev = dev.over();
    assert_nothing_left(&host, &dev);
    assert!(!dev.said().contains("WARN"), "{}", dev.said());
}

#[test]
fn ctrl_c_in_the_middle_of_the_deploy_leaves_nothing_either() {
    let Some(host) = Host::start() else { return };
    host.config(&WEB.replace("/healthz", "/never"));
    let dev = host.spawn(&["dev"]);
    host.eventually("a container runs", || !host.containers().is_empty());
    dev.interrupt();
    let dev = dev.over();
    assert_nothing_left(&host, &dev);
    assert!(!dev.said().contains("goes on"), "{}", dev.said());
    assert_eq!(dev.ended().code(), Some(0));
}

#[test]
fn ctrl_c_in_the_first_second_leaves_nothing_and_is_no_success_of_once() {
    let Some(host) = Host::start() else { return };
    host.config(&WEB.replace("/healthz", "/never"));
    for millis in [60, 120, 240, 400, 700] {
        let dev = host.spawn(&["dev", "--once"]);
        pause(millis);
        dev.interrupt();
        let dev = dev.over();
        assert_nothing_left(&host, &dev);
        assert_ne!(dev.ended().code(), Some(0));
    }
}

#[test]
fn what_a_killed_one_left_is_removed_by_the_next() {
    let Some(host) = Host::start() else { return };
    drop(running(&host));
    assert_eq!(host.containers().len(), 3);
    let next = host.spawn_logged(&["dev", "--once"], "next.log").over();
    assert_nothing_left(&host, &next);
    assert!(next.said().contains("a `mill dev` was killed there"), "{}", next.said());
    assert_eq!(next.ended().code(), Some(0));
}

#[test]
fn a_deploy_that_fails_is_told_and_leaves_nothing() {
    let Some(host) = Host::start() else { return };
    host.config("[service.bad]\nimage = \"test/web:1\"\ncommand = [\"/bin/nosuch\"]\n");
    let dev = host.spawn(&["dev", "--once"]).over();
    assert_nothing_left(&host, &dev);
    assert!(dev.said().contains("nosuch"), "{}", dev.said());
    assert_eq!(dev.ended().code(), Some(1));
}

#[test]
fn a_reader_that_goes_away_leaves_nothing_either() {
    let Some(host) = Host::start() else { return };
    host.config(WEB);
    let (reader, writer) = std::io::pipe().unwrap();
    let dev = host.spawn_into(&["dev"], writer);
    let mut lines = BufReader::new(reader).lines();
    assert!(lines.any(|line| line.unwrap().contains("at work")), "{}", dev.said());
    assert_eq!(host.containers().len(), 3);
    drop(lines);
    let dev = dev.over();
    assert_nothing_left(&host, &dev);
    assert_eq!(dev.said(), "");
    assert_eq!(dev.ended().code(), Some(141));
}
