//! Speaks HTTP to a daemon, over its unix socket or TCP.

use std::env;

use futures_util::{Stream, stream};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use mill_core::api::{Answer, ApiError};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::failure::Failure;

/// A daemon's API.
#[derive(Clone, Debug)]
pub struct Client {
    address: Address,
    token: Option<String>,
}

#[derive(Clone, Debug)]
enum Address {
    Unix(String),
    Tcp(String),
}

impl Client {
    /// A client for `http://HOST:PORT` or the path of a socket.
    pub fn new(address: &str) -> Client {
        let path = address.strip_prefix("unix://").unwrap_or(address);
        let address = match address.strip_prefix("http://") {
            Some(host) => Address::Tcp(host.trim_end_matches('/').to_owned()),
            None => Address::Unix(path.to_owned()),
        };
        Client { address, token: env::var("MILL_TOKEN").ok() }
    }

    /// Asks and reads the answer.
    pub async fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.answer(Method::GET, path, Bytes::new()).await
    }

    /// Asks with a body and reads the answer.
    pub async fn post(&self, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        let body = serde_json::to_vec(body).expect("requests have text keys only");
        self.answer(Method::POST, path, body.into()).await
    }

    /// Asks and reads the answer as text.
    pub async fn text(&self, path: &str) -> Result<String, Failure> {
        let response = self.send(Method::GET, path, Bytes::new()).await?;
        let body = self.body(response).await?;
        String::from_utf8(body.into()).map_err(|_| self.garbled())
    }

    /// The data of server-sent events, one by one.
    pub async fn events(
        &self,
        path: &str,
    ) -> Result<impl Stream<Item = String> + Unpin + use<>, Failure> {
        let response = self.send(Method::GET, path, Bytes::new()).await?;
        let lines =
            stream::unfold((response.into_body(), Vec::new()), async |(mut body, mut rest)| {
                loop {
                    if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                        let line: Vec<u8> = rest.drain(..=end).collect();
                        let line = String::from_utf8_lossy(&line);
                        match line.trim_end().strip_prefix("data: ") {
                            Some(data) => return Some((data.to_owned(), (body, rest))),
                            None => continue,
                        }
                    }
                    let frame = body.frame().await?.ok()?;
                    if let Ok(data) = frame.into_data() {
                        rest.extend_from_slice(&data);
                    }
                }
            });
        Ok(Box::pin(lines))
    }

    async fn answer(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, Failure> {
        let response = self.send(method, path, body).await?;
        let body = self.body(response).await?;
        serde_json::from_slice(&body).map_err(|_| self.garbled())
    }

    async fn body(&self, response: Response<Incoming>) -> Result<Bytes, Failure> {
        let body = response.into_body().collect().await;
        Ok(body.map_err(|error| self.unreachable(&error))?.to_bytes())
    }

    /// Sends and reads the head; an error status becomes the error in the body.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "mill")
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| Failure::Usage(format!("this cannot be asked: {error}")))?;
        let response = match &self.address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await;
                exchange(stream.map_err(|error| self.unreachable(&error))?, request).await
            }
            Address::Tcp(host) => {
                let stream = TcpStream::connect(host).await;
                exchange(stream.map_err(|error| self.unreachable(&error))?, request).await
            }
        };
        let response = response.map_err(|error| self.unreachable(&error))?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let status = response.status();
        let body = self.body(response).await?;
        match serde_json::from_slice::<ApiError>(&body) {
            Ok(error) => Err(Failure::Refused(error)),
            Err(_) => {
                let text = String::from_utf8_lossy(&body);
                Err(Failure::Failed(format!("the daemon answered {status}: {text}")))
            }
        }
    }

    fn unreachable(&self, error: &dyn std::error::Error) -> Failure {
        let (what, hint) = match &self.address {
            Address::Unix(path) => {
                (path, "is the daemon running, and are you root? `mill doctor` looks closer")
            }
            Address::Tcp(host) => {
                (host, "is the daemon running with --listen, and is MILL_TOKEN set?")
            }
        };
        Failure::Unreachable(format!("no daemon answers at {what}: {error}\n{hint}"))
    }

    fn garbled(&self) -> Failure {
        let message = "the daemon answered what this version does not understand; \
                       is it another version? compare `mill version`";
        Failure::Failed(message.to_owned())
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, hyper::Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends when the response was read or dropped; its error shows there.
    tokio::spawn(connection);
    sender.send_request(request).await
}
