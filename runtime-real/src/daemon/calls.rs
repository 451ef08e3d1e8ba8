//! What other nodes say to this one: who may, was decided by `rpc`; what it means, here.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Extension, Router};
use mill_consensus::Call;
use mill_core::Event;
use mill_core::api::Request;
use mill_core::event::Origin;
use mill_core::message::Message;
use mill_core::name::NodeId;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::Consensus;
use super::joining::{Admitting, to_json};
use crate::rpc::{Accept, BODY_MAX, Caller, Dial, GREET_PATH, JOIN_PATH, Server, Tcp};
use mill_core::effect::Book;

pub(super) const MESSAGE_PATH: &str = "/rpc/1/message";
pub(super) const REQUEST_PATH: &str = "/rpc/1/request";

/// The most bytes that a machine may send that wants to join, which anybody may, or that greets.
const JOIN_MAX: usize = 64 << 10;
/// Between two tries to accept where the kernel refuses, mostly for want of file descriptors.
const RETRY: Duration = Duration::from_millis(500);

/// The path of a call of consensus.
pub(super) fn consensus_path(call: Call) -> String {
    format!("/rpc/1/raft/{}", call.name())
}

/// Consensus as far as other nodes meet it: the real one, or a test's.
pub(super) trait Answerer: Clone + Send + Sync + 'static {
    /// Answers a call of another node's consensus.
    fn answer(
        &self,
        from: NodeId,
        call: Call,
        body: Vec<u8>,
    ) -> impl Future<Output = io::Result<Vec<u8>>> + Send;

    /// Who leads, as far as this node knows.
    fn leader(&self) -> Option<NodeId>;
}

impl Answerer for Consensus {
    async fn answer(&self, from: NodeId, call: Call, body: Vec<u8>) -> io::Result<Vec<u8>> {
        Consensus::answer(self, from.0, call, body).await
    }

    fn leader(&self) -> Option<NodeId> {
        self.status().leader.map(NodeId)
    }
}

/// What answers are made from.
#[derive(Clone)]
pub(super) struct Answering<C = Consensus, D = Tcp> {
    pub(super) consensus: C,
    pub(super) events: mpsc::Sender<Event>,
    /// Where the others are, as far as this node knows.
    pub(super) known: watch::Receiver<Book>,
    pub(super) admitting: Admitting<C, D>,
}

/// Every path that other nodes call.
pub(super) fn router<C: Answerer, D: Dial>(answering: Answering<C, D>) -> Router {
    let joining = post(join::<C, D>).layer(DefaultBodyLimit::max(JOIN_MAX));
    let greeting = post(greet::<C, D>).layer(DefaultBodyLimit::max(JOIN_MAX));
    Router::new()
        .route("/rpc/1/raft/{call}", post(consensus::<C, D>))
        .route(MESSAGE_PATH, post(message::<C, D>))
        .route(REQUEST_PATH, post(request::<C, D>))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .route(GREET_PATH, greeting)
        .route(JOIN_PATH, joining)
        .with_state(answering)
}

async fn consensus<C: Answerer, D: Dial>(
    State(answering): State<Answering<C, D>>,
    Extension(caller): Extension<Caller>,
    Path(call): Path<String>,
    body: Bytes,
) -> Response {
    let (Caller::Node(from), Some(call)) = (caller, Call::from_name(&call)) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    match answering.consensus.answer(from, call, body.into()).await {
        Ok(answer) => answer.into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

async fn message<C: Answerer, D: Dial>(
    State(answering): State<Answering<C, D>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    let (Caller::Node(from), Ok(message)) = (caller, serde_json::from_slice::<Message>(&body))
    else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    // Where too much waits already, a message is lost, as it could be on its way.
    match answering.events.try_send(Event::Message { from, message }) {
        Ok(()) => StatusCode::OK.into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn greet<C: Answerer, D: Dial>(
    State(answering): State<Answering<C, D>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    let (Caller::Node(from), Ok(book)) = (caller, serde_json::from_slice(&body)) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let answer = to_json(&*answering.known.borrow());
    match answering.events.try_send(Event::Greeted { from, book }) {
        Ok(()) => answer.into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn request<C: Answerer, D: Dial>(
    State(answering): State<Answering<C, D>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    let Caller::Node(from) = caller else { return StatusCode::FORBIDDEN.into_response() };
    match serde_json::from_slice::<Request>(&body) {
        Ok(request) => {
            let outcome = answering.admitting.handle.ask_for(Origin::Node(from), request).await;
            to_json(&outcome).into_response()
        }
        // A newer version's: it was not done.
        Err(error) => (StatusCode::FORBIDDEN, error.to_string()).into_response(),
    }
}

async fn join<C: Answerer, D: Dial>(
    State(answering): State<Answering<C, D>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    answering.admitting.answer(caller, body.into()).await.into_response()
}

/// The same at an address of this node in the mesh, as soon as it can be listened on.
pub(super) async fn serve_inside(address: SocketAddr, server: Server) {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return serve(listener, server).await,
            Err(error) => {
                tracing::warn!(%address, %error, "other nodes cannot come in through the mesh");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Serves other nodes for as long as it is let.
pub(super) async fn serve(listener: impl Accept, server: Server) {
    loop {
        match listener.accept().await {
            Ok((stream, ends)) => {
                let server = server.clone();
                drop(tokio::spawn(async move {
                    if let Err(error) = server.serve(stream, ends.inside()).await {
                        tracing::debug!(from = %ends.from, %error, "a connection of another node ended");
                    }
                }));
            }
            Err(error) => {
                tracing::warn!(%error, "no connections of other nodes can be accepted just now");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
