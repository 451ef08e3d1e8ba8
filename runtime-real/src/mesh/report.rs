//! How the mesh is on this node, for people and programs.

use std::net::IpAddr;

use mill_core::name::NodeId;
use mill_mesh::{Mesh, explain};
use serde::{Deserialize, Serialize};

use mill_core::effect::Book;

/// What `/v1/mesh` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshReport {
    /// Whether nodes speak through the mesh only.
    pub only: bool,
    /// The interface, if this node is in the mesh.
    pub interface: Option<Interface>,
    /// Why it is not, if it is not; or what is wrong. Each a sentence that says what to do.
    pub problems: Vec<String>,
}

/// This node's part of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// What does the work: `kernel` or `userspace`.
    pub kind: String,
    /// This node's address in the mesh.
    pub address: IpAddr,
    /// Its public key, in base64.
    pub key: String,
    /// The UDP port that others reach.
    pub port: u16,
    /// Bytes of the largest packet.
    pub mtu: u32,
    /// The other nodes.
    pub peers: Vec<PeerReport>,
}

/// Another node, as the interface sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// Which node.
    pub node: NodeId,
    /// Its public key, in base64.
    pub key: String,
    /// Where datagrams to it go.
    pub endpoint: Option<String>,
    /// Seconds since the last handshake, if there was one.
    pub handshake_seconds: Option<u64>,
    /// Bytes sent to it, and received.
    pub sent_bytes: u64,
    /// The same from it.
    pub received_bytes: u64,
}

/// Reads the interface.
pub(super) fn report(mesh: &Mesh, address: IpAddr, book: &Book) -> MeshReport {
    let status = match mesh.status() {
        Ok(status) => status,
        Err(error) => {
            let problems = vec![error.to_string()];
            return MeshReport { only: book.mesh_only, interface: None, problems };
        }
    };
    let node_of = |key: &str| {
        let mut peers = book.peers.iter();
        peers.find(|(_, peer)| peer.mesh.as_ref().is_some_and(|mesh| mesh.facts.key == key))
    };
    let peers = status.peers.iter().filter_map(|peer| {
        let key = peer.public_key.to_string();
        let (node, _) = node_of(&key)?;
        Some(PeerReport {
            node: *node,
            key,
            endpoint: peer.endpoint.map(|endpoint| endpoint.to_string()),
            handshake_seconds: peer.handshake_age.map(|age| age.as_secs()),
            sent_bytes: peer.sent_bytes,
            received_bytes: peer.received_bytes,
        })
    });
    let interface = Interface {
        name: status.interface.clone(),
        kind: status.kind.word().to_owned(),
        address,
        key: status.public_key.to_string(),
        port: status.listen_port,
        mtu: status.mtu,
        peers: peers.collect(),
    };
    let problems = explain(&status, mesh.now()).into_iter().map(|found| {
        let of = found.peer.and_then(|key| node_of(&key.to_string()));
        let of = of.map(|(node, _)| format!("node {node}: ")).unwrap_or_default();
        format!("{of}{}; {}", found.reason, found.advice)
    });
    MeshReport { only: book.mesh_only, interface: Some(interface), problems: problems.collect() }
}
