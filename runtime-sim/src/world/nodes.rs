//! Nodes in the world: events go in, effects come out and are carried out.

use std::collections::BTreeMap;

use mill_core::cluster::FeatureLevel;
use mill_core::cluster::admission::Roles;
use mill_core::event::{Event, Leadership};
use mill_core::message::Message;
use mill_core::name::NodeId;
use mill_core::net::Network;
use mill_core::node::{Founder, Members};
use mill_core::recording::{EffectHash, Record, opening};
use mill_core::time::Now;
use mill_core::timing::Timing;
use mill_core::units::Millis;
use mill_core::{Effect, Node, NodeConfig};

use super::ground::Ask;
use super::host::Fed;
use super::mesh::first_key;
use super::{Asker, Happening, World, daemon};
use crate::invariants::Moment;

impl World {
    /// A daemon is started, if there is power and none runs.
    pub(super) fn boot(&mut self, node: NodeId) {
        let (now, seed, end) = (self.now, self.params.seed, self.log.end());
        let knows_mesh = self.knows_mesh();
        let host = self.host_mut(node);
        if !host.powered || host.gone || host.is_up() {
            return;
        }
        host.boots += 1;
        host.facts.boot = host.boots;
        host.mesh.restarted();
        if knows_mesh && !host.has_left_mesh {
            host.facts.mesh.get_or_insert_with(|| first_key(host.machine));
        }
        let config = NodeConfig {
            id: node,
            cluster: "sim".to_owned(),
            founder: (node == NodeId(1)).then(founder),
            facts: host.facts.clone(),
            timing: Timing::default(),
            book: Some(host.mesh.book.clone()),
        };
        let seed = seed ^ node.0.rotate_left(32);
        host.daemon = Some(Node::new(config, seed, host.clock.now(now)));
        let had_applied = host.fed.applied;
        host.fed = Fed::nothing(end);
        host.wake = None;
        let (boot, snapshot, members) = (host.boots, host.snapshot.clone(), host.members.clone());
        self.trace.transition(now, || format!("{node} starts, boot {boot}"));
        if let Some((at, bytes)) = snapshot {
            self.host_mut(node).fed.applied = at.index;
            self.tell(node, boot, Event::Restored { at, bytes: bytes.to_vec() });
        }
        if let Some((_, Members { voters, learners })) = members {
            self.tell(node, boot, Event::Members { voters, learners });
        }
        self.log_starts(node, had_applied);
    }

    /// A machine gets a program that supports that feature level, and starts it.
    pub fn install(&mut self, node: NodeId, supports: FeatureLevel) {
        self.kill_daemon(node);
        self.host_mut(node).facts.supports = supports;
        self.boot(node);
    }

    /// A daemon is gone from one moment to the next; its containers are not.
    pub(super) fn kill_daemon(&mut self, node: NodeId) {
        self.log_stops(node);
        let host = self.host_mut(node);
        host.daemon = None;
        host.wake = None;
        host.frozen = false;
        host.backlog.clear();
        let waiting = std::mem::take(&mut host.waiting);
        for asker in waiting.into_values() {
            match asker {
                Asker::Person(person) => self.hears_nothing(person),
                // These ask again.
                Asker::Machine(_) | Asker::Operator => {}
                Asker::Node(asker) => {
                    let back = self.network.delay();
                    self.answer_forward(asker, node, back, None);
                }
            }
        }
    }

    pub(super) fn wake(&mut self, node: NodeId) {
        let now = self.now;
        let host = self.host_mut(node);
        if host.wake != Some(now) {
            return;
        }
        host.wake = None;
        let boot = host.boots;
        self.tell(node, boot, Event::Wake);
    }

    pub(super) fn arrive(&mut self, from: NodeId, to: NodeId, message: Message) {
        // Who was admitted and has not heard of it is nowhere yet.
        let Some(boot) = self.hosts.get(&to).map(|host| host.boots) else { return };
        if !self.dismissed(from, to) {
            self.tell(to, boot, Event::Message { from, message });
        }
    }

    /// Whether a node does not listen to another, because that was removed: then it says so.
    pub(super) fn dismissed(&mut self, node: NodeId, by: NodeId) -> bool {
        let removed = self.host(by).daemon.as_ref().is_some_and(|daemon| {
            let cluster = daemon.cluster();
            node.0 < cluster.next_node && !cluster.nodes.contains_key(&node)
        });
        if removed {
            let boot = self.host(node).boots;
            for delay in self.network.carry(by, node) {
                self.tell_after(delay, node, boot, Event::Dismissed { by });
            }
        }
        removed
    }

