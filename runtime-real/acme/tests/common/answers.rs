//! What the ingress does in production: answers to challenges, on the ports that pebble asks.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use mill_acme::{Challenge, ChallengeKind, tls_alpn_certificate};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// The servers of both kinds of challenge.
pub struct Answers {
    pub http_port: u16,
    pub tls_port: u16,
    shown: Arc<Mutex<Shown>>,
    open: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Shown {
    http: BTreeMap<String, String>,
    tls: BTreeMap<String, Arc<CertifiedKey>>,
    asked: usize,
}

impl Answers {
    pub async fn start() -> Answers {
        let shown = Arc::new(Mutex::new(Shown::default()));
        let (open, opened) = watch::channel(true);
        let http = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let tls = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (http_port, tls_port) =
            (http.local_addr().unwrap().port(), tls.local_addr().unwrap().port());
        tokio::spawn(serve_http(http, Arc::clone(&shown), opened));
        tokio::spawn(serve_tls(tls, Arc::clone(&shown)));
        Answers { http_port, tls_port, shown, open }
    }

    /// Answers these challenges, each in its way.
    pub fn show(&self, challenges: &[Challenge]) {
        let mut shown = self.shown.lock().unwrap();
        for one in challenges {
            match one.kind {
                ChallengeKind::Http01 => {
                    shown.http.insert(one.token.clone(), one.authorization.clone());
                }
                ChallengeKind::TlsAlpn01 => {
                    let made = tls_alpn_certificate(&one.name, &one.authorization).unwrap();
                    let key = ring::sign::any_supported_type(&made.1).unwrap();
                    let certified = CertifiedKey { cert: vec![made.0], key, ocsp: None };
                    shown.tls.insert(one.name.clone(), Arc::new(certified));
                }
            }
        }
    }

    /// HTTP is accepted but not answered until [`Answers::resume`].
    pub fn pause(&self) {
        self.open.send_replace(false);
    }

    pub fn resume(&self) {
        self.open.send_replace(true);
    }

    /// How many answers were asked for.
    pub fn asked(&self) -> usize {
        self.shown.lock().unwrap().asked
    }
}

async fn serve_http(
    listener: TcpListener,
    shown: Arc<Mutex<Shown>>,
    opened: watch::Receiver<bool>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (shown, mut opened) = (Arc::clone(&shown), opened.clone());
        tokio::spawn(async move {
            if opened.wait_for(|open| *open).await.is_ok() {
                answer(stream, &shown).await;
            }
        });
    }
}

async fn answer(mut stream: TcpStream, shown: &Mutex<Shown>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap();
    let token = path.strip_prefix("/.well-known/acme-challenge/").unwrap_or_default();
    let found = {
        let mut shown = shown.lock().unwrap();
        shown.asked += 1;
        shown.http.get(token).cloned()
    };
    let (status, body) = match found {
        Some(body) => ("200 OK", body),
        None => ("404 Not Found", String::new()),
    };
    let length = body.len();
    let text =
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    let _ = stream.write_all((text + &body).as_bytes()).await;
}

/// Shows the certificate of the name that is asked for.
#[derive(Debug)]
struct ByName(Arc<Mutex<Shown>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut shown = self.0.lock().unwrap();
        shown.asked += 1;
        shown.tls.get(hello.server_name()?).map(Arc::clone)
    }
}

async fn serve_tls(listener: TcpListener, shown: Arc<Mutex<Shown>>) {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ByName(shown)));
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move { acceptor.accept(stream).await.map(drop) });
    }
}
