//! Askers that go mad, beside others that ask as usual, on loopback with a resolver of the test's.
//!
//! Where containers are told apart it needs root and control groups of version 2, and says so where
//! those are missing.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{join_all, try_join_all};
use futures_util::stream::FuturesUnordered;
use hickory_server::proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_server::proto::rr::rdata::A;
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use mill_core::net::Tables;
use mill_traffic::{Apart, Asked, serve_names_beside};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

const PATIENCE: Duration = Duration::from_secs(20);
/// How many questions one asker may put at once, and how many may wait: as `limits` has it.
const AT_ONCE: usize = 200;
const PER_SECOND: usize = 100;
const WAITING: usize = 128;
const CONNECTIONS: usize = 256;
const CONNECTIONS_OF_ONE: usize = 64;

fn test<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(PATIENCE, test).await.expect("it ends in time") });
}

fn question(id: u16, name: &str) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

/// A resolver that answers everything but what begins with `silent`, and what it was asked.
async fn resolver() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = asked.clone();
    tokio::spawn(async move {
        let mut bytes = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut bytes).await.unwrap();
            let question = Message::from_vec(&bytes[..length]).unwrap();
            let name = question.queries[0].name().clone();
            kept.lock().unwrap().push(name.to_ascii());
            if name.to_ascii().starts_with("silent") {
                continue;
            }
            let mut answer = Message::response(question.metadata.id, OpCode::Query);
            answer.add_query(question.queries[0].clone());
            let data = RData::A(A(Ipv4Addr::new(192, 0, 2, 1)));
            answer.add_answer(Record::from_rdata(name, 60, data));
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    (address, asked)
}

struct Served {
    address: SocketAddr,
    upstream: Arc<Mutex<Vec<String>>>,
    asked: Box<dyn Fn() -> Asked>,
}

async fn served(apart: Apart) -> Served {
    let (resolver, upstream) = resolver().await;
    let (udp, tcp) = common::free_port().await;
    let address = udp.local_addr().unwrap();
    let (_, seen) = watch::channel(Arc::new(Tables::default()));
    let asked = serve_names_beside(seen, resolver, apart, udp, tcp);
    Served { address, upstream, asked: Box::new(asked) }
}

impl Served {
    async fn socket(&self) -> UdpSocket {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket
    }
}

async fn heard(socket: &UdpSocket) -> ResponseCode {
    let mut answer = [0; 4096];
    let length = socket.recv(&mut answer).await.unwrap();
    Message::from_vec(&answer[..length]).unwrap().metadata.response_code
}

async fn asked(socket: &UdpSocket, name: &str) -> ResponseCode {
    socket.send(&question(7, name)).await.unwrap();
    heard(socket).await
}

#[test]
fn one_that_asks_without_end_is_told_so_and_the_others_are_answered() {
    test(async {
        let served = served(Apart::Sockets).await;
        let (mad, other) = (served.socket().await, served.socket().await);
        let (begun, mut answered) = (Instant::now(), 0);
        for round in 0..10 {
            for id in 0..100 {
                let name = format!("mad-{round}-{id}.example.");
                mad.send(&question(id, &name)).await.unwrap();
            }
            for _ in 0..100 {
                match heard(&mad).await {
                    ResponseCode::NoError => answered += 1,
                    code => assert_eq!(code, ResponseCode::ServFail),
                }
            }
            let code = asked(&other, &format!("other-{round}.example.")).await;
            assert_eq!(code, ResponseCode::NoError);
        }
        let counted = (served.asked)();
        // However slow this machine is.
        let earned = usize::try_from(begun.elapsed().as_millis()).unwrap() * PER_SECOND / 1000;
        assert!((AT_ONCE..=AT_ONCE + earned).contains(&answered), "{answered}, {earned} earned");
        assert_eq!(counted.limited, 1000 - answered as u64);
        assert_eq!(served.upstream.lock().unwrap().len(), answered + 10);
        // What was answered before costs nothing.
        assert_eq!(asked(&mad, "mad-0-0.example.").await, ResponseCode::NoError);
        assert_eq!((served.asked)().remembered, counted.remembered + 1);
    });
}

#[test]
fn equal_questions_under_way_are_asked_once() {
    test(async {
        let served = served(Apart::Sockets).await;
        let socket = served.socket().await;
        for id in 0..50 {
            socket.send(&question(id, "same.example.")).await.unwrap();
        }
        for _ in 0..50 {
            assert_eq!(heard(&socket).await, ResponseCode::NoError);
        }
        assert_eq!(*served.upstream.lock().unwrap(), ["same.example."]);
    });
}

