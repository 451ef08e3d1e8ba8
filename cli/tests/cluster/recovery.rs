//! What is left of a cluster: a majority that is gone, and a backup on a new machine.

use super::machines::Machines;
use super::support::{said, text};

const WEB: &str = r#"
[service.web]
image = "test/web:1"
port = 8080
replicas = 2
health = { path = "/healthz", interval = "1s" }
update = { healthy_for = "500ms", parallel = 2 }
stop = { grace = "2s" }
"#;

fn healthy(machines: &Machines, machine: usize) -> usize {
    machines.allocs(machine).iter().filter(|alloc| alloc["phase"] == "healthy").count()
}

#[test]
fn one_machine_of_three_goes_on_alone_and_the_lost_ones_end_when_they_are_back() {
    let Some(mut machines) = Machines::with_cluster(3) else { return };
    machines.deploy(1, WEB);
    let last = 3;
    [1, 2].iter().for_each(|lost| machines.cut(*lost));
    machines.eventually("it knows that it is alone", |machines| {
        let refused = machines.mill(last, &["node", "label", "m3", "alone=yes"]);
        refused.status.code() == Some(3) && said(&refused).contains("no other has shown up")
    });
    let data = machines.path(last, "mill");
    let recover = ["recover", "--yes", "--data", data.to_str().unwrap()];
    let in_use = machines.mill(last, &recover);
    assert!(said(&in_use).contains("in use"), "{}", said(&in_use));
    let before = machines.containers(last);
    machines.stop_daemon(last);
    let told = text(machines.mill(last, &recover));
    assert!(told.contains("removed for good: m1") && told.contains("from revision 1."), "{told}");
    machines.init_on(last);
    machines.eventually("it leads, and fills what is missing", |machines| {
        machines.leader(last) == Some(last) && healthy(machines, last) == 2
    });
    before.iter().for_each(|kept| {
        assert!(machines.containers(last).contains(kept), "{kept} was not touched");
    });
    machines.done(last, &["node", "label", "m3", "alone=yes"]);
    // Together they could be a cluster: each is told that it is not, and ends.
    [1, 2].iter().for_each(|lost| machines.heal(*lost));
    for lost in [1, 2] {
        assert!(machines.ended(lost).contains("was removed from cluster"));
        assert!(machines.containers(lost).is_empty());
    }
    std::fs::remove_dir_all(machines.path(2, "mill")).unwrap();
    let token = machines.token_of(last, &[]);
    machines.join_at(2, last, &token, &["--name", "again"]);
    machines.eventually("another machine joins", |machines| machines.nodes(2).len() == 2);
    machines.eventually("it has the same state", |machines| {
        said(&machines.mill(2, &["status", "--stale"])).contains("revision 1.")
    });
    assert_eq!(healthy(&machines, last), 2);
}

#[test]
fn nodes_that_lost_their_address_books_find_each_other_all_the_same() {
    let Some(mut machines) = Machines::with_cluster(3) else { return };
    for machine in 1..=3 {
        machines.kill_daemon(machine);
    }
    for machine in 1..=3 {
        std::fs::remove_file(machines.path(machine, "mill").join("peers.json")).unwrap();
    }
    for machine in 1..=3 {
        machines.init_on(machine);
    }
    machines.eventually("a write is accepted", |machines| {
        machines.mill(2, &["node", "label", "m1", "found=yes"]).status.success()
    });
    machines.eventually("they have a book again", |machines| {
        (1..=3).all(|machine| machines.path(machine, "mill").join("peers.json").exists())
    });
}

#[test]
fn a_backup_brings_a_cluster_back_on_a_new_machine() {
    let Some(mut machines) = Machines::start(2) else { return };
    machines.init();
    machines.deploy(1, WEB);
    let key = machines.recovery_key(1);
    let file = machines.path(1, "saved.backup");
    let file = file.to_str().unwrap();
    machines.done(1, &["backup", "save", file]);
    machines.deploy(1, &WEB.replace("replicas = 2", "replicas = 1"));
    machines.power_off(1);
    let wrong = "millrec1.".to_owned() + &"ab".repeat(32);
    let refused = machines.restore_refused(2, file, &wrong);
    assert!(refused.contains("does not open this backup"), "{refused}");
    machines.restore(2, file, &key);
    machines.eventually("what was saved runs there", |machines| healthy(machines, 2) == 2);
    let status = said(&machines.mill(2, &["status"]));
    assert!(status.contains("revision 1.") && status.contains("m2"), "{status}");
    machines.done(2, &["token", "create"]);
    // The machine that was lost is back, with its old state: it has no majority but itself, and
    // may join only as a new one.
    machines.kill_daemon(2);
    machines.init_on(2);
    machines.eventually("it starts again as any other", |machines| healthy(machines, 2) == 2);
}
