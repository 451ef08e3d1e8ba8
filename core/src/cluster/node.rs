//! What the cluster knows of each node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cluster::FeatureLevel;
use crate::cluster::admission::Roles;
use crate::cluster::mesh::MeshFacts;
use crate::time::Wall;
use crate::units::{Bytes, Millicores};

/// What a node says of itself; replicated when it changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// How often it has started; 0 until it has.
    pub boot: u64,
    /// Address that callers reach its containers at.
    pub advertise: String,
    /// Address and port that other nodes reach it at.
    pub rpc: String,
    /// What it has to give.
    pub capacity: Capacity,
    /// Version of the program, for people.
    pub version: String,
    /// The highest feature level that the program supports.
    #[serde(default)]
    pub supports: FeatureLevel,
    /// Why it does not take requests from outside, or not all, while it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unrouted: Option<String>,
    /// How it is reached through the mesh, if its machine can be part of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<MeshFacts>,
}

/// What a node has to give to containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// All of its cores.
    pub cpu: Millicores,
    /// All of its memory.
    pub memory: Bytes,
    /// Ports that `$PORT` is taken from.
    pub ports: PortPool,
}

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortPool {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl Default for PortPool {
    fn default() -> PortPool {
        PortPool { first: 20_000, last: 29_999 }
    }
}

/// A node in the replicated state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// What people call it: given at admission, unique in the cluster.
    pub name: String,
    /// Fingerprint of its public key, in hex: told apart by it, and not read here.
    pub key: String,
    /// What it does for the cluster.
    pub roles: Roles,
    /// Labels for constraints, `zone = "a"`: given at admission, changed by people.
    pub labels: BTreeMap<String, String>,
    /// Whether it is being emptied: it gets nothing new, and what it has moves.
    pub draining: bool,
    /// What it said of itself last.
    pub facts: NodeFacts,
    /// Whether the leader hears it.
    pub liveness: Liveness,
    /// The pool's next port to try: freed ports rest as long as possible.
    pub next_port: u16,
    /// How often it came back, without staying up for long in between.
    #[serde(default)]
    pub returns: u32,
    /// Whether it gets anything new.
    #[serde(default)]
    pub trust: Trust,
    /// Which of the network's node addresses is its own; 0 until it can use one.
    #[serde(default)]
    pub address: u16,
    /// The serial of the key that people want it to have at least, see
    /// [`MeshFacts::serial`].
    #[serde(default)]
    pub rotate_to: u64,
}

/// Whether a node gets anything new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// It does.
    #[default]
    Full,
    /// Not until it has stayed up for a while: it came back [`RETURNS_BEFORE_WATCHED`] times.
    Watched,
}

/// A node that came back this often is watched.
pub const RETURNS_BEFORE_WATCHED: u32 = 3;

/// Whether the leader hears a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Liveness {
    /// It was admitted and has not been heard yet.
    Joining,
    /// It does.
    Up,
    /// It has been silent for too long.
    Down {
        /// When that was decided.
        since: Wall,
    },
}

impl NodeRecord {
    /// Whether the leader hears it.
    pub fn is_up(&self) -> bool {
        match self.liveness {
            Liveness::Up => true,
            Liveness::Joining | Liveness::Down { .. } => false,
        }
    }

    /// Whether something new may be placed on it.
    pub fn takes_new(&self) -> bool {
        self.is_up() && self.roles.secondary && !self.draining
    }
}
