//! Connections through a forwarder on turmoil's network: replicas that are cut off, refuse or come
//! late, and links that lag. The code is the one that carries real connections.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mill_core::name::{AllocId, Name, NodeId};
use mill_core::net::{Replica, ServiceTable, Tables};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use turmoil::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use turmoil::net::{TcpListener, TcpStream};

use crate::balance::Balance;
use crate::carry::{Connection, Moved, carry};
use crate::forwarders::Callee;

const PORT: u16 = 8080;
const FORWARDER: &str = "forwarder";
/// What is sent at once, several times what is on its way at most.
const LOAD: usize = 300_000;

impl Connection for TcpStream {
    type Reading = OwnedReadHalf;
    type Writing = OwnedWriteHalf;

    fn connect(address: SocketAddr) -> impl Future<Output = io::Result<TcpStream>> + Send {
        TcpStream::connect(address)
    }

    fn send_at_once(&self) -> io::Result<()> {
        Ok(())
    }

    fn break_off(self) {}

    fn split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        self.into_split()
    }
}

fn service() -> Name {
    "web".parse().unwrap()
}

/// Tables with these replicas, by the names of their hosts.
fn tables(hosts: &[&str]) -> Arc<Tables> {
    let replica = |(slot, host): (u64, &&str)| Replica {
        slot,
        alloc: AllocId::known(&format!("web.{slot}-abcd")),
        node: NodeId(slot + 2),
        host: turmoil::lookup(*host),
        port: PORT,
    };
    let replicas = (0..).zip(hosts).map(replica).collect();
    let ports = BTreeMap::from([(PORT, replicas)]);
    let services = BTreeMap::from([(service(), ServiceTable { address: 1, ports })]);
    Arc::new(Tables { services, ..Tables::default() })
}

fn simulation(seed: u64) -> turmoil::Sim<'static> {
    turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(Duration::from_secs(60))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(40))
        .tcp_capacity(65_536)
        .epoch(std::time::UNIX_EPOCH)
        .build()
}

/// A replica that says its name once the caller has said all, and then all that it was told.
fn replica(sim: &mut turmoil::Sim<'static>, name: &'static str) {
    sim.host(name, move || async move {
        let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            drop(tokio::spawn(async move {
                let mut told = Vec::new();
                // A caller that is gone hears nothing.
                let _ = stream.read_to_end(&mut told).await;
                let _ = stream.write_all(name.as_bytes()).await;
                let _ = stream.write_all(&told).await;
                let _ = stream.shutdown().await;
            }));
        }
    });
}

/// A forwarder by tables that change: each list of hosts holds from its moment on.
fn forwarder(sim: &mut turmoil::Sim<'static>, lists: &'static [(u64, &'static [&'static str])]) {
    sim.host(FORWARDER, move || async move {
        let (given, seen) = watch::channel(tables(lists[0].1));
        drop(tokio::spawn(async move {
            for (after, hosts) in &lists[1..] {
                sleep(Duration::from_millis(*after)).await;
                given.send_replace(tables(hosts));
            }
            std::future::pending::<()>().await;
        }));
        let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
        let balance = Balance::default();
        loop {
            let (caller, _) = listener.accept().await?;
            let callee = Callee::new(NodeId(1), seen.clone(), (service(), PORT));
            let balance = balance.clone();
            drop(tokio::spawn(async move {
                // The caller sees what became of it.
                let _ = carry(caller, callee, &balance, &Moved::default()).await;
            }));
        }
    });
}

/// Says something, and that this was all; what is answered, and when.
async fn call(said: &[u8]) -> io::Result<(Vec<u8>, Duration)> {
    let begun = Instant::now();
    let address: IpAddr = turmoil::lookup(FORWARDER);
    let (mut reading, mut writing) = TcpStream::connect((address, PORT)).await?.into_split();
    let said = said.to_vec();
    // Both at once: what comes back may have to be taken before all is sent.
    let saying = tokio::spawn(async move {
        writing.write_all(&said).await?;
        writing.shutdown().await
    });
    let mut heard = Vec::new();
    reading.read_to_end(&mut heard).await?;
    saying.await.unwrap()?;
    Ok((heard, begun.elapsed()))
}

fn run(mut sim: turmoil::Sim<'static>, caller: impl Future<Output = ()> + 'static) {
    sim.client("caller", async move {
        // Everybody listens by then.
        sleep(Duration::from_millis(100)).await;
        caller.await;
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn each_direction_ends_by_itself_and_nothing_is_lost_whatever_links_do() {
    for seed in 0..20 {
        let mut sim = simulation(seed);
        replica(&mut sim, "one");
        forwarder(&mut sim, &[(0, &["one"])]);
        run(sim, async {
            let said: Vec<u8> = (0..LOAD).map(|at| (at % 251) as u8).collect();
            let (heard, _) = call(&said).await.unwrap();
            assert!(heard.starts_with(b"one") && heard[3..] == said, "{} bytes", heard.len());
        });
    }
}

#[test]
fn a_replica_that_is_cut_off_is_followed_by_the_next() {
    for seed in 0..20 {
        let mut sim = simulation(seed);
        replica(&mut sim, "one");
        replica(&mut sim, "two");
        forwarder(&mut sim, &[(0, &["one", "two"])]);
        run(sim, async {
            turmoil::partition(FORWARDER, "one");
            for _ in 0..4 {
                let (heard, took) = call(b"!").await.unwrap();
                assert_eq!(heard, b"two!");
                assert!(took < Duration::from_secs(5), "{took:?}");
            }
            turmoil::repair(FORWARDER, "one");
        });
    }
}

#[test]
fn a_caller_is_held_until_there_is_a_replica() {
    for seed in 0..20 {
        let mut sim = simulation(seed);
        replica(&mut sim, "one");
        forwarder(&mut sim, &[(0, &[]), (2_000, &["one"])]);
        run(sim, async {
            let (heard, took) = call(b"!").await.unwrap();
            assert_eq!(heard, b"one!");
            assert!(took > Duration::from_secs(1), "{took:?}");
        });
    }
}

#[test]
fn a_caller_without_a_replica_is_let_go_and_the_next_is_served() {
    let mut sim = simulation(1);
    replica(&mut sim, "one");
    forwarder(&mut sim, &[(0, &[]), (8_000, &["one"])]);
    run(sim, async {
        let (heard, took) = call(b"!").await.map_or((Vec::new(), Duration::ZERO), |told| told);
        assert!(heard.is_empty() && took < Duration::from_secs(6), "{heard:?} {took:?}");
        sleep(Duration::from_secs(4)).await;
        assert_eq!(call(b"!").await.unwrap().0, b"one!");
    });
}

#[test]
fn replicas_that_come_and_go_are_followed_with_each_connection() {
    let mut sim = simulation(7);
    replica(&mut sim, "one");
    replica(&mut sim, "two");
    forwarder(&mut sim, &[(0, &["one"]), (1_000, &["two"]), (1_000, &["one"])]);
    run(sim, async {
        let mut heard = Vec::new();
        for _ in 0..3 {
            heard.push(String::from_utf8(call(b"").await.unwrap().0).unwrap());
            sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(heard, ["one", "two", "one"]);
    });
}
