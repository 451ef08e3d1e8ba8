//! Any bytes as a client's connection to an ingress whose backend is in memory.
//!
//! What reaches the backend is read by `reading.rs`, which knows no more of HTTP/1.1 than where a
//! request ends, and so is what the client sent. Every connection to the backend must be readable
//! to its last byte, and each request in it must be one of the client's, in the same order: a
//! request that hides within another's body or between two readings of a length would be none.

#![no_main]

#[path = "../reading.rs"]
mod reading;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use libfuzzer_sys::fuzz_target;
use mill_ingress::fuzzing::Harness;
use mill_ingress::{Backend, HttpRoute, Options, Service, Table};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

const PREFACE: &[u8] = b"PRI * HTTP/2.0";
/// Turns of the runtime without anything happening, after which nothing will.
const QUIET: u32 = 40;
/// What one input may be.
const MOST: usize = 32 * 1024;

/// What the backend was sent, by connection, in the order of the requests' last bytes.
#[derive(Default)]
struct Heard {
    connections: RefCell<Vec<Rc<RefCell<Vec<u8>>>>>,
    requests: RefCell<Vec<reading::Request>>,
    happened: Cell<u64>,
}

struct World {
    runtime: LocalRuntime,
    harness: Rc<Harness>,
    backend: Rc<Heard>,
}

thread_local! {
    static WORLD: World = World::new();
}

impl World {
    fn new() -> World {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .event_interval(2)
            .build_local(LocalOptions::default())
            .expect("a runtime starts");
        let backend = Rc::new(Heard::default());
        runtime.block_on(listen(Rc::clone(&backend)));
        let harness = runtime.block_on(async { Harness::new(options(), table()) });
        let harness = Rc::new(harness.expect("the table makes sense"));
        World { runtime, harness, backend }
    }
}

fn options() -> Options {
    Options { workers: 1, ..Options::default() }
}

fn table() -> Table {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let backends = vec![Backend { id: "web".into(), address, same_node: true, h2c: false }];
    let route = HttpRoute { websocket: false, ..HttpRoute::new("a", "/", "web") };
    let services = vec![Service { name: "web".into(), backends }];
    Table { http: vec![route], services, ..Table::default() }
}

async fn listen(backend: Rc<Heard>) {
    let mut opened = Harness::replicas();
    tokio::task::spawn_local(async move {
        while let Some(stream) = opened.recv().await {
            tokio::task::spawn_local(answer(stream, Rc::clone(&backend)));
        }
    });
}

async fn answer(mut stream: DuplexStream, backend: Rc<Heard>) {
    let told = Rc::new(RefCell::new(Vec::new()));
    backend.connections.borrow_mut().push(Rc::clone(&told));
    let mut answered = 0;
    let mut part = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = stream.read(&mut part).await {
        backend.happened.set(backend.happened.get() + 1);
        told.borrow_mut().extend_from_slice(&part[..count]);
        let (requests, _) = reading::requests(&told.borrow());
        for request in requests.into_iter().skip(answered) {
            answered += 1;
            backend.requests.borrow_mut().push(request);
            let page = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            let _ = stream.write_all(page).await;
        }
    }
    backend.happened.set(backend.happened.get() + 1);
    stream.shutdown().await.unwrap_or_default();
}

fuzz_target!(|bytes: &[u8]| {
    if bytes.len() <= MOST {
        WORLD.with(|world| play(world, bytes));
    }
});

fn play(world: &World, bytes: &[u8]) {
    let World { runtime, harness, backend } = world;
    backend.requests.borrow_mut().clear();
    let said = runtime.block_on(converse(harness, backend, bytes));
    for told in backend.connections.borrow().iter() {
        let told = told.borrow();
        let (_, rest) = reading::requests(&told);
        assert!(rest != reading::Rest::Odd, "a backend got {}", told.escape_ascii());
    }
    let reached = backend.requests.borrow();
    // What it was told by connections that are still kept is read once.
    backend.connections.borrow_mut().retain(|told| Rc::strong_count(told) > 1);
    if bytes.starts_with(PREFACE) {
        return;
    }
    let (asked, _) = reading::requests(bytes);
    let mut asked = asked.iter();
    for request in reached.iter() {
        let known = asked.any(|asked| asked.is(request));
        assert!(known, "nobody asked {request:?}; the client was told {}", said.escape_ascii());
    }
}

/// Sends everything, and goes when nothing happens any more.
async fn converse(harness: &Rc<Harness>, backend: &Heard, bytes: &[u8]) -> Vec<u8> {
    let (mut client, server) = tokio::io::duplex(MOST * 2);
    let served = Rc::clone(harness);
    let serving = tokio::task::spawn_local(async move { served.serve(server).await });
    client.write_all(bytes).await.expect("there is room");
    let (mut reader, writer) = tokio::io::split(client);
    let said = Rc::new(RefCell::new(Vec::new()));
    let heard = Rc::clone(&said);
    let listening = tokio::task::spawn_local(async move {
        let mut part = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = reader.read(&mut part).await {
            heard.borrow_mut().extend_from_slice(&part[..count]);
        }
    });
    let mut quiet = 0;
    let mut before = (0, 0);
    while quiet < QUIET && !serving.is_finished() {
        tokio::task::yield_now().await;
        let now = (said.borrow().len(), backend.happened.get());
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
    }
    drop(writer);
    listening.abort();
    let _ = listening.await;
    let _ = serving.await;
    said.take()
}
