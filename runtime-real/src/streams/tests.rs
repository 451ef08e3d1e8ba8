//! Streams of a node whose copy of the cluster is a test's, to and from others on this machine.

use std::collections::BTreeMap;
use std::sync::Mutex;

use mill_core::api::{Answer, Outcome, Request};
use serde_json::json;
use tokio::net::TcpListener;

use super::*;
use crate::docker::EngineOptions;
use crate::docker::stand_in::{self, Says};
use crate::pki::{Authority, Credentials, NodeKey};
use crate::rpc::{Limits, Peer, Server};

const LIMIT: Duration = Duration::from_secs(10);

/// A node of a cluster, which others can open streams to.
struct Node {
    streams: Streams,
    peer: Peer,
}

/// A node's credentials, and its key's fingerprint.
fn member(authority: &Authority, node: u64) -> (Credentials, String) {
    let key = NodeKey::generate().unwrap();
    let print = key.fingerprint();
    let signed = authority.sign(&key.request().unwrap(), NodeId(node), "c1").unwrap();
    (Credentials::new("c1".to_owned(), authority.certificate().clone(), signed, key), print)
}

impl Node {
    /// What its own copy of the cluster says is `answer`'s.
    async fn start(
        authority: &Authority,
        node: u64,
        engine: Engine,
        answer: impl FnMut(Request) -> Outcome + Send + 'static,
    ) -> Node {
        let (credentials, key) = member(authority, node);
        let peers = Peers::new(Tcp, &credentials).unwrap();
        let me = (NodeId(node), &*format!("m{node}"));
        let streams = Streams::new(Handle::answered(answer), engine, peers, me);
        let server =
            Server::new(&credentials, streams.clone().router(), Limits::default()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                drop(tokio::spawn(async move { server.serve(stream, None).await }));
            }
        }));
        Node { streams, peer: Peer { address, key } }
    }
}

/// An engine that does not run.
fn no_engine() -> Engine {
    let host = Some("unix:///nonexistent/docker.sock".to_owned());
    let cluster = "c1".to_owned();
    Engine::connect(EngineOptions { host, cluster, node: NodeId(1), config: None, pulled: None })
        .unwrap()
}

