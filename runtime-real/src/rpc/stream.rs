//! Streams: bytes that go to another node for as long as they take, while others come back.
//!
//! Each has a connection of its own. On a shared one, a stream whose reader is slow would fill the
//! window that consensus needs as well; and so each is slowed down by its own reader alone. What is
//! on its way in one direction fits in [`WINDOW`]. Nothing here says whether a stream ended or was
//! cut off: whoever uses one marks the end.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use hyper::body::{Bytes, Frame};
use tokio::sync::mpsc;

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
