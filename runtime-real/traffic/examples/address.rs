//! The two ends of a comparison of service addresses with direct connections.
//!
//! `address carry PORT...` carries the service `web`, whose one replica listens on these ports of
//! loopback, and prints its address; `address echo PORT` sends back what it is sent; `address ask
//! HOST PORT COUNT` sends 64 bytes and waits for them that many times on one connection, `address
//! connect HOST PORT COUNT` on a connection each. All but the last two run until standard input
//! ends. Time is measured by whoever calls it.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use mill_core::name::{AllocId, NodeId};
use mill_core::net::{NodeTable, Replica, ServiceTable, Tables};
use mill_traffic::Traffic;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const BYTES: usize = 64;

fn tables(ports: &[u16]) -> Result<Tables, Box<dyn Error>> {
    let replica = |port: &u16| {
        let alloc = AllocId::known("web.0-a");
        let replica = Replica { slot: 0, alloc, node: NodeId(1), host: HERE, port: *port };
        (*port, vec![replica])
    };
    let web = ServiceTable { address: 1, ports: ports.iter().map(replica).collect() };
    Ok(Tables {
        services: BTreeMap::from([("web".parse()?, web)]),
        nodes: BTreeMap::from([(NodeId(1), NodeTable { name: "a".to_owned(), host: HERE })]),
        ..Tables::default()
    })
}

async fn until_the_end() -> std::io::Result<usize> {
    tokio::io::stdin().read_to_end(&mut Vec::new()).await
}

async fn carry(ports: &[u16]) -> Result<(), Box<dyn Error>> {
    let tables = tables(ports)?;
    println!("{}", tables.network.of_service(1));
    let (_tables, seen) = watch::channel(Arc::new(tables));
    let _traffic = Traffic::start(NodeId(1), seen).await?;
    until_the_end().await?;
    Ok(())
}

async fn echo(port: u16) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind((HERE, port)).await?;
    let accepting = async {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                let mut part = [0; BYTES];
                while stream.read_exact(&mut part).await.is_ok() {
                    if stream.write_all(&part).await.is_err() {
                        break;
                    }
                }
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        _ = until_the_end() => {}
    }
    Ok(())
}

async fn ask(at: SocketAddr, count: u32, each: u32) -> Result<(), Box<dyn Error>> {
    for _ in 0..count {
        let mut stream = TcpStream::connect(at).await?;
        stream.set_nodelay(true)?;
        let mut part = [7; BYTES];
        for _ in 0..each {
            stream.write_all(&part).await?;
            stream.read_exact(&mut part).await?;
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["carry", ref ports @ ..] => {
            carry(&ports.iter().map(|port| port.parse()).collect::<Result<Vec<_>, _>>()?).await
        }
        ["echo", port] => echo(port.parse()?).await,
        ["ask", host, port, count] => {
            ask(SocketAddr::new(host.parse()?, port.parse()?), 1, count.parse()?).await
        }
        ["connect", host, port, count] => {
            ask(SocketAddr::new(host.parse()?, port.parse()?), count.parse()?, 1).await
        }
        _ => Err("usage: address carry PORT... | echo PORT | ask|connect HOST PORT COUNT".into()),
    }
}
