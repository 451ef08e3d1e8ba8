//! Who listens at service addresses: one listener per service, port and kind of address, for as
//! long as the tables name it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mill_core::name::{Name, NodeId};
use mill_core::net::{Replica, ServiceTable, Tables};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::balance::Balance;
use crate::carry::{Moved, carry};
use crate::place::Place;

/// Connections that one service and port may have on this node at a time; the next wait.
const CONNECTIONS: usize = 8192;
/// After the kernel refused something, this long nothing is asked of it.
const PAUSE: Duration = Duration::from_millis(200);
/// A listener that could not be had is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);

/// A service and the port that it is called at.
type Called = (Name, u16);
/// Where there should be listeners and are none, and why.
type Failed = BTreeMap<(Name, SocketAddr), io::Error>;

/// The forwarders of a node. Clones are the same ones.
#[derive(Clone, Debug)]
pub(crate) struct Forwarders {
    here: NodeId,
    tables: watch::Receiver<Arc<Tables>>,
    counts: Arc<Mutex<BTreeMap<Name, Arc<Counts>>>>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    failed: AtomicU64,
    open: AtomicU64,
    moved: Moved,
}

/// What was carried to a service since the start of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Which service.
    pub service: Name,
    /// Connections that were accepted.
    pub connections: u64,
    /// Those that reached no replica, or broke off.
    pub failed: u64,
    /// Those that are open.
    pub open: u64,
    /// Bytes to replicas.
    pub bytes_there: u64,
    /// Bytes to callers.
    pub bytes_back: u64,
}

/// Who listens for a service and port, at each of its addresses.
struct Listening {
    balance: Balance,
    room: Arc<Semaphore>,
    at: BTreeMap<SocketAddr, JoinHandle<()>>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.at.values().for_each(JoinHandle::abort);
    }
}

