//! One client's connection: which protocol it speaks, how long it may idle, how it ends.
//!
//! On plain connections the first bytes tell HTTP/2 with prior knowledge (RFC 9113 section 3.4)
//! from HTTP/1; under TLS it was agreed on. A watch looks at each connection every now and then,
//! so that a request costs no timer.

use std::cell::Cell;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hyper::header::HeaderValue;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::io::{Traffic, Watched};
use crate::limits::Place;
use crate::options::Limits;
use crate::pool::{HTTP2_WINDOW, MIN_BUFFER};
use crate::worker::{LocalExecutor, Worker};

/// What an HTTP/2 client says first (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a drain waits for a request of which not even the head is there.
const LEAVING_GRACE: Duration = Duration::from_secs(1);

/// Bytes read to tell the protocols apart, at most.
const SNIFF: usize = 4_096;

/// Header fields that hyper takes where nothing else is said (its documentation of `max_headers`).
const HYPER_HEADERS: usize = 100;

/// What is known of the other end of a connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) peer: IpAddr,
    pub(crate) peer_text: HeaderValue,
    tls: bool,
    sni: Option<Box<str>>,
    in_flight: Cell<u32>,
    requests: Cell<u64>,
    given_up: Cell<u32>,
    idle_since: Cell<Instant>,
    read_when_idle: Cell<u64>,
    traffic: Arc<Traffic>,
    counted: Cell<(u64, u64)>,
    worker: Rc<Worker>,
    _place: Place,
}

impl Client {
    fn new(worker: Rc<Worker>, peer: IpAddr, place: Place) -> Client {
        worker.opened();
        let peer = peer.to_canonical();
        let peer_text = HeaderValue::from_str(&peer.to_string())
            .expect("an address is written in printable characters");
        Client {
            peer,
            peer_text,
            tls: false,
            sni: None,
            in_flight: Cell::new(0),
            requests: Cell::new(0),
            given_up: Cell::new(0),
            idle_since: Cell::new(crate::clock::now()),
            read_when_idle: Cell::new(0),
            traffic: Arc::default(),
            counted: Cell::default(),
            worker,
            _place: place,
        }
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls
    }

    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    /// The name that the connection's certificate was chosen by.
    pub(crate) fn sni(&self) -> Option<&str> {
        self.sni.as_deref()
    }

    /// What follows is another protocol's.
    pub(crate) fn goes_over(&self) {
        self.traffic.is_a_tunnel();
    }

    pub(crate) fn request_began(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.requests.set(self.requests.get() + 1);
    }

    pub(crate) fn request_ended(&self, now: Instant) {
        self.in_flight.set(self.in_flight.get() - 1);
        self.idle_since.set(now);
        self.read_when_idle.set(self.traffic.read());
    }

    /// A request ended before there was an answer.
    pub(crate) fn gave_up(&self) {
        self.given_up.set(self.given_up.get().saturating_add(1));
    }

    /// Whether it asks only to give up (rapid reset, CVE-2023-44487).
    fn floods(&self, limits: &Limits) -> bool {
        let given_up = self.given_up.get();
        given_up > limits.http2_given_up && u64::from(given_up) > self.requests.get() / 2
    }

    /// Adds what went over the connection since the last time to the worker's counts.
    fn count_bytes(&self) {
        let (read, written) = self.counted.get();
        let (all_read, all_written) = (self.traffic.read(), self.traffic.written());
        self.worker.counters.bytes_in.add(all_read - read);
        self.worker.counters.bytes_out.add(all_written - written);
        self.counted.set((all_read, all_written));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.count_bytes();
        self.worker.closed();
    }
}

/// Serves a plain connection to its end.
pub(crate) async fn plain<S>(worker: Rc<Worker>, mut stream: S, peer: IpAddr, place: Place)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let client = Client::new(Rc::clone(&worker), peer, place);
    let Some(Ok(ahead)) = begin(&worker, sniff(&mut stream)).await else {
        return;
    };
    let http2 = ahead.starts_with(PREFACE);
    serve(worker, Rc::new(client), stream, ahead, http2).await;
}

/// The first thing on a connection, unless it takes too long or a drain is not to wait for it.
async fn begin<F: Future>(worker: &Worker, first: F) -> Option<F::Output> {
    let mut drain = pin!(worker.drain.notified());
    drain.as_mut().enable();
    let leaving = async {
        if !worker.draining.get() {
            drain.await;
        }
        sleep(LEAVING_GRACE).await;
    };
    tokio::select! {
        biased;
        first = timeout(worker.options.limits.header_timeout, first) => first.ok(),
        () = leaving => None,
    }
}