#[test]
fn one_whose_questions_nobody_answers_leaves_room_for_others() {
    test(async {
        let served = served(Apart::Sockets).await;
        let (mad, other) = (served.socket().await, served.socket().await);
        for id in 0..200 {
            mad.send(&question(id, &format!("silent-{id}.example."))).await.unwrap();
        }
        for _ in WAITING..200 {
            assert_eq!(heard(&mad).await, ResponseCode::ServFail);
        }
        assert_eq!(asked(&mad, "mad.example.").await, ResponseCode::ServFail);
        assert_eq!(asked(&other, "other.example.").await, ResponseCode::NoError);
        assert_eq!((served.asked)().forwarded, WAITING as u64 + 1);
    });
}

async fn asked_over(stream: &mut TcpStream, name: &str) -> std::io::Result<ResponseCode> {
    let question = question(7, name);
    stream.write_u16(u16::try_from(question.len()).unwrap()).await?;
    stream.write_all(&question).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(Message::from_vec(&answer).unwrap().metadata.response_code)
}

#[test]
fn connections_are_limited_and_one_that_ends_makes_room() {
    test(async {
        let served = served(Apart::Sockets).await;
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(served.address).await.unwrap();
            asked_over(&mut stream, "mill.").await.unwrap();
            open.push(stream);
        }
        let mut refused = TcpStream::connect(served.address).await.unwrap();
        asked_over(&mut refused, "mill.").await.unwrap_err();
        let counted = (served.asked)();
        let connections = (counted.open_connections, counted.refused_connections);
        assert_eq!(connections, (CONNECTIONS as u64, 1));
        let code = asked_over(&mut open[7], "over-tcp.example.").await.unwrap();
        assert_eq!(code, ResponseCode::NoError);
        drop(open.pop());
        while (served.asked)().open_connections == CONNECTIONS as u64 {
            tokio::task::yield_now().await;
        }
        let mut next = TcpStream::connect(served.address).await.unwrap();
        assert_eq!(asked_over(&mut next, "mill.").await.unwrap(), ResponseCode::NoError);
    });
}

#[test]
fn a_connection_that_asks_nothing_is_closed() {
    test(async {
        let served = served(Apart::Sockets).await;
        let mut slow = TcpStream::connect(served.address).await.unwrap();
        asked_over(&mut slow, "mill.").await.unwrap();
        // The beginning of a question is not one.
        slow.write_all(&[0, 30, 1]).await.unwrap();
        tokio::time::pause();
        assert_eq!(slow.read(&mut [0; 1]).await.unwrap_or(0), 0);
    });
}

/// A control group of this test's, which is empty again when it ends.
struct Group(PathBuf);

impl Group {
    /// None where there are no such groups.
    fn make(name: &str) -> Option<Group> {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let root = PathBuf::from(mounts.find(|mount| mount[2] == "cgroup2")?[1]);
        let path = root.join(format!("mill-test-{}-{name}", std::process::id()));
        fs::create_dir(&path).ok()?;
        Some(Group(path))
    }

    /// What is made of this process in the meantime is the group's.
    async fn within<T>(&self, doing: impl Future<Output = T>) -> T {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
        let me = std::process::id().to_string();
        fs::write(self.0.join("cgroup.procs"), &me).unwrap();
        let done = doing.await;
        let root = self.0.parent().unwrap();
        fs::write(root.join(own).join("cgroup.procs"), &me).unwrap();
        done
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // One that stays is empty.
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_container_is_one_asker_however_many_sockets_it_asks_from() {
    test(async {
        let (Some(mad), Some(other)) = (Group::make("mad"), Group::make("other")) else {
            eprintln!("not run: control groups of the test's own need root and version 2 of them");
            return;
        };
        let served = served(Apart::Containers).await;
        let sockets = (0..WAITING + 70).map(|_| served.socket());
        let sockets = mad.within(join_all(sockets)).await;
        for (id, socket) in sockets.iter().enumerate() {
            socket.send(&question(7, &format!("silent-{id}.example."))).await.unwrap();
        }
        let mut told: FuturesUnordered<_> = sockets.iter().map(heard).collect();
        for _ in 0..70 {
            assert_eq!(told.next().await, Some(ResponseCode::ServFail));
        }
        let beside = other.within(served.socket()).await;
        assert_eq!(asked(&beside, "other.example.").await, ResponseCode::NoError);

        let open = (0..=CONNECTIONS_OF_ONE).map(|_| TcpStream::connect(served.address));
        let mut open = mad.within(try_join_all(open)).await.unwrap();
        let mut refused = 0;
        for stream in &mut open {
            refused += usize::from(asked_over(stream, "mill.").await.is_err());
        }
        assert_eq!(refused, 1);
        let mut beside = other.within(TcpStream::connect(served.address)).await.unwrap();
        assert_eq!(asked_over(&mut beside, "mill.").await.unwrap(), ResponseCode::NoError);
    });
}
