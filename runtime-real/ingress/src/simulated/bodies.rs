//! Bodies over links that lag: they stream both ways, whoever is slow slows the other down, and
//! what breaks off is never taken for the whole.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::handshake;
use hyper::{Method, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::spawn_local;
use tokio::time::sleep;
use turmoil::net::TcpStream;

use crate::options::Options;

use super::lost::read_head;
use super::people::{connect, request};
use super::stage::{HOST, Ingress, PORT, ROOMY, machine, millis, network, route, tell};

/// A body, many times what may be on its way.
const BODY: usize = 4 * 1024 * 1024;

/// What is said at once, and what is taken at once.
const PIECE: usize = 16 * 1024;

/// Segments on their way in one direction of a connection.
const ROOM: usize = 4;

/// Bytes on their way at most: two links full of segments, each of which may be all that the
/// ingress reads at once (64 KiB), and that once more in its buffers.
const MOST_UNDER_WAY: usize = (2 * ROOM + 4) * 64 * 1024;

fn options() -> Options {
    Options { workers: 1, ..Options::default() }
}

/// What is said from there on.
fn piece(at: usize) -> Vec<u8> {
    vec![(at / PIECE % 251) as u8; PIECE]
}

/// How much was said, and how much was taken of it.
#[derive(Clone, Default)]
struct Flow {
    said: Rc<Cell<usize>>,
    taken: Rc<Cell<usize>>,
    most_under_way: Rc<Cell<usize>>,
}

impl Flow {
    /// Says a whole body as fast as it is taken.
    async fn say(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        while self.said.get() < BODY {
            let at = self.said.get();
            stream.write_all(&piece(at)).await?;
            self.said.set(at + PIECE);
            let under_way = self.said.get() - self.taken.get();
            self.most_under_way.set(self.most_under_way.get().max(under_way));
        }
        Ok(())
    }

    /// Takes a whole body slowly.
    async fn take(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut heard = vec![0; PIECE];
        while self.taken.get() < BODY {
            stream.read_exact(&mut heard).await?;
            let at = self.taken.get();
            assert!(heard == piece(at), "what came at {at} is not what was said");
            self.taken.set(at + PIECE);
            sleep(millis(8)).await;
        }
        Ok(())
    }

    fn check(&self) {
        assert_eq!((self.said.get(), self.taken.get()), (BODY, BODY));
        let most = self.most_under_way.get();
        assert!(most < MOST_UNDER_WAY, "{most} bytes were under way");
    }
}

#[test]
fn a_slow_caller_slows_its_replica_down() {
    for seed in 0..6 {
        let mut sim = network(seed, ROOM);
        let flow = Flow::default();
        let saying = flow.clone();
        machine(&mut sim, "one", move |mut stream| {
            let flow = saying.clone();
            async move {
                let Some(_) = read_head(&mut stream).await else { return };
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                flow.say(&mut stream).await.unwrap();
                let _until_the_ingress_ends_it = read_head(&mut stream).await;
            }
        });
        let ingress = Ingress::new(&mut sim, seed, options());
        tell(sim, seed, async move {
            ingress.publish(route(), &["one"]);
            let mut stream = connect(PORT).await.unwrap();
            let asked = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
            stream.write_all(asked.as_bytes()).await.unwrap();
            let head = read_head(&mut stream).await.unwrap();
            assert!(head.starts_with(b"HTTP/1.1 200 OK"), "{}", head.escape_ascii());
            flow.take(&mut stream).await.unwrap();
            flow.check();
        });
    }
}

#[test]
fn a_slow_replica_slows_its_caller_down() {
    for seed in 0..6 {
        let mut sim = network(seed, ROOM);
        let flow = Flow::default();
        let taking = flow.clone();
        machine(&mut sim, "one", move |mut stream| {
            let flow = taking.clone();
            async move {
                let Some(_) = read_head(&mut stream).await else { return };
                flow.take(&mut stream).await.unwrap();
                stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                let _until_the_ingress_ends_it = read_head(&mut stream).await;
            }
        });
        let ingress = Ingress::new(&mut sim, seed, options());
        tell(sim, seed, async move {
            ingress.publish(route(), &["one"]);
            let mut stream = connect(PORT).await.unwrap();
            let asked =
                format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {BODY}\r\n\r\n");
            stream.write_all(asked.as_bytes()).await.unwrap();
            flow.say(&mut stream).await.unwrap();
            let head = read_head(&mut stream).await.unwrap();
            assert!(head.starts_with(b"HTTP/1.1 204"), "{}", head.escape_ascii());
            flow.check();
        });
    }
}

/// How an answer says where it ends.
const FRAMINGS: [(&str, &str); 3] = [
    ("content-length: 200000", ""),
    ("transfer-encoding: chunked", "30d40\r\n"),
    ("connection: close", ""),
];

/// A replica that says a part of an answer of 200,000 bytes, and is gone.
async fn die(mut stream: TcpStream, framing: usize, part: usize) {
    // Where the end of the connection is that of the answer, only a reset breaks it off. It comes of
    // what was not read.
    if framing == 2 {
        let _ = stream.read_u8().await;
    } else {
        let _ = read_head(&mut stream).await;
    }
    let (field, before) = FRAMINGS[framing];
    let head = format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n{before}");
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&vec![b'x'; part]).await;
}

async fn ask() -> hyper::Result<Response<hyper::body::Incoming>> {
    let stream = TokioIo::new(connect(PORT).await.unwrap());
    let (mut sender, connection) = handshake::<_, Full<Bytes>>(stream).await?;
    spawn_local(connection);
    sender.send_request(request(Method::GET, "/", Vec::new())).await
}

#[test]
fn an_answer_that_breaks_off_is_never_taken_for_a_whole_one() {
    for seed in 0..24 {
        let mut sim = network(seed, ROOMY);
        let (framing, part) = (seed as usize % 3, [0, 1, 70_000, 199_999][seed as usize / 3 % 4]);
        machine(&mut sim, "one", move |stream| die(stream, framing, part));
        let ingress = Ingress::new(&mut sim, seed, options());
        tell(sim, seed, async move {
            ingress.publish(route(), &["one"]);
            // What breaks off before anything was passed on ends the connection.
            let Ok(answer) = ask().await else { return };
            if framing == 2 && answer.status() == 502 {
                // The reset came first.
                return;
            }
            assert_eq!(answer.status(), 200);
            let mut body = answer.into_body();
            let mut length = 0;
            let end = loop {
                match body.frame().await {
                    Some(Ok(frame)) => length += frame.data_ref().map_or(0, Bytes::len),
                    end => break end,
                }
            };
            assert!(matches!(end, Some(Err(_))), "{length} bytes and then {end:?}");
            assert!(length <= part, "{length} of {part} bytes");
        });
    }
}
