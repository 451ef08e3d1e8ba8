//! One request to one of a service's replicas, or to another if that can do no harm.
//!
//! A request is sent again only if nothing of it was sent; if a replica says that it did nothing
//! with it (HTTP/2, RFC 9113 section 8.7); or, once, if a connection that had been idle or is shared
//! ended before any byte of an answer, and the method is idempotent (RFC 9110 section 9.2.2). In
//! all of these nothing of the body may have been taken. Everything else is the client's to decide.
//! A replica that left the tables while a connection to it was opened is not asked, as long as
//! there is another.

use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::header::{HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, Uri, Version};
use tokio::time::timeout;

use crate::balance::Service;
use crate::body::{BackendBody, ForwardBody, Upload, UploadProblem};
use crate::decode::{Asked, Head};
use crate::headers;
use crate::pool::Lease;
use crate::sending::Unsent;
use crate::upstream::{Connection, Trouble};
use crate::worker::Worker;

/// How often one request is tried in all.
const MAX_ATTEMPTS: usize = 4;

/// How many replicas one request passes over because they left the tables meanwhile.
const MAX_PASSED_OVER: usize = 8;

/// A request as a backend gets it.
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    /// Path and query alone.
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) upload: Option<Rc<Upload>>,
    /// Whether it asks for another protocol.
    pub(crate) upgrade: bool,
}

impl Outgoing {
    fn is_taken(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| upload.is_taken())
    }

    /// What is left of a time for the answer, counted from when the last of the upload came: as
    /// long as that moves, nobody waits.
    fn time_left(&self, time: Duration) -> Option<Duration> {
        let moved = self.upload.as_ref()?.moved()?;
        let left = (moved + time).saturating_duration_since(crate::clock::now());
        (!left.is_zero()).then_some(left)
    }

    fn problem(&self) -> Option<UploadProblem> {
        self.upload.as_ref().and_then(|upload| upload.problem())
    }
}

/// A backend's answer, without what was for its connection alone.
pub(crate) struct Answered {
    pub(crate) response: Response<BackendBody>,
    /// What the connection goes over to.
    pub(crate) protocol: Option<HeaderValue>,
    pub(crate) lease: Lease,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    NoReplica,
    Unreachable,
    Broken,
    TimedOut,
    Upload(UploadProblem),
}

/// What became of one attempt.
enum Attempt {
    Answered(Response<BackendBody>, Option<HeaderValue>),
    /// Nothing was sent, or it can be sent again.
    Again,
    /// As `Again`, but the replica cannot be reached.
    Elsewhere,
    /// As `Again`, but the replica said that it did nothing with it: it takes no more just now.
    Refused,
    /// Nothing was sent, since the replica left the tables meanwhile.
    Left,
    Failed(Failure),
}

/// Sends a request to the best replica.
pub(crate) async fn send(
    worker: &Worker,
    service: &Service,
    outgoing: &mut Outgoing,
) -> Result<Answered, Failure> {
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut failure = Failure::NoReplica;
    let mut this = Try { worker, service, number: 0, passed_over: 0 };
    while this.number < MAX_ATTEMPTS {
        let Some(replica) = service.pick(&tried, worker.random(), crate::clock::now()) else {
            return Err(if service.is_empty() { Failure::NoReplica } else { failure });
        };
        if this.number > 0 {
            worker.counters.retries.add(1);
        }
        let mut lease = replica.lease();
        let attempt = if replica.backend.h2c {
            Box::pin(over_http2(&this, &lease, outgoing)).await
        } else {
            over_http1(&this, &mut lease, outgoing).await
        };
        match attempt {
            Ok(Attempt::Answered(response, protocol)) => {
                replica.succeeded();
                return Ok(Answered { response, protocol, lease });
            }
            Ok(Attempt::Left) => {
                this.passed_over += 1;
                continue;
            }
            Ok(Attempt::Again) => failure = Failure::Broken,
            Ok(Attempt::Failed(failure @ Failure::Upload(_))) => return Err(failure),
            Ok(Attempt::Failed(failure)) => {
                note_failure(worker, service, &lease);
                return Err(failure);
            }
            Ok(Attempt::Elsewhere) => {
                note_failure(worker, service, &lease);
                failure = Failure::Unreachable;
                this.ask_others(&mut tried, &lease);
            }
            Ok(Attempt::Refused) => {
                failure = Failure::Broken;
                this.ask_others(&mut tried, &lease);
            }
            Err(_) => {
                note_failure(worker, service, &lease);
                tried.push(replica.backend.address);
                failure = Failure::Unreachable;
            }
        }
        this.number += 1;
    }
    Err(failure)
}

