//! A connection to the port of an alloc of this node: frames on one side, a socket on the other.
//!
//! Either side may end its direction and go on to read. A stream that is cut off resets the
//! connection, so that nothing incomplete passes for whole.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::BytesMut;
use mill_core::api::{ApiError, ErrorCode};
use mill_core::name::AllocId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::Streams;
use super::frame::{BEAT_EVERY, Frame, Opened, PIECE_BYTES, Receiver, Sender};
use super::place::Copy;

/// Whoever listens on this machine takes a connection by then.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

impl Streams {
    /// Connects to the port of an alloc of this node.
    pub(super) async fn connect(&self, alloc: &AllocId) -> Result<TcpStream, ApiError> {
        let gone = |message: String| {
            ApiError::new(ErrorCode::NotFound, message).hint("`mill ps` lists what runs")
        };
        let views = self.allocs(Copy::Own).await?;
        let view = views.into_iter().find(|view| view.id == *alloc && view.node == *self.name);
        // Its port may be another's by now.
        let view = view.filter(|view| !view.phase.is_end());
        let name = &self.name;
        let view = view.ok_or_else(|| gone(format!("{alloc} does not run on node {name}")))?;
        let port = view.port.ok_or_else(|| gone(format!("{alloc} has no port")))?;
        let connecting = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        let slow = |_| io::Error::from(io::ErrorKind::TimedOut);
        let connected = timeout(CONNECT_WITHIN, connecting).await.map_err(slow);
        let socket = connected.and_then(|connected| connected).map_err(|error| {
            let message =
                format!("nothing answers at port {port} of {alloc} on node {name}: {error}");
            let hint = format!("`mill why {alloc}` and `mill logs {alloc}` may say why");
            ApiError::new(ErrorCode::Conflict, message).hint(hint)
        })?;
        // What is small must not wait for more; one that is gone already is found out later.
        let _ = socket.set_nodelay(true);
        Ok(socket)
    }
}

/// After a stream was lost, its last words are waited for so long.
const LAST_WORDS_WITHIN: Duration = Duration::from_millis(500);

/// Which side of a stream closes it, once both directions have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closer {
    /// This one: the one that answers. It has given the socket all there is by then.
    Here,
    /// The other one.
    There,
}

/// Carries a connection until both directions have ended, or a side is gone.
pub(super) async fn run(
    socket: TcpStream,
    opened: Opened,
    mut sender: Sender,
    receiver: Receiver,
) -> io::Result<()> {
    sender.send(Frame::Opened(opened)).await?;
    carry(socket, &mut sender, receiver, Closer::Here).await?;
    sender.send(Frame::Exited(0)).await
}

/// Carries a socket's bytes both ways until both directions have ended.
///
/// # Errors
/// When the stream or the socket breaks before; the socket is reset then.
pub async fn carry(
    socket: TcpStream,
    sender: &mut Sender,
    receiver: Receiver,
    closer: Closer,
) -> io::Result<()> {
    let (read, mut write) = socket.into_split();
    let (ended, has_ended) = watch::channel(false);
    let up = async {
        let carried = up(read, sender, has_ended, closer).await;
        if carried.is_err() {
            // Why the stream is gone may still be on its way in the other direction.
            sleep(LAST_WORDS_WITHIN).await;
        }
        carried
    };
    let carried = tokio::select! {
        carried = up => carried,
        carried = down(&mut write, receiver, ended) => carried,
    };
    if carried.is_err() {
        // It closes with a reset instead of an end, where the kernel lets it.
        let _ = rustix::net::sockopt::set_socket_linger(write.as_ref(), Some(Duration::ZERO));
        write.forget();
    }
    carried
}

/// From the socket to the stream, and until the other direction has ended as well.
async fn up(
    mut read: OwnedReadHalf,
    sender: &mut Sender,
    mut has_ended: watch::Receiver<bool>,
    closer: Closer,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE_BYTES);
        match timeout(BEAT_EVERY, read.read_buf(&mut buffer)).await {
            Ok(Ok(0)) => break,
            Ok(Ok(_)) => sender.send(Frame::Data(buffer.split().freeze())).await?,
            Ok(Err(error)) => {
                let message = format!("the connection broke at its other end: {error}");
                let failed = ApiError::new(ErrorCode::Internal, message);
                sender.send(Frame::Failed(failed)).await?;
                return Err(error);
            }
            // Who is gone is noticed, though nothing is said.
            Err(_) => sender.send(Frame::Beat).await?,
        }
    }
    sender.send(Frame::End).await?;
    loop {
        let both = has_ended.wait_for(|ended| *ended && closer == Closer::Here);
        let both = async { both.await.is_ok() };
        match timeout(BEAT_EVERY, both).await {
            Ok(true) => return Ok(()),
            // The other direction says how it ended.
            Ok(false) => std::future::pending::<()>().await,
            Err(_) => sender.send(Frame::Beat).await?,
        }
    }
}

/// From the stream to the socket, and for as long as the stream is heard.
async fn down(
    write: &mut OwnedWriteHalf,
    mut receiver: Receiver,
    ended: watch::Sender<bool>,
) -> io::Result<()> {
    loop {
        match receiver.next().await? {
            Some(Frame::Data(bytes)) => write.write_all(&bytes).await?,
            Some(Frame::End) => {
                // It may have closed both directions at once.
                let _ = write.shutdown().await;
                ended.send_replace(true);
            }
            Some(Frame::Exited(_)) => return Ok(()),
            Some(Frame::Failed(error)) => return Err(io::Error::other(error.to_string())),
            Some(
                Frame::Ask(_) | Frame::Opened(_) | Frame::Error(_) | Frame::Resize(_) | Frame::Beat,
            ) => {}
            None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        }
    }
}
