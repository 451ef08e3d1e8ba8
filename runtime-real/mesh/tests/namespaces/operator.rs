//! What an operator hits: names, ports, routes and rules that are taken, a crash, a small MTU, a
//! firewall, a wrong key. Each says so in words.

use std::io::{BufRead, BufReader};
use std::process::Command;
use std::sync::Arc;

use mill_mesh::{Mesh, MeshOptions, PrivateKey, explain};

use crate::net::{Host, can_run, pair, until};
use crate::{PATIENT, PORT, Two, name, options, peer, set, start};

fn refusal(host: &Host, options: MeshOptions) -> String {
    host.run(|| match Mesh::start(options) {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    })
}

fn key() -> PrivateKey {
    PrivateKey::generate().unwrap()
}

#[test]
fn a_name_that_is_taken_is_refused_and_what_has_it_is_left_alone() {
    if !can_run(&[]) {
        return;
    }
    let host = Host::new();
    host.ip(&format!("link add {} type bridge", name(1)));
    let words = refusal(&host, options(1, &key()));
    assert!(words.contains("bridge") && words.contains("choose another name"), "{words}");
    host.ip(&format!("link del {}", name(1)));
    host.ip(&format!("tuntap add {} mode tun", name(1)));
    let words = refusal(&host, options(1, &key()));
    assert!(words.contains("TUN"), "{words}");
    host.ip(&format!("link show {}", name(1)));
}

#[test]
fn a_second_mesh_of_one_name_or_port_is_refused() {
    if !can_run(&[]) {
        return;
    }
    let host = Host::new();
    let first = start(&host, options(1, &key()));
    let words = refusal(&host, options(1, &key()));
    assert!(words.contains("still running"), "{words}");
    let apart = vec!["10.213.7.1/24".parse().unwrap()];
    let words = refusal(&host, MeshOptions { addresses: apart, ..options(2, &key()) });
    assert!(words.contains("51820 is taken"), "{words}");
    drop(first);
    let links = host.ip("link show");
    assert!(!links.contains("mw"), "nothing stays behind: {links}");
}

#[test]
fn a_route_or_rule_that_would_take_the_packets_is_named() {
    if !can_run(&[]) {
        return;
    }
    let [host, _other] = pair();
    host.ip("route add 10.214.3.0/24 via 10.213.0.2");
    let words = refusal(&host, options(1, &key()));
    assert!(words.contains("10.214.3.0/24") && words.contains("eth0"), "{words}");
    host.ip("route del 10.214.3.0/24");
    // A wider one is no trouble: the mesh's is longer.
    host.ip("route add 10.0.0.0/8 via 10.213.0.2");
    drop(start(&host, options(1, &key())));
    host.ip("route add default via 10.213.0.2 table 77");
    host.ip("rule add to 10.214.0.0/16 lookup 77 priority 100");
    let words = refusal(&host, options(1, &key()));
    assert!(words.contains("to eth0") && words.contains("ip rule"), "{words}");
    let links = host.ip("link show");
    assert!(!links.contains(&name(1)), "{links}");
}

#[test]
fn the_mtu_follows_the_way_to_the_peers() {
    if !can_run(&[]) {
        return;
    }
    let two = Two::introduced();
    assert!(two.reaches(0, PATIENT));
    for host in &two.hosts {
        host.ip("link set eth0 mtu 1400");
    }
    let status = |me: usize| {
        let mesh = Arc::clone(two.mesh(me));
        two.hosts[me].run(move || mesh.status().unwrap())
    };
    let found = explain(&status(0), status(0).at);
    assert!(found[0].advice.contains("1320"), "{found:?}");
    // Fragmented, but through.
    assert!(crate::reaches(&two.hosts[0], &two.hosts[1], "10.214.0.2", 1392, 20));
    for me in [0, 1] {
        let keepalive = Some(std::time::Duration::from_secs(25));
        two.introduce(me, &mill_mesh::Peer { keepalive, ..two.other(me) });
        assert_eq!(status(me).mtu, 1320);
        assert_eq!(explain(&status(me), status(me).at), vec![]);
    }
}

#[test]
fn a_killed_process_leaves_nothing_that_stops_the_next() {
    if !can_run(&["nsenter"]) {
        return;
    }
    let [host, _other] = pair();
    let (key, peer) = (key(), key().public());
    let mut process = run_example(&host, &key, &peer.to_string());
    process.0.kill().unwrap();
    process.0.wait().unwrap();
    assert!(std::path::Path::new(&format!("/var/run/wireguard/{}.sock", name(1))).exists());
    let mesh = start(&host, options(1, &key));
    assert_eq!(mesh.public_key(), key.public());
    drop(mesh);
    assert!(!std::path::Path::new(&format!("/var/run/wireguard/{}.sock", name(1))).exists());
}

