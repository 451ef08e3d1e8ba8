//! Who belongs to the cluster: admission by token, names, labels, draining, removal.
//!
//! A node is what its key says; its number comes from a counter and is never given again. Whether
//! a token is good at this moment is the proposer's to judge, by its clock; that it is there and
//! not spent is judged here. Who votes is `brain/members.rs`. Tested below and in
//! `sim-tests/tests/scenarios/members.rs`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::alloc::{Desired, Phase, StopReason};
use super::apply::{missing, stale};
use super::mesh::MeshFacts;
use super::node::{Capacity, Liveness, NodeFacts, NodeRecord, PortPool, Trust};
use super::{Cluster, FeatureLevel, Refusal, Reply};
use crate::mutant::{self, Mutant};
use crate::name::{AllocId, NodeId};
use crate::time::Wall;
use crate::units::{Bytes, Millicores};

/// The most nodes of a cluster: twenty are supported and tested, beyond this none is admitted.
pub const NODES_MAX: usize = 50;
/// The most tokens at a time, spent ones included.
pub const TOKENS_MAX: usize = 100;
/// The most labels of a node.
pub const LABELS_MAX: usize = 32;
/// The most bytes of a node's name, of a label and of its value.
pub const TEXT_MAX: usize = 63;
/// The most bytes of a fingerprint, a hash, an address or a version.
pub const LONG_TEXT_MAX: usize = 255;

/// What a node does for the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    /// It may vote and lead.
    pub primary: bool,
    /// It runs containers.
    pub secondary: bool,
}

impl Default for Roles {
    fn default() -> Roles {
        Roles { primary: true, secondary: true }
    }
}

impl Roles {
    /// Whether these are at most those of `other`.
    #[must_use]
    pub fn within(self, other: Roles) -> bool {
        (other.primary || !self.primary) && (other.secondary || !self.secondary)
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.primary, self.secondary) {
            (true, true) => "primary,secondary",
            (true, false) => "primary",
            (false, true) => "secondary",
            (false, false) => "none",
        })
    }
}

/// What a node is admitted with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// What people will call it.
    pub name: String,
    /// Fingerprint of its public key, in hex.
    pub key: String,
    /// What it does for the cluster.
    pub roles: Roles,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Address that callers reach its containers at.
    pub advertise: String,
    /// Address and port that other nodes reach it at.
    pub rpc: String,
    /// Version of its program.
    pub version: String,
    /// The highest feature level that its program supports.
    #[serde(default)]
    pub supports: FeatureLevel,
    /// How it is reached through the mesh, if its machine can be part of one.
    #[serde(default)]
    pub mesh: Option<MeshFacts>,
}

/// A right to join, known by the hash of its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// The roles that it can give.
    pub roles: Roles,
    /// Until when it is good; for ever if absent.
    pub expires: Option<Wall>,
    /// Whether it is good for one node only.
    pub once: bool,
    /// The node that spent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent: Option<String>,
}

impl Admission {
    /// What cannot be, whatever the state: a sentence.
    pub fn problem(&self) -> Option<String> {
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let Admission { name, .. } = self;
        if !(1..=TEXT_MAX).contains(&name.len()) || !name.chars().all(named) {
            return Some(format!(
                "`{name}` is not a name for a node; use 1 to {TEXT_MAX} letters, digits, `-`, `_` \
                 and `.`"
            ));
        }
        if self.key.is_empty() {
            return Some("a node needs a key of its own".to_owned());
        }
        let texts = [&self.key, &self.advertise, &self.rpc, &self.version];
        if let Some(long) = texts.into_iter().find(|text| text.len() > LONG_TEXT_MAX) {
            return Some(format!("`{long}` is longer than {LONG_TEXT_MAX} bytes"));
        }
        if !self.roles.primary && !self.roles.secondary {
            return Some("a node needs a role: primary, secondary or both".to_owned());
        }
        let mesh = self.mesh.as_ref().and_then(MeshFacts::problem);
        mesh.or_else(|| labels_problem(&self.labels))
    }
}

/// What is wrong with labels: a sentence.
pub fn labels_problem(labels: &BTreeMap<String, String>) -> Option<String> {
    if labels.len() > LABELS_MAX {
        return Some(format!("a node has {LABELS_MAX} labels at most"));
    }
    let fits =
        |text: &str| (1..=TEXT_MAX).contains(&text.len()) && !text.contains(char::is_control);
    let bad = labels.iter().find(|(key, value)| !fits(key) || !fits(value));
    bad.map(|(key, value)| {
        format!("label `{key}={value}` is empty or longer than {TEXT_MAX} bytes on one side")
    })
}

