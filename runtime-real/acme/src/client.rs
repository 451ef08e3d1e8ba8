//! The HTTPS that ACME runs over: bounded in time and size, trusting the machine's authorities
//! and one more if the directory names it.
//!
//! `instant-acme` brings a client of its own, which waits for ever, drops `Retry-After` and the
//! status of a refusal, and trusts either the machine's authorities or one file. This one turns
//! every refusal into [`Trouble`] before the library sees it, except for a bad nonce, which the
//! library answers itself (RFC 8555 section 6.5).

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::http::request;
use hyper::{Method, Request, Response};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient, Problem};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use crate::account::Directory;
use crate::clock;
use crate::error::{AcmeError, ErrorKind, quoted};
use crate::explain::BAD_NONCE;

/// The longest wait for a TCP connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The longest wait for one answer, from looking up the name to the last byte.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// The largest answer: a chain of certificates is a few kilobytes.
const MAX_ANSWER: usize = 1 << 20;
/// Who asks (RFC 8555 section 6.1).
const AGENT: &str = concat!("mill/", env!("CARGO_PKG_VERSION"), " (instant-acme)");

/// An HTTPS client for one directory.
#[derive(Clone)]
pub(crate) struct Https {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    directory: String,
}

/// What the library is told instead of an answer; [`crate::explain`] finds it there again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// No answer.
    #[error("cannot reach {host}: {why}")]
    Unreached {
        /// Who was asked.
        host: String,
        /// In words for people.
        why: String,
    },
    /// An answer that refuses.
    #[error("HTTP status {}", .0.status)]
    Refusal(Box<Refusal>),
}

/// A refusal as it came.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The HTTP status.
    pub(crate) status: u16,
    /// From `Retry-After`.
    pub(crate) retry_after: Option<Duration>,
    /// The document that says why; ACME servers send one, what stands in front of them may not.
    pub(crate) problem: Option<Problem>,
    /// Whether the directory itself was asked, and not what it points to.
    pub(crate) of_directory: bool,
}

impl Https {
    /// A client that trusts the machine's authorities and the directory's own.
    ///
    /// # Errors
    /// If the directory's URL or its root cannot be used, or nothing would be trusted.
    pub(crate) async fn new(directory: &Directory) -> Result<Https, AcmeError> {
        if !directory.url.starts_with("https://") {
            return Err(AcmeError::new(
                ErrorKind::Refused,
                format!(
                    "the directory {} is no https:// URL: ACME runs over HTTPS only",
                    quoted(&directory.url)
                ),
            ));
        }
        let tls = tls(directory).await?;
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT_LIMIT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_http1()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Https { client, directory: directory.url.clone() })
    }

    /// What is at this URL. For what ACME leaves unsigned: the directory, and renewal information.
    pub(crate) async fn get(&self, url: &str) -> Result<(HeaderMap, Bytes), Error> {
        let request = Request::builder().method(Method::GET).uri(url).body(Full::default())?;
        let (parts, body) = self.ask(request).await?.into_parts();
        Ok((parts.headers, body))
    }

    async fn ask(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Error> {
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let of_directory = *request.uri() == *self.directory;
        let response = match timeout(ANSWER_LIMIT, self.exchange(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(why)) => return Err(trouble(Trouble::Unreached { host, why })),
            Err(_) => {
                let why = format!("no answer within {} s", ANSWER_LIMIT.as_secs());
                return Err(trouble(Trouble::Unreached { host, why }));
            }
        };
        if !response.status().is_client_error() && !response.status().is_server_error() {
            return Ok(response);
        }
        let problem = serde_json::from_slice::<Problem>(response.body()).ok();
        if problem.as_ref().is_some_and(|one| one.r#type.as_deref() == Some(BAD_NONCE)) {
            return Ok(response);
        }
        Err(trouble(Trouble::Refusal(Box::new(Refusal {
            status: response.status().as_u16(),
            retry_after: retry_after(response.headers()),
            problem,
            of_directory,
        }))))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, String> {
        let response = self.client.request(request).await.map_err(|error| reason(&error))?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        Ok(Response::from_parts(parts, body.map_err(|error| reason(&*error))?.to_bytes()))
    }
}

impl HttpClient for Https {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let this = self.clone();
        Box::pin(async move {
            let (parts, body): (request::Parts, _) = request.into_parts();
            let body = body.collect().await.unwrap_or_else(|never| match never {});
            let request = Request::from_parts(parts, Full::new(body.to_bytes()));
            Ok(BytesResponse::from(this.ask(request).await?.map(Full::new)))
        })
    }
}

/// How long an answer asks to wait: in seconds, or until a date (RFC 9110 section 10.2.3).
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(date.saturating_sub(clock::wall()))
}

fn trouble(trouble: Trouble) -> Error {
    Error::Other(Box::new(trouble))
}

/// The cause at the bottom of an error, which is what helps; with advice where there is some.
fn reason(error: &(dyn StdError + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deeper(deepest) {
        deepest = source;
    }
    let words = quoted(&deepest.to_string());
    if deepest.is::<rustls::Error>() && words.contains("certificate") {
        return format!(
            "its TLS certificate is not trusted ({words}); if the authority is a private one, \
             give the certificate that signed it as the directory's root"
        );
    }
    words
}

/// What is behind an error. An `io::Error` that wraps another hides it from `source`.
fn deeper<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    wrapped.map(|inner| inner as &(dyn StdError + 'static)).or_else(|| error.source())
}

async fn tls(directory: &Directory) -> Result<ClientConfig, AcmeError> {
    let mut roots = RootCertStore::empty();
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs)
        .await
        .map_err(|error| AcmeError::internal("cannot read the machine's authorities", error))?;
    roots.add_parsable_certificates(found.certs);
    for root in own_roots(directory)? {
        roots.add(root).map_err(|error| bad_root(&error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(AcmeError::new(
            ErrorKind::Unreachable,
            "this machine trusts no certificate authority, so no directory can be reached over \
             HTTPS: install the package ca-certificates",
        ));
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("ring has cipher suites for both versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

fn own_roots(directory: &Directory) -> Result<Vec<CertificateDer<'static>>, AcmeError> {
    let Some(pem) = &directory.root else { return Ok(Vec::new()) };
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match read {
        Ok(roots) if roots.is_empty() => Err(bad_root("it holds no certificate")),
        Ok(roots) => Ok(roots),
        Err(error) => Err(bad_root(&error.to_string())),
    }
}

fn bad_root(why: &str) -> AcmeError {
    AcmeError::new(
        ErrorKind::Refused,
        format!(
            "the directory's root cannot be used ({}): it must be the PEM of the certificate \
             authority that signed the directory's own HTTPS certificate",
            quoted(why)
        ),
    )
}
