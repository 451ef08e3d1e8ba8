//! Streams: bytes that go to another node for as long as they take, while others come back.
//!
//! Each has a connection of its own. On a shared one, a stream whose reader is slow would fill the
//! window that consensus needs as well; and so each is slowed down by its own reader alone. What is
//! on its way in one direction fits in [`WINDOW`]. When the node at the other end is removed, each
//! side cuts it off. Nothing here says whether a stream ended or was cut off: whoever uses one
//! marks the end.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hyper::body::{Bytes, Frame};
use tokio::sync::{mpsc, watch};

/// By this name of a protocol (RFC 7301) a connection is known to carry one stream.
pub(super) const ALPN: &[u8] = b"mill-stream";
/// Bytes that are on their way in one direction and were not read yet.
pub(super) const WINDOW: u32 = 256 << 10;
/// Pieces that wait to be written to the connection.
const PIECES_WAITING: usize = 1;

/// What a connection is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Carries {
    /// Calls, many at a time.
    Calls,
    /// One stream.
    Stream,
}

/// One direction of a stream, as whoever fills it has it; it ends when that is dropped.
pub type Pieces = mpsc::Sender<Bytes>;

/// Both directions of a stream to another node. What is dropped ends the stream.
#[derive(Debug)]
pub struct Stream {
    /// What goes to the other node.
    pub sending: Pieces,
    /// What comes from there.
    pub receiving: Body,
}

/// Passes on only what has a connection of its own: no other one is cut off when its node is
/// removed. On others the path is not there, as on a node of an older version.
pub async fn only_streams(request: Request, next: Next) -> Response {
    match request.extensions().get() {
        Some(Carries::Stream) => next.run(request).await,
        Some(Carries::Calls) | None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// What comes from another node, for as long as that is known where it is.
pub(super) struct WhileKnown {
    from: hyper::body::Incoming,
    is_gone: BoxFuture<'static, ()>,
}

impl WhileKnown {
    /// Ends with an error once the other end of `known` is dropped.
    pub(super) fn new(from: hyper::body::Incoming, mut known: watch::Receiver<()>) -> WhileKnown {
        let is_gone = async move { while known.changed().await.is_ok() {} };
        WhileKnown { from, is_gone: is_gone.boxed() }
    }
}

impl hyper::body::Body for WhileKnown {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.is_gone.poll_unpin(context).is_ready() {
            // It is asked again after this.
            self.is_gone = std::future::ready(()).boxed();
            let text = "the node was removed from the cluster, or is reached elsewhere now";
            return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::NotConnected, text))));
        }
        let frame = ready!(Pin::new(&mut self.from).poll_frame(context));
        Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)))
    }
}

/// A direction, as its body.
#[derive(Debug)]
pub struct PiecesBody(mpsc::Receiver<Bytes>);

/// A direction: what is sent to the one is in the other.
pub fn pieces() -> (Pieces, PiecesBody) {
    let (sending, receiving) = mpsc::channel(PIECES_WAITING);
    (sending, PiecesBody(receiving))
}

impl hyper::body::Body for PiecesBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
