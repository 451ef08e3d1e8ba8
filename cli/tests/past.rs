//! Going back, looking back and cancelling, with real containers.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use self::support::{Host, json, said};

const WEB: &str = r#"
[service.web]
image = "test/web:1"
port = 8080
health = { path = "/healthz", interval = "200ms" }
update = { healthy_for = "200ms", deadline = "60s" }
stop = { grace = "1s" }
env = { WORD = "first" }
"#;

/// The environment variable of the one container that runs.
fn word(host: &Host) -> String {
    let names: Vec<String> = host.containers().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    let env = host.docker(&["inspect", "-f", "{{json .Config.Env}}", &names[0]]);
    let env: Vec<String> = serde_json::from_str(&env).unwrap();
    env.iter().find_map(|pair| pair.strip_prefix("WORD=")).unwrap().to_owned()
}

#[test]
fn a_person_goes_back_and_sees_what_there_was() {
    let Some(host) = Host::with_daemon() else { return };
    host.deploy(WEB);
    host.deploy(&WEB.replace("first", "second"));
    assert_eq!(word(&host), "second");
    let asks = host.mill(&["rollback"]);
    assert!(said(&asks).contains("use --yes"), "{}", said(&asks));
    let plan = said(&host.mill(&["rollback", "--dry-run"]));
    assert!(plan.contains("back to deploy #1") && plan.contains("~ web"), "{plan}");
    let back = host.mill(&["rollback", "--yes"]);
    assert!(back.status.success(), "{}", said(&back));
    assert_eq!(word(&host), "first");

    let history = said(&host.mill(&["history"]));
    let lines: Vec<&str> = history.lines().collect();
    assert!(lines[1].starts_with("#3 *") && lines[1].contains("rollback to #1"), "{history}");
    assert!(lines[3].starts_with("#1 *") && lines[3].contains("succeeded"), "{history}");
    let listed = json(&host.mill(&["history", "-n", "1", "--json"]));
    assert_eq!((&listed[0]["number"], &listed[0]["back_to"]), (&3.into(), &1.into()));
    let shown = said(&host.mill(&["deploys", "show", "2"]));
    assert!(shown.contains("deploy #2 of main: deploy") && shown.contains("succeeded"), "{shown}");
    let stopped = shown.lines().find(|line| line.starts_with("web.0-")).unwrap();
    assert!(stopped.contains(" within ") && stopped.contains("exit code"), "{shown}");
    assert!(!shown.contains("were open"), "{shown}");
    let gone = host.mill(&["rollback", "--to", "9", "--yes"]);
    assert!(said(&gone).contains("there is no deploy #9"), "{}", said(&gone));
}

#[test]
fn an_open_connection_is_given_its_time_and_is_on_the_receipt() {
    let Some(host) = Host::with_daemon() else { return };
    let hasty = WEB.replace("grace = \"1s\"", "grace = \"1s\", drain = \"2s\"");
    host.deploy(&hasty);
    let port = json(&host.mill(&["ps", "--json"]))[0]["port"].as_u64().unwrap();
    let idle = std::net::TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap())).unwrap();
    host.deploy(&hasty.replace("first", "second"));
    drop(idle);
    let shown = said(&host.mill(&["deploys", "show"]));
    assert!(shown.contains("connections that were open when it was asked to stop: 1"), "{shown}");
}

#[test]
fn a_deploy_is_cancelled_while_another_person_watches_it() {
    let Some(host) = Host::with_daemon() else { return };
    host.deploy(WEB);
    // It is never healthy, and would be waited for for a minute.
    host.config(&WEB.replace("first", "second").replace("/healthz", "/never"));
    let detached = host.mill(&["deploy", "--yes", "--detach"]);
    assert!(said(&detached).contains("`mill deploys attach 2` watches it"), "{}", said(&detached));
    let watching = host.spawn_logged(&["deploys", "attach", "2"], "watching.log");
    host.eventually("it moves", || watching.said().contains("moving its services"));
    let cancelled = host.mill(&["deploys", "cancel"]);
    assert!(cancelled.status.success(), "{}", said(&cancelled));
    assert_eq!(watching.ended().code(), Some(1));
    assert_eq!(word(&host), "first");
    let again = host.mill(&["deploys", "cancel"]);
    assert!(said(&again).contains("no deploy runs"), "{}", said(&again));
    let happened = said(&host.mill(&["events", "#2"]));
    assert!(happened.contains("went back: it was cancelled"), "{happened}");
}

#[test]
fn a_canary_is_watched_until_a_person_promotes_it() {
    let Some(host) = Host::with_daemon() else { return };
    let two = WEB.replace("port = 8080", "port = 8080\nreplicas = 2");
    host.deploy(&two);
    // Only a person can end a watch of an hour.
    let watched = "update = { canary = 1, healthy_for = \"1h\", deadline = \"2h\" }";
    let update = WEB.lines().find(|line| line.starts_with("update")).unwrap();
    host.config(&two.replace("first", "second").replace(update, watched));
    let plan = said(&host.mill(&["plan"]));
    assert!(plan.contains("one as a canary, then one at a time"), "{plan}");
    let refused = host.mill(&["deploys", "promote"]);
    assert!(said(&refused).contains("no deploy runs"), "{}", said(&refused));
    host.mill(&["deploy", "--yes", "--detach"]);
    let shown = |host: &Host| said(&host.mill(&["deploys", "show"]));
    host.eventually("its canary is watched", || {
        let shown = shown(&host);
        shown.contains("is healthy and being watched")
            && shown.contains("waiting until the canaries are promoted")
    });
    let promoted = host.mill(&["deploys", "promote", "2", "--service", "web"]);
    assert!(promoted.status.success(), "{}", said(&promoted));
    host.eventually("the other follows", || shown(&host).contains("2/2"));
    let happened = said(&host.mill(&["events", "#2"]));
    assert!(happened.contains("the canaries of web were promoted by hand"), "{happened}");
    let cancelled = host.mill(&["deploys", "cancel"]);
    assert!(cancelled.status.success(), "{}", said(&cancelled));
}
