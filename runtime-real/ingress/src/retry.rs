//! One request to one of a service's replicas, or to another if that can do no harm.
//!
//! A request is sent again only if nothing of it was sent, or if a connection that had been idle
//! turned out closed before any byte of an answer, the method is idempotent (RFC 9110 section
//! 9.2.2) and nothing of the body was taken. Everything else is the client's to decide.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

use hyper::body::Incoming;
use hyper::header::{HOST, HeaderMap};
use hyper::{Method, Request, Response, Uri, Version};
use tokio::time::timeout;

use crate::balance::Service;
use crate::body::{ForwardBody, Upload, UploadProblem};
use crate::pool::{Connection, Lease};
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
    Answered(Response<Incoming>),
    /// Nothing was sent, or it can be sent again; the head comes back.
    Again(HeaderMap),
    Failed(Failure),
}

/// Sends a request to the best replica.
pub(crate) async fn send(
    worker: &Worker,
    service: &Service,
    mut outgoing: Outgoing,
) -> Result<(Response<Incoming>, Lease), Failure> {
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
            over_http2(worker, &lease, &mut outgoing).await
        } else {
            over_http1(worker, &mut lease, &mut outgoing, attempt > 0).await
        };
        match attempt {
            Ok(Attempt::Answered(response)) => {
                replica.succeeded();
                return Ok((response, lease));
            }
            Ok(Attempt::Again(headers)) => outgoing.headers = headers,
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
            lease.replica.connect(&worker.options.limits).await?
        }
    };
    let spare =
        (connection.reused && is_idempotent(&outgoing.method)).then(|| outgoing.headers.clone());
    let (read, written) = (connection.traffic.read(), connection.traffic.written());
    let request = request(outgoing, outgoing.uri.clone(), Version::HTTP_11);
    let answer = connection.sender.try_send_request(request);
    let mut error = match within(worker, outgoing, answer).await {
        Some(Ok(response)) => {
            lease.connection = Some(connection);
            return Ok(Attempt::Answered(response));
        }
        Some(Err(error)) => error,
        None => return Ok(Attempt::Failed(Failure::TimedOut)),
    };
    if let Some(problem) = outgoing.upload.as_ref().and_then(|upload| upload.problem()) {
        return Ok(Attempt::Failed(Failure::Upload(problem)));
    }
    if let Some(unsent) = error.take_message() {
        return Ok(Attempt::Again(unsent.into_parts().0.headers));
    }
    let Connection { traffic, .. } = &connection;
    let taken = outgoing.upload.as_ref().is_some_and(|upload| upload.is_taken());
    match spare {
        Some(headers) if !taken && traffic.read() == read => Ok(Attempt::Again(headers)),
        _ => {
            tracing::debug!(
                backend = %lease.replica.backend.id,
                sent = traffic.written() - written,
                error = %error.into_error(),
                "a backend ended its connection before it answered"
            );
            Ok(Attempt::Failed(Failure::Broken))
        }
    }
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
    let request = request(outgoing, uri, Version::HTTP_2);
    let answer = sender.try_send_request(request);
    let mut error = match within(worker, outgoing, answer).await {
        Some(Ok(response)) => return Ok(Attempt::Answered(response)),
        Some(Err(error)) => error,
        None => return Ok(Attempt::Failed(Failure::TimedOut)),
    };
    if let Some(problem) = outgoing.upload.as_ref().and_then(|upload| upload.problem()) {
        return Ok(Attempt::Failed(Failure::Upload(problem)));
    }
    match error.take_message() {
        Some(unsent) => {
            let mut headers = unsent.into_parts().0.headers;
            headers.extend(host.map(|host| (HOST, host)));
            Ok(Attempt::Again(headers))
        }
        None => Ok(Attempt::Failed(Failure::Broken)),
    }
}

fn request(outgoing: &mut Outgoing, uri: Uri, version: Version) -> Request<ForwardBody> {
    let mut request = Request::new(ForwardBody(outgoing.upload.clone()));
    *request.method_mut() = outgoing.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = version;
    *request.headers_mut() = std::mem::take(&mut outgoing.headers);
    request
}

/// The head of the answer, unless it takes too long; an upload that moves is not waiting.
async fn within<F: Future>(worker: &Worker, outgoing: &Outgoing, answer: F) -> Option<F::Output> {
    let mut answer = pin!(answer);
    let received = || outgoing.upload.as_ref().map_or(0, |upload| upload.received());
    loop {
        let before = received();
        match timeout(worker.options.limits.answer_timeout, answer.as_mut()).await {
            Ok(answer) => return Some(answer),
            Err(_) if received() > before => {}
            Err(_) => return None,
        }
    }
}

/// RFC 9110 section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    use hyper::Method as M;
    [M::GET, M::HEAD, M::PUT, M::DELETE, M::OPTIONS, M::TRACE].contains(method)
}
