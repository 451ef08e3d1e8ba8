//! One connection, from who called a service's address to a replica and back.
//!
//! A replica that refuses is followed by the next, since nothing was sent yet; while there is none,
//! the caller is held for a moment. Each direction ends by itself, as TCP lets it. What is carried is a
//! [`Connection`], so that the same code runs over a simulated network (`simulated.rs`).

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mill_core::name::AllocId;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::balance::{Balance, Chosen};
use crate::forwarders::Callee;

/// A replica that takes longer to accept is not waited for.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// For how long a caller is held while no replica can be reached.
const HOLD: Duration = Duration::from_secs(5);
/// Between two rounds over replicas that all refused.
const AGAIN: Duration = Duration::from_millis(200);
/// A connection on which nothing moves either way for so long is closed.
const IDLE: Duration = Duration::from_secs(60 * 60);
/// What is on its way in one direction at most.
const BUFFER: usize = 64 * 1024;

/// A connection: of the machine's network, or of a simulated one.
pub(crate) trait Connection: Sized + Send + 'static {
    /// What comes out of it.
    type Reading: AsyncRead + Unpin + Send;
    /// What goes into it.
    type Writing: AsyncWrite + Unpin + Send;

    /// Opens one.
    fn connect(address: SocketAddr) -> impl Future<Output = io::Result<Self>> + Send;

    /// What one side sends in small pieces does not wait for more of it.
    ///
    /// # Errors
    /// When it is gone.
    fn send_at_once(&self) -> io::Result<()>;

    /// The other side is told that this failed, not that it is over.
    fn break_off(self);

    /// Both directions, each by itself.
    fn split(self) -> (Self::Reading, Self::Writing);
}

impl Connection for TcpStream {
    type Reading = OwnedReadHalf;
    type Writing = OwnedWriteHalf;

    fn connect(address: SocketAddr) -> impl Future<Output = io::Result<TcpStream>> + Send {
        TcpStream::connect(address)
    }

    fn send_at_once(&self) -> io::Result<()> {
        self.set_nodelay(true)
    }

    fn break_off(self) {
        // One that is gone is told nothing.
        let _ = self.set_zero_linger();
    }

    fn split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        self.into_split()
    }
}

/// What both directions have moved.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    pub there: AtomicU64,
    pub back: AtomicU64,
}

/// Carries a connection to one of the replicas that there are.
///
/// # Errors
/// When none could be reached in time, or one side broke off.
pub(crate) async fn carry<C: Connection>(
    caller: C,
    callee: Callee,
    balance: &Balance,
    moved: &Moved,
) -> io::Result<()> {
    let found = timeout(HOLD, connect::<C>(callee, balance)).await;
    let (replica, chosen) = match found {
        Ok(found) => found,
        Err(_) => {
            caller.break_off();
            return Err(io::Error::new(
                io::ErrorKind::HostUnreachable,
                "no replica can be reached",
            ));
        }
    };
    caller.send_at_once()?;
    replica.send_at_once()?;
    let (from_caller, to_caller) = caller.split();
    let (from_replica, to_replica) = replica.split();
    let there = pump(from_caller, to_replica, &moved.there, &moved.back);
    let back = pump(from_replica, to_caller, &moved.back, &moved.there);
    let outcome = tokio::try_join!(there, back).map(|_| ());
    drop(chosen);
    outcome
}

/// Tries one replica after the other, and begins again with those that there are then.
async fn connect<C: Connection>(mut callee: Callee, balance: &Balance) -> (C, Chosen) {
    loop {
        let mut tried: Vec<AllocId> = Vec::new();
        // Each time anew: one may have left meanwhile.
        while let Some(chosen) = balance.choose(callee.here, &callee.replicas(), &tried) {
            let address = SocketAddr::new(chosen.replica.host, chosen.replica.port);
            let stream = timeout(CONNECT_WITHIN, C::connect(address)).await;
            chosen.reached(matches!(stream, Ok(Ok(_))));
            match stream {
                Ok(Ok(stream)) => return (stream, chosen),
                Ok(Err(_)) | Err(_) => tried.push(chosen.replica.alloc.clone()),
            }
        }
        // Whether or not others come, those that refused may not any more.
        let _ = timeout(AGAIN, callee.changed()).await;
    }
}

/// Moves bytes until one side has no more, and tells the other.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &AtomicU64,
    other_way: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let before = other_way.load(Ordering::Relaxed);
        let length = match timeout(IDLE, from.read(&mut buffer)).await {
            Ok(length) => length?,
            Err(_) if other_way.load(Ordering::Relaxed) != before => continue,
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing moved")),
        };
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
        moved.fetch_add(length as u64, Ordering::Relaxed);
    }
}
