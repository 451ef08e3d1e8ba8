//! The handle: opens a data directory, runs openraft on it, and carries calls to it.
//!
//! Generic only over openraft's async runtime. Membership is in `members.rs`, what others ask in
//! `answer.rs`.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::errors::{ClientWriteError, Fatal, LinearizableReadError, RaftError};
use openraft::{Raft, ReadPolicy};
use openraft_rt::{AsyncRuntime, WatchReceiver};
use tokio::sync::{mpsc, oneshot};

use super::answer::Answering;
use super::caught_up::Heard;
use super::disk::{Claim, ClaimError, Disk};
use super::error::{ConsensusError, FirstFailure};
use super::log::LogFile;
use super::log_store::LogStore;
use super::machine::Machine;
use super::mutant::{self, Mutant};
use super::network::Network;
use super::replay::{Found, replay};
use super::snapshots::Snapshots;
use super::transport::{Call, Transport};
use super::types::{Payload, Types};
use super::writer::Writer;
use super::{ConsensusEvent, Options, Proposal, ReadError, Status, watch};

/// Events that may wait for their reader; with more, applying waits.
const EVENTS_WAITING: usize = 64;

/// The most bytes that an entry may have. It bounds what one entry costs in memory on every node.
const PROPOSAL_BYTES: usize = 4 << 20;

/// A handle on running consensus; clones share it.
///
/// When the last clone is dropped, consensus stops in the background; [`Consensus::shutdown`]
/// waits for it.
pub struct Consensus<R: AsyncRuntime> {
    pub(super) raft: Raft<Types<R>, Machine<R>>,
    answering: Arc<Answering<R>>,
    writer: Writer,
    snapshots: Arc<Snapshots>,
    failure: FirstFailure,
    forwarded: Arc<AtomicU64>,
    pub(super) node: u64,
}

impl<R: AsyncRuntime> Clone for Consensus<R> {
    fn clone(&self) -> Self {
        Consensus {
            raft: self.raft.clone(),
            answering: self.answering.clone(),
            writer: self.writer.clone(),
            snapshots: self.snapshots.clone(),
            failure: self.failure.clone(),
            forwarded: self.forwarded.clone(),
            node: self.node,
        }
    }
}

impl<R: AsyncRuntime> std::fmt::Debug for Consensus<R> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Consensus").field("node", &self.node).finish_non_exhaustive()
    }
}

impl<R: AsyncRuntime> Consensus<R> {
    /// Opens the directory, checks all that is in it, and starts.
    ///
    /// The reader is first sent what was committed before: the snapshot if there is one, then the
    /// entries after it up to the committed index that was saved last; everything else follows
    /// once this node leads or follows. The receiver must be read all the time, and its reader
    /// must not wait for [`Consensus::propose`] or [`Consensus::confirm_read`] inline, because
    /// both wait for the reader when the channel is full.
    ///
    /// # Errors
    /// When the options cannot work, when the directory is in use, foreign, damaged or written by
    /// a newer Mill, and when the disk fails.
    pub async fn open(
        options: Options,
        disk: Arc<dyn Disk>,
        transport: impl Transport,
    ) -> Result<(Self, mpsc::Receiver<ConsensusEvent>), ConsensusError> {
        let config = Arc::new(options.to_config()?);
        let owner = options.owner();
        let opened = R::spawn_blocking(move || read_directory(disk, &owner)).await;
        let Directory { log, snapshots, mut found } =
            opened.map_err(|error| ConsensusError::Stopped { reason: error.to_string() })??;
        let failure = FirstFailure::default();
        let writer = Writer::start::<R>(log.clone(), found.marks.committed, failure.clone());
        let store = LogStore::<R>::new(log, writer.clone(), &found.marks, found.last);

        let (events, receiver) = mpsc::channel(EVENTS_WAITING);
        let (machine_may_start, replayed) = oneshot::channel();
        let (watch_may_start, watch_after) = oneshot::channel();
        let forwarded = Arc::new(AtomicU64::new(found.forwarded));
        let replaying = replay(found.take_replay(), store.clone(), events.clone());
        let machine = Machine {
            events: events.clone(),
            replayed: Some(replayed),
            applied: found.applied,
            forwarded: forwarded.clone(),
            snapshots: snapshots.clone(),
            failure: failure.clone(),
            runtime: PhantomData,
        };
        let raft = Raft::new(options.node, config, Network { transport }, store, machine)
            .await
            .map_err(|fatal| ConsensusError::Stopped { reason: failure.explain(&fatal) })?;
        drop(R::spawn(async move {
            if replaying.await {
                // Either may have stopped already.
                let _ = machine_may_start.send(());
                let _ = watch_may_start.send(());
            }
        }));
        let (heard, target) = Heard::new();
        let watching =
            watch::watch::<R>(raft.metrics(), events, watch_after, target, failure.clone());
        drop(R::spawn(watching));
        let answering = Arc::new(Answering::new(raft.clone(), heard));
        let node = options.node;
        let consensus = Consensus { raft, answering, writer, snapshots, failure, forwarded, node };
        Ok((consensus, receiver))
    }

