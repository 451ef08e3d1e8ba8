//! A server for containers of tests: answers every request at once, and ends well when it is asked
//! to: no new connections, what is under way is answered, then the end. `serve ask HOST:PORT`, or the
//! name of a variable that holds that, asks another one and prints at which address, and its answer.

use std::convert::Infallible;
use std::error::Error;
use std::io::Write as _;
use std::net::Ipv4Addr;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

const DEFAULT_PORT: u16 = 8080;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    if let [_, verb, whom] = &std::env::args().collect::<Vec<_>>()[..] {
        assert_eq!(verb, "ask", "there is nothing else to do");
        return ask(&std::env::var(whom).unwrap_or_else(|_| whom.clone()));
    }
    let mut asked_to_end = signal(SignalKind::terminate())?;
    let port = std::env::var("PORT").ok().map_or(Ok(DEFAULT_PORT), |port| port.parse())?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
    let version = std::env::var("VERSION").unwrap_or_default();
    println!("version {version} listens on {port}");
    let (end, ending) = watch::channel(());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = asked_to_end.recv() => break,
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                connections.spawn(serve(stream, version.clone(), ending.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop((listener, end));
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// Asks as any program does, that knows nothing of Mill.
fn ask(whom: &str) -> Result<(), Box<dyn Error>> {
    let mut stream = std::net::TcpStream::connect(whom)?;
    let address = stream.peer_addr()?;
    stream.write_all(format!("GET / HTTP/1.0\r\nhost: {whom}\r\n\r\n").as_bytes())?;
    let answer = std::io::read_to_string(stream)?;
    println!("{address} {}", answer.lines().last().unwrap_or_default());
    Ok(())
}

async fn serve(stream: TcpStream, version: String, mut ending: watch::Receiver<()>) {
    let answer = service_fn(move |_: Request<Incoming>| {
        let body = Full::new(Bytes::from(format!("version={version}\n")));
        async { Ok::<_, Infallible>(Response::new(body)) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
    let mut connection = std::pin::pin!(connection);
    // A caller that breaks off is no business of the others.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = ending.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
