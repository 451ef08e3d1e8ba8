//! The encrypted network between nodes, as far as it is a fact: each node's key, endpoint and
//! address in it, and whether nodes speak through nothing else.
//!
//! A node makes its own keys and says the public half with its facts; its address is given here,
//! when it is first known that it can be reached there. A cluster whose nodes were there before
//! moves once: when every member can be reached through the mesh by every other (`brain/mesh.rs`).
//! From then on nobody is admitted who cannot. Tested below and in
//! `sim-tests/tests/scenarios/mesh.rs`.

use core::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::admission::LONG_TEXT_MAX;
use super::apply::{missing, stale};
use super::node::NodeRecord;
use super::{Cluster, Refusal, Reply};
use crate::mutant::{self, Mutant};
use crate::name::NodeId;
use crate::net::{NODE_ADDRESSES, next_free};
use crate::time::Wall;

/// How a node is reached through the mesh, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshFacts {
    /// Its public key (X25519), in base64.
    pub key: String,
    /// Address and port where its datagrams come in.
    pub endpoint: String,
    /// Counted up by the node with each change of the two: of two that are said, the higher holds.
    pub serial: u64,
}

impl MeshFacts {
    /// What cannot be, whatever the state: a sentence.
    pub(crate) fn problem(&self) -> Option<String> {
        let texts = [&self.key, &self.endpoint];
        let long = texts.into_iter().find(|text| text.len() > LONG_TEXT_MAX)?;
        Some(format!("`{long}` is longer than {LONG_TEXT_MAX} bytes"))
    }
}

impl Cluster {
    /// A node's address in the mesh, once it has said that it can be reached there.
    pub fn mesh_address(&self, record: &NodeRecord) -> Option<Ipv4Addr> {
        let known = record.address != 0 && record.facts.mesh.is_some();
        known.then(|| self.network.of_node(record.address))
    }

    /// Gives a node an address if it lacks one and can use it. Those that there are outnumber nodes
    /// by far, and whose node was removed rest for long.
    pub(super) fn give_mesh_address(&mut self, node: NodeId) {
        let lacks = |record: &&NodeRecord| record.address == 0 && record.facts.mesh.is_some();
        if self.nodes.get(&node).filter(lacks).is_none() {
            return;
        }
        let taken = self.nodes.values().map(|record| record.address);
        let free = next_free(self.last_node_address, NODE_ADDRESSES, taken);
        let free = if mutant::is(Mutant::MeshAddressTwice) { 1 } else { free };
        self.last_node_address = free;
        if let Some(record) = self.nodes.get_mut(&node) {
            record.address = free;
        }
    }

    /// Nodes speak through the mesh only, from here on.
    pub(super) fn use_mesh(&mut self, wall: Wall) -> Result<Reply, Refusal> {
        if self.mesh_only {
            return Err(stale("nodes speak through the mesh only already"));
        }
        // One that has just been admitted has met nobody yet.
        let outside = |record: &&NodeRecord| !record.is_up() || self.mesh_address(record).is_none();
        if let Some(record) = self.nodes.values().find(outside) {
            return Err(stale(format!("node {} is down, or not in the mesh", record.name)));
        }
        self.mesh_only = true;
        let text = "every node is in the mesh: they speak through nothing else from now on";
        self.history.record(wall, "mesh", text.to_owned());
        Ok(Reply::Done)
    }

    /// A node is to make another key for the mesh.
    pub(super) fn rotate_key(
        &mut self,
        wall: Wall,
        node: NodeId,
        to: u64,
    ) -> Result<Reply, Refusal> {
        let record = self.nodes.get_mut(&node).ok_or_else(|| missing("node", node))?;
        let name = record.name.clone();
        let Some(mesh) = &record.facts.mesh else {
            return Err(Refusal::Invalid(format!("node {name} is not in the mesh: it has no key")));
        };
        if to <= mesh.serial || to <= record.rotate_to {
            return Err(stale(format!("the key of node {name} is being replaced already")));
        }
        record.rotate_to = to;
        self.history.record(wall, node, format!("node {name} is to make another key for the mesh"));
        Ok(Reply::Done)
    }
}
