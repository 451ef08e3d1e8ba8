//! The binary as a person uses it: a real daemon, a real engine, real containers.

mod support;

use std::fs;
use std::net::TcpListener;

use serde_json::Value;

use self::support::{Host, json, said, wait};

const WEB: &str = r#"
[service.web]
image = "test/web:1"
port = 8080
replicas = 2
health = { path = "/healthz", interval = "1s" }
update = { healthy_for = "500ms", parallel = 2 }
stop = { grace = "3s" }
[service.other]
image = "test/web:1"
port = 8081
health = { path = "/healthz", interval = "1s" }
update = { healthy_for = "500ms" }
stop = { grace = "3s" }
"#;

fn phase(alloc: &Value) -> &str {
    alloc["phase"].as_str().unwrap()
}

#[test]
fn a_deploy_runs_real_containers_that_answer() {
    let Some(host) = Host::with_daemon() else { return };
    host.deploy(WEB);
    let status = json(&host.mill(&["status", "--json"]));
    let web = status["services"].as_array().unwrap().iter().find(|s| s["name"] == "web").unwrap();
    assert_eq!((&web["healthy"], &web["wanted"]), (&2.into(), &2.into()));
    for endpoint in web["endpoints"].as_array().unwrap() {
        let url = format!("http://{}/cgi-bin/index.cgi", endpoint.as_str().unwrap());
        let page = std::process::Command::new("curl").args(["-sf", &url]).output().unwrap();
        assert!(said(&page).contains("version=1 alloc=web."), "{}", said(&page));
    }
    let logs = said(&host.mill(&["logs", "web", "-n", "5"]));
    assert_eq!(logs.matches("version 1 listens on").count(), 2, "{logs}");
}

#[test]
fn a_deploy_of_an_unchanged_file_does_nothing_and_says_so() {
    let Some(host) = Host::with_daemon() else { return };
    host.deploy(WEB);
    let before = host.containers();
    let again = host.deploy(WEB);
    assert!(again.contains("nothing to do"), "{again}");
    assert_eq!(host.containers(), before);
}

#[test]
fn a_changed_image_replaces_only_that_service() {
    let Some(host) = Host::with_daemon() else { return };
    host.deploy(WEB);
    let of = |service: &str| -> Vec<(String, String)> {
        let prefix = format!("mill-{service}.");
        host.containers().into_iter().filter(|(name, _)| name.starts_with(&prefix)).collect()
    };
    let (web, other) = (of("web"), of("other"));
    host.deploy(&WEB.replacen("test/web:1", "test/web:2", 1));
    assert_eq!(of("other"), other);
    let now = of("web");
    assert_eq!(now.len(), 2);
    assert!(now.iter().all(|container| !web.contains(container)));
}

#[test]
fn a_container_killed_from_outside_is_started_again() {
    let Some(host) = Host::with_daemon() else { return };
    host.deploy(WEB);
    let (victim, id) = host.containers().into_iter().next().unwrap();
    host.docker(&["kill", &victim]);
    host.eventually("it is healthy again after one restart", || {
        let allocs = host.allocs();
        let restarted = allocs.iter().find(|alloc| alloc["restarts"] == 1);
        restarted.is_some_and(|alloc| phase(alloc) == "healthy")
    });
    assert!(host.containers().contains(&(victim, id)), "the same container runs again");
}

#[test]
fn a_killed_daemon_finds_its_containers_and_touches_none() {
    let Some(mut host) = Host::with_daemon() else { return };
    host.deploy(WEB);
    let started = |host: &Host| host.docker(&["ps", "--format", "{{.Names}} {{.CreatedAt}}"]);
    let (before, running) = (host.containers(), started(&host));
    host.kill_daemon();
    host.start_daemon();
    host.eventually("everything is healthy", || {
        let allocs = host.allocs();
        allocs.len() == 3 && allocs.iter().all(|alloc| phase(alloc) == "healthy")
    });
    assert_eq!((host.containers(), started(&host)), (before, running));
    assert!(host.allocs().iter().all(|alloc| alloc["restarts"] == 0));
}