impl Cluster {
    /// The node of that name.
    pub fn node_named(&self, name: &str) -> Option<(NodeId, &NodeRecord)> {
        let found = self.nodes.iter().find(|(_, record)| record.name == name);
        found.map(|(id, record)| (*id, record))
    }

    /// The node of that name, or else of that number: some are called as others are numbered.
    pub fn node_called(&self, text: &str) -> Option<(NodeId, &NodeRecord)> {
        let numbered = || {
            let id = text.parse().ok()?;
            Some((id, self.nodes.get(&id)?))
        };
        self.node_named(text).or_else(numbered)
    }

    /// The node with that key.
    pub fn node_with_key(&self, key: &str) -> Option<(NodeId, &NodeRecord)> {
        let found = self.nodes.iter().find(|(_, record)| record.key == key);
        found.map(|(id, record)| (*id, record))
    }

    pub(super) fn found(
        &mut self,
        wall: Wall,
        cluster: &str,
        node: NodeId,
        first: &Admission,
    ) -> Result<Reply, Refusal> {
        if let Some(id) = &self.id {
            return Err(Refusal::Founded(id.clone()));
        }
        self.id = Some(cluster.to_owned());
        self.next_node = node.0;
        Ok(Reply::Admitted(self.take_in(wall, first)))
    }

    pub(super) fn admit(
        &mut self,
        wall: Wall,
        admission: &Admission,
        token: Option<&str>,
    ) -> Result<Reply, Refusal> {
        if self.id.is_none() {
            return Err(stale("the cluster has not begun"));
        }
        if let Some((node, _)) = self.node_with_key(&admission.key) {
            return Ok(Reply::Admitted(node));
        }
        if let Some(problem) = admission.problem() {
            return Err(Refusal::Invalid(problem));
        }
        self.is_known_to(admission.supports)?;
        if self.mesh_only && admission.mesh.is_none() {
            return Err(Refusal::NoMesh);
        }
        if let Some((node, _)) = self.node_named(&admission.name) {
            return Err(Refusal::NameTaken { name: admission.name.clone(), node });
        }
        if self.nodes.len() >= NODES_MAX {
            return Err(Refusal::TooMany { what: "nodes", most: NODES_MAX });
        }
        if let Some(hash) = token {
            let token = self.tokens.get_mut(hash).ok_or(Refusal::NoToken)?;
            if let Some(by) = &token.spent {
                return Err(Refusal::TokenSpent { by: by.clone() });
            }
            if !admission.roles.within(token.roles) {
                return Err(Refusal::RoleNotCovered {
                    wanted: admission.roles,
                    covered: token.roles,
                });
            }
            if token.once {
                token.spent = Some(admission.name.clone());
            }
        }
        Ok(Reply::Admitted(self.take_in(wall, admission)))
    }

    pub(super) fn take_in(&mut self, wall: Wall, admission: &Admission) -> NodeId {
        let mut node = NodeId(self.next_node);
        if let Some(last) =
            self.nodes.keys().last().filter(|_| mutant::is(Mutant::NodeNumberReused))
        {
            node = NodeId(last.0 + 1);
        }
        self.next_node += 1;
        let Admission { name, key, roles, labels, advertise, rpc, version, supports, mesh } =
            admission.clone();
        let nothing = Capacity {
            cpu: Millicores(0),
            memory: Bytes(0),
            ports: PortPool { first: 0, last: 0 },
        };
        self.history.record(wall, node, format!("node {name} was admitted"));
        let (boot, capacity, unrouted) = (0, nothing, None);
        let facts = NodeFacts { boot, advertise, rpc, capacity, version, supports, unrouted, mesh };
        let record = NodeRecord {
            name,
            key,
            roles,
            labels,
            draining: false,
            facts,
            liveness: Liveness::Joining,
            next_port: 0,
            returns: 0,
            trust: Trust::Full,
            address: 0,
            rotate_to: 0,
        };
        self.nodes.insert(node, record);
        self.give_mesh_address(node);
        node
    }

