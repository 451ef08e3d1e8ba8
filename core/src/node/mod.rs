//! A Mill node is a value: it takes events and the time, and yields effects.
//!
//! [`Node`] owns the only copy of the replicated state, this node's agent, and the leader's brain
//! while this node leads. The runtimes feed it and do what it asks, in production and in every
//! simulator alike.

mod certificates;
mod deploying;
mod forwarding;
mod freshness;
mod members;
mod mesh;
mod past;
mod requests;
mod routing;
mod runs;
mod views;
mod why;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::freshness::Freshness;
use self::mesh::Whereabouts;
use self::requests::Requests;
pub(crate) use self::routing::Routing;
use crate::agent::Agent;
use crate::api::view::Age;
use crate::brain::{Brain, Said};
use crate::cluster::admission::{Admission, Roles};
use crate::cluster::alloc::Alloc;
use crate::cluster::command::{Command, Entry};
use crate::cluster::node::NodeFacts;
use crate::cluster::{Cluster, Revision};
use crate::effect::{Book, Effect};
use crate::event::{Event, Leadership};
use crate::message::Message;
use crate::mutant::{self, Mutant};
use crate::name::NodeId;
use crate::net::Network;
use crate::outbox::Outbox;
use crate::rng::Rng;
use crate::time::{Mono, Now};
use crate::timing::Timing;
use crate::units::Millis;

/// What a node is told at birth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeConfig {
    /// Its number.
    pub id: NodeId,
    /// Id of its cluster.
    pub cluster: String,
    /// What it is if it begins the cluster; absent for one that joined.
    pub founder: Option<Founder>,
    /// What it says of itself; `facts.boot` counts its starts.
    pub facts: NodeFacts,
    /// The clockwork.
    pub timing: Timing,
    /// Its address book, from when it last knew where the others are. Without one it gives out what it
    /// reads in its log, however old: it has nothing better to find them by.
    pub book: Option<Book>,
}

/// What the first node of a cluster is, which nobody admits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founder {
    /// What people call it.
    pub name: String,
    /// Fingerprint of its public key, in hex.
    pub key: String,
    /// What it does.
    pub roles: Roles,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Addresses of the cluster's own.
    #[serde(default)]
    pub network: Network,
}

/// Who votes and who follows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Nodes that vote.
    pub voters: BTreeSet<NodeId>,
    /// Nodes that follow.
    pub learners: BTreeSet<NodeId>,
}

/// Why a node wants to be called back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wake {
    /// A heartbeat is due.
    Heartbeat,
    /// What is under way at an alloc that leaves is counted again.
    Drain,
    /// A health probe is due.
    Probe,
    /// An operation on a container is due (again).
    Restart,
    /// An engine that did not answer is asked again.
    Engine,
    /// An image is asked for again.
    Image,
    /// A node would have been silent for too long.
    NodeSilent,
    /// A node that came and went would be trusted again.
    Trusted,
    /// A new replica would have been healthy for long enough.
    Soaked,
    /// A deploy would be overdue.
    Deadline,
    /// A slot that failed may be filled again.
    Retry,
    /// A held request is to be answered.
    Held,
    /// Who votes is to be looked at.
    Members,
    /// A schedule may be due.
    Due,
    /// A certificate may be due, or asked for again.
    Certificate,
}

/// A node. Feed it with [`handle`](Node::handle), then drain [`poll_effect`](Node::poll_effect)
/// to `None`, and call it back at [`poll_timeout`](Node::poll_timeout) with [`Event::Wake`].
///
/// It never fails and never blocks. Equal nodes given equal events yield equal effects, byte for
/// byte; it can be serialized between any two events and goes on as if nothing had happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Node {
    config: NodeConfig,
    rng: Rng,
    cluster: Cluster,
    caught_up: bool,
    leadership: Leadership,
    agent: Agent,
    /// While this node leads.
    brain: Option<Brain>,
    requests: Requests,
    /// As consensus has them, once it has said.
    members: Option<Members>,
    /// Whether anything changed that decides about members since that was looked at.
    members_changed: bool,
    /// Whether this node was told to end, because it was removed.
    retired: bool,
    whereabouts: Whereabouts,
    routing: Routing,
    freshness: Freshness,
    next_heartbeat: Mono,
    /// When another node is asked whether this one is still a member.
    next_hello: Mono,
    /// When the last event came.
    handled: Mono,
    heartbeat_seq: u64,
    /// What the last heartbeat reported.
    said: Said,
    /// When the routes last changed in a way that the last heartbeat said this node follows.
    let_go: Option<Revision>,
    out: Outbox,
}

