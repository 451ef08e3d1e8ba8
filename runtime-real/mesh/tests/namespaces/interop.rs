//! With others' WireGuard: wireguard-go at the other end, `wg` reading ours.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use mill_mesh::{Mesh, PrivateKey};

use crate::net::{Host, Program, can_run, pair, program, reaches, until};
use crate::{PATIENT, PORT, Two, name, only_peer, options, peer, set, start};

/// wireguard-go, and the socket that it leaves when it is killed.
struct WireguardGo(#[expect(dead_code, reason = "it is killed when this is dropped")] Program);

impl Drop for WireguardGo {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(format!("/var/run/wireguard/{}.sock", name(2)));
    }
}

/// wireguard-go as host 2, set up by `wg`.
fn wireguard_go(host: &Host, key: &PrivateKey, other: &PrivateKey) -> WireguardGo {
    let interface = name(2);
    let process = WireguardGo(host.spawn(&format!("wireguard-go -f {interface}")));
    until("wireguard-go answers", || {
        UnixStream::connect(format!("/var/run/wireguard/{interface}.sock")).is_ok()
    });
    let file = std::env::temp_dir().join(format!("mill-mesh-{}", std::process::id()));
    std::fs::write(&file, &*key.to_text()).unwrap();
    program(&format!(
        "wg set {interface} private-key {} listen-port {PORT} peer {} endpoint 10.213.0.1:{PORT} \
         allowed-ips 10.214.0.1/32",
        file.display(),
        other.public()
    ));
    std::fs::remove_file(&file).unwrap();
    host.ip(&format!("addr add 10.214.0.2/16 dev {interface}"));
    host.ip(&format!("link set {interface} up mtu 1420"));
    process
}

#[test]
fn wireguard_go_and_the_mesh_reach_each_other_whoever_begins() {
    if !can_run(&["wireguard-go", "wg"]) {
        return;
    }
    for begins in [0, 1] {
        let hosts = pair();
        let keys = [(); 2].map(|()| PrivateKey::generate().unwrap());
        let mesh: Arc<Mesh> = start(&hosts[0], options(1, &keys[0]));
        let _process = wireguard_go(&hosts[1], &keys[1], &keys[0]);
        let endpoint = format!("10.213.0.2:{PORT}");
        set(&hosts[0], &mesh, &[peer(2, &keys[1], Some(&endpoint))]);
        for me in [begins, 1 - begins] {
            let address = format!("10.214.0.{}", 2 - me);
            for bytes in [64, 1392, 9000] {
                assert!(reaches(&hosts[me], &hosts[1 - me], &address, bytes, PATIENT), "{me}");
            }
        }
        assert!(only_peer(&hosts[0], &mesh).handshake_age.is_some());
    }
}

#[test]
fn wg_show_reads_our_device_and_may_not_change_it() {
    if !can_run(&["wg"]) {
        return;
    }
    let two = Two::introduced();
    assert!(two.reaches(0, PATIENT));
    if two.mesh(0).kind() == mill_mesh::Kind::Kernel {
        return;
    }
    let dump = program(&format!("wg show {} dump", name(1)));
    let lines: Vec<Vec<&str>> = dump.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(lines[0][1], two.keys[0].public().to_string());
    assert_eq!(lines[0][2], PORT.to_string());
    assert_eq!(lines[1][0], two.keys[1].public().to_string());
    assert_eq!(lines[1][2], format!("10.213.0.2:{PORT}"));
    assert!(lines[1][3].contains("10.214.0.2/32") && lines[1][3].contains("fd00:214::2/128"));
    let handshake: u64 = lines[1][4].parse().unwrap();
    assert!(handshake > 1_600_000_000, "{dump}");
    let words = program(&format!("wg show {}", name(1)));
    assert!(words.contains("latest handshake:") && words.contains("received"), "{words}");
    let attempt = std::process::Command::new("wg")
        .args(["set", &name(1), "peer", &two.keys[1].public().to_string(), "remove"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&attempt.stderr).contains("not permitted"), "{attempt:?}");
    let socket = format!("/var/run/wireguard/{}.sock", name(1));
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
