//! One worker without threads and listeners, which serves any stream and reaches its replicas in
//! memory: what `fuzz/` drives. It draws its numbers from one seed, so that an input means the same
//! each time.

use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::sync::{mpsc, watch};

use crate::metrics::WorkerCounters;
use crate::options::Options;
use crate::plan::{Plan, TableError};
use crate::table::Table;
use crate::tls::Certificates;
use crate::worker::{Shared, Worker};

pub(crate) mod network;

/// What the worker's numbers are drawn from.
const SEED: u64 = 1;

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
        let worker = Worker::new(0, Arc::new(options), shared, counters, adopted, SEED);
        Ok(Harness { worker: worker.into() })
    }

    /// The other ends of the connections that workers of this thread open to replicas from now on.
    pub fn replicas() -> mpsc::UnboundedReceiver<DuplexStream> {
        network::dialled()
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
