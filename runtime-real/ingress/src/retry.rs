//! One request to one of a service's replicas, or to another if that can do no harm.
//!
//! A request is sent again only if nothing of it was sent, or if a connection that had been idle
//! turned out closed before any byte of an answer, the method is idempotent (RFC 9110 section
//! 9.2.2) and nothing of the body was taken. Everything else is the client's to decide.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

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

    fn received(&self) -> u64 {
        self.upload.as_ref().map_or(0, |upload| upload.received())
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
    for attempt in 0..MAX_ATTEMPTS {
        let Some(replica) = service.pick(&tried, worker.random(), crate::clock::now()) else {
            return Err(failure);
        };
        if attempt > 0 {
            worker.counters.retries.add(1);
        }
        let mut lease = replica.lease();
        let attempt = if replica.backend.h2c {
            Box::pin(over_http2(worker, &lease, outgoing)).await
        } else {
            over_http1(worker, &mut lease, outgoing, attempt > 0).await
        };
        match attempt {
            Ok(Attempt::Answered(response, protocol)) => {
                replica.succeeded();
                return Ok(Answered { response, protocol, lease });
            }
            Ok(Attempt::Again) => {}
            Ok(Attempt::Failed(failure @ Failure::Upload(_))) => return Err(failure),
            Ok(Attempt::Failed(failure)) => {
                note_failure(worker, service, &lease);
                return Err(failure);
            }
            Err(_) => {
                note_failure(worker, service, &lease);
                tried.push(replica.backend.address);
                failure = Failure::Unreachable;
            }
        }
    }
    Err(failure)
}

fn note_failure(worker: &Worker, service: &Service, lease: &Lease) {
    if service.failed(&lease.replica, crate::clock::now()) {
        worker.counters.ejections.add(1);
    }
}

/// An error means that no connection could be opened, and so that nothing was sent.
async fn over_http1(
    worker: &Worker,
    lease: &mut Lease,
    outgoing: &mut Outgoing,
    fresh: bool,
) -> io::Result<Attempt> {
    let idle = if fresh { None } else { lease.replica.take_idle() };
    let mut connection = match idle {
        Some(connection) => connection,
        None => {
            worker.counters.upstream_connects.add(1);
            Box::pin(lease.replica.connect(&worker.options.limits)).await?
        }
    };
    let asked = Asked { head: outgoing.method == Method::HEAD, upgrade: outgoing.upgrade };
    let time = worker.options.limits.answer_timeout;
    connection.begin(outgoing, time);
    let answer = loop {
        let before = outgoing.received();
        // Only the head of an answer replaces the request's fields, and then it is not sent again.
        let headers = &mut outgoing.headers;
        let answer = poll_fn(|cx| connection.poll_answer(cx, asked, headers)).await;
        match answer {
            // An upload that moves is not waiting.
            Err(Trouble::TimedOut) if outgoing.received() > before => connection.extend(time),
            answer => break answer,
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
        return Attempt::Again;
    }
    tracing::debug!(
        backend = %lease.replica.backend.id,
        sent = connection.written(),
        error = trouble as &dyn std::error::Error,
        "a backend ended its connection before it answered"
    );
    Attempt::Failed(Failure::Broken)
}

async fn over_http2(
    worker: &Worker,
    lease: &Lease,
    outgoing: &mut Outgoing,
) -> io::Result<Attempt> {
    let mut sender = lease.replica.share(&worker.options.limits).await?;
    let host = outgoing.headers.remove(HOST);
    let authority = host.as_ref().map_or(&b"localhost"[..], |host| host.as_bytes());
    let path = outgoing.uri.path_and_query().map_or("/", |path| path.as_str());
    let uri = Uri::builder().scheme("http").authority(authority).path_and_query(path).build();
    let Ok(uri) = uri else {
        return Ok(Attempt::Failed(Failure::Broken));
    };
    let request = request(outgoing, uri);
    let answer = sender.try_send_request(request);
    let mut error = match within(worker, outgoing, answer).await {
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
    match error.take_message() {
        Some(unsent) => {
            outgoing.headers = unsent.into_parts().0.headers;
            outgoing.headers.extend(host.map(|host| (HOST, host)));
            Ok(Attempt::Again)
        }
        None => Ok(Attempt::Failed(Failure::Broken)),
    }
}

fn request(outgoing: &mut Outgoing, uri: Uri) -> Request<ForwardBody> {
    let mut request = Request::new(ForwardBody(outgoing.upload.clone()));
    *request.method_mut() = outgoing.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = std::mem::take(&mut outgoing.headers);
    request
}

/// The head of the answer, unless it takes too long; an upload that moves is not waiting.
async fn within<F: Future>(worker: &Worker, outgoing: &Outgoing, answer: F) -> Option<F::Output> {
    let mut answer = pin!(answer);
    loop {
        let before = outgoing.received();
        match timeout(worker.options.limits.answer_timeout, answer.as_mut()).await {
            Ok(answer) => return Some(answer),
            Err(_) if outgoing.received() > before => {}
            Err(_) => return None,
        }
    }
}

/// RFC 9110 section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    use hyper::Method as M;
    [M::GET, M::HEAD, M::PUT, M::DELETE, M::OPTIONS, M::TRACE].contains(method)
}
