//! What goes through a stream, piece by piece, the same on the API's socket and between nodes.
//!
//! A frame is its kind, the length of what follows, and that. Who asked begins with
//! [`Frame::Ask`] and keeps its side open for as long as it listens; who answers begins with
//! [`Frame::Opened`] and ends with [`Frame::Exited`] or [`Frame::Failed`]. A stream that ends
//! without one of these was cut off. A kind that is not known is passed over: a newer version's.

use std::io;
use std::time::Duration;

use axum::body::Body;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use mill_core::api::ApiError;
use mill_core::name::AllocId;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::rpc::{Pieces, Stream};

/// The most bytes that a frame carries.
pub const FRAME_MAX: usize = 256 << 10;
/// As much is read from a container or a socket at a time.
pub const PIECE_BYTES: usize = 16 << 10;
/// Where nothing is said, a beat is sent that often.
pub(super) const BEAT_EVERY: Duration = Duration::from_secs(5);
/// Kind and length.
const HEAD_BYTES: usize = 5;

/// A piece of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// What is asked for: JSON.
    Ask(Bytes),
    /// It is there; what comes next is its own.
    Opened(Opened),
    /// Bytes: of standard input or output, or of a connection.
    Data(Bytes),
    /// Bytes of standard error.
    Error(Bytes),
    /// No more `Data` comes from this side.
    End,
    /// The terminal has another size now.
    Resize(Size),
    /// It is over: the command has ended with this code; 0 where there is none.
    Exited(i32),
    /// It cannot be, or not any longer.
    Failed(ApiError),
    /// Nothing: whoever sends it finds out whether the other side is still there.
    Beat,
}

/// Where a stream leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The alloc.
    pub alloc: AllocId,
    /// Its node's name.
    pub node: String,
}

/// Of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Its width.
    pub columns: u16,
    /// Its height.
    pub rows: u16,
}

impl Frame {
    fn encode(&self) -> io::Result<Bytes> {
        let (kind, bytes) = match self {
            Frame::Ask(bytes) => (0, bytes.clone()),
            Frame::Opened(opened) => (1, json(opened)),
            Frame::Data(bytes) => (2, bytes.clone()),
            Frame::Error(bytes) => (3, bytes.clone()),
            Frame::End => (4, Bytes::new()),
            Frame::Resize(size) => (5, json(size)),
            Frame::Exited(code) => (6, json(code)),
            Frame::Failed(error) => (7, json(error)),
            Frame::Beat => (8, Bytes::new()),
        };
        let length = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= FRAME_MAX);
        let length = length.ok_or_else(|| {
            let (what, length) = (self.what(), bytes.len());
            let text = format!("{what} of {length} bytes, where {FRAME_MAX} is the most");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })?;
        let mut whole = BytesMut::with_capacity(HEAD_BYTES + bytes.len());
        whole.put_u8(kind);
        whole.put_u32(length);
        whole.put(bytes);
        Ok(whole.freeze())
    }

    fn what(&self) -> &'static str {
        match self {
            Frame::Ask(_) => "a question",
            Frame::Opened(_) => "the name of a place",
            Frame::Data(_) | Frame::Error(_) => "a piece of output",
            Frame::Failed(_) => "an error",
            Frame::End | Frame::Resize(_) | Frame::Exited(_) | Frame::Beat => "a word",
        }
    }

    /// Takes the next frame that is whole; `None` while none is.
    fn decode(buffer: &mut BytesMut) -> io::Result<Option<Frame>> {
        loop {
            let Some((head, _)) = buffer.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
            let [kind, length @ ..] = *head;
            let length = u32::from_be_bytes(length) as usize;
            if length > FRAME_MAX {
                let text = format!("a piece of {length} bytes, where {FRAME_MAX} is the most");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            if buffer.len() < HEAD_BYTES + length {
                buffer.reserve(HEAD_BYTES + length - buffer.len());
                return Ok(None);
            }
            buffer.advance(HEAD_BYTES);
            let bytes = buffer.split_to(length).freeze();
            return Ok(Some(match kind {
                0 => Frame::Ask(bytes),
                1 => Frame::Opened(parse(&bytes)?),
                2 => Frame::Data(bytes),
                3 => Frame::Error(bytes),
                4 => Frame::End,
                5 => Frame::Resize(parse(&bytes)?),
                6 => Frame::Exited(parse(&bytes)?),
                7 => Frame::Failed(parse(&bytes)?),
                8 => Frame::Beat,
                _ => continue,
            }));
        }
    }
}

fn json(value: &impl Serialize) -> Bytes {
    Bytes::from(serde_json::to_vec(value).expect("what is sent has text keys only"))
}

