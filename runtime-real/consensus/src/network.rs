//! openraft's calls to other nodes, over a [`Transport`].
//!
//! Every call ends within openraft's `soft_ttl`, and every failure is one thing to openraft: the
//! node cannot be reached for now, so it waits a little longer each time. Snapshots go in pieces,
//! each a call of its own; the receiver says how much it has, so a break costs one piece.
//! The other side is `answer.rs`. Tested in `tests/many.rs`.

use std::io;
use std::marker::PhantomData;
use std::pin::pin;
use std::time::Duration;

use openraft::OptionalSend;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::EmptyNode;
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft_rt::{AsyncRuntime, Select2};
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::xxh3_64;

use super::transport::{Call, Transport};
use super::types::{Snapshot, SnapshotImage, Types, Vote};
use super::wire::{self, SnapshotAnswer, SnapshotHead, SnapshotKey};

/// Makes the clients that reach other nodes.
pub(super) struct Network<T> {
    pub(super) transport: T,
}

/// A client for one other node.
pub(super) struct Peer<R, T> {
    node: u64,
    transport: T,
    runtime: PhantomData<fn() -> R>,
}

impl<R: AsyncRuntime, T: Transport> RaftNetworkFactory<Types<R>> for Network<T> {
    type Network = Peer<R, T>;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Peer<R, T> {
        Peer { node: target, transport: self.transport.clone(), runtime: PhantomData }
    }
}

impl<R: AsyncRuntime, T: Transport> Peer<R, T> {
    /// One call, which ends within the limit even if the transport's does not.
    async fn ask<A: DeserializeOwned>(
        &self,
        call: Call,
        body: io::Result<Vec<u8>>,
        limit: Duration,
    ) -> Result<A, Unreachable<Types<R>>> {
        let asking = async {
            let answered = self.transport.call(self.node, call, body?, limit);
            let bytes = R::timeout(limit, answered)
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            wire::decode(&bytes)
        };
        asking.await.map_err(|error: io::Error| {
            let (node, call) = (self.node, call.name());
            Unreachable::from_string(format!("node {node} did not answer {call}: {error}"))
        })
    }

    /// Sends what the node lacks of a snapshot, and returns its vote when it is installed there.
    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: Snapshot,
        option: &RPCOption,
    ) -> Result<Vote, Unreachable<Types<R>>> {
        let piece_bytes = option.snapshot_chunk_size().unwrap_or(usize::MAX);
        let SnapshotImage { index, bytes } = &snapshot.snapshot;
        let length = bytes.len() as u64;
        let of = SnapshotKey {
            meta: snapshot.meta.clone(),
            index: *index,
            length,
            checksum: xxh3_64(bytes),
        };
        // Nothing at first: the answer is how much it has from before.
        let mut piece: &[u8] = &[];
        let mut head = SnapshotHead { vote, of, offset: 0 };
        loop {
            let asked =
                self.ask(Call::Snapshot, wire::encode_with(&head, piece), option.soft_ttl());
            head.offset = match asked.await? {
                SnapshotAnswer::Done { vote } => return Ok(vote),
                SnapshotAnswer::Has { bytes } => bytes.min(length),
            };
            let rest = &bytes[as_usize(head.offset)..];
            piece = &rest[..rest.len().min(piece_bytes)];
        }
    }
}

fn as_usize(offset: u64) -> usize {
    usize::try_from(offset).expect("an offset in a snapshot that is in memory")
}

impl<R: AsyncRuntime, T: Transport> RaftNetworkV2<Types<R>> for Peer<R, T> {
    type SnapshotData = SnapshotImage;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<R>>, RPCError<Types<R>>> {
        let body = wire::encode_append::<R>(&request);
        let answer: wire::AppendAnswer = self.ask(Call::Append, body, option.soft_ttl()).await?;
        Ok(answer.into())
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        Ok(self.ask(Call::Vote, wire::encode(&request), option.soft_ttl()).await?)
    }

    /// openraft's own would grant each vote without asking.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        Ok(self.ask(Call::PreVote, wire::encode(&request), option.soft_ttl()).await?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types<R>>, StreamingError<Types<R>>> {
        let sending = pin!(self.send_snapshot(vote, snapshot, &option));
        match R::select2(pin!(cancel), sending).await {
            Select2::First(closed) => Err(StreamingError::Closed(closed)),
            Select2::Second(sent) => Ok(SnapshotResponse::new(sent?)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types<R>>, RPCError<Types<R>>> {
        Ok(self.ask(Call::TransferLead, wire::encode(&request), option.soft_ttl()).await?)
    }
}
