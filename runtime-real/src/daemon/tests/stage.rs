//! Machines on turmoil's network, and what a test does to them and to the network between them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use mill_core::rng::Rng;
use tokio::sync::mpsc;

use super::machine::Machine;
use crate::rpc::{Accept, Dial, Ends};

pub(super) const PORT: u16 = 7000;

/// In simulated time, what a test waits for must be so by then.
const PATIENCE: Duration = Duration::from_secs(60);

/// The simulated network.
#[derive(Clone, Debug)]
pub(super) struct Turmoil;

impl Dial for Turmoil {
    type Stream = turmoil::net::TcpStream;

    async fn dial(&self, address: String) -> io::Result<turmoil::net::TcpStream> {
        turmoil::net::TcpStream::connect(address).await
    }
}

impl Accept for turmoil::net::TcpListener {
    type Stream = turmoil::net::TcpStream;

    async fn accept(&self) -> io::Result<(turmoil::net::TcpStream, Ends)> {
        let (stream, from) = turmoil::net::TcpListener::accept(self).await?;
        let to = stream.local_addr()?;
        Ok((stream, Ends { from, to }))
    }
}

/// The name by which a machine is known to turmoil, and what people call its node.
pub(super) fn name_of(number: u64) -> String {
    format!("m{number}")
}

/// What happened, and when. Clones are the same one.
///
/// Nothing in it comes from entropy: keys, certificates and TLS draw theirs from the system, so
/// runs of one seed are compared by what was answered and when, and not by bytes on the wire.
#[derive(Clone, Default)]
pub(super) struct Record {
    lines: Arc<Mutex<Vec<String>>>,
    passed_on: Arc<Mutex<BTreeMap<String, u32>>>,
}

impl Record {
    pub(super) fn line(&self, text: &str) {
        let now = turmoil::sim_elapsed().unwrap_or_default();
        self.lines.lock().unwrap().push(format!("{:>9} {text}", now.as_millis()));
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// A node was asked for a token of that hash in the name of another's client.
    pub(super) fn passed_on(&self, hash: &str) {
        *self.passed_on.lock().unwrap().entry(hash.to_owned()).or_default() += 1;
    }

    /// How often that was so.
    pub(super) fn times_passed_on(&self, hash: &str) -> u32 {
        self.passed_on.lock().unwrap().get(hash).copied().unwrap_or(0)
    }
}

type Act = Box<dyn FnOnce(Machine) -> LocalBoxFuture<'static, ()>>;

/// Something that was begun on a machine, and has a result some time.
pub(super) struct Begun<T>(Rc<RefCell<Option<T>>>);

/// The machines and their network.
pub(super) struct Stage {
    pub(super) sim: turmoil::Sim<'static>,
    pub(super) record: Record,
    ways: BTreeMap<u64, mpsc::UnboundedSender<Act>>,
}

impl Stage {
    /// So many machines, with links that lag as much as the seed says.
    pub(super) fn new(seed: u64, machines: u64) -> Stage {
        let mut rng = Rng::new(seed).child("network");
        let latency = Duration::from_millis(rng.between(10, 60));
        let mut sim = turmoil::Builder::new()
            .rng_seed(rng.draw())
            .epoch(UNIX_EPOCH)
            .simulation_duration(Duration::from_secs(3_600))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(latency)
            .tcp_capacity(65_536)
            .enable_random_order()
            .build();
        let record = Record::default();
        let mut ways = BTreeMap::new();
        for number in 1..=machines {
            let (way, acts) = mpsc::unbounded_channel::<Act>();
            ways.insert(number, way);
            let machine = Machine::new(number, seed, record.clone());
            let acts = Rc::new(tokio::sync::Mutex::new(acts));
            sim.host(name_of(number), move || {
                let (machine, acts) = (machine.clone(), acts.clone());
                async move {
                    let mut acts = acts.lock().await;
                    while let Some(act) = acts.recv().await {
                        tokio::task::spawn_local(act(machine.clone()));
                    }
                    Ok(())
                }
            });
        }
        Stage { sim, record, ways }
    }

    /// Begins something on a machine.
    pub(super) fn begin<T, F>(
        &self,
        number: u64,
        act: impl FnOnce(Machine) -> F + 'static,
    ) -> Begun<T>
    where
        T: 'static,
        F: Future<Output = T> + 'static,
    {
        let result = Rc::new(RefCell::new(None));
        let begun = Begun(result.clone());
        let act: Act = Box::new(move |machine| {
            async move {
                let ended = act(machine).await;
                *result.borrow_mut() = Some(ended);
            }
            .boxed_local()
        });
        assert!(self.ways[&number].send(act).is_ok(), "machines run as long as the stage");
        begun
    }

    /// Lets time pass until that is done.
    pub(super) fn end<T>(&mut self, begun: &Begun<T>) -> T {
        let began = self.sim.elapsed();
        loop {
            if let Some(ended) = begun.0.borrow_mut().take() {
                return ended;
            }
            assert!(self.sim.elapsed() < began + PATIENCE, "it never ends:\n{}", self.told());
            self.sim.step().unwrap();
        }
    }

    /// Does something on a machine, and lets time pass until it is done.
    pub(super) fn on<T, F>(&mut self, number: u64, act: impl FnOnce(Machine) -> F + 'static) -> T
    where
        T: 'static,
        F: Future<Output = T> + 'static,
    {
        let begun = self.begin(number, act);
        self.end(&begun)
    }

    /// Lets time pass until something was written down.
    pub(super) fn until(&mut self, text: &str) {
        let began = self.sim.elapsed();
        while !self.record.lines().iter().any(|line| line.contains(text)) {
            assert!(self.sim.elapsed() < began + PATIENCE, "never {text}:\n{}", self.told());
            self.sim.step().unwrap();
        }
    }

    /// Lets that much time pass.
    pub(super) fn pass(&mut self, length: Duration) {
        let until = self.sim.elapsed() + length;
        while self.sim.elapsed() < until {
            self.sim.step().unwrap();
        }
    }

    /// All that was written down.
    pub(super) fn told(&self) -> String {
        self.record.lines().join("\n")
    }
}
