//! Callers of a service, as strict as can be: so many requests per second whether or not earlier
//! ones were answered, none of them tried twice, all or half of them on connections of their own, the
//! others on connections that are kept. They follow the endpoints that the API lists.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::{JoinSet, LocalSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::machines::now;

/// Between two looks at the endpoints.
const LOOK: Duration = Duration::from_millis(200);
/// A daemon that takes longer is not waited for; the next is asked.
const ANSWER: Duration = Duration::from_secs(1);
/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Failures that are told in full.
const TOLD: usize = 20;

type Sender = SendRequest<Empty<Bytes>>;
type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Callers that go on until they are told to stop.
pub struct Callers {
    enough: Arc<AtomicBool>,
    thread: JoinHandle<Tally>,
}

/// Which requests are made on connections that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Every other one.
    Half,
    /// None: nothing but Mill's own wait lets a replica live until everybody knows that it leaves.
    None,
}

/// Where a service is called.
#[derive(Clone, Debug)]
pub enum Called {
    /// At the endpoints that the daemons behind these sockets list; the next one is asked when one
    /// does not answer.
    Endpoints(Vec<PathBuf>),
    /// At its own address, whatever happens behind it.
    Address(String),
    /// From outside: under a host name, at nodes that let it in.
    Host(String, Vec<String>),
}

/// What became of the requests.
#[derive(Debug, Default)]
pub struct Tally {
    pub answered: u64,
    pub failed: u64,
    /// When the last of those began that failed.
    pub failed_last: Option<Instant>,
    /// The first of the failures.
    pub told: Vec<String>,
    /// How many different endpoints were called.
    pub endpoints: usize,
}

/// What the callers of one test share.
struct Shared {
    service: String,
    /// What requests name, if not the endpoint.
    host: Option<String>,
    endpoints: RefCell<Vec<String>>,
    /// Connections that are kept and idle.
    kept: RefCell<BTreeMap<String, Vec<Sender>>>,
    tally: RefCell<Tally>,
    seen: RefCell<BTreeMap<String, u64>>,
}

