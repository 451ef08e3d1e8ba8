//! TLS and HTTP/2 from callers, and a WebSocket's way through.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::spawn_local;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use turmoil::net::TcpStream;

use crate::options::Options;
use crate::tls::CertificateSet;
use crate::worker::LocalExecutor;

use super::lost::read_head;
use super::people::connect;
use super::stage::{
    HOST, Ingress, Notes, PORT, ROOMY, TLS_PORT, machine, millis, network, replica, route, tell,
};

fn options() -> Options {
    Options { workers: 1, ..Options::default() }
}

/// Has the ingress show a certificate; what trusts it.
fn certify(ingress: &Ingress, protocol: &[u8]) -> Arc<rustls::ClientConfig> {
    let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut set = CertificateSet::default();
    set.add(&[HOST], vec![made.cert.der().clone()], &key).unwrap();
    ingress.certificates().replace(set);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

async fn connect_tls(config: Arc<rustls::ClientConfig>) -> TlsStream<TcpStream> {
    let stream = connect(TLS_PORT).await.unwrap();
    let name = ServerName::try_from(HOST).unwrap();
    TlsConnector::from(config).connect(name, stream).await.unwrap()
}

fn get(number: u64, work: u64) -> Request<Full<Bytes>> {
    let uri = format!("https://{HOST}/{number}?{work}");
    Request::builder().uri(uri).body(Full::default()).unwrap()
}

#[test]
fn requests_over_one_http2_connection_are_answered_side_by_side_through_an_update_and_a_drain() {
    for seed in 0..10 {
        let mut sim = network(seed, ROOMY);
        let notes = Notes::default();
        replica(&mut sim, "one", &notes);
        replica(&mut sim, "h2-two", &notes);
        let ingress = Ingress::new(&mut sim, seed, options());
        tell(sim, seed, async move {
            ingress.publish(route(), &["one"]);
            let stream = connect_tls(certify(&ingress, b"h2")).await;
            let io = TokioIo::new(stream);
            let client = hyper::client::conn::http2::handshake(LocalExecutor, io).await;
            let (sender, connection) = client.unwrap();
            let connection = spawn_local(connection);
            let ask = |number: u64| {
                let mut sender = sender.clone();
                spawn_local(async move {
                    let answer = sender.send_request(get(number, 300)).await.unwrap();
                    assert_eq!(answer.status(), 200);
                    let text = answer.into_body().collect().await.unwrap().to_bytes();
                    String::from_utf8(text.to_vec()).unwrap()
                })
            };
            let first: Vec<_> = (0..5).map(ask).collect();
            sleep(millis(250)).await;
            assert_eq!(notes.begun().len(), 5, "they wait for each other");
            ingress.publish(route(), &["h2-two"]);
            let second: Vec<_> = (5..10).map(ask).collect();
            sleep(millis(250)).await;
            ingress.drain(Duration::from_secs(5));
            for (number, answer) in (0..).zip(first.into_iter().chain(second)) {
                let replica = if number < 5 { "one" } else { "h2-two" };
                assert_eq!(answer.await.unwrap(), format!("{replica} /{number} 0"));
            }
            drop(sender);
            connection.await.unwrap().unwrap();
            sleep(millis(1_200)).await;
            assert_eq!(ingress.cut_off.get(), Some(0));
        });
    }
}

#[test]
fn requests_over_tls_follow_each_other_on_one_connection() {
    for seed in 0..10 {
        let mut sim = network(seed, ROOMY);
        replica(&mut sim, "one", &Notes::default());
        let ingress = Ingress::new(&mut sim, seed, options());
        tell(sim, seed, async move {
            ingress.publish(route(), &["one"]);
            let mut stream = connect_tls(certify(&ingress, b"http/1.1")).await;
            for number in 0..5 {
                let asked = format!("GET /{number} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
                stream.write_all(asked.as_bytes()).await.unwrap();
                let (mut heard, end) = (Vec::new(), format!("one /{number} 0"));
                while !heard.ends_with(end.as_bytes()) {
                    let length = stream.read_buf(&mut heard).await.unwrap();
                    assert!(length > 0, "{}", heard.escape_ascii());
                }
            }
        });
    }
}

/// Goes over to another protocol, in which all that is said comes back.
async fn echo(mut stream: TcpStream) {
    let Some(_) = read_head(&mut stream).await else { return };
    let head =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let _ = stream.write_all(head.as_bytes()).await;
    let (mut from, mut to) = stream.into_split();
    // Whoever asked sees how it ends.
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

#[test]
fn a_websocket_carries_both_ways_and_outlives_its_replicas_place_in_the_tables() {
    for seed in 0..20 {
        let mut sim = network(seed, ROOMY);
        machine(&mut sim, "one", echo);
        replica(&mut sim, "two", &Notes::default());
        let ingress = Ingress::new(&mut sim, seed, options());
        tell(sim, seed, async move {
            ingress.publish(route(), &["one"]);
            let mut stream = connect(PORT).await.unwrap();
            let upgrade = "Connection: upgrade\r\nUpgrade: websocket";
            let asked = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{upgrade}\r\n\r\n");
            stream.write_all(asked.as_bytes()).await.unwrap();
            let head = read_head(&mut stream).await.unwrap();
            assert!(head.starts_with(b"HTTP/1.1 101"), "{}", head.escape_ascii());
            ingress.publish(route(), &["two"]);
            for number in 0..10_u8 {
                let said = vec![number; 1 + usize::from(number) * 1_000];
                stream.write_all(&said).await.unwrap();
                let mut heard = vec![0; said.len()];
                stream.read_exact(&mut heard).await.unwrap();
                assert_eq!(heard, said);
            }
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        });
    }
}
