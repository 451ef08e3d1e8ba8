//! An authority that says what a test wants: for what pebble cannot be made to do.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mill_acme::{Directory, LocalAuthority};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// One answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

/// What was asked: the path and, if it was signed, what was signed.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    pub path: String,
    pub payload: Value,
}

/// A server of answers by path. Of several for one path each is given once, the last for ever.
pub struct Fake {
    url: String,
    root: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    answers: BTreeMap<String, Vec<Answer>>,
    asked: Vec<Asked>,
}

impl Answer {
    pub fn json(status: u16, body: Value) -> Answer {
        Answer { status, headers: Vec::new(), body: body.to_string() }
    }

    pub fn text(status: u16, body: &str) -> Answer {
        Answer { status, headers: Vec::new(), body: body.to_owned() }
    }

    /// A problem document of this type.
    pub fn problem(status: u16, kind: &str, detail: &str) -> Answer {
        let kind = format!("urn:ietf:params:acme:error:{kind}");
        Answer::json(status, json!({ "type": kind, "detail": detail, "status": status }))
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }
}

impl Fake {
    /// An authority that gives nonces and accounts, and renewal information if that is wanted.
    pub async fn start(renewal_information: bool) -> Fake {
        let own = LocalAuthority::found().unwrap();
        let (chain, key) = own.issue(&["127.0.0.1".to_owned()], 7).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        tokio::spawn(serve(listener, acceptor(&chain, &key), Arc::clone(&state)));
        let fake = Fake { url, root: own.certificate_pem().to_owned(), state };
        let mut index = json!({
            "newNonce": fake.at("/nonce"),
            "newAccount": fake.at("/account"),
            "newOrder": fake.at("/order"),
        });
        if renewal_information {
            index["renewalInfo"] = json!(fake.at("/renewal"));
        }
        fake.say("/dir", Answer::json(200, index));
        fake.say("/nonce", Answer::text(200, ""));
        let made = Answer::json(201, json!({ "status": "valid" }));
        fake.say("/account", made.with("location", fake.at("/account/1")));
        fake
    }

    /// The URL of a path.
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    pub fn directory(&self) -> Directory {
        Directory { url: self.at("/dir"), root: Some(self.root.clone()) }
    }

    /// From now on the only answer at this path.
    pub fn say(&self, path: &str, answer: Answer) {
        self.state.lock().unwrap().answers.insert(path.to_owned(), vec![answer]);
    }

    /// From now on the answers at this path.
    pub fn say_in_turn(&self, path: &str, answers: Vec<Answer>) {
        self.state.lock().unwrap().answers.insert(path.to_owned(), answers);
    }

    /// What was asked at this path.
    pub fn asked(&self, path: &str) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        let here = state.asked.iter().filter(|one| one.path == path);
        here.map(|one| one.payload.clone()).collect()
    }
}

fn acceptor(chain: &str, key: &str) -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<Mutex<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, state) = (acceptor.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let mut stream = BufReader::new(stream);
            while let Some((asked, is_head)) = read(&mut stream).await {
                let text = wire(&next(&state, asked), is_head);
                if stream.get_mut().write_all(text.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// One request, and whether it wants no body.
async fn read<S: tokio::io::AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<(Asked, bool)> {
    let (mut first, mut length) = (String::new(), 0);
    stream.read_line(&mut first).await.ok().filter(|bytes| *bytes > 0)?;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let signed: Value = serde_json::from_slice(&body).unwrap_or_default();
    let payload = URL_SAFE_NO_PAD.decode(signed["payload"].as_str().unwrap_or_default()).unwrap();
    let payload = serde_json::from_slice(&payload).unwrap_or_default();
    let mut words = first.split(' ');
    let is_head = words.next() == Some("HEAD");
    Some((Asked { path: words.next()?.to_owned(), payload }, is_head))
}

fn next(state: &Mutex<State>, asked: Asked) -> Answer {
    let mut state = state.lock().unwrap();
    let answer = match state.answers.get_mut(&asked.path) {
        Some(answers) if answers.len() > 1 => answers.remove(0),
        Some(answers) => answers[0].clone(),
        None => Answer::problem(404, "malformed", "no such thing here"),
    };
    state.asked.push(asked);
    answer
}

fn wire(answer: &Answer, is_head: bool) -> String {
    let (status, length) = (answer.status, answer.body.len());
    let mut text =
        format!("HTTP/1.1 {status} .\r\nreplay-nonce: n\r\ncontent-length: {length}\r\n");
    for (name, value) in &answer.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    if !is_head {
        text.push_str(&answer.body);
    }
    text
}