#[test]
fn scale_and_restart_do_what_they_say() {
    let Some(host) = Host::with_daemon() else { return };
    host.deploy(WEB);
    let before = host.containers();
    let scaled = host.mill(&["scale", "web", "3"]);
    assert!(scaled.status.success(), "{}", said(&scaled));
    let after = host.containers();
    assert!(after.len() == 4 && before.iter().all(|container| after.contains(container)));
    let restarted = host.mill(&["restart", "other"]);
    assert!(restarted.status.success(), "{}", said(&restarted));
    let of_other = |all: &[(String, String)]| -> Vec<String> {
        all.iter().filter(|(n, _)| n.starts_with("mill-other.")).map(|(_, id)| id.clone()).collect()
    };
    assert_ne!(of_other(&host.containers()), of_other(&after));
}

#[test]
fn what_cannot_run_goes_back_with_the_reason_and_leaves_nothing() {
    let Some(host) = Host::with_daemon() else { return };
    host.deploy(WEB);
    let before = host.containers();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let bad = |service: &str| format!("{WEB}\n[service.bad]\n{service}\n");
    let cases = [
        ("image = \"localhost:1/nosuch:1\"".to_owned(), "localhost:1/nosuch:1"),
        ("image = \"test/web:1\"\ncommand = [\"/bin/nosuch\"]".to_owned(), "nosuch"),
        ("image = \"test/web:1\"\ncommand = [\"/bin/true\"]".to_owned(), "true"),
        (
            "image = \"test/web:1\"\ncommand = [\"/bin/sh\", \"-c\", \"echo last words; exit 3\"]"
                .to_owned(),
            "last words",
        ),
        (format!("image = \"test/web:1\"\nport = {port}\nfixed_port = true"), "port"),
        (
            "image = \"test/web:1\"\nport = 80\nhealth = { path = \"/nosuch\", interval = \"200ms\", \
             start_period = \"0s\" }\nupdate = { deadline = \"8s\" }\nstop = { grace = \"1s\" }"
                .to_owned(),
            "404",
        ),
    ];
    for (service, telling) in cases {
        let text = host.deploy_fails(&bad(&service));
        assert!(text.contains(telling), "{service}: {text}");
        assert_eq!(host.containers(), before, "{service}");
        let status = json(&host.mill(&["status", "--json"]));
        assert_eq!(status["services"].as_array().unwrap().len(), 2, "{service}");
    }
}

#[test]
fn an_engine_that_is_down_is_named_and_waited_for() {
    let Some(host) = Host::with_daemon() else { return };
    host.deploy(WEB);
    let before = host.containers();
    host.kill_engine();
    host.config(&WEB.replacen("test/web:1", "test/web:2", 1));
    let deploying = host.command(&["deploy", "--yes"]).spawn().unwrap();
    host.eventually("the engine's absence is told", || {
        let why = said(&host.mill(&["status"])) + &said(&host.mill(&["why", "web"]));
        why.contains("engine")
    });
    host.start_engine();
    let output = deploying.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(host.containers().len(), before.len());
}

#[test]
fn a_full_disk_is_named_and_loses_nothing_acknowledged() {
    let Some(mut host) = Host::start() else { return };
    let small = host.path("small");
    fs::create_dir(&small).unwrap();
    let mount = |args: &[&str]| {
        let status = std::process::Command::new("mount").args(args).arg(&small).status().unwrap();
        assert!(status.success());
    };
    mount(&["-t", "tmpfs", "-o", "size=6m", "mill-test"]);
    let data = small.join("data");
    host.spawn_daemon(&data);
    let leads = |host: &Host| wait(|| host.mill(&["status"]).status.success());
    assert!(leads(&host));
    host.deploy(WEB);
    fs::write(small.join("ballast"), vec![0; 6 << 20]).unwrap_err();
    let mut number = 2;
    let refused = loop {
        let output = host.mill(&["scale", "web", &number.to_string(), "--detach"]);
        if !output.status.success() {
            break said(&output);
        }
        number += 1;
        assert!(number < 200, "the disk does not fill");
    };
    assert!(!refused.is_empty());
    let ended = host.daemon_ended();
    assert_eq!(ended.code(), Some(1));
    let log = fs::read_to_string(host.path("daemon.log")).unwrap();
    assert!(log.contains("space"), "{log}");
    fs::remove_file(small.join("ballast")).unwrap();
    host.spawn_daemon(&data);
    assert!(leads(&host));
    let acknowledged = json(&host.mill(&["status", "--json"]))["deploy"]["number"].as_u64();
    assert!(acknowledged >= Some(1));
    host.kill_daemon();
    let unmounted = std::process::Command::new("umount").arg(&small).status().unwrap();
    assert!(unmounted.success());
}
