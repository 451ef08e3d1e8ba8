//! What can go wrong, in words for whoever runs the machine: what happened, why, what to do.

use std::io;
use std::net::IpAddr;

use crate::keys::PublicKey;
use crate::peers::{MAX_ALLOWED, MAX_PEERS};
use crate::prefix::Prefix;

/// Why an interface could not be made, changed or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This process may not configure networks.
    #[error(
        "not allowed to {action}: making a network interface needs the capability CAP_NET_ADMIN; \
         run mill as root, or give its unit AmbientCapabilities=CAP_NET_ADMIN"
    )]
    Forbidden {
        /// What was tried.
        action: &'static str,
    },
    /// The name cannot be one of an interface.
    #[error(
        "{name:?} cannot name a network interface: use 1 to 15 letters, digits, '-', '_' or '.'"
    )]
    Name {
        /// The name that was asked for.
        name: String,
    },
    /// No address was given.
    #[error("the interface {interface} needs at least one address, such as 10.77.0.1/16")]
    NoAddress {
        /// The interface's name.
        interface: String,
    },
    /// The MTU is too small for IP, or larger than a datagram.
    #[error("an MTU of {mtu} cannot be used: choose 1280 (IPv6's least, RFC 8200) to 65455")]
    Mtu {
        /// What was asked for.
        mtu: u32,
    },
    /// An interface of that name is not ours.
    #[error(
        "the interface {interface} exists already and is {found}, not ours: choose another name, \
         or remove it with `ip link delete {interface}` if nothing uses it"
    )]
    Taken {
        /// The interface's name.
        interface: String,
        /// What it is.
        found: String,
    },
    /// Another process listens on the UDP port.
    #[error(
        "UDP port {port} is taken: another program (or another WireGuard interface) listens on \
         it; `ss -ulpn 'sport = :{port}'` names it; stop it or choose another port"
    )]
    Port {
        /// The port.
        port: u16,
    },
    /// Another interface reaches addresses of our network.
    #[error(
        "the network {network} overlaps with {route}, which is reached through {through}: packets \
         to it would miss the mesh; choose another network or remove that route"
    )]
    Overlap {
        /// Our network.
        network: Prefix,
        /// The route that lies in it.
        route: Prefix,
        /// Its interface.
        through: String,
    },
    /// A rule of policy routing sends our network elsewhere.
    #[error(
        "packets to {address} go {elsewhere} instead of {interface}, although its route is set: a \
         rule of policy routing comes first; see `ip rule` and `ip route get {address}`"
    )]
    Diverted {
        /// An address of our network.
        address: IpAddr,
        /// Where they go.
        elsewhere: String,
        /// Where they should go.
        interface: String,
    },
    /// The kernel has no WireGuard, and it was asked for.
    #[error(
        "this kernel has no WireGuard: load the module with `modprobe wireguard`, or let mill run \
         WireGuard in its own process"
    )]
    NoKernelWireGuard,
    /// There is no TUN device.
    #[error(
        "cannot open a TUN device: load the module with `modprobe tun` and see that /dev/net/tun \
         exists (a container needs it passed in)"
    )]
    NoTun {
        /// The kernel's words.
        #[source]
        source: io::Error,
    },
    /// The kernel refused something.
    #[error("cannot {action} on {interface}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// The interface's name.
        interface: String,
        /// The kernel's words.
        #[source]
        source: io::Error,
    },
    /// The kernel answered what we cannot read.
    #[error("cannot read the kernel's answer to {action}: {detail}; report this as a bug of mill")]
    Answer {
        /// What was asked.
        action: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// The thread that forwards packets has ended.
    #[error(
        "the WireGuard thread of {interface} has ended, so the mesh is down on this node: restart \
         mill, and see its log for the reason"
    )]
    Ended {
        /// The interface's name.
        interface: String,
    },
    /// The list of peers cannot be meant.
    #[error(transparent)]
    Peers(#[from] PeersError),
}

/// Why a list of peers was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    /// More than [`MAX_PEERS`].
    #[error("{found} peers are more than the {MAX_PEERS} that one interface may have")]
    TooMany {
        /// How many.
        found: usize,
    },
    /// More than [`MAX_ALLOWED`].
    #[error("{found} networks of peer {key} are more than the {MAX_ALLOWED} that one may have")]
    TooManyAllowed {
        /// The peer.
        key: PublicKey,
        /// How many.
        found: usize,
    },
    /// One key, two peers.
    #[error("the peer {key} is listed twice: two machines share a key; make one of them a new one")]
    Twice {
        /// The key.
        key: PublicKey,
    },
    /// A machine is no peer of itself.
    #[error(
        "the peer {key} has this machine's own key: a node's files were copied; make a new key"
    )]
    Own {
        /// The key.
        key: PublicKey,
    },
    /// One network, two peers.
    #[error("both {one} and {other} are allowed {prefix}: a network belongs to one peer")]
    Shared {
        /// The network.
        prefix: Prefix,
        /// One peer.
        one: PublicKey,
        /// The other.
        other: PublicKey,
    },
    /// A network that the interface has no route for.
    #[error("peer {key} is allowed {prefix}, which lies outside of the interface's networks")]
    Outside {
        /// The peer.
        key: PublicKey,
        /// The network.
        prefix: Prefix,
    },
    /// WireGuard cannot count that.
    #[error("the keepalive of {key} must be whole seconds, 1 to 65535; 25 suits nearly all NATs")]
    Keepalive {
        /// The peer.
        key: PublicKey,
    },
}

/// Why a text is no key. The text itself is not repeated: it may be a private one.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not 44 characters.
    #[error("a key is 44 characters of base64, as `wg genkey` prints it; this has {found}")]
    Length {
        /// How many it has.
        found: usize,
    },
    /// Not base64 of 32 bytes.
    #[error("a key is 32 bytes in base64, as `wg genkey` prints it; this is not")]
    Base64,
    /// All zero, which means "no key" to WireGuard.
    #[error("a private key of zeros protects nothing: make one with `wg genkey`")]
    Zero,
    /// No randomness.
    #[error("cannot make a key: the system's random generator does not answer")]
    Entropy {
        /// The system's words.
        source: getrandom::Error,
    },
}

/// Why a text is no prefix.
#[derive(Debug, thiserror::Error)]
pub enum PrefixError {
    /// More bits than an address has.
    #[error("{address}/{length} has more bits than the address: use at most 32, for IPv6 128")]
    Length {
        /// The address.
        address: IpAddr,
        /// Its length.
        length: u8,
    },
    /// Not an address, a slash and a number.
    #[error("{text:?} is no network: write it as 10.77.0.1/16 or fd00:77::1/64")]
    Text {
        /// What was given.
        text: String,
    },
}

impl Error {
    /// What the kernel said, in the error that fits it.
    pub(crate) fn kernel(action: &'static str, interface: &str, source: io::Error) -> Error {
        if source.kind() == io::ErrorKind::PermissionDenied {
            return Error::Forbidden { action };
        }
        Error::Kernel { action, interface: interface.to_owned(), source }
    }
}
