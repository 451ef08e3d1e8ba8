//! What an interface says about itself and its peers at one moment. Nothing here interprets it; see
//! `explain.rs`.

use std::net::SocketAddr;
use std::time::Duration;

use crate::keys::PublicKey;

/// What does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// WireGuard in the kernel.
    Kernel,
    /// WireGuard in this process, on a TUN device.
    Userspace,
}

impl Kind {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Kernel => "kernel",
            Kind::Userspace => "userspace",
        }
    }
}

/// The interface at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// When this was read, on the clock of [`crate::Mesh::now`].
    pub at: Duration,
    /// Its name.
    pub interface: String,
    /// What does the work.
    pub kind: Kind,
    /// This machine's public key.
    pub public_key: PublicKey,
    /// Whether it is up; only people take it down.
    pub is_up: bool,
    /// The UDP port that it listens on.
    pub listen_port: u16,
    /// Bytes of the largest packet that goes in.
    pub mtu: u32,
    /// Handshakes that were not for us or from nobody we know. Only userspace counts them.
    pub strangers: Option<Strangers>,
    /// In the order of their keys.
    pub peers: Vec<PeerStatus>,
}

/// Handshakes that arrived and led to nothing, since the interface began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strangers {
    /// Made for another public key than ours: a sender knows an old or wrong key of this machine.
    pub wrong_key: u64,
    /// From a key that is not a peer's: this machine knows an old or wrong key of the sender.
    pub unknown: u64,
}

/// One peer at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who it is.
    pub public_key: PublicKey,
    /// Where packets to it go now: what was wanted, or where it roamed to.
    pub endpoint: Option<SocketAddr>,
    /// How long ago, before [`Status::at`], the last handshake was completed.
    pub handshake_age: Option<Duration>,
    /// Bytes of all datagrams that it was sent, handshakes included.
    pub sent_bytes: u64,
    /// Bytes of all datagrams from it that were authentic, handshakes included.
    pub received_bytes: u64,
    /// For how long, before [`Status::at`], it has been a peer of this interface.
    pub configured_for: Duration,
    /// What is known of the way to its endpoint.
    pub underlay: Underlay,
}

/// The way to a peer's endpoint, as this machine's kernel sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Underlay {
    /// There is no endpoint to ask about.
    #[default]
    Unknown,
    /// There is a route through an interface.
    Routed {
        /// The interface's name.
        interface: String,
        /// Its MTU in bytes.
        mtu: u32,
    },
    /// There is none, or the kernel refuses to send.
    Refused {
        /// The kernel's words.
        reason: String,
    },
}
