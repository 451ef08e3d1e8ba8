//! The seam to the other voters.
//!
//! Today a cluster has one voter, so there is nobody to talk to, and every call says so. The
//! clients that speak Mill's RPC take this factory's place; nothing else changes with them.

use std::io;

use openraft::OptionalSend;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::EmptyNode;
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft_rt::AsyncRuntime;

use super::types::{Snapshot, SnapshotImage, Types, Vote};

/// Makes the clients that reach other voters.
pub(super) struct Network;

/// A client for one other voter.
pub(super) struct Peer {
    node: u64,
}

impl Peer {
    fn unreachable<R: AsyncRuntime>(&self) -> Unreachable<Types<R>> {
        let node = self.node;
        Unreachable::new(&io::Error::other(format!(
            "node {node} cannot be reached: this cluster has a single voter"
        )))
    }
}

impl<R: AsyncRuntime> RaftNetworkFactory<Types<R>> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Peer {
        Peer { node: target }
    }
}

impl<R: AsyncRuntime> RaftNetworkV2<Types<R>> for Peer {
    type SnapshotData = SnapshotImage;

    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<Types<R>>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<R>>, RPCError<Types<R>>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn vote(
        &mut self,
        _request: VoteRequest<Types<R>>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn pre_vote(
        &mut self,
        _request: VoteRequest<Types<R>>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: Snapshot,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types<R>>, StreamingError<Types<R>>> {
        Err(StreamingError::Unreachable(self.unreachable()))
    }
}
