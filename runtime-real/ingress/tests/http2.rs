//! HTTP/2 from strangers: floods that the protocol allows, as frames by hand (RFC 9113 section 6),
//! and what a connection to a backend owes to HTTP/1.1.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use common::*;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mill_ingress::{Backend, Ingress, Limits, Options};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ENHANCE_YOUR_CALM: u32 = 11;

/// Streams of one flood; no connection may live through all of them.
const FLOOD: u32 = 20_000;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head, &stream.to_be_bytes()[..], payload].concat()
}

/// `GET http://shop.test/` as RFC 7541 writes it, from its static table but for the host.
fn get_block() -> Vec<u8> {
    [&[0x82, 0x86, 0x84, 0x41, 9], &b"shop.test"[..]].concat()
}

fn get_and_reset(stream: u32) -> Vec<u8> {
    let get = frame(HEADERS, END_STREAM | END_HEADERS, stream, &get_block());
    [get, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
}

/// A connection whose preface was answered.
fn begin(ingress: &Ingress) -> TcpStream {
    let mut stream = Client::new(ingress).0;
    let settings = frame(SETTINGS, 0, 0, &[]);
    let hello = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings].concat();
    stream.write_all(&hello).unwrap();
    assert_eq!(heard(&mut stream).unwrap().0, SETTINGS);
    stream
}

/// The kind and the payload of the next frame, unless the connection has ended.
fn heard(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let mut payload = vec![0; usize::from(head[1]) * 256 + usize::from(head[2])];
    stream.read_exact(&mut payload).ok()?;
    Some((head[3], payload))
}

/// The code of the GOAWAY that ended the connection, if one came.
fn goaway(mut stream: TcpStream) -> Option<u32> {
    let frames = std::iter::from_fn(|| heard(&mut stream));
    let code = |payload: Vec<u8>| u32::from_be_bytes(payload[4..8].try_into().unwrap());
    frames.into_iter().find(|(kind, _)| *kind == GOAWAY).map(|(_, payload)| code(payload))
}

/// A backend that never answers.
fn silent() -> Server {
    Server::new(|stream, _| {
        let _ = stream.read(&mut [0]);
        false
    })
}

fn with(limits: Limits, backends: Vec<Backend>) -> Ingress {
    let ingress = Ingress::start(Options { limits, ..options() }).unwrap();
    ingress.publish(table(vec![route()], backends)).unwrap();
    ingress
}

fn nothing_is_left(ingress: &Ingress) {
    wait_for("the connection is closed", || ingress.metrics().open_connections == 0);
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}

#[test]
fn a_burst_of_resets_ends_its_connection_and_leaves_nothing_behind() {
    // Nobody is there to serve them, so each of them would wait.
    let ingress = with(Limits::default(), Vec::new());
    let flood: Vec<u8> = (0..FLOOD).flat_map(|number| get_and_reset(2 * number + 1)).collect();
    let attack = || {
        let mut stream = begin(&ingress);
        for part in flood.chunks(16_384) {
            if stream.write_all(part).is_err() {
                break;
            }
        }
        assert_eq!(goaway(stream).unwrap_or(ENHANCE_YOUR_CALM), ENHANCE_YOUR_CALM);
        nothing_is_left(&ingress);
    };
    (0..20).for_each(|_| attack());
    let before = resident_bytes();
    (0..60).for_each(|_| attack());
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 4 << 20, "60 connections left {grown} bytes");
    let counted = &ingress.metrics().routes;
    let requests: u64 = counted.values().flat_map(|route| route.by_class).sum();
    assert!(requests < 80 * 1_000, "{requests} requests were begun");
}

#[test]
fn resets_at_their_own_pace_end_their_connection_too() {
    let web = silent();
    let most = 20;
    let limits = Limits { http2_given_up: most, ..Limits::default() };
    let ingress = with(limits, vec![backend(web.address)]);
    let mut stream = begin(&ingress);
    for number in 0..FLOOD {
        let stream_id = 2 * number + 1;
        let get = frame(HEADERS, END_STREAM | END_HEADERS, stream_id, &get_block());
        let reset = frame(RST_STREAM, 0, stream_id, &8_u32.to_be_bytes());
        if stream.write_all(&get).is_err() {
            break;
        }
        let asked = usize::try_from(number).unwrap() + 1;
        let ended = || ingress.metrics().open_connections == 0;
        wait_for("it is asked or cut off", || web.seen().len() >= asked || ended());
        if stream.write_all(&reset).is_err() {
            break;
        }
        wait_for("it is given up", || web.open.load(Ordering::SeqCst) == 0);
    }
    nothing_is_left(&ingress);
    let seen = web.seen().len();
    assert!(seen >= most as usize && seen <= most as usize + 2, "{seen} requests got through");
}