/// A copy of the cluster: an alloc on a node of that name, and the number of m2.
#[derive(Clone)]
struct Cluster(Arc<Mutex<(&'static str, Option<u64>)>>);

impl Cluster {
    fn on(node: &'static str) -> Cluster {
        Cluster(Arc::new(Mutex::new((node, None))))
    }

    fn set_number(&self, node: u64) {
        self.0.lock().unwrap().1 = Some(node);
    }

    fn answer(&self) -> impl FnMut(Request) -> Outcome + Send + 'static {
        let known = self.0.clone();
        move |request| match request {
            Request::Allocs { .. } => {
                let node = known.lock().unwrap().0;
                Ok(Answer::Allocs(vec![view(json!({
                    "id": "web.0-a", "slot": "web.0", "node": node, "host": "", "port": null,
                    "phase": "healthy", "stopping": false, "version": 1, "image": "",
                    "restarts": 0, "trouble": null,
                }))]))
            }
            Request::Status { .. } => {
                let number = known.lock().unwrap().1;
                let nodes = number.map(|id| {
                    json!({
                        "id": id, "name": "m2", "up": true, "advertise": "", "cpu": [0, 0],
                        "memory": [0, 0], "allocs": 1, "version": "",
                    })
                });
                Ok(Answer::Status(view(json!({
                    "cluster": "c1", "revision": "1.1", "node": 1, "leader": 1,
                    "nodes": nodes.as_slice(), "services": [], "deploy": null,
                }))))
            }
            _ => panic!("{request:?}"),
        }
    }
}

fn view<T: for<'a> Deserialize<'a>>(json: serde_json::Value) -> T {
    serde_json::from_value(json).unwrap()
}

fn nothing(_: Request) -> Outcome {
    Err(ApiError::new(ErrorCode::NotFound, "nothing is there"))
}

#[tokio::test]
async fn a_stream_is_only_opened_where_it_would_be_cut_off() {
    let authority = Authority::found("c1").unwrap();
    let one = Node::start(&authority, 1, no_engine(), nothing).await;
    let two = Node::start(&authority, 2, no_engine(), nothing).await;
    let peers = &two.streams.peers;
    peers.set(BTreeMap::from([(NodeId(1), one.peer)]));
    let here = Here::Forward { alloc: AllocId::known("web.0-a") };
    let (_sender, mut receiver) = two.streams.ask(NodeId(1), &here).await.unwrap();
    let first = receiver.next().await.unwrap();
    assert!(matches!(first, Some(Frame::Failed(_))), "{first:?}");
    // On a connection for calls, which a removed node keeps, the path is not there.
    let called = peers.call(NodeId(1), STREAM_PATH, Vec::new(), LIMIT).await;
    assert!(matches!(called, Err(CallError::NoAnswer(_))), "{called:?}");
}

#[tokio::test]
async fn only_a_command_that_may_have_begun_keeps_others_from_being_tried() {
    let paused = || Says::Json(409, json!({ "message": "container 0a1b is paused" }));
    let create = "/containers/mill-web.0-a/exec";
    type Case = (&'static str, fn() -> Says, ErrorCode);
    let cases: [Case; 4] = [
        (create, paused, ErrorCode::Conflict),
        (create, || Says::Json(500, json!({ "message": "new" })), ErrorCode::Internal),
        ("/exec/e1/start", paused, ErrorCode::Conflict),
        ("/exec/e1/start", || Says::Nothing, ErrorCode::Unknown),
    ];
    let authority = Authority::found("c1").unwrap();
    for (asked, says, code) in cases {
        let (engine, _dir) = stand_in::engine(move |path| (path == asked).then(says));
        let node = Node::start(&authority, 1, engine, nothing).await;
        let wish = ExecWish { command: vec!["true".to_owned()], stdin: false, tty: None };
        let begun = node.streams.begin_exec(&AllocId::known("web.0-a"), wish).await;
        let Err(error) = begun.map(|_| ()) else { panic!("{asked} was refused") };
        assert_eq!(error.code, code, "{error:?}");
        assert_eq!(error.message.contains("may have begun"), code == ErrorCode::Unknown);
    }
}

/// The next trouble: of which node or alloc, and what.
async fn trouble(told: &mut tokio::sync::mpsc::Receiver<Told>) -> (String, String) {
    let told = timeout(LIMIT, told.recv()).await.expect("it is told").unwrap();
    let Told::Trouble { alloc, node, error } = told else { panic!("{told:?}") };
    (alloc.map(|alloc| alloc.to_string()).or(node).unwrap_or_default(), error)
}

#[tokio::test]
async fn nobody_waits_for_an_engine_that_hangs_once_nobody_reads() {
    let (asked, mut is_asked) = tokio::sync::mpsc::unbounded_channel();
    let (engine, _dir) = stand_in::engine(move |path| {
        path.ends_with("/logs").then(|| {
            asked.send(()).unwrap();
            Says::Never
        })
    });
    let authority = Authority::found("c1").unwrap();
    let cluster = Cluster::on("m1");
    let node = Node::start(&authority, 1, engine, cluster.answer()).await;
    let (words, mut waiting) = tokio::sync::mpsc::channel(1);
    let query = NodeLogs {
        names: Vec::new(),
        allocs: [AllocId::known("web.0-a")].into(),
        tail: 5,
        follow: true,
        since: None,
        all: false,
        from: None,
    };
    let telling = tokio::spawn(logs::tell(node.streams.clone(), query, words));
    assert!(matches!(waiting.recv().await, Some(logs::Word::Begun(_))));
    is_asked.recv().await.unwrap();
    drop(waiting);
    timeout(LIMIT, telling).await.expect("it ends").unwrap();
}

#[tokio::test]
async fn a_node_is_followed_once_it_is_known_and_again_when_it_has_joined_again() {
    let authority = Authority::found("c1").unwrap();
    let cluster = Cluster::on("m2");
    let asked = Node::start(&authority, 1, no_engine(), cluster.answer()).await;
    let [first, second] =
        [2, 3].map(|node| Node::start(&authority, node, no_engine(), cluster.answer()));
    let (first, second) = (first.await, second.await);
    let wish = LogsWish { names: Vec::new(), tail: 5, follow: true, since: None, all: false };
    let mut told = asked.streams.logs(wish).await.unwrap();
    let (whose, why) = trouble(&mut told).await;
    assert_eq!(whose, "m2");
    assert!(why.contains("not known here yet"), "{why}");
    asked.streams.peers.set(BTreeMap::from([(NodeId(2), first.peer)]));
    cluster.set_number(2);
    // The alloc cannot be read, so it was asked for; once before it is followed, and then.
    for _ in 0..2 {
        assert_eq!(trouble(&mut told).await.0, "web.0-a");
    }
    // Another machine under the same name, also in the place of one that was lost meanwhile.
    cluster.set_number(3);
    asked.streams.peers.set(BTreeMap::from([(NodeId(3), second.peer)]));
    assert_eq!(trouble(&mut told).await.0, "web.0-a");
    let more = timeout(Duration::from_secs(2), told.recv()).await;
    assert!(more.is_err(), "nobody asks the first one any more: {more:?}");
}

#[tokio::test]
async fn what_ran_on_a_node_that_was_removed_is_said_to_be_missing() {
    let authority = Authority::found("c1").unwrap();
    // It has no name any more.
    let node = Node::start(&authority, 1, no_engine(), Cluster::on("").answer()).await;
    let wish = LogsWish { names: Vec::new(), tail: 5, follow: false, since: None, all: true };
    let mut told = node.streams.logs(wish).await.unwrap();
    let (_, why) = trouble(&mut told).await;
    assert_eq!(why, "what ran on nodes that were removed is missing here");
    assert!(told.recv().await.is_none());
}
