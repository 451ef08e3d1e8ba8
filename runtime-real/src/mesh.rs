//! This node's part of the encrypted network between nodes, from what its node says of the others.
//!
//! Whoever is in the address book is a peer, as the key says that the book has; the interface is
//! made as soon as the book says which address is this node's own, also from the book on disk,
//! before consensus runs. Whether others are met is looked at here and judged by core, which greets
//! them from outside. What does the work is `mill_mesh`. Tested in `cli/tests/cluster/mesh.rs`.
//! - `key`: this machine's key on disk
//! - `meeting`: who is met, from counters
//! - `report`: how it is, for `mill doctor`

mod key;
mod meeting;
mod report;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use mill_core::Event;
use mill_core::effect::MeshPeer;
use mill_core::name::NodeId;
use mill_core::net::Network;
use mill_mesh::{Mesh, MeshOptions, Peer, Prefer, Prefix, PublicKey};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};

pub(crate) use self::key::MeshKey;
use self::meeting::{Meeting, Met};
pub use self::report::{Interface, MeshReport, PeerReport};
use mill_core::effect::Book;

/// Between two looks at who is met.
const LOOK: Duration = Duration::from_secs(1);
/// Both sides keep a NAT between them open.
const KEEPALIVE: Duration = Duration::from_secs(25);
/// A node that was removed is a peer for so long still.
const LINGER: Duration = Duration::from_secs(5);
/// Wishes for another key that wait; one is enough.
const ROTATIONS: usize = 4;

/// Whether this machine can be part of a mesh.
///
/// # Errors
/// Why not, in a sentence that says what to do.
pub(crate) fn can_mesh() -> Result<(), String> {
    // Told apart from those of other daemons that look at the same time.
    let interface = format!("millp{}", std::process::id());
    mill_mesh::probe(&interface).map_err(|error| with_source(&error))
}

fn with_source(error: &mill_mesh::Error) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

/// What others ask of this node's part of the mesh. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Meshing {
    rotations: mpsc::Sender<u64>,
    shared: Arc<Mutex<Shared>>,
    known: watch::Receiver<Book>,
}

#[derive(Default)]
struct Shared {
    /// The interface, and this node's address there.
    up: Option<(Arc<Mesh>, IpAddr)>,
    /// Why there is none.
    why: Option<String>,
}

impl Meshing {
    /// This node is to have another key.
    pub(crate) fn rotate(&self, serial: u64) {
        // Core asks again at the next start.
        if self.rotations.try_send(serial).is_err() {
            tracing::warn!(serial, "the key for the mesh was not replaced: there is no mesh");
        }
    }

    /// How it is.
    pub(crate) fn report(&self) -> MeshReport {
        let (up, why) = {
            let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            (shared.up.clone(), shared.why.clone())
        };
        // Whoever tells of another does not wait for this.
        let book = self.known.borrow().clone();
        match up {
            Some((mesh, address)) => report::report(&mesh, address, &book),
            None => MeshReport {
                only: book.mesh_only,
                interface: None,
                problems: why.into_iter().collect(),
            },
        }
    }

    /// Removes the interface.
    pub(crate) fn stop(&self) {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).up = None;
    }
}

/// What serves others at this node's address in the mesh, from when that can be reached.
pub(crate) type Serving = Box<dyn FnOnce(Ipv4Addr) -> BoxFuture<'static, ()> + Send + Sync>;

/// This node's part of the mesh, which begins with [`End::follow`]; or why it has none.
pub(crate) fn prepare(
    me: NodeId,
    key: Result<MeshKey, String>,
    known: watch::Receiver<Book>,
    events: mpsc::Sender<Event>,
) -> (Meshing, Option<End>) {
    let (rotations, asked) = mpsc::channel(ROTATIONS);
    let why = key.as_ref().err().cloned();
    let shared = Arc::new(Mutex::new(Shared { up: None, why }));
    let meshing = Meshing { rotations, shared: shared.clone(), known: known.clone() };
    let end = key.ok().map(|key| End {
        me,
        key,
        events,
        known,
        asked,
        shared,
        serving: None,
        served: JoinSet::new(),
        peers: BTreeMap::new(),
        leaving: BTreeMap::new(),
        rotating: None,
        meeting: Meeting::default(),
    });
    (meshing, end)
}

/// What makes the interface and keeps it as it should be.
pub(crate) struct End {
    me: NodeId,
    key: MeshKey,
    events: mpsc::Sender<Event>,
    known: watch::Receiver<Book>,
    asked: mpsc::Receiver<u64>,
    shared: Arc<Mutex<Shared>>,
    serving: Option<Serving>,
    /// Ends with this.
    served: JoinSet<()>,
    /// The other nodes, as the book has them.
    peers: BTreeMap<NodeId, Peer>,
    /// Nodes that were removed, until then: what they were asked last is still answered.
    leaving: BTreeMap<NodeId, (Peer, Instant)>,
    /// The key that this node is to have, until the interface has it.
    rotating: Option<u64>,
    meeting: Meeting,
}

