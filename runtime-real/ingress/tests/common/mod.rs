//! A running ingress, backends that say what they got, and raw requests.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mill_ingress::{Backend, HttpRoute, Ingress, Options, Service, Table};

/// No answer that is expected takes this long.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub fn options() -> Options {
    let any = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    Options { http: any, https: any, workers: 1, ..Options::default() }
}

pub fn backend(address: SocketAddr) -> Backend {
    Backend { id: format!("web-{}", address.port()), address, same_node: false, h2c: false }
}

pub fn table(routes: Vec<HttpRoute>, backends: Vec<Backend>) -> Table {
    let services = vec![Service { name: "web".into(), backends }];
    Table { http: routes, services, ..Table::default() }
}

pub fn route() -> HttpRoute {
    HttpRoute::new("shop.test", "/", "web")
}

/// An ingress that routes shop.test to these backends.
pub fn start(backends: &[&Server]) -> Ingress {
    let ingress = Ingress::start(options()).unwrap();
    let backends = backends.iter().map(|server| backend(server.address)).collect();
    ingress.publish(table(vec![route()], backends)).unwrap();
    ingress
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n")
}

/// A client's connection.
pub struct Client(pub TcpStream);

impl Client {
    pub fn new(ingress: &Ingress) -> Client {
        let stream = TcpStream::connect(ingress.http_address().unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client(stream)
    }

    pub fn send(&mut self, bytes: &str) {
        self.0.write_all(bytes.as_bytes()).unwrap();
    }

    /// One answer whose length is known.
    pub fn answer(&mut self) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if self.0.read(&mut byte).unwrap() == 0 {
                break;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length = head.split("content-length: ").nth(1);
        let length = length.map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        Answer { head, body: String::from_utf8(body).unwrap() }
    }

    pub fn ask(&mut self, bytes: &str) -> Answer {
        self.send(bytes);
        self.answer()
    }

    /// Everything until the other side ends.
    pub fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        // A reset ends it as well.
        let _ = self.0.read_to_end(&mut rest);
        String::from_utf8_lossy(&rest).into_owned()
    }
}

#[derive(Debug)]
pub struct Answer {
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn status(&self) -> u16 {
        let status = self.head.split(' ').nth(1).unwrap_or("0");
        status.parse().unwrap()
    }

    pub fn has(&self, field: &str) -> bool {
        self.head.contains(field)
    }
}

/// One request on a connection of its own.
pub fn ask(ingress: &Ingress, bytes: &str) -> Answer {
    Client::new(ingress).ask(bytes)
}

/// A backend: what it does with each connection is a function; it counts them.
pub struct Server {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    pub open: Arc<AtomicUsize>,
    pub requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub fn new(serve: impl Fn(&mut TcpStream, &str) -> bool + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server {
            address,
            connections: Arc::default(),
            open: Arc::default(),
            requests: Arc::default(),
        };
        let serve = Arc::new(serve);
        let (connections, open, requests) =
            (server.connections.clone(), server.open.clone(), server.requests.clone());
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                connections.fetch_add(1, Ordering::SeqCst);
                open.fetch_add(1, Ordering::SeqCst);
                let (serve, open, requests) = (serve.clone(), open.clone(), requests.clone());
                std::thread::spawn(move || {
                    while let Some(head) = read_head(&mut stream) {
                        requests.lock().unwrap().push(head.clone());
                        if !serve(&mut stream, &head) {
                            break;
                        }
                    }
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        server
    }

    /// Answers each request with this text, on connections that stay open.
    pub fn saying(text: &'static str) -> Server {
        Server::new(move |stream, head| {
            read_body(stream, head);
            say(stream, text);
            true
        })
    }

    pub fn seen(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

pub fn say(stream: &mut TcpStream, text: &str) {
    let length = text.len();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}");
    let _ = stream.write_all(answer.as_bytes());
}

/// A request's head in lower case; none when the connection ends.
pub fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if !stream.read(&mut byte).is_ok_and(|count| count == 1) {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8(head).unwrap().to_lowercase())
}

pub fn read_body(stream: &mut TcpStream, head: &str) -> Vec<u8> {
    let length = head.split("content-length: ").nth(1);
    let length = length.map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
    let mut body = vec![0; length];
    let _ = stream.read_exact(&mut body);
    body
}

/// Waits for a named condition.
pub fn wait_for(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if condition() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    panic!("never happened: {what}");
}

pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
