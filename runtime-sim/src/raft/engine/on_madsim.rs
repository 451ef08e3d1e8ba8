//! The engine of `--cfg madsim`: one queue of tasks, from which the next is drawn by the seed.
//!
//! madsim jumps from timer to timer, answers for the system's clocks and entropy, and panics where
//! a thread is started or tokio's timers are used. The order of a `HashMap` is the seed's in the
//! first world of a thread only, so there is one process per run (`sim-tests/tests/raft.rs`).

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use madsim::net::{NetSim, UdpSocket};
use madsim::runtime::Runtime;
use madsim::task::{JoinError, JoinHandle, NodeId};
use madsim::time::{Sleep, TimeHandle};

use super::{Engine, LEAST_LATENCY, PORT, Socket};

/// A world of madsim.
pub(in super::super) struct OnMadsim {
    runtime: Runtime,
    time: TimeHandle,
    network: Arc<NetSim>,
    tick: Duration,
    hosts: BTreeMap<u64, NodeId>,
}

fn address(host: u64) -> String {
    let [high, low] = u16::try_from(host).expect("hosts have small numbers").to_be_bytes();
    format!("10.0.{high}.{low}")
}

impl Engine for OnMadsim {
    const NAME: &'static str = "madsim";

    type Sleep = Sleep;
    type JoinError = JoinError;
    type JoinHandle<T: Send + 'static> = JoinHandle<T>;
    type Socket = UdpSocket;

    fn reproduce(seed: u64) -> String {
        format!("make madsim SEEDS={seed}..{}", seed.saturating_add(1))
    }

    fn new(seed: u64, most_latency: Duration, tick: Duration) -> Self {
        let mut config = madsim::Config::default();
        config.net.send_latency = LEAST_LATENCY..most_latency;
        let runtime = Runtime::with_seed_and_config(seed, config);
        let (time, network) =
            runtime.block_on(async { (TimeHandle::current(), NetSim::current()) });
        OnMadsim { runtime, time, network, tick, hosts: BTreeMap::new() }
    }

    fn host<S, F>(&mut self, host: u64, start: S)
    where
        S: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = ()> + 'static,
    {
        let address = address(host).parse().expect("four numbers are an address");
        let node = self.runtime.create_node().ip(address).init(start).build();
        self.hosts.insert(host, node.id());
    }

    fn tick(&mut self) -> Result<(), String> {
        let sleep = self.time.sleep(self.tick);
        // Whoever panicked is on record, and madsim ends with it.
        let ticked = catch_unwind(AssertUnwindSafe(|| self.runtime.block_on(sleep)));
        ticked.map_err(|_| "a task has panicked".to_owned())
    }

    fn elapsed(&self) -> Duration {
        self.time.elapsed()
    }

    fn crash(&mut self, host: u64) {
        self.runtime.handle().kill(self.hosts[&host]);
        // The tasks of the host are dropped when it is their turn, which this waits for.
        self.runtime.block_on(async {});
    }

    fn restart(&mut self, host: u64) {
        self.runtime.handle().restart(self.hosts[&host]);
    }

    fn cut(&self, from: u64, to: u64) {
        self.network.clog_link(self.hosts[&from], self.hosts[&to]);
    }

    fn repair(&self, one: u64, other: u64) {
        let (one, other) = (self.hosts[&one], self.hosts[&other]);
        self.network.unclog_link(one, other);
        self.network.unclog_link(other, one);
    }

    fn elapsed_here() -> Duration {
        TimeHandle::try_current().map(|time| time.elapsed()).unwrap_or_default()
    }

    fn spawn<F>(task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        madsim::task::spawn(task)
    }

    fn sleep(length: Duration) -> Sleep {
        madsim::time::sleep(length)
    }

    fn is_panic(error: &JoinError) -> bool {
        error.is_panic()
    }
}

impl Socket for UdpSocket {
    async fn open() -> io::Result<Self> {
        UdpSocket::bind(("0.0.0.0", PORT)).await
    }

    async fn send_datagram(&self, to: u64, datagram: &[u8]) -> io::Result<()> {
        self.send_to((address(to).as_str(), PORT), datagram).await
    }

    async fn receive_datagram(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (length, _) = self.recv_from(buffer).await?;
        Ok(length)
    }
}
