//! Carries out effects: starts each, and sees to it that its result comes back as an event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mill_core::api::{Outcome, RequestId};
use mill_core::cluster::command::Entry;
use mill_core::container::ContainerOp;
use mill_core::effect::OpId;
use mill_core::event::Fate;
use mill_core::name::NodeId;
use mill_core::net::Tables;
use mill_core::{Effect, Event};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::Consensus;
use super::wire::Wire;
use crate::acme::{self, Certifier};
use crate::docker::Engine;
use crate::ingress::Front;
use crate::mesh::Meshing;
use crate::rpc::Server;
use mill_consensus::Proposal;
use mill_core::effect::Book;

/// A change of members that takes longer is given up.
const CHANGE_WITHIN: Duration = Duration::from_secs(10);

/// Between hearing that this node was removed, and its end.
const ANSWER_FIRST: Duration = Duration::from_secs(1);

/// Where effects go.
pub(super) struct Dispatch {
    consensus: Consensus,
    engine: Engine,
    /// What this node says to others, and whom it listens to.
    ends: Ends,
    /// What traffic is carried by.
    tables: watch::Sender<Arc<Tables>>,
    /// Where requests from outside come in.
    front: Front,
    /// Asks certificate authorities.
    certifier: Certifier,
    events: mpsc::Sender<Event>,
    waiting: BTreeMap<RequestId, oneshot::Sender<Outcome>>,
    snapshot: Option<oneshot::Sender<(u64, Vec<u8>)>>,
    /// Ends the loop, when this node was removed.
    retired: Option<oneshot::Sender<()>>,
    /// The change of members that is under way.
    changing: Option<JoinHandle<()>>,
    /// Operations under way. They end with this: none may make a container that nobody knows of.
    operations: JoinSet<()>,
}

/// What this node says to others, and whom it listens to.
pub(super) struct Ends {
    pub(super) wire: Wire,
    pub(super) server: Server,
    /// Where the others are, as far as this node knows.
    pub(super) known: watch::Sender<Book>,
    /// The same, to be kept on disk.
    pub(super) kept: watch::Sender<Book>,
    /// Its part of the mesh.
    pub(super) meshing: Meshing,
}

/// What traffic is carried by, from inside and from outside, and who gets its certificates.
pub(super) type Carriers = (watch::Sender<Arc<Tables>>, Front, Certifier);

impl Dispatch {
    pub fn new(
        consensus: Consensus,
        engine: Engine,
        ends: Ends,
        (tables, front, certifier): Carriers,
        events: mpsc::Sender<Event>,
        retired: oneshot::Sender<()>,
    ) -> Dispatch {
        Dispatch {
            consensus,
            engine,
            ends,
            tables,
            front,
            certifier,
            events,
            waiting: BTreeMap::new(),
            snapshot: None,
            retired: Some(retired),
            changing: None,
            operations: JoinSet::new(),
        }
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
            Effect::Acme { id, op } => {
                let (certifier, events) = (self.certifier.clone(), self.events.clone());
                tokio::spawn(async move {
                    // It ends, however it does: nothing waits for it for ever.
                    let asking = tokio::spawn(async move { certifier.perform(*op).await });
                    let result = asking.await.unwrap_or_else(|error| Err(acme::failed(&error)));
                    send(events, Event::AcmeDone { id, result }).await;
                });
            }
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
            Effect::Send { to, message } => {
                let wire = self.ends.wire.clone();
                tokio::spawn(async move { wire.send(to, &message).await });
            }
            Effect::Forward { to, id, request } => {
                let (wire, events) = (self.ends.wire.clone(), self.events.clone());
                tokio::spawn(async move {
                    let outcome = wire.forward(to, &request).await;
                    let outcome = outcome.map(Box::new);
                    send(events, Event::Forwarded { id, outcome }).await;
                });
            }
            Effect::Peers { book, current } => {
                self.open_book(&book);
                if current {
                    self.ends.kept.send_replace(book);
                }
            }
            Effect::Greet { to } => {
                let (wire, book) = (self.ends.wire.clone(), self.ends.known.borrow().clone());
                tokio::spawn(async move { wire.greet(to, &book).await });
            }
            Effect::RotateKey { serial } => self.ends.meshing.rotate(serial),
            Effect::Publish { tables } => {
                self.front.publish(&tables);
                self.tables.send_replace(tables);
            }
            Effect::ChangeMembers { voters, learners } => self.change_members(voters, learners),
            Effect::Retire => self.retire(),
            Effect::TransferLead { to } => {
                let consensus = self.consensus.clone();
                tokio::spawn(async move { consensus.transfer_lead(to.0).await });
            }
        }
    }

    /// Whom this node speaks to and listens to from now on.
    pub fn open_book(&self, book: &Book) {
        self.ends.wire.set(book);
        self.ends.server.set_book(book.clone());
        self.ends.known.send_replace(book.clone());
    }

    /// The loop is told in a moment: whoever asked for this is still to be answered.
    fn retire(&mut self) {
        if let Some(retired) = self.retired.take() {
            tokio::spawn(async move {
                tokio::time::sleep(ANSWER_FIRST).await;
                // The loop may have ended by itself.
                let _ = retired.send(());
            });
        }
    }

    /// Ends all operations, and waits until they have.
    pub async fn end(&mut self) {
        self.operations.shutdown().await;
    }

    /// One change at a time; core asks again for as long as it is not so.
    fn change_members(&mut self, voters: BTreeSet<NodeId>, learners: BTreeSet<NodeId>) {
        if self.changing.as_ref().is_some_and(|changing| !changing.is_finished()) {
            return;
        }
        let consensus = self.consensus.clone();
        self.changing = Some(tokio::spawn(async move {
            let [voters, learners] =
                [voters, learners].map(|nodes| nodes.into_iter().map(|node| node.0).collect());
            let changing = consensus.change_members(voters, learners);
            match timeout(CHANGE_WITHIN, changing).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "the members were not changed"),
                Err(_) => tracing::debug!("the members were not changed in time"),
            }
        }));
    }

    fn propose(&self, entry: Entry) {
        let (consensus, events, id) = (self.consensus.clone(), self.events.clone(), entry.id);
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
                Proposal::Unknown { .. } if events.is_closed() => return,
                Proposal::Unknown { reason } => {
                    tracing::warn!(reason, "the fate of a proposal is unknown");
                    Fate::Unknown
                }
            };
            send(events, Event::ProposalFailed { id, fate }).await;
        });
    }

    fn confirm_read(&self, id: RequestId) {
        let (consensus, events) = (self.consensus.clone(), self.events.clone());
        tokio::spawn(async move {
            let confirmed = consensus.confirm_read().await.is_ok();
            send(events, Event::ReadConfirmed { id, confirmed }).await;
        });
    }

    fn container(&mut self, id: OpId, op: ContainerOp) {
        let (engine, events) = (self.engine.clone(), self.events.clone());
        // Those that are over are of no interest: their events came as events.
        while self.operations.try_join_next().is_some() {}
        self.operations.spawn(async move {
            let result = engine.perform(op).await;
            send(events, Event::OpDone { id, result }).await;
        });
    }
}

async fn send(events: mpsc::Sender<Event>, event: Event) {
    // The loop ends only with the daemon.
    let _ = events.send(event).await;
}