impl End {
    /// Follows the address book until the task is aborted.
    pub(crate) fn follow(mut self, serving: Serving) -> JoinHandle<()> {
        self.serving = Some(serving);
        tokio::spawn(self.run())
    }

    async fn run(mut self) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.known.mark_changed();
        loop {
            tokio::select! {
                changed = self.known.changed() => match changed {
                    Ok(()) => {
                        let book = self.known.borrow_and_update().clone();
                        self.keep_to(&book);
                    }
                    Err(_) => return,
                },
                Some(serial) = self.asked.recv() => {
                    self.rotating = Some(serial);
                    self.rotate().await;
                }
                _ = look.tick() => {
                    let now = Instant::now();
                    let over = self.leaving.values().any(|(_, until)| *until <= now);
                    if over || self.mesh().is_none() {
                        let book = self.known.borrow().clone();
                        self.keep_to(&book);
                    }
                    self.rotate().await;
                    self.look().await;
                }
            }
        }
    }

    fn mesh(&self) -> Option<Arc<Mesh>> {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.up.as_ref().map(|(mesh, _)| mesh.clone())
    }

    /// Makes the book's nodes the peers, and the interface if there is none.
    fn keep_to(&mut self, book: &Book) {
        let Some(own) = book.peers.get(&self.me).and_then(|peer| peer.mesh.as_ref()) else {
            return;
        };
        let Some(mesh) = self.mesh().or_else(|| self.make(own.address)) else { return };
        let now = Instant::now();
        let gone = |node: &NodeId, _: &mut Peer| !book.peers.contains_key(node);
        let gone = self.peers.extract_if(.., gone).map(|(node, peer)| (node, (peer, now + LINGER)));
        self.leaving.extend(gone);
        self.leaving.retain(|node, (_, until)| *until > now && !book.peers.contains_key(node));
        let (peers, refused) = peers_of(self.me, book, &self.key.private.public());
        for (node, why) in refused {
            tracing::warn!(%node, why, "a node is left out of the mesh");
        }
        self.peers = peers;
        let taken = |peer: &Peer| {
            let mut others = self.peers.values();
            others.any(|other| other.public_key == peer.public_key || other.allowed == peer.allowed)
        };
        let leaving = self.leaving.values().map(|(peer, _)| peer).filter(|peer| !taken(peer));
        let wanted: Vec<Peer> = self.peers.values().chain(leaving).cloned().collect();
        if let Err(error) = mesh.set_peers(&wanted) {
            tracing::warn!(error = with_source(&error), "the peers of the mesh were not changed");
        }
    }

    fn make(&mut self, address: Ipv4Addr) -> Option<Arc<Mesh>> {
        let network = address.octets()[1];
        let options = MeshOptions {
            interface: format!("mill{network}n{}", self.me.0),
            private_key: self.key.private.clone(),
            listen_port: self.key.port(),
            addresses: vec![Prefix::new(IpAddr::V4(address), Network::NODE_PREFIX).ok()?],
            mtu: None,
            prefer: Prefer::Auto,
        };
        let made = Mesh::start(options).map(Arc::new);
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        match made {
            Ok(mesh) => {
                *shared = Shared { up: Some((mesh.clone(), IpAddr::V4(address))), why: None };
                if let Some(serving) = self.serving.take() {
                    self.served.spawn(serving(address));
                }
                Some(mesh)
            }
            Err(error) => {
                let why = with_source(&error);
                if shared.why.as_ref() != Some(&why) {
                    tracing::warn!(error = why, "this node is not in the mesh; it is tried again");
                }
                shared.why = Some(why);
                None
            }
        }
    }

    /// Makes another key if one is wanted, and tells of it once the interface has it; tried again
    /// with each look.
    async fn rotate(&mut self) {
        let Some(serial) = self.rotating else { return };
        if self.key.facts().serial < serial
            && let Err(error) = self.key.replace(serial)
        {
            tracing::warn!(%error, "the key for the mesh is not replaced yet; it is tried again");
            return;
        }
        if let Some(mesh) = self.mesh() {
            if let Err(error) = mesh.rotate(&self.key.private) {
                let error = with_source(&error);
                tracing::warn!(error, "the interface has not taken its new key; it is tried again");
                return;
            }
            self.meeting.rotated(mesh.now());
        }
        self.rotating = None;
        self.tell(Event::MeshChanged { mesh: self.key.facts() }).await;
    }

    async fn look(&mut self) {
        let Some(mesh) = self.mesh() else { return };
        match mesh.status() {
            Ok(status) => {
                let keys = self.peers.iter().map(|(node, peer)| (peer.public_key, *node));
                let nodes = keys.collect();
                if let Some(Met { met, unmet }) = self.meeting.look(&status, &nodes) {
                    self.tell(Event::Met { met, unmet }).await;
                }
            }
            Err(error) => {
                let error = with_source(&error);
                tracing::warn!(error, "the mesh's interface cannot be read; it is made anew");
                self.shared.lock().unwrap_or_else(PoisonError::into_inner).up = None;
                let unmet: BTreeSet<NodeId> = self.peers.keys().copied().collect();
                self.tell(Event::Met { met: BTreeSet::new(), unmet }).await;
            }
        }
    }

    async fn tell(&self, event: Event) {
        // The loop may have ended.
        let _ = self.events.send(event).await;
    }
}

