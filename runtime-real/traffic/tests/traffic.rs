//! Names and service addresses in a network namespace that stands for a host. Needs root; says so
//! where that is missing, and fails instead where MILL_REQUIRE_ENGINE is set.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use hickory_server::proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_server::proto::rr::{Name, RecordType};
use mill_core::name::{AllocId, NodeId};
use mill_core::net::{Network, NodeTable, Replica, ServiceTable, Tables};
use mill_traffic::Traffic;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::LinkUnspec;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::timeout;

const NETWORK: Network = Network(10, 251);
const PORT: u16 = 8080;
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs it on a host of its own.
fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let host = std::thread::spawn(move || {
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            let reason = "a network namespace of the test's own needs root";
            assert!(std::env::var_os("MILL_REQUIRE_ENGINE").is_none(), "{reason}");
            eprintln!("not run: {reason}");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            let up = LinkUnspec::new_with_index(1).up().build();
            handle.link().set(up).execute().await.unwrap();
            timeout(PATIENCE, test()).await.expect("it ends in time");
        });
    });
    host.join().unwrap();
}

/// A replica that says its slot, then everything that it is told until the caller has no more.
async fn replica(slot: u64) -> Replica {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(format!("{slot}:").as_bytes()).await.unwrap();
                let mut told = Vec::new();
                stream.read_to_end(&mut told).await.unwrap();
                stream.write_all(&told).await.unwrap();
            });
        }
    });
    let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Replica { slot, alloc: AllocId::known(&format!("web.{slot}-a")), node: NodeId(1), host, port }
}

fn tables(replicas: Vec<Replica>) -> Arc<Tables> {
    let web = ServiceTable { address: 1, ports: BTreeMap::from([(PORT, replicas)]) };
    let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Arc::new(Tables {
        network: NETWORK,
        services: BTreeMap::from([("web".parse().unwrap(), web)]),
        nodes: BTreeMap::from([(NodeId(1), NodeTable { name: "a".to_owned(), host })]),
        ..Tables::default()
    })
}

async fn started(replicas: Vec<Replica>) -> (watch::Sender<Arc<Tables>>, Traffic) {
    let (sender, seen) = watch::channel(tables(replicas));
    let traffic = Traffic::start(NodeId(1), seen).await.unwrap();
    (sender, traffic)
}

/// A connection to the service, once somebody listens there.
async fn called() -> TcpStream {
    called_at(IpAddr::V4(NETWORK.of_service(1))).await
}

