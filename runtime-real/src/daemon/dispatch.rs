//! Carries out effects: starts each, and sees to it that its result comes back as an event.

use std::collections::BTreeMap;

use mill_core::api::{ApiError, ErrorCode, Outcome, RequestId};
use mill_core::cluster::command::Entry;
use mill_core::container::ContainerOp;
use mill_core::effect::OpId;
use mill_core::event::Fate;
use mill_core::{Effect, Event};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::Consensus;
use crate::docker::Engine;
use mill_consensus::Proposal;

/// Where effects go.
pub(super) struct Dispatch {
    consensus: Consensus,
    engine: Engine,
    results: mpsc::Sender<Event>,
    waiting: BTreeMap<RequestId, oneshot::Sender<Outcome>>,
    snapshot: Option<oneshot::Sender<(u64, Vec<u8>)>>,
    /// Operations under way. They end with this: none may make a container that nobody knows of.
    operations: JoinSet<()>,
}

impl Dispatch {
    pub fn new(consensus: Consensus, engine: Engine, results: mpsc::Sender<Event>) -> Dispatch {
        let (waiting, operations) = (BTreeMap::new(), JoinSet::new());
        Dispatch { consensus, engine, results, waiting, snapshot: None, operations }
    }

    /// Someone waits for the answer to a request.
    pub fn asked(&mut self, id: RequestId, reply: oneshot::Sender<Outcome>) {
        self.waiting.insert(id, reply);
    }

    /// Requests whose caller is gone.
    pub fn abandoned(&mut self) -> Vec<RequestId> {
        let gone = self.waiting.iter().filter(|(_, reply)| reply.is_closed());
        let gone: Vec<RequestId> = gone.map(|(id, _)| *id).collect();
        gone.iter().for_each(|id| {
            self.waiting.remove(id);
        });
        gone
    }

    /// The log waits for a snapshot.
    pub fn snapshot_wanted(&mut self, reply: oneshot::Sender<(u64, Vec<u8>)>) {
        self.snapshot = Some(reply);
    }

    /// Starts an effect.
    pub fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Propose { entry } => self.propose(*entry),
            Effect::ConfirmRead { id } => self.confirm_read(id),
            Effect::Container { id, op } => self.container(id, op),
            Effect::Reply { id, outcome } => {
                if let Some(reply) = self.waiting.remove(&id) {
                    // Who asked may be gone.
                    let _ = reply.send(*outcome);
                }
            }
            Effect::Snapshot { at, bytes } => {
                if let Some(reply) = self.snapshot.take() {
                    // The log may have stopped.
                    let _ = reply.send((at.index, bytes));
                }
            }
            Effect::Forward { to, id, .. } => {
                let message = "there is no way to the leader yet";
                let error = ApiError::new(ErrorCode::NoLeader, format!("{message}, node {to}"));
                let (results, outcome) = (self.results.clone(), Some(Err(error)));
                tokio::spawn(send(results, Event::Forwarded { id, outcome }));
            }
            Effect::Peers { peers } => {
                tracing::debug!(count = peers.len(), "the address book changed");
            }
            Effect::ChangeMembers { voters, learners } => {
                tracing::debug!(?voters, ?learners, "members cannot be changed yet");
            }
            Effect::TransferLead { to } => {
                tracing::debug!(%to, "the lead cannot be handed on yet");
            }
            Effect::Send { to, .. } => {
                tracing::debug!(%to, "there is no way to that node; a message was dropped");
            }
        }
    }

    /// Ends all operations, and waits until they have.
    pub async fn end(&mut self) {
        self.operations.shutdown().await;
    }

    fn propose(&self, entry: Entry) {
        let (consensus, results, id) = (self.consensus.clone(), self.results.clone(), entry.id);
        let bytes = serde_json::to_vec(&entry).expect("entries have text keys only");
        tokio::spawn(async move {
            let fate = match consensus.propose(bytes).await {
                Proposal::Committed { .. } => return,
                Proposal::NotLeader { .. } => Fate::Refused,
                Proposal::TooLarge { limit } => {
                    tracing::error!(limit, "an entry was too large for the log");
                    Fate::Refused
                }
                // The daemon stops: nobody waits for the answer any more.
                Proposal::Unknown { .. } if results.is_closed() => return,
                Proposal::Unknown { reason } => {
                    tracing::warn!(reason, "the fate of a proposal is unknown");
                    Fate::Unknown
                }
            };
            send(results, Event::ProposalFailed { id, fate }).await;
        });
    }

    fn confirm_read(&self, id: RequestId) {
        let (consensus, results) = (self.consensus.clone(), self.results.clone());
        tokio::spawn(async move {
            let confirmed = consensus.confirm_read().await.is_ok();
            send(results, Event::ReadConfirmed { id, confirmed }).await;
        });
    }

    fn container(&mut self, id: OpId, op: ContainerOp) {
        let (engine, results) = (self.engine.clone(), self.results.clone());
        // Those that are over are of no interest: their results came as events.
        while self.operations.try_join_next().is_some() {}
        self.operations.spawn(async move {
            let result = engine.perform(op).await;
            send(results, Event::OpDone { id, result }).await;
        });
    }
}

async fn send(results: mpsc::Sender<Event>, event: Event) {
    // The loop ends only with the daemon.
    let _ = results.send(event).await;
}
