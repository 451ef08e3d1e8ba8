//! Listening sockets, one for each worker on the same address.
//!
//! The kernel spreads connections over them (`SO_REUSEPORT`, socket(7)), so workers never wait
//! for each other to accept.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::task::{Context, Poll, Waker};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// Connections that the kernel holds until they are accepted; it caps this at
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4_096;

/// One listener for each worker; with port 0 all share the one that the first was given.
pub(crate) fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<StdListener>> {
    let mut listeners: Vec<StdListener> = Vec::with_capacity(workers);
    for _ in 0..workers {
        let address = listeners.first().map_or(Ok(address), StdListener::local_addr)?;
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            // Every address means those of IPv4, too, whatever the machine's default.
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        listeners.push(socket.into());
    }
    Ok(listeners)
}

/// Whether an address can be listened on just now.
///
/// # Errors
/// Why not.
pub fn is_free(address: SocketAddr) -> io::Result<()> {
    bind(address, 1).map(drop)
}

/// What clients come in by: a socket of the machine, or of a simulated network.
pub(crate) trait Listener {
    /// A client's connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, when there is one.
    async fn accept(&self) -> io::Result<(Self::Stream, SocketAddr)>;

    /// A connection that waits to be accepted, if there is one.
    fn accept_now(&self) -> Option<(Self::Stream, SocketAddr)>;

    /// Nothing that is sent waits for more of it.
    fn send_at_once(stream: &Self::Stream) -> io::Result<()>;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        TcpListener::accept(self).await
    }

    fn accept_now(&self) -> Option<(TcpStream, SocketAddr)> {
        let mut context = Context::from_waker(Waker::noop());
        match self.poll_accept(&mut context) {
            Poll::Ready(Ok(accepted)) => Some(accepted),
            Poll::Ready(Err(_)) | Poll::Pending => None,
        }
    }

    fn send_at_once(stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)
    }
}