    pub(super) fn remove_node(
        &mut self,
        wall: Wall,
        node: NodeId,
        force: bool,
    ) -> Result<Reply, Refusal> {
        let record = self.nodes.get(&node).ok_or_else(|| missing("node", node))?;
        let name = record.name.clone();
        let others = self.nodes.iter().filter(|(id, _)| **id != node);
        if record.roles.primary && !others.clone().any(|(_, other)| other.roles.primary) {
            return Err(Refusal::LastPrimary(name));
        }
        let live = self.allocs_on(node).filter(|(_, alloc)| alloc.is_live());
        let live: Vec<AllocId> = live.map(|(id, _)| id.clone()).collect();
        if !force && !live.is_empty() {
            return Err(Refusal::NotEmpty { name, allocs: live.len() });
        }
        if !force && record.is_up() && !record.draining {
            return Err(Refusal::NotDrained(name));
        }
        self.lose_runs(wall, node, &name);
        // Nobody will hear of these again: they are over, so that their slots are filled anew.
        for id in &live {
            let Some(alloc) = self.allocs.get_mut(id) else { continue };
            if alloc.desired == Desired::Run {
                alloc.desired = Desired::Stop { reason: StopReason::NodeRemoved };
            }
            alloc.status.phase = Phase::Stopped;
            let service = alloc.slot.service.clone();
            self.receipt_goes_on(wall, id);
            self.history.record(
                wall,
                id,
                format!("stopped: {}", StopReason::NodeRemoved.sentence()),
            );
            self.prune(&service);
        }
        self.nodes.remove(&node);
        self.resting.remove(&node);
        self.intent += 1;
        self.history.record(wall, node, format!("node {name} was removed"));
        Ok(Reply::Done)
    }

    pub(super) fn set_drain(
        &mut self,
        wall: Wall,
        node: NodeId,
        draining: bool,
    ) -> Result<Reply, Refusal> {
        let record = self.nodes.get_mut(&node).ok_or_else(|| missing("node", node))?;
        if record.draining == draining {
            return Err(stale(format!("node {} is known like that", record.name)));
        }
        record.draining = draining;
        self.intent += 1;
        let text = match draining {
            true => format!("node {} drains: it gets nothing new and is emptied", record.name),
            false => format!("node {} takes containers again", record.name),
        };
        self.history.record(wall, node, text);
        Ok(Reply::Done)
    }

    pub(super) fn set_labels(
        &mut self,
        wall: Wall,
        node: NodeId,
        set: &BTreeMap<String, String>,
        remove: &[String],
    ) -> Result<Reply, Refusal> {
        let record = self.nodes.get_mut(&node).ok_or_else(|| missing("node", node))?;
        let mut labels = record.labels.clone();
        labels.extend(set.iter().map(|(key, value)| (key.clone(), value.clone())));
        remove.iter().for_each(|key| {
            labels.remove(key);
        });
        if let Some(problem) = labels_problem(&labels) {
            return Err(Refusal::Invalid(problem));
        }
        if labels == record.labels {
            return Err(stale(format!("node {} is known like that", record.name)));
        }
        record.labels = labels;
        self.intent += 1;
        let text = format!("the labels of node {} were changed", record.name);
        self.history.record(wall, node, text);
        Ok(Reply::Done)
    }

    pub(super) fn put_token(
        &mut self,
        wall: Wall,
        hash: &str,
        token: &JoinToken,
    ) -> Result<Reply, Refusal> {
        if self.tokens.get(hash).is_some_and(|known| known == token) {
            return Err(stale("this token is known like that"));
        }
        if !(1..=LONG_TEXT_MAX).contains(&hash.len()) {
            let problem = format!("the hash of a token has 1 to {LONG_TEXT_MAX} bytes");
            return Err(Refusal::Invalid(problem));
        }
        // By the clock of whoever makes a new one: what has expired says nothing but that.
        self.tokens.retain(|_, known| known.expires.is_none_or(|expires| expires > wall));
        if self.tokens.len() >= TOKENS_MAX {
            return Err(Refusal::TooMany { what: "join tokens", most: TOKENS_MAX });
        }
        self.tokens.insert(hash.to_owned(), token.clone());
        Ok(Reply::Done)
    }

    pub(super) fn revoke_tokens(&mut self, wall: Wall) -> Result<Reply, Refusal> {
        if self.tokens.is_empty() {
            return Err(stale("there is no join token"));
        }
        self.tokens.clear();
        self.history.record(wall, "tokens", "every join token was revoked".to_owned());
        Ok(Reply::Done)
    }
}
