//! TCP routes: connections passed on as they are, with TLS told apart by server name.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::limits::Place;
use crate::plan::Plan;
use crate::worker::Worker;

/// Bytes of a TLS ClientHello that are read to find its server name.
const MAX_HELLO: usize = 16 * 1024;

/// How many replicas are tried for one connection.
const MAX_DIALS: usize = 4;

/// Ports of TCP routes, bound by whoever publishes and served by the workers.
#[derive(Debug)]
pub(crate) struct TcpPorts {
    workers: usize,
    bound: Mutex<BTreeMap<SocketAddr, Vec<Option<StdListener>>>>,
}

impl TcpPorts {
    pub(crate) fn new(workers: usize) -> TcpPorts {
        TcpPorts { workers, bound: Mutex::default() }
    }

    /// Binds what a plan wants and is not bound yet, and forgets what it no longer wants.
    pub(crate) fn prepare(&self, plan: &Plan) -> Vec<(SocketAddr, io::Error)> {
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        bound.retain(|address, _| plan.tcp.iter().any(|route| route.listen == *address));
        let mut refused = Vec::new();
        for route in &plan.tcp {
            if bound.contains_key(&route.listen) {
                continue;
            }
            match crate::listen::bind(route.listen, self.workers) {
                Ok(listeners) => {
                    bound.insert(route.listen, listeners.into_iter().map(Some).collect());
                }
                Err(error) => refused.push((route.listen, error)),
            }
        }
        refused
    }

    /// The listeners that this worker has not taken yet.
    fn take(&self, worker: usize) -> Vec<(SocketAddr, StdListener)> {
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = bound.iter_mut().filter_map(|(address, listeners)| {
            listeners.get_mut(worker)?.take().map(|listener| (*address, listener))
        });
        mine.collect()
    }
}

/// Listens on the ports of each plan until the worker drains.
pub(crate) async fn serve(worker: Rc<Worker>) {
    let mut open: BTreeMap<SocketAddr, Rc<Notify>> = BTreeMap::new();
    loop {
        let mut replanned = pin!(worker.replanned.notified());
        replanned.as_mut().enable();
        let plan = Rc::clone(&worker.local());
        open.retain(|address, end| {
            let wanted = plan.plan.tcp.iter().any(|route| route.listen == *address);
            if !wanted {
                end.notify_one();
            }
            wanted
        });
        for (address, listener) in worker.shared.tcp.take(worker.number) {
            let Ok(listener) = TcpListener::from_std(listener) else {
                continue;
            };
            let end = Rc::new(Notify::new());
            open.insert(address, Rc::clone(&end));
            tokio::task::spawn_local(accept(Rc::clone(&worker), listener, address, end));
        }
        replanned.await;
    }
}

async fn accept(worker: Rc<Worker>, listener: TcpListener, address: SocketAddr, end: Rc<Notify>) {
    let mut drain = pin!(worker.drain.notified());
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.as_mut() => return,
            () = end.notified() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(crate::worker::ACCEPT_REST).await;
            continue;
        };
        if let Some(place) = crate::worker::enter(&worker, peer.ip()) {
            let worker = Rc::clone(&worker);
            tokio::task::spawn_local(pass(worker, stream, address, place));
        }
    }
}

/// An open connection of the worker, counted until it is dropped.
struct Open(Rc<Worker>, #[expect(dead_code, reason = "held until the end")] Place);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.closed();
    }
}

async fn pass(worker: Rc<Worker>, mut stream: TcpStream, address: SocketAddr, place: Place) {
    worker.opened();
    worker.counters.tcp.add(1);
    let _open = Open(Rc::clone(&worker), place);
    let limits = &worker.options.limits;
    let plan = Rc::clone(&worker.local());
    let mut routes = plan.plan.tcp.iter().filter(|route| route.listen == address);
    let Some(first) = routes.clone().next() else {
        return;
    };
    let mut ahead = Vec::new();
    let mut service = &first.service;
    if first.server_name.is_some() {
        let hello = timeout(limits.header_timeout, server_name(&mut stream, &mut ahead)).await;
        let Ok(Some(name)) = hello else {
            return;
        };
        let Some(route) = routes.find(|route| route.server_name.as_deref() == Some(&*name)) else {
            return;
        };
        service = &route.service;
    }
    let Some(service) = worker.service(service) else {
        return;
    };
    if !crate::hold::wait(&worker, &service, crate::table::DEFAULT_HOLD).await {
        return;
    }
    let mut tried = Vec::new();
    for _ in 0..MAX_DIALS {
        let now = crate::clock::now();
        let Some(replica) = service.pick(&tried, worker.random(), now) else {
            return;
        };
        let _lease = replica.lease();
        let Ok(mut backend) = replica.dial(limits).await else {
            if service.failed(&replica, crate::clock::now()) {
                worker.counters.ejections.add(1);
            }
            tried.push(replica.backend.address);
            continue;
        };
        replica.succeeded();
        if backend.write_all(&ahead).await.is_ok() {
            let _ = copy_bidirectional(&mut stream, &mut backend).await;
        }
        return;
    }
}

/// The name in a TLS ClientHello; what was read of it is kept in `ahead`.
async fn server_name(stream: &mut TcpStream, ahead: &mut Vec<u8>) -> Option<String> {
    let mut acceptor = rustls::server::Acceptor::default();
    while ahead.len() < MAX_HELLO {
        let before = ahead.len();
        if stream.read_buf(ahead).await.ok()? == 0 {
            return None;
        }
        acceptor.read_tls(&mut &ahead[before..]).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            return accepted.client_hello().server_name().map(str::to_ascii_lowercase);
        }
    }
    None
}
