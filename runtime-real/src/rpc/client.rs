//! Calls to other nodes over connections that are kept.
//!
//! Each peer has at most one connection. It is dialled in the background, so that a call with a
//! short limit that finds none does not spoil the dialling for the next; it is pinged, so that one
//! whose other end is gone is given up soon, and not when TCP does. Nothing is sent twice: whoever
//! calls knows whether that does harm. Streams have connections of their own, see `stream`.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Bytes};
use hyper::client::conn::http2;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mill_core::name::NodeId;
use rustls::ClientConfig;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::stream::{Carries, PiecesBody, Stream, WINDOW, WhileKnown, pieces};
use super::whole::Whole;
use super::{BODY_MAX, Dial, tls};
use crate::pki::{Credentials, key_in};

/// To connect and greet each other must be done by then.
const DIAL_WITHIN: Duration = Duration::from_secs(3);
/// After a dial that failed, the next begins this much later at the earliest.
const DIAL_PAUSE: Duration = Duration::from_millis(100);
/// A connection on which nothing comes is pinged this often.
const PING_EVERY: Duration = Duration::from_secs(1);
/// A ping that is not answered by then ends its connection.
const PING_WITHIN: Duration = Duration::from_secs(2);
/// Whether a stream is taken is said by then.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);
/// Streams to one node that are opened at a time; more wait, but only so long. Others let few
/// greet them at a time.
const OPENING_MAX: usize = 8;
const PLACE_WITHIN: Duration = Duration::from_secs(5);

/// Where a node is reached, and the key that it must show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Address and port.
    pub address: String,
    /// Fingerprint of its key, see [`crate::pki::NodeKey::fingerprint`].
    pub key: String,
}

type Sender<B = Full<Bytes>> = http2::SendRequest<B>;
type Dialling = Shared<BoxFuture<'static, Result<Sender, Arc<io::Error>>>>;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The other node was certainly not asked: it was not reached, or did not listen.
    #[error("{0}")]
    NotAsked(io::Error),
    /// It may have been asked, and may have acted.
    #[error("{0}")]
    NoAnswer(io::Error),
    /// The other node does not listen, because this one was removed from the cluster.
    #[error("this node was removed from the cluster")]
    Removed,
}

impl CallError {
    /// What kind of error it was.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            CallError::NotAsked(error) | CallError::NoAnswer(error) => error.kind(),
            CallError::Removed => io::ErrorKind::PermissionDenied,
        }
    }

    /// What was seen, without whether it may have acted.
    pub fn into_io(self) -> io::Error {
        match self {
            CallError::NotAsked(error) | CallError::NoAnswer(error) => error,
            CallError::Removed => io::Error::new(self.kind(), self.to_string()),
        }
    }
}

/// The other nodes, as far as this one knows them. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Peers<D> {
    dial: D,
    shared: Arc<Inner>,
}

struct Inner {
    cluster: String,
    tls: Arc<ClientConfig>,
    tls_of_streams: Arc<ClientConfig>,
    peers: Mutex<BTreeMap<NodeId, Slot>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

struct Slot {
    peer: Peer,
    connection: Option<Dialling>,
    /// Streams end when this is dropped.
    known: watch::Sender<()>,
    /// Room for more streams that are opened: one that does not answer holds up no other.
    opening: Arc<Semaphore>,
}

impl Slot {
    fn new(peer: Peer) -> Slot {
        let opening = Arc::new(Semaphore::new(OPENING_MAX));
        Slot { peer, connection: None, known: watch::Sender::default(), opening }
    }
}

impl<D: Dial> Peers<D> {
    /// Knows nobody yet.
    ///
    /// # Errors
    /// When the credentials do not fit together.
    pub fn new(dial: D, credentials: &Credentials) -> io::Result<Peers<D>> {
        let tls = tls::client(credentials)?;
        let cluster = credentials.cluster.clone();
        let tls_of_streams = tls::of_streams(&tls);
        let shared = Inner { cluster, tls, tls_of_streams, peers: Mutex::default() };
        Ok(Peers { dial, shared: Arc::new(shared) })
    }

    /// Who can be called from now on. Connections to those that stay as they are stay, too; of
    /// the others, streams are cut off.
    pub fn set(&self, peers: BTreeMap<NodeId, Peer>) {
        let mut known = self.lock();
        known.retain(|node, slot| peers.get(node) == Some(&slot.peer));
        for (node, peer) in peers {
            known.entry(node).or_insert_with(|| Slot::new(peer));
        }
    }

