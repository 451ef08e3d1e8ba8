//! One request from its head to the end of its answer: what it holds, and what is counted.
//!
//! It ends when it is dropped, wherever that happens: after the last byte, or with a client that
//! left.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::access_log::AccessRecord;
use crate::connection::Client;
use crate::metrics::RouteCounters;
use crate::worker::Worker;

/// The status that stands for a client that left before there was an answer, as nginx has it.
const CLIENT_LEFT: u16 = 499;

pub(crate) struct Exchange {
    worker: Rc<Worker>,
    client: Rc<Client>,
    counters: Arc<RouteCounters>,
    began: Instant,
    status: Cell<u16>,
    bytes: Cell<u64>,
    /// Filled in only where there is an access log.
    pub(crate) record: Option<Box<AccessRecord>>,
}

impl Exchange {
    pub(crate) fn begin(
        worker: Rc<Worker>,
        client: Rc<Client>,
        counters: Arc<RouteCounters>,
        began: Instant,
    ) -> Exchange {
        client.request_began();
        let (status, bytes) = (Cell::new(CLIENT_LEFT), Cell::new(0));
        Exchange { worker, client, counters, began, status, bytes, record: None }
    }

    pub(crate) fn routed(&mut self, counters: Arc<RouteCounters>) {
        self.counters = counters;
    }

    pub(crate) fn answered(&self, status: u16) {
        self.status.set(status);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let now = crate::clock::now();
        let took = now.saturating_duration_since(self.began);
        self.client.request_ended(now);
        if self.status.get() == CLIENT_LEFT {
            self.client.gave_up();
        }
        self.counters.finished(self.status.get(), took);
        let (Some(mut record), Some(log)) = (self.record.take(), &self.worker.options.access_log)
        else {
            return;
        };
        record.status = self.status.get();
        record.bytes_out = self.bytes.get();
        record.took = took;
        if log.try_send(*record).is_err() {
            self.worker.counters.records_lost.add(1);
        }
    }
}
