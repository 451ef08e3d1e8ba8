//! openraft's view of the state machine: it holds no state, it forwards events to the one who does.
//!
//! It keeps the last applied log id and the membership, which are openraft's own. Committed
//! entries, and requests for a snapshot, enter one channel in order, so that its reader is at
//! exactly the index that a snapshot's metadata names. A full channel makes applying wait.
//! Tested in `tests/cluster.rs` and `tests/snapshots.rs`.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{Stream, TryStreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use openraft_rt::AsyncRuntime;
use tokio::sync::{mpsc, oneshot};

use super::ConsensusEvent;
use super::error::{ConsensusError, FirstFailure};
use super::snapshots::Snapshots;
use super::types::{
    LogId, Membership, Snapshot, SnapshotImage, SnapshotMeta, StoredMembership, Types,
};

/// Entries in one [`ConsensusEvent::Committed`], at most, and about how many bytes.
pub(super) const EVENT_ENTRIES: usize = 256;
const EVENT_BYTES: usize = 1 << 20;

/// What has been applied, in openraft's terms.
#[derive(Clone, Default)]
pub(super) struct Applied {
    pub(super) last: Option<LogId>,
    pub(super) membership: StoredMembership,
}

/// The adapter between openraft and the events' reader.
pub(super) struct Machine<R> {
    pub(super) events: mpsc::Sender<ConsensusEvent>,
    /// Resolves when everything from before this start is in the channel.
    pub(super) replayed: Option<oneshot::Receiver<()>>,
    pub(super) applied: Applied,
    /// The last proposed entry that was sent to the reader.
    pub(super) forwarded: Arc<AtomicU64>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) failure: FirstFailure,
    pub(super) runtime: PhantomData<fn() -> R>,
}

impl<R: AsyncRuntime> Machine<R> {
    async fn after_replay(&mut self) -> io::Result<()> {
        match self.replayed.take() {
            Some(replayed) => {
                replayed.await.map_err(|_| io::Error::other("the log could not be replayed"))
            }
            None => Ok(()),
        }
    }

    async fn send(&self, event: ConsensusEvent) -> io::Result<()> {
        self.events.send(event).await.map_err(|_| nobody_listens())
    }

    async fn forward(&self, batch: &mut Batch<R>) -> io::Result<()> {
        if let Some((last, _)) = batch.entries.last() {
            let last = *last;
            let entries = std::mem::take(&mut batch.entries);
            self.send(ConsensusEvent::Committed { entries }).await?;
            self.forwarded.store(last, Ordering::Release);
        }
        batch.bytes = 0;
        for responder in batch.responders.drain(..) {
            responder.send(());
        }
        Ok(())
    }
}

/// Who the members are while they are changing from one set to another: whoever has a vote in
/// either.
pub(super) fn members_of(membership: &Membership) -> ConsensusEvent {
    ConsensusEvent::Members {
        voters: membership.voter_ids().collect(),
        learners: membership.learner_ids().collect(),
    }
}

fn nobody_listens() -> io::Error {
    io::Error::other("nobody reads the consensus events any more")
}

struct Batch<R: AsyncRuntime> {
    entries: Vec<(u64, Vec<u8>)>,
    bytes: usize,
    responders: Vec<ApplyResponder<Types<R>>>,
}

impl<R: AsyncRuntime> RaftStateMachine<Types<R>> for Machine<R> {
    type SnapshotData = SnapshotImage;
    type SnapshotBuilder = Builder<R>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied.last, self.applied.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types<R>>, io::Error>> + Unpin + OptionalSend,
    {
        self.after_replay().await?;
        let mut batch = Batch { entries: Vec::new(), bytes: 0, responders: Vec::new() };
        while let Some((entry, responder)) = entries.try_next().await? {
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(payload) => {
                    batch.bytes += payload.0.len();
                    batch.entries.push((entry.log_id.index, payload.0));
                }
                EntryPayload::Membership(membership) => {
                    self.forward(&mut batch).await?;
                    self.send(members_of(&membership)).await?;
                    self.applied.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
            }
            self.applied.last = Some(entry.log_id);
            batch.responders.extend(responder);
            if batch.entries.len() >= EVENT_ENTRIES || batch.bytes >= EVENT_BYTES {
                self.forward(&mut batch).await?;
            }
        }
        self.forward(&mut batch).await
    }

    async fn get_snapshot_builder(&mut self) -> Builder<R> {
        // A request that cannot be made drops its reply, which the builder reports.
        let (reply, image) = oneshot::channel();
        if self.after_replay().await.is_ok() {
            let _ = self.send(ConsensusEvent::SnapshotWanted { reply }).await;
        }
        Builder {
            image,
            applied: self.applied.clone(),
            expected: self.forwarded.load(Ordering::Acquire),
            snapshots: self.snapshots.clone(),
            failure: self.failure.clone(),
            runtime: PhantomData,
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        image: SnapshotImage,
    ) -> Result<(), io::Error> {
        self.after_replay().await?;
        let saving = save::<R>(self.snapshots.clone(), meta.clone(), image, &self.failure);
        let image = saving.await?;
        let SnapshotImage { index, bytes } = image;
        self.send(ConsensusEvent::Restored { index, bytes }).await?;
        self.forwarded.store(index, Ordering::Release);
        self.send(members_of(meta.last_membership.membership())).await?;
        self.applied = Applied { last: meta.last_log_id, membership: meta.last_membership.clone() };
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let snapshots = self.snapshots.clone();
        let loaded = R::spawn_blocking(move || snapshots.load()).await?;
        loaded.map_err(|error| noted(&self.failure, error))
    }
}

/// Waits for the reader's answer and writes it down.
pub(super) struct Builder<R> {
    image: oneshot::Receiver<(u64, Vec<u8>)>,
    applied: Applied,
    expected: u64,
    snapshots: Arc<Snapshots>,
    failure: FirstFailure,
    runtime: PhantomData<fn() -> R>,
}

impl<R: AsyncRuntime> RaftSnapshotBuilder<Types<R>> for Builder<R> {
    type SnapshotData = SnapshotImage;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let (index, bytes) = (&mut self.image).await.map_err(|_| nobody_listens())?;
        let expected = self.expected;
        if index != expected {
            return Err(io::Error::other(format!(
                "a snapshot was answered for entry {index}, but {expected} entries had been sent: \
                 this is a bug in mill"
            )));
        }
        let meta = SnapshotMeta {
            last_log_id: self.applied.last,
            last_membership: self.applied.membership.clone(),
        };
        let image = SnapshotImage { index, bytes };
        let saving = save::<R>(self.snapshots.clone(), meta.clone(), image, &self.failure);
        let snapshot = saving.await?;
        Ok(Snapshot { meta, snapshot })
    }
}

/// Writes the snapshot on a thread that may block, and hands its content back.
async fn save<R: AsyncRuntime>(
    snapshots: Arc<Snapshots>,
    meta: SnapshotMeta,
    image: SnapshotImage,
    failure: &FirstFailure,
) -> io::Result<SnapshotImage> {
    let saved = R::spawn_blocking(move || snapshots.save(&meta, &image).map(|()| image));
    saved.await?.map_err(|error| noted(failure, error))
}

fn noted(failure: &FirstFailure, error: ConsensusError) -> io::Error {
    let is_failure = !matches!(error, ConsensusError::Stopped { .. });
    let error = error.into_io();
    if is_failure {
        failure.note(&error.to_string());
    }
    error
}
