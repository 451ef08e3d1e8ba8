//! Calls between nodes: on this machine's network, and on a simulated one that breaks.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use axum::Extension;
use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::routing::post;
use http_body_util::BodyExt as _;
use mill_core::effect::{self, Book};
use mill_core::name::NodeId;
use mill_runtime_real::pki::{Authority, Credentials, NodeKey, fingerprint};
use mill_runtime_real::rpc::{
    CallError, Caller, Dial, GREET_PATH, JOIN_PATH, Limits, Peer, Peers, Server, Tcp,
    call_stranger, only_streams, pieces,
};
use tokio::net::TcpListener;

const LIMIT: Duration = Duration::from_secs(10);
/// The address that connections come to.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A node's credentials, and its key's fingerprint.
fn member(authority: &Authority, node: u64) -> (Credentials, String) {
    let key = NodeKey::generate().unwrap();
    let print = key.fingerprint();
    let signed = authority.sign(&key.request().unwrap(), NodeId(node), "c1").unwrap();
    (Credentials::new("c1".to_owned(), authority.certificate().clone(), signed, key), print)
}

/// Says who called and what they said; or never answers.
fn router() -> Router {
    let echo = |Extension(caller): Extension<Caller>, body: Bytes| async move {
        format!("{caller:?} said {} bytes", body.len())
    };
    let never = || async { std::future::pending::<&'static str>().await };
    Router::new()
        .route("/rpc/1/echo", post(echo))
        .route("/rpc/1/never", post(never))
        .route(JOIN_PATH, post(|| async { "welcome" }))
        .route(GREET_PATH, post(|| async { "greeted" }))
}

/// Serves on this machine's network; says where.
async fn serve(server: Server) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let server = server.clone();
            drop(tokio::spawn(async move { server.serve(stream, Some(HERE)).await }));
        }
    }));
    address
}

/// A book with these keys.
fn book(keys: &[(u64, &str)], known_below: u64) -> Book {
    let peer = |key: &str| effect::Peer { rpc: String::new(), key: key.to_owned(), mesh: None };
    let peers = keys.iter().map(|(node, key)| (NodeId(*node), peer(key)));
    Book { peers: peers.collect(), known_below: NodeId(known_below), mesh_only: false }
}

fn text(answer: Result<Bytes, impl std::fmt::Debug>) -> String {
    String::from_utf8(answer.unwrap().to_vec()).unwrap()
}

fn knows<D: Dial>(peers: &Peers<D>, node: u64, address: &str, key: &str) {
    let peer = Peer { address: address.to_owned(), key: key.to_owned() };
    peers.set(BTreeMap::from([(NodeId(node), peer)]));
}

#[tokio::test]
async fn nodes_of_a_cluster_know_who_calls_them() {
    let authority = Authority::found("c1").unwrap();
    let ((one, one_key), (two, two_key)) = (member(&authority, 1), member(&authority, 2));
    let server = Server::new(&one, router(), Limits::default()).unwrap();
    let address = serve(server.clone()).await;
    let peers = Peers::new(Tcp, &two).unwrap();
    let unknown = peers.call(NodeId(1), "/rpc/1/echo", Vec::new(), LIMIT).await.unwrap_err();
    assert_eq!(unknown.kind(), io::ErrorKind::NotFound);
    knows(&peers, 1, &address, &one_key);
    // A book that does not have the caller yet lags behind; many calls share a connection.
    let calls = (1..=50).map(|size| peers.call(NodeId(1), "/rpc/1/echo", vec![7; size], LIMIT));
    for (size, answer) in (1..=50).zip(futures_util::future::join_all(calls).await) {
        assert_eq!(text(answer), format!("Node(n2) said {size} bytes"));
    }
    server.set_book(book(&[(2, &two_key)], 3));
    text(peers.call(NodeId(1), "/rpc/1/echo", Vec::new(), LIMIT).await);
    // Removed: also on a connection that it has.
    server.set_book(book(&[], 3));
    let removed = peers.call(NodeId(1), "/rpc/1/echo", Vec::new(), LIMIT).await.unwrap_err();
    assert_eq!(removed.kind(), io::ErrorKind::PermissionDenied);
    assert!(removed.to_string().contains("was removed"), "{removed}");
}

