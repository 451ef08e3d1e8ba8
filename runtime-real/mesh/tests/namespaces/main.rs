//! Real interfaces in network namespaces: what only a kernel can show.
//!
//! They need root, `ip` and `nft`; `interop.rs` also wireguard-go and `wg`. Without they say so,
//! and fail if MILL_REQUIRE_ENGINE is set.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is the report")]

mod interop;
mod net;
mod operator;

use std::sync::Arc;
use std::time::Duration;

use mill_mesh::{Kind, Mesh, MeshOptions, Peer, PeerStatus, Prefer, PrivateKey, Underlay, explain};
use net::{Host, can_run, pair, reaches, until};

/// Tries enough for anything that needs a handshake that is repeated after 5 s.
pub const PATIENT: usize = 150;
/// The port that all listen on.
pub const PORT: u16 = 51_820;

/// The name of an interface of this test, unique on the machine, as sockets of `wg` must be.
pub fn name(number: usize) -> String {
    format!("mw{}n{number}", std::process::id())
}

/// Host `number` as its own mesh.
pub fn options(number: usize, key: &PrivateKey) -> MeshOptions {
    MeshOptions {
        interface: name(number),
        private_key: key.clone(),
        listen_port: PORT,
        addresses: vec![
            format!("10.214.0.{number}/16").parse().unwrap(),
            format!("fd00:214::{number}/64").parse().unwrap(),
        ],
        mtu: None,
        prefer: Prefer::Auto,
    }
}

/// A mesh there.
pub fn start(host: &Host, options: MeshOptions) -> Arc<Mesh> {
    host.run(|| Arc::new(Mesh::start(options).unwrap()))
}

/// The peer that host `number` is to others.
pub fn peer(number: usize, key: &PrivateKey, endpoint: Option<&str>) -> Peer {
    Peer {
        public_key: key.public(),
        endpoint: endpoint.map(|text| text.parse().unwrap()),
        allowed: vec![
            format!("10.214.0.{number}/32").parse().unwrap(),
            format!("fd00:214::{number}/128").parse().unwrap(),
        ],
        keepalive: None,
    }
}

/// Sets its peers.
pub fn set(host: &Host, mesh: &Arc<Mesh>, peers: &[Peer]) {
    let (mesh, peers) = (Arc::clone(mesh), peers.to_vec());
    host.run(move || mesh.set_peers(&peers).unwrap());
}

/// How its first peer is.
pub fn only_peer(host: &Host, mesh: &Arc<Mesh>) -> PeerStatus {
    let mesh = Arc::clone(mesh);
    host.run(move || mesh.status().unwrap().peers.remove(0))
}

/// Two hosts whose meshes know each other; host 0 is number 1.
pub struct Two {
    /// A mesh that is taken out is stopped.
    pub meshes: [Option<Arc<Mesh>>; 2],
    /// The hosts' keys.
    pub keys: [PrivateKey; 2],
    /// The hosts; last, so that they go after their meshes.
    pub hosts: [Host; 2],
}

impl Two {
    /// Both up, and introduced.
    pub fn introduced() -> Two {
        let hosts = pair();
        let keys = [(); 2].map(|()| PrivateKey::generate().unwrap());
        let meshes = [0, 1].map(|me| Some(start(&hosts[me], options(me + 1, &keys[me]))));
        let two = Two { meshes, keys, hosts };
        two.introduce(0, &two.other(0));
        two.introduce(1, &two.other(1));
        two
    }

    /// The other host as host `me` should know it.
    pub fn other(&self, me: usize) -> Peer {
        let number = 2 - me;
        let endpoint = format!("10.213.0.{number}:{PORT}");
        peer(number, &self.keys[1 - me], Some(&endpoint))
    }

    /// Makes `other` the only peer of host `me`.
    pub fn introduce(&self, me: usize, other: &Peer) {
        set(&self.hosts[me], self.mesh(me), std::slice::from_ref(other));
    }

    /// The mesh of host `me`.
    pub fn mesh(&self, me: usize) -> &Arc<Mesh> {
        self.meshes[me].as_ref().unwrap()
    }

