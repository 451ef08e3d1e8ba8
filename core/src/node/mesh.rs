//! Where the other nodes are, as this node gives it out; and what it does when one of them is not
//! met in the mesh.
//!
//! The replicated state says who is where. What it cannot say in time is a key that has just
//! changed: the entry that tells would have to come through the mesh. So nodes also greet each
//! other from outside of it and tell whom they know; of two that say something else of the same
//! node, that with the higher serial is newer, since only the node itself counts it up. Of a member
//! only its own word is taken, of nodes whose admission this one has not heard of anybody's. A node
//! of which others know a later key than its own, because its disk lost it, makes a later one still.
//! A key is replaced only once every node that is up was heard from outside: where they may not
//! speak there, a node with another key would be alone.
//! Tested in `sim-tests/tests/scenarios/mesh.rs`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Node;
use super::requests::Then;
use crate::api::{Answer, ApiError, ErrorCode, RequestId};
use crate::cluster::admission::NODES_MAX;
use crate::cluster::command::Command;
use crate::cluster::mesh::MeshFacts;
use crate::cluster::node::NodeRecord;
use crate::effect::{Book, Effect, MeshPeer, Peer};
use crate::mutant::{self, Mutant};
use crate::name::NodeId;
use crate::time::{Mono, Now};
use crate::units::Millis;

/// Who was heard from outside the mesh can be told of a new key for so long.
const HEARD_FOR: Millis = Millis::secs(10);
/// Whoever was not heard there is greeted again so much later.
const GREET_AGAIN: Millis = Millis::secs(1);

/// What this node knows of where others are, beside the state.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Whereabouts {
    /// The address book that was given out last, and whether as what is so now.
    told: Book,
    current: bool,
    /// What other nodes said and the state does not say yet.
    greeted: BTreeMap<NodeId, Peer>,
    /// Whether somebody said that nodes speak through the mesh only.
    mesh_only: bool,
    /// Peers in the mesh with whom there is a session.
    pub(super) met: BTreeSet<NodeId>,
    /// The serial of the key that the runtime was asked for.
    asked_for: u64,
    /// When members were last heard from outside the mesh.
    heard_outside: BTreeMap<NodeId, Mono>,
    /// When those are greeted that have to be heard there before the key is replaced.
    greets_at: Mono,
}

impl From<Option<Book>> for Whereabouts {
    /// Of a node that has that book, so that it need not be given out.
    fn from(book: Option<Book>) -> Whereabouts {
        Whereabouts { told: book.unwrap_or_default(), ..Whereabouts::default() }
    }
}

impl Node {
    /// Gives out the address book, if it is another.
    pub(super) fn publish_book(&mut self) {
        if self.is_published() {
            return;
        }
        self.forget_greeted();
        let book = self.book();
        if book == self.whereabouts.told && self.caught_up == self.whereabouts.current {
            return;
        }
        self.whereabouts.told = book.clone();
        self.whereabouts.current = self.caught_up;
        self.out.push(Effect::Peers { book, current: self.caught_up });
    }

    /// Where every member is, and whoever this node only heard of. While the state is one of long
    /// ago and there is a better book, by that, and by what it lacks and others know.
    pub(super) fn book(&self) -> Book {
        let mut book = match &self.config.book {
            Some(book) if !self.caught_up => {
                let said = self.cluster.mesh_only || self.whereabouts.mesh_only;
                Book { mesh_only: book.mesh_only || said, ..book.clone() }
            }
            Some(_) | None => Book {
                peers: self
                    .cluster
                    .nodes
                    .iter()
                    .map(|(id, record)| self.peer(*id, record))
                    .collect(),
                known_below: NodeId(self.cluster.next_node),
                mesh_only: self.cluster.mesh_only,
            },
        };
        for (id, peer) in &mut book.peers {
            let by_state =
                self.cluster.nodes.get(id).and_then(|record| self.peer(*id, record).1.mesh);
            let greeted = || self.whereabouts.greeted.get(id).and_then(|peer| peer.mesh.clone());
            let Some(mut mesh) = peer.mesh.take().or(by_state).or_else(greeted) else { continue };
            mesh.facts = self.newest(*id, &mesh.facts).clone();
            peer.mesh = Some(mesh);
        }
        let strangers = self.whereabouts.greeted.range(book.known_below..);
        book.peers.extend(strangers.map(|(id, peer)| (*id, peer.clone())));
        book
    }

