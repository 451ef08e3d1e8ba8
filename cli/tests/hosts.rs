//! The binary as a person uses it: a real daemon, a real engine, real containers.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use self::support::{Host, Registry, free_port, json, pause, said, wait};

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
        let page = Command::new("curl").args(["-sf", &url]).output().unwrap();
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
    let lives = |host: &Host, service: &str| {
        let all = host.containers();
        let names = all.iter().map(|(name, _)| name.as_str());
        let mut args = vec!["inspect", "-f", "{{.Id}} {{.State.StartedAt}} {{.State.Pid}}"];
        args.extend(names.filter(|name| name.starts_with(&format!("mill-{service}."))));
        host.docker(&args)
    };
    let (web, other) = (lives(&host, "web"), lives(&host, "other"));
    host.kill_daemon();
    host.start_daemon();
    assert!(host.deploy(WEB).contains("nothing to do"));
    // A deploy that replaces one service waits for all that the daemon does to others.
    let (kept, changed) = WEB.split_at(WEB.find("[service.other]").unwrap());
    host.deploy(&format!("{kept}{}", changed.replace("test/web:1", "test/web:2")));
    assert_eq!(lives(&host, "web"), web);
    assert_ne!(lives(&host, "other"), other);
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
        ("image = \"test/web:1\"\ncommand = [\"/bin/nosuch\"]".to_owned(), "nosuch"),
        (
            "image = \"test/web:1\"\ncommand = [\"/bin/sh\", \"-c\", \"exit 0\"]".to_owned(),
            "exit code 0",
        ),
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
        goes_back(&host, &bad(&service), telling);
        assert_eq!(host.containers(), before, "{service}");
        let status = json(&host.mill(&["status", "--json"]));
        assert_eq!(status["services"].as_array().unwrap().len(), 2, "{service}");
    }
}

/// Deploys what must go back, and checks that it is said why, once.
fn goes_back(host: &Host, config: &str, telling: &str) -> String {
    let text = host.deploy_fails(config);
    println!("{text}");
    assert!(text.contains(telling), "{config}: {text}");
    // What had moved goes back with the reason; where nothing had, the end itself carries it.
    let moved = text.contains("going back: ");
    assert_eq!(text.matches("going back: ").count(), usize::from(moved), "{text}");
    assert_eq!(text.matches("went back: ").count(), 1, "{text}");
    let quiet = text.contains("went back: everything is as it was before");
    assert_eq!(quiet, moved, "the reason is told once: {text}");
    text
}

#[test]
fn an_image_that_a_registry_will_not_give_fails_at_once_and_says_why() {
    let Some(host) = Host::with_daemon() else { return };
    let (Some(open), Some(closed)) = (Registry::start(false), Registry::start(true)) else {
        return;
    };
    let image = |registry: &Registry| format!("{}/shop/web:1", registry.address);
    for (registry, telling) in [(&open, "that it was pushed"), (&closed, "docker login")] {
        let config = WEB.replace("test/web:1", &image(registry));
        let text = goes_back(&host, &config, &image(registry));
        assert!(text.contains(telling), "{text}");
        assert_eq!(host.containers(), []);
    }
}

#[test]
fn a_registry_that_does_not_answer_is_named_while_it_is_waited_for() {
    let Some(host) = Host::with_daemon() else { return };
    let address = format!("127.0.0.1:{}", free_port());
    let image = format!("{address}/shop/web:1");
    host.config(&WEB.replace("test/web:1", &image));
    let deploying = host.spawn(&["deploy", "--yes"]);
    let is_named = |text: &str| text.contains(&image) && text.contains("connection refused");
    host.eventually("the deploy's progress names it", || is_named(&deploying.said()));
    let status = said(&host.mill(&["status"]));
    assert!(is_named(&status), "{status}");
    let why = said(&host.mill(&["why", "web"]));
    assert!(is_named(&why), "{why}");
    deploying.interrupt();
    let detached = deploying.ended();
    let text = fs::read_to_string(host.path("spawned.log")).unwrap();
    assert!(detached.success() && text.contains("detached: deploy #1 goes on"), "{text}");
}

