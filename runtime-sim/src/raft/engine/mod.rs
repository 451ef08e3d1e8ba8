//! The seam to the simulators: what a run asks of whoever plays time, hosts and their network.
//!
//! There are two engines, and stage, faults, record and history are one code on both. `on_turmoil`
//! is in any build. `on_madsim` takes its place with `--cfg madsim` (`make madsim`) and is a strict
//! second opinion: it wakes tasks in a drawn order, answers for the system's clocks and entropy,
//! and ends a run that starts a thread. An engine decides nothing about what goes wrong: it cuts,
//! crashes and starts what it is told to. Equal seeds give equal runs on each engine, and different
//! ones on the two, so a trace belongs to its engine: [`RaftReport`](super::RaftReport) names it.

#[cfg(madsim)]
mod on_madsim;
#[cfg(not(madsim))]
mod on_turmoil;

use std::fmt::{Debug, Display};
use std::io;
use std::time::Duration;

/// The engine of this build.
#[cfg(madsim)]
pub(super) type World = on_madsim::OnMadsim;
/// The engine of this build.
#[cfg(not(madsim))]
pub(super) type World = on_turmoil::OnTurmoil;

/// One way through the network, at least.
const LEAST_LATENCY: Duration = Duration::from_micros(200);
/// Where hosts receive datagrams.
const PORT: u16 = 7000;

/// A world of hosts, each known by a number: as its driver sees it, and, where there is no `self`,
/// as the tasks of its hosts do.
pub(super) trait Engine {
    /// What people call it.
    const NAME: &'static str;

    /// A wait for some of the world's time.
    type Sleep: Future<Output = ()> + Send;
    /// Why a task has no result.
    type JoinError: Debug + Display + Send;
    /// A wait for a task's result.
    type JoinHandle<T: Send + 'static>: Future<Output = Result<T, Self::JoinError>> + Send + Unpin;
    /// A host's way to the network.
    type Socket: Socket;

    /// The command that runs a seed again on this engine.
    fn reproduce(seed: u64) -> String;

    /// An empty world, whose time moves so far with a [`Engine::tick`]; the seed is for whatever the
    /// engine itself draws.
    fn new(seed: u64, most_latency: Duration, tick: Duration) -> Self;

    /// Adds a host and starts it. Each start runs what `start` makes, until that ends or the host
    /// crashes.
    fn host<S, F>(&mut self, host: u64, start: S)
    where
        S: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = ()> + 'static;

    /// Runs all hosts for a tick. The error says what keeps the world from going on.
    fn tick(&mut self) -> Result<(), String>;

    /// The world's time since it began, for its driver.
    fn elapsed(&self) -> Duration;

    /// Ends every task of the host at once. What is on its way to it is lost.
    fn crash(&mut self, host: u64);

    /// Starts a host that has crashed.
    fn restart(&mut self, host: u64);

    /// From now on nothing is sent this way.
    fn cut(&self, from: u64, to: u64);

    /// From now on datagrams pass both ways again.
    fn repair(&self, one: u64, other: u64);

    /// The world's time since it began, for a task of a host; zero anywhere else.
    fn elapsed_here() -> Duration;

    /// Starts a task on the host of the task that calls.
    fn spawn<F>(task: F) -> Self::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static;

    /// Waits so long, rounded up to a whole millisecond at least.
    fn sleep(length: Duration) -> Self::Sleep;

    /// Whether the task ended by a panic.
    fn is_panic(error: &Self::JoinError) -> bool;
}

/// One host's socket. Datagrams are carried whole, after a drawn latency, in any order, or not at
/// all, and never twice.
pub(super) trait Socket: Debug + Send + Sync + Sized + 'static {
    /// Opens the host's only one.
    fn open() -> impl Future<Output = io::Result<Self>> + Send;

    /// Sends; that it arrives is not known.
    fn send_datagram(
        &self,
        to: u64,
        datagram: &[u8],
    ) -> impl Future<Output = io::Result<()>> + Send;

    /// Waits for a datagram and says how long it is.
    fn receive_datagram(&self, buffer: &mut [u8])
    -> impl Future<Output = io::Result<usize>> + Send;
}
