//! Replicas on turmoil's network.
//!
//! turmoil has no acknowledgements, so what TCP_USER_TIMEOUT does on the machine's network is
//! played here: a link is cut by name, and what was sent over it and could not have arrived fails
//! its connection once it has been unanswered for too long. Until then the link holds what is
//! sent, as retransmission would.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use turmoil::net::{TcpListener, TcpStream};

use crate::listen::Listener;

use super::stage::{INGRESS, MOST_LAG, now};

thread_local! {
    /// Since when machines have been cut off from the ingress.
    static CUT: RefCell<BTreeMap<IpAddr, Duration>> = const { RefCell::new(BTreeMap::new()) };
}

/// No machine is cut off.
pub(super) fn whole() {
    CUT.take();
}

/// Cuts a machine off from the ingress, both ways.
pub(super) fn cut(host: &str) {
    turmoil::hold(INGRESS, host);
    CUT.with_borrow_mut(|cut| cut.insert(turmoil::lookup(host), now()));
}

/// Ends that; what was held arrives.
pub(super) fn mend(host: &str) {
    turmoil::release(INGRESS, host);
    CUT.with_borrow_mut(|cut| cut.remove(&turmoil::lookup(host)));
}

/// A connection to a replica.
#[derive(Debug)]
pub(crate) struct Stream {
    stream: TcpStream,
    replica: IpAddr,
    unanswered: Duration,
    /// When the oldest of what may not have arrived was written, and when that fails.
    written: Option<(Duration, Pin<Box<Sleep>>)>,
}

/// Opens a connection.
pub(crate) async fn connect(address: SocketAddr, unanswered: Duration) -> io::Result<Stream> {
    let stream = TcpStream::connect(address).await?;
    Ok(Stream { stream, replica: address.ip(), unanswered, written: None })
}

impl Stream {
    /// Whether what was written then had no time to arrive.
    fn is_lost(&self, written: Duration) -> bool {
        let cut = CUT.with_borrow(|cut| cut.get(&self.replica).copied());
        cut.is_some_and(|cut| cut < written + MOST_LAG)
    }

    fn wrote(&mut self) {
        let unanswered = self.written.as_ref().is_some_and(|(at, _)| self.is_lost(*at));
        if !unanswered {
            self.written = Some((now(), Box::pin(tokio::time::sleep(self.unanswered))));
        }
    }

    fn poll_unanswered(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some((at, timer)) = &mut self.written else { return Ok(()) };
        if timer.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        let at = *at;
        self.written = None;
        if self.is_lost(at) { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_unanswered(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_unanswered(cx)?;
        self.wrote();
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        TcpListener::accept(self).await
    }

    fn accept_now(&self) -> Option<(TcpStream, SocketAddr)> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(TcpListener::accept(self)).poll(&mut context) {
            Poll::Ready(Ok(accepted)) => Some(accepted),
            Poll::Ready(Err(_)) | Poll::Pending => None,
        }
    }

    fn send_at_once(_stream: &TcpStream) -> io::Result<()> {
        Ok(())
    }
}
