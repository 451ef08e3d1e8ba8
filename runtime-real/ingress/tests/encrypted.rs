//! TLS, HTTP/2 and gRPC's way through: certificates by name, challenges, streams, trailers.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use common::*;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mill_ingress::{Backend, CertificateSet, Challenges, HttpRoute, Ingress};
use rustls::HandshakeKind;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

fn certificate(name: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    (made.cert.der().clone(), PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap())
}

/// Certificates for these names, and what clients trust.
fn certify(ingress: &Ingress, names: &[&str]) -> rustls::RootCertStore {
    let (mut set, mut roots) = (CertificateSet::default(), rustls::RootCertStore::empty());
    for name in names {
        let (certificate, key) = certificate(name);
        roots.add(certificate.clone()).unwrap();
        set.add(&[name], vec![certificate], &key).unwrap();
    }
    ingress.certificates().replace(set);
    roots
}

async fn connect(
    ingress: &Ingress,
    roots: &rustls::RootCertStore,
    name: &'static str,
    protocol: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    connect_with(ingress, client(roots, protocol, rustls::DEFAULT_VERSIONS), name).await
}

/// A client that remembers its sessions.
fn client(
    roots: &rustls::RootCertStore,
    protocol: &[u8],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

async fn connect_with(
    ingress: &Ingress,
    client: Arc<rustls::ClientConfig>,
    name: &'static str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(ingress.https_address().unwrap()).await?;
    let name = ServerName::try_from(name).unwrap();
    TlsConnector::from(client).connect(name, stream).await
}

fn request(host: &str) -> Request<Full<Bytes>> {
    let uri = format!("https://{host}/");
    Request::builder().uri(uri).body(Full::default()).unwrap()
}

#[test]
fn http2_over_tls_reaches_a_backend_and_hosts_must_agree_with_the_certificate() {
    let web = Server::saying("web");
    let ingress = start(&[&web]);
    let routes = vec![HttpRoute { tls: true, ..route() }, HttpRoute::new("other.test", "/", "web")];
    ingress.publish(table(routes, vec![backend(web.address)])).unwrap();
    let roots = certify(&ingress, &["shop.test", "*.wild.test"]);
    block_on(async {
        let stream = connect(&ingress, &roots, "shop.test", b"h2").await.unwrap();
        let io = TokioIo::new(stream);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let answer = sender.send_request(request("shop.test")).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "web");
        let answer = sender.send_request(request("other.test")).await.unwrap();
        assert_eq!(answer.status(), 421);
        assert!(connect(&ingress, &roots, "a.wild.test", b"http/1.1").await.is_ok());
        assert!(connect(&ingress, &roots, "unknown.test", b"h2").await.is_err());
    });
    let head = web.seen().pop().unwrap();
    assert!(head.contains("x-forwarded-proto: https") && head.contains("host: shop.test"));
}

#[test]
fn certificates_are_replaced_while_connections_stay_open() {
    let web = Server::saying("web");
    let ingress = start(&[&web]);
    let old = certify(&ingress, &["shop.test"]);
    block_on(async {
        let stream = connect(&ingress, &old, "shop.test", b"http/1.1").await.unwrap();
        let new = certify(&ingress, &["shop.test"]);
        assert!(connect(&ingress, &old, "shop.test", b"http/1.1").await.is_err());
        connect(&ingress, &new, "shop.test", b"http/1.1").await.unwrap();
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let mut request = request("shop.test");
        request.headers_mut().insert("host", "shop.test".parse().unwrap());
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    });
}

/// How a client's next handshake went, after a request that lets what the server sends arrive.
async fn handshake(ingress: &Ingress, client: &Arc<rustls::ClientConfig>) -> HandshakeKind {
    let mut stream = connect_with(ingress, Arc::clone(client), "shop.test").await.unwrap();
    stream.write_all(get("/").as_bytes()).await.unwrap();
    assert_ne!(stream.read(&mut [0; 512]).await.unwrap(), 0);
    stream.get_ref().1.handshake_kind().unwrap()
}

#[test]
fn sessions_resume_by_ticket_in_both_versions_whichever_worker_it_is() {
    let web = Server::saying("web");
    let options = mill_ingress::Options { workers: 2, ..options() };
    let ingress = Ingress::start(options).unwrap();
    ingress.publish(table(vec![route()], vec![backend(web.address)])).unwrap();
    let roots = certify(&ingress, &["shop.test"]);
    block_on(async {
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let client = client(&roots, b"http/1.1", &[version]);
            assert_eq!(handshake(&ingress, &client).await, HandshakeKind::Full, "{version:?}");
            for _ in 0..8 {
                let kind = handshake(&ingress, &client).await;
                assert_eq!(kind, HandshakeKind::Resumed, "{version:?}");
            }
        }
    });
}

#[test]
fn a_tls_alpn_challenge_is_answered_with_its_own_certificate() {
    let ingress = start(&[]);
    let roots = certify(&ingress, &["shop.test"]);
    let mut params = rcgen::CertificateParams::new(["shop.test".to_owned()]).unwrap();
    params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(&[7; 32])];
    let key = rcgen::KeyPair::generate().unwrap();
    let made = params.self_signed(&key).unwrap();
    let secret = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut challenges = Challenges::default();
    challenges.add_tls_alpn("shop.test", made.der().clone(), &secret).unwrap();
    block_on(async {
        // The client trusts the usual certificate alone, so it refuses the challenge's.
        assert!(connect(&ingress, &roots, "shop.test", b"acme-tls/1").await.is_err());
        ingress.certificates().replace_challenges(challenges);
        let error = connect(&ingress, &roots, "shop.test", b"acme-tls/1").await.unwrap_err();
        let text = error.to_string().to_lowercase();
        assert!(text.contains("certificate"), "{text}");
        connect(&ingress, &roots, "shop.test", b"http/1.1").await.unwrap();
    });
}

/// Sends each frame of a request back as it comes, then trailers, as a gRPC server would.
async fn echo(
    request: Request<Incoming>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = hyper::Error>>, Infallible> {
    assert_eq!(request.headers()["te"], "trailers");
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let body = request
        .into_body()
        .map_frame(|frame| frame)
        .with_trailers(async move { Some(Ok(trailers)) });
    Ok(Response::new(body))
}

async fn serve_h2c() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(echo);
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

#[test]
fn a_grpc_stream_goes_both_ways_before_it_ends_and_keeps_its_trailers() {
    block_on(async {
        let address = serve_h2c().await;
        let ingress = start(&[]);
        let grpc = Backend { h2c: true, ..backend(address) };
        ingress.publish(table(vec![route()], vec![grpc])).unwrap();
        let stream = TcpStream::connect(ingress.http_address().unwrap()).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        let (frames, sent) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
        let sent = tokio_stream::wrappers::ReceiverStream::new(sent);
        let request = Request::builder()
            .method("POST")
            .uri("http://shop.test/echo")
            .header("te", "trailers")
            .body(StreamBody::new(sent))
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let mut body = answer.into_body();
        for text in ["one", "two"] {
            frames.send(Ok(Frame::data(Bytes::from(text)))).await.unwrap();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), text);
        }
        drop(frames);
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
    });
}
