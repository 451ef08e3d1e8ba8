//! A stream that counts its bytes, hands out what was read ahead first, and fails when the other
//! side takes nothing for too long. What a client sends over HTTP/1 goes through `framing.rs`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::framing::Framing;

/// What is read in place of bytes that may not be, whatever came before: no head and no body has
/// a NUL there, so hyper answers 400 and ends the connection.
const REFUSED: &[u8] = b"\0\r\n\r\n";

/// Bytes that went over one connection.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    read: AtomicU64,
    written: AtomicU64,
    tunnel: AtomicBool,
}

impl Traffic {
    pub(crate) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// From now on the bytes are no HTTP.
    pub(crate) fn is_a_tunnel(&self) {
        self.tunnel.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub(crate) struct Watched<S> {
    stream: S,
    ahead: Bytes,
    traffic: Arc<Traffic>,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    requests: Requests,
}

/// Whether what is read is looked at as HTTP/1 requests.
#[derive(Debug)]
enum Requests {
    Unseen,
    Seen(Box<Framing>),
    Refused,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, ahead: Bytes, traffic: Arc<Traffic>, stall: Duration) -> Self {
        traffic.read.store(ahead.len() as u64, Ordering::Relaxed);
        Watched { stream, ahead, traffic, stall, stalled: None, requests: Requests::Unseen }
    }

    /// Lets no HTTP/1 request through whose length is ambiguous.
    pub(crate) fn of_requests(mut self) -> Self {
        self.requests = Requests::Seen(Box::new(Framing::new()));
        self
    }

    /// Hands out these bytes first.
    pub(crate) fn with_ahead(mut self, ahead: Bytes) -> Self {
        self.ahead = ahead;
        self
    }

    /// Looks at what was read, and leaves only what may be read.
    fn look(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        let Requests::Seen(framing) = &mut self.requests else { return };
        if self.traffic.tunnel.load(Ordering::Relaxed) {
            self.requests = Requests::Unseen;
        } else if let Err(ambiguous) = framing.read(&buf.filled()[before..]) {
            self.requests = Requests::Refused;
            buf.set_filled(before + ambiguous.before);
            self.ahead = Bytes::from_static(REFUSED);
            self.hand_out(buf);
        }
    }

    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) {
        let length = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead.split_to(length));
    }

    fn wrote(
        &mut self,
        cx: &mut Context<'_>,
        poll: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = poll {
            self.stalled = None;
            if let Ok(bytes) = result {
                let total = self.traffic.written() + bytes as u64;
                self.traffic.written.store(total, Ordering::Relaxed);
            }
            return Poll::Ready(result);
        }
        let stall = self.stall;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if !self.ahead.is_empty() {
            self.hand_out(buf);
            self.look(buf, before);
            return Poll::Ready(Ok(()));
        }
        if matches!(self.requests, Requests::Refused) {
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let total = self.traffic.read() + (buf.filled().len() - before) as u64;
        self.traffic.read.store(total, Ordering::Relaxed);
        self.look(buf, before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.wrote(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
