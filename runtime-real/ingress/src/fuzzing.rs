//! One worker without threads and listeners, which serves any stream: what `fuzz/` drives.

use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::metrics::WorkerCounters;
use crate::options::Options;
use crate::plan::{Plan, TableError};
use crate::table::Table;
use crate::tls::Certificates;
use crate::worker::{Shared, Worker};

/// A worker, within a local runtime.
#[derive(Debug)]
pub struct Harness {
    worker: Rc<Worker>,
}

impl Harness {
    /// Serves this table.
    ///
    /// # Errors
    /// If the table makes no sense.
    pub fn new(options: Options, table: Table) -> Result<Harness, TableError> {
        let shared = Arc::new(Shared::new(&options, Certificates::default()));
        shared.replace(Plan::new(table, &shared.plan())?);
        let (adopted, _) = watch::channel(0);
        let counters = Arc::new(WorkerCounters::default());
        let worker = Worker::new(0, Arc::new(options), shared, counters, adopted);
        Ok(Harness { worker: worker.into() })
    }

    /// Serves one connection to its end.
    pub async fn serve<S>(&self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
        if let Some(place) = crate::worker::enter(&self.worker, peer) {
            crate::connection::plain(Rc::clone(&self.worker), stream, peer, place).await;
        }
    }
}
