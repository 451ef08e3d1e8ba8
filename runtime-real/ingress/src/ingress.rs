//! The handle on a running ingress: publish tables, replace certificates, read counters, drain.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::metrics::{Snapshot, WorkerCounters};
use crate::options::{MAX_WORKERS, Options};
use crate::plan::{Plan, TableError};
use crate::table::Table;
use crate::tls::Certificates;
use crate::worker::{Listeners, Order, Shared, Worker};

/// A running ingress. Dropping it cuts off what is under way; [`Ingress::drain`] does not.
#[derive(Debug)]
pub struct Ingress {
    shared: Arc<Shared>,
    http: Option<SocketAddr>,
    https: Option<SocketAddr>,
    orders: watch::Sender<Order>,
    publishing: Mutex<()>,
    workers: Vec<Handle>,
}

#[derive(Debug)]
struct Handle {
    counters: Arc<WorkerCounters>,
    adopted: watch::Receiver<u64>,
    ended: Option<oneshot::Receiver<usize>>,
    thread: Option<JoinHandle<()>>,
}

/// Why an ingress cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The address is taken, is not this machine's, or the port needs a privilege.
    #[error("cannot listen on {address}; free the port or give another address")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The system gives no thread.
    #[error("cannot start a worker thread; raise the limit of threads or use fewer workers")]
    Thread(#[source] io::Error),
    /// More workers than an ingress may have, or none.
    #[error("{0} workers are not possible; use 1 to {MAX_WORKERS}")]
    Workers(usize),
}

/// What a publish did.
#[derive(Debug)]
pub struct Published {
    /// The table's number; see [`Ingress::adopted`].
    pub generation: u64,
    /// Addresses of TCP routes that could not be bound; everything else is served, and the next
    /// publish tries these again.
    pub refused: Vec<(SocketAddr, io::Error)>,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still open when the time was over, and were cut off.
    pub cut_off: usize,
}

impl Ingress {
    /// Binds the addresses and starts the workers. Until the first publish, every host is unknown.
    ///
    /// # Errors
    /// If an address cannot be bound or a thread cannot be started; nothing is left running then.
    pub fn start(options: Options) -> Result<Ingress, StartError> {
        let count = options.workers;
        if count == 0 || count > MAX_WORKERS {
            return Err(StartError::Workers(count));
        }
        let (http, http_listeners) = bind(options.http, count)?;
        let (https, https_listeners) = bind(options.https, count)?;
        let certificates = Certificates::default();
        let shared = Arc::new(Shared::new(&options, certificates));
        let options = Arc::new(options);
        let (orders, _) = watch::channel(Order::Serve(0));
        let mut ingress = Ingress {
            shared,
            http,
            https,
            orders,
            publishing: Mutex::default(),
            workers: Vec::new(),
        };
        let mut https_listeners = https_listeners.into_iter();
        let mut http_listeners = http_listeners.into_iter();
        for number in 0..count {
            let listeners =
                Listeners { http: http_listeners.next(), https: https_listeners.next() };
            let handle = ingress.start_worker(number, &options, listeners);
            ingress.workers.push(handle.map_err(StartError::Thread)?);
        }
        Ok(ingress)
    }

    fn start_worker(
        &self,
        number: usize,
        options: &Arc<Options>,
        listeners: Listeners,
    ) -> io::Result<Handle> {
        let runtime = Builder::new_current_thread();
        let counters = Arc::new(WorkerCounters::default());
        let (adopted, adoption) = watch::channel(0);
        let (ended, end) = oneshot::channel();
        let (options, shared) = (Arc::clone(options), Arc::clone(&self.shared));
        let (orders, counted) = (self.orders.subscribe(), Arc::clone(&counters));
        let serve = move || {
            let mut runtime = runtime;
            let runtime = runtime.enable_all().max_blocking_threads(BLOCKING_THREADS);
            let Ok(runtime) = runtime.build_local(LocalOptions::default()) else {
                return;
            };
            let cut_off = runtime.block_on(async {
                let worker = Worker::new(number, options, shared, counted, adopted, entropy());
                crate::worker::run(worker.into(), listeners, orders).await
            });
            runtime.shutdown_background();
            // Nobody may be waiting for it.
            let _ = ended.send(cut_off);
        };
        let thread = std::thread::Builder::new().name(format!("ingress-{number}")).spawn(serve)?;
        Ok(Handle { counters, adopted: adoption, ended: Some(end), thread: Some(thread) })
    }

    /// Where plain HTTP is served.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Where HTTPS is served.
    pub fn https_address(&self) -> Option<SocketAddr> {
        self.https
    }

    /// Replaces the table. No request that begins after this is served by an older one, and none
    /// goes to a backend that has left; requests under way keep the route they began with. Idle
    /// connections to backends that left close within moments: [`Ingress::adopted`] waits for it.
    ///
    /// # Errors
    /// If the table makes no sense; all that is wrong with it is named, and nothing changes.
    pub fn publish(&self, table: Table) -> Result<Published, TableError> {
        let _one_at_a_time = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = Plan::new(table, &self.shared.plan())?;
        let generation = plan.generation;
        let refused = self.shared.tcp.prepare(&plan);
        self.shared.replace(plan);
        self.orders.send_if_modified(|order| {
            let serving = matches!(order, Order::Serve(_));
            if serving {
                *order = Order::Serve(generation);
            }
            serving
        });
        Ok(Published { generation, refused })
    }

    /// Waits until every worker serves this table or a newer one and has closed its idle
    /// connections to backends that are not in it.
    pub async fn adopted(&self, generation: u64) {
        for worker in &self.workers {
            let mut adopted = worker.adopted.clone();
            // A worker that has ended serves nothing older.
            let _ = adopted.wait_for(|served| *served >= generation).await;
        }
    }

    /// The certificates and the answers to ACME challenges.
    pub fn certificates(&self) -> &Certificates {
        &self.shared.certificates
    }

    /// What was counted so far.
    pub fn metrics(&self) -> Snapshot {
        crate::metrics::sum(self.workers.iter().map(|worker| &worker.counters))
    }

    /// Accepts nothing new, tells clients to go (GOAWAY, `connection: close`), waits for what is
    /// under way at most this long, and ends.
    pub async fn drain(mut self, within: Duration) -> Drained {
        let end = Instant::from_std(crate::clock::now()) + within;
        self.orders.send_replace(Order::Drain(end));
        let mut cut_off = 0;
        for worker in &mut self.workers {
            if let Some(ended) = worker.ended.take() {
                cut_off += ended.await.unwrap_or(0);
            }
        }
        Drained { cut_off }
    }
}

/// Threads beside a worker's own, for hashing passwords.
const BLOCKING_THREADS: usize = 4;

impl Drop for Ingress {
    fn drop(&mut self) {
        self.orders.send_replace(Order::Drain(Instant::from_std(crate::clock::now())));
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take() {
                // A worker that panicked has said so.
                let _ = thread.join();
            }
        }
    }
}

/// A seed that nobody can guess.
fn entropy() -> u64 {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).expect("the kernel's generator does not fail once it is seeded");
    u64::from_ne_bytes(seed)
}

type Bound = (Option<SocketAddr>, Vec<std::net::TcpListener>);

fn bind(address: Option<SocketAddr>, workers: usize) -> Result<Bound, StartError> {
    let Some(address) = address else {
        return Ok((None, Vec::new()));
    };
    let refused = |source| StartError::Bind { address, source };
    let listeners = crate::listen::bind(address, workers).map_err(refused)?;
    let bound = listeners.first().map(std::net::TcpListener::local_addr).transpose();
    Ok((bound.map_err(refused)?, listeners))
}