/// The other nodes as the interface wants them, and those that it would refuse, with all the others:
/// where two cannot be, members come before those that this node only heard of, and newer ones first.
fn peers_of(
    me: NodeId,
    book: &Book,
    own: &PublicKey,
) -> (BTreeMap<NodeId, Peer>, Vec<(NodeId, &'static str)>) {
    let (mut peers, mut refused) = (BTreeMap::new(), Vec::new());
    let (mut keys, mut addresses) = (BTreeSet::from([*own]), BTreeSet::new());
    let my_address = book.peers.get(&me).and_then(|peer| peer.mesh.as_ref());
    let my_address = my_address.map(|mesh| mesh.address);
    addresses.extend(my_address);
    let mut others: Vec<(NodeId, &MeshPeer)> = book
        .peers
        .iter()
        .filter(|(node, _)| **node != me)
        .filter_map(|(node, peer)| Some((*node, peer.mesh.as_ref()?)))
        .collect();
    others.sort_by_key(|(node, _)| (*node >= book.known_below, Reverse(*node)));
    for (node, known) in others {
        let Ok(public_key) = known.facts.key.parse::<PublicKey>() else {
            refused.push((node, "its key is none"));
            continue;
        };
        let near = my_address.is_some_and(|mine| is_neighbour(mine, known.address));
        if !near || keys.contains(&public_key) || addresses.contains(&known.address) {
            refused.push((node, "its key or address is another's"));
            continue;
        }
        keys.insert(public_key);
        addresses.insert(known.address);
        let peer = Peer {
            public_key,
            endpoint: known.facts.endpoint.parse::<SocketAddr>().ok(),
            allowed: vec![Prefix::host(IpAddr::V4(known.address))],
            keepalive: Some(KEEPALIVE),
        };
        peers.insert(node, peer);
    }
    (peers, refused)
}

/// Whether both are addresses of nodes of one cluster.
pub(crate) fn is_neighbour(one: Ipv4Addr, other: Ipv4Addr) -> bool {
    let network = |address: Ipv4Addr| u32::from(address) >> (32 - u32::from(Network::NODE_PREFIX));
    network(one) == network(other)
}

#[cfg(test)]
mod tests {
    use mill_core::cluster::mesh::MeshFacts;
    use mill_mesh::PrivateKey;

    use super::*;

    fn key() -> PublicKey {
        PrivateKey::generate().unwrap().public()
    }

    fn node(number: u64, address: [u8; 4], key: &str) -> (NodeId, mill_core::effect::Peer) {
        let endpoint = format!("192.0.2.{number}:7400");
        let facts = MeshFacts { key: key.to_owned(), endpoint, serial: 1 };
        let mesh = Some(MeshPeer { address: address.into(), facts });
        let rpc = String::new();
        (NodeId(number), mill_core::effect::Peer { rpc, key: String::new(), mesh })
    }

    #[test]
    fn a_node_that_cannot_be_a_peer_leaves_out_no_other() {
        let (own, two, four) = (key(), key().to_string(), key().to_string());
        let book = Book {
            peers: BTreeMap::from([
                node(1, [10, 77, 0, 1], &own.to_string()),
                node(2, [10, 77, 0, 2], &two),
                node(3, [10, 77, 0, 3], "no key"),
                node(4, [10, 77, 0, 4], &four),
                // It has joined anew, with the key that it had before.
                node(5, [10, 77, 0, 5], &two),
                node(6, [10, 77, 0, 6], &own.to_string()),
                node(7, [192, 0, 2, 7], &key().to_string()),
                // Heard of only.
                node(9, [10, 77, 0, 4], &key().to_string()),
            ]),
            known_below: NodeId(8),
            mesh_only: true,
        };
        let (peers, refused) = peers_of(NodeId(1), &book, &own);
        assert_eq!(peers.keys().map(|node| node.0).collect::<Vec<_>>(), [4, 5]);
        let refused: BTreeSet<u64> = refused.iter().map(|(node, _)| node.0).collect();
        assert_eq!(refused, BTreeSet::from([2, 3, 6, 7, 9]));
    }
}
