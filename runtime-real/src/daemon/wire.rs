//! What this node says to others: calls of consensus, messages, and requests that it passes on.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hyper::body::Bytes;
use mill_consensus::{Call, Transport};
use mill_core::Event;
use mill_core::api::{ApiError, ErrorCode, Outcome, Request};
use mill_core::effect;
use mill_core::message::Message;
use mill_core::name::NodeId;
use mill_core::units::Millis;
use tokio::sync::mpsc;

use super::calls::{MESSAGE_PATH, REQUEST_PATH, consensus_path};
use super::joining::to_json;
use crate::pki::Credentials;
use crate::rpc::{CallError, Dial, GREET_PATH, Peer, Peers, Tcp};
use mill_core::effect::Book;

/// A message that was not taken by then is lost: the next one says more.
const MESSAGE_WITHIN: Duration = Duration::from_secs(2);
/// The leader answers a request by then, after what it was asked to hold it.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A greeting that was not answered by then is lost.
const GREETED_WITHIN: Duration = Duration::from_secs(4);

/// The way to the other nodes. Clones share the connections.
#[derive(Clone, Debug)]
pub(super) struct Wire<D = Tcp> {
    peers: Peers<D>,
    events: mpsc::Sender<Event>,
}

impl<D: Dial> Wire<D> {
    pub(super) fn new(
        dial: D,
        credentials: &Credentials,
        events: mpsc::Sender<Event>,
    ) -> io::Result<Wire<D>> {
        Ok(Wire { peers: Peers::new(dial, credentials)?, events })
    }

    /// The other nodes, for streams.
    pub(super) fn peers(&self) -> Peers<D> {
        self.peers.clone()
    }

    /// Who can be called from now on.
    pub(super) fn set(&self, book: &Book) {
        let reachable = book.peers.iter().filter(|(_, peer)| !peer.rpc.is_empty());
        let peers = reachable.map(|(node, peer)| {
            let inside = inside(peer).filter(|_| book.mesh_only);
            let address = inside.unwrap_or_else(|| peer.rpc.clone());
            (*node, Peer { address, key: peer.key.clone() })
        });
        self.peers.set(peers.collect());
    }

    /// Tells a node from outside the mesh whom this one knows, and asks the same.
    pub(super) async fn greet(&self, to: NodeId, book: &Book) {
        let Some(peer) = book.peers.get(&to).filter(|peer| !peer.rpc.is_empty()) else { return };
        let peer = Peer { address: peer.rpc.clone(), key: peer.key.clone() };
        let body = to_json(book);
        let event = match self.peers.call_at(to, &peer, GREET_PATH, body, GREETED_WITHIN).await {
            Ok(answer) => match serde_json::from_slice(&answer) {
                Ok(book) => Event::Greeted { from: to, book },
                Err(error) => {
                    tracing::warn!(%to, %error, "the answer to a greeting cannot be read");
                    return;
                }
            },
            Err(CallError::Removed) => Event::Dismissed { by: to },
            Err(error) => {
                tracing::debug!(%to, %error, "a greeting was lost");
                return;
            }
        };
        // Where too much waits, the next greeting says it again.
        let _ = self.events.try_send(event);
    }

    pub(super) async fn call(
        &self,
        to: NodeId,
        path: &str,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<Bytes, CallError> {
        let answer = self.peers.call(to, path, body, limit).await;
        if let Err(CallError::Removed) = answer {
            // Where too much waits, the next call says it again.
            let _ = self.events.try_send(Event::Dismissed { by: to });
        }
        answer
    }

    /// Says something; whether it arrives is not known.
    pub(super) async fn send(&self, to: NodeId, message: &Message) {
        let sent = self.call(to, MESSAGE_PATH, to_json(message), MESSAGE_WITHIN).await;
        if let Err(error) = sent {
            tracing::debug!(%to, %error, "a message was lost");
        }
    }

    /// Asks in a client's name. `None` if it may have been asked and no answer came.
    pub(super) async fn forward(&self, to: NodeId, request: &Request) -> Option<Outcome> {
        let hold = match request {
            Request::Deployment { hold: Millis(hold), .. }
            | Request::RunState { hold: Millis(hold), .. }
            | Request::Events { hold: Millis(hold), .. } => Duration::from_millis(*hold),
            Request::Plan { .. }
            | Request::Deploy { .. }
            | Request::Restart { .. }
            | Request::Scale { .. }
            | Request::Rollback { .. }
            | Request::Cancel { .. }
            | Request::Run { .. }
            | Request::Runs { .. }
            | Request::Kill { .. }
            | Request::Promote { .. }
            | Request::Deploys { .. }
            | Request::Routes { .. }
            | Request::Status { .. }
            | Request::Allocs { .. }
            | Request::Why { .. }
            | Request::Node { .. }
            | Request::Join(_)
            | Request::CreateToken { .. }
            | Request::RevokeTokens
            | Request::Drain { .. }
            | Request::Label { .. }
            | Request::RotateKey { .. }
            | Request::Certificates { .. }
            | Request::ImportCertificate(_)
            | Request::RemoveCertificate { .. }
            | Request::RenewCertificate { .. }
            | Request::RemoveNode { .. }
            | Request::State => Duration::ZERO,
        };
        let asked = self.call(to, REQUEST_PATH, to_json(request), hold + ANSWER_WITHIN).await;
        match asked {
            Ok(answer) => match serde_json::from_slice(&answer) {
                Ok(outcome) => Some(outcome),
                Err(error) => {
                    tracing::warn!(%to, %error, "the leader's answer cannot be read");
                    None
                }
            },
            Err(error @ (CallError::NotAsked(_) | CallError::Removed)) => {
                let message = format!("node {to}, which leads, was not reached: {error}");
                let error = ApiError::new(ErrorCode::NoLeader, message);
                Some(Err(error.hint("nothing was changed; try again in a moment")))
            }
            Err(CallError::NoAnswer(error)) => {
                tracing::debug!(%to, %error, "the leader did not answer");
                None
            }
        }
    }
}

/// Where a node is reached through the mesh: at its address there, on the port that it has outside.
fn inside(peer: &effect::Peer) -> Option<String> {
    let address = IpAddr::V4(peer.mesh.as_ref()?.address);
    let (_, port) = peer.rpc.rsplit_once(':')?;
    Some(SocketAddr::new(address, port.parse().ok()?).to_string())
}

impl<D: Dial> Transport for Wire<D> {
    async fn call(
        &self,
        to: u64,
        call: Call,
        body: Vec<u8>,
        limit: Duration,
    ) -> io::Result<Vec<u8>> {
        let answer = Wire::call(self, NodeId(to), &consensus_path(call), body, limit).await;
        answer.map(Into::into).map_err(CallError::into_io)
    }
}