/// Reads until the protocol is clear; what was read comes first again.
async fn sniff(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Bytes> {
    let mut ahead = BytesMut::with_capacity(SNIFF);
    loop {
        if stream.read_buf(&mut ahead).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let compared = ahead.len().min(PREFACE.len());
        if ahead.len() >= PREFACE.len() || ahead[..compared] != PREFACE[..compared] {
            return Ok(ahead.freeze());
        }
    }
}

/// Serves a TLS connection to its end.
pub(crate) async fn tls<S>(worker: Rc<Worker>, stream: S, peer: IpAddr, place: Place)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut client = Client::new(Rc::clone(&worker), peer, place);
    let acceptor = TlsAcceptor::from(Arc::clone(&worker.shared.tls));
    let Some(Ok(stream)) = begin(&worker, acceptor.accept(stream)).await else {
        return;
    };
    let (_, session) = stream.get_ref();
    let http2 = match session.alpn_protocol() {
        Some(b"acme-tls/1") => return,
        protocol => protocol == Some(b"h2"),
    };
    client.tls = true;
    let name = session.server_name().map(str::to_ascii_lowercase);
    client.sni =
        name.filter(|name| worker.shared.certificates.has(name)).map(String::into_boxed_str);
    serve(worker, Rc::new(client), stream, Bytes::new(), http2).await;
}

async fn serve<S>(worker: Rc<Worker>, client: Rc<Client>, stream: S, ahead: Bytes, http2: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &worker.options.limits;
    let traffic = Arc::clone(&client.traffic);
    let io = Watched::new(stream, ahead, traffic, limits.body_write_stall);
    let service = {
        let (worker, client) = (Rc::clone(&worker), Rc::clone(&client));
        service_fn(move |request| {
            crate::proxy::handle(Rc::clone(&worker), Rc::clone(&client), request)
        })
    };
    if http2 {
        let connection = http2_builder(limits).serve_connection(TokioIo::new(io), service);
        drive(connection, |it| it.graceful_shutdown(), &client, &worker, true).await;
    } else {
        let io = TokioIo::new(io.of_requests());
        let connection = http1_builder(limits).serve_connection(io, service).with_upgrades();
        drive(connection, |it| it.graceful_shutdown(), &client, &worker, false).await;
    }
}

fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .max_header_size(limits.header_bytes)
        .max_buf_size(limits.header_bytes.max(MIN_BUFFER) * 2);
    // Up to its own limit hyper needs no memory for it; fewer are counted in `proxy.rs`.
    if limits.header_count > HYPER_HEADERS {
        builder.max_headers(limits.header_count);
    }
    builder
}

fn http2_builder(limits: &Limits) -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .max_concurrent_streams(limits.http2_streams)
        .max_pending_accept_reset_streams(limits.http2_pending_resets)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(HTTP2_WINDOW)
        .initial_connection_window_size(HTTP2_WINDOW * 4);
    builder
}

/// Polls a connection to its end, asks it to end when the worker drains, and watches its time.
async fn drive<C: Future>(
    connection: C,
    shut: fn(Pin<&mut C>),
    client: &Client,
    worker: &Worker,
    http2: bool,
) {
    let mut connection = pin!(connection);
    let mut drain = pin!(worker.drain.notified());
    drain.as_mut().enable();
    let mut leaving = worker.draining.get();
    if leaving {
        shut(connection.as_mut());
    }
    let limits = &worker.options.limits;
    let period = limits.header_timeout.min(limits.idle_timeout) / 2;
    let mut timer = pin!(sleep(period));
    let mut watch = Watch { http2, since: crate::clock::now(), requests: 0 };
    std::future::poll_fn(|cx| {
        if connection.as_mut().poll(cx).is_ready() || (http2 && client.floods(limits)) {
            return Poll::Ready(());
        }
        if !leaving && drain.as_mut().poll(cx).is_ready() {
            leaving = true;
            shut(connection.as_mut());
            timer.as_mut().reset((crate::clock::now() + LEAVING_GRACE).into());
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
        }
        while timer.as_mut().poll(cx).is_ready() {
            client.count_bytes();
            let now = crate::clock::now();
            let no_request = client.in_flight.get() == 0;
            match watch.look(client, limits, now) {
                Verdict::Stay if leaving && no_request => return Poll::Ready(()),
                Verdict::Stay => {}
                // Streams may be on their way: GOAWAY first (RFC 9113 section 6.8).
                Verdict::Cut if http2 && !leaving => {
                    leaving = true;
                    shut(connection.as_mut());
                    if connection.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(());
                    }
                }
                Verdict::Cut => return Poll::Ready(()),
            }
            let next = if leaving { LEAVING_GRACE } else { period };
            timer.as_mut().reset((now + next).into());
        }
        Poll::Pending
    })
    .await;
}

/// What was seen of a connection the last time it was looked at.
struct Watch {
    http2: bool,
    /// Since when a head has been on its way, or since the connection was made.
    since: Instant,
    requests: u64,
}

enum Verdict {
    Stay,
    Cut,
}

impl Watch {
    fn look(&mut self, client: &Client, limits: &Limits, now: Instant) -> Verdict {
        let requests = client.requests.get();
        if client.in_flight.get() > 0 || requests != self.requests {
            self.requests = requests;
            self.since = now;
            return Verdict::Stay;
        }
        let idle_too_long = now.duration_since(client.idle_since.get()) >= limits.idle_timeout;
        let head_on_its_way = client.traffic.read() > client.read_when_idle.get();
        if idle_too_long {
            return Verdict::Cut;
        }
        if self.http2 || !head_on_its_way {
            self.since = now;
            return Verdict::Stay;
        }
        match now.duration_since(self.since) >= limits.header_timeout {
            true => Verdict::Cut,
            false => Verdict::Stay,
        }
    }
}
