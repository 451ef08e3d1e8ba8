//! Answers other nodes: who calls is known before anything is done for it.
//!
//! A certificate of the cluster's authority says which node calls; the address book says which
//! nodes there are, and with which keys. A node that the book does not have yet is let in, since a
//! book may lag behind; one that was removed is not. Without a certificate only [`JOIN_PATH`] is
//! there, for a few callers at a time. Once nodes speak through the mesh only, that and
//! [`GREET_PATH`] is all that is there for whoever comes from outside of it.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse as _, Response};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mill_core::effect::Book;
use mill_core::name::NodeId;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tower_service::Service as _;

use super::stream::Carries;
use super::whole::Whole;
use super::{stream, tls};
use crate::pki::{Credentials, key_in, node_in};

/// The one path that is there without a certificate.
pub const JOIN_PATH: &str = "/rpc/1/join";
/// The one path besides that nodes find outside the mesh, once they speak through it only.
pub const GREET_PATH: &str = "/rpc/1/greet";

/// A connection on which nothing comes is pinged this often.
const PING_EVERY: Duration = Duration::from_secs(1);
/// A ping that is not answered by then ends its connection.
const PING_WITHIN: Duration = Duration::from_secs(2);

/// Calls at a time on one connection, of a node and of somebody without a certificate.
const NODE_STREAMS: u32 = 1000;
const STRANGER_STREAMS: u32 = 2;

/// How much callers are given.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections that have not shown yet who they are.
    pub unproven: usize,
    /// Connections without a certificate.
    pub strangers: usize,
    /// To greet each other must be done by then.
    pub greet_within: Duration,
    /// A connection without a certificate is closed then.
    pub stranger_for: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            unproven: 64,
            strangers: 16,
            greet_within: Duration::from_secs(3),
            stranger_for: Duration::from_secs(30),
        }
    }
}

/// Who calls, for handlers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A node of this cluster.
    Node(NodeId),
    /// Somebody without a certificate.
    Stranger,
}

/// Serves connections that somebody else accepts. Clones share everything.
#[derive(Clone)]
pub struct Server {
    tls: Arc<ServerConfig>,
    cluster: Arc<str>,
    book: watch::Sender<Book>,
    /// This node's address in the mesh, once it is there.
    inside: watch::Sender<Option<IpAddr>>,
    router: Router,
    limits: Limits,
    unproven: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

/// Why somebody may not speak.
enum Refused {
    /// It was a node, and was removed.
    Removed,
    /// Something else, in words.
    Because(String),
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug)]
enum Comes {
    /// Through the mesh.
    Inside,
    /// From anywhere else.
    Outside,
}

/// What a certificate says of who shows it.
struct Proven {
    node: NodeId,
    key: String,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl Server {
    /// Answers with `router`, whose handlers find a [`Caller`] among the extensions, and whose
    /// streams stand behind [`only_streams`](super::only_streams).
    ///
    /// # Errors
    /// When the credentials do not fit together.
    pub fn new(credentials: &Credentials, router: Router, limits: Limits) -> io::Result<Server> {
        Ok(Server {
            tls: tls::server(credentials)?,
            cluster: credentials.cluster.as_str().into(),
            book: watch::Sender::default(),
            inside: watch::Sender::default(),
            router,
            limits,
            unproven: Arc::new(Semaphore::new(limits.unproven)),
            strangers: Arc::new(Semaphore::new(limits.strangers)),
        })
    }

    /// Which nodes there are, and whether they speak through the mesh only.
    pub fn set_book(&self, book: Book) {
        self.book.send_replace(book);
    }

    /// What comes to this address comes through the mesh.
    pub fn set_inside(&self, address: IpAddr) {
        self.inside.send_replace(Some(address));
    }

    /// Serves one connection, which came to that address if it may have come through the mesh, until
    /// it ends.
    ///
    /// # Errors
    /// When it is not from somebody who may speak, or breaks.
    pub async fn serve<S>(&self, stream: S, to: Option<IpAddr>) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let full = |_| io::Error::other("too many connections that do not say who they are");
        let place = self.unproven.clone().try_acquire_owned().map_err(full)?;
        let greeting = TlsAcceptor::from(self.tls.clone()).accept(stream);
        let slow = |_| io::Error::from(io::ErrorKind::TimedOut);
        let connection = timeout(self.limits.greet_within, greeting).await.map_err(slow)??;
        let shown = connection.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let proven = shown.map(|certificate| self.proven(certificate)).transpose()?;
        drop(place);
        let is_stranger = proven.is_none();
        let comes = match to.is_some() && *self.inside.borrow() == to {
            true => Comes::Inside,
            false => Comes::Outside,
        };
        let carries = match connection.get_ref().1.alpn_protocol() == Some(stream::ALPN) {
            true => Carries::Stream,
            false => Carries::Calls,
        };
        let serving = self.answer(connection, proven, (carries, comes));
        match is_stranger {
            false => serving.await,
            true => {
                let _place = self.stranger()?;
                timeout(self.limits.stranger_for, serving).await.unwrap_or(Ok(()))
            }
        }
    }