    /// What this node answers to a call of node `from`, which must be who it says it is.
    ///
    /// # Errors
    /// When the call cannot be read, or consensus has stopped.
    pub async fn answer(&self, from: u64, call: Call, body: Vec<u8>) -> io::Result<Vec<u8>> {
        self.answering.answer(call, &body).await.inspect_err(|error| {
            let call = call.name();
            tracing::debug!(from, call, %error, "a call of consensus was not answered");
        })
    }

    /// Proposes an entry and waits until it is committed and sent to the reader.
    ///
    /// It waits as long as a leader without a majority waits, so callers bound it. To stop
    /// waiting is to not know: the entry may still be committed.
    pub async fn propose(&self, payload: Vec<u8>) -> Proposal {
        if payload.len() > PROPOSAL_BYTES {
            return Proposal::TooLarge { limit: PROPOSAL_BYTES };
        }
        match self.raft.client_write(Payload(payload)).await {
            Ok(response) => Proposal::Committed { index: response.log_id.index },
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                Proposal::NotLeader { leader: to.leader_id }
            }
            Err(_) if mutant::is(Mutant::UnknownSaidRefused) => {
                Proposal::NotLeader { leader: None }
            }
            // The other variants belong to membership changes and preconditions, or say that the
            // entry was taken and then lost its leader.
            Err(RaftError::APIError(error)) => Proposal::Unknown { reason: error.to_string() },
            Err(RaftError::Fatal(fatal)) => Proposal::Unknown { reason: self.reason(&fatal) },
        }
    }

    /// Confirms with a majority that this node leads (ReadIndex; no clock is trusted), and waits
    /// until all that was committed before this call was sent to the reader.
    ///
    /// Returns the index of the last entry sent: a reader that has applied it answers with a
    /// state that no acknowledged proposal is missing from.
    ///
    /// # Errors
    /// When this node does not lead or cannot confirm it.
    pub async fn confirm_read(&self) -> Result<u64, ReadError> {
        if mutant::is(Mutant::ReadNotConfirmed) {
            return Ok(self.forwarded.load(Ordering::Acquire));
        }
        let linearizer = match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => linearizer,
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
                return Err(ReadError::NotLeader { leader: to.leader_id });
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                return Err(ReadError::NoMajority);
            }
            Err(RaftError::Fatal(fatal)) => {
                return Err(ReadError::Stopped { reason: self.reason(&fatal) });
            }
        };
        match linearizer.await_ready(&self.raft).await {
            Ok(_) => Ok(self.forwarded.load(Ordering::Acquire)),
            Err(fatal) => Err(ReadError::Stopped { reason: self.reason(&fatal) }),
        }
    }

    /// A glance at consensus; never waits.
    #[must_use]
    pub fn status(&self) -> Status {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        Status {
            term: metrics.current_term,
            leader: metrics.current_leader,
            last_log: metrics.last_log_index,
            applied: metrics.last_applied.map(|applied| applied.index),
            snapshot: metrics.snapshot.map(|snapshot| snapshot.index),
            voters: metrics.membership_config.voter_ids().collect(),
            learners: metrics.membership_config.membership().learner_ids().collect(),
        }
    }

    /// Stops, writes down what is queued, and gives the directory back. Safe to repeat.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "consensus did not stop cleanly");
        }
        self.writer.close().await;
        let snapshots = self.snapshots.clone();
        // It fails only where the runtime ends as well.
        let _ = R::spawn_blocking(move || snapshots.close()).await;
    }

    pub(super) fn reason(&self, fatal: &Fatal<Types<R>>) -> String {
        self.failure.explain(fatal)
    }
}

/// A directory that was opened, and what was found in it.
pub(super) struct Directory {
    pub(super) log: Arc<LogFile>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) found: Found,
}

pub(super) fn read_directory(
    disk: Arc<dyn Disk>,
    owner: &str,
) -> Result<Directory, ConsensusError> {
    let claim = claim(&*disk)?;
    let log = LogFile::open(&*disk, claim.clone(), owner)?;
    let snapshots = Snapshots::open(disk, claim)?;
    let found = Found::read(&log, &snapshots)?;
    Ok(Directory { log: Arc::new(log), snapshots: Arc::new(snapshots), found })
}

/// The directory for this process alone, until the log and the snapshots are closed.
pub(super) fn claim(disk: &dyn Disk) -> Result<Arc<Claim>, ConsensusError> {
    disk.claim().map(Arc::new).map_err(|error| match error {
        ClaimError::Held { by } => ConsensusError::InUse { path: disk.location(), by },
        ClaimError::Io(source) => {
            ConsensusError::Io { doing: "lock", path: disk.location(), source }
        }
    })
}