fn run_example(host: &Host, key: &PrivateKey, peer: &str) -> crate::net::Program {
    let mut process = host.spawn(&format!(
        "{} {} {} {PORT} 10.214.0.1/16 {peer} 10.213.0.2:{PORT} 10.214.0.2/32",
        example(),
        name(1),
        &*key.to_text(),
    ));
    let mut line = String::new();
    BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    process
}

/// Cargo builds examples beside tests.
fn example() -> String {
    let test = std::env::current_exe().unwrap();
    let directory = test.parent().unwrap().parent().unwrap();
    directory.join("examples/mesh").display().to_string()
}

#[test]
fn without_the_capability_it_says_which_one_and_where_to_give_it() {
    if !can_run(&["setpriv"]) {
        return;
    }
    let [host, _other] = pair();
    let output = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", host.namespace))
        .args(["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"])
        .args([&example(), &name(1), &*key().to_text(), "51820", "10.214.0.1/16"])
        .args([&key().public().to_string(), "10.213.0.2:51820", "10.214.0.2/32"])
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(words.contains("CAP_NET_ADMIN"), "{words}");
}

#[test]
fn a_firewall_and_a_wrong_key_are_told_apart() {
    if !can_run(&["nft"]) {
        return;
    }
    let two = Two::introduced();
    assert!(two.reaches(0, PATIENT));
    let words = |me: usize| {
        let mesh = Arc::clone(two.mesh(me));
        let status = two.hosts[me].run(move || mesh.status().unwrap());
        let later = status.at + std::time::Duration::from_secs(60);
        let found = explain(&status, later);
        found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    // Outgoing UDP is refused by this machine's own rules.
    two.hosts[0].nft("add table inet test");
    two.hosts[0].nft("add chain inet test out { type filter hook output priority 0 ; }");
    two.hosts[0].nft(&format!("add rule inet test out udp dport {PORT} drop"));
    set(&two.hosts[0], two.mesh(0), &[]);
    two.introduce(0, &two.other(0));
    two.reaches(0, 2);
    assert!(words(0).contains("cannot send"), "{}", words(0));
    two.hosts[0].nft("delete table inet test");
    // The other side has a firewall: sent, never answered.
    two.hosts[1].nft("add table inet test");
    two.hosts[1].nft("add chain inet test in { type filter hook input priority 0 ; }");
    two.hosts[1].nft(&format!("add rule inet test in udp dport {PORT} drop"));
    set(&two.hosts[0], two.mesh(0), &[]);
    two.introduce(0, &two.other(0));
    two.reaches(0, 2);
    assert!(words(0).contains("was ever answered"), "{}", words(0));
    two.hosts[1].nft("delete table inet test");
    // The other side does not know our key any more.
    set(&two.hosts[1], two.mesh(1), &[peer(1, &key(), None)]);
    until("a handshake arrives there", || {
        two.reaches(0, 1);
        words(1).contains("no peers here")
    });
}

#[test]
fn an_interface_that_was_taken_down_is_said_to_be_and_works_when_it_is_up_again() {
    if !can_run(&[]) {
        return;
    }
    let two = Two::introduced();
    assert!(two.reaches(0, PATIENT));
    two.hosts[0].ip(&format!("link set {} down", name(1)));
    let mesh = Arc::clone(two.mesh(0));
    let status = two.hosts[0].run(move || mesh.status().unwrap());
    assert!(explain(&status, status.at)[0].reason.contains("taken down"));
    two.hosts[0].ip(&format!("link set {} up", name(1)));
    assert!(two.reaches(0, PATIENT));
}

#[test]
fn an_interface_that_somebody_deletes_is_an_error_that_says_so() {
    if !can_run(&[]) {
        return;
    }
    let host = Host::new();
    let mesh = start(&host, options(1, &key()));
    host.ip(&format!("link del {}", name(1)));
    let words = host.run(move || {
        let mut words = String::new();
        until("it is noticed", || match mesh.status() {
            Ok(_) => false,
            Err(error) => {
                words = error.to_string();
                true
            }
        });
        words
    });
    assert!(words.contains(&name(1)), "{words}");
}
