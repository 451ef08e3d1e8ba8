//! Any bytes as what a replica answers, in any pieces, to a request that comes through an ingress.
//!
//! What the client hears is read by `answering.rs`, which takes nothing that could be read in two
//! ways: it is one answer, and it ends where that reader says that the replica's ends; or it breaks
//! off before its end; or it is the ingress's own page. Whatever the replica says beyond its answer
//! is never taken for the answer to the client's next request. However much it says while the
//! client takes nothing, the memory that is held has a bound.

#![no_main]

#[path = "../answering.rs"]
mod answering;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use answering::{Asked, End, Reading, answer};
use libfuzzer_sys::fuzz_target;
use mill_ingress::fuzzing::Harness;
use mill_ingress::{Backend, HttpRoute, Options, Service, Table};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// What one input may be.
const MOST: usize = 32 * 1024;
/// Longer than any of the ingress's own times; the clock is moved on when all wait.
const FOREVER: Duration = Duration::from_secs(200);
/// What a replica says at most when nobody listens.
const FLOOD: usize = 4 * 1024 * 1024;
/// What it says at once then.
const BLOCK: usize = 32 * 1024;
/// Bytes of the heap that one request may hold, pipes of 64 KiB in memory included.
const MOST_HEAP: usize = 2 * 1024 * 1024;
/// What every later request is answered.
const PAGE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage";

/// Counts what is on the heap.
struct Counting;

static HEAP: AtomicUsize = AtomicUsize::new(0);
static MOST_ON_HEAP: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: everything is left to the system's allocator; only sizes are added up beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = HEAP.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST_ON_HEAP.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HEAP.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// What an input means: two bytes of how, and then what is said.
#[derive(Clone, Copy)]
struct Said<'a> {
    asked: Asked,
    /// Whether the connection ends after it.
    ends: bool,
    /// Whether it is said again and again while the client takes nothing.
    flood: bool,
    /// No piece of it is longer; 0 for one piece.
    cut: u8,
    bytes: &'a [u8],
}

impl Said<'_> {
    fn new(input: &[u8]) -> Option<Said<'_>> {
        let (&[how, cut], bytes) = input.split_first_chunk()?;
        let asked = Asked { head: how & 3 == 1, upgrade: how & 3 == 2 };
        Some(Said { asked, ends: how & 4 != 0, flood: how & 8 != 0, cut, bytes })
    }

    fn request(&self) -> &'static [u8] {
        match self.asked {
            Asked { head: true, .. } => b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
            Asked { upgrade: true, .. } => {
                b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
            }
            Asked { .. } => b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        }
    }
}

struct World {
    runtime: LocalRuntime,
    harness: Rc<Harness>,
}

thread_local! {
    static WORLD: World = World::new();
}

impl World {
    fn new() -> World {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build_local(LocalOptions::default())
            .expect("a runtime starts");
        let options = Options { workers: 1, ..Options::default() };
        let harness = runtime.block_on(async { Harness::new(options, table()) });
        World { runtime, harness: Rc::new(harness.expect("the table makes sense")) }
    }
}

fn table() -> Table {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let backends = vec![Backend { id: "web".into(), address, same_node: true, h2c: false }];
    let timeout = Some(Duration::from_secs(20));
    let route = HttpRoute { websocket: true, timeout, ..HttpRoute::new("a", "/", "web") };
    let services = vec![Service { name: "web".into(), backends }];
    Table { http: vec![route], services, ..Table::default() }
}

fuzz_target!(|input: &[u8]| {
    if let Some(said) = Said::new(input).filter(|said| said.bytes.len() <= MOST) {
        WORLD.with(|world| world.runtime.block_on(play(&world.harness, said)));
    }
});

async fn play(harness: &Rc<Harness>, said: Said<'_>) {
    let mut replicas = Harness::replicas();
    let (client, server) = tokio::io::duplex(64 * 1024);
    let mut tasks = JoinSet::new();
    let served = Rc::clone(harness);
    tasks.spawn_local(async move { served.serve(server).await });
    let done = Rc::new(Cell::new(false));
    let mut first = Some((said.bytes.to_vec(), said.cut, said.ends, said.flood, Rc::clone(&done)));
    let mut connections = JoinSet::new();
    tasks.spawn_local(async move {
        while let Some(stream) = replicas.recv().await {
            connections.spawn_local(replica(stream, first.take()));
        }
    });
    if said.flood {
        flood(client, said, &done).await;
    } else {
        converse(client, said, &done).await;
    }
    // Nothing of it is left for the next input.
    tasks.shutdown().await;
}

type Saying = (Vec<u8>, u8, bool, bool, Rc<Cell<bool>>);

