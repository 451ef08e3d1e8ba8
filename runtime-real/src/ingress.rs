//! Requests from outside, on this node, from the tables that its node gives out.
//!
//! Ports are taken while there are routes, and no longer: a cluster without any leaves 80 and 443
//! to its containers. What is given out is in force when [`Front::publish`] returns. A port that
//! cannot be had is tried again, costs no other, and is told to the node, whose cluster shows it.

mod access;
mod secrets;
mod tables;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mill_core::Event;
use mill_core::name::NodeId;
use mill_core::net::Tables;
use mill_ingress::{AccessRecord, Ingress, Options, Table};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use self::secrets::Secrets;
use crate::vault::Vault;

/// Between two tries of a port that is taken.
const RETRY: Duration = Duration::from_secs(5);
/// How long requests under way may take when this node stops taking any.
const DRAIN: Duration = Duration::from_secs(30);
/// The same when the daemon stops, which people wait for.
const STOP: Duration = Duration::from_secs(5);

/// Where a node takes requests from outside; nowhere if both are absent, TCP routes included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IngressOptions {
    /// Plain HTTP.
    pub http: Option<SocketAddr>,
    /// HTTPS.
    pub https: Option<SocketAddr>,
    /// Every host also answers below `.localhost`, which browsers take for this machine.
    pub local: bool,
    /// Where an authority of this machine's own is kept, that certificates come from in place of
    /// an ACME authority: for development.
    pub authority: Option<PathBuf>,
}

impl IngressOptions {
    /// The usual ports on every address of this machine.
    pub fn usual() -> IngressOptions {
        let (http, https) = (Some(everywhere(80)), Some(everywhere(443)));
        IngressOptions { http, https, ..IngressOptions::default() }
    }
}

/// A port of every address: also of IPv6, where the kernel has it.
pub fn everywhere(port: u16) -> SocketAddr {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
        Err(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
    }
}

/// The certificate of the authority that is kept in a folder, for a person to trust.
pub fn local_authority(folder: &Path) -> PathBuf {
    crate::acme::LocalFiles::new(folder).certificate()
}

/// Where requests come in; clones are the same.
#[derive(Clone)]
pub(crate) struct Front(Arc<Mutex<State>>);

struct State {
    node: NodeId,
    options: IngressOptions,
    vault: Vault,
    secrets: Secrets,
    access: mpsc::Sender<AccessRecord>,
    tables: Arc<Tables>,
    running: Option<Running>,
    /// Why not all is served, as the node was told.
    told: watch::Sender<Option<String>>,
    is_retrying: bool,
}

struct Running {
    ingress: Ingress,
    /// Whether it was started for HTTP routes, or for TCP routes alone.
    for_http: bool,
    /// The addresses for HTTP that it has, of those that it was to have.
    has: [Option<SocketAddr>; 2],
}

impl Front {
    /// Takes no port yet. Finished requests are written down in the data directory.
    pub(crate) fn new(
        node: NodeId,
        options: IngressOptions,
        vault: Vault,
        data: &Path,
        events: mpsc::Sender<Event>,
    ) -> Front {
        let (told, news) = watch::channel(None);
        tokio::spawn(tell(news, events));
        Front(Arc::new(Mutex::new(State {
            node,
            options,
            vault,
            secrets: Secrets::default(),
            access: access::keep(data),
            tables: Arc::default(),
            running: None,
            told,
            is_retrying: false,
        })))
    }

    /// Takes requests by these tables from now on.
    pub(crate) fn publish(&self, tables: &Arc<Tables>) {
        let mut state = self.state();
        state.tables = tables.clone();
        state.adopt();
        if state.told.borrow().is_some() && !std::mem::replace(&mut state.is_retrying, true) {
            let front = self.clone();
            tokio::spawn(async move { front.retry().await });
        }
    }

    async fn retry(&self) {
        loop {
            sleep(RETRY).await;
            let mut state = self.state();
            state.adopt();
            if state.told.borrow().is_none() {
                state.is_retrying = false;
                return;
            }
        }
    }

    /// What is counted, while requests are taken.
    pub(crate) fn counted(&self) -> Option<mill_ingress::Snapshot> {
        self.state().running.as_ref().map(|running| running.ingress.metrics())
    }

