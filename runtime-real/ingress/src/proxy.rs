//! One request, from its head to an answer: admitted by a route, sent to a replica, passed back.
//!
//! What is refused is refused in this order: a malformed request, an unknown host, one that is not
//! the connection's, a path with two meanings; then what the route demands.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, Response, StatusCode, Uri};
use tokio::time::{Sleep, sleep_until};

use crate::access_log::AccessRecord;
use crate::answer::{Answer, REQUEST_ID, accepts_html};
use crate::body::{ReplyBody, Upload, UploadProblem};
use crate::connection::Client;
use crate::exchange::Exchange;
use crate::headers;
use crate::host;
use crate::path;
use crate::plan::{Route, longest};
use crate::retry::{Answered, Failure, Outgoing};
use crate::worker::{Local, Worker};

const CHALLENGE: &str = "/.well-known/acme-challenge/";

/// What a route let in.
struct Admitted {
    route: Arc<Route>,
    host: HeaderValue,
    trusted: bool,
    upgrade: Option<HeaderValue>,
    uri: Uri,
}

/// What is kept of a request until its answer has been passed back.
struct Kept {
    route: Arc<Route>,
    deadline: Option<Deadline>,
    client_side: Option<hyper::upgrade::OnUpgrade>,
}

/// When a request's time is over.
type Deadline = Pin<Box<Sleep>>;

/// Answers one request. What it holds while it waits is small: each connection of a client keeps
/// room for it.
pub(crate) async fn handle(
    worker: Rc<Worker>,
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Result<Response<ReplyBody>, Infallible> {
    let began = crate::clock::now();
    let local = worker.local();
    let (parts, body) = request.into_parts();
    let counters = Arc::clone(&worker.unrouted);
    let mut exchange = Exchange::begin(Rc::clone(&worker), Rc::clone(&client), counters, began);
    let html = accepts_html(&parts.headers);
    let id = match headers::sane_request_id(&parts.headers) {
        Some(id) => id.clone(),
        None => worker.new_request_id(),
    };
    if worker.options.access_log.is_some() {
        exchange.record = Some(Box::new(record(&parts, &client, &id)));
    }
    let admitted = admit(&worker, &local, &client, &parts, &mut exchange).await;
    let (mut outgoing, mut kept) = match admitted {
        Ok(admitted) => prepare(&worker, &client, admitted, (parts, body), &id, began),
        Err(answer) => return Ok(answer.into_response(html, &id, exchange)),
    };
    let service = &local.services[kept.route.service];
    let hold = kept.route.table.hold;
    let answer = poll_within(&mut kept.deadline, async {
        if service.is_empty() && !Box::pin(crate::hold::wait(&worker, service, hold)).await {
            return Err(Failure::NoReplica);
        }
        crate::retry::send(&worker, service, &mut outgoing).await
    });
    Ok(match answer.await {
        Ok(answer) => pass_back(answer, kept, exchange, &client),
        Err(why) => failure(why).into_response(html, &id, exchange),
    })
}

/// The answer, unless the time is over first.
async fn poll_within(
    deadline: &mut Option<Deadline>,
    answer: impl Future<Output = Result<Answered, Failure>>,
) -> Result<Answered, Failure> {
    let mut answer = pin!(answer);
    poll_fn(|cx| {
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Poll::Ready(answer);
        }
        let Some(deadline) = deadline else { return Poll::Pending };
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(Failure::TimedOut))
    })
    .await
}

