//! Who asks: hyper's client on a connection that is kept from request to request.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::task::spawn_local;
use turmoil::net::TcpStream;

use super::stage::{HOST, INGRESS, PORT, now};

/// What became of a request.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) began: Duration,
    pub(super) took: Duration,
    /// Its status and its whole body, or why there is none.
    pub(super) answer: Result<(u16, String), String>,
}

impl Outcome {
    /// The status; 0 if there was no whole answer.
    pub(super) fn status(&self) -> u16 {
        self.answer.as_ref().map_or(0, |(status, _)| *status)
    }
}

/// A connection to the ingress.
pub(super) async fn connect(port: u16) -> std::io::Result<TcpStream> {
    let address: IpAddr = turmoil::lookup(INGRESS);
    TcpStream::connect((address, port)).await
}

/// A request for the host that is routed.
pub(super) fn request(method: Method, path: &str, body: Vec<u8>) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path).header("host", HOST);
    request.body(Full::from(body)).unwrap()
}

/// One caller, with at most one connection.
#[derive(Debug, Default)]
pub(super) struct Caller {
    kept: Option<SendRequest<Full<Bytes>>>,
}

impl Caller {
    /// Asks, on the connection that is kept if it can be used.
    pub(super) async fn ask(&mut self, request: Request<Full<Bytes>>) -> Outcome {
        let began = now();
        let answer = self.answer(request).await.map_err(|error| format!("{error:?}"));
        Outcome { began, took: now() - began, answer }
    }

    pub(super) async fn get(&mut self, path: &str) -> Outcome {
        self.ask(request(Method::GET, path, Vec::new())).await
    }

    async fn answer(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<(u16, String), Box<dyn std::error::Error>> {
        let mut sender = match self.kept.take().filter(|kept| !kept.is_closed()) {
            Some(kept) => kept,
            None => {
                let (sender, connection) = handshake(TokioIo::new(connect(PORT).await?)).await?;
                spawn_local(connection);
                sender
            }
        };
        sender.ready().await?;
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        self.kept = Some(sender);
        Ok((status, String::from_utf8(body.to_vec())?))
    }
}
