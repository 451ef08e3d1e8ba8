//! Replicas in memory: whoever listens gets the other end of each connection.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::DuplexStream;
use tokio::sync::mpsc;

/// A connection to a replica.
pub(crate) type Stream = DuplexStream;

/// Bytes that are on their way in one direction at most.
const ROOM: usize = 64 * 1024;

thread_local! {
    static LISTENING: RefCell<Option<mpsc::UnboundedSender<DuplexStream>>> =
        const { RefCell::new(None) };
}

/// Takes the other ends from now on, whatever their address.
pub(crate) fn dialled() -> mpsc::UnboundedReceiver<DuplexStream> {
    let (sender, receiver) = mpsc::unbounded_channel();
    LISTENING.set(Some(sender));
    receiver
}

/// Opens a connection; nothing in memory is left unanswered.
pub(crate) async fn connect(_address: SocketAddr, _unanswered: Duration) -> io::Result<Stream> {
    let (near, far) = tokio::io::duplex(ROOM);
    LISTENING.with_borrow(|listening| {
        let taken = listening.as_ref().map(|listening| listening.send(far));
        match taken {
            Some(Ok(())) => Ok(near),
            Some(Err(_)) | None => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    })
}