#[test]
fn a_client_that_gives_up_now_and_then_stays() {
    let web = Server::saying("web");
    let limits = Limits { http2_given_up: 1, ..Limits::default() };
    let ingress = with(limits, vec![backend(web.address)]);
    block_on(async {
        let mut sender = connect(&ingress).await;
        for _ in 0..3 {
            assert_eq!(ask_over(&mut sender, get_request()).await.unwrap().status(), 200);
        }
        // Dropped before it is answered, and so reset.
        drop(sender.send_request(get_request()));
        for _ in 0..3 {
            assert_eq!(ask_over(&mut sender, get_request()).await.unwrap().status(), 200);
        }
    });
}

#[test]
fn endless_heads_end_their_connection() {
    let ingress = with(Limits::default(), Vec::new());
    for size in [0, 1, 1_000, 16_384] {
        let mut stream = begin(&ingress);
        let mut bytes = stream.write(&frame(HEADERS, END_STREAM, 1, &get_block())).unwrap();
        // A literal field that is never finished.
        let first = frame(CONTINUATION, 0, 1, &[0x40, 0x7f, 0xff, 0xff, 0xff, 0x7f]);
        stream.write_all(&first).unwrap();
        let more = frame(CONTINUATION, 0, 1, &vec![b'a'; size]);
        while bytes < 32 << 20 && stream.write_all(&more).is_ok() {
            bytes += more.len();
        }
        assert!(bytes < 32 << 20, "{bytes} bytes of a head in frames of {size} were taken");
        nothing_is_left(&ingress);
    }
}

async fn connect(ingress: &Ingress) -> SendRequest<Empty<Bytes>> {
    let stream = tokio::net::TcpStream::connect(ingress.http_address().unwrap()).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn get_request() -> Request<Empty<Bytes>> {
    Request::builder().uri("http://shop.test/").body(Empty::new()).unwrap()
}

async fn ask_over(
    sender: &mut SendRequest<Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
) -> hyper::Result<Response<Bytes>> {
    sender.ready().await?;
    let (parts, body) = sender.send_request(request).await?.into_parts();
    Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
}

#[test]
fn heads_that_are_too_large_or_too_many_are_refused_alone() {
    let web = Server::saying("web");
    let ingress = with(Limits::default(), vec![backend(web.address)]);
    block_on(async {
        let mut sender = connect(&ingress).await;
        let mut large = get_request();
        large.headers_mut().insert("x-a", "a".repeat(40_000).parse().unwrap());
        assert_eq!(ask_over(&mut sender, large).await.unwrap().status(), 431);
        let mut many = get_request();
        for _ in 0..200 {
            many.headers_mut().append("x-a", "1".parse().unwrap());
        }
        assert_eq!(ask_over(&mut sender, many).await.unwrap().status(), 431);
        assert_eq!(ask_over(&mut sender, get_request()).await.unwrap().status(), 200);
    });
    assert_eq!(web.seen().len(), 1);
}

/// RFC 9113 section 8.2.3.
#[test]
fn cookies_that_came_in_pieces_are_one_field_for_the_backend() {
    let web = Server::saying("web");
    let ingress = with(Limits::default(), vec![backend(web.address)]);
    block_on(async {
        let mut sender = connect(&ingress).await;
        let mut request = get_request();
        (0..150).for_each(|number| {
            request.headers_mut().append("cookie", format!("c{number}=1").parse().unwrap());
        });
        assert_eq!(ask_over(&mut sender, request).await.unwrap().status(), 200);
    });
    let head = web.seen().pop().unwrap();
    assert!(head.contains("cookie: c0=1; c1=1; c2=1") && head.contains("; c149=1\r\n"), "{head}");
}

#[test]
fn a_length_that_data_does_not_keep_reaches_no_backend_as_a_whole_request() {
    let web = Server::saying("web");
    let ingress = with(Limits::default(), vec![backend(web.address)]);
    for data in [&b"ab"[..], b"abcd"] {
        let mut stream = begin(&ingress);
        // POST with `content-length: 3`, which RFC 7541's static table knows as 28.
        let head = [&[0x83, 0x86, 0x84, 0x41, 9], &b"shop.test"[..], &[0x5c, 1, b'3']].concat();
        stream.write_all(&frame(HEADERS, END_HEADERS, 1, &head)).unwrap();
        stream.write_all(&frame(DATA, END_STREAM, 1, data)).unwrap();
        let mut kind = SETTINGS;
        while kind != RST_STREAM {
            kind = heard(&mut stream).unwrap().0;
            assert_ne!(kind, HEADERS, "it was answered");
        }
    }
    wait_for("its connections end", || web.open.load(Ordering::SeqCst) == 0);
}

#[test]
fn a_backend_that_left_the_table_has_no_idle_http2_connection() {
    block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ended, mut end) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(|_| async {
                Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            ended.send(()).await.unwrap();
        });
        let ingress = with(Limits::default(), vec![Backend { h2c: true, ..backend(address) }]);
        let mut sender = connect(&ingress).await;
        assert_eq!(ask_over(&mut sender, get_request()).await.unwrap().status(), 200);
        ingress.publish(table(vec![route()], Vec::new())).unwrap();
        let closed = tokio::time::timeout(Duration::from_secs(10), end.recv()).await;
        assert_eq!(closed, Ok(Some(())));
    });
}
