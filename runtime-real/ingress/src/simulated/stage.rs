//! The stage: a network, an ingress of one worker, replicas that can be switched off, and what was
//! noted of them.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet, spawn_local};
use tokio::time::{Instant, sleep};
use turmoil::Sim;
use turmoil::net::{TcpListener, TcpStream};

use crate::metrics::WorkerCounters;
use crate::options::Options;
use crate::plan::Plan;
use crate::table::{Backend, HttpRoute, Service, Table};
use crate::tls::Certificates;
use crate::worker::{self, Listeners, LocalExecutor, Order, Shared, Worker};

use super::network;

pub(super) const INGRESS: &str = "ingress";
pub(super) const HOST: &str = "shop.test";
pub(super) const PORT: u16 = 80;
pub(super) const TLS_PORT: u16 = 443;

/// How long a message takes at most.
pub(super) const MOST_LAG: Duration = Duration::from_millis(40);

/// How much later than in truth something may be noted: turmoil moves each machine's time on by
/// so much at once.
pub(super) const TICK: Duration = Duration::from_millis(2);

/// Segments on their way in one direction; so many that none waits for room.
pub(super) const ROOMY: usize = 65_536;

pub(super) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The time since the beginning, the same on all machines.
pub(super) fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

/// A network on which each direction of a connection has room for so many segments.
pub(super) fn network(seed: u64, room: usize) -> Sim<'static> {
    network::whole();
    let sim = turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(Duration::from_secs(120))
        .tick_duration(TICK)
        .min_message_latency(millis(1))
        .max_message_latency(MOST_LAG)
        .tcp_capacity(room)
        .epoch(std::time::UNIX_EPOCH)
        .build();
    // A third of all messages take the whole of it, the others are spread below.
    sim.set_message_latency_curve(1.0);
    sim
}

/// Runs until the story is told, which is told on the callers' machine.
pub(super) fn tell(mut sim: Sim<'static>, seed: u64, story: impl Future<Output = ()> + 'static) {
    sim.client("callers", async move {
        // Everybody listens by then.
        sleep(millis(100)).await;
        story.await;
        Ok(())
    });
    if let Err(error) = sim.run() {
        panic!("with seed {seed}: {error}");
    }
}

/// Numbers from a seed (xorshift; Marsaglia, 2003).
pub(super) struct Draw(u64);

impl Draw {
    pub(super) fn new(seed: u64) -> Draw {
        let mut draw = Draw(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        draw.below(2);
        draw
    }

    pub(super) fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % most
    }

    pub(super) fn millis(&mut self, from: u64, to: u64) -> Duration {
        millis(from + self.below(to - from))
    }
}

/// A request that began at a replica.
#[derive(Clone, Debug)]
pub(super) struct Begun {
    pub(super) at: Duration,
    pub(super) replica: &'static str,
    /// Its path.
    pub(super) path: String,
}

/// What happened, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes {
    trace: Rc<RefCell<Vec<String>>>,
    begun: Rc<RefCell<Vec<Begun>>>,
}

impl Notes {
    pub(super) fn note(&self, what: impl Display) {
        self.trace.borrow_mut().push(format!("{:?} {what}", now()));
    }

    pub(super) fn begins(&self, replica: &'static str, path: &str) {
        self.note(format_args!("{replica} begins {path}"));
        self.begun.borrow_mut().push(Begun { at: now(), replica, path: path.to_owned() });
    }

    pub(super) fn begun(&self) -> Vec<Begun> {
        self.begun.borrow().clone()
    }

    pub(super) fn trace(&self) -> Vec<String> {
        self.trace.borrow().clone()
    }
}

/// A route that lets WebSockets through.
pub(super) fn route() -> HttpRoute {
    HttpRoute { websocket: true, ..HttpRoute::new(HOST, "/", "web") }
}

/// An ingress, as whoever publishes tables and ends it sees it.
#[derive(Clone)]
pub(super) struct Ingress {
    shared: Arc<Shared>,
    pub(super) counters: Arc<WorkerCounters>,
    orders: Rc<watch::Sender<Order>>,
    leave: Rc<watch::Sender<Option<Duration>>>,
    /// How many connections it cut off when it ended.
    pub(super) cut_off: Rc<Cell<Option<usize>>>,
}

impl Ingress {
    pub(super) fn new(sim: &mut Sim<'static>, seed: u64, options: Options) -> Ingress {
        let ingress = Ingress {
            shared: Arc::new(Shared::new(&options, Certificates::default())),
            counters: Arc::default(),
            orders: Rc::new(watch::channel(Order::Serve(0)).0),
            leave: Rc::new(watch::channel(None).0),
            cut_off: Rc::default(),
        };
        let (serving, options) = (ingress.clone(), Arc::new(options));
        sim.host(INGRESS, move || serving.clone().run(Arc::clone(&options), seed));
        ingress
    }

