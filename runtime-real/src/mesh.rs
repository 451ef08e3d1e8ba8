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

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mill_core::Event;
use mill_core::effect::MeshPeer;
use mill_core::name::NodeId;
use mill_core::net::Network;
use mill_mesh::{Mesh, MeshOptions, Peer, Prefer, Prefix, PublicKey};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

pub(crate) use self::key::MeshKey;
use self::meeting::{Meeting, Met};
pub use self::report::{Interface, MeshReport, PeerReport};
use mill_core::effect::Book;

/// Between two looks at who is met.
const LOOK: Duration = Duration::from_secs(1);
/// Both sides keep a NAT between them open.
const KEEPALIVE: Duration = Duration::from_secs(25);
/// Wishes for another key that wait; one is enough.
const ROTATIONS: usize = 4;

/// Whether this machine can be part of a mesh.
///
/// # Errors
/// Why not, in a sentence that says what to do.
pub(crate) fn can_mesh(port: u16) -> Result<(), String> {
    // Told apart from those of other daemons that look at the same time.
    let interface = format!("millp{}", std::process::id());
    mill_mesh::probe(&interface, port).map_err(|error| with_source(&error))
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
        let book = self.known.borrow();
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

/// Called once, when this node's address in the mesh can be reached.
pub(crate) type WhenUp = Box<dyn FnOnce(Ipv4Addr) + Send + Sync>;

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
        when_up: None,
        nodes: BTreeMap::new(),
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
    when_up: Option<WhenUp>,
    /// Whose keys the peers have.
    nodes: BTreeMap<PublicKey, NodeId>,
    meeting: Meeting,
}

impl End {
    /// Follows the address book until the task is aborted.
    pub(crate) fn follow(mut self, when_up: WhenUp) -> JoinHandle<()> {
        self.when_up = Some(when_up);
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
                Some(serial) = self.asked.recv() => self.rotate(serial).await,
                _ = look.tick() => {
                    if self.mesh().is_none() {
                        let book = self.known.borrow().clone();
                        self.keep_to(&book);
                    }
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
        let others = book.peers.iter().filter(|(node, _)| **node != self.me);
        let inside = others.filter_map(|(node, peer)| Some((*node, peer.mesh.as_ref()?)));
        let mut peers = Vec::new();
        self.nodes.clear();
        for (node, known) in inside {
            match peer_of(known) {
                Some(peer) => {
                    self.nodes.insert(peer.public_key, node);
                    peers.push(peer);
                }
                None => tracing::warn!(%node, key = known.facts.key, "not a key for the mesh"),
            }
        }
        if let Err(error) = mesh.set_peers(&peers) {
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
                if let Some(when_up) = self.when_up.take() {
                    when_up(address);
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

    async fn rotate(&mut self, serial: u64) {
        if let Err(error) = self.key.replace(serial) {
            tracing::warn!(%error, "the key for the mesh was not replaced");
            return;
        }
        if let Some(mesh) = self.mesh()
            && let Err(error) = mesh.rotate(&self.key.private)
        {
            tracing::warn!(error = with_source(&error), "the interface has not taken its new key");
        }
        self.tell(Event::MeshChanged { mesh: self.key.facts() }).await;
    }

    async fn look(&mut self) {
        let Some(mesh) = self.mesh() else { return };
        match mesh.status() {
            Ok(status) => {
                if let Some(Met { met, unmet }) = self.meeting.look(&status, &self.nodes) {
                    self.tell(Event::Met { met, unmet }).await;
                }
            }
            Err(error) => {
                let error = with_source(&error);
                tracing::warn!(error, "the mesh's interface cannot be read; it is made anew");
                self.shared.lock().unwrap_or_else(PoisonError::into_inner).up = None;
                let unmet: BTreeSet<NodeId> = self.nodes.values().copied().collect();
                self.tell(Event::Met { met: BTreeSet::new(), unmet }).await;
            }
        }
    }

    async fn tell(&self, event: Event) {
        // The loop may have ended.
        let _ = self.events.send(event).await;
    }
}

/// A peer as the interface wants it; `None` if its key is none.
fn peer_of(known: &MeshPeer) -> Option<Peer> {
    Some(Peer {
        public_key: known.facts.key.parse().ok()?,
        endpoint: known.facts.endpoint.parse::<SocketAddr>().ok(),
        allowed: vec![Prefix::host(IpAddr::V4(known.address))],
        keepalive: Some(KEEPALIVE),
    })
}
