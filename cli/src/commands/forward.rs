//! `mill forward`: connections to a port of this machine, carried to replicas of a service.
//!
//! Each finds its replica by itself, through whichever node is asked; what keeps one from it is
//! said, and the next is tried again. It ends when what it leads to has ended for good.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use mill_core::api::{ApiError, ErrorCode};
use mill_runtime_real::streams::{Ask, Closer, carry};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{Outcome, done};
use crate::args::{Forward, Ports};
use crate::client::Client;
use crate::failure::Failure;

/// Connections at a time; more wait. A node has room for some more streams than that.
const CONNECTIONS_MAX: usize = 200;
/// Between two tries to accept where the kernel refuses, mostly for want of file descriptors.
const RETRY: Duration = Duration::from_millis(500);
/// Different troubles that are said once each; of more, only the newest is remembered.
const TROUBLES_MAX: usize = 100;

/// What a connection tells whoever listens for all of them.
enum Told {
    /// It could not be carried.
    Trouble(String),
    /// None ever will be.
    Over(Failure),
}

/// `mill forward`.
pub async fn forward(args: Forward, json: bool) -> Outcome {
    let client = Client::new(&args.at.address)?;
    let Ports { local, remote } = args.ports;
    let listener = listen(local).await?;
    let local = listener.local_addr().map_err(|error| Failure::of(&error))?;
    let ask = |look| Ask::Forward { target: args.target.clone(), port: remote, look };
    client.stream(&ask(true)).await?;
    match json {
        true => println!("{}", json!({ "local": local, "target": args.target, "port": remote })),
        false => println!("{local} leads to {} port {remote}; Ctrl-C ends it", args.target),
    }
    let (told, mut telling) = mpsc::channel(1);
    let accepting = accept(listener, |socket, place| {
        let connection = carried(client.clone(), ask(false), socket, told.clone());
        tokio::spawn(async move {
            connection.await;
            drop(place);
        });
    });
    let mut said = BTreeSet::new();
    let listening = async {
        loop {
            match telling.recv().await {
                Some(Told::Over(failure)) => return Err(failure),
                Some(Told::Trouble(text)) => {
                    if said.len() >= TROUBLES_MAX {
                        said.clear();
                    }
                    if said.insert(text.clone()) {
                        eprintln!("error: {text}");
                    }
                }
                None => std::future::pending().await,
            }
        }
    };
    tokio::select! {
        () = accepting => done(),
        over = listening => over,
        // Ctrl-C is how forwarding ends.
        _ = tokio::signal::ctrl_c() => done(),
    }
}

async fn listen(port: u16) -> Result<TcpListener, Failure> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::AddrInUse => "another program listens there".to_owned(),
            io::ErrorKind::PermissionDenied => "that needs root".to_owned(),
            _ => error.to_string(),
        };
        Failure::Failed(format!(
            "cannot listen on 127.0.0.1:{port}: {why}; write another port before the service's, \
             as 18080:8080, or 0:8080 for any"
        ))
    })
}

async fn accept(listener: TcpListener, begin: impl Fn(TcpStream, OwnedSemaphorePermit)) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = room.clone().acquire_owned().await.expect("it is never closed");
        match listener.accept().await {
            Ok((socket, _)) => begin(socket, place),
            Err(error) => {
                eprintln!("error: no connections can be accepted just now: {error}");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Carries one connection.
async fn carried(client: Client, ask: Ask, socket: TcpStream, told: mpsc::Sender<Told>) {
    // What is small must not wait for more; one that is gone already is found out below.
    let _ = socket.set_nodelay(true);
    let told_now = match client.stream(&ask).await {
        Ok((mut sender, receiver, opened)) => {
            let carried = carry(socket, &mut sender, receiver, Closer::There).await;
            carried.err().map(|error| {
                let (alloc, node) = (opened.alloc, opened.node);
                Told::Trouble(format!(
                    "a connection to {alloc} on node {node} was cut off: {error}"
                ))
            })
        }
        Err(failure) => {
            reset(socket);
            match failure {
                Failure::Refused(error) if error.code == ErrorCode::NotFound => {
                    Some(over_or_moved(&client, ask, error).await)
                }
                Failure::Refused(error) => Some(Told::Trouble(error.to_string())),
                Failure::Failed(text) | Failure::Usage(text) | Failure::Unreachable(text) => {
                    Some(Told::Trouble(text))
                }
                Failure::Said => None,
            }
        }
    };
    if let Some(now) = told_now {
        // It may have been ended meanwhile.
        let _ = told.send(now).await;
    }
}

/// A replica that ended just now may have been replaced: only what is not there when it is looked
/// for again has ended for good.
async fn over_or_moved(client: &Client, ask: Ask, error: ApiError) -> Told {
    let look = match ask {
        Ask::Forward { target, port, .. } => Ask::Forward { target, port, look: true },
        Ask::Exec { .. } => ask,
    };
    match client.stream(&look).await {
        Err(Failure::Refused(again)) if again.code == ErrorCode::NotFound => {
            Told::Over(Failure::Refused(again))
        }
        Ok(_) | Err(_) => Told::Trouble(error.to_string()),
    }
}

/// Whoever connected learns that nothing came of it.
fn reset(socket: TcpStream) {
    // The kernel may refuse; then it is closed as usual.
    let _ = rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
}
