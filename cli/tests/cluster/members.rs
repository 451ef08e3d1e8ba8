//! Who belongs: joining and its refusals, draining, leaving, replacing.

use mill_runtime_real::token::JoinToken;

use super::machines::Machines;
use super::support::{pause, said};

const WEB: &str = r#"
[service.web]
image = "test/web:1"
port = 8080
replicas = 3
health = { path = "/healthz", interval = "1s" }
update = { healthy_for = "500ms", parallel = 3 }
stop = { grace = "2s" }
"#;

/// The same word with other digits in one of its parts.
fn forged(token: &str, part: usize) -> String {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    parts[part] = parts[part].chars().rev().collect();
    parts.join(".")
}

#[test]
fn a_machine_that_may_not_join_is_told_why_and_one_that_has_joined_may_again() {
    let Some(mut machines) = Machines::start(3) else { return };
    machines.init();
    let token = machines.token(&["--once", "--role", "secondary"]);
    let stranger = machines.join_refused(2, &forged(&token, 2), &[]);
    assert!(stranger.contains("is not known here, or was revoked"), "{stranger}");
    // What the cluster keeps of it is in backups and recordings: it opens nothing.
    let read: JoinToken = token.parse().unwrap();
    let hash = format!("mill1.{}.{}", read.authority, read.hash());
    let hashed = machines.join_refused(2, &hash, &[]);
    assert!(hashed.contains("is not known here, or was revoked"), "{hashed}");
    let elsewhere = machines.join_refused(2, &forged(&token, 1), &[]);
    assert!(elsewhere.contains("is not of the cluster that this token is from"), "{elsewhere}");
    let mistyped = machines.join_refused(2, &token[..40], &[]);
    assert!(mistyped.contains("not a whole join token"), "{mistyped}");
    let higher = machines.join_refused(2, &token, &["--role", "primary"]);
    assert!(higher.contains("primary"), "{higher}");
    let brief = machines.token(&["--lasts", "1s"]);
    pause(1_100);
    let late = machines.join_refused(2, &brief, &[]);
    assert!(late.contains("has expired"), "{late}");

    machines.join(2, &token, &["--label", "zone=b"]);
    machines.eventually("it is up", |machines| {
        machines
            .nodes(1)
            .iter()
            .any(|node| node["name"] == "m2" && node["up"] == true && node["labels"]["zone"] == "b")
    });
    let used = machines.join_refused(3, &token, &[]);
    assert!(used.contains("m2"), "it names who has used it: {used}");
    machines.kill_daemon(2);
    machines.join(2, &token, &[]);
    machines.eventually("the same node is back", |machines| machines.leader(2) == Some(1));
    assert_eq!(machines.nodes(2).len(), 2);

    let fresh = machines.token(&[]);
    machines.done(1, &["token", "revoke"]);
    let revoked = machines.join_refused(3, &fresh, &[]);
    assert!(revoked.contains("was revoked"), "{revoked}");
    // Where no daemon is, and where one is that does not lead and cannot sign.
    machines.kill_daemon(2);
    let nobody = machines.join_refused_at(3, 2, &fresh);
    assert!(nobody.contains("no node answers at"), "{nobody}");
    machines.init_on(2);
    machines.eventually("it follows", |machines| machines.leader(2) == Some(1));
    let old = machines.token(&[]);
    let token = machines.rotated_token();
    let rotated = machines.join_refused_at(3, 2, &old);
    assert!(rotated.contains("was revoked"), "{rotated}");
    machines.join_at(3, 2, &token, &[]);
    machines.eventually("it is in, by way of a node that passed it on", |machines| {
        machines.nodes(3).len() == 3
    });
}

#[test]
fn a_machine_is_emptied_leaves_and_another_takes_its_place() {
    let Some(mut machines) = Machines::with_cluster(3) else { return };
    machines.deploy(2, WEB);
    let refused = machines.mill(1, &["node", "rm", "m3"]);
    assert!(said(&refused).contains("drain it first"), "{}", said(&refused));
    let told = machines.done(3, &["leave"]);
    assert!(told.contains("has left"), "{told}");
    assert!(machines.ended(3).contains("was removed from cluster"));
    assert!(machines.containers(3).is_empty());
    let allocs = machines.allocs(1);
    assert_eq!(allocs.iter().filter(|alloc| alloc["phase"] == "healthy").count(), 3);
    // As another machine would: nothing is left of what it was.
    std::fs::remove_dir_all(machines.path(3, "mill")).unwrap();
    let token = machines.token(&[]);
    machines.join(3, &token, &["--name", "new"]);
    machines.eventually("three vote again", |machines| {
        let nodes = machines.nodes(1);
        nodes.iter().filter(|node| node["votes"] == true).count() == 3
            && nodes.iter().any(|node| node["name"] == "new")
    });
    machines.done(1, &["node", "drain", "m2"]);
    assert!(machines.containers(2).is_empty());
    machines.done(1, &["node", "undrain", "m2"]);
}

#[test]
fn a_machine_that_was_removed_while_it_was_away_ends_when_it_is_back() {
    let Some(mut machines) = Machines::with_cluster(3) else { return };
    machines.deploy(1, WEB);
    let leader = machines.some_leader();
    let away = machines.all().find(|machine| *machine != leader).unwrap();
    machines.cut(away);
    machines.eventually("it is down", |machines| {
        machines.nodes(leader).iter().any(|node| node["up"] == false)
    });
    machines.done(leader, &["node", "rm", &format!("m{away}"), "--force"]);
    assert!(!machines.containers(away).is_empty(), "what is cut off goes on running");
    machines.heal(away);
    assert!(machines.ended(away).contains("was removed from cluster"));
    assert!(machines.containers(away).is_empty());
}

#[test]
fn five_machines_vote_and_lose_two() {
    let Some(mut machines) = Machines::with_cluster(5) else { return };
    machines.deploy(5, WEB);
    let leader = machines.some_leader();
    let victims: Vec<usize> =
        [leader].into_iter().chain(machines.all().filter(|m| *m != leader)).take(2).collect();
    victims.iter().for_each(|victim| machines.power_off(*victim));
    let left = machines.all().find(|machine| !victims.contains(machine)).unwrap();
    machines.eventually("three replicas are healthy on the rest", |machines| {
        let lost = |alloc: &serde_json::Value| {
            victims.iter().any(|victim| alloc["node"] == format!("m{victim}"))
        };
        let fine = machines.allocs(left);
        fine.iter().filter(|alloc| alloc["phase"] == "healthy" && !lost(alloc)).count() == 3
    });
    victims.iter().for_each(|victim| machines.power_on(*victim));
    machines.eventually("all five are up", |machines| {
        let nodes = machines.nodes(left);
        nodes.len() == 5 && nodes.iter().all(|node| node["up"] == true)
    });
}
