//! The log's own task: it takes what is queued, commits it at once, and tells each writer.
//!
//! Each commit is a blocking task of the runtime, which a simulator runs as it likes. While one syncs, the next requests queue up, so that many appends share one sync (group
//! commit) and none waits for a timer. The committed index travels with the next commit and costs
//! none of its own: after a crash it lags by at most that commit, and Raft finds the rest again.
//! After a failed commit nothing more is written: its fate is unknown, and a later success would
//! be built on it. Tested in `tests/log.rs`.

use std::io;
use std::sync::{Arc, Mutex};

use openraft_rt::AsyncRuntime;
use tokio::sync::{mpsc, oneshot};

use super::error::{ConsensusError, FirstFailure};
use super::log::{Change, LogFile};
use super::types::LogId;

/// Requests that may wait for the task; more make the caller wait.
const QUEUED_REQUESTS: usize = 1024;

/// Requests that one commit takes at most, and about how many bytes.
const BATCHED_REQUESTS: usize = 1024;
const BATCHED_BYTES: usize = 8 << 20;

/// Called by the log's task when the changes are durable, or when that failed.
pub(super) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

enum Request {
    Write { changes: Vec<Change>, done: Done },
    Close { done: oneshot::Sender<()> },
}

/// The way to the log's task. Clones share it; the task ends with the last of them.
#[derive(Clone)]
pub(super) struct Writer {
    requests: mpsc::Sender<Request>,
    committed: Arc<Mutex<Committed>>,
}

/// The committed index as openraft last reported it, and as the disk has it.
struct Committed {
    latest: Option<LogId>,
    saved: Option<LogId>,
}

impl Writer {
    /// Starts the task. `committed` is what the log has now.
    pub(super) fn start<R: AsyncRuntime>(
        log: Arc<LogFile>,
        committed: Option<LogId>,
        failure: FirstFailure,
    ) -> Writer {
        let (requests, queue) = mpsc::channel(QUEUED_REQUESTS);
        let committed = Arc::new(Mutex::new(Committed { latest: committed, saved: committed }));
        let failed = None;
        let worker = Worker { log, queue, committed: committed.clone(), failure, failed };
        drop(R::spawn(worker.run::<R>()));
        Writer { requests, committed }
    }

    /// Queues the changes behind all earlier ones.
    pub(super) async fn write(&self, changes: Vec<Change>, done: Done) {
        let request = Request::Write { changes, done };
        if let Err(mpsc::error::SendError(Request::Write { done, .. })) =
            self.requests.send(request).await
        {
            done(Err(closed()));
        }
    }

    /// Queues the changes and returns when they are durable.
    pub(super) async fn write_through(&self, changes: Vec<Change>) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        let done = Box::new(move |result| {
            let _ = sender.send(result);
        });
        self.write(changes, done).await;
        receiver.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Notes the committed index; the next commit saves it.
    pub(super) fn set_committed(&self, committed: Option<LogId>) {
        lock(&self.committed).latest = committed;
    }

    pub(super) fn committed(&self) -> Option<LogId> {
        lock(&self.committed).latest
    }

    /// Writes what is queued, then closes the log. Later writes fail.
    pub(super) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.requests.send(Request::Close { done }).await.is_ok() {
            // An error means that another caller's close came first.
            let _ = closed.await;
        }
    }
}

fn closed() -> io::Error {
    io::Error::other("the log is closed")
}

fn lock(committed: &Mutex<Committed>) -> std::sync::MutexGuard<'_, Committed> {
    committed.lock().expect("no code panics while it holds the committed index")
}

struct Worker {
    log: Arc<LogFile>,
    queue: mpsc::Receiver<Request>,
    committed: Arc<Mutex<Committed>>,
    failure: FirstFailure,
    /// Why nothing is written any more, if so.
    failed: Option<String>,
}

impl Worker {
    async fn run<R: AsyncRuntime>(mut self) {
        let mut closers = Vec::new();
        while closers.is_empty() {
            let Some(first) = self.queue.recv().await else { break };
            let mut batch = Batch::default();
            batch.take(first, &mut closers);
            while batch.has_room()
                && closers.is_empty()
                && let Ok(next) = self.queue.try_recv()
            {
                batch.take(next, &mut closers);
            }
            self.commit::<R>(batch).await;
        }
        self.commit::<R>(Batch::default()).await;
        self.queue.close();
        self.log.close();
        for done in closers {
            // The closer may have stopped waiting.
            let _ = done.send(());
        }
    }

    async fn commit<R: AsyncRuntime>(&mut self, mut batch: Batch) {
        let unsaved = {
            let committed = lock(&self.committed);
            committed.latest.filter(|latest| committed.saved != Some(*latest))
        };
        batch.changes.extend(unsaved.map(Change::Committed));
        let result = match &self.failed {
            _ if batch.changes.is_empty() => Ok(()),
            Some(failed) => Err((io::ErrorKind::Other, failed.clone())),
            None => write::<R>(self.log.clone(), batch.changes).await,
        };
        if let Err((_, text)) = &result {
            self.failure.note(text);
            self.failed = Some(text.clone());
        }
        if result.is_ok() && unsaved.is_some() {
            lock(&self.committed).saved = unsaved;
        }
        for done in batch.done {
            done(result.clone().map_err(|(kind, text)| io::Error::new(kind, text)));
        }
    }
}

/// Commits on a thread that may block. A commit that did not end is one whose fate is unknown.
async fn write<R: AsyncRuntime>(
    log: Arc<LogFile>,
    changes: Vec<Change>,
) -> Result<(), (io::ErrorKind, String)> {
    let written = R::spawn_blocking(move || log.write(&changes)).await;
    written.and_then(|written| written.map_err(ConsensusError::into_io)).map_err(|error| {
        tracing::error!(%error, "the log cannot be written");
        (error.kind(), error.to_string())
    })
}

#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    bytes: usize,
    done: Vec<Done>,
}

impl Batch {
    fn take(&mut self, request: Request, closers: &mut Vec<oneshot::Sender<()>>) {
        match request {
            Request::Write { changes, done } => {
                self.bytes += changes.iter().map(bytes_of).sum::<usize>();
                self.changes.extend(changes);
                self.done.push(done);
            }
            Request::Close { done } => closers.push(done),
        }
    }

    fn has_room(&self) -> bool {
        self.done.len() < BATCHED_REQUESTS && self.bytes < BATCHED_BYTES
    }
}

fn bytes_of(change: &Change) -> usize {
    match change {
        Change::Append { sealed, .. } => sealed.len(),
        Change::TruncateFrom { .. }
        | Change::PurgeTo(_)
        | Change::Vote(_)
        | Change::Committed(_) => 0,
    }
}
