//! What is under the nodes: what decides what comes into the log, and who leads.
//!
//! Whatever a node wants of its log is an [`Ask`], and [`World::ask_log`] is where it goes. Under
//! [`Ground::Modelled`], `consensus.rs` draws what comes of it; under [`Ground::Real`], it leaves
//! this world for a host that runs consensus, as told in `bridge.rs`. `World::log` is what is known
//! to be committed, and here is what follows when more is.

use std::sync::Arc;

use mill_core::Event;
use mill_core::api::RequestId;
use mill_core::cluster::command::{Command, Entry};
use mill_core::cluster::deploy::DeployState;
use mill_core::cluster::{Cluster, Revision};
use mill_core::event::Leadership;
use mill_core::name::NodeId;
use mill_core::node::Members;
use mill_core::units::Millis;

use super::bridge::Bridge;
use super::consensus::Elections;
use super::describe::describe;
use super::{Happening, World};
use crate::invariants::Moment;

/// States are compared at every so many entries, and at the end.
const COMPARED_EVERY: u64 = 8;

/// Faults are so much shorter on real consensus.
const SHORTER: u64 = 4;

/// What decides what comes into the log.
pub(super) enum Ground {
    /// A model that draws it.
    Modelled(Elections),
    /// Real consensus, on hosts outside of this world.
    Real(Bridge),
}

impl Ground {
    pub fn elections(&self) -> &Elections {
        match self {
            Ground::Modelled(elections) => elections,
            Ground::Real(_) => unreachable!("{NO_MODEL}"),
        }
    }

    pub fn elections_mut(&mut self) -> &mut Elections {
        match self {
            Ground::Modelled(elections) => elections,
            Ground::Real(_) => unreachable!("{NO_MODEL}"),
        }
    }

    /// How long a fault lasts: runs of real consensus are short, since its time costs more.
    pub fn lasts(&self, drawn: Millis) -> Millis {
        match self {
            Ground::Modelled(_) => drawn,
            Ground::Real(_) => Millis(drawn.0 / SHORTER),
        }
    }
}

const NO_MODEL: &str = "what the model does is asked of nothing else";

/// What a node asks of its log.
#[derive(Debug)]
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
        if let Ground::Real(bridge) = &mut self.ground {
            return bridge.ask(node, boot, ask);
        }
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
        match self.ground {
            Ground::Modelled(_) => self.watch_leader(),
            Ground::Real(_) => self.watch_dismissed(),
        }
    }

    /// A daemon has started, whose last one had applied up to there.
    pub(super) fn log_starts(&mut self, node: NodeId, had_applied: u64) {
        let boot = self.host(node).boots;
        match &mut self.ground {
            Ground::Modelled(_) => {
                self.remembers(node, boot, had_applied);
                self.feed_soon(node);
            }
            Ground::Real(bridge) => bridge.starts(node),
        }
    }

    /// A daemon is about to be gone.
    pub(super) fn log_stops(&mut self, node: NodeId) {
        match &mut self.ground {
            // A daemon that comes back follows, whatever it was before.
            Ground::Modelled(_) if self.log.leader == Some(node) => self.depose(node),
            Ground::Modelled(_) => {}
            Ground::Real(_) => self.host_stops(node),
        }
    }

    /// The leader is to lose its lead for no reason; false where nobody leads.
    pub(super) fn depose_leader(&mut self) -> bool {
        let Some(leader) = self.log.leader else { return false };
        match self.ground {
            Ground::Modelled(_) => self.depose(leader),
            Ground::Real(_) => self.host_hands_on(leader),
        }
        true
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
            if let (Command::StartDeploy { back_to: Some(_), .. }, Ok(_)) = (command, result) {
                self.stats.count("returns to earlier deploys");
            }
            if let (Command::Promote { early, .. }, Ok(_)) = (command, result) {
                self.stats.count(match early {
                    true => "canaries promoted by hand",
                    false => "canaries watched to the end",
                });
            }
            if let (Command::AdvanceDeploy { to, .. }, Ok(_)) = (command, result) {
                self.stats.count(match to {
                    DeployState::Succeeded => "deploys succeeded",
                    DeployState::Partial { .. } => "deploys succeeded in part",
                    DeployState::RolledBack { .. } => "deploys went back",
                    DeployState::RollbackStuck { .. } => "deploys stuck going back",
                    DeployState::Resolving
                    | DeployState::Rolling
                    | DeployState::Removing
                    | DeployState::RollingBack { .. } => "deploys moved on",
                });
            }
        }
        let of_certificates = |command: &Command| matches!(command, Command::Certificates(_));
        self.of_certificates +=
            u64::from(!entry.commands.is_empty() && entry.commands.iter().all(of_certificates));
        let held = results.iter().filter(|result| result.is_ok()).count();
        let after = &self.log.reference;
        let moment = Moment::Committed { before: &before, entry, at, after, held };
        let observed = self.invariants.observe(&moment);
        super::record(&mut self.violation, now, observed);
        if self.log.reference.mesh_only && !before.mesh_only {
            self.moved_inside();
        }
        if self.compares(at) {
            let hash = hash(&self.log.reference);
            self.trace.mark(&[21, at.index, hash]);
            self.observe(&Moment::Agreed { at, hash });
        }
    }

    /// Whether states are compared at that revision: all of them would take most of a run's time,
    /// and states that differ once differ at the next. Runs of real consensus are short.
    fn compares(&self, at: Revision) -> bool {
        match self.ground {
            Ground::Modelled(_) => at.index.is_multiple_of(COMPARED_EVERY),
            Ground::Real(_) => true,
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
        if self.compares(at) {
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
            // Where a schedule goes on for ever, some node may lack the last entry.
            let lags = cluster.revision < at;
            (!lags).then(|| (host.id, cluster.revision, hash(cluster)))
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

fn hash(cluster: &Cluster) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&cluster.encode())
}
