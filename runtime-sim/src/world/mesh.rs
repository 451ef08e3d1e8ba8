//! The encrypted network between nodes: who has met whom, by which keys each knows.
//!
//! Two nodes meet when each knows the other's key and datagrams pass between them. Who speaks
//! through the mesh only reaches nobody else and listens to nobody else, but for joining and
//! greeting. What a node knows is what its daemon gave out last; that is on disk and outlives it.

use std::collections::BTreeSet;

use mill_core::Event;
use mill_core::cluster::mesh::MeshFacts;
use mill_core::effect::Book;
use mill_core::name::NodeId;
use mill_core::units::Millis;

use super::{Happening, World};
use crate::time::SimTime;

/// Between two looks at who is met.
const LOOK: Millis = Millis::secs(1);
/// Who is still not met is named again so much later.
const AGAIN: Millis = Millis::secs(5);
/// Machines get a program that knows the mesh within so long after the first.
const UPGRADED_WITHIN: Millis = Millis::secs(30);
/// Who could tell nobody of another key for so long does not make one: a node believes for ten
/// seconds what it heard; the rest is for what is on its way, and for a node that stood still.
const UNTOLD: Millis = Millis::secs(45);

/// What a machine knows of the mesh.
#[derive(Clone, Debug, Default)]
pub(super) struct MeshEnd {
    /// Who is where, as its daemon gave it out last.
    pub book: Book,
    /// Whom its daemon was told that it has met, and whom not, and when.
    told: Option<(BTreeSet<NodeId>, BTreeSet<NodeId>, SimTime)>,
}

impl MeshEnd {
    /// Its daemon is another: that was told nothing.
    pub fn restarted(&mut self) {
        self.told = None;
    }

    fn key_of(&self, node: NodeId) -> Option<&MeshFacts> {
        self.book.peers.get(&node)?.mesh.as_ref().map(|mesh| &mesh.facts)
    }
}

/// How a machine is reached in the mesh, with the first key that it makes.
pub(super) fn first_key(machine: u64) -> MeshFacts {
    MeshFacts {
        key: format!("mesh key {machine}.1"),
        endpoint: format!("10.0.0.{machine}:7433"),
        serial: 1,
    }
}

impl World {
    /// Whether anything that one node says reaches another.
    pub(super) fn reaches(&self, from: NodeId, to: NodeId) -> bool {
        from == to || (self.network.open(from, to) && self.has_way(from, to))
    }

    /// Whether two nodes can speak with each other.
    pub(super) fn connected(&self, one: NodeId, other: NodeId) -> bool {
        self.reaches(one, other) && self.reaches(other, one)
    }

    /// When the copies of what one node says arrive at another.
    pub(super) fn carry(&mut self, from: NodeId, to: NodeId) -> Vec<Millis> {
        let copies = self.network.carry(from, to);
        if self.has_way(from, to) { copies } else { Vec::new() }
    }

    fn has_way(&self, from: NodeId, to: NodeId) -> bool {
        let (Some(one), Some(other)) = (self.hosts.get(&from), self.hosts.get(&to)) else {
            // Who was admitted and has not heard of it.
            return true;
        };
        match (one.mesh.book.mesh_only, other.mesh.book.mesh_only) {
            (true, _) => from == to || self.have_met(from, to),
            (false, outside) => !outside,
        }
    }

    /// Whether each of two nodes knows the other's key, and datagrams pass between them.
    pub fn have_met(&self, one: NodeId, other: NodeId) -> bool {
        let knows = |who: NodeId, whom: NodeId| {
            let known = self.hosts.get(&who).and_then(|host| host.mesh.key_of(whom));
            let is = self.hosts.get(&whom).and_then(|host| host.facts.mesh.as_ref());
            known.is_some() && known == is
        };
        let pair = (one.min(other), one.max(other));
        !self.has_firewall(pair) && knows(one, other) && knows(other, one)
    }

    /// Whether no datagram passes between two nodes. It is there until all are inside: who joins
    /// later could not come in.
    pub(crate) fn has_firewall(&self, pair: (NodeId, NodeId)) -> bool {
        self.params.firewall && !self.log.reference.mesh_only && pair == (NodeId(1), NodeId(2))
    }

    /// The cluster has moved into the mesh: nobody may be left who cannot follow.
    pub(super) fn moved_inside(&mut self) {
        self.stats.count("moves into the mesh");
        let nodes = &self.log.reference.nodes;
        let both = nodes.contains_key(&NodeId(1)) && nodes.contains_key(&NodeId(2));
        if self.params.firewall && both {
            let detail = "nodes speak through the mesh only, and two cannot meet there".to_owned();
            super::record(&mut self.violation, self.now, Err(("mesh", detail)));
        }
    }

