//! The name server on loopback: what is sent for each kind of question, byte by byte where that
//! matters, and as `dig` sees it where there is one.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use hickory_server::proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_server::proto::rr::{Name, RecordType};
use mill_core::name::{AllocId, NodeId};
use mill_core::net::{Network, NodeTable, Replica, ServiceTable, Tables};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);
const NETWORK: Network = Network(10, 251);

/// Tables with `web` of this many replicas on three nodes, and `worker`, which has no port.
fn tables(replicas: u16) -> Arc<Tables> {
    let host = |node: u16| IpAddr::from([192, 0, 2, u8::try_from(node).unwrap()]);
    let replica = |slot: u16| {
        let (node, alloc) = (slot % 3 + 1, AllocId::known(&format!("web.{slot}-a")));
        let (slot, port) = (u64::from(slot), 20_000 + slot);
        Replica { slot, alloc, node: NodeId(u64::from(node)), host: host(node), port }
    };
    let ports = BTreeMap::from([(8080, (0..replicas).map(replica).collect())]);
    let nodes = (1..=3).map(|node| {
        let table = NodeTable { name: format!("node-{node}"), host: host(node) };
        (NodeId(u64::from(node)), table)
    });
    Arc::new(Tables {
        network: NETWORK,
        services: BTreeMap::from([
            ("web".parse().unwrap(), ServiceTable { address: 7, ports }),
            ("worker".parse().unwrap(), ServiceTable { address: 8, ports: BTreeMap::new() }),
        ]),
        nodes: nodes.collect(),
        ..Tables::default()
    })
}

struct Served {
    tables: watch::Sender<Arc<Tables>>,
    address: SocketAddr,
    client: UdpSocket,
}

async fn served(replicas: u16) -> Served {
    let (tables, seen) = watch::channel(tables(replicas));
    let (udp, tcp) = common::free_port().await;
    let address = udp.local_addr().unwrap();
    tokio::spawn(mill_traffic::serve_names(seen, udp, tcp));
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(address).await.unwrap();
    Served { tables, address, client }
}

fn test<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(PATIENCE, test).await.expect("it ends in time") });
}

/// A question; with EDNS if it says how much fits.
fn question(id: u16, name: &str, kind: RecordType, fits: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.edns = fits.map(|fits| {
        let mut edns = Edns::new();
        edns.set_max_payload(fits);
        edns
    });
    message.to_vec().unwrap()
}

impl Served {
    async fn ask(&self, question: &[u8]) -> Vec<u8> {
        self.client.send(question).await.unwrap();
        self.heard().await
    }

    async fn heard(&self) -> Vec<u8> {
        let mut answer = vec![0; 65_535];
        let length = self.client.recv(&mut answer).await.unwrap();
        answer.truncate(length);
        answer
    }

    async fn asked(&self, name: &str, kind: RecordType, fits: Option<u16>) -> (Message, usize) {
        let answer = self.ask(&question(7, name, kind, fits)).await;
        (Message::from_vec(&answer).unwrap(), answer.len())
    }
}

#[test]
fn an_answer_is_the_same_bytes_when_it_is_remembered_and_new_when_the_tables_are() {
    test(async {
        let served = served(3).await;
        for (name, kind) in [
            ("web.mill.", RecordType::A),
            ("web.mill.", RecordType::AAAA),
            ("_web._tcp.mill.", RecordType::SRV),
            ("nobody.mill.", RecordType::A),
        ] {
            let first = served.ask(&question(1, name, kind, None)).await;
            let again = served.ask(&question(0x203, name, kind, None)).await;
            assert_eq!((&first[..2], &again[..2]), (&[0, 1][..], &[2, 3][..]));
            assert_eq!(first[2..], again[2..]);
        }
        let slot = |replicas| (tables(replicas), "2.web.mill.");
        for (replicas, code) in [(2, ResponseCode::NXDomain), (3, ResponseCode::NoError)] {
            let (tables, name) = slot(replicas);
            served.tables.send_replace(tables);
            assert_eq!(
                served.asked(name, RecordType::A, None).await.0.metadata.response_code,
                code
            );
        }
        // The case of a question comes back as it was, whoever asked in another before.
        for name in ["wEb.mill.", "web.mill.", "WEB.mill."] {
            let (answer, _) = served.asked(name, RecordType::A, None).await;
            assert_eq!(answer.queries[0].name().to_ascii(), name);
            assert_eq!(answer.answers.len(), 1);
        }
    });
}

