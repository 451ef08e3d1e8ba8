//! The WireGuard interface of this machine, as a library: the kernel's through netlink where the
//! kernel has it, one in this process on a TUN device where it does not, with the same behaviour.
//!
//! [`Mesh`] owns the interface and is told a level (these peers, this key); it applies differences.
//! It decides nothing about clusters: who is a peer, and where, is said by whoever calls. Why a
//! handshake does not happen is [`explain`], a pure function. Tested against wireguard-go and `wg`
//! in network namespaces (`tests/`), and beside the code.

mod clock;
mod error;
mod explain;
mod kernel;
mod keys;
mod links;
mod mesh;
mod netlink;
mod peers;
mod prefix;
mod status;
mod userspace;

pub use error::{Error, KeyError, PeersError, PrefixError};
pub use explain::{Diagnosis, explain};
pub use keys::{PrivateKey, PublicKey};
pub use mesh::{Mesh, MeshOptions, Prefer, probe};
pub use peers::{MAX_ALLOWED, MAX_PEERS, Peer};
pub use prefix::Prefix;
pub use status::{Kind, PeerStatus, Status, Strangers, Underlay};
