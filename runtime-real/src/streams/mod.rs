//! Streams through the cluster: whatever takes longer than a question and its answer.
//!
//! Any node can be asked. It finds out from its own copy of the cluster who holds the alloc, does
//! what is asked if that is itself, and otherwise passes every frame on, both ways, one at a time:
//! so a slow reader slows down who writes, through any node, and nothing piles up between them.
//! What one node asks of another names an alloc of that node, so nothing is passed on twice.
//! - `frame`: what goes through a stream
//! - `place`: who holds what is asked for
//! - `logs`: what the containers of this node print; `merge`: those of all nodes
//!
//! Tested in `cli/tests/streams.rs` and, between machines, in `cli/tests/cluster/streams.rs`.

pub mod frame;
mod logs;
mod merge;
mod place;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Extension, Router};
use mill_core::api::{ApiError, ErrorCode};
use mill_core::name::NodeId;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use self::frame::{Frame, Receiver, Sender};
use self::logs::NodeLogs;
pub(crate) use self::logs::Told;
pub(crate) use self::merge::LogsWish;
use crate::daemon::Handle;
use crate::docker::Engine;
use crate::rpc::{CallError, Caller, Peers, Stream, Tcp, pieces};

/// Where other nodes open streams.
const STREAM_PATH: &str = "/rpc/1/stream";
/// Streams at a time that clients have through this node, and that other nodes have to it.
const STREAMS_MAX: usize = 256;
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
}

/// What one node asks of another.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Here {
    /// What its containers print.
    Logs(NodeLogs),
}

impl Streams {
    pub(crate) fn new(
        handle: Handle,
        engine: Engine,
        peers: Peers<Tcp>,
        (node, name): (NodeId, &str),
    ) -> Streams {
        let [clients, nodes] = [(); 2].map(|()| Arc::new(Semaphore::new(STREAMS_MAX)));
        Streams { handle, engine, peers, node, name: name.into(), clients, nodes }
    }

    /// Where other nodes open streams to this one.
    pub(crate) fn router(self) -> Router {
        Router::new().route(STREAM_PATH, post(open)).with_state(self)
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

    /// Answers another node.
    async fn answer(self, mut sender: Sender, mut receiver: Receiver) -> io::Result<()> {
        let Ok(_place) = self.nodes.clone().try_acquire_owned() else {
            return sender.send(Frame::Failed(full(&self.name))).await;
        };
        match asked(&mut receiver).await {
            Ok(Here::Logs(query)) => logs::answer(self, query, sender, receiver).await,
            Err(error) => sender.send(Frame::Failed(error)).await,
        }
    }
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