    /// A machine that is no member any more: its daemon removes what runs there, and ends.
    fn end_for_good(&mut self, node: NodeId) {
        let now = self.now;
        self.trace.transition(now, || format!("{node} is no member any more, and ends"));
        self.stats.count("removed nodes that ended");
        self.kill_daemon(node);
        let host = self.host_mut(node);
        host.gone = true;
        host.powered = false;
        host.engine.power_off();
    }

    /// Hands an event to a daemon, if it is still in that boot, and carries out what follows.
    pub(super) fn tell(&mut self, node: NodeId, boot: u64, event: Event) {
        let now = self.now;
        let host = self.hosts.get_mut(&node).expect("events go to machines that there are");
        if host.frozen {
            host.backlog.push_back((boot, event));
            return;
        }
        let clock = host.clock.now(now);
        let recorded = host.recording.is_some().then(|| event.clone());
        let Some(daemon) = daemon(host, boot) else { return };
        if let Event::Message { from, message } = &event {
            let heard = Moment::Heard { by: node, from: *from, message, at: clock.mono };
            let observed = self.invariants.observe(&heard);
            super::record(&mut self.violation, now, observed);
        }
        self.trace.detail(now, || format!("{node} < {event:?}"));
        self.trace.mark(&[now.0, node.0, number(&event)]);
        self.stats.events += 1;
        let mut effects = Vec::new();
        daemon.handle(clock, event);
        while let Some(effect) = daemon.poll_effect() {
            effects.push(effect);
        }
        if let (Some(lines), Some(event)) = (&mut host.recording, recorded) {
            lines.push(record(clock, event, &effects));
        }
        for effect in effects {
            self.carry_out(node, boot, effect);
        }
        self.call_back(node);
    }

    /// Sees to it that a node is woken when it asked to be.
    pub(super) fn call_back(&mut self, node: NodeId) {
        let now = self.now;
        let host = self.hosts.get_mut(&node).expect("only machines that there are ask");
        let Some(daemon) = host.daemon.as_ref().filter(|_| !host.frozen) else { return };
        let timeout = daemon.poll_timeout();
        let at = timeout.map(|(mono, _)| host.clock.when(mono));
        // A deadline that has passed is one that the last event should have met.
        if let (Some(at), Some((_, why))) = (at, timeout)
            && at <= now
        {
            let missed = format!("{node} asks to be woken in the past: {why:?}");
            super::record(&mut self.violation, now, Err(("wake", missed)));
            return;
        }
        if at != host.wake {
            host.wake = at;
            if let Some(at) = at {
                self.queue.push(at, Happening::Wake { node });
            }
        }
    }

    fn carry_out(&mut self, node: NodeId, boot: u64, effect: Effect) {
        let now = self.now;
        self.trace.detail(now, || format!("{node} > {effect:?}"));
        let host = &self.hosts[&node];
        let at = host.clock.now(now).mono;
        let observed = self.invariants.observe(&Moment::Effect { host, effect: &effect, at });
        super::record(&mut self.violation, now, observed);
        match effect {
            Effect::Propose { entry } => {
                self.trace.mark(&[2, entry.id.seq, entry.commands.len() as u64]);
                self.ask_log(node, boot, Ask::Propose(entry));
            }
            Effect::ConfirmRead { id } => {
                self.trace.mark(&[3, id.0]);
                self.ask_log(node, boot, Ask::ConfirmRead(id));
            }
            Effect::TransferLead { to } => {
                self.trace.mark(&[11, to.0]);
                self.ask_log(node, boot, Ask::TransferLead(to));
            }
            Effect::Snapshot { at, bytes } => {
                self.trace.mark(&[4, at.index, bytes.len() as u64]);
                self.stats.count("snapshots");
                self.ask_log(node, boot, Ask::Snapshot(at, bytes));
            }
            Effect::Send { to, message } => {
                self.trace.mark(&[5, to.0]);
                for delay in self.carry(node, to) {
                    let message = message.clone();
                    self.after(delay, Happening::Arrive { from: node, to, message });
                }
            }
            Effect::Reply { id, outcome } => {
                self.trace.mark(&[6, id.0, u64::from(outcome.is_ok())]);
                self.answered(node, id, *outcome);
            }
            Effect::Container { id, op } => {
                self.trace.mark(&[7, id.seq]);
                self.submit(node, id, op);
            }
            Effect::Forward { to, id, request } => {
                self.trace.mark(&[8, to.0, id.0]);
                self.pass_on(node, id, to, request);
            }
            Effect::Retire => {
                self.trace.mark(&[12]);
                self.end_for_good(node);
            }
            Effect::Peers { book, .. } => {
                self.trace.mark(&[9, book.peers.len() as u64, u64::from(book.mesh_only)]);
                self.host_mut(node).mesh.book = book;
            }
            Effect::Greet { to } => {
                self.trace.mark(&[15, to.0]);
                self.greet(node, to);
            }
            Effect::RotateKey { serial } => {
                self.trace.mark(&[16, serial]);
                self.makes_key(node, boot, serial);
            }
            Effect::Publish { tables } => {
                self.trace.mark(&[13, tables.services.len() as u64]);
                self.carries(node, tables);
            }
            Effect::Acme { id, op } => {
                self.trace.mark(&[14, id.seq]);
                self.ask_authority(node, id, *op);
            }
            Effect::ChangeMembers { voters, learners } => {
                self.trace.mark(&[10, voters.len() as u64, learners.len() as u64]);
                self.ask_log(node, boot, Ask::Members(Members { voters, learners }));
            }
        }
    }

