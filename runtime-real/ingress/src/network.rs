//! The network on which replicas are reached.
//!
//! Which one it is, is decided when the crate is compiled, so that no request pays for it: the
//! machine's, turmoil's in the tests of `simulated/`, memory for the targets in `fuzz/`.

#[cfg(all(feature = "fuzzing", not(test)))]
pub(crate) use crate::fuzzing::network::{Stream, connect};
#[cfg(test)]
pub(crate) use crate::simulated::network::{Stream, connect};
#[cfg(not(any(test, feature = "fuzzing")))]
pub(crate) use machine::{Stream, connect};

#[cfg(not(any(test, feature = "fuzzing")))]
mod machine {
    use std::io;
    use std::net::SocketAddr;
    use std::time::Duration;

    use socket2::SockRef;
    use tokio::net::TcpStream;

    /// A connection to a replica.
    pub(crate) type Stream = TcpStream;

    /// Opens a connection. What is sent over it may stay unanswered by the other machine for so
    /// long, until it fails.
    pub(crate) async fn connect(address: SocketAddr, unanswered: Duration) -> io::Result<Stream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        // A machine without power answers nothing.
        SockRef::from(&stream).set_tcp_user_timeout(Some(unanswered))?;
        Ok(stream)
    }
}
