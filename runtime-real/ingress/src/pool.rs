//! One replica as one worker sees it: its connections, and how it has been doing.
//!
//! HTTP/1.1 connections serve one request at a time and wait here between them, newest first.
//! HTTP/2 backends have one connection for all. A replica that leaves the table is retired: idle
//! connections close at once, busy ones when their request is over.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::body::ForwardBody;
use crate::io::Watched;
use crate::network::{self, Stream};
use crate::options::Limits;
use crate::table::Backend;
use crate::upstream::Connection;
use crate::worker::LocalExecutor;

#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) backend: Backend,
    pub(crate) outstanding: Cell<u32>,
    pub(crate) failures: Cell<u32>,
    pub(crate) times_out: Cell<u32>,
    pub(crate) out_until: Cell<Option<Instant>>,
    retired: Cell<bool>,
    idle: RefCell<Vec<Idle>>,
    most_idle: Cell<usize>,
    shared: RefCell<Option<http2::SendRequest<ForwardBody>>>,
    /// Held while that is opened; how often that has failed.
    opening: tokio::sync::Mutex<()>,
    not_opened: Cell<u64>,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

/// A request's place at a replica, and the connection that it has to itself, if any.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) replica: Rc<Replica>,
    pub(crate) connection: Option<Box<Connection>>,
}

impl Replica {
    pub(crate) fn new(backend: Backend) -> Replica {
        Replica {
            backend,
            outstanding: Cell::new(0),
            failures: Cell::new(0),
            times_out: Cell::new(0),
            out_until: Cell::new(None),
            retired: Cell::new(false),
            idle: RefCell::default(),
            most_idle: Cell::new(0),
            shared: RefCell::default(),
            opening: tokio::sync::Mutex::default(),
            not_opened: Cell::new(0),
        }
    }

    /// Whether this is the replica that a table means.
    pub(crate) fn is(&self, backend: &Backend) -> bool {
        self.backend == *backend
    }

    pub(crate) fn is_out(&self, now: Instant) -> bool {
        self.out_until.get().is_some_and(|until| now < until)
    }

    /// Whether it has left the tables.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.get()
    }

    pub(crate) fn succeeded(&self) {
        self.failures.set(0);
        if self.times_out.get() > 0 {
            self.times_out.set(0);
            self.out_until.set(None);
        }
    }

    /// No new request comes here; idle connections close now.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
        self.idle.borrow_mut().clear();
        self.shared.replace(None);
    }

    pub(crate) fn prune(&self, before: Instant) {
        let usable = |idle: &mut Idle| idle.since >= before && idle.connection.is_quiet();
        self.idle.borrow_mut().retain_mut(usable);
    }

    pub(crate) fn lease(self: &Rc<Self>) -> Lease {
        self.outstanding.set(self.outstanding.get() + 1);
        Lease { replica: Rc::clone(self), connection: None }
    }

    /// The idle connection that was used last and is still there.
    pub(crate) fn take_idle(&self) -> Option<Box<Connection>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { mut connection, .. }) = idle.pop() {
            if connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Opens a connection for HTTP/1.1.
    pub(crate) async fn connect(&self, limits: &Limits) -> io::Result<Box<Connection>> {
        self.most_idle.set(limits.pool_idle);
        let stream = self.dial(limits).await?;
        let stream = Watched::new(stream, Bytes::new(), Arc::default(), limits.body_write_stall);
        Ok(Box::new(Connection::new(stream, limits.header_bytes.max(MIN_BUFFER))))
    }

    /// The one HTTP/2 connection, opened if there is none. Who waits while another opens it does
    /// not try again if that fails.
    pub(crate) async fn share(
        &self,
        limits: &Limits,
    ) -> io::Result<http2::SendRequest<ForwardBody>> {
        let not_opened = self.not_opened.get();
        let _opening = self.opening.lock().await;
        let open = self.shared.borrow().clone();
        if let Some(sender) = open.filter(|sender| !sender.is_closed()) {
            return Ok(sender);
        }
        if self.not_opened.get() != not_opened {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let opened = self.open_shared(limits).await;
        if opened.is_err() {
            self.not_opened.set(self.not_opened.get() + 1);
        }
        opened
    }

    async fn open_shared(&self, limits: &Limits) -> io::Result<http2::SendRequest<ForwardBody>> {
        let stream = self.dial(limits).await?;
        let io = Watched::new(stream, Bytes::new(), Arc::default(), limits.body_write_stall);
        let (sender, connection) = http2::Builder::new(LocalExecutor)
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
            .initial_stream_window_size(HTTP2_WINDOW)
            .initial_connection_window_size(HTTP2_WINDOW * 4)
            .handshake(TokioIo::new(io))
            .await
            .map_err(io::Error::other)?;
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        if !self.retired.get() {
            self.shared.replace(Some(sender.clone()));
        }
        Ok(sender)
    }

    /// Opens a connection.
    pub(crate) async fn dial(&self, limits: &Limits) -> io::Result<Stream> {
        let connect = network::connect(self.backend.address, limits.unanswered_timeout);
        timeout(limits.connect_timeout, connect)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

/// The smallest read buffer that hyper allows (its documentation of `max_buf_size`).
pub(crate) const MIN_BUFFER: usize = 8_192;

/// Bytes that one HTTP/2 stream may have in flight.
pub(crate) const HTTP2_WINDOW: u32 = 256 * 1024;

impl Lease {
    /// The answer is complete: the connection may serve the next request.
    pub(crate) fn finished(mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        let replica = &self.replica;
        let mut idle = replica.idle.borrow_mut();
        let room = idle.len() < replica.most_idle.get();
        if replica.retired.get() || !connection.may_go_on() || !room {
            return;
        }
        connection.rest();
        idle.push(Idle { connection, since: crate::clock::now() });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.replica.outstanding.set(self.replica.outstanding.get() - 1);
    }
}

/// The moment before which idle connections are too old.
pub(crate) fn too_old(now: Instant, age: Duration) -> Instant {
    now.checked_sub(age).unwrap_or(now)
}
