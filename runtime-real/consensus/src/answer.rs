//! What this node answers to the calls of others.
//!
//! It hands each call to openraft, collects a snapshot's pieces until it is whole, and notices
//! when a leader's word makes this start caught up. At most one snapshot is being received: a
//! piece of another one begins anew. Tested in `tests/many.rs`.

use std::io;

use openraft::Raft;
use openraft::raft::{AppendEntriesResponse, TransferLeaderRequest, VoteRequest};
use openraft_rt::{AsyncRuntime, WatchReceiver};
use tokio::sync::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use super::caught_up::Heard;
use super::machine::Machine;
use super::transport::Call;
use super::types::{Snapshot, SnapshotImage, Types};
use super::wire::{self, AppendAnswer, SnapshotAnswer, SnapshotHead, SnapshotKey};

/// The largest snapshot that is received, in bytes. It is in memory until it is whole.
const SNAPSHOT_BYTES: u64 = 256 << 20;

/// Answers calls with one node's consensus.
pub(super) struct Answering<R: AsyncRuntime> {
    pub(super) raft: Raft<Types<R>, Machine<R>>,
    pub(super) heard: Heard,
    pub(super) incoming: Mutex<Option<Incoming>>,
}

/// A snapshot that is not whole yet.
pub(super) struct Incoming {
    of: SnapshotKey,
    bytes: Vec<u8>,
}

impl<R: AsyncRuntime> Answering<R> {
    pub(super) fn new(raft: Raft<Types<R>, Machine<R>>, heard: Heard) -> Self {
        Answering { raft, heard, incoming: Mutex::new(None) }
    }

    pub(super) async fn answer(&self, call: Call, body: &[u8]) -> io::Result<Vec<u8>> {
        match call {
            Call::Append => self.append(body).await,
            Call::Vote => {
                let request: VoteRequest<Types<R>> = wire::decode(body)?;
                wire::encode(&self.raft.vote(request).await.map_err(io::Error::other)?)
            }
            Call::PreVote => {
                let request: VoteRequest<Types<R>> = wire::decode(body)?;
                wire::encode(&self.raft.pre_vote(request).await.map_err(io::Error::other)?)
            }
            Call::Snapshot => {
                let (head, piece) = wire::decode_with(body)?;
                wire::encode(&self.snapshot(head, piece).await?)
            }
            Call::TransferLead => {
                let request: TransferLeaderRequest<Types<R>> = wire::decode(body)?;
                let answered = self.raft.handle_transfer_leader(request).await;
                wire::encode(&answered.map_err(io::Error::other)?)
            }
        }
    }

    async fn append(&self, body: &[u8]) -> io::Result<Vec<u8>> {
        let request = wire::decode_append::<R>(body)?;
        let (vote, commit) = (request.vote, request.leader_commit);
        let answer = self.raft.append_entries(request).await.map_err(io::Error::other)?;
        match &answer {
            AppendEntriesResponse::HigherVote(_) => {}
            AppendEntriesResponse::Success
            | AppendEntriesResponse::PartialSuccess(_)
            | AppendEntriesResponse::Conflict => self.heard.leader_says(vote, commit),
        }
        wire::encode(&AppendAnswer::from(answer))
    }

    /// Takes a piece of a snapshot, and installs the snapshot when it is whole.
    async fn snapshot(&self, head: SnapshotHead, piece: &[u8]) -> io::Result<SnapshotAnswer> {
        let SnapshotHead { vote, of, offset } = head;
        if of.length > SNAPSHOT_BYTES {
            let text = format!("a snapshot of {} bytes is larger than the limit", of.length);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        // Held while the snapshot is installed, so that a repeated call waits for that.
        let mut incoming = self.incoming.lock().await;
        let (seen, applied) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.vote, metrics.last_applied)
        };
        if seen > vote {
            return Ok(SnapshotAnswer::Done { vote: seen });
        }
        if applied >= of.meta.last_log_id {
            *incoming = None;
            return Ok(SnapshotAnswer::Done { vote });
        }
        let has = match &mut *incoming {
            Some(held) if held.of == of => held,
            other => other.insert(Incoming { of, bytes: Vec::new() }),
        };
        has.take(offset, piece);
        if (has.bytes.len() as u64) < has.of.length {
            return Ok(SnapshotAnswer::Has { bytes: has.bytes.len() as u64 });
        }
        let Some(Incoming { of, bytes }) = incoming.take() else {
            unreachable!("it was put there above");
        };
        if xxh3_64(&bytes) != of.checksum {
            let text = "a snapshot arrived damaged: it is asked for again";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let snapshot = SnapshotImage { index: of.index, bytes };
        let snapshot = Snapshot { meta: of.meta, snapshot };
        let installed = self.raft.install_full_snapshot(vote, snapshot).await;
        Ok(SnapshotAnswer::Done { vote: installed.map_err(io::Error::other)?.vote })
    }
}

impl Incoming {
    /// Takes what goes on exactly where it ends, and within its length; what repeats or leaves a
    /// hole is not taken, and the sender learns where to go on.
    fn take(&mut self, offset: u64, piece: &[u8]) {
        let end = offset.saturating_add(piece.len() as u64);
        if offset == self.bytes.len() as u64 && end <= self.of.length {
            self.bytes.extend_from_slice(piece);
        }
    }
}
