//! Streams through the cluster: whatever takes longer than a question and its answer.
//!
//! Any node can be asked. It finds out from its own copy of the cluster who holds the alloc, does
//! what is asked if that is itself, and otherwise passes every frame on, both ways, one at a time:
//! so a slow reader slows down who writes, through any node, and nothing piles up between them.
//! What one node asks of another names an alloc of that node, so nothing is passed on twice.
//! - `frame`: what goes through a stream
//! - `place`: who holds what is asked for
//! - `exec`, `forward`: a command in a container, a connection to its port
//! - `logs`: what the containers of this node print; `merge`: those of all nodes
//!
//! Tested in `cli/tests/streams.rs` and, between machines, in `cli/tests/cluster/streams.rs`; what
//! a real engine or cluster seldom does, in `tests`.

mod exec;
mod forward;
pub mod frame;
mod logs;
mod merge;
mod place;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Extension, Router, middleware};
use mill_core::api::{ApiError, ErrorCode};
use mill_core::name::{AllocId, NodeId};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

pub use self::forward::{Closer, carry};
use self::frame::{Frame, Opened, Receiver, Sender};
use self::logs::NodeLogs;
pub(crate) use self::logs::Told;
pub(crate) use self::merge::LogsWish;
use self::place::{Copy, Holder};
use crate::daemon::Handle;
use crate::docker::{Command, Engine, ExecWish};
use crate::rpc::{CallError, Caller, Peers, Stream, Tcp, only_streams, pieces};

/// Where other nodes open streams.
const STREAM_PATH: &str = "/rpc/1/stream";
/// Streams at a time that clients have through this node, and that other nodes have to it.
const STREAMS_MAX: usize = 256;
/// The protocol that a client's connection is upgraded to.
pub const PROTOCOL: &str = "mill-stream";
/// Whether a node can do what is asked is said by then.
const OPEN_WITHIN: Duration = Duration::from_secs(70);
/// What is asked for is said by then.
const ASK_WITHIN: Duration = Duration::from_secs(10);

/// What streams need. Clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    handle: Handle,
    engine: Engine,
    peers: Peers<Tcp>,
    node: NodeId,
    /// What people call this node.
    name: Arc<str>,
    /// Room for more of clients.
    clients: Arc<Semaphore>,
    /// Room for more of other nodes.
    nodes: Arc<Semaphore>,
    /// Counts up, so that replicas take turns.
    turn: Arc<AtomicUsize>,
}

/// What a client asks of any node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// A command in a container.
    Exec {
        /// A service, slot or alloc.
        target: String,
        /// What is to be run.
        wish: ExecWish,
    },
    /// A connection to a replica.
    Forward {
        /// A service, slot or alloc.
        target: String,
        /// The port that callers use, or the replica's own.
        port: u16,
        /// Only whether that could be: nothing is connected to.
        look: bool,
    },
}

/// What one node asks of another.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Here {
    /// What its containers print.
    Logs(NodeLogs),
    /// A command in one of its containers.
    Exec {
        /// Whose.
        alloc: AllocId,
        /// What is to be run.
        wish: ExecWish,
    },
    /// A connection to one of its replicas.
    Forward {
        /// Which.
        alloc: AllocId,
    },
}

/// What was asked for, before anything went through it.
enum Reached {
    /// This node runs it.
    Command(Box<Command>, Opened),
    /// This node runs it.
    Socket(TcpStream, Opened),
    /// Another node does.
    Node { name: String, sender: Sender, receiver: Receiver, opened: Opened },
    /// Only whether it could be was asked.
    Looked(Opened),
}

impl Streams {
    pub(crate) fn new(
        handle: Handle,
        engine: Engine,
        peers: Peers<Tcp>,
        (node, name): (NodeId, &str),
    ) -> Streams {
        let [clients, nodes] = [(); 2].map(|()| Arc::new(Semaphore::new(STREAMS_MAX)));
        let (name, turn) = (name.into(), Arc::default());
        Streams { handle, engine, peers, node, name, clients, nodes, turn }
    }

    /// Where other nodes open streams to this one.
    pub(crate) fn router(self) -> Router {
        let open = post(open).layer(middleware::from_fn(only_streams));
        Router::new().route(STREAM_PATH, open).with_state(self)
    }

    /// A place among the streams of clients; it is theirs until it is dropped.
    pub(crate) fn place(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.clients.clone().try_acquire_owned().map_err(|_| full(&self.name))
    }

    /// Opens a stream to another node and asks.
    async fn ask(&self, node: NodeId, here: &Here) -> Result<(Sender, Receiver), CallError> {
        let (mut sender, receiver) = frame::over_stream(self.peers.open(node, STREAM_PATH).await?);
        let ask = serde_json::to_vec(here).expect("what is asked has text keys only");
        sender.send(Frame::Ask(ask.into())).await.map_err(CallError::NotAsked)?;
        Ok((sender, receiver))
    }

