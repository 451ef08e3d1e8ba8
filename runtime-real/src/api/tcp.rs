//! Serves on TCP, where anybody may connect: so many connections at a time, and none that says
//! nothing. Whoever fills them up locks out nobody who uses the unix socket.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at a time; more wait until one of them ends.
const CONNECTIONS_MAX: usize = 256;
/// A connection that has not sent a request's head by then, since it began or since the last
/// answer, is closed.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// Between two tries to accept where the kernel refuses, mostly for want of file descriptors.
const RETRY: Duration = Duration::from_millis(500);

/// How much strangers are given.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    connections: usize,
    head_within: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { connections: CONNECTIONS_MAX, head_within: HEAD_WITHIN }
    }
}

/// Serves for as long as it is let.
pub(super) async fn serve(listener: TcpListener, router: Router, limits: Limits) {
    let room = Arc::new(Semaphore::new(limits.connections));
    loop {
        let place = room.clone().acquire_owned().await.expect("it is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, router.clone(), limits, place));
            }
            Err(error) => {
                tracing::warn!(%error, "the API cannot accept connections on TCP just now");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    router: Router,
    limits: Limits,
    _place: OwnedSemaphorePermit,
) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_within)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn connections_that_say_nothing_lock_out_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits { connections: 2, head_within: Duration::from_millis(50) };
        let serving = tokio::spawn(serve(listener, Router::new(), limits));
        let mut idle = Vec::new();
        for _ in 0..5 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let mut asking = TcpStream::connect(address).await.unwrap();
        asking.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let reading = asking.read_to_string(&mut answer);
        tokio::time::timeout(Duration::from_secs(20), reading).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        serving.abort();
    }
}