    fn peer(&self, id: NodeId, record: &NodeRecord) -> (NodeId, Peer) {
        let facts = record.facts.mesh.clone().zip(self.cluster.mesh_address(record));
        let mesh = facts.map(|(facts, address)| MeshPeer { address, facts });
        (id, Peer { rpc: record.facts.rpc.clone(), key: record.key.clone(), mesh })
    }

    /// The newest that is known of how a node is reached in the mesh.
    fn newest<'a>(&'a self, id: NodeId, known: &'a MeshFacts) -> &'a MeshFacts {
        if let Some(own) = self.config.facts.mesh.as_ref().filter(|_| id == self.config.id) {
            return own;
        }
        let greeted = self.whereabouts.greeted.get(&id).and_then(|peer| peer.mesh.as_ref());
        match greeted.map(|mesh| &mesh.facts) {
            Some(said) if said.serial > known.serial => said,
            Some(_) | None => known,
        }
    }

    /// Whether the book that was given out says what the state says, without making one: that is
    /// asked with every entry.
    fn is_published(&self) -> bool {
        let Whereabouts { told, current, greeted, .. } = &self.whereabouts;
        if !self.caught_up || !current || !greeted.is_empty() {
            return false;
        }
        let mut peers = told.peers.iter();
        let members = self.cluster.nodes.iter().all(|(id, record)| {
            peers.next().is_some_and(|(known, peer)| {
                let facts = record.facts.mesh.as_ref().map(|facts| self.newest(*id, facts));
                let mesh = facts.zip(self.cluster.mesh_address(record));
                known == id
                    && peer.rpc == record.facts.rpc
                    && peer.key == record.key
                    && peer.mesh.as_ref().map(|mesh| (&mesh.facts, mesh.address)) == mesh
            })
        });
        members && peers.next().is_none() && told.mesh_only == self.cluster.mesh_only
    }

    /// Drops what the state says by now, and nodes that were removed.
    fn forget_greeted(&mut self) {
        if !self.caught_up {
            return;
        }
        let cluster = &self.cluster;
        self.whereabouts.greeted.retain(|id, peer| match cluster.nodes.get(id) {
            Some(record) => {
                let known = record.facts.mesh.as_ref().map(|facts| facts.serial);
                serial(peer) > known && *id != self.config.id
            }
            None => id.0 >= cluster.next_node,
        });
    }

    /// Another node says whom it knows.
    pub(super) fn greeted(&mut self, now: Now, from: NodeId, book: Book) {
        if mutant::is(Mutant::GreetedUnheard) {
            return;
        }
        let members = &self.cluster.nodes;
        self.whereabouts.heard_outside.retain(|node, _| members.contains_key(node));
        if members.contains_key(&from) {
            self.whereabouts.heard_outside.insert(from, now.mono);
        }
        self.whereabouts.mesh_only |= book.mesh_only;
        let known_below = match &self.config.book {
            Some(known) if !self.caught_up => known.known_below,
            Some(_) | None => NodeId(self.cluster.next_node),
        };
        for (id, peer) in book.peers {
            let is_mine = id == self.config.id;
            let facts = peer.mesh.as_ref().map(|mesh| &mesh.facts);
            if is_mine {
                self.is_outdone_by(facts);
            }
            let heard = id == from || is_mine || id >= known_below;
            let known = self.whereabouts.greeted.get(&id);
            let room = known.is_some() || self.whereabouts.greeted.len() < NODES_MAX;
            let sane = facts.is_none_or(|facts| facts.problem().is_none());
            let newer = known.is_none_or(|known| serial(known) < serial(&peer));
            if heard && room && sane && newer {
                self.whereabouts.greeted.insert(id, peer);
            }
        }
        self.publish_book();
    }