#[tokio::test]
async fn who_is_no_node_of_the_cluster_gets_nothing_but_the_way_in() {
    let authority = Authority::found("c1").unwrap();
    let (one, one_key) = member(&authority, 1);
    let address = serve(Server::new(&one, router(), Limits::default()).unwrap()).await;
    // Another cluster's node of that number: it does not believe the server, nor the server it.
    let other = Authority::found("c1").unwrap();
    let peers = Peers::new(Tcp, &member(&other, 2).0).unwrap();
    knows(&peers, 1, &address, &one_key);
    peers.call(NodeId(1), "/rpc/1/echo", Vec::new(), LIMIT).await.unwrap_err();
    // A node of the cluster, in the place of another.
    let peers = Peers::new(Tcp, &member(&authority, 2).0).unwrap();
    knows(&peers, 3, &address, &one_key);
    peers.call(NodeId(3), "/rpc/1/echo", Vec::new(), LIMIT).await.unwrap_err();
    // The right node with another key than the book has.
    knows(&peers, 1, &address, "another");
    let wrong = peers.call(NodeId(1), "/rpc/1/echo", Vec::new(), LIMIT).await.unwrap_err();
    assert_eq!(wrong.kind(), io::ErrorKind::PermissionDenied, "{wrong}");
    let print = fingerprint(authority.certificate());
    let ask = |print: String, path: &'static str| {
        let address = address.clone();
        async move { call_stranger(Tcp, &address, &print, path, Vec::new(), LIMIT).await }
    };
    assert_eq!(text(ask(print.clone(), JOIN_PATH).await), "welcome");
    let refused = ask(print, "/rpc/1/echo").await.unwrap_err();
    assert!(refused.to_string().contains("join it first"), "{refused}");
    ask(fingerprint(other.certificate()), JOIN_PATH).await.unwrap_err();
}

#[tokio::test]
async fn nodes_that_speak_through_the_mesh_find_no_more_than_a_greeting_outside_of_it() {
    let authority = Authority::found("c1").unwrap();
    let ((one, one_key), (two, two_key)) = (member(&authority, 1), member(&authority, 2));
    let server = Server::new(&one, router(), Limits::default()).unwrap();
    let address = serve(server.clone()).await;
    let peers = Peers::new(Tcp, &two).unwrap();
    knows(&peers, 1, &address, &one_key);
    text(peers.call(NodeId(1), "/rpc/1/echo", Vec::new(), LIMIT).await);
    // Also on a connection that it has.
    server.set_book(Book { mesh_only: true, ..book(&[(2, &two_key)], 3) });
    let refused = peers.call(NodeId(1), "/rpc/1/echo", Vec::new(), LIMIT).await.unwrap_err();
    assert!(matches!(refused, CallError::NotAsked(_)), "{refused}");
    assert!(refused.to_string().contains("mesh only"), "{refused}");
    let peer = Peer { address, key: one_key };
    for path in [GREET_PATH, JOIN_PATH] {
        text(peers.call_at(NodeId(1), &peer, path, Vec::new(), LIMIT).await);
    }
    // What comes to the address inside is served, on connections that come from then on.
    server.set_inside(HERE);
    let again = Peers::new(Tcp, &two).unwrap();
    knows(&again, 1, &peer.address, &peer.key);
    text(again.call(NodeId(1), "/rpc/1/echo", Vec::new(), LIMIT).await);
    // Who was removed is told so outside, too.
    server.set_book(Book { mesh_only: true, ..book(&[], 3) });
    let removed = peers.call_at(NodeId(1), &peer, GREET_PATH, Vec::new(), LIMIT).await;
    assert!(matches!(removed, Err(CallError::Removed)), "{removed:?}");
}

#[tokio::test]
async fn a_call_ends_within_its_limit_and_a_lost_connection_is_made_again() {
    let authority = Authority::found("c1").unwrap();
    let ((one, key), (two, _)) = (member(&authority, 1), member(&authority, 2));
    let server = Server::new(&one, router(), Limits::default()).unwrap();
    let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = first.local_addr().unwrap().to_string();
    let serving = tokio::spawn({
        let server = server.clone();
        // One connection, which ends with this.
        async move { server.serve(first.accept().await.unwrap().0, Some(HERE)).await }
    });
    let peers = Peers::new(Tcp, &two).unwrap();
    knows(&peers, 1, &address, &key);
    let short = Duration::from_millis(200);
    let late = peers.call(NodeId(1), "/rpc/1/never", Vec::new(), short).await.unwrap_err();
    assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    text(peers.call(NodeId(1), "/rpc/1/echo", Vec::new(), LIMIT).await);
    serving.abort();
    // It may take a call or two until the loss is noticed; nobody listens for now.
    for _ in 0..3 {
        peers.call(NodeId(1), "/rpc/1/echo", Vec::new(), LIMIT).await.unwrap_err();
    }
    let again = TcpListener::bind(&address).await.unwrap();
    drop(tokio::spawn(
        async move { server.serve(again.accept().await.unwrap().0, Some(HERE)).await },
    ));
    loop {
        match peers.call(NodeId(1), "/rpc/1/echo", Vec::new(), LIMIT).await {
            Ok(_) => break,
            Err(error) => assert_ne!(error.kind(), io::ErrorKind::TimedOut, "{error}"),
        }
    }
}

