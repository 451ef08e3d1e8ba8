//! What is under the nodes: what decides what comes into the log, and who leads.
//!
//! Whatever a node wants of its log is an [`Ask`], and [`World::ask_log`] is where it goes. Under
//! [`Ground::Modelled`], `consensus.rs` draws what comes of it. `World::log` is what is known to be
//! committed, and here is what follows when more is.

use std::sync::Arc;

use mill_core::Event;
use mill_core::api::RequestId;
use mill_core::cluster::command::{Command, Entry};
use mill_core::cluster::deploy::DeployState;
use mill_core::cluster::{Cluster, Revision};
use mill_core::event::Leadership;
use mill_core::name::NodeId;
use mill_core::node::Members;

use super::consensus::Elections;
use super::describe::describe;
use super::{Happening, World};
use crate::invariants::Moment;

/// States are compared at every so many entries, and at the end.
const COMPARED_EVERY: u64 = 8;

/// What decides what comes into the log.
pub(super) enum Ground {
    /// A model that draws it.
    Modelled(Elections),
}

impl Ground {
    pub fn elections(&self) -> &Elections {
        let Ground::Modelled(elections) = self;
        elections
    }

    pub fn elections_mut(&mut self) -> &mut Elections {
        let Ground::Modelled(elections) = self;
        elections
    }
}

/// What a node asks of its log.
pub(crate) enum Ask {
    /// To take an entry.
    Propose(Box<Entry>),
    /// Whether it leads; names the question.
    ConfirmRead(RequestId),
    /// Other members.
    Members(Members),
    /// That another leads in its place.
    TransferLead(NodeId),
    /// To keep its state as of then, in place of entries.
    Snapshot(Revision, Vec<u8>),
}

impl World {
    /// A node asks its log for something.
    pub(super) fn ask_log(&mut self, node: NodeId, boot: u64, ask: Ask) {
        match ask {
            Ask::Propose(entry) => self.propose(node, boot, *entry),
            Ask::ConfirmRead(request) => {
                let there = self.network.delay();
                self.after(there, Happening::Confirm { node, boot, request });
            }
            Ask::Members(members) => self.change_soon(node, members),
            Ask::TransferLead(to) => self.ask_to_lead(node, to),
            Ask::Snapshot(at, bytes) => {
                let bytes = Arc::new(bytes);
                self.log.keep_snapshot(at, bytes.clone());
                self.host_mut(node).snapshot = Some((at, bytes));
            }
        }
    }

    /// Time passes.
    pub(super) fn watch_log(&mut self) {
        self.watch_leader();
    }

    /// A daemon has started, whose last one had applied up to there.
    pub(super) fn log_starts(&mut self, node: NodeId, had_applied: u64) {
        let boot = self.host(node).boots;
        self.remembers(node, boot, had_applied);
        self.feed_soon(node);
    }

    /// A daemon is about to be gone.
    pub(super) fn log_stops(&mut self, node: NodeId) {
        // A daemon that comes back follows, whatever it was before.
        if self.log.leader == Some(node) {
            self.depose(node);
        }
    }

    /// One more entry is committed.
    pub(super) fn committed(&mut self, at: Revision, entry: &Entry) {
        let before = self.log.reference.clone();
        let results = self.log.reference.apply(at, entry);
        let now = self.now;
        self.stats.count("entries committed");
        for (command, result) in entry.commands.iter().zip(&results) {
            self.trace.transition(now, || match result {
                Ok(_) => format!("{at} {}", describe(command)),
                Err(refusal) => format!("{at} {} refused: {refusal}", describe(command)),
            });
        }
        for (command, result) in entry.commands.iter().zip(&results) {
            if let (Command::AdvanceDeploy { to, .. }, Ok(_)) = (command, result) {
                self.stats.count(match to {
                    DeployState::Succeeded => "deploys succeeded",
                    DeployState::RolledBack { .. } => "deploys went back",
                    DeployState::RollbackStuck { .. } => "deploys stuck going back",
                    DeployState::Resolving
                    | DeployState::Rolling
                    | DeployState::Removing
                    | DeployState::RollingBack { .. } => "deploys moved on",
                });
            }
        }
        let held = results.iter().filter(|result| result.is_ok()).count();
        let after = &self.log.reference;
        let moment = Moment::Committed { before: &before, entry, at, after, held };
        let observed = self.invariants.observe(&moment);
        super::record(&mut self.violation, now, observed);
        if is_compared(at) {
            let hash = hash(after);
            self.trace.mark(&[21, at.index, hash]);
            self.observe(&Moment::Agreed { at, hash });
        }
    }

    /// A node's state is that of every other node at the same revision.
    pub(super) fn compare_state(&mut self, node: NodeId) {
        let host = &self.hosts[&node];
        let Some(daemon) = &host.daemon else { return };
        // A frozen daemon takes in what it was given later.
        if host.frozen {
            return;
        }
        let at = daemon.cluster().revision;
        if is_compared(at) {
            let hash = hash(daemon.cluster());
            self.observe(&Moment::State { node, at, hash });
        }
    }

    /// Every node that has all that is committed has the same state, whatever its revision.
    pub fn compare_all(&mut self) {
        let (at, agreed) = (self.log.reference.revision, hash(&self.log.reference));
        self.observe(&Moment::Agreed { at, hash: agreed });
        let states = self.hosts.values().filter_map(|host| {
            let cluster = host.daemon.as_ref()?.cluster();
            Some((host.id, cluster.revision, hash(cluster)))
        });
        for (node, at, hash) in states.collect::<Vec<_>>() {
            self.observe(&Moment::State { node, at, hash });
        }
    }

    /// A node learns who leads.
    pub(super) fn learn(&mut self, node: NodeId, boot: u64, belief: Leadership) {
        let now = self.now;
        let host = self.host_mut(node);
        if host.boots != boot || !host.is_up() || host.fed.leadership == belief {
            return;
        }
        host.fed.leadership = belief;
        let at = host.clock.now(now).mono;
        self.observe(&Moment::Belief { node, belief, at });
        self.tell(node, boot, Event::Leadership(belief));
    }

    /// A node learns who votes and who follows.
    pub(super) fn learn_members(&mut self, node: NodeId, boot: u64, version: u64, new: Members) {
        self.host_mut(node).members = Some((version, new.clone()));
        let Members { voters, learners } = new;
        self.tell(node, boot, Event::Members { voters, learners });
    }
}

/// Whether states are compared at that revision: all of them would take most of a run's time, and
/// states that differ once differ at the next.
fn is_compared(at: Revision) -> bool {
    at.index.is_multiple_of(COMPARED_EVERY)
}

fn hash(cluster: &Cluster) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&cluster.encode())
}
