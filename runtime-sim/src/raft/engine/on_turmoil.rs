//! The engine in any build: turmoil, which drives tokio's own timers and tasks on each host.
//!
//! It polls what is ready in tokio's order and draws the order of hosts and each latency by the
//! seed. It swallows panics of tasks and knows no drift of clocks: [`super::super::runtime`] adds
//! both.

use std::io;
use std::time::{Duration, SystemTime};

use tokio::task::{JoinError, JoinHandle};
use turmoil::net::UdpSocket;

use super::{Engine, LEAST_LATENCY, PORT, Socket};

/// No run is as long.
const LONGEST: Duration = Duration::from_secs(3_600);
/// Datagrams that wait in a host's socket, at most.
const WAITING_DATAGRAMS: usize = 8_192;

/// A world of turmoil.
pub(in super::super) struct OnTurmoil {
    sim: turmoil::Sim<'static>,
}

fn name(host: u64) -> String {
    format!("n{host}")
}

impl Engine for OnTurmoil {
    const NAME: &'static str = "turmoil";

    type Sleep = tokio::time::Sleep;
    type JoinError = JoinError;
    type JoinHandle<T: Send + 'static> = JoinHandle<T>;
    type Socket = UdpSocket;

    fn reproduce(seed: u64) -> String {
        format!("mill sim --raft --seed {seed:#x}")
    }

    fn new(seed: u64, most_latency: Duration, tick: Duration) -> Self {
        let sim = turmoil::Builder::new()
            .rng_seed(seed)
            .epoch(SystemTime::UNIX_EPOCH)
            .simulation_duration(LONGEST)
            .tick_duration(tick)
            .min_message_latency(LEAST_LATENCY)
            .max_message_latency(most_latency)
            .udp_capacity(WAITING_DATAGRAMS)
            .enable_random_order()
            .build();
        OnTurmoil { sim }
    }

    fn host<S, F>(&mut self, host: u64, start: S)
    where
        S: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = ()> + 'static,
    {
        self.sim.host(name(host), move || {
            let runs = start();
            async move {
                runs.await;
                Ok(())
            }
        });
    }

    fn tick(&mut self) -> Result<(), String> {
        self.sim.step().map(drop).map_err(|error| error.to_string())
    }

    fn elapsed(&self) -> Duration {
        self.sim.elapsed()
    }

    fn crash(&mut self, host: u64) {
        self.sim.crash(name(host));
    }

    fn restart(&mut self, host: u64) {
        self.sim.bounce(name(host));
    }

    fn cut(&self, from: u64, to: u64) {
        self.sim.partition_oneway(name(from), name(to));
    }

    fn repair(&self, one: u64, other: u64) {
        self.sim.repair(name(one), name(other));
    }

    fn elapsed_here() -> Duration {
        turmoil::sim_elapsed().unwrap_or_default()
    }

    fn spawn<F>(task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::task::spawn_local(task)
    }

    fn sleep(length: Duration) -> tokio::time::Sleep {
        tokio::time::sleep(length)
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
        self.send_to(datagram, (name(to), PORT)).await.map(drop)
    }

    async fn receive_datagram(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (length, _) = self.recv_from(buffer).await?;
        Ok(length)
    }
}