    /// Sends bytes to a path of a node and waits for what it answers.
    ///
    /// # Errors
    /// When the node is not known, cannot be reached, refuses, or does not answer within the
    /// limit; says whether it may have acted.
    pub async fn call(
        &self,
        to: NodeId,
        path: &str,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<Bytes, CallError> {
        let mut is_connected = false;
        let calling = async {
            let dialled = self.connection(to).map_err(CallError::NotAsked)?.await;
            let sender = dialled.map_err(|error| CallError::NotAsked(shared(&error)))?;
            is_connected = true;
            exchange(sender, path, body).await
        };
        let called = timeout(limit, calling).await;
        called.unwrap_or_else(|_| {
            let text = format!("node {to} did not answer within {limit:?}");
            let slow = io::Error::new(io::ErrorKind::TimedOut, text);
            Err(if is_connected { CallError::NoAnswer(slow) } else { CallError::NotAsked(slow) })
        })
    }

    /// The same at another address than the one that is known, on a connection of its own.
    ///
    /// # Errors
    /// As [`Peers::call`].
    pub async fn call_at(
        &self,
        to: NodeId,
        peer: &Peer,
        path: &str,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<Bytes, CallError> {
        let calling = async {
            let (with, inner) = (self.dial.clone(), self.shared.clone());
            let dialled = dial(with, inner, to, peer.clone()).await;
            exchange(dialled.map_err(CallError::NotAsked)?, path, body).await
        };
        let slow = |_| {
            let text = format!("node {to} did not answer within {limit:?}");
            CallError::NoAnswer(io::Error::new(io::ErrorKind::TimedOut, text))
        };
        timeout(limit, calling).await.map_err(slow)?
    }

    /// Opens a stream to a path of a node, on a connection of its own.
    ///
    /// # Errors
    /// When the node is not known, cannot be reached, does not take it, or too many wait for it.
    pub async fn open(&self, to: NodeId, path: &str) -> Result<Stream, CallError> {
        let found = self
            .lock()
            .get(&to)
            .map(|slot| (slot.peer.clone(), slot.known.subscribe(), slot.opening.clone()));
        let (peer, known, places) = found.ok_or_else(|| CallError::NotAsked(unknown(to)))?;
        let opening = async {
            let crowded = |_| {
                let text = format!(
                    "{OPENING_MAX} streams to node {to} are being opened already, and no place \
                     became free within {PLACE_WITHIN:?}"
                );
                io::Error::new(io::ErrorKind::TimedOut, text)
            };
            let place = timeout(PLACE_WITHIN, places.acquire()).await.map_err(crowded)?;
            let _place = place.expect("it is never closed");
            let name = tls::server_name(Some(to), &self.shared.cluster)?;
            let shows = Shows { name, key: Some(&peer.key) };
            let config = self.shared.tls_of_streams.clone();
            connect(self.dial.clone(), &peer.address, config, shows, Carries::Stream).await
        };
        let sender = opening.await.map_err(CallError::NotAsked)?;
        let slow = |_| {
            let text = format!("node {to} did not take a stream within {TAKEN_WITHIN:?}");
            CallError::NoAnswer(io::Error::new(io::ErrorKind::TimedOut, text))
        };
        timeout(TAKEN_WITHIN, begin(sender, path, known)).await.map_err(slow)?
    }

    /// The connection to a node, or the dialling that leads to one.
    fn connection(&self, to: NodeId) -> io::Result<Dialling> {
        let mut peers = self.lock();
        let slot = peers.get_mut(&to).ok_or_else(|| unknown(to))?;
        if let Some(known) = slot.connection.as_ref().filter(|known| is_usable(known)) {
            return Ok(known.clone());
        }
        let dialling = dial(self.dial.clone(), self.shared.clone(), to, slot.peer.clone());
        let dialling: Dialling = dialling.map(|dialled| dialled.map_err(Arc::new)).boxed().shared();
        slot.connection = Some(dialling.clone());
        // It goes on when the call that began it has given up.
        drop(tokio::spawn(dialling.clone()));
        Ok(dialling)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Slot>> {
        self.shared.peers.lock().expect("no code panics while it holds the peers")
    }
}

fn unknown(to: NodeId) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("node {to} is not known"))
}

/// Under way, or there and open.
fn is_usable(dialling: &Dialling) -> bool {
    match dialling.peek() {
        None => true,
        Some(Ok(sender)) => !sender.is_closed(),
        Some(Err(_)) => false,
    }
}

fn shared(error: &Arc<io::Error>) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

async fn dial<D: Dial>(with: D, inner: Arc<Inner>, to: NodeId, peer: Peer) -> io::Result<Sender> {
    let name = tls::server_name(Some(to), &inner.cluster)?;
    let config = inner.tls.clone();
    let shows = Shows { name, key: Some(&peer.key) };
    let dialled = connect(with, &peer.address, config, shows, Carries::Calls).await;
    if dialled.is_err() {
        sleep(DIAL_PAUSE).await;
    }
    dialled
}

/// Who is expected to answer.
struct Shows<'a> {
    name: rustls::pki_types::ServerName<'static>,
    /// The key that it must show, if that is known.
    key: Option<&'a str>,
}

async fn connect<D, B>(
    with: D,
    address: &str,
    config: Arc<ClientConfig>,
    Shows { name, key }: Shows<'_>,
    carries: Carries,
) -> io::Result<Sender<B>>
where
    D: Dial,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let connecting = async {
        let stream = with.dial(address.to_owned()).await?;
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        if key.is_some_and(|key| shown.and_then(key_in).as_deref() != Some(key)) {
            let text = format!("{address} shows another key than the cluster knows of it");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        let mut greeting = http2::Builder::new(TokioExecutor::new());
        greeting
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WITHIN)
            .keep_alive_while_idle(true);
        match carries {
            Carries::Calls => greeting.adaptive_window(true),
            Carries::Stream => {
                greeting.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW)
            }
        };
        let greeted = greeting.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = greeted.map_err(of_hyper)?;
        drop(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to another node ended");
            }
        }));
        Ok(sender)
    };
    let slow = || {
        let text = format!("{address} did not greet within {DIAL_WITHIN:?}");
        io::Error::new(io::ErrorKind::TimedOut, text)
    };
    timeout(DIAL_WITHIN, connecting).await.unwrap_or_else(|_| Err(slow()))
}