#[tokio::test]
async fn those_that_do_not_say_who_they_are_lock_out_nobody_for_long() {
    let authority = Authority::found("c1").unwrap();
    let ((one, key), (two, _)) = (member(&authority, 1), member(&authority, 2));
    let limits =
        Limits { unproven: 2, greet_within: Duration::from_millis(50), ..Limits::default() };
    let address = serve(Server::new(&one, router(), limits).unwrap()).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(tokio::net::TcpStream::connect(&address).await.unwrap());
    }
    let peers = Peers::new(Tcp, &two).unwrap();
    knows(&peers, 1, &address, &key);
    while peers.call(NodeId(1), "/rpc/1/echo", Vec::new(), LIMIT).await.is_err() {}
}

/// This machine's network, where nobody ever answers at one of the addresses.
#[derive(Clone, Debug)]
struct PartlySilent;

impl Dial for PartlySilent {
    type Stream = tokio::net::TcpStream;

    async fn dial(&self, address: String) -> io::Result<tokio::net::TcpStream> {
        match address.as_str() {
            "silent" => std::future::pending().await,
            _ => Tcp.dial(address).await,
        }
    }
}

#[tokio::test]
async fn streams_to_a_node_that_does_not_answer_hold_up_none_to_others() {
    let authority = Authority::found("c1").unwrap();
    let ((one, key), (two, _)) = (member(&authority, 1), member(&authority, 2));
    let (over, _is_over) = tokio::sync::mpsc::unbounded_channel();
    let address = serve(Server::new(&one, repeating(over), Limits::default()).unwrap()).await;
    let peers = Peers::new(PartlySilent, &two).unwrap();
    let known = [(1, address.as_str()), (3, "silent")].map(|(node, address)| {
        (NodeId(node), Peer { address: address.to_owned(), key: key.clone() })
    });
    peers.set(BTreeMap::from(known));
    let waiting =
        futures_util::future::join_all((0..20).map(|_| peers.open(NodeId(3), "/rpc/1/repeat")));
    tokio::pin!(waiting);
    tokio::select! {
        // Those begin first.
        biased;
        _ = &mut waiting => panic!("one waits for the others"),
        opened = peers.open(NodeId(1), "/rpc/1/repeat") => drop(opened.unwrap()),
    }
    // Nobody waits for long to be next.
    let refused = tokio::time::timeout(LIMIT, waiting).await.expect("each is told");
    let crowded = |error: &CallError| error.to_string().contains("are being opened already");
    let refused = refused.into_iter().map(Result::unwrap_err);
    assert_eq!(refused.filter(crowded).count(), 4);
}

/// The simulated network.
#[derive(Clone, Debug)]
struct Simulated;

impl Dial for Simulated {
    type Stream = turmoil::net::TcpStream;

    async fn dial(&self, address: String) -> io::Result<turmoil::net::TcpStream> {
        turmoil::net::TcpStream::connect(address).await
    }
}