async fn called_at(address: IpAddr) -> TcpStream {
    let address = SocketAddr::new(address, PORT);
    loop {
        match TcpStream::connect(address).await {
            Ok(stream) => return stream,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// What the service answers to a caller that says it has no more before it listens.
async fn answered() -> String {
    answered_to(called().await).await
}

async fn answered_to(mut stream: TcpStream) -> String {
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

async fn asked(name: &str, kind: RecordType) -> Message {
    let resolver = SocketAddr::new(IpAddr::V4(NETWORK.resolver()), 53);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
    socket.send_to(&question(name, kind), resolver).await.unwrap();
    let mut answer = [0; 4096];
    let (length, from) = socket.recv_from(&mut answer).await.unwrap();
    assert_eq!(from, resolver);
    Message::from_vec(&answer[..length]).unwrap()
}

#[test]
fn a_connection_reaches_a_replica_and_each_side_ends_by_itself() {
    on_a_host(|| async {
        let (_tables, traffic) = started(vec![replica(0).await]).await;
        assert_eq!(answered().await, "0:hello");
        let counted = traffic.counted();
        assert_eq!((counted[0].connections, counted[0].failed), (1, 0));
        assert_eq!(counted[0].bytes_there, 5);
    });
}

#[test]
fn what_left_the_tables_gets_no_new_connection_and_keeps_those_it_has() {
    on_a_host(|| async {
        let (old, new) = (replica(0).await, replica(1).await);
        let (tables_now, _traffic) = started(vec![old]).await;
        let mut kept = called().await;
        let mut slot = [0; 2];
        kept.read_exact(&mut slot).await.unwrap();
        tables_now.send_replace(tables(vec![new]));
        assert_eq!(answered().await, "1:hello");
        kept.write_all(b"still here").await.unwrap();
        kept.shutdown().await.unwrap();
        let mut answer = String::new();
        kept.read_to_string(&mut answer).await.unwrap();
        assert_eq!((&slot, answer.as_str()), (b"0:", "still here"));
    });
}

#[test]
fn a_replica_that_refuses_is_followed_by_the_next_and_a_caller_waits_for_the_first() {
    on_a_host(|| async {
        let gone = Replica { port: 1, ..replica(0).await };
        let (tables_now, _traffic) = started(vec![gone.clone(), replica(1).await]).await;
        for _ in 0..3 {
            assert_eq!(answered().await, "1:hello");
        }
        tables_now.send_replace(tables(vec![gone]));
        let waiting = tokio::spawn(answered());
        tokio::task::yield_now().await;
        tables_now.send_replace(tables(vec![replica(2).await]));
        assert_eq!(waiting.await.unwrap(), "2:hello");
    });
}

#[test]
fn a_container_may_listen_on_the_port_of_a_service_on_all_interfaces() {
    on_a_host(|| async {
        let _container = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await.unwrap();
        let (_tables, _traffic) = started(vec![replica(0).await]).await;
        assert_eq!(answered().await, "0:hello");
    });
}

/// Without root: it is for who has none.
#[tokio::test]
async fn who_may_make_no_namespace_has_addresses_on_loopback() {
    let network = NETWORK.on_loopback();
    let on_loopback = |replicas| Arc::new(Tables { network, ..Tables::clone(&tables(replicas)) });
    let (_tables, seen) = watch::channel(on_loopback(vec![replica(0).await]));
    let traffic = Traffic::start(NodeId(1), seen).await.unwrap();
    assert_eq!(traffic.resolver(), None);
    let at = IpAddr::V4(network.of_service(1));
    assert!(at.is_loopback());
    let answer = async { answered_to(called_at(at).await).await };
    assert_eq!(timeout(PATIENCE, answer).await.unwrap(), "0:hello");
}

#[test]
fn names_are_answered_over_udp_and_tcp_and_unknown_ones_say_for_how_long() {
    on_a_host(|| async {
        let served = replica(0).await;
        let (tables_now, traffic) = started(vec![served.clone()]).await;
        assert_eq!(traffic.resolver(), Some(IpAddr::V4(NETWORK.resolver())));
        let examined = traffic.examine("a.node.mill.").await.unwrap();
        assert_eq!(examined.own, Ok(()));
        let unknown = traffic.examine("b.node.mill.").await.unwrap().own.unwrap_err();
        assert!(unknown.contains("to `b.node.mill.` it answers"), "{unknown}");
        let found = asked("WEB.mill.", RecordType::A).await;
        assert!(
            found.metadata.authoritative && found.metadata.response_code == ResponseCode::NoError
        );
        assert_eq!(found.answers[0].data.to_string(), NETWORK.of_service(1).to_string());
        assert_eq!(found.answers[0].ttl, 1);
        let servers = asked("_web._tcp.mill.", RecordType::SRV).await;
        assert_eq!(
            servers.answers[0].data.to_string(),
            format!("0 0 {} a.node.mill.", served.port)
        );
        assert_eq!(servers.additionals[0].data.to_string(), "127.0.0.1");
        let unknown = asked("nobody.mill.", RecordType::A).await;
        assert_eq!(unknown.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(unknown.authorities[0].record_type(), RecordType::SOA);
        let none = asked("0.web.mill.", RecordType::AAAA).await;
        assert_eq!(none.metadata.response_code, ResponseCode::NoError);
        assert!(none.answers.is_empty() && none.authorities.len() == 1);

        let mut stream = TcpStream::connect((NETWORK.resolver(), 53)).await.unwrap();
        let question = question("0.web.mill.", RecordType::A);
        stream.write_u16(u16::try_from(question.len()).unwrap()).await.unwrap();
        stream.write_all(&question).await.unwrap();
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        let slot = Message::from_vec(&answer).unwrap();
        assert_eq!(slot.answers[0].data.to_string(), "127.0.0.1");

        tables_now.send_replace(tables(Vec::new()));
        let gone = asked("0.web.mill.", RecordType::A).await;
        assert_eq!(gone.metadata.response_code, ResponseCode::NXDomain);
    });
}

#[test]
fn a_service_is_called_over_ipv6_at_the_address_beside_the_other() {
    on_a_host(|| async {
        let _container = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).await.unwrap();
        let (tables_now, traffic) = started(vec![replica(0).await]).await;
        let beside = NETWORK.ipv6(NETWORK.of_service(1));
        assert_eq!(answered_to(called_at(IpAddr::V6(beside)).await).await, "0:hello");
        assert_eq!(answered().await, "0:hello");
        assert_eq!(traffic.counted()[0].connections, 2);
        let found = asked("web.mill.", RecordType::AAAA).await;
        assert_eq!(found.answers[0].data.to_string(), beside.to_string());
        let reverse = Name::from(IpAddr::V6(beside)).to_ascii();
        let named = asked(&reverse, RecordType::PTR).await;
        assert_eq!(named.answers[0].data.to_string(), "web.mill.");
        // An address of the range that no service has leads nowhere.
        let unknown = SocketAddr::new(IpAddr::V6(NETWORK.ipv6(NETWORK.of_service(2))), PORT);
        TcpStream::connect(unknown).await.unwrap_err();
        tables_now.send_replace(Arc::new(Tables { network: NETWORK, ..Tables::default() }));
        let gone = SocketAddr::new(IpAddr::V6(beside), PORT);
        while TcpStream::connect(gone).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_host_without_ipv6_answers_none_and_all_else_works() {
    on_a_host(|| async {
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        is_called_over_ipv4_alone().await;
    });
}

#[test]
fn a_host_that_drops_ipv6_answers_none_and_all_else_works() {
    on_a_host(|| async {
        let chain = "type filter hook input priority 0; policy drop;";
        let rules = format!("add table ip6 t; add chain ip6 t c {{ {chain} }}");
        match Command::new("nft").arg(rules).status() {
            Ok(done) => assert!(done.success()),
            Err(_) => return eprintln!("not run: nft is missing, Debian has it in nftables"),
        }
        is_called_over_ipv4_alone().await;
    });
}

async fn is_called_over_ipv4_alone() {
    let (_tables, _traffic) = started(vec![replica(0).await]).await;
    assert_eq!(answered().await, "0:hello");
    let none = asked("web.mill.", RecordType::AAAA).await;
    assert_eq!(none.metadata.response_code, ResponseCode::NoError);
    assert!(none.answers.is_empty());
    assert_eq!(none.authorities[0].record_type(), RecordType::SOA);
    let found = asked("web.mill.", RecordType::ANY).await;
    assert_eq!(found.answers.len(), 1);
}

#[test]
fn two_daemons_with_the_same_addresses_on_one_machine_are_told_so() {
    on_a_host(|| async {
        let (_tables, _traffic) = started(Vec::new()).await;
        let (_other, seen) = watch::channel(tables(Vec::new()));
        let refused = Traffic::start(NodeId(2), seen).await.unwrap_err().to_string();
        assert!(refused.contains("interface mill10-251 is there already"), "{refused}");
    });
}