async fn admit(
    worker: &Worker,
    local: &Local,
    client: &Client,
    parts: &Parts,
    exchange: &mut Exchange,
) -> Result<Admitted, Answer> {
    if matches!(parts.method, Method::CONNECT | Method::TRACE) {
        let sentence = "This method is not served here.";
        return Err(Answer::new(StatusCode::METHOD_NOT_ALLOWED, sentence));
    }
    if headers::count(&parts.headers) > worker.options.limits.header_count {
        let sentence = "The request has too many header fields.";
        return Err(Answer::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, sentence));
    }
    let authority = host::authority(parts).map_err(|bad| Answer::bad_request(bad.sentence()))?;
    let name = host::name(authority).map_err(|bad| Answer::bad_request(bad.sentence()))?;
    let token = challenge_token(client, parts);
    if let Some(proof) = token.and_then(|token| worker.shared.certificates.http_challenge(token)) {
        return Err(Answer::challenge(proof));
    }
    if client.sni().is_some_and(|sni| sni != name) {
        let sentence = "This connection was made for another host; make a new one.";
        return Err(Answer::new(StatusCode::MISDIRECTED_REQUEST, sentence));
    }
    let Some(routes) = local.plan.of_host(&name) else {
        return Err(Answer::new(StatusCode::NOT_FOUND, "No service has this host name."));
    };
    let raw = parts.uri.path();
    let reading = path::read(raw).map_err(|bad| Answer::bad_request(bad.sentence()))?;
    let route = longest(routes, &reading.plain);
    if let Some(slashed) = &reading.slashed {
        let other = longest(routes, slashed);
        if other.map(|route| route.number) != route.map(|route| route.number) {
            let sentence = "The path can be read in two ways that lead to different services.";
            return Err(Answer::bad_request(sentence));
        }
    }
    let Some(route) = route else {
        return Err(Answer::new(StatusCode::NOT_FOUND, "No service has this path."));
    };
    exchange.routed(Arc::clone(&local.counters[route.number]));
    if let Some(record) = &mut exchange.record {
        record.service = Some(route.table.service.clone());
    }
    let proxies = &local.plan.trusted_proxies[..];
    let trusted = local.plan.trusts(client.peer);
    let behind = || headers::client_address(&parts.headers, client.peer, proxies);
    if let Some(record) = exchange.record.as_mut().filter(|_| trusted) {
        record.client = behind();
    }
    let address = || if trusted { behind() } else { client.peer };
    demand(worker, client, parts, route, &name, address).await?;
    let upgrade = upgrade(parts, route)?;
    let host = match parts.headers.get(HOST) {
        Some(host) => host.clone(),
        None => HeaderValue::from_str(authority)
            .map_err(|_| Answer::bad_request(host::BadHost::Malformed.sentence()))?,
    };
    let uri = uri(parts, route, raw, &reading.plain)?;
    Ok(Admitted { route: Arc::clone(route), host, trusted, upgrade, uri })
}

fn challenge_token<'a>(client: &Client, parts: &'a Parts) -> Option<&'a str> {
    if client.is_tls() {
        return None;
    }
    parts.uri.path().strip_prefix(CHALLENGE)
}

/// What the route asks of a request before it is let in.
async fn demand(
    worker: &Worker,
    client: &Client,
    parts: &Parts,
    route: &Route,
    name: &str,
    address: impl Fn() -> IpAddr,
) -> Result<(), Answer> {
    let table = &route.table;
    if table.tls && !client.is_tls() {
        return Err(to_https(worker, parts, name));
    }
    if !table.allow.is_empty() || route.limiter.is_some() {
        let address = address();
        let allowed = || table.allow.iter().any(|range| range.contains(address));
        if !table.allow.is_empty() && !allowed() {
            let sentence = "Your address is not allowed here.";
            return Err(Answer::new(StatusCode::FORBIDDEN, sentence));
        }
        if let Some(limiter) = &route.limiter {
            limiter.take(address, crate::clock::now()).map_err(Answer::too_many)?;
        }
    }
    if let Some(sentence) = &table.maintenance {
        return Err(Answer::new(StatusCode::SERVICE_UNAVAILABLE, sentence.as_str()));
    }
    if let Some(gate) = &route.gate
        && !Box::pin(gate.admits(parts.headers.get(AUTHORIZATION))).await
    {
        return Err(Answer::who_are_you());
    }
    if table.redirect.is_some() {
        return Err(Answer::redirect(
            StatusCode::FOUND,
            route.redirect.clone().unwrap_or_else(|| HeaderValue::from_static("/")),
        ));
    }
    let length = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let length = length.and_then(|length| length.parse::<u64>().ok());
    if table.max_body.zip(length).is_some_and(|(most, length)| length > most) {
        return Err(upload_problem(UploadProblem::TooLarge));
    }
    Ok(())
}

fn to_https(worker: &Worker, parts: &Parts, name: &str) -> Answer {
    let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let url = match worker.options.public_https_port {
        443 => format!("https://{name}{path}"),
        port => format!("https://{name}:{port}{path}"),
    };
    match HeaderValue::from_str(&url) {
        Ok(url) => Answer::redirect(StatusCode::PERMANENT_REDIRECT, url),
        Err(_) => Answer::bad_request("The request's target is not printable."),
    }
}

fn upgrade(parts: &Parts, route: &Route) -> Result<Option<HeaderValue>, Answer> {
    let Some(wanted) = headers::upgrade(&parts.headers, parts.version) else {
        return Ok(None);
    };
    if route.table.websocket {
        return Ok(Some(wanted));
    }
    // Others may be ignored (RFC 9110 section 7.8), but a WebSocket cannot go on without.
    if wanted.as_bytes().eq_ignore_ascii_case(b"websocket") {
        let sentence = "This route lets no WebSocket through; set `websocket` on it.";
        return Err(Answer::new(StatusCode::FORBIDDEN, sentence));
    }
    Ok(None)
}

