//! How nodes speak to each other: HTTP/2 over mutual TLS, one connection for each direction.
//!
//! Bytes go to a path of another node and bytes come back, within a limit; what they mean is
//! others' business. Who speaks is decided by certificates of the cluster's own authority and by
//! the address book that the replicated state yields. A node without a certificate can reach one
//! path, to join.
//! - `tls`: what is shown and what is checked
//! - `client`: connections that are kept, dialled in the background and given up when they hang
//! - `server`: who may call what
//! - `whole`: no part of a body passes for all of it
//! - `stream`: bytes both ways for as long as they take, on connections of their own
//!
//! Connections are opened through [`Dial`] and taken through [`Accept`], so that the same code runs
//! over a simulated network. Tested in `tests/rpc.rs`, and with nodes in `daemon/tests`.

mod client;
mod server;
mod stream;
mod tls;
mod whole;

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use crate::mesh::is_neighbour;

pub use self::client::{CallError, Peer, Peers, call_stranger};
pub use self::server::{Caller, GREET_PATH, JOIN_PATH, Limits, Server};
pub use self::stream::{Pieces, PiecesBody, Stream, only_streams, pieces};
pub use self::tls::is_wrong_authority;

/// The most bytes in one request or answer.
pub const BODY_MAX: usize = 16 << 20;

/// Opens connections: the machine's network, or a simulated one.
pub trait Dial: Clone + Debug + Send + Sync + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Connects to an address and port. Whoever waits bounds it.
    fn dial(&self, address: String) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Takes the connections that others open: of the machine's network, or of a simulated one.
pub trait Accept: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next one; says from where and to where it is.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Ends)>> + Send;
}

/// The ends of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// Who opened it.
    pub from: SocketAddr,
    /// Which address of this machine it came to.
    pub to: SocketAddr,
}

impl Ends {
    /// The address that it came to, if that may be one in the mesh: it came from a neighbour of it.
    /// Whoever only says to be one gets no answer.
    pub fn inside(&self) -> Option<IpAddr> {
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) if is_neighbour(from, to) => Some(IpAddr::V4(to)),
            (_, _) => None,
        }
    }
}

/// The machine's own network.
#[derive(Clone, Debug)]
pub struct Tcp;

impl Dial for Tcp {
    type Stream = TcpStream;

    async fn dial(&self, address: String) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address).await?;
        // Small messages must not wait for more.
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Ends)> {
        let (stream, from) = TcpListener::accept(self).await?;
        let to = stream.local_addr()?;
        // Small messages must not wait for more; one that is gone already is found out later.
        let _ = stream.set_nodelay(true);
        Ok((stream, Ends { from, to }))
    }
}
