//! Bodies on their way through, frame by frame: nothing is kept but what is in flight.
//!
//! An [`Upload`] goes from a client to a backend, within the route's size and the stall time. It
//! can be sent again as long as no frame of it was taken. A [`ReplyBody`] goes back, and carries
//! what must happen when it ends: the connection returns to its pool, the request is counted.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

use crate::exchange::Exchange;
use crate::pool::Lease;

pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// What went wrong with a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UploadProblem {
    TooLarge,
    Stalled,
    Broken,
}

/// The body of one request.
#[derive(Debug)]
pub(crate) struct Upload {
    incoming: RefCell<Incoming>,
    received: Cell<u64>,
    /// When the last of it came.
    moved: Cell<Option<Instant>>,
    most: u64,
    stall: Duration,
    stalled: RefCell<Option<Pin<Box<Sleep>>>>,
    taken: Cell<bool>,
    problem: Cell<Option<UploadProblem>>,
}

impl Upload {
    pub(crate) fn new(
        incoming: Incoming,
        most: Option<u64>,
        stall: Duration,
    ) -> Option<Rc<Upload>> {
        if incoming.is_end_stream() {
            return None;
        }
        Some(Rc::new(Upload {
            incoming: RefCell::new(incoming),
            received: Cell::new(0),
            moved: Cell::new(None),
            most: most.unwrap_or(u64::MAX),
            stall,
            stalled: RefCell::default(),
            taken: Cell::new(false),
            problem: Cell::new(None),
        }))
    }

    /// Whether any of it is gone, so that it cannot be sent again.
    pub(crate) fn is_taken(&self) -> bool {
        self.taken.get()
    }

    /// When the last of it came, if any has.
    pub(crate) fn moved(&self) -> Option<Instant> {
        self.moved.get()
    }

    pub(crate) fn problem(&self) -> Option<UploadProblem> {
        self.problem.get()
    }

    fn fail(&self, problem: UploadProblem) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.problem.set(Some(problem));
        Poll::Ready(Some(Err("the client's body cannot be passed on".into())))
    }

    pub(crate) fn poll(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let poll = Pin::new(&mut *self.incoming.borrow_mut()).poll_frame(cx);
        let Poll::Ready(frame) = poll else {
            let mut stalled = self.stalled.borrow_mut();
            let timer = stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.stall)));
            ready!(timer.as_mut().poll(cx));
            return self.fail(UploadProblem::Stalled);
        };
        self.stalled.replace(None);
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => return self.fail(UploadProblem::Broken),
            None => return Poll::Ready(None),
        };
        self.taken.set(true);
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        self.received.set(self.received.get() + length);
        self.moved.set(Some(crate::clock::now()));
        if self.received.get() > self.most {
            return self.fail(UploadProblem::TooLarge);
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

/// What a backend is sent: an upload, or nothing.
#[derive(Clone, Debug)]
pub(crate) struct ForwardBody(pub(crate) Option<Rc<Upload>>);

impl Body for ForwardBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &self.0 {
            Some(upload) => upload.poll(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|upload| upload.incoming.borrow().is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Some(upload) => upload.incoming.borrow().size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

/// What a client is sent.
pub(crate) struct ReplyBody {
    source: Source,
    exchange: Exchange,
}

enum Source {
    Page(Option<Bytes>),
    Backend { body: BackendBody, lease: Option<Lease>, deadline: Option<Pin<Box<Sleep>>> },
}

/// Where the body of a backend's answer comes from.
#[derive(Debug)]
pub(crate) enum BackendBody {
    /// From the connection that the request has to itself.
    Http1,
    Http2(Incoming),
}

impl BackendBody {
    fn poll(
        &mut self,
        lease: Option<&mut Lease>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            BackendBody::Http2(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
            BackendBody::Http1 => match lease.and_then(|lease| lease.connection.as_mut()) {
                Some(connection) => connection.poll_frame(cx),
                None => Poll::Ready(None),
            },
        }
    }

    fn is_end_stream(&self, lease: Option<&Lease>) -> bool {
        match self {
            BackendBody::Http2(body) => body.is_end_stream(),
            BackendBody::Http1 => lease
                .and_then(|lease| lease.connection.as_ref())
                .is_none_or(|connection| connection.body_is_done()),
        }
    }

    fn size_hint(&self, lease: Option<&Lease>) -> SizeHint {
        match self {
            BackendBody::Http2(body) => body.size_hint(),
            BackendBody::Http1 => lease
                .and_then(|lease| lease.connection.as_ref())
                .map_or(SizeHint::with_exact(0), |connection| connection.body_size()),
        }
    }
}

impl ReplyBody {
    pub(crate) fn page(page: Bytes, exchange: Exchange) -> ReplyBody {
        ReplyBody { source: Source::Page((!page.is_empty()).then_some(page)), exchange }
    }

    pub(crate) fn backend(
        body: BackendBody,
        lease: Lease,
        deadline: Option<Pin<Box<Sleep>>>,
        exchange: Exchange,
    ) -> ReplyBody {
        if body.is_end_stream(Some(&lease)) {
            lease.finished();
            return ReplyBody::page(Bytes::new(), exchange);
        }
        ReplyBody { source: Source::Backend { body, lease: Some(lease), deadline }, exchange }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let frame = match &mut this.source {
            Source::Page(page) => page.take().map(|page| Ok(Frame::data(page))),
            Source::Backend { body, lease, deadline } => match body.poll(lease.as_mut(), cx) {
                Poll::Ready(frame) => {
                    if frame.is_none() || body.is_end_stream(lease.as_ref()) {
                        lease.take().into_iter().for_each(Lease::finished);
                    }
                    frame
                }
                Poll::Pending => {
                    let Some(timer) = deadline else {
                        return Poll::Pending;
                    };
                    ready!(timer.as_mut().poll(cx));
                    Some(Err("the route's timeout is over".into()))
                }
            },
        };
        if let Some(Ok(frame)) = &frame {
            this.exchange.sent(frame.data_ref().map_or(0, Bytes::len));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Page(page) => page.is_none(),
            Source::Backend { body, lease, .. } => body.is_end_stream(lease.as_ref()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Page(page) => SizeHint::with_exact(page.as_ref().map_or(0, Bytes::len) as u64),
            Source::Backend { body, lease, .. } => body.size_hint(lease.as_ref()),
        }
    }
}