    async fn run(self, options: Arc<Options>, seed: u64) -> turmoil::Result {
        // What a worker's thread is in truth: with it, all that it serves ends.
        let thread = LocalSet::new();
        let cut_off = thread.run_until(self.clone().serve(options, seed)).await?;
        drop(thread);
        self.cut_off.set(Some(cut_off));
        std::future::pending().await
    }

    async fn serve(self, options: Arc<Options>, seed: u64) -> std::io::Result<usize> {
        let (adopted, _) = watch::channel(0);
        let (shared, counters) = (Arc::clone(&self.shared), Arc::clone(&self.counters));
        let worker = Rc::new(Worker::new(0, options, shared, counters, adopted, seed));
        for (port, tls) in [(PORT, false), (TLS_PORT, true)] {
            let listener = TcpListener::bind(("0.0.0.0", port)).await?;
            spawn_local(worker::accept(Rc::clone(&worker), listener, tls));
        }
        let (leave, orders) = (self.leave.subscribe(), Rc::clone(&self.orders));
        spawn_local(drain(leave, orders));
        Ok(worker::run(worker, Listeners::default(), self.orders.subscribe()).await)
    }

    /// Routes [`HOST`] to these machines; those whose names begin with `h2` speak HTTP/2.
    pub(super) fn publish(&self, route: HttpRoute, replicas: &[&str]) {
        let backend = |host: &&str| Backend {
            id: (*host).to_owned(),
            address: SocketAddr::new(turmoil::lookup(*host), PORT),
            same_node: false,
            h2c: host.starts_with("h2"),
        };
        let backends = replicas.iter().map(backend).collect();
        let services = vec![Service { name: "web".into(), backends }];
        let table = Table { http: vec![route], services, ..Table::default() };
        let plan = Plan::new(table, &self.shared.plan()).unwrap();
        let generation = plan.generation;
        self.shared.replace(plan);
        self.orders.send_replace(Order::Serve(generation));
    }

    pub(super) fn certificates(&self) -> &Certificates {
        &self.shared.certificates
    }

    /// Has it end by then at the latest.
    pub(super) fn drain(&self, within: Duration) {
        self.leave.send_replace(Some(within));
    }
}

/// Passes on when to end; machines have clocks of their own, so a moment is named on its own one.
async fn drain(mut leave: watch::Receiver<Option<Duration>>, orders: Rc<watch::Sender<Order>>) {
    let within = leave.wait_for(Option::is_some).await.ok().and_then(|within| *within);
    if let Some(within) = within {
        orders.send_replace(Order::Drain(Instant::now() + within));
    }
}

/// Whether a machine runs: switched off, it ends all its connections.
pub(super) type Switch = Rc<watch::Sender<bool>>;

/// A machine that does this with each connection.
pub(super) fn machine<F, S>(sim: &mut Sim<'static>, name: &'static str, serve: F) -> Switch
where
    F: Fn(TcpStream) -> S + Clone + 'static,
    S: Future<Output = ()> + 'static,
{
    let switch = Switch::new(watch::channel(true).0);
    let told = Rc::clone(&switch);
    sim.host(name, move || live(told.subscribe(), serve.clone()));
    switch
}

async fn live<F, S>(mut on: watch::Receiver<bool>, serve: F) -> turmoil::Result
where
    F: Fn(TcpStream) -> S,
    S: Future<Output = ()> + 'static,
{
    loop {
        on.wait_for(|on| *on).await?;
        let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
        let mut connections = JoinSet::new();
        let accept = async {
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn_local(serve(stream));
            }
        };
        tokio::select! {
            biased;
            _ = on.wait_for(|on| !*on) => {}
            () = accept => {}
        }
    }
}

/// A replica that notes what it is asked and answers `/ID?MILLIS` after so long with its name, the
/// path and how long the request's body was. It speaks HTTP/2 if its name begins with `h2`;
/// otherwise it ends its connection after each answer that took a multiple of four.
pub(super) fn replica(sim: &mut Sim<'static>, name: &'static str, notes: &Notes) -> Switch {
    let notes = notes.clone();
    machine(sim, name, move |stream| serve(stream, name, notes.clone()))
}

async fn serve(stream: TcpStream, name: &'static str, notes: Notes) {
    let service = service_fn(move |request| answer(name, notes.clone(), request));
    // Whoever asked sees how it ends.
    if name.starts_with("h2") {
        let server = http2::Builder::new(LocalExecutor);
        let _ = server.serve_connection(TokioIo::new(stream), service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }
}

async fn answer(
    name: &'static str,
    notes: Notes,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let path = request.uri().path().to_owned();
    notes.begins(name, &path);
    let work = request.uri().query().and_then(|query| query.parse().ok()).unwrap_or(0);
    let length = request.into_body().collect().await?.to_bytes().len();
    sleep(millis(work)).await;
    notes.note(format_args!("{name} answers {path}"));
    let mut answer = Response::new(Full::from(format!("{name} {path} {length}")));
    if work > 0 && work.is_multiple_of(4) && !name.starts_with("h2") {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(answer)
}
