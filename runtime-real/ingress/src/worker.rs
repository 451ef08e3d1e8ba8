//! A thread that serves: its runtime, its listeners, its connections to backends.
//!
//! Nothing of it is shared with other workers while a request is served. It takes over a new plan
//! when it is woken, or when a request finds that there is one, whichever is first; so no request
//! that begins after a publish is served by an older plan.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, TcpListener as StdListener};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::header::HeaderValue;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, interval, sleep, timeout_at};

use crate::balance::Service;
use crate::limits::{Admission, Place};
use crate::listen::Listener;
use crate::metrics::{RouteCounters, RouteLabel, WorkerCounters};
use crate::options::Options;
use crate::plan::Plan;
use crate::tcp::TcpPorts;
use crate::tls::Certificates;

/// How often idle connections to backends are looked through.
const PRUNE_EVERY: Duration = Duration::from_secs(5);

/// How long a listener rests when the process has no file descriptor left.
pub(crate) const ACCEPT_REST: Duration = Duration::from_millis(50);

/// What all workers have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    plan: Mutex<Arc<Plan>>,
    generation: AtomicU64,
    pub(crate) admission: Arc<Admission>,
    pub(crate) certificates: Certificates,
    pub(crate) tls: Arc<rustls::ServerConfig>,
    pub(crate) tcp: TcpPorts,
}

impl Shared {
    pub(crate) fn new(options: &Options, certificates: Certificates) -> Shared {
        let limits = &options.limits;
        let admission = Admission::new(limits.connections, limits.connections_per_address);
        Shared {
            plan: Mutex::default(),
            generation: AtomicU64::new(0),
            admission: Arc::new(admission),
            tls: certificates.server_config(),
            certificates,
            tcp: TcpPorts::new(options.workers),
        }
    }

    pub(crate) fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn replace(&self, plan: Plan) {
        let mut current = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = plan.generation;
        *current = Arc::new(plan);
        self.generation.store(generation, Ordering::Release);
    }
}

/// What workers are told; the latest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Serve this plan.
    Serve(u64),
    /// Accept nothing new and end by this time.
    Drain(Instant),
}

/// What a worker reports: the plan it serves.
pub(crate) type Adopted = watch::Sender<u64>;

/// A plan as one worker serves it.
#[derive(Debug, Default)]
pub(crate) struct Local {
    pub(crate) plan: Arc<Plan>,
    /// In the plan's order.
    pub(crate) services: Vec<Rc<Service>>,
    /// By number of route.
    pub(crate) counters: Vec<Arc<RouteCounters>>,
}

#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) number: usize,
    pub(crate) options: Arc<Options>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) counters: Arc<WorkerCounters>,
    pub(crate) unrouted: Arc<RouteCounters>,
    pub(crate) held: Cell<usize>,
    pub(crate) draining: Cell<bool>,
    pub(crate) drain: Notify,
    local: RefCell<Rc<Local>>,
    services: RefCell<BTreeMap<String, Rc<Service>>>,
    open: Cell<usize>,
    all_closed: Notify,
    random: Cell<u64>,
    adopted: Adopted,
    /// Told at each new plan, for listeners of TCP routes.
    pub(crate) replanned: Notify,
}

impl Worker {
    /// A worker that draws its numbers from this seed.
    pub(crate) fn new(
        number: usize,
        options: Arc<Options>,
        shared: Arc<Shared>,
        counters: Arc<WorkerCounters>,
        adopted: Adopted,
        seed: u64,
    ) -> Worker {
        let unrouted = counters.of_routes(&[RouteLabel::default()]).swap_remove(0);
        Worker {
            number,
            options,
            shared,
            counters,
            unrouted,
            held: Cell::new(0),
            draining: Cell::new(false),
            drain: Notify::new(),
            local: RefCell::default(),
            services: RefCell::default(),
            open: Cell::new(0),
            all_closed: Notify::new(),
            random: Cell::new(seed),
            adopted,
            replanned: Notify::new(),
        }
    }

    /// The newest plan.
    pub(crate) fn local(&self) -> Rc<Local> {
        if self.shared.generation.load(Ordering::Acquire) != self.local.borrow().plan.generation {
            self.adopt();
        }
        Rc::clone(&self.local.borrow())
    }

    fn adopt(&self) {
        let plan = self.shared.plan();
        let mut known = self.services.borrow_mut();
        let mut services = BTreeMap::new();
        let mut in_order = Vec::with_capacity(plan.services.len());
        for table in &plan.services {
            let service = known.remove(&table.name).unwrap_or_default();
            service.adopt(Some(table));
            in_order.push(Rc::clone(&service));
            services.insert(table.name.clone(), service);
        }
        known.values().for_each(|service| service.adopt(None));
        *known = services;
        let labels: Vec<RouteLabel> = plan
            .routes
            .iter()
            .map(|route| RouteLabel {
                host: route.table.host.clone(),
                path: route.table.path.clone(),
            })
            .chain([RouteLabel::default()])
            .collect();
        let mut counters = self.counters.of_routes(&labels);
        counters.pop();
        let generation = plan.generation;
        self.local.replace(Rc::new(Local { plan, services: in_order, counters }));
        self.adopted.send_replace(generation);
        self.replanned.notify_waiters();
    }