    /// How the peer of host `me` is.
    pub fn status(&self, me: usize) -> PeerStatus {
        only_peer(&self.hosts[me], self.mesh(me))
    }

    /// Whether host `me` reaches the other through the mesh.
    pub fn reaches(&self, me: usize, tries: usize) -> bool {
        let address = format!("10.214.0.{}", 2 - me);
        reaches(&self.hosts[me], &self.hosts[1 - me], &address, 64, tries)
    }
}

#[test]
fn two_meshes_talk_in_both_families_and_say_how_they_are() {
    if !can_run(&[]) {
        return;
    }
    let mut two = Two::introduced();
    assert!(two.reaches(0, PATIENT));
    assert!(reaches(&two.hosts[1], &two.hosts[0], "fd00:214::1", 64, PATIENT));
    let mesh = Arc::clone(two.mesh(0));
    let status = two.hosts[0].run(move || mesh.status().unwrap());
    assert_eq!((status.listen_port, status.mtu), (PORT, 1420));
    assert_eq!(status.public_key, two.keys[0].public());
    let peer = &status.peers[0];
    assert_eq!(peer.endpoint, Some(format!("10.213.0.2:{PORT}").parse().unwrap()));
    assert!(peer.handshake_age.unwrap() < Duration::from_secs(20), "{peer:?}");
    assert!(peer.sent_bytes > 200 && peer.received_bytes > 200, "{peer:?}");
    let routed = Underlay::Routed { interface: "eth0".to_owned(), mtu: 1500 };
    assert_eq!(peer.underlay, routed);
    assert_eq!(explain(&status, status.at), vec![]);
    two.meshes = [None, None];
    let links = two.hosts[0].ip("link show");
    assert!(!links.contains(&name(1)), "{links}");
}

#[test]
fn full_packets_fit_and_larger_ones_are_put_together_again() {
    if !can_run(&[]) {
        return;
    }
    let two = Two::introduced();
    assert!(two.reaches(0, PATIENT));
    for bytes in [1420 - 28, 1420 - 27, 9000, 60_000] {
        assert!(reaches(&two.hosts[0], &two.hosts[1], "10.214.0.2", bytes, 20), "{bytes}");
    }
}

#[test]
fn a_peer_that_moved_is_followed_and_stays_where_it_is() {
    if !can_run(&[]) {
        return;
    }
    let two = Two::introduced();
    assert!(two.reaches(0, PATIENT));
    two.hosts[0].ip("addr del 10.213.0.1/24 dev eth0");
    two.hosts[0].ip("addr add 10.213.0.9/24 dev eth0");
    assert!(two.reaches(0, PATIENT));
    let moved = Some(format!("10.213.0.9:{PORT}").parse().unwrap());
    assert_eq!(two.status(1).endpoint, moved);
    let before = two.status(1);
    // The same list again, and one that differs in something else.
    two.introduce(1, &two.other(1));
    let keepalive = Some(Duration::from_secs(25));
    two.introduce(1, &Peer { keepalive, ..two.other(1) });
    let after = two.status(1);
    assert_eq!(after.endpoint, moved);
    assert!(after.received_bytes >= before.received_bytes);
    assert!(two.reaches(1, 20));
    // Another endpoint is wanted: it is set.
    let wanted = peer(1, &two.keys[0], Some("10.213.0.77:1"));
    two.introduce(1, &wanted);
    assert_eq!(two.status(1).endpoint, wanted.endpoint);
}

#[test]
fn a_new_key_keeps_the_interface_and_its_peers() {
    if !can_run(&[]) {
        return;
    }
    let mut two = Two::introduced();
    assert!(two.reaches(0, PATIENT));
    let before = two.hosts[0].ip(&format!("-o link show {}", name(1)));
    let key = PrivateKey::generate().unwrap();
    let (mesh, new) = (Arc::clone(two.mesh(0)), key.clone());
    two.hosts[0].run(move || mesh.rotate(&new).unwrap());
    two.keys[0] = key;
    two.introduce(1, &two.other(1));
    assert!(two.reaches(1, PATIENT));
    assert_eq!(two.hosts[0].ip(&format!("-o link show {}", name(1))), before);
    let mesh = Arc::clone(two.mesh(0));
    let status = two.hosts[0].run(move || mesh.status().unwrap());
    assert_eq!(status.public_key, two.keys[0].public());
}

