//! A connection to a backend that speaks HTTP/1.1: one request at a time, polled by whoever waits
//! for its answer, so that no task and no channel is between the two.
//!
//! After an answer another request may follow only if both were whole and nothing is left over.
//! What is sent is in `sending.rs`, how answers are read in `decode.rs`.

use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Frame, SizeHint};
use hyper::header::HeaderMap;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::time::Sleep;

use crate::body::BodyError;
use crate::decode::{Asked, BadAnswer, Decoder, Head};
use crate::io::Watched;
use crate::network::Stream;
use crate::retry::Outgoing;
use crate::sending::{Sending, Unsent};

/// Bytes that are read at once where no more are known to come; a small answer fits.
const SMALL: usize = 8 * 1024;

/// Bytes of a body that are read at once.
const BODY_ROOM: usize = 64 * 1024;

/// Room that is worth filling before a new buffer is made.
const LEAST_ROOM: usize = 2 * 1024;

thread_local! {
    static SHARED: RefCell<[u8; SMALL]> = const { RefCell::new([0; SMALL]) };
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Watched<Stream>,
    buffer: BytesMut,
    sending: Sending,
    body: Decoder,
    /// Bytes that the head of an answer may have.
    most: usize,
    keep: bool,
    /// Whether any byte of the answer has come.
    heard: bool,
    pub(crate) reused: bool,
    /// When the head of the answer must be there. Kept from request to request: to put a timer
    /// off costs less than to make one.
    timer: Pin<Box<Sleep>>,
}

/// Why a request got no answer.
#[derive(Debug, Error)]
pub(crate) enum Trouble {
    #[error("the head of the answer took too long")]
    TimedOut,
    #[error("the request was not sent")]
    Unsent(#[source] Unsent),
    #[error("the connection to the backend broke")]
    Broken(#[source] io::Error),
    #[error("the answer cannot be passed on")]
    Answer(#[source] BadAnswer),
}

impl Trouble {
    /// Whether nothing was heard from the other machine, which a closed connection would be.
    pub(crate) fn is_silence(&self) -> bool {
        use io::ErrorKind as Kind;
        match self {
            Trouble::Broken(error) | Trouble::Unsent(Unsent::Connection(error)) => matches!(
                error.kind(),
                Kind::TimedOut | Kind::HostUnreachable | Kind::NetworkUnreachable
            ),
            Trouble::TimedOut | Trouble::Unsent(Unsent::Upload) | Trouble::Answer(_) => false,
        }
    }
}

impl Connection {
    pub(crate) fn new(stream: Watched<Stream>, most: usize) -> Connection {
        Connection {
            stream,
            buffer: BytesMut::new(),
            sending: Sending::default(),
            body: Decoder::Done,
            most,
            keep: true,
            heard: false,
            reused: false,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }

    /// Begins with a request, whose answer's head must come within this time.
    pub(crate) fn begin(&mut self, request: &Outgoing, within: Duration) {
        self.sending.begin(request);
        (self.keep, self.heard) = (false, false);
        self.body = Decoder::Done;
        self.timer.as_mut().reset((crate::clock::now() + within).into());
    }

    /// Gives the answer more time.
    pub(crate) fn extend(&mut self, within: Duration) {
        self.timer.as_mut().reset((crate::clock::now() + within).into());
    }

    /// Sends the request, and is ready with the head of its answer.
    pub(crate) fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        asked: Asked,
        headers: &mut HeaderMap,
    ) -> Poll<Result<Head, Trouble>> {
        let sent = match self.sending.poll(&mut self.stream, cx) {
            Poll::Ready(Err(error @ Unsent::Upload)) => Err(Trouble::Unsent(error)),
            // It may have been answered all the same.
            Poll::Ready(Err(error)) => Ok(Some(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(None),
        };
        let broken = sent?;
        loop {
            let head = crate::decode::head(&mut self.buffer, self.most, asked, headers);
            if let Some(mut head) = head.map_err(Trouble::Answer)? {
                self.body = std::mem::replace(&mut head.body, Decoder::Done);
                self.keep = head.keep && broken.is_none();
                if broken.is_some() {
                    self.sending.stop();
                }
                return Poll::Ready(Ok(head));
            }
            match self.poll_read(cx, SMALL) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(Trouble::Answer(BadAnswer::Ended)));
                }
                Poll::Ready(Ok(_)) => self.heard = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Trouble::Broken(error))),
                Poll::Pending => break,
            }
        }
        if let Some(error) = broken {
            return Poll::Ready(Err(Trouble::Unsent(error)));
        }
        ready!(self.timer.as_mut().poll(cx));
        Poll::Ready(Err(Trouble::TimedOut))
    }

    /// The next piece of the answer's body. What is left of the request is sent meanwhile.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.sending.is_done()
            && let Poll::Ready(Err(_)) = self.sending.poll(&mut self.stream, cx)
        {
            self.keep = false;
            self.sending.stop();
        }
        loop {
            match self.body.next(&mut self.buffer, self.most) {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) if self.body.is_done() => return Poll::Ready(None),
                Ok(None) => {}
                Err(error) => return self.cut_off(error.into()),
            }
            let room = usize::try_from(self.body.wants()).unwrap_or(BODY_ROOM).min(BODY_ROOM);
            match ready!(self.poll_read(cx, room)) {
                Ok(0) => {
                    if let Err(error) = self.body.end() {
                        return self.cut_off(error.into());
                    }
                }
                Ok(_) => {}
                Err(error) => return self.cut_off(error.into()),
            }
        }
    }

    fn cut_off(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.keep = false;
        Poll::Ready(Some(Err(error)))
    }

    /// Reads at most so much. What is small goes through memory that all connections of the thread
    /// share: it is in the processor's cache, and a connection that waits holds none.
    fn poll_read(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<usize>> {
        if room > SMALL {
            if self.buffer.capacity() - self.buffer.len() < LEAST_ROOM {
                self.buffer.reserve(room);
            }
            return pin!(self.stream.read_buf(&mut self.buffer)).poll(cx);
        }
        SHARED.with_borrow_mut(|shared| {
            let mut read = ReadBuf::new(shared);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            self.buffer.extend_from_slice(read.filled());
            Poll::Ready(Ok(read.filled().len()))
        })
    }

    pub(crate) fn body_is_done(&self) -> bool {
        self.body.is_done()
    }

    pub(crate) fn body_size(&self) -> SizeHint {
        self.body.size_hint()
    }

    /// Bytes of the request that were written.
    pub(crate) fn written(&self) -> u64 {
        self.sending.written
    }

    /// Whether any of the answer has come.
    pub(crate) fn heard(&self) -> bool {
        self.heard
    }

    /// Whether another request may follow now.
    pub(crate) fn may_go_on(&self) -> bool {
        let whole = self.body.is_done() && self.sending.is_done();
        self.keep && whole && self.buffer.is_empty()
    }

    /// What a connection holds while it waits for its next request.
    pub(crate) fn rest(&mut self) {
        self.reused = true;
        self.buffer = BytesMut::new();
    }

    /// Whether it is still there, and has said nothing that nobody asked for.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut context = Context::from_waker(Waker::noop());
        let read = Pin::new(&mut self.stream).poll_read(&mut context, &mut ReadBuf::new(&mut byte));
        read.is_pending()
    }

    /// The connection as it goes over to another protocol, with what has come of it already.
    pub(crate) fn into_stream(self) -> Watched<Stream> {
        self.stream.with_ahead(self.buffer.freeze())
    }
}