async fn exchange(mut sender: Sender, path: &str, body: Vec<u8>) -> Result<Bytes, CallError> {
    let uri = format!("https://node.mill{path}");
    let request = Request::post(uri).body(Full::from(body));
    let request = request.map_err(|error| CallError::NotAsked(io::Error::other(error)))?;
    let response = sender.try_send_request(request).await.map_err(|mut error| {
        // What comes back was not sent.
        let was_sent = error.take_message().is_none();
        let error = of_hyper(error.into_error());
        if was_sent { CallError::NoAnswer(error) } else { CallError::NotAsked(error) }
    })?;
    let status = response.status();
    let body = Limited::new(Whole(response.into_body()), BODY_MAX).collect().await;
    let body = body.map_err(|error| CallError::NoAnswer(io::Error::other(error)))?.to_bytes();
    let text = || String::from_utf8_lossy(&body).into_owned();
    match status {
        StatusCode::OK => Ok(body),
        StatusCode::GONE => Err(CallError::Removed),
        StatusCode::FORBIDDEN => {
            Err(CallError::NotAsked(io::Error::new(io::ErrorKind::PermissionDenied, text())))
        }
        _ => Err(CallError::NoAnswer(io::Error::other(text()))),
    }
}

/// Begins the one stream of a connection.
async fn begin(
    mut sender: Sender<PiecesBody>,
    path: &str,
    known: watch::Receiver<()>,
) -> Result<Stream, CallError> {
    let (sending, body) = pieces();
    let request = Request::post(format!("https://node.mill{path}")).body(body);
    let request = request.map_err(|error| CallError::NotAsked(io::Error::other(error)))?;
    let response = sender.send_request(request).await;
    let response = response.map_err(|error| CallError::NoAnswer(of_hyper(error)))?;
    match response.status() {
        StatusCode::OK => {
            let receiving = WhileKnown::new(response.into_body(), known);
            Ok(Stream { sending, receiving: axum::body::Body::new(receiving) })
        }
        StatusCode::GONE => Err(CallError::Removed),
        StatusCode::NOT_FOUND => {
            let text = "it runs another version, which does not have this yet";
            Err(CallError::NotAsked(io::Error::new(io::ErrorKind::Unsupported, text)))
        }
        status => Err(CallError::NotAsked(io::Error::other(format!("it answered {status}")))),
    }
}

/// hyper says what kind of error it was, and leaves to its source which.
fn of_hyper(error: hyper::Error) -> io::Error {
    let source = error.source().map(|source| format!(": {source}"));
    io::Error::other(format!("{error}{}", source.unwrap_or_default()))
}

/// Calls a node that is known by its address and its authority's fingerprint alone.
///
/// # Errors
/// When it cannot be reached, is under another authority, refuses, or does not answer in time.
pub async fn call_stranger<D: Dial>(
    dial: D,
    address: &str,
    authority: &str,
    path: &str,
    body: Vec<u8>,
    limit: Duration,
) -> io::Result<Bytes> {
    let (config, name) = (tls::joiner(authority)?, tls::server_name(None, "")?);
    let calling = async {
        let shows = Shows { name, key: None };
        let sender = connect(dial, address, config, shows, Carries::Calls).await?;
        exchange(sender, path, body).await.map_err(CallError::into_io)
    };
    let slow = || {
        let text = format!("{address} did not answer within {limit:?}");
        io::Error::new(io::ErrorKind::TimedOut, text)
    };
    timeout(limit, calling).await.unwrap_or_else(|_| Err(slow()))
}