/// One of the times that a request is tried.
struct Try<'a> {
    worker: &'a Worker,
    service: &'a Service,
    /// From 0.
    number: usize,
    /// How many replicas left the tables before anything was sent to them.
    passed_over: usize,
}

impl Try<'_> {
    /// Whether the replica left the tables while a connection was opened, so that nothing may be
    /// sent to it. Where there is no other it is asked all the same: it still serves for a while.
    fn has_left(&self, lease: &Lease) -> bool {
        let more = self.passed_over < MAX_PASSED_OVER && !self.service.is_empty();
        lease.replica.is_retired() && more
    }

    /// Asks others from now on. Where there is no other, it may take it after all.
    fn ask_others(&self, tried: &mut Vec<SocketAddr>, lease: &Lease) {
        if !self.service.has_one() {
            tried.push(lease.replica.backend.address);
        }
    }
}

fn note_failure(worker: &Worker, service: &Service, lease: &Lease) {
    if service.failed(&lease.replica, crate::clock::now()) {
        worker.counters.ejections.add(1);
    }
}

/// An error means that no connection could be opened, and so that nothing was sent.
async fn over_http1(
    this: &Try<'_>,
    lease: &mut Lease,
    outgoing: &mut Outgoing,
) -> io::Result<Attempt> {
    let worker = this.worker;
    let idle = if this.number > 0 { None } else { lease.replica.take_idle() };
    let mut connection = match idle {
        Some(connection) => connection,
        None => {
            worker.counters.upstream_connects.add(1);
            let opened = Box::pin(lease.replica.connect(&worker.options.limits)).await?;
            if this.has_left(lease) {
                return Ok(Attempt::Left);
            }
            opened
        }
    };
    let asked = Asked { head: outgoing.method == Method::HEAD, upgrade: outgoing.upgrade };
    let time = worker.options.limits.answer_timeout;
    connection.begin(outgoing, time);
    let answer = loop {
        // Only the head of an answer replaces the request's fields, and then it is not sent again.
        let headers = &mut outgoing.headers;
        let answer = poll_fn(|cx| connection.poll_answer(cx, asked, headers)).await;
        let more = match &answer {
            Err(Trouble::TimedOut) => outgoing.time_left(time),
            Ok(_) | Err(_) => None,
        };
        match more {
            Some(more) => connection.extend(more),
            None => break answer,
        }
    };
    Ok(match answer {
        Ok(head) => {
            lease.connection = Some(connection);
            answered(head, std::mem::take(&mut outgoing.headers))
        }
        Err(trouble) => unanswered(lease, outgoing, &connection, &trouble),
    })
}

fn answered(head: Head, headers: HeaderMap) -> Attempt {
    let mut response = Response::new(BackendBody::Http1);
    *response.status_mut() = head.status;
    *response.headers_mut() = headers;
    if let Some(reason) = head.reason {
        response.extensions_mut().insert(reason);
    }
    Attempt::Answered(response, head.upgrade)
}