    /// Answers a client, for as long as it takes.
    pub(crate) async fn serve(self, mut sender: Sender, mut receiver: Receiver) -> io::Result<()> {
        let reached = match asked(&mut receiver).await {
            Ok(ask) => self.reach(ask).await,
            Err(error) => Err(error),
        };
        match reached {
            Ok(reached) => reached.run(sender, receiver).await,
            Err(error) => sender.send(Frame::Failed(error)).await,
        }
    }

    /// Finds who has what is asked for, and opens it there. What this node's own copy does not
    /// have, or has no more, the newest may.
    async fn reach(&self, ask: Ask) -> Result<Reached, ApiError> {
        match self.try_holders(&ask, Copy::Own).await {
            Err(error) if matches!(error.code, ErrorCode::NotFound | ErrorCode::Conflict) => {
                self.try_holders(&ask, Copy::Newest).await
            }
            reached => reached,
        }
    }

    /// Tries one holder after the other, for as long as nothing was begun.
    async fn try_holders(&self, ask: &Ask, copy: Copy) -> Result<Reached, ApiError> {
        let (target, holders) = match ask {
            Ask::Exec { target, .. } => (target, self.holders(target, copy).await?),
            Ask::Forward { target, port, .. } => {
                let holders = self.holders(target, copy).await?;
                (target, self.in_turn(target, *port, holders)?)
            }
        };
        let mut last = None;
        for holder in holders {
            let opened = Opened { alloc: holder.alloc.clone(), node: holder.name.clone() };
            let here = match ask {
                Ask::Exec { wish, .. } => {
                    Here::Exec { alloc: holder.alloc.clone(), wish: wish.clone() }
                }
                Ask::Forward { look: true, .. } => return Ok(Reached::Looked(opened)),
                Ask::Forward { .. } => Here::Forward { alloc: holder.alloc.clone() },
            };
            let tried = match holder.node == self.node {
                true => self.open_here(here, opened).await,
                false => self.open_there(&holder, here).await,
            };
            match tried {
                // A command may have begun.
                Err(error) if error.code == ErrorCode::Unknown => return Err(error),
                Err(error) => last = Some(error),
                Ok(reached) => return Ok(reached),
            }
        }
        let nothing = || ApiError::new(ErrorCode::Conflict, format!("nothing of {target} runs"));
        Err(last.unwrap_or_else(nothing))
    }

