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
use tokio::sync::mpsc;
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
    events: mpsc::Sender<Event>,
    tables: Arc<Tables>,
    running: Option<Running>,
    /// Why not all is served, as the node was told.
    told: Option<String>,
    is_retrying: bool,
}

struct Running {
    ingress: Ingress,
    /// Whether it was started for HTTP routes, or for TCP routes alone.
    for_http: bool,
    /// Whether it has every address that it was to have.
    whole: bool,
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
        Front(Arc::new(Mutex::new(State {
            node,
            options,
            vault,
            secrets: Secrets::default(),
            access: access::keep(data),
            events,
            tables: Arc::default(),
            running: None,
            told: None,
            is_retrying: false,
        })))
    }

    /// Takes requests by these tables from now on.
    pub(crate) fn publish(&self, tables: &Arc<Tables>) {
        let mut state = self.state();
        state.tables = tables.clone();
        state.adopt();
        if state.told.is_some() && !std::mem::replace(&mut state.is_retrying, true) {
            let front = self.clone();
            tokio::spawn(async move { front.retry().await });
        }
    }

    async fn retry(&self) {
        loop {
            sleep(RETRY).await;
            let mut state = self.state();
            state.adopt();
            if state.told.is_none() {
                state.is_retrying = false;
                return;
            }
        }
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
        let trouble = self.serve().err();
        if trouble == self.told {
            return;
        }
        match &trouble {
            Some(why) => tracing::warn!(why, "not every route is served on this node"),
            None => tracing::info!("every route is served on this node again"),
        }
        self.told.clone_from(&trouble);
        let events = self.events.clone();
        tokio::spawn(async move {
            // The loop ends only with the daemon.
            let _ = events.send(Event::Unrouted { why: trouble }).await;
        });
    }

    /// Serves the tables; says what of them it cannot serve.
    fn serve(&mut self) -> Result<(), String> {
        let IngressOptions { http, https, local, .. } = self.options;
        let is_off = http.is_none() && https.is_none();
        let mut table = tables::of(&self.tables, self.node, local);
        let any = http.or(https).map_or(Ipv4Addr::UNSPECIFIED.into(), |address| address.ip());
        table.tcp.iter_mut().for_each(|route| route.listen.set_ip(any));
        if is_off || table.http.is_empty() && table.tcp.is_empty() {
            retire(self.running.take());
            return Ok(());
        }
        self.secrets.read(&self.tables, &self.vault, local);
        let for_http = !table.http.is_empty();
        let fits = |running: &Running| running.for_http == for_http && running.whole;
        let mut missing = None;
        if !self.running.as_ref().is_some_and(fits) {
            let (running, error) = self.start(for_http);
            missing = error;
            // The new one has the routes before the old one lets go.
            if let Some(new) = &running {
                self.secrets.give(&new.ingress);
                publish(&new.ingress, table.clone())?;
            }
            let better = running.as_ref().is_some_and(|new| new.whole)
                || self.running.as_ref().is_none_or(|old| old.for_http != for_http);
            match better {
                true => retire(std::mem::replace(&mut self.running, running)),
                false => retire(running),
            }
        }
        if let Some(running) = &self.running {
            self.secrets.give(&running.ingress);
            publish(&running.ingress, table)?;
        }
        missing.or_else(|| self.secrets.trouble.clone()).map_or(Ok(()), Err)
    }

    /// Starts with as many of its addresses as can be had; says which cannot, and why.
    fn start(&self, for_http: bool) -> (Option<Running>, Option<String>) {
        let IngressOptions { http, https, .. } = self.options;
        let choices = match for_http {
            true => vec![(http, https), (http, None), (None, https), (None, None)],
            false => vec![(None, None)],
        };
        let mut first = None;
        for (http, https) in choices {
            let options = Options {
                http,
                https,
                public_https_port: https.map_or(443, |address| address.port()),
                access_log: Some(self.access.clone()),
                ..Options::default()
            };
            match Ingress::start(options) {
                Ok(ingress) => {
                    let whole = first.is_none();
                    return (Some(Running { ingress, for_http, whole }), first);
                }
                Err(error) => {
                    first.get_or_insert(with_source(&error));
                }
            }
        }
        (None, first)
    }
}

/// Ends it once what is under way is over.
fn retire(running: Option<Running>) {
    if let Some(running) = running {
        tokio::spawn(running.ingress.drain(DRAIN));
    }
}

fn publish(ingress: &Ingress, table: Table) -> Result<(), String> {
    let published = ingress.publish(table).map_err(|error| error.to_string())?;
    let refused = published
        .refused
        .iter()
        .map(|(address, error)| format!("cannot listen on port {}: {error}", address.port()));
    let refused: Vec<String> = refused.collect();
    if refused.is_empty() { Ok(()) } else { Err(refused.join("; ")) }
}

fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