#[test]
fn a_removed_peer_is_cut_off_and_can_come_back() {
    if !can_run(&[]) {
        return;
    }
    let two = Two::introduced();
    assert!(two.reaches(0, PATIENT));
    set(&two.hosts[1], two.mesh(1), &[]);
    assert!(!two.reaches(0, 5));
    two.introduce(1, &two.other(1));
    assert!(two.reaches(1, PATIENT));
    assert!(two.reaches(0, PATIENT));
}

#[test]
fn a_side_that_starts_anew_is_reached_again() {
    if !can_run(&[]) {
        return;
    }
    let mut two = Two::introduced();
    assert!(two.reaches(0, PATIENT));
    two.meshes[0] = None;
    two.meshes[0] = Some(start(&two.hosts[0], options(1, &two.keys[0])));
    let keepalive = Some(Duration::from_secs(25));
    two.introduce(0, &Peer { keepalive, ..two.other(0) });
    // The keepalive makes the handshake at once, so the other side needs no time-out.
    assert!(two.reaches(1, 50));
    assert!(two.reaches(0, 50));
}

#[test]
fn a_keepalive_opens_the_way_through_a_nat() {
    if !can_run(&["nft"]) {
        return;
    }
    let hosts = [Host::new(), Host::new(), Host::new()];
    net::cable([&hosts[0], &hosts[1]], "inner", "10.213.1");
    net::cable([&hosts[1], &hosts[2]], "outer", "10.213.2");
    hosts[0].ip("route add 10.213.2.0/24 via 10.213.1.2");
    // What /proc/sys/net shows is the namespace of the thread that opens it.
    hosts[1].run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
    hosts[1].nft("add table ip nat");
    hosts[1].nft("add chain ip nat out { type nat hook postrouting priority 100 ; }");
    hosts[1].nft("add rule ip nat out oifname outer masquerade");
    let keys = [(); 2].map(|()| PrivateKey::generate().unwrap());
    let inside = start(&hosts[0], options(1, &keys[0]));
    let outside = start(&hosts[2], options(2, &keys[1]));
    // The outside knows no address of the inside, and the inside sends nothing by itself.
    set(&hosts[2], &outside, &[peer(1, &keys[0], None)]);
    let known = peer(2, &keys[1], Some(&format!("10.213.2.2:{PORT}")));
    set(&hosts[0], &inside, &[Peer { keepalive: Some(Duration::from_secs(25)), ..known }]);
    until("the outside knows the inside", || only_peer(&hosts[2], &outside).endpoint.is_some());
    assert!(reaches(&hosts[2], &hosts[0], "10.214.0.1", 64, 50));
    let seen = only_peer(&hosts[2], &outside).endpoint.unwrap();
    assert_eq!(seen.ip().to_string(), "10.213.2.1");
}

#[test]
fn an_underlay_of_ipv6_alone_is_enough() {
    if !can_run(&[]) {
        return;
    }
    let two = Two::introduced();
    for host in &two.hosts {
        host.ip("-4 addr flush dev eth0");
    }
    for me in [0, 1] {
        let endpoint = format!("[fd00:213::{}]:{PORT}", 2 - me);
        two.introduce(me, &peer(2 - me, &two.keys[1 - me], Some(&endpoint)));
    }
    assert!(two.reaches(0, PATIENT));
}

#[test]
fn a_kernel_without_wireguard_is_replaced_by_this_process() {
    if !can_run(&[]) {
        return;
    }
    let host = Host::new();
    let key = PrivateKey::generate().unwrap();
    let kernel = MeshOptions { prefer: Prefer::Kernel, ..options(1, &key) };
    match host.run(move || Mesh::start(kernel).map(|mesh| mesh.kind())) {
        Ok(kind) => assert_eq!(kind, Kind::Kernel),
        Err(error) => {
            assert!(error.to_string().contains("modprobe wireguard"), "{error}");
            assert_eq!(start(&host, options(1, &key)).kind(), Kind::Userspace);
        }
    }
}