impl NodeConfig {
    /// The command that begins the cluster with this node.
    pub(crate) fn founding(&self) -> Option<Command> {
        let Founder { name, key, roles, labels, network } = self.founder.clone()?;
        let NodeFacts { advertise, rpc, version, supports, mesh, .. } = self.facts.clone();
        let first = Admission { name, key, roles, labels, advertise, rpc, version, supports, mesh };
        let cluster = self.cluster.clone();
        Some(Command::Found { cluster, node: self.id, first: Box::new(first), network })
    }
}

impl Node {
    /// A node that has just started and knows nothing but its config.
    pub fn new(config: NodeConfig, seed: u64, now: Now) -> Node {
        let rng = Rng::new(seed).child(&format!("boot {}", config.facts.boot));
        Node {
            agent: Agent::new(config.id, &rng),
            out: Outbox::new(config.id, config.facts.boot),
            rng,
            cluster: Cluster::default(),
            caught_up: false,
            leadership: Leadership::Follower { leader: None, term: 0 },
            brain: None,
            requests: Requests::default(),
            members: None,
            members_changed: false,
            retired: false,
            whereabouts: Whereabouts::from(config.book.clone()),
            routing: Routing::default(),
            freshness: Freshness::default(),
            next_heartbeat: now.mono,
            next_hello: now.mono + config.timing.down_after,
            handled: now.mono,
            heartbeat_seq: 0,
            said: Said::default(),
            let_go: None,
            config,
        }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Now, event: Event) {
        self.stood_still(now);
        match event {
            Event::Committed { at, entry } => self.committed(at, &entry),
            Event::Restored { at, bytes } => self.restored(at, &bytes),
            Event::CaughtUp => {
                self.caught_up = true;
                self.publish_book();
            }
            Event::SnapshotWanted => {
                let (at, bytes) = (self.cluster.revision, self.cluster.encode());
                self.out.push(Effect::Snapshot { at, bytes });
            }
            Event::Leadership(leadership) => self.lead(now, leadership),
            Event::ProposalFailed { id, fate } => {
                self.proposal_failed(id, fate);
                if let Some(brain) = &mut self.brain {
                    brain.proposal_failed(now, id);
                }
            }
            Event::ReadConfirmed { id, confirmed } => self.read_confirmed(now, id, confirmed),
            // Said once a second to everybody, and nothing follows from it.
            Event::Message { message: Message::Heard { seq, revision }, .. } => {
                self.answered(now, seq, revision);
                if self.poll_timeout().is_none_or(|(at, _)| at > now.mono) {
                    return;
                }
            }
            Event::Message { from, message } => self.message(now, from, message),
            Event::Members { voters, learners } => {
                self.members = Some(Members { voters, learners });
                self.members_changed = true;
            }
            Event::Request { id, request, origin } => self.request(now, id, request, origin),
            Event::Forwarded { id, outcome } => {
                self.forwarded(now, id, outcome.map(|outcome| *outcome));
            }
            // Whoever says so has applied it: it is committed.
            Event::Dismissed { .. } => self.retire(),
            Event::Stopping => self.hand_on(now),
            Event::RequestDropped { id } => self.requests.dropped(id),
            Event::OpDone { id, result } if id.boot == self.config.facts.boot => {
                self.agent.op_done(now, id, result);
            }
            Event::OpDone { .. } => {}
            Event::AcmeDone { id, result } => {
                let brain = self.brain.as_mut().filter(|_| id.boot == self.config.facts.boot);
                if let Some(brain) = brain {
                    brain.acme_done(now, id, result);
                }
            }
            Event::ContainerDied(observed) => self.agent.container_died(now, &observed),
            Event::Unrouted { why } => {
                self.config.facts.unrouted = why;
                self.next_heartbeat = now.mono;
            }
            Event::Greeted { from, book } => self.greeted(now, from, book),
            Event::Met { met, unmet } => self.met(met, &unmet),
            Event::MeshChanged { mesh } => self.mesh_changed(now, mesh),
            Event::EngineConnected => self.agent.engine_connected(),
            Event::Wake => {}
        }
        self.step(now);
    }

