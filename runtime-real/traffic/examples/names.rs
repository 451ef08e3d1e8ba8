//! The name server alone, as the comparison runs it: `names LISTEN`.
//!
//! It knows 50 services of three replicas each, `service-0.mill` to `service-49.mill`, and one of
//! 200, and serves on one thread until standard input ends.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mill_core::name::{AllocId, Name, NodeId};
use mill_core::net::{NodeTable, Replica, ServiceTable, Tables};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;

const SERVICES: u16 = 50;
const NODES: u8 = 3;

fn host(node: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, node])
}

fn service(name: &str, address: u16, replicas: u16) -> Option<(Name, ServiceTable)> {
    let replica = |slot: u16| {
        let node = u8::try_from(slot % u16::from(NODES)).map_or(1, |node| node + 1);
        let alloc = AllocId::known(&format!("{name}.{slot}-a"));
        let (slot, port) = (u64::from(slot), 20_000 + slot);
        Replica { slot, alloc, node: NodeId(u64::from(node)), host: host(node), port }
    };
    let ports = BTreeMap::from([(8080, (0..replicas).map(replica).collect())]);
    Some((name.parse().ok()?, ServiceTable { address, ports }))
}

fn tables() -> Tables {
    let named = |number: u16| service(&format!("service-{number}"), number + 1, NODES.into());
    let node = |number: u8| {
        let table = NodeTable { name: format!("node-{number}"), host: host(number) };
        (NodeId(number.into()), table)
    };
    Tables {
        services: (0..SERVICES).filter_map(named).chain(service("many", 100, 200)).collect(),
        nodes: (1..=NODES).map(node).collect(),
        ..Tables::default()
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listen = std::env::args().nth(1).ok_or("usage: names LISTEN")?;
    let listen: SocketAddr = listen.parse()?;
    let (udp, tcp) = (UdpSocket::bind(listen).await?, TcpListener::bind(listen).await?);
    let (_tables, seen) = watch::channel(Arc::new(tables()));
    let mut end = Vec::new();
    let mut input = tokio::io::stdin();
    tokio::select! {
        () = mill_traffic::serve_names(seen, udp, tcp) => {}
        _ = input.read_to_end(&mut end) => {}
    }
    Ok(())
}