#[test]
fn an_answer_that_does_not_fit_says_so_and_keeps_what_fits() {
    test(async {
        let served = served(200).await;
        let servers = "_web._tcp.mill.";
        for (fits, most) in [(None, 512), (Some(512), 512), (Some(900), 900), (Some(4096), 1232)] {
            let (answer, length) = served.asked(servers, RecordType::SRV, fits).await;
            assert!(answer.metadata.truncation && length <= most, "{fits:?}: {length}");
            assert!(length > most - 60, "{fits:?}: {length} bytes, and more would fit");
            assert_eq!(answer.edns.is_some(), fits.is_some(), "{fits:?}");
            assert!(!answer.answers.is_empty() && answer.additionals.is_empty());
        }
    });
}

#[test]
fn hosts_that_do_not_fit_are_left_out_without_a_word() {
    test(async {
        let served = served(12).await;
        let (answer, length) = served.asked("_web._tcp.mill.", RecordType::SRV, None).await;
        assert!(!answer.metadata.truncation && length <= 512, "{length}");
        assert_eq!((answer.answers.len(), answer.additionals.len()), (12, 0));
        let (answer, _) = served.asked("_web._tcp.mill.", RecordType::SRV, Some(1232)).await;
        assert_eq!((answer.answers.len(), answer.additionals.len()), (12, 3));
    });
}