#[test]
fn an_engine_that_is_down_is_named_and_waited_for() {
    let Some(host) = Host::with_daemon() else { return };
    host.deploy(WEB);
    let before = host.containers();
    host.kill_engine();
    host.config(&WEB.replacen("test/web:1", "test/web:2", 1));
    let deploying = host.spawn(&["deploy", "--yes"]);
    let is_named = |text: &str| text.contains("engine") && text.contains("docker.sock");
    host.eventually("the deploy's progress names it", || is_named(&deploying.said()));
    for args in [&["status"][..], &["why", "web"]] {
        host.eventually("it is told", || is_named(&said(&host.mill(args))));
    }
    host.start_engine();
    assert!(deploying.ended().success());
    assert_eq!(host.containers().len(), before.len());
}

/// A file system that is full soon, mounted for as long as this lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf, size: &str) -> SmallDisk {
        fs::create_dir_all(&path).unwrap();
        let mut command = Command::new("mount");
        let options = format!("size={size}");
        command.args(["-t", "tmpfs", "-o", &options, "mill-test"]).arg(&path);
        assert!(command.status().unwrap().success());
        SmallDisk(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a daemon that still writes there is killed after this.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_of_the_engine_is_named_and_leaves_nothing_half_done() {
    // The engine keeps everything there; it outlives the engine.
    let mut small = None;
    let prepare = |engine: &Path| small = Some(SmallDisk::mount(engine.join("data"), "48m"));
    let Some(mut host) = Host::start_prepared(prepare) else { return };
    host.start_daemon();
    host.deploy(WEB);
    let before = host.containers();
    let disk = &small.as_ref().unwrap().0;
    fs::write(disk.join("ballast"), vec![0; 48 << 20]).unwrap_err();
    let changed = WEB.replacen("test/web:1", "test/web:2", 1);
    let text =
        host.deploy_fails(&changed.replace("parallel = 2", "parallel = 2, deadline = \"8s\""));
    assert!(text.contains("no space left on device"), "{text}");
    fs::remove_file(disk.join("ballast")).unwrap();
    host.eventually("everything is as before", || host.containers() == before);
    host.deploy(&changed);
}

#[test]
fn a_full_disk_is_named_and_loses_nothing_acknowledged() {
    let Some(mut host) = Host::start() else { return };
    let small = SmallDisk::mount(host.path("small"), "6m");
    let (data, ballast) = (small.0.join("data"), small.0.join("ballast"));
    let leads = |host: &Host| wait(|| host.mill(&["status"]).status.success());
    host.spawn_daemon(&data);
    assert!(leads(&host));
    host.deploy(WEB);
    fs::write(&ballast, vec![0; 6 << 20]).unwrap_err();
    let mut acknowledged = 1;
    let mut last = String::new();
    // Each deploy writes a part of what is left.
    let refused = loop {
        let output = host.mill(&["restart", "other", "--detach", "--json"]);
        match output.status.code() {
            Some(0) => acknowledged = json(&output)["deploy"].as_u64().unwrap(),
            // Another deploy is under way: it writes as well.
            Some(1) if said(&output).contains("deploy #") => pause(20),
            Some(_) | None => break output,
        }
        assert!(acknowledged < 1000, "the disk does not fill: {last}");
        last = said(&output);
    };
    assert!(said(&refused).contains("error: "), "{}", said(&refused));
    assert_eq!(host.take_daemon().ended().code(), Some(1));
    let log = fs::read_to_string(host.path("daemon.log")).unwrap();
    let (path, remedy) = (data.join("raft/log.redb"), "free some space there");
    for telling in
        [path.to_str().unwrap(), "No space left", remedy, "nothing that was acknowledged"]
    {
        assert!(log.contains(telling), "{telling}: {log}");
    }
    assert!(!log.contains("panicked"), "{log}");
    fs::remove_file(&ballast).unwrap();
    host.spawn_daemon(&data);
    assert!(leads(&host));
    let known = json(&host.mill(&["status", "--json"]))["deploy"]["number"].as_u64();
    assert!(known >= Some(acknowledged), "deploy #{acknowledged} was lost: {known:?}");
    host.kill_daemon();
}