    /// The next thing to do; `None` when there is nothing more until the next event.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.out.pop()
    }

    /// When to come back at the latest, and why.
    pub fn poll_timeout(&self) -> Option<(Mono, Wake)> {
        let heartbeat = self.caught_up.then_some((self.next_heartbeat, Wake::Heartbeat));
        let brain = self.brain.as_ref();
        let members = brain.and_then(Brain::members_wake).filter(|_| self.members.is_some());
        let brain = brain.and_then(Brain::next_wake);
        let agent = self.agent.next_wake();
        let requests = self.requests.next_wake();
        let hello = (!self.leads()).then_some((self.next_hello, Wake::Heartbeat));
        [heartbeat, hello, brain, members, agent, requests].into_iter().flatten().min()
    }

    /// The replicated state as this node has applied it.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Who votes and who follows, as far as this node was told.
    pub fn members(&self) -> Option<&Members> {
        self.members.as_ref()
    }

    /// Who leads, as far as this node knows.
    pub fn leadership(&self) -> Leadership {
        self.leadership
    }

    /// Rebuilds what is derived, after a checkpoint was read.
    pub(crate) fn reindex(&mut self) {
        self.cluster.index();
    }

    fn committed(&mut self, at: Revision, entry: &Arc<Entry>) {
        if at <= self.cluster.revision {
            return;
        }
        let results = self.cluster.apply(at, entry);
        self.routing.state_changed();
        self.knows_the_rules();
        if entry.id.node == self.config.id && entry.id.boot == self.config.facts.boot {
            self.cluster.intent += u64::from(mutant::is(Mutant::ProposerAppliesMore));
            self.proposal_done(entry.id, &results);
        }
        if let Some(brain) = &mut self.brain {
            brain.proposal_done(entry.id);
            brain.state_changed();
        }
        self.requests.state_changed();
        self.members_changed = true;
        self.members_applied();
    }

    fn restored(&mut self, at: Revision, bytes: &[u8]) {
        match Cluster::decode(bytes) {
            Ok(cluster) => {
                // The epoch is the state's own: the log counts indices only.
                let at = Revision { epoch: cluster.revision.epoch, ..at };
                self.cluster = cluster;
                self.cluster.revision = at;
            }
            // The log verified its checksum: these are bytes that another version wrote.
            Err(error) => panic!("the replicated state at {at} cannot be read: {error}"),
        }
        self.routing.state_changed();
        self.knows_the_rules();
        if let Some(brain) = &mut self.brain {
            brain.state_changed();
        }
        // Entries of this node may be in it, and will not be seen any more.
        self.requests.jumped(&mut self.out);
        self.members_applied();
    }

    fn members_applied(&mut self) {
        self.publish_book();
        let id = self.config.id;
        // Numbers are never given again: one that was given and is not there was removed.
        if id.0 < self.cluster.next_node && !self.cluster.nodes.contains_key(&id) {
            self.retire();
        }
    }

    fn retire(&mut self) {
        if !std::mem::replace(&mut self.retired, true) {
            self.out.push(Effect::Retire);
        }
    }

    /// A program that does not know the rules of what comes next must not apply it: its state
    /// would be another than everybody else's. What runs on its node goes on running.
    fn knows_the_rules(&self) {
        let (supports, level) = (self.config.facts.supports, self.cluster.features);
        assert!(
            supports >= level,
            "this mill supports feature level {supports}, and its cluster uses {level}: it is too \
             old, install the version that the other nodes run"
        );
    }

    /// Another node should lead, if this one does.
    fn hand_on(&mut self, now: Now) {
        if let (Some(brain), Some(members)) = (&mut self.brain, &self.members) {
            brain.hand_on(now, self.config.id, &self.cluster, members, &mut self.out);
        }
    }

    /// How old this node's copy of the state is.
    fn age(&self, now: Now) -> Age {
        self.freshness.age(now.mono, self.cluster.revision)
    }

    fn lead(&mut self, now: Now, leadership: Leadership) {
        if self.leadership == leadership {
            return;
        }
        self.leadership = leadership;
        self.freshness.trust();
        self.brain = match leadership {
            Leadership::Leader { term } => {
                self.caught_up = true;
                self.publish_book();
                let rng = self.rng.child(&format!("term {term}"));
                self.members_changed = true;
                Some(Brain::new(self.config.id, now, self.config.timing, rng))
            }
            Leadership::Follower { .. } => {
                self.requests.no_longer_leader(&mut self.out);
                None
            }
        };
        self.leader_known(now);
        // A new leader should hear of everything at once.
        self.next_heartbeat = now.mono;
    }

    fn message(&mut self, now: Now, from: NodeId, message: Message) {
        match message {
            Message::Heartbeat { seq, facts, revision, trouble, reports, images, met } => {
                let said = Said { trouble, reports, images, met };
                let Some(brain) = &mut self.brain else { return };
                if !brain.heartbeat(now, from, (seq, revision), *facts, said) {
                    return;
                }
                let revision = self.cluster.revision;
                if from == self.config.id {
                    self.freshness.heard(seq, revision, revision);
                } else if self.cluster.nodes.contains_key(&from) {
                    let message = Message::Heard { seq, revision };
                    self.out.push(Effect::Send { to: from, message });
                }
            }
            Message::Heard { seq, revision } => {
                self.answered(now, seq, revision);
            }
            // The runtime answers those that are no members.
            Message::Hello => {}
        }
    }

    /// Everything that follows from what is known now.
    fn step(&mut self, now: Now) {
        self.wait_for_leader(now);
        self.call_out(now);
        if !self.caught_up {
            return;
        }
        self.renew_key(now);
        self.routing.publish(&self.cluster, &mut self.out);
        self.agent.step(now, &self.cluster, &mut self.out);
        self.heartbeat(now);
        if let Some(brain) = &mut self.brain {
            let routing = &self.routing;
            brain.step(now, &self.cluster, (&self.config, routing), &mut self.out);
            if brain.take_news() {
                self.requests.state_changed();
            }
            let changed = std::mem::take(&mut self.members_changed);
            if let Some(members) = &self.members
                && (changed || brain.members_due(now.mono))
            {
                brain.move_members(now, self.config.id, &self.cluster, members, &mut self.out);
            }
        }
        self.answer_held(now);
    }

    /// Speaks to the leader: in its turn, and at once when there is news.
    fn heartbeat(&mut self, now: Now) {
        let said = Said {
            trouble: self.agent.trouble().cloned(),
            reports: self.agent.reports(&self.cluster),
            images: self.agent.image_reports(&self.cluster),
            met: self.whereabouts.met.clone(),
        };
        let awaited = self.cluster.allocs.values().filter_map(Alloc::awaits_release).max();
        let awaited = awaited.max(Some(self.routing.whole_since));
        let due = self.next_heartbeat <= now.mono;
        if !due && self.said == said && awaited <= self.let_go {
            return;
        }
        self.let_go = self.let_go.max(awaited);
        self.said = said.clone();
        let Said { trouble, reports, images, met } = said;
        self.heartbeat_seq += 1;
        if due {
            self.next_heartbeat = now.mono + self.config.timing.heartbeat;
        }
        let (seq, facts) = (self.heartbeat_seq, Box::new(self.config.facts.clone()));
        self.freshness.sent(now.mono, seq);
        let revision = self.cluster.revision;
        let message = Message::Heartbeat { seq, facts, revision, trouble, reports, images, met };
        match self.leadership {
            Leadership::Leader { .. } => self.message(now, self.config.id, message),
            Leadership::Follower { leader, .. } => {
                self.out.extend(leader.map(|to| Effect::Send { to, message }));
            }
        }
    }

    /// A leader that nothing happens to for so long stood still, and may lead no more: at least its
    /// own heartbeat would have been due.
    fn stood_still(&mut self, now: Now) {
        let still = now.mono.since(self.handled) >= Millis(self.config.timing.down_after.0 / 2);
        if still && self.leads() {
            self.freshness.doubt(self.requests.latest);
        }
        self.handled = now.mono;
    }

    /// The leader heard this node.
    fn answered(&mut self, now: Now, seq: u64, revision: Revision) {
        self.freshness.heard(seq, revision, self.cluster.revision);
        self.next_hello = now.mono + self.config.timing.down_after;
    }

    /// Says hello to one node after the other while no leader answers: one that was removed
    /// meanwhile is told so by anybody, whether or not it ever voted.
    fn call_out(&mut self, now: Now) {
        if self.leads() || self.next_hello > now.mono {
            return;
        }
        self.next_hello = now.mono + self.config.timing.heartbeat;
        let me = self.config.id;
        let others = self.cluster.nodes.keys().copied().filter(|id| *id != me);
        let others: Vec<NodeId> = others.collect();
        if others.is_empty() {
            return;
        }
        let to = others[self.rng.below(others.len() as u64) as usize];
        self.out.push(Effect::Send { to, message: Message::Hello });
    }

    fn leads(&self) -> bool {
        matches!(self.leadership, Leadership::Leader { .. })
    }
}