impl Forwarders {
    pub fn new(here: NodeId, tables: watch::Receiver<Arc<Tables>>) -> Forwarders {
        Forwarders { here, tables, counts: Arc::default() }
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<Name, Arc<Counts>>> {
        self.counts.lock().expect("no code panics while it holds the counts")
    }

    pub fn counted(&self) -> Vec<Counted> {
        let of = |(service, counts): (&Name, &Arc<Counts>)| Counted {
            service: service.clone(),
            connections: counts.connections.load(Ordering::Relaxed),
            failed: counts.failed.load(Ordering::Relaxed),
            open: counts.open.load(Ordering::Relaxed),
            bytes_there: counts.moved.there.load(Ordering::Relaxed),
            bytes_back: counts.moved.back.load(Ordering::Relaxed),
        };
        self.counts().iter().map(of).collect()
    }

    /// Listens where the tables say, and follows them.
    pub async fn keep(mut self, place: Place) {
        let mut listening: BTreeMap<Called, Listening> = BTreeMap::new();
        let mut failing: BTreeSet<(Name, SocketAddr)> = BTreeSet::new();
        loop {
            let tables = self.tables.borrow_and_update().clone();
            let failed = self.follow(&tables, &place, &mut listening).await;
            for ((service, address), error) in &failed {
                if !failing.contains(&(service.clone(), *address)) {
                    tracing::warn!(%service, %address, %error, "a service has no forwarder");
                }
            }
            failing = failed.into_keys().collect();
            let changed = self.tables.changed();
            let changed = match failing.is_empty() {
                true => changed.await.is_ok(),
                false => !matches!(timeout(RETRY, changed).await, Ok(Err(_))),
            };
            if !changed {
                return;
            }
        }
    }

    /// Which could not listen that should, and why.
    async fn follow(
        &self,
        tables: &Tables,
        place: &Place,
        listening: &mut BTreeMap<Called, Listening>,
    ) -> Failed {
        let mut failed = Failed::new();
        let addresses = |service: &ServiceTable, port: u16| {
            let address = tables.network.of_service(service.address);
            let beside = tables.network.ipv6_of_service(service.address);
            let beside = beside.filter(|_| place.has_ipv6());
            let all = std::iter::once(IpAddr::V4(address)).chain(beside.map(IpAddr::V6));
            all.map(move |address| SocketAddr::new(address, port))
        };
        let is_wanted = |(name, port): &Called, held: &Listening| {
            let service = tables.services.get(name);
            let may_go_on = |replicas: &Vec<Replica>| place.may_go_on(replicas, *port);
            let service = service.filter(|known| known.ports.get(port).is_some_and(may_go_on));
            let mut first = service.into_iter().flat_map(|service| addresses(service, *port));
            first.any(|address| held.at.contains_key(&address))
        };
        listening.retain(|called, held| is_wanted(called, held));
        self.counts().retain(|name, counts| {
            tables.services.contains_key(name) || counts.open.load(Ordering::Relaxed) > 0
        });
        for (name, service) in &tables.services {
            for (port, replicas) in &service.ports {
                let called = (name.clone(), *port);
                if !listening.contains_key(&called) && !place.may_begin(replicas, *port) {
                    continue;
                }
                let held = listening.entry(called.clone()).or_insert_with(Listening::new);
                held.balance.retain(replicas);
                for address in addresses(service, *port) {
                    if held.at.contains_key(&address) {
                        continue;
                    }
                    match place.tcp(address).await {
                        Ok(listener) => {
                            let task = self.listen(called.clone(), held, listener);
                            held.at.insert(address, task);
                        }
                        Err(error) => {
                            failed.insert((name.clone(), address), error);
                        }
                    }
                }
            }
        }
        failed
    }

    fn listen(&self, called: Called, held: &Listening, listener: TcpListener) -> JoinHandle<()> {
        let counts = self.counts().entry(called.0.clone()).or_default().clone();
        let callee = Callee { here: self.here, tables: self.tables.clone(), called };
        let (balance, room) = (held.balance.clone(), held.room.clone());
        tokio::spawn(Accepting { callee, balance, room, counts }.accept(listener))
    }
}

impl Listening {
    fn new() -> Listening {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        Listening { balance: Balance::default(), room, at: BTreeMap::new() }
    }
}

/// Whom connections to one address are for, at any time.
#[derive(Clone, Debug)]
pub(crate) struct Callee {
    pub here: NodeId,
    tables: watch::Receiver<Arc<Tables>>,
    called: Called,
}

impl Callee {
    /// Of a test's tables.
    #[cfg(test)]
    pub fn new(here: NodeId, tables: watch::Receiver<Arc<Tables>>, called: (Name, u16)) -> Callee {
        Callee { here, tables, called }
    }

    /// Replicas that there are now.
    pub fn replicas(&mut self) -> Vec<Replica> {
        let (name, port) = &self.called;
        let tables = self.tables.borrow_and_update();
        let service = tables.services.get(name);
        service.and_then(|service| service.ports.get(port)).cloned().unwrap_or_default()
    }

    /// Waits until there may be others.
    pub async fn changed(&mut self) {
        // They change no more when the daemon ends, and this with it.
        let _ = self.tables.changed().await;
    }
}

/// Accepts what comes to one address.
struct Accepting {
    callee: Callee,
    balance: Balance,
    room: Arc<Semaphore>,
    counts: Arc<Counts>,
}

impl Accepting {
    /// What was accepted goes on when this is aborted.
    async fn accept(self, listener: TcpListener) {
        loop {
            let Ok(place) = self.room.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((caller, _)) => {
                    let carrying = self.carry(caller);
                    tokio::spawn(async move {
                        carrying.await;
                        drop(place);
                    });
                }
                Err(error) if is_callers(&error) => {}
                Err(error) => {
                    let service = &self.callee.called.0;
                    tracing::warn!(%service, %error, "a connection to a service was not accepted");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    fn carry(&self, caller: TcpStream) -> impl Future<Output = ()> + 'static {
        let (callee, balance) = (self.callee.clone(), self.balance.clone());
        let counts = self.counts.clone();
        async move {
            counts.connections.fetch_add(1, Ordering::Relaxed);
            counts.open.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = carry(caller, callee, &balance, &counts.moved).await {
                counts.failed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%error, "a connection to a service broke off");
            }
            counts.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Whether only the one connection failed (accept(2)).
pub(crate) fn is_callers(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}