/// Says what it is to say to the first request, and a page to each other.
async fn replica(mut stream: DuplexStream, first: Option<Saying>) {
    let Some(()) = request(&mut stream).await else { return };
    match first {
        None => drop(stream.write_all(PAGE).await),
        Some((bytes, cut, ends, flood, done)) => {
            if flood && !bytes.is_empty() {
                let again = bytes.repeat(1 + BLOCK / bytes.len());
                for _ in 0..FLOOD / BLOCK {
                    if say(&mut stream, &again, 0).await.is_err() {
                        break;
                    }
                }
            } else {
                // Whoever asked sees what is missing.
                let _ = say(&mut stream, &bytes, cut).await;
            }
            done.set(true);
            if ends {
                return;
            }
        }
    }
    while let Some(()) = request(&mut stream).await {
        // Whoever asked sees what is missing.
        let _ = stream.write_all(PAGE).await;
    }
}

/// Says it in pieces, each of which is seen by itself.
async fn say(stream: &mut DuplexStream, bytes: &[u8], cut: u8) -> std::io::Result<()> {
    let mut random = 0x9e37_79b9_u32 ^ u32::from(cut);
    let mut rest = bytes;
    while !rest.is_empty() {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        let length = if cut == 0 { rest.len() } else { 1 + random as usize % usize::from(cut) };
        let (piece, after) = rest.split_at(length.min(rest.len()));
        stream.write_all(piece).await?;
        rest = after;
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// The next request's head; none has a body.
async fn request(stream: &mut DuplexStream) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(())
}

/// What there is of an answer when it is whole, or its connection has ended.
async fn hear(client: &mut DuplexStream, asked: Asked) -> Vec<u8> {
    let mut heard = Vec::with_capacity(1024);
    loop {
        match timeout(FOREVER, client.read_buf(&mut heard)).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => return heard,
            Err(_) => {
                let tunnel = matches!(answer(&heard, asked), Reading::Answer(101, ..));
                assert!(tunnel, "no end after {}", heard.escape_ascii());
                return heard;
            }
        }
        if matches!(answer(&heard, asked), Reading::Answer(_, _, End::Whole(_))) {
            return heard;
        }
    }
}

async fn converse(mut client: DuplexStream, said: Said<'_>, done: &Cell<bool>) {
    client.write_all(said.request()).await.expect("there is room");
    let heard = hear(&mut client, said.asked).await;
    check(said, &heard);
    let Reading::Answer(_, _, End::Whole(_)) = answer(&heard, said.asked) else { return };
    // Nothing is said any more that could be taken for a second answer.
    for _ in 0..50 {
        if done.get() {
            break;
        }
        sleep(Duration::from_millis(1)).await;
    }
    let plain = Asked { head: false, upgrade: false };
    if client.write_all(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await.is_err() {
        return;
    }
    let next = hear(&mut client, plain).await;
    // The ingress may have ended the connection after the first.
    if !next.is_empty() {
        let Reading::Answer(200, body, End::Whole(length)) = answer(&next, plain) else {
            panic!("the next request was answered {}", next.escape_ascii());
        };
        let right = body == b"page" && length == next.len();
        assert!(right, "the next request was answered {}", next.escape_ascii());
    }
}

/// Whether a client may hear this when a replica says that.
fn check(said: Said<'_>, heard: &[u8]) {
    let shown = || format!("{} -> {}", said.bytes.escape_ascii(), heard.escape_ascii());
    let (status, body, end) = match answer(heard, said.asked) {
        // It was broken off before any of it was passed on.
        Reading::Part if !heard.contains(&b'\n') => return,
        Reading::Part | Reading::Odd => panic!("no answer: {}", shown()),
        Reading::Answer(status, body, end) => (status, body, end),
    };
    if let End::Whole(length) = end {
        assert!(length == heard.len(), "more than an answer: {}", shown());
    }
    let own = matches!(status, 502 | 504) && (said.asked.head || body.starts_with(b"50"));
    match answer(said.bytes, said.asked) {
        Reading::Part => assert!(own, "an answer out of nothing: {}", shown()),
        // How such a thing is read is the ingress's to say, as long as it is read in one way.
        Reading::Odd => {}
        Reading::Answer(wanted, all, ending) => {
            let ends = match ending {
                End::Whole(_) => true,
                End::WithConnection => said.ends || wanted == 101,
                End::Cut => false,
            };
            let whole = matches!(end, End::Whole(_)) || status == 101;
            assert!(own || status == wanted, "another status: {}", shown());
            assert!(own || all.starts_with(&body), "another body: {}", shown());
            assert!(own || ends || !whole, "a part as a whole: {}", shown());
            assert!(
                !ends || (whole && status == wanted && body == all),
                "a whole lost: {}",
                shown()
            );
        }
    }
}

/// Has it said as often as it is taken, and takes nothing.
async fn flood(mut client: DuplexStream, said: Said<'_>, done: &Cell<bool>) {
    let before = HEAP.load(Ordering::Relaxed);
    MOST_ON_HEAP.store(before, Ordering::Relaxed);
    client.write_all(said.request()).await.expect("there is room");
    // It goes on until nothing is taken any more, and then time does.
    timeout(Duration::from_secs(5), async {
        while !done.get() {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .unwrap_or_default();
    let held = MOST_ON_HEAP.load(Ordering::Relaxed) - before;
    assert!(held < MOST_HEAP, "{held} bytes were held for one request");
}