#[test]
fn what_is_no_question_is_refused_or_left_alone() {
    test(async {
        let served = served(3).await;
        let good = question(7, "web.mill.", RecordType::A, None);
        let is_answer = [&good[..2], &[good[2] | 0x80], &good[3..]].concat();
        let cut = &good[..good.len() - 3];
        for silent in [&b""[..], b"\x00\x07", &good[..11], &is_answer, &is_answer[..14]] {
            served.client.send(silent).await.unwrap();
        }
        // The first answer is to the first that gets one.
        let answer = served.ask(cut).await;
        assert_eq!(answer, [0, 7, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        let status = [&good[..2], &[0x10], &good[3..]].concat();
        let answer = Message::from_vec(&served.ask(&status).await).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NotImp);
        let mut newer = question(7, "web.mill.", RecordType::A, Some(1232));
        let version = newer.len() - 5;
        newer[version] = 1;
        let answer = Message::from_vec(&served.ask(&newer).await).unwrap();
        let edns = answer.edns.as_ref().unwrap();
        // BADVERS, whose number another code has too.
        assert_eq!((u16::from(answer.metadata.response_code), edns.version()), (16, 0));
        assert!(answer.answers.is_empty());
    });
}

/// A name may go on anywhere in its message (RFC 1035 section 4.1.4), so even in the id; found by
/// fuzzing.
#[test]
fn an_answer_never_depends_on_the_id_of_its_question() {
    test(async {
        let served = served(3).await;
        for letter in [b'a', b'b'] {
            // The name at byte 0, of type A and of class CH; then two questions.
            let into_id = [1, letter, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 0, 0, 1, 0, 3];
            let mut two = question(7, "web.mill.", RecordType::A, None);
            two[5] = 2;
            two.extend([0xc0, 12, 0, 1, 0, 1]);
            for odd in [&into_id[..], &two] {
                let answer = served.ask(odd).await;
                let rest = [odd[2] | 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0];
                assert_eq!(answer, [&odd[..2], &rest].concat());
            }
        }
        // EDNS whose name is the root only because the first byte of the id is 0.
        let edns = [0xc0, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
        for (id, code) in [(7, ResponseCode::NoError), (0x161, ResponseCode::FormErr)] {
            let mut question = question(id, "web.mill.", RecordType::A, None);
            question[11] = 1;
            question.extend(edns);
            let answer = Message::from_vec(&served.ask(&question).await).unwrap();
            assert_eq!(answer.metadata.response_code, code);
        }
    });
}

#[test]
fn many_questions_at_once_are_all_answered() {
    test(async {
        let served = served(3).await;
        for id in 0..150_u16 {
            let name = if id % 2 == 0 { "web.mill." } else { "nobody.mill." };
            served.client.send(&question(id, name, RecordType::A, None)).await.unwrap();
        }
        let mut codes = BTreeMap::new();
        while codes.len() < 150 {
            let answer = Message::from_vec(&served.heard().await).unwrap();
            codes.insert(answer.metadata.id, answer.metadata.response_code);
        }
        assert_eq!((codes[&0], codes[&1]), (ResponseCode::NoError, ResponseCode::NXDomain));
    });
}

/// What `dig` prints; none where there is no such program.
async fn dig(address: SocketAddr, question: &str) -> Option<String> {
    let (host, port) = (format!("@{}", address.ip()), address.port().to_string());
    let arguments: Vec<_> = question.split(' ').map(str::to_owned).collect();
    let run = move || {
        let always = [host.as_str(), "-p", &port, "+norecurse", "+tries=1", "+time=5"];
        Command::new("dig").args(always).args(arguments).output()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap().ok()?;
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn dig_gets_what_it_asks_for() {
    test(async {
        let (small, large) = (served(3).await, served(200).await);
        for (question, has) in [
            ("web.mill A", &["status: NOERROR", "flags: qr aa", "10.251.128.7", "EDNS"][..]),
            ("web.mill A +tcp", &["10.251.128.7", "(TCP)"]),
            ("web.mill A +noedns", &["10.251.128.7", "ADDITIONAL: 0"]),
            ("web.mill A +bufsize=600", &["udp: 600"]),
            ("web.mill A +edns=1 +noednsneg", &["status: BADVERS", "EDNS: version: 0"]),
            ("web.mill A +dnssec", &["10.251.128.7", "ANSWER: 1"]),
            ("WeB.mIlL A", &["WeB.mIlL.", "10.251.128.7"]),
            ("web.mill AAAA", &["status: NOERROR", "fde7:cb25:afb::afb:8007"]),
            ("worker.mill AAAA", &["status: NOERROR", "ANSWER: 0", "SOA", "ns.mill."]),
            ("web.mill ANY +notcp", &["10.251.128.7", "fde7:cb25:afb::afb:8007"]),
            ("web.mill TYPE65280", &["status: NOERROR", "ANSWER: 0", "SOA"]),
            ("mill SOA", &["ns.mill. hostmaster.mill.", "ANSWER: 1"]),
            ("_web._tcp.mill SRV", &["0 0 20001 node-2.node.mill.", "192.0.2.2", "ANSWER: 3"]),
            ("-x 10.251.128.7", &["PTR", "web.mill."]),
            ("-x fde7:cb25:afb::afb:8007", &["PTR", "web.mill."]),
            ("-x 192.0.2.1", &["node-1.node.mill."]),
            ("node-1.node.mill A", &["192.0.2.1"]),
            ("nobody.mill A", &["status: NXDOMAIN", "SOA"]),
            ("web.mill CH A", &["status: REFUSED"]),
        ] {
            let Some(said) = dig(small.address, question).await else {
                eprintln!("not run: dig is missing, Debian has it in bind9-dnsutils");
                return;
            };
            has.iter().for_each(|part| assert!(said.contains(part), "{question}: {said}"));
            assert!(!said.contains("WARNING"), "{question}: {said}");
        }
        for (question, has) in [
            ("_web._tcp.mill SRV +ignore", &["flags: qr aa tc", "EDNS"][..]),
            ("_web._tcp.mill SRV +ignore +noedns", &["flags: qr aa tc", "ADDITIONAL: 0"]),
            ("_web._tcp.mill SRV", &["ANSWER: 200", "(TCP)", "20199"]),
        ] {
            let said = dig(large.address, question).await.unwrap();
            has.iter().for_each(|part| assert!(said.contains(part), "{question}: {said}"));
        }
    });
}