    /// A service of the newest plan.
    pub(crate) fn service(&self, name: &str) -> Option<Rc<Service>> {
        self.services.borrow().get(name).map(Rc::clone)
    }

    /// The next number of a xorshift generator (Marsaglia, 2003): for drawing replicas and for
    /// request ids, never for secrets.
    pub(crate) fn random(&self) -> u64 {
        let mut state = self.random.get() | 1;
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.random.set(state);
        state
    }

    pub(crate) fn new_request_id(&self) -> HeaderValue {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let number = self.random();
        let digit = |at: u32| DIGITS[(number >> (60 - 4 * at)) as usize & 15];
        let mut text = [0; 16];
        (0..16).zip(&mut text).for_each(|(at, place)| *place = digit(at));
        HeaderValue::from_bytes(&text).expect("hexadecimal digits are printable")
    }

    pub(crate) fn opened(&self) {
        self.open.set(self.open.get() + 1);
        self.counters.open.add(1);
    }

    pub(crate) fn closed(&self) {
        self.open.set(self.open.get() - 1);
        self.counters.open.less(1);
        if self.open.get() == 0 {
            self.all_closed.notify_waiters();
        }
    }

    fn prune(&self) {
        let age = self.options.limits.pool_idle_timeout;
        let before = crate::pool::too_old(crate::clock::now(), age);
        self.services.borrow().values().for_each(|service| service.prune(before));
    }
}

/// What a worker listens on.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    pub(crate) http: Option<StdListener>,
    pub(crate) https: Option<StdListener>,
}

/// Serves until it is told to drain; returns how many connections were cut off then.
pub(crate) async fn run(
    worker: Rc<Worker>,
    listeners: Listeners,
    mut orders: watch::Receiver<Order>,
) -> usize {
    let both = [(listeners.http, false), (listeners.https, true)];
    for (listener, tls) in both {
        let Some(listener) = listener.and_then(|listener| TcpListener::from_std(listener).ok())
        else {
            continue;
        };
        tokio::task::spawn_local(accept(Rc::clone(&worker), listener, tls));
    }
    tokio::task::spawn_local(crate::tcp::serve(Rc::clone(&worker)));
    let mut prune = interval(PRUNE_EVERY);
    let end = loop {
        let order = *orders.borrow_and_update();
        match order {
            Order::Serve(_) => {
                worker.local();
            }
            Order::Drain(end) => break end,
        }
        tokio::select! {
            biased;
            changed = orders.changed() => {
                if changed.is_err() {
                    break Instant::from_std(crate::clock::now());
                }
            }
            _ = prune.tick() => worker.prune(),
        }
    };
    worker.draining.set(true);
    worker.drain.notify_waiters();
    // Listeners take what was connected before they end; they run before this goes on.
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    let closed = async {
        loop {
            let closed = worker.all_closed.notified();
            if worker.open.get() == 0 {
                return;
            }
            closed.await;
        }
    };
    let _ = timeout_at(end, closed).await;
    worker.open.get()
}

/// Serves what comes in until the worker drains.
pub(crate) async fn accept<L: Listener>(worker: Rc<Worker>, listener: L, tls: bool) {
    let mut drain = pin!(worker.drain.notified());
    // What is told before this is first polled is heard as well.
    drain.as_mut().enable();
    while !worker.draining.get() {
        let accepted = tokio::select! {
            biased;
            () = drain.as_mut() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => admit::<L>(&worker, stream, peer.ip(), tls),
            Err(error) if out_of_resources(&error) => {
                tracing::warn!(%error, "a connection could not be accepted; trying again");
                sleep(ACCEPT_REST).await;
            }
            Err(_) => {}
        }
    }
    // What the kernel has accepted already is served; closing the listener would reset it.
    while let Some((stream, peer)) = listener.accept_now() {
        admit::<L>(&worker, stream, peer.ip(), tls);
    }
}

/// EMFILE, ENFILE, ENOBUFS and ENOMEM do not go away by asking again at once (accept(2)).
pub(crate) fn out_of_resources(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(24 | 23 | 105 | 12))
}

fn admit<L: Listener>(worker: &Rc<Worker>, stream: L::Stream, peer: IpAddr, tls: bool) {
    let Some(place) = enter(worker, peer) else {
        return;
    };
    if L::send_at_once(&stream).is_err() {
        return;
    }
    let worker = Rc::clone(worker);
    if tls {
        tokio::task::spawn_local(crate::connection::tls(worker, stream, peer, place));
    } else {
        tokio::task::spawn_local(crate::connection::plain(worker, stream, peer, place));
    }
}

/// A place among the open connections, if limits leave one.
pub(crate) fn enter(worker: &Worker, peer: IpAddr) -> Option<Place> {
    let trusted = worker.local().plan.trusts(peer);
    let place = worker.shared.admission.enter(peer, trusted);
    if place.is_none() {
        worker.counters.refused.add(1);
    }
    place
}

/// Runs hyper's tasks on the worker's thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