    /// Others know another key of this node, as new as its own or newer: the disk lost that one.
    fn is_outdone_by(&mut self, told: Option<&MeshFacts>) {
        let (Some(own), Some(told)) = (&self.config.facts.mesh, told) else { return };
        let outdone = told.serial >= own.serial && told != own;
        let next = told.serial.checked_add(1);
        if let Some(serial) = next.filter(|next| outdone && *next > self.whereabouts.asked_for) {
            self.whereabouts.asked_for = serial;
            self.out.push(Effect::RotateKey { serial });
        }
    }

    /// Who is not met in the mesh may know another key of this node, or this one of theirs.
    pub(super) fn met(&mut self, met: BTreeSet<NodeId>, unmet: &BTreeSet<NodeId>) {
        self.out.extend(unmet.iter().map(|to| Effect::Greet { to: *to }));
        self.whereabouts.met = met;
    }

    /// This node has another key or endpoint: the others cannot be told through the mesh.
    pub(super) fn mesh_changed(&mut self, now: Now, mesh: MeshFacts) {
        self.config.facts.mesh = Some(mesh);
        self.publish_book();
        let others = self.whereabouts.told.peers.keys().copied();
        let others = others.filter(|id| *id != self.config.id);
        self.out.extend(others.map(|to| Effect::Greet { to }));
        self.next_heartbeat = now.mono;
    }

    /// Asks for another key, once, if people want one and the others can be told of it.
    pub(super) fn renew_key(&mut self, now: Now) {
        let Some(record) = self.cluster.nodes.get(&self.config.id) else { return };
        let (wanted, told) = (record.rotate_to, record.facts.mesh.clone());
        self.is_outdone_by(told.as_ref());
        let has = self.config.facts.mesh.as_ref().map_or(u64::MAX, |facts| facts.serial);
        if wanted <= has || wanted <= self.whereabouts.asked_for {
            return;
        }
        let unheard = self.unheard_outside(now.mono);
        if unheard.is_empty() || mutant::is(Mutant::KeyReplacedUnheard) {
            self.whereabouts.asked_for = wanted;
            self.out.push(Effect::RotateKey { serial: wanted });
        } else if now.mono >= self.whereabouts.greets_at {
            self.whereabouts.greets_at = now.mono + GREET_AGAIN;
            self.out.extend(unheard.into_iter().map(|to| Effect::Greet { to }));
        }
    }

    /// Nodes that are up and were not heard from outside the mesh lately.
    fn unheard_outside(&self, now: Mono) -> Vec<NodeId> {
        let heard = |id: &NodeId| {
            let at = self.whereabouts.heard_outside.get(id);
            at.is_some_and(|at| *at + HEARD_FOR > now)
        };
        let others = self.cluster.nodes.iter().filter(|(id, _)| **id != self.config.id);
        let unheard = others.filter(|(id, record)| record.is_up() && !heard(id));
        unheard.map(|(id, _)| *id).collect()
    }

    /// A person wants a node to have another key.
    pub(super) fn rotate_key(
        &mut self,
        now: Now,
        id: RequestId,
        node: &str,
    ) -> Result<Option<Answer>, ApiError> {
        let (node, record) = self.find_node(node)?;
        let name = &record.name;
        let Some(mesh) = &record.facts.mesh else {
            let message = format!("node {name} is not in the mesh: it has no key to replace");
            let error = ApiError::new(ErrorCode::Conflict, message);
            return Err(error.hint(format!("`mill doctor` on {name} says why")));
        };
        if record.rotate_to > mesh.serial {
            return Ok(Some(Answer::Done));
        }
        let Some(to) = mesh.serial.checked_add(1) else {
            let message = format!("the key of node {name} was replaced as often as can be counted");
            return Err(ApiError::new(ErrorCode::Conflict, message).hint("join it anew"));
        };
        self.propose(now, id, Command::RotateKey { node, to }, Then::Done);
        Ok(None)
    }
}

/// None is older than any.
fn serial(peer: &Peer) -> Option<u64> {
    peer.mesh.as_ref().map(|mesh| mesh.facts.serial)
}