/// What the backend is asked for: the target as it was sent, but for a prefix that is stripped.
fn uri(parts: &Parts, route: &Route, raw: &str, plain: &str) -> Result<Uri, Answer> {
    let strip = route.table.strip_prefix && !route.prefix.is_empty();
    if !strip && parts.uri.authority().is_none() {
        return Ok(parts.uri.clone());
    }
    let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    debug_assert!(plain.starts_with(&*route.prefix), "the route was found by its prefix");
    let skipped = if strip { path::raw_length(raw, route.prefix.len()) } else { 0 };
    let rest = &target[skipped..];
    let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    let target = PathAndQuery::try_from(rest)
        .map_err(|_| Answer::bad_request("The request's target is malformed."))?;
    Ok(Uri::from(target))
}

/// Makes a request that was let in one for a backend.
fn prepare(
    worker: &Worker,
    client: &Client,
    admitted: Admitted,
    (mut parts, body): (Parts, Incoming),
    id: &HeaderValue,
    began: Instant,
) -> (Outgoing, Kept) {
    let Admitted { route, host, trusted, upgrade, uri } = admitted;
    parts.headers.insert(REQUEST_ID, id.clone());
    headers::to_backend(&mut parts.headers, client, host, trusted);
    headers::change(&mut parts.headers, &route.request_headers);
    let mut client_side = None;
    let asks = upgrade.is_some();
    if let Some(protocol) = upgrade {
        headers::ask_for_upgrade(&mut parts.headers, protocol);
        client_side = parts.extensions.remove();
    }
    let stall = worker.options.limits.body_read_stall;
    let upload = Upload::new(body, route.table.max_body, stall);
    let Parts { method, headers, .. } = parts;
    let outgoing = Outgoing { method, uri, headers, upload, upgrade: asks };
    let deadline =
        route.table.timeout.map(|timeout| Box::pin(sleep_until((began + timeout).into())));
    (outgoing, Kept { route, deadline, client_side })
}

fn failure(failure: Failure) -> Answer {
    let (status, sentence) = match failure {
        Failure::NoReplica => return Answer::no_replica(),
        Failure::Upload(problem) => return upload_problem(problem),
        Failure::Unreachable => {
            (StatusCode::BAD_GATEWAY, "No replica of the service accepts a connection.")
        }
        Failure::Broken => {
            (StatusCode::BAD_GATEWAY, "The service ended the connection without an answer.")
        }
        Failure::TimedOut => (StatusCode::GATEWAY_TIMEOUT, "The service did not answer in time."),
    };
    Answer::new(status, sentence)
}

fn upload_problem(problem: UploadProblem) -> Answer {
    let (status, sentence) = match problem {
        UploadProblem::TooLarge => {
            (StatusCode::PAYLOAD_TOO_LARGE, "The request's body is larger than this route takes.")
        }
        UploadProblem::Stalled => {
            (StatusCode::REQUEST_TIMEOUT, "The request's body did not arrive in time.")
        }
        UploadProblem::Broken => {
            (StatusCode::BAD_REQUEST, "The request's body broke off or is malformed.")
        }
    };
    // Where the next request would begin is not known, or too far away.
    Answer::new(status, sentence).with(CONNECTION, HeaderValue::from_static("close"))
}

fn pass_back(
    answer: Answered,
    kept: Kept,
    exchange: Exchange,
    client: &Rc<Client>,
) -> Response<ReplyBody> {
    let Kept { route, deadline, client_side } = kept;
    let Answered { mut response, protocol, mut lease } = answer;
    exchange.answered(response.status().as_u16());
    headers::change(response.headers_mut(), &route.response_headers);
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (parts, body) = response.into_parts();
        let body = ReplyBody::backend(body, lease, deadline, exchange);
        return Response::from_parts(parts, body);
    }
    if let Some(protocol) = protocol {
        headers::ask_for_upgrade(response.headers_mut(), protocol);
    }
    if let (Some(client_side), Some(connection)) = (client_side, lease.connection.take()) {
        client.goes_over();
        let backend_side = connection.into_stream();
        crate::tunnel::start(client_side, backend_side, lease, Rc::clone(client));
    }
    response.map(|_| ReplyBody::page(bytes::Bytes::new(), exchange))
}

fn record(parts: &Parts, client: &Client, id: &HeaderValue) -> AccessRecord {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    AccessRecord {
        client: client.peer,
        method: parts.method.to_string(),
        host: host::authority(parts).unwrap_or_default().to_owned(),
        target: parts.uri.path_and_query().map_or("", PathAndQuery::as_str).to_owned(),
        request_id: text(id),
        service: None,
        status: 0,
        bytes_out: 0,
        took: Duration::ZERO,
    }
}
