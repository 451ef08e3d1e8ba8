//! The same load on Mill and on etcd, block by block in turn: small writes by so many clients, each
//! of which waits for its answer before it writes again.
//!
//! Mill gets a label of a node over HTTP/1.1, each client with a connection of its own; etcd gets
//! a put over gRPC, as its own clients do it, several clients to a connection. Keys and values are
//! equal. It measures and decides nothing; `tools/versus-etcd.sh` starts both and runs it.

use std::error::Error;
use std::time::{Duration, Instant};

use clap::Parser;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// At the start of each block this is not counted.
const WARM_UP: Duration = Duration::from_millis(500);
/// Clients that share a connection to etcd; its own benchmark has ten.
const CLIENTS_PER_CONNECTION: usize = 10;
/// Keys that are written; a node has 32 labels at most.
const KEYS: usize = 16;

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;
type Body = Full<Bytes>;

/// Loads Mill and etcd in turn, and prints how they compare.
#[derive(Debug, Parser)]
struct Args {
    /// HOST:PORT of the API of Mill's leader.
    #[arg(long)]
    mill: String,
    /// Its token.
    #[arg(long, env = "MILL_TOKEN")]
    token: String,
    /// The node whose labels are written.
    #[arg(long)]
    node: String,
    /// HOST:PORT at which etcd's leader serves clients.
    #[arg(long)]
    etcd: String,
    /// How many clients at a time.
    #[arg(long, default_value = "1,16,256", value_delimiter = ',')]
    clients: Vec<usize>,
    /// How long a block counts.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// How many blocks each gets per number of clients.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// Who is written to.
#[derive(Clone, Debug)]
enum Store {
    Mill { address: String, token: String, node: String },
    Etcd { address: String },
}

/// A way to a store; what is sent on it goes to that store.
enum Connection {
    Mill { sender: http1::SendRequest<Body>, path: String, token: String },
    Etcd { sender: http2::SendRequest<Body>, uri: String },
}

/// What a block has shown.
struct Seen {
    /// Writes per second.
    rate: f64,
    /// How long the middle one took, and the one that 99 of 100 do not exceed, in milliseconds.
    middle: f64,
    slow: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let mill = Store::Mill { address: args.mill, token: args.token, node: args.node };
    let etcd = Store::Etcd { address: args.etcd };
    println!("medians of {} blocks of {} s each, in turn; a ratio", args.rounds, args.seconds);
    println!("above 1 speaks for mill; in brackets the least and the greatest\n");
    for count in args.clients {
        let mut blocks = Vec::new();
        for _ in 0..args.rounds {
            let ours = block(&mill, count, Duration::from_secs(args.seconds)).await?;
            let theirs = block(&etcd, count, Duration::from_secs(args.seconds)).await?;
            blocks.push((ours, theirs));
        }
        println!("{count} clients        mill      etcd   ratio");
        let rates = blocks.iter().map(|(mill, etcd)| (mill.rate, etcd.rate, mill.rate / etcd.rate));
        line("writes/s", rates);
        let middles = blocks.iter().map(|(mill, etcd)| (mill.middle, etcd.middle));
        line("p50, ms", middles.map(|(mill, etcd)| (mill, etcd, etcd / mill)));
        let slow = blocks.iter().map(|(mill, etcd)| (mill.slow, etcd.slow));
        line("p99, ms", slow.map(|(mill, etcd)| (mill, etcd, etcd / mill)));
        println!();
    }
    Ok(())
}

fn line(what: &str, blocks: impl Iterator<Item = (f64, f64, f64)> + Clone) {
    let mill = sorted(blocks.clone().map(|(mill, _, _)| mill));
    let etcd = sorted(blocks.clone().map(|(_, etcd, _)| etcd));
    let ratio = sorted(blocks.map(|(_, _, ratio)| ratio));
    println!(
        "  {what:10} {:9.2} {:9.2}  {:6.2}  [{:.2} .. {:.2}]",
        at(&mill, 50),
        at(&etcd, 50),
        at(&ratio, 50),
        at(&ratio, 0),
        at(&ratio, 100)
    );
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The value that so many of a hundred do not exceed; they are sorted.
fn at(values: &[f64], percent: usize) -> f64 {
    values[(values.len() - 1) * percent / 100]
}

/// Lets so many clients write for a while.
async fn block(store: &Store, clients: usize, counted: Duration) -> Result<Seen> {
    let mut connections = Vec::new();
    for client in 0..clients {
        let connection = match (store, connections.last()) {
            (Store::Etcd { .. }, Some(Connection::Etcd { sender, uri }))
                if client % CLIENTS_PER_CONNECTION != 0 =>
            {
                Connection::Etcd { sender: sender.clone(), uri: uri.clone() }
            }
            (Store::Mill { .. } | Store::Etcd { .. }, _) => store.connect().await?,
        };
        connections.push(connection);
    }
    let begin = now() + WARM_UP;
    let end = begin + counted;
    let mut writing = JoinSet::new();
    for (client, connection) in connections.into_iter().enumerate() {
        writing.spawn(write_until(connection, client, begin, end));
    }
    let mut took = Vec::new();
    while let Some(done) = writing.join_next().await {
        took.extend(done??);
    }
    let took = sorted(took.into_iter().map(|took| took.as_secs_f64() * 1000.0));
    let rate = took.len() as f64 / counted.as_secs_f64();
    match took.is_empty() {
        true => Err("no write came to its end in time".into()),
        false => Ok(Seen { rate, middle: at(&took, 50), slow: at(&took, 99) }),
    }
}

/// How long each write took that ended in the time that counts.
async fn write_until(
    mut connection: Connection,
    client: usize,
    begin: Instant,
    end: Instant,
) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    let key = format!("load-{:02}", client % KEYS);
    for number in 0_u64.. {
        let asked = now();
        if asked >= end {
            break;
        }
        // Each value is another: what is so already is not written.
        let since_start = asked.saturating_duration_since(begin).as_nanos();
        let value = format!("{client:03}-{number:09}-{since_start:020}-{:024}", 0);
        connection.write(&key, &value).await?;
        let answered = now();
        if (begin..end).contains(&answered) {
            took.push(answered - asked);
        }
    }
    Ok(took)
}

#[expect(clippy::disallowed_methods, reason = "what is measured is the time")]
fn now() -> Instant {
    Instant::now()
}

impl Store {
    async fn connect(&self) -> Result<Connection> {
        match self {
            Store::Mill { address, token, node } => {
                let stream = dial(address).await?;
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                let path = format!("/v1/nodes/{node}/labels");
                Ok(Connection::Mill { sender, path, token: format!("Bearer {token}") })
            }
            Store::Etcd { address } => {
                let stream = dial(address).await?;
                let builder = http2::Builder::new(TokioExecutor::new());
                let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                Ok(Connection::Etcd {
                    sender,
                    uri: format!("http://{address}/etcdserverpb.KV/Put"),
                })
            }
        }
    }
}

async fn dial(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Connection {
    /// Writes once, and waits until that is done for good.
    async fn write(&mut self, key: &str, value: &str) -> Result<()> {
        match self {
            Connection::Mill { sender, path, token } => {
                let body = format!(r#"{{"set":{{"{key}":"{value}"}}}}"#);
                let request = Request::post(&*path)
                    .header(header::HOST, "mill")
                    .header(header::AUTHORIZATION, &*token)
                    .header(header::CONTENT_TYPE, "application/json")
                    .body(Full::from(body))?;
                sender.ready().await?;
                whole(sender.send_request(request).await?).await
            }
            Connection::Etcd { sender, uri } => {
                let request = Request::post(&*uri)
                    .header(header::CONTENT_TYPE, "application/grpc")
                    .header(header::TE, "trailers")
                    .body(Full::from(put(key, value)))?;
                sender.ready().await?;
                whole(sender.send_request(request).await?).await
            }
        }
    }
}

/// A gRPC message that holds etcd's `PutRequest`: its fields 1 and 2 are the key and the value.
fn put(key: &str, value: &str) -> Vec<u8> {
    let mut request = Vec::new();
    for (field, text) in [(1_u8, key), (2, value)] {
        let length = u8::try_from(text.len()).ok().filter(|length| *length < 128);
        request.extend([field << 3 | 2, length.expect("keys and values are short")]);
        request.extend(text.as_bytes());
    }
    let length = u32::try_from(request.len()).expect("it is short");
    let mut message = vec![0];
    message.extend(length.to_be_bytes());
    message.extend(request);
    message
}

/// Takes the whole answer; anything but success is an error.
async fn whole(response: Response<Incoming>) -> Result<()> {
    let (head, body) = response.into_parts();
    let body = body.collect().await?;
    let status = body.trailers().and_then(|trailers| trailers.get("grpc-status"));
    let status = status.or(head.headers.get("grpc-status")).cloned();
    if head.status == StatusCode::OK && status.as_ref().is_none_or(|status| status == "0") {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Err(format!("a write was refused: {}, grpc {status:?}: {text}", head.status).into())
}