    /// Nodes are told now and then whom they have not met.
    pub(super) fn watch_mesh(&mut self) {
        self.after(LOOK, Happening::Meet);
        let now = self.now;
        for node in self.hosts.keys().copied().collect::<Vec<_>>() {
            let host = &self.hosts[&node];
            if !host.is_up() || host.frozen || host.facts.mesh.is_none() {
                continue;
            }
            let peers = host.mesh.book.peers.iter();
            let inside = peers.filter(|(id, peer)| **id != node && peer.mesh.is_some());
            let inside = inside.map(|(id, _)| *id);
            let (met, unmet): (BTreeSet<_>, BTreeSet<_>) =
                inside.partition(|id| self.meets_now(node, *id));
            let known = host.mesh.told.as_ref().is_some_and(|(told, not, at)| {
                *told == met && *not == unmet && (unmet.is_empty() || *at + AGAIN > now)
            });
            if !known {
                let boot = host.boots;
                self.host_mut(node).mesh.told = Some((met.clone(), unmet.clone(), now));
                self.tell(node, boot, Event::Met { met, unmet });
            }
        }
    }

    fn meets_now(&self, one: NodeId, other: NodeId) -> bool {
        let up = self.hosts.get(&other).is_some_and(|host| host.is_up() && !host.frozen);
        up && self.network.connected(one, other) && self.have_met(one, other)
    }

    /// Nothing passes between nodes outside the mesh any more, once all of them are inside.
    pub(super) fn close_outside(&mut self) -> bool {
        let inside = self.hosts.values().all(|host| host.gone || host.mesh.book.mesh_only);
        if inside {
            self.outside_closed = Some(self.now);
        }
        inside
    }

    /// Whether others that a node takes to be up could not be told of another key, for long.
    fn is_untold(&self, node: NodeId) -> bool {
        let closed = self.outside_closed.is_some_and(|since| self.now > since + UNTOLD);
        let known = self.host(node).daemon.as_ref().map(|node| &node.cluster().nodes);
        let mut others = known.into_iter().flatten().filter(|(id, _)| **id != node);
        closed && others.any(|(_, record)| record.is_up())
    }

    /// A node greets another from outside the mesh: each tells the other whom it knows.
    pub(super) fn greet(&mut self, node: NodeId, to: NodeId) {
        self.stats.count("nodes greeted");
        if self.outside_closed.is_some() {
            return;
        }
        let book = self.host(node).mesh.book.clone();
        for delay in self.network.carry(node, to) {
            let book = book.clone();
            self.after(delay, Happening::Greet { from: node, to, book });
        }
    }

    /// A greeting arrives, and is answered.
    pub(super) fn is_greeted(&mut self, from: NodeId, to: NodeId, book: Book) {
        let Some(host) = self.hosts.get(&to).filter(|host| host.is_up() && !host.frozen) else {
            return;
        };
        let (boot, answer) = (host.boots, host.mesh.book.clone());
        if self.dismissed(from, to) {
            return;
        }
        self.tell(to, boot, Event::Greeted { from, book });
        let boot = self.host(from).boots;
        for delay in self.network.carry(to, from) {
            let event = Event::Greeted { from: to, book: answer.clone() };
            self.tell_after(delay, from, boot, event);
        }
    }

    /// A node makes another key, and uses it at once.
    pub(super) fn makes_key(&mut self, node: NodeId, boot: u64, serial: u64) {
        self.stats.count("keys replaced");
        if self.is_untold(node) {
            let detail = format!("{node} has made another key, of which it can tell nobody");
            super::record(&mut self.violation, self.now, Err(("mesh", detail)));
        }
        let Some(known) = self.host(node).facts.mesh.clone() else { return };
        let (machine, _) = known.key.split_once('.').unwrap_or((&known.key, ""));
        let mesh = MeshFacts { key: format!("{machine}.{serial}"), serial, ..known };
        self.host_mut(node).facts.mesh = Some(mesh.clone());
        self.tell_after(Millis(0), node, boot, Event::MeshChanged { mesh });
    }

    /// The disk of a machine loses its key, and its daemon makes another when it starts.
    pub fn lose_key(&mut self, node: NodeId) {
        self.kill_daemon(node);
        if let Some(mesh) = &mut self.host_mut(node).facts.mesh {
            *mesh = MeshFacts { key: format!("{} lost", mesh.key), serial: 1, ..mesh.clone() };
        }
        self.boot(node);
    }

    /// A machine may make no network interfaces any more.
    pub fn leave_mesh(&mut self, node: NodeId) {
        self.kill_daemon(node);
        self.host_mut(node).facts.mesh = None;
        self.host_mut(node).has_left_mesh = true;
        self.boot(node);
    }

    /// Machines whose program knows no mesh get one that does, one after the other.
    pub(super) fn begin_upgrades(&mut self) {
        if self.params.mesh_after > Millis(0) {
            self.after(self.params.mesh_after, Happening::Upgrade { node: None });
        }
    }

    /// All machines are to get another program, or one of them does.
    pub(super) fn upgrade(&mut self, node: Option<NodeId>) {
        if let Some(node) = node {
            self.kill_daemon(node);
            self.boot(node);
            return;
        }
        for node in self.hosts.keys().copied().collect::<Vec<_>>() {
            let after = Millis(self.draw.consensus.below(UPGRADED_WITHIN.0));
            self.after(after, Happening::Upgrade { node: Some(node) });
        }
    }

    /// Whether programs know the mesh by now.
    pub(super) fn knows_mesh(&self) -> bool {
        self.now >= SimTime::default() + self.params.mesh_after
    }
}