    /// Replicas that have this port, beginning with another one each time. Of a service, the
    /// healthy ones alone: what is named itself may be looked at while it is not.
    fn in_turn(
        &self,
        target: &str,
        port: u16,
        mut holders: Vec<Holder>,
    ) -> Result<Vec<Holder>, ApiError> {
        if let Some(other) = holders.iter().find(|holder| !holder.ports.contains(&Some(port))) {
            let message = match other.ports {
                [Some(own), Some(declared)] => {
                    format!(
                        "{target} has no port {port}: callers use {declared}; {} listens on {own}",
                        other.alloc
                    )
                }
                [Some(own), None] => {
                    format!("{target} has no port {port}: {} listens on {own}", other.alloc)
                }
                [None, _] => format!("{target} has no port: nothing can be forwarded to it"),
            };
            return Err(ApiError::new(ErrorCode::Invalid, message));
        }
        let is_itself = holders.iter().any(|holder| holder.alloc.as_str() == target);
        holders.retain(|holder| holder.is_healthy || is_itself);
        if holders.is_empty() {
            let message = format!("no replica of {target} is healthy just now");
            let error = ApiError::new(ErrorCode::Conflict, message);
            return Err(error.hint(format!("`mill why {target}` says why")));
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % holders.len();
        holders.rotate_left(turn);
        Ok(holders)
    }

    /// Opens what this node has.
    async fn open_here(&self, here: Here, opened: Opened) -> Result<Reached, ApiError> {
        match here {
            Here::Exec { alloc, wish } => {
                let command = self.begin_exec(&alloc, wish).await?;
                Ok(Reached::Command(Box::new(command), opened))
            }
            Here::Forward { alloc } => Ok(Reached::Socket(self.connect(&alloc).await?, opened)),
            Here::Logs(_) => unreachable!("logs are told by those who hold them, all at once"),
        }
    }

    /// Asks another node, and waits until it says that it can.
    async fn open_there(&self, holder: &Holder, here: Here) -> Result<Reached, ApiError> {
        let Holder { alloc, node, name, .. } = holder;
        let lost = |code: ErrorCode, why: String| {
            let message = format!("node {name}, which holds {alloc}, does not answer: {why}");
            ApiError::new(code, message).hint("`mill node ls` shows how the nodes are")
        };
        let asked = self.ask(*node, &here).await;
        let (sender, mut receiver) = asked.map_err(|e| lost(ErrorCode::Internal, e.to_string()))?;
        let first = timeout(OPEN_WITHIN, receiver.next()).await;
        // A connection to a replica may be tried again.
        let lost = |why: String| match here {
            Here::Exec { .. } => {
                lost(ErrorCode::Unknown, format!("{why}; the command may have begun there"))
            }
            Here::Forward { .. } | Here::Logs(_) => lost(ErrorCode::Internal, why),
        };
        match first {
            Ok(Ok(Some(Frame::Opened(opened)))) => {
                Ok(Reached::Node { name: name.clone(), sender, receiver, opened })
            }
            Ok(Ok(Some(Frame::Failed(error)))) => Err(error),
            Ok(Ok(_)) => Err(lost("it ended the stream".to_owned())),
            Ok(Err(error)) => Err(lost(why(&error))),
            Err(_) => Err(lost(format!("it said nothing for {OPEN_WITHIN:?}"))),
        }
    }

    /// Answers another node.
    async fn answer(self, mut sender: Sender, mut receiver: Receiver) -> io::Result<()> {
        let Ok(_place) = self.nodes.clone().try_acquire_owned() else {
            return sender.send(Frame::Failed(full(&self.name))).await;
        };
        let here = match asked(&mut receiver).await {
            Ok(here) => here,
            Err(error) => return sender.send(Frame::Failed(error)).await,
        };
        let alloc = match &here {
            Here::Logs(query) => return logs::answer(self, query.clone(), sender, receiver).await,
            Here::Exec { alloc, .. } | Here::Forward { alloc } => alloc.clone(),
        };
        let opened = Opened { alloc, node: self.name.to_string() };
        match self.open_here(here, opened).await {
            Ok(reached) => reached.run(sender, receiver).await,
            Err(error) => sender.send(Frame::Failed(error)).await,
        }
    }
}

impl Reached {
    async fn run(self, mut sender: Sender, receiver: Receiver) -> io::Result<()> {
        match self {
            Reached::Command(command, opened) => {
                exec::run(*command, opened, sender, receiver).await
            }
            Reached::Socket(socket, opened) => forward::run(socket, opened, sender, receiver).await,
            Reached::Looked(opened) => {
                sender.send(Frame::Opened(opened)).await?;
                sender.send(Frame::Exited(0)).await
            }
            Reached::Node { name, sender: to_node, receiver: from_node, opened } => {
                sender.send(Frame::Opened(opened)).await?;
                let up = pass_on(receiver, to_node);
                tokio::select! {
                    // The client is gone; what is dropped here tells the node.
                    _ = up => Ok(()),
                    passed = pass_back(&name, from_node, &mut sender) => passed,
                }
            }
        }
    }
}

/// Passes on all that a client says.
async fn pass_on(mut from: Receiver, mut to: Sender) -> io::Result<()> {
    while let Some(frame) = from.next().await? {
        if to.send(frame).await.is_err() {
            // Why the node is gone, the other direction knows.
            std::future::pending::<()>().await;
        }
    }
    Ok(())
}

/// Passes on all that a node says, to its last word; or says that there will be none.
async fn pass_back(name: &str, mut from: Receiver, to: &mut Sender) -> io::Result<()> {
    loop {
        let cause = match from.next().await {
            Ok(Some(frame)) => {
                let is_last = matches!(frame, Frame::Exited(_) | Frame::Failed(_));
                to.send(frame).await?;
                match is_last {
                    true => return Ok(()),
                    false => continue,
                }
            }
            Ok(None) => "it ended the stream".to_owned(),
            Err(error) => why(&error),
        };
        let message = format!("node {name} was lost in the middle of it: {cause}");
        let error = ApiError::new(ErrorCode::Unknown, message);
        let error = error.hint("`mill node ls` shows how the nodes are");
        return to.send(Frame::Failed(error)).await;
    }
}

/// An error with all its causes.
fn why(error: &io::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(&format!(": {said}"));
        }
        source = cause.source();
    }
    text
}

/// What is asked for, by whoever opened a stream.
async fn asked<T: for<'a> Deserialize<'a>>(receiver: &mut Receiver) -> Result<T, ApiError> {
    let wrong = |message: String| {
        let error = ApiError::new(ErrorCode::Invalid, message);
        error.hint("is it another version? compare `mill version`")
    };
    match timeout(ASK_WITHIN, receiver.next()).await {
        Ok(Ok(Some(Frame::Ask(ask)))) => serde_json::from_slice(&ask)
            .map_err(|error| wrong(format!("what is asked for is not understood: {error}"))),
        Ok(Ok(_)) => Err(wrong("a stream began without saying what for".to_owned())),
        Ok(Err(error)) => Err(wrong(format!("a stream broke before it said what for: {error}"))),
        Err(_) => Err(wrong(format!("nothing was asked for within {ASK_WITHIN:?}"))),
    }
}

fn full(node: &str) -> ApiError {
    let message = format!("node {node} has {STREAMS_MAX} streams open already");
    ApiError::new(ErrorCode::Busy, message).hint("end some of them, or ask another node")
}

async fn open(
    State(streams): State<Streams>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    let Caller::Node(from) = caller else { return StatusCode::FORBIDDEN.into_response() };
    let (sending, body) = pieces();
    let stream = Stream { sending, receiving: request.into_body() };
    let (sender, receiver) = frame::over_stream(stream);
    drop(tokio::spawn(async move {
        if let Err(error) = streams.answer(sender, receiver).await {
            tracing::debug!(%from, %error, "a stream of another node ended");
        }
    }));
    Body::new(body).into_response()
}