/// How each of some calls went, and when (in simulated milliseconds).
fn over_a_network_that_breaks(seed: u64) -> Vec<(u128, bool)> {
    let authority = Authority::found("c1").unwrap();
    let ((one, key), (two, _)) = (member(&authority, 1), member(&authority, 2));
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(Duration::from_secs(60))
        .tcp_capacity(65_536)
        .epoch(std::time::UNIX_EPOCH)
        .build();
    let server = Server::new(&one, router(), Limits::default()).unwrap();
    sim.host("one", move || {
        let server = server.clone();
        async move {
            let listener = turmoil::net::TcpListener::bind("0.0.0.0:7000").await?;
            loop {
                let (stream, _) = listener.accept().await?;
                let server = server.clone();
                drop(tokio::spawn(async move { server.serve(stream, Some(HERE)).await }));
            }
        }
    });
    let (told, hears) = std::sync::mpsc::channel();
    sim.client("two", async move {
        let peers = Peers::new(Simulated, &two)?;
        knows(&peers, 1, "one:7000", &key);
        for round in 0..40 {
            match round {
                10 => turmoil::partition("one", "two"),
                20 => turmoil::repair("one", "two"),
                _ => {}
            }
            let limit = Duration::from_millis(500);
            let answer = peers.call(NodeId(1), "/rpc/1/echo", vec![1; 5000], limit).await;
            told.send((turmoil::elapsed().as_millis(), answer.is_ok()))?;
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        Ok(())
    });
    sim.run().unwrap();
    hears.into_iter().collect()
}

#[test]
fn calls_fail_in_time_while_the_network_is_cut_and_work_soon_after() {
    for seed in 0..5 {
        let calls = over_a_network_that_breaks(seed);
        assert_eq!(calls.len(), 40);
        assert!(calls[1..10].iter().all(|(_, done)| *done), "seed {seed}: {calls:?}");
        assert!(calls[10..20].iter().all(|(_, done)| !done), "seed {seed}: {calls:?}");
        assert!(calls[32..].iter().all(|(_, done)| *done), "seed {seed}: {calls:?}");
        let longest = calls.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap();
        assert!(longest < 900, "seed {seed}: no call takes longer than its limit: {calls:?}");
    }
}

/// Repeats what comes, and says when the stream is over.
fn repeating(over: tokio::sync::mpsc::UnboundedSender<bool>) -> Router {
    let repeat = |request: Request| async move {
        let (sending, body) = pieces();
        let mut receiving = request.into_body();
        tokio::spawn(async move {
            let mut is_whole = true;
            while let Some(piece) = receiving.frame().await {
                let Ok(piece) = piece.map(|piece| piece.into_data().unwrap()) else {
                    is_whole = false;
                    break;
                };
                if sending.send(piece).await.is_err() {
                    break;
                }
            }
            over.send(is_whole)
        });
        axum::body::Body::new(body)
    };
    let repeat = post(repeat).layer(axum::middleware::from_fn(only_streams));
    Router::new().route("/rpc/1/repeat", repeat).merge(router())
}

#[tokio::test]
async fn a_stream_that_nobody_reads_holds_little_and_holds_up_no_call() {
    let authority = Authority::found("c1").unwrap();
    let ((one, key), (two, _)) = (member(&authority, 1), member(&authority, 2));
    let (over, mut is_over) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::new(&one, repeating(over), Limits::default()).unwrap();
    let address = serve(server.clone()).await;
    let peers = Peers::new(Tcp, &two).unwrap();
    knows(&peers, 1, &address, &key);
    let mut stream = peers.open(NodeId(1), "/rpc/1/repeat").await.unwrap();
    let piece = || Bytes::from(vec![7; 16 << 10]);
    let mut sent = 0;
    // Nothing of what comes back is read, until no more can be sent.
    let short = Duration::from_millis(500);
    while let Ok(taken) = tokio::time::timeout(short, stream.sending.send(piece())).await {
        taken.unwrap();
        sent += 16 << 10;
        assert!(sent < 16 << 20, "it is never slowed down");
    }
    println!("{} KiB are under way", sent >> 10);
    text(peers.call(NodeId(1), "/rpc/1/echo", vec![7; 1 << 20], LIMIT).await);
    let mut back = 0;
    while back < sent {
        back += stream.receiving.frame().await.unwrap().unwrap().into_data().unwrap().len();
    }
    drop(stream);
    let noticed = tokio::time::timeout(LIMIT, is_over.recv()).await;
    noticed.expect("the other side learns that it is over").unwrap();
    // Of a node that is removed, what it has open is cut off.
    let mut stream = peers.open(NodeId(1), "/rpc/1/repeat").await.unwrap();
    stream.sending.send(piece()).await.unwrap();
    stream.receiving.frame().await.unwrap().unwrap();
    server.set_book(book(&[], 3));
    let over = tokio::time::timeout(LIMIT, async {
        while let Some(Ok(_)) = stream.receiving.frame().await {}
    });
    over.await.expect("it is cut off");
    let removed = peers.open(NodeId(1), "/rpc/1/repeat").await.unwrap_err();
    assert_eq!(removed.kind(), io::ErrorKind::PermissionDenied);
    server.set_book(book(&[], 0));
    // A connection for calls would not be cut off, so no stream is there.
    let call = peers.call(NodeId(1), "/rpc/1/repeat", vec![7], LIMIT).await;
    assert!(matches!(call, Err(CallError::NoAnswer(_))), "{call:?}");
    // To a node that is removed, they are cut off on this side.
    let mut stream = peers.open(NodeId(1), "/rpc/1/repeat").await.unwrap();
    peers.set(BTreeMap::new());
    let cut = tokio::time::timeout(LIMIT, stream.receiving.frame()).await;
    let cut = cut.expect("it is cut off").unwrap().unwrap_err();
    assert!(cut.to_string().contains("removed"), "{cut}");
    knows(&peers, 1, &address, &key);
    // Nothing is there under another name, and nobody under another number.
    let missing = peers.open(NodeId(1), "/rpc/1/nothing").await.unwrap_err();
    assert!(missing.to_string().contains("another version"), "{missing}");
    assert_eq!(peers.open(NodeId(9), "/").await.unwrap_err().kind(), io::ErrorKind::NotFound);
}