    /// Takes nothing new, and waits a moment for what is under way.
    pub(crate) async fn stop(&self) {
        let running = {
            let mut state = self.state();
            state.options = IngressOptions::default();
            state.running.take()
        };
        if let Some(running) = running {
            let drained = running.ingress.drain(STOP).await;
            tracing::debug!(cut_off = drained.cut_off, "no requests are taken any more");
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn adopt(&mut self) {
        let troubles = self.serve();
        let trouble = (!troubles.is_empty()).then(|| troubles.join("; "));
        if trouble == *self.told.borrow() {
            return;
        }
        match &trouble {
            Some(why) => tracing::warn!(why, "not every route is served on this node"),
            None => tracing::info!("every route is served on this node again"),
        }
        self.told.send_replace(trouble);
    }

    /// Serves the tables; says what of them it cannot serve.
    fn serve(&mut self) -> Vec<String> {
        let IngressOptions { http, https, local, .. } = self.options;
        let mut table = tables::of(&self.tables, self.node, local);
        let any = http.or(https).map_or(Ipv4Addr::UNSPECIFIED.into(), |address| address.ip());
        table.tcp.iter_mut().for_each(|route| route.listen.set_ip(any));
        let (table, mut troubles) = table.sensible();
        let is_off = http.is_none() && https.is_none();
        if is_off || table.http.is_empty() && table.tcp.is_empty() {
            retire(self.running.take());
            return troubles;
        }
        self.secrets.read(&self.tables, &self.vault, local);
        troubles.extend(self.secrets.trouble.clone());
        self.start(!table.http.is_empty(), &table, &mut troubles);
        if let Some(running) = &self.running {
            self.secrets.give(&running.ingress);
            troubles.extend(publish(&running.ingress, table));
        }
        troubles
    }

    /// Sees to it that an ingress runs with as many of its addresses as can be had. One that takes
    /// another's place has the routes before that lets go.
    fn start(&mut self, for_http: bool, table: &Table, troubles: &mut Vec<String>) {
        let IngressOptions { http, https, .. } = self.options;
        let wanted = if for_http { [http, https] } else { [None, None] };
        let running = self.running.as_ref().filter(|running| running.for_http == for_http);
        let mut has = running.map_or([None, None], |running| running.has);
        let is_new = running.is_none();
        let mut more = false;
        for (has, wanted) in has.iter_mut().zip(wanted) {
            let Some(address) = wanted.filter(|_| has.is_none()) else { continue };
            match mill_ingress::is_free(address) {
                Ok(()) => {
                    *has = Some(address);
                    more = true;
                }
                Err(error) => troubles.push(cannot_listen(address, &error)),
            }
        }
        if !is_new && !more {
            return;
        }
        let options = Options {
            http: has[0],
            https: has[1],
            public_https_port: has[1].map_or(443, |address| address.port()),
            access_log: Some(self.access.clone()),
            ..Options::default()
        };
        match Ingress::start(options) {
            Ok(ingress) => {
                self.secrets.give(&ingress);
                // What cannot be had is told by whoever publishes next.
                let _ = publish(&ingress, table.clone());
                let new = Running { ingress, for_http, has };
                retire(self.running.replace(new));
            }
            Err(error) => troubles.push(with_source(&error)),
        }
    }
}

/// Tells the node what is so now: what was so in between is of no interest.
async fn tell(mut news: watch::Receiver<Option<String>>, events: mpsc::Sender<Event>) {
    while news.changed().await.is_ok() {
        let why = news.borrow_and_update().clone();
        if events.send(Event::Unrouted { why }).await.is_err() {
            return;
        }
    }
}

/// Ends it once what is under way is over.
fn retire(running: Option<Running>) {
    if let Some(running) = running {
        tokio::spawn(running.ingress.drain(DRAIN));
    }
}

/// Serves by a table from now on; says what of it cannot be served.
fn publish(ingress: &Ingress, table: Table) -> Vec<String> {
    match ingress.publish(table) {
        Ok(published) => {
            let refused = published.refused.iter();
            refused.map(|(address, error)| cannot_listen(*address, error)).collect()
        }
        Err(error) => vec![error.to_string()],
    }
}

fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> String {
    format!("cannot listen on port {}: {error}", address.port())
}

fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