fn parse<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> io::Result<T> {
    serde_json::from_slice(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Where frames go.
pub struct Sender(Way);

enum Way {
    Socket(Box<dyn AsyncWrite + Send + Unpin>),
    Node(Pieces),
}

/// Where frames come from.
pub struct Receiver {
    from: Source,
    buffer: BytesMut,
}

enum Source {
    Socket(Box<dyn AsyncRead + Send + Unpin>),
    Node(Body),
}

/// Both directions over a socket.
pub fn over_socket(
    socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> (Sender, Receiver) {
    let (read, write) = tokio::io::split(socket);
    let from = Source::Socket(Box::new(read));
    (Sender(Way::Socket(Box::new(write))), Receiver { from, buffer: BytesMut::new() })
}

/// Both directions to or from another node.
pub(crate) fn over_stream(Stream { sending, receiving }: Stream) -> (Sender, Receiver) {
    let from = Source::Node(receiving);
    (Sender(Way::Node(sending)), Receiver { from, buffer: BytesMut::new() })
}

impl Sender {
    /// Sends a frame, as soon as the other side has room for it.
    ///
    /// # Errors
    /// When the stream is gone, or the frame carries more than [`FRAME_MAX`]: nothing is sent then.
    pub async fn send(&mut self, frame: Frame) -> io::Result<()> {
        let bytes = frame.encode()?;
        match &mut self.0 {
            Way::Socket(socket) => {
                socket.write_all(&bytes).await?;
                socket.flush().await
            }
            Way::Node(pieces) => {
                let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
                pieces.send(bytes).await.map_err(gone)
            }
        }
    }
}

impl Receiver {
    /// The next frame; `None` at the end of the stream. Nothing is lost when this is given up.
    ///
    /// # Errors
    /// When the stream breaks, also in the middle of a frame, or is not one of frames.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            let is_over = match &mut self.from {
                Source::Socket(socket) => {
                    self.buffer.reserve(PIECE_BYTES);
                    socket.read_buf(&mut self.buffer).await? == 0
                }
                Source::Node(body) => match body.frame().await {
                    Some(piece) => {
                        let piece = piece.map_err(io::Error::other)?.into_data();
                        // Trailers say nothing.
                        self.buffer.put(piece.unwrap_or_default());
                        false
                    }
                    None => true,
                },
            };
            match (is_over, self.buffer.is_empty()) {
                (false, _) => {}
                (true, true) => return Ok(None),
                (true, false) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mill_core::api::ErrorCode;

    fn every() -> Vec<Frame> {
        vec![
            Frame::Ask(Bytes::from_static(b"{}")),
            Frame::Opened(Opened { alloc: AllocId::known("web.0-a"), node: "m1".to_owned() }),
            Frame::Data(Bytes::from(vec![7; PIECE_BYTES])),
            Frame::Error(Bytes::new()),
            Frame::Resize(Size { columns: 80, rows: 24 }),
            Frame::Exited(-1),
            Frame::Failed(ApiError::new(ErrorCode::NotFound, "no").hint("look")),
            Frame::End,
            Frame::Beat,
        ]
    }

    #[tokio::test]
    async fn frames_arrive_whole_and_in_order_however_small_the_pieces_are() {
        let (ours, theirs) = tokio::io::duplex(3);
        let ((mut sender, _ours), (_theirs, mut receiver)) =
            (over_socket(ours), over_socket(theirs));
        let sending = tokio::spawn(async move {
            for frame in every() {
                sender.send(frame).await.unwrap();
            }
        });
        for frame in every() {
            assert_eq!(receiver.next().await.unwrap(), Some(frame));
        }
        sending.await.unwrap();
    }

    #[test]
    fn what_is_not_known_is_passed_over_and_what_is_too_large_is_refused() {
        let mut buffer = BytesMut::from(&[99, 0, 0, 0, 1, 5, 4, 0, 0, 0, 0, 2][..]);
        assert_eq!(Frame::decode(&mut buffer).unwrap(), Some(Frame::End));
        assert_eq!(Frame::decode(&mut buffer).unwrap(), None);
        buffer = BytesMut::from(&[2, 255, 0, 0, 0][..]);
        assert!(Frame::decode(&mut buffer).is_err());
    }

    #[tokio::test]
    async fn what_is_too_large_is_not_sent_and_what_comes_after_it_is() {
        let (ours, theirs) = tokio::io::duplex(64);
        let ((mut sender, _ours), (_theirs, mut receiver)) =
            (over_socket(ours), over_socket(theirs));
        let large = Frame::Ask(Bytes::from(vec![b' '; FRAME_MAX + 1]));
        let refused = sender.send(large).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        let text = "a question of 262145 bytes, where 262144 is the most";
        assert_eq!(refused.to_string(), text);
        sender.send(Frame::End).await.unwrap();
        assert_eq!(receiver.next().await.unwrap(), Some(Frame::End));
    }

    #[tokio::test]
    async fn a_stream_that_ends_in_the_middle_of_a_frame_has_broken() {
        let (ours, theirs) = tokio::io::duplex(64);
        let (_, mut receiver) = over_socket(theirs);
        let (_, mut ours) = tokio::io::split(ours);
        ours.write_all(&[4, 0, 0, 0, 0, 2, 0]).await.unwrap();
        drop(ours);
        assert_eq!(receiver.next().await.unwrap(), Some(Frame::End));
        assert!(receiver.next().await.is_err());
    }
}