    /// Records what a daemon handles from now on, beginning with a checkpoint of it.
    ///
    /// # Panics
    /// If no daemon runs there.
    pub fn begin_recording(&mut self, node: NodeId) {
        let host = self.host_mut(node);
        let daemon = host.daemon.as_ref().expect("only a daemon that runs can be recorded");
        host.recording = Some(opening(daemon).lines().map(str::to_owned).collect());
    }

    /// The recording of a daemon, which ends here.
    pub fn end_recording(&mut self, node: NodeId) -> Vec<String> {
        self.host_mut(node).recording.take().unwrap_or_default()
    }

    /// A machine that stood still goes on, with everything that reached it meanwhile.
    pub(super) fn thaw(&mut self, node: NodeId) {
        let host = self.host_mut(node);
        host.frozen = false;
        for (boot, event) in std::mem::take(&mut host.backlog) {
            self.tell(node, boot, event);
        }
        let boot = self.host(node).boots;
        self.tell(node, boot, Event::Wake);
    }

    /// Tells a node after a while.
    pub(super) fn tell_after(&mut self, length: Millis, node: NodeId, boot: u64, event: Event) {
        self.after(length, Happening::Tell { node, boot, event });
    }

    /// What each node believes of who leads.
    pub fn beliefs(&self) -> BTreeMap<NodeId, Leadership> {
        let up = self.hosts.values().filter(|host| host.is_up());
        up.map(|host| (host.id, host.fed.leadership)).collect()
    }
}

/// What the machine is that begins.
fn founder() -> Founder {
    Founder {
        name: "m1".to_owned(),
        key: "key 1".to_owned(),
        roles: Roles::default(),
        labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        network: Network::default(),
    }
}

fn record(now: Now, event: Event, effects: &[Effect]) -> String {
    let mut hash = EffectHash::default();
    effects.iter().for_each(|effect| hash.add(effect));
    let record = Record { now, event, effects: hash.finish() };
    serde_json::to_string(&record).expect("events have text keys only")
}

/// A number for each kind of event, for the trace's hash.
fn number(event: &Event) -> u64 {
    match event {
        Event::Committed { at, .. } => 1 << 32 | at.index,
        Event::Restored { at, .. } => 2 << 32 | at.index,
        Event::CaughtUp => 3 << 32,
        Event::SnapshotWanted => 4 << 32,
        Event::Leadership(Leadership::Leader { term }) => 5 << 32 | *term,
        Event::Leadership(Leadership::Follower { term, .. }) => 6 << 32 | *term,
        Event::ProposalFailed { id, .. } => 7 << 32 | id.seq,
        Event::ReadConfirmed { id, .. } => 8 << 32 | id.0,
        Event::Message { from, .. } => 9 << 32 | from.0,
        Event::Request { id, .. } => 10 << 32 | id.0,
        Event::RequestDropped { id } => 11 << 32 | id.0,
        Event::OpDone { id, result } => 12 << 32 | id.seq << 1 | u64::from(result.is_ok()),
        Event::ContainerDied(observed) => 13 << 32 | observed.started,
        Event::EngineConnected => 14 << 32,
        Event::Unrouted { why } => 20 << 32 | u64::from(why.is_some()),
        Event::Wake => 15 << 32,
        Event::Members { voters, learners } => {
            16 << 32 | (voters.len() as u64) << 8 | learners.len() as u64
        }
        Event::Forwarded { id, outcome } => 17 << 32 | id.0 << 1 | u64::from(outcome.is_some()),
        Event::AcmeDone { id, result } => 21 << 32 | id.seq << 1 | u64::from(result.is_ok()),
        Event::Stopping => 18 << 32,
        Event::Dismissed { by } => 19 << 32 | by.0,
        Event::Greeted { from, .. } => 22 << 32 | from.0,
        Event::Met { met, unmet } => 23 << 32 | (met.len() as u64) << 8 | unmet.len() as u64,
        Event::MeshChanged { mesh } => 24 << 32 | mesh.serial,
    }
}
