//! A proxy for one backend, as the benchmark runs it: `proxy LISTEN BACKEND WORKERS`.
//!
//! It serves the host `localhost` until standard input ends.

use std::io::Read;
use std::net::SocketAddr;

use mill_ingress::{Backend, HttpRoute, Ingress, Options, Service, Table};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("usage: proxy LISTEN BACKEND WORKERS");
    let http: SocketAddr = next()?.parse()?;
    let address: SocketAddr = next()?.parse()?;
    let workers = next()?.parse()?;
    let ingress = Ingress::start(Options { http: Some(http), workers, ..Options::default() })?;
    let backends = vec![Backend { id: "web".into(), address, same_node: true, h2c: false }];
    ingress.publish(Table {
        http: vec![HttpRoute::new("localhost", "/", "web")],
        tcp: Vec::new(),
        services: vec![Service { name: "web".into(), backends }],
    })?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