    fn stranger(&self) -> io::Result<OwnedSemaphorePermit> {
        let full = |_| io::Error::other("too many nodes ask to join at the same time");
        self.strangers.clone().try_acquire_owned().map_err(full)
    }

    /// Which node that certificate is of, if that may speak.
    fn proven(&self, certificate: &CertificateDer<'_>) -> io::Result<Proven> {
        let named = node_in(certificate, &self.cluster).zip(key_in(certificate));
        let (node, key) = named.ok_or_else(|| {
            let text = "a certificate of another cluster";
            io::Error::new(io::ErrorKind::PermissionDenied, text)
        })?;
        let proven = Proven { node, key };
        match self.may_speak(&proven) {
            // It may not know yet, and is told with its first request.
            Ok(()) | Err(Refused::Removed) => Ok(proven),
            Err(Refused::Because(text)) => {
                Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
            }
        }
    }

    /// Asked again with every request: a node may have been removed since it connected.
    fn may_speak(&self, Proven { node, key }: &Proven) -> Result<(), Refused> {
        let book = self.book.borrow();
        match book.peers.get(node) {
            Some(known) if known.key == *key => Ok(()),
            Some(_) => {
                let text = format!("node {node} shows another key than it joined with");
                Err(Refused::Because(text))
            }
            None if *node < book.known_below => Err(Refused::Removed),
            None => Ok(()),
        }
    }

    /// Who makes this request; or why it is not answered.
    fn caller(&self, proven: Option<&Proven>, comes: Comes, path: &str) -> Result<Caller, Refused> {
        let outside = self.book.borrow().mesh_only && matches!(comes, Comes::Outside);
        match proven {
            Some(proven) => {
                self.may_speak(proven)?;
                if outside && path != GREET_PATH && path != JOIN_PATH {
                    let text = "nodes of this cluster speak through the mesh only";
                    return Err(Refused::Because(text.to_owned()));
                }
                Ok(Caller::Node(proven.node))
            }
            None if path == JOIN_PATH => Ok(Caller::Stranger),
            None => {
                let text = "this needs a certificate of the cluster: join it first";
                Err(Refused::Because(text.to_owned()))
            }
        }
    }

    /// Waits until that node may speak no more; who may not from the start is told by its request.
    async fn removed(&self, proven: Option<&Proven>) {
        let mut book = self.book.subscribe();
        while book.changed().await.is_ok() {
            if proven.is_some_and(|proven| self.may_speak(proven).is_err()) {
                return;
            }
        }
        std::future::pending().await
    }

    async fn answer<S>(
        &self,
        connection: S,
        proven: Option<Proven>,
        (carries, comes): (Carries, Comes),
    ) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let streams = if proven.is_some() { NODE_STREAMS } else { STRANGER_STREAMS };
        let service = service_fn(|request: Request<hyper::body::Incoming>| {
            let mut router = self.router.clone();
            let caller = self.caller(proven.as_ref(), comes, request.uri().path());
            async move {
                let mut request = request.map(|body| Body::new(Whole(body)));
                match caller {
                    Ok(caller) => {
                        request.extensions_mut().insert(caller);
                        request.extensions_mut().insert(carries);
                        router.call(request).await
                    }
                    Err(Refused::Removed) => Ok::<Response, _>(StatusCode::GONE.into_response()),
                    Err(Refused::Because(text)) => {
                        Ok((StatusCode::FORBIDDEN, text).into_response())
                    }
                }
            }
        });
        let mut serving = http2::Builder::new(TokioExecutor::new());
        serving
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WITHIN)
            .max_concurrent_streams(streams)
            .auto_date_header(false);
        match carries {
            Carries::Calls => serving.adaptive_window(true),
            Carries::Stream => serving
                .initial_stream_window_size(stream::WINDOW)
                .initial_connection_window_size(stream::WINDOW),
        };
        let served = serving.serve_connection(TokioIo::new(connection), service);
        tokio::select! {
            served = served => served.map_err(io::Error::other),
            // Calls are told that it was removed; a stream is no request that could be.
            () = self.removed(proven.as_ref()), if matches!(carries, Carries::Stream) => {
                let text = "the node at the other end of a stream was removed";
                Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
            }
        }
    }
}