fn unanswered(
    lease: &Lease,
    outgoing: &Outgoing,
    connection: &Connection,
    trouble: &Trouble,
) -> Attempt {
    if let Trouble::TimedOut = trouble {
        return Attempt::Failed(Failure::TimedOut);
    }
    if let Some(problem) = outgoing.problem() {
        return Attempt::Failed(Failure::Upload(problem));
    }
    if let Trouble::Unsent(Unsent::Upload) = trouble {
        return Attempt::Failed(Failure::Upload(UploadProblem::Broken));
    }
    let unsent = connection.written() == 0;
    let harmless = unsent || (connection.reused && is_idempotent(&outgoing.method));
    if harmless && !outgoing.is_taken() && !connection.heard() {
        return if trouble.is_silence() { Attempt::Elsewhere } else { Attempt::Again };
    }
    tracing::debug!(
        backend = %lease.replica.backend.id,
        sent = connection.written(),
        error = trouble as &dyn Error,
        "a backend ended its connection before it answered"
    );
    Attempt::Failed(Failure::Broken)
}

async fn over_http2(this: &Try<'_>, lease: &Lease, outgoing: &Outgoing) -> io::Result<Attempt> {
    let worker = this.worker;
    let mut sender = lease.replica.share(&worker.options.limits).await?;
    if this.has_left(lease) {
        return Ok(Attempt::Left);
    }
    let host = outgoing.headers.get(HOST);
    let authority = host.map_or(&b"localhost"[..], |host| host.as_bytes());
    let path = outgoing.uri.path_and_query().map_or("/", |path| path.as_str());
    let uri = Uri::builder().scheme("http").authority(authority).path_and_query(path).build();
    let Ok(uri) = uri else {
        return Ok(Attempt::Failed(Failure::Broken));
    };
    let request = request(outgoing, uri);
    let answer = sender.try_send_request(request);
    let error = match within(worker, outgoing, answer).await {
        Some(Ok(mut response)) => {
            headers::strip_hop_by_hop(response.headers_mut());
            *response.version_mut() = Version::HTTP_11;
            return Ok(Attempt::Answered(response.map(BackendBody::Http2), None));
        }
        Some(Err(error)) => error,
        None => return Ok(Attempt::Failed(Failure::TimedOut)),
    };
    if let Some(problem) = outgoing.problem() {
        return Ok(Attempt::Failed(Failure::Upload(problem)));
    }
    let said = cause::<h2::Error>(error.error()).filter(|said| said.is_remote());
    let is_refused = said
        .is_some_and(|said| said.is_go_away() || said.reason() == Some(h2::Reason::REFUSED_STREAM));
    let is_broken = cause::<io::Error>(error.error()).is_some();
    let again = if error.message().is_some() {
        Some(Attempt::Again)
    } else if is_refused {
        Some(Attempt::Refused)
    } else if is_broken && this.number == 0 && is_idempotent(&outgoing.method) {
        Some(Attempt::Elsewhere)
    } else {
        None
    };
    if let Some(again) = again.filter(|_| !outgoing.is_taken()) {
        return Ok(again);
    }
    tracing::debug!(
        backend = %lease.replica.backend.id,
        error = error.error() as &dyn Error,
        "a backend ended a request over HTTP/2 before it answered"
    );
    Ok(Attempt::Failed(Failure::Broken))
}

fn cause<E: Error + 'static>(error: &hyper::Error) -> Option<&E> {
    error.source()?.downcast_ref()
}

fn request(outgoing: &Outgoing, uri: Uri) -> Request<ForwardBody> {
    let mut request = Request::new(ForwardBody(outgoing.upload.clone()));
    *request.method_mut() = outgoing.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = outgoing.headers.clone();
    request.headers_mut().remove(HOST);
    request
}

/// The head of the answer, unless it takes too long.
async fn within<F: Future>(worker: &Worker, outgoing: &Outgoing, answer: F) -> Option<F::Output> {
    let mut answer = pin!(answer);
    let time = worker.options.limits.answer_timeout;
    let mut left = time;
    loop {
        match timeout(left, answer.as_mut()).await {
            Ok(answer) => return Some(answer),
            Err(_) => left = outgoing.time_left(time)?,
        }
    }
}

/// RFC 9110 section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    use hyper::Method as M;
    [M::GET, M::HEAD, M::PUT, M::DELETE, M::OPTIONS, M::TRACE].contains(method)
}