impl Callers {
    /// Calls a service from inside a network namespace, `rate` times per second.
    pub fn start(
        network: &Path,
        called: Called,
        service: &str,
        (rate, keep): (u64, Keep),
    ) -> Callers {
        let enough = Arc::new(AtomicBool::new(false));
        let (network, service) = (File::open(network).unwrap(), service.to_owned());
        let told = enough.clone();
        let thread = std::thread::spawn(move || {
            // This thread alone moves, and so do the connections that it makes.
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&network), kind).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            LocalSet::new().block_on(&runtime.unwrap(), call(service, called, (rate, keep), &told))
        });
        Callers { enough, thread }
    }

    /// Stops calling, and waits for what is under way.
    pub fn stop(self) -> Tally {
        self.enough.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

async fn call(
    service: String,
    called: Called,
    (rate, keep): (u64, Keep),
    enough: &AtomicBool,
) -> Tally {
    let host = match &called {
        Called::Host(host, _) => Some(host.clone()),
        Called::Endpoints(_) | Called::Address(_) => None,
    };
    let shared = Rc::new(Shared {
        service,
        host,
        endpoints: RefCell::default(),
        kept: RefCell::default(),
        tally: RefCell::default(),
        seen: RefCell::default(),
    });
    let following = match called {
        Called::Endpoints(sockets) => Some(spawn_local(follow(shared.clone(), sockets))),
        Called::Address(address) => {
            shared.endpoints.replace(vec![address]);
            None
        }
        Called::Host(_, addresses) => {
            shared.endpoints.replace(addresses);
            None
        }
    };
    while shared.endpoints.borrow().is_empty() {
        sleep(LOOK).await;
    }
    let mut due = interval(Duration::from_micros(1_000_000 / rate));
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut under_way = JoinSet::new();
    for number in 0_u64.. {
        due.tick().await;
        if enough.load(Ordering::Relaxed) {
            break;
        }
        let endpoint = shared.pick(number);
        under_way.spawn_local(one(shared.clone(), endpoint, keep == Keep::None || number % 2 == 0));
        while under_way.try_join_next().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
    following.inspect(|following| following.abort());
    let mut tally = shared.tally.take();
    tally.endpoints = shared.seen.borrow().len();
    tally
}

impl Shared {
    /// Fresh and kept ones each call one endpoint after the other.
    fn pick(&self, number: u64) -> String {
        let endpoints = self.endpoints.borrow();
        let turn = usize::try_from(number / 2).unwrap() % endpoints.len();
        *self.seen.borrow_mut().entry(endpoints[turn].clone()).or_default() += 1;
        endpoints[turn].clone()
    }

    fn idle(&self, endpoint: &str) -> Option<Sender> {
        let mut kept = self.kept.borrow_mut();
        kept.get_mut(endpoint)?.pop()
    }

    fn keep(&self, endpoint: &str, sender: Sender) {
        if self.endpoints.borrow().iter().any(|known| known == endpoint) {
            self.kept.borrow_mut().entry(endpoint.to_owned()).or_default().push(sender);
        }
    }
}

/// Learns of endpoints, and closes idle connections to what is none any more.
async fn follow(shared: Rc<Shared>, sockets: Vec<PathBuf>) {
    for socket in sockets.iter().cycle() {
        while let Ok(Ok(endpoints)) = timeout(ANSWER, look(socket, &shared.service)).await {
            if !endpoints.is_empty() {
                shared.kept.borrow_mut().retain(|endpoint, _| endpoints.contains(endpoint));
                shared.endpoints.replace(endpoints);
            }
            sleep(LOOK).await;
        }
        sleep(LOOK).await;
    }
}

async fn look(socket: &Path, service: &str) -> Result<Vec<String>, Failed> {
    let mut sender = connected(UnixStream::connect(socket).await?).await?;
    let request =
        Request::get("/v1/status?stale=true").header(header::HOST, "mill").body(Empty::new())?;
    let body = answer(&mut sender, request).await?;
    // Its own copy will do: what is stopped has left the copy of every node that is up.
    let answer: Value = serde_json::from_slice(&body)?;
    let services = answer["status"]["services"].as_array().ok_or("no status")?;
    let known = services.iter().find(|known| known["name"] == service).ok_or("no such service")?;
    let endpoints = known["endpoints"].as_array().ok_or("no endpoints")?.iter();
    Ok(endpoints.filter_map(Value::as_str).map(str::to_owned).collect())
}

async fn one(shared: Rc<Shared>, endpoint: String, fresh: bool) {
    let began = now();
    let outcome = match timeout(PATIENCE, ask(&shared, &endpoint, fresh)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("no answer within {PATIENCE:?}").into()),
    };
    let mut tally = shared.tally.borrow_mut();
    match outcome {
        Ok(()) => tally.answered += 1,
        Err(error) => {
            tally.failed += 1;
            tally.failed_last = tally.failed_last.max(Some(began));
            let how = if fresh { "a fresh connection" } else { "a kept connection" };
            if tally.told.len() < TOLD {
                tally.told.push(format!("{endpoint} on {how}: {}", whole(&*error)));
            }
        }
    }
}

fn whole(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}

async fn ask(shared: &Shared, endpoint: &str, fresh: bool) -> Result<(), Failed> {
    let idle = if fresh { None } else { shared.idle(endpoint) };
    let mut sender = match idle {
        Some(sender) => sender,
        None => connected(TcpStream::connect(endpoint).await?).await?,
    };
    let ends = if fresh { "close" } else { "keep-alive" };
    let host = shared.host.as_deref().unwrap_or(endpoint);
    let request = Request::get("/").header(header::HOST, host).header(header::CONNECTION, ends);
    answer(&mut sender, request.body(Empty::new())?).await?;
    if !fresh {
        shared.keep(endpoint, sender);
    }
    Ok(())
}

async fn connected<S>(stream: S) -> Result<Sender, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    spawn_local(connection);
    Ok(sender)
}

async fn answer(sender: &mut Sender, request: Request<Empty<Bytes>>) -> Result<Bytes, Failed> {
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    match status {
        StatusCode::OK => Ok(body),
        other => Err(format!("answered {other}").into()),
    }
}
