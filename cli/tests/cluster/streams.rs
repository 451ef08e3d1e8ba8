//! Streams through the cluster, whichever node is asked, and what is said when one is lost.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::machines::{Machines, now};
use super::support::said;

const TICKS: &str = r#"
[service.clock]
image = "test/web:1"
replicas = 3
command = ["/bin/sh", "-c", "i=0; while true; do echo tick $i; i=$((i+1)); sleep 0.1; done"]
update = { healthy_for = "200ms", parallel = 3 }
stop = { grace = "0s" }
"#;

fn lines(text: &str) -> Vec<Value> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

const ECHO: &str = r#"
[service.echo]
image = "test/web:1"
port = 7
replicas = 3
command = ["/bin/sh", "-c", "exec nc -ll -p $PORT -e cat"]
update = { healthy_for = "500ms", parallel = 3 }
stop = { grace = "0s" }
"#;

/// What each alloc has counted, in the order in which it came.
fn ticks(lines: &[Value]) -> BTreeMap<String, Vec<u64>> {
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for line in lines {
        let alloc = line["alloc"].as_str().unwrap().to_owned();
        let number = line["text"].as_str().unwrap().strip_prefix("tick ").unwrap();
        found.entry(alloc).or_default().push(number.parse().unwrap());
    }
    found
}

#[test]
fn output_of_every_node_is_one_stream_and_a_node_that_does_not_answer_is_named() {
    let Some(machines) = Machines::with_cluster(3) else { return };
    machines.deploy(1, TICKS);
    let leader = machines.some_leader();
    let lost = machines.all().find(|machine| *machine != leader).unwrap();
    let asked = machines.all().find(|machine| ![leader, lost].contains(machine)).unwrap();
    machines.eventually("each has printed enough", |machines| {
        let all = lines(&machines.done(asked, &["logs", "-n", "5", "--json"]));
        let counted = ticks(&all);
        assert!(all.is_sorted_by_key(|line| line["at"].as_u64()), "{all:?}");
        counted.len() == 3 && counted.values().all(|ticks| ticks.len() == 5)
    });
    let following = machines.spawn(asked, &["logs", "-f", "-n", "1", "--json"], "follow.log");
    machines.eventually("every node's lines come", |_| {
        let counted = ticks(&lines(&following.said()));
        counted.len() == 3 && counted.values().all(|ticks| ticks.len() > 5)
    });
    machines.cut(lost);
    let begun = now();
    let logs = machines.mill(asked, &["logs", "-n", "5", "--json"]);
    println!("a node is lost, until the others' lines were shown: {:.2?}", begun.elapsed());
    assert_eq!(logs.status.code(), Some(1), "{}", said(&logs));
    let named = format!("node m{lost} does not answer");
    assert!(said(&logs).contains(&named), "{}", said(&logs));
    assert_eq!(ticks(&lines(&said(&logs))).len(), 2, "{}", said(&logs));
    machines.eventually("a follower is told", |_| following.said().contains(&named));
    machines.heal(lost);
    let there = machines
        .allocs(leader)
        .into_iter()
        .find(|alloc| alloc["node"] == format!("m{lost}") && alloc["slot"].as_str().is_some());
    let there = there.unwrap()["id"].as_str().unwrap().to_owned();
    let count = |text: &str| ticks(&lines(text))[&there].len();
    let before = count(&following.said());
    machines.eventually("it goes on", |_| count(&following.said()) > before + 20);
    for ticks in ticks(&lines(&following.said())).values() {
        assert!(ticks.windows(2).all(|two| two[1] == two[0] + 1), "a gap or twice: {ticks:?}");
    }
}

#[test]
fn commands_and_connections_reach_every_node_through_any_and_a_lost_one_is_named() {
    let Some(machines) = Machines::with_cluster(3) else { return };
    machines.deploy(1, ECHO);
    let leader = machines.some_leader();
    let asked = machines.all().find(|machine| *machine != leader).unwrap();
    let lost = machines.all().find(|machine| ![leader, asked].contains(machine)).unwrap();
    let allocs = machines.allocs(asked);
    let on = |machine: usize| {
        let name = format!("m{machine}");
        let alloc = allocs.iter().find(|alloc| alloc["node"] == name).unwrap();
        alloc["id"].as_str().unwrap().to_owned()
    };
    for machine in machines.all() {
        let alloc = on(machine);
        let script = "echo $MILL_NODE; echo no >&2; exit 9";
        let ran = machines.mill(asked, &["exec", &alloc, "--", "sh", "-c", script]);
        assert_eq!(ran.status.code(), Some(9), "{}", said(&ran));
        assert_eq!(ran.stdout, format!("m{machine}\n").as_bytes());
        assert_eq!(ran.stderr, b"no\n");
    }
    let missing = machines.mill(asked, &["exec", &on(lost), "--", "nosuch"]);
    assert_eq!(missing.status.code(), Some(127), "{}", said(&missing));
    let forward = machines.spawn(asked, &["forward", "echo", "0:7", "--json"], "forward.log");
    machines.eventually("it listens", |_| forward.said().contains("local"));
    let port = lines(&forward.said())[0]["local"].as_str().unwrap().to_owned();
    // Replicas take turns, so all three nodes are reached.
    let all: Vec<u8> = (0..1 << 20).map(|at: u32| at.to_le_bytes()[0]).collect();
    for _ in 0..6 {
        let socket = TcpStream::connect(&port).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut back = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (&socket).write_all(&all).unwrap();
                socket.shutdown(Shutdown::Write).unwrap();
            });
            (&socket).read_to_end(&mut back).unwrap();
        });
        assert!(back == all, "{} bytes came back", back.len());
    }
    assert!(!forward.said().contains("error"), "{}", forward.said());
    let args = ["exec", &on(lost), "--", "sh", "-c", "echo begun; exec sleep 471103"];
    let watching = machines.spawn(asked, &args, "watching.log");
    machines.eventually("it has begun", |_| watching.said().contains("begun"));
    machines.cut(lost);
    let begun = now();
    let watching = watching.over();
    println!("a node is lost, until who watches a command there is told: {:.2?}", begun.elapsed());
    let named = format!("node m{lost} was lost in the middle of it");
    assert!(watching.said().contains(&named), "{}", watching.said());
    let refused = machines.mill(asked, &["exec", &on(lost), "--", "true"]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    let named = format!("node m{lost}, which holds {}, does not answer", on(lost));
    assert!(said(&refused).contains(&named), "{}", said(&refused));
    machines.heal(lost);
    machines.eventually("the command has ended there", |_| {
        let found = Command::new("pgrep").args(["-f", "^sleep 471103$"]).output().unwrap();
        !found.status.success()
    });
}
