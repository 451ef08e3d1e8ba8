//! Speaks HTTP to a daemon, over its unix socket or TCP.

use std::env;
use std::time::Duration;

use futures_util::{Stream, stream};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::http::request;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use mill_core::api::{Answer, ApiError};
use mill_runtime_real::streams::frame::{Frame, Opened, Receiver, Sender, over_socket};
use mill_runtime_real::streams::{Ask, PROTOCOL};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::failure::Failure;

/// A daemon that runs takes a connection at once, wherever it is.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// An answer takes no longer than that, and than the daemon was asked to hold it.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// A stream leads somewhere by then, also where replicas on nodes that are gone are tried before.
const OPEN_WITHIN: Duration = Duration::from_secs(90);

/// What is asked with a body and changes nothing.
pub const PLAN: &str = "/v1/plan";

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
    ///
    /// # Errors
    /// When the address is neither; says what to write.
    pub fn new(address: &str) -> Result<Client, Failure> {
        let path = address.strip_prefix("unix://").unwrap_or(address);
        let address = match address.strip_prefix("http://") {
            Some(host) => Address::Tcp(host.trim_end_matches('/').to_owned()),
            None if path.contains('/') && !path.contains("://") => Address::Unix(path.to_owned()),
            None => {
                let message = format!(
                    "`{address}` is not an address of a daemon; write the path of its socket, \
                     /run/mill/mill.sock or ./mill.sock, or http://HOST:PORT"
                );
                return Err(Failure::Usage(message));
            }
        };
        Ok(Client { address, token: env::var("MILL_TOKEN").ok() })
    }

    /// Asks and reads the answer.
    pub async fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.answer(Method::GET, path, Bytes::new(), ANSWER_WITHIN).await
    }

    /// The same of what the daemon may hold for a while.
    pub async fn held(&self, path: &str, hold: Duration) -> Result<Answer, Failure> {
        self.answer(Method::GET, path, Bytes::new(), hold + ANSWER_WITHIN).await
    }

    /// Asks with a body and reads the answer.
    pub async fn post(&self, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        let body = serde_json::to_vec(body).expect("requests have text keys only");
        self.answer(Method::POST, path, body.into(), ANSWER_WITHIN).await
    }

    /// The same where the answer is a document of its own.
    pub async fn post_for<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).expect("requests have text keys only");
        let answer = self.ask(Method::POST, path, body.into(), ANSWER_WITHIN).await?;
        serde_json::from_slice(&answer).map_err(|_| self.garbled())
    }

    /// Asks and reads the answer as text.
    pub async fn text(&self, path: &str) -> Result<String, Failure> {
        let body = self.ask(Method::GET, path, Bytes::new(), ANSWER_WITHIN).await?;
        String::from_utf8(body.into()).map_err(|_| self.garbled())
    }

    /// The data of server-sent events, one by one.
    pub async fn events(
        &self,
        path: &str,
    ) -> Result<impl Stream<Item = String> + Unpin + use<>, Failure> {
        let mut sender = self.connect().await?;
        // Only the beginning is waited for so long: events come when they happen.
        let request = self.request(Method::GET, path);
        let response = self.send(&mut sender, request, Bytes::new());
        let response = timeout(ANSWER_WITHIN, response).await;
        let response = response.unwrap_or_else(|_| Err(self.silent(ANSWER_WITHIN)))?;
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

    /// Opens a stream through the cluster and asks for what it is to carry; says what answered.
    pub async fn stream(&self, ask: &Ask) -> Result<(Sender, Receiver, Opened), Failure> {
        let opening = async {
            let mut sender = self.connect().await?;
            let request = self.request(Method::GET, "/v1/stream");
            let request = request.header(header::CONNECTION, "upgrade");
            let request = request.header(header::UPGRADE, PROTOCOL);
            let response = self.send(&mut sender, request, Bytes::new()).await?;
            let upgraded = hyper::upgrade::on(response).await;
            let upgraded = upgraded.map_err(|error| self.unreachable(&error))?;
            let (mut sender, mut receiver) = over_socket(TokioIo::new(upgraded));
            let ask = serde_json::to_vec(ask).expect("requests have text keys only");
            let asked = sender.send(Frame::Ask(ask.into())).await;
            asked.map_err(|error| self.unreachable(&error))?;
            match receiver.next().await.map_err(|error| self.unreachable(&error))? {
                Some(Frame::Opened(opened)) => Ok((sender, receiver, opened)),
                Some(Frame::Failed(error)) => Err(Failure::Refused(error)),
                Some(_) => Err(self.garbled()),
                None => Err(self.unreachable(&std::io::Error::other("it closed the stream"))),
            }
        };
        let opened = timeout(OPEN_WITHIN, opening).await;
        opened.unwrap_or_else(|_| Err(self.silent(OPEN_WITHIN)))
    }

    async fn answer(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Answer, Failure> {
        let body = self.ask(method, path, body, limit).await?;
        serde_json::from_slice(&body).map_err(|_| self.garbled())
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Bytes, Failure> {
        let changes = method == Method::POST && path != PLAN;
        let mut sender = self.connect().await?;
        let asking = async {
            let request = self.request(method, path);
            let response = self.send(&mut sender, request, body).await?;
            self.body(response).await
        };
        let answered = timeout(limit, asking).await;
        match answered.unwrap_or_else(|_| Err(self.silent(limit))) {
            // It may have been sent before the daemon was lost.
            Err(Failure::Unreachable(text)) if changes => Err(Failure::Unreachable(format!(
                "{text}\nwhat was asked may or may not be done: look with `mill status` before \
                 you repeat it"
            ))),
            answered => answered,
        }
    }

    async fn connect(&self) -> Result<Requests, Failure> {
        let connecting = async {
            let connected = match &self.address {
                Address::Unix(path) => handshake(UnixStream::connect(path).await?).await,
                Address::Tcp(host) => handshake(TcpStream::connect(host).await?).await,
            };
            connected.map_err(std::io::Error::other)
        };
        let connected = timeout(CONNECT_WITHIN, connecting).await;
        let connected = connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        connected.map_err(|error| self.unreachable(&error))
    }

    async fn body(&self, response: Response<Incoming>) -> Result<Bytes, Failure> {
        let body = response.into_body().collect().await;
        Ok(body.map_err(|error| self.unreachable(&error))?.to_bytes())
    }

    fn request(&self, method: Method, path: &str) -> request::Builder {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "mill")
            .header(header::CONTENT_TYPE, "application/json");
        match &self.token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    /// Sends and reads the head; an error status becomes the error in the body.
    async fn send(
        &self,
        sender: &mut Requests,
        request: request::Builder,
        body: Bytes,
    ) -> Result<Response<Incoming>, Failure> {
        let request = request
            .body(Full::new(body))
            .map_err(|error| Failure::Usage(format!("this cannot be asked: {error}")))?;
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if [StatusCode::OK, StatusCode::SWITCHING_PROTOCOLS].contains(&status) {
            return Ok(response);
        }
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

    fn silent(&self, limit: Duration) -> Failure {
        let (Address::Unix(what) | Address::Tcp(what)) = &self.address;
        Failure::Unreachable(format!(
            "the daemon at {what} took the connection and did not answer for {} s\n\
             is it stopped or stuck? its log and `mill doctor` may say",
            limit.as_secs()
        ))
    }

    fn garbled(&self) -> Failure {
        let message = "the daemon answered what this version does not understand; \
                       is it another version? compare `mill version`";
        Failure::Failed(message.to_owned())
    }
}

type Requests = http1::SendRequest<Full<Bytes>>;

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Requests, hyper::Error> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends when the response was read or dropped; its error shows there.
    tokio::spawn(connection.with_upgrades());
    Ok(sender)
}
