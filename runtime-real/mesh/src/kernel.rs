//! WireGuard in the kernel, through generic netlink.
//!
//! Thin on purpose: what is sent is made by pure functions that are tested here, since a kernel
//! without WireGuard cannot be asked. What should be sent is decided in `peers.rs`.

use std::io;
use std::time::Duration;

use netlink_packet_generic::GenlMessage;
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute,
    WireguardCmd, WireguardMessage, WireguardPeer, WireguardPeerAttribute, WireguardPeerFlags,
};
use netlink_sys::protocols::NETLINK_GENERIC;

use crate::keys::{PrivateKey, PublicKey};
use crate::netlink::{Ask, request};
use crate::peers::{Change, Peer, Update};
use crate::prefix::Prefix;
use crate::status::{PeerStatus, Underlay};

/// Peers in one message. A message must fit in what netlink takes at once; a peer with
/// [`crate::MAX_ALLOWED`] networks is about 3 KiB.
const PEERS_PER_MESSAGE: usize = 8;

/// Sets this machine's key and port.
pub(crate) fn configure(interface: &str, key: &PrivateKey, port: Option<u16>) -> io::Result<()> {
    send(configuration(interface, key, port))
}

/// Makes the changes.
pub(crate) fn apply(interface: &str, changes: &[Change]) -> io::Result<()> {
    for some in changes.chunks(PEERS_PER_MESSAGE) {
        send(changed(interface, some))?;
    }
    Ok(())
}

/// What the kernel knows about the interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) listen_port: u16,
    pub(crate) peers: Vec<PeerStatus>,
}

/// Asks for it; `wall` is the time since 1970.
pub(crate) fn report(interface: &str, wall: Duration) -> io::Result<Report> {
    let question = WireguardMessage {
        cmd: WireguardCmd::GetDevice,
        attributes: vec![WireguardAttribute::IfName(interface.to_owned())],
    };
    Ok(read(ask(question, Ask::All)?, wall))
}

fn configuration(interface: &str, key: &PrivateKey, port: Option<u16>) -> WireguardMessage {
    let mut attributes = vec![
        WireguardAttribute::IfName(interface.to_owned()),
        WireguardAttribute::PrivateKey(*key.bytes()),
    ];
    attributes.extend(port.map(WireguardAttribute::ListenPort));
    WireguardMessage { cmd: WireguardCmd::SetDevice, attributes }
}

fn changed(interface: &str, changes: &[Change]) -> WireguardMessage {
    let peers = changes.iter().map(|change| match change {
        Change::Remove(key) => removed(key),
        Change::Add(peer) => added(peer),
        Change::Update(update) => updated(update),
    });
    WireguardMessage {
        cmd: WireguardCmd::SetDevice,
        attributes: vec![
            WireguardAttribute::IfName(interface.to_owned()),
            WireguardAttribute::Peers(peers.collect()),
        ],
    }
}

fn removed(key: &PublicKey) -> WireguardPeer {
    WireguardPeer(vec![
        WireguardPeerAttribute::PublicKey(*key.as_bytes()),
        WireguardPeerAttribute::Flags(WireguardPeerFlags::RemoveMe),
    ])
}

fn added(peer: &Peer) -> WireguardPeer {
    let mut attributes = vec![
        WireguardPeerAttribute::PublicKey(*peer.public_key.as_bytes()),
        WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps),
    ];
    attributes.extend(peer.endpoint.map(WireguardPeerAttribute::Endpoint));
    attributes.push(keepalive(peer.keepalive));
    attributes.push(allowed(&peer.allowed));
    WireguardPeer(attributes)
}

/// With `UpdateOnly`: a peer that somebody else removed meanwhile does not come back half known.
fn updated(update: &Update) -> WireguardPeer {
    let mut flags = WireguardPeerFlags::UpdateOnly;
    if update.allowed.is_some() {
        flags |= WireguardPeerFlags::ReplaceAllowedIps;
    }
    let mut attributes = vec![
        WireguardPeerAttribute::PublicKey(*update.public_key.as_bytes()),
        WireguardPeerAttribute::Flags(flags),
    ];
    attributes.extend(update.endpoint.map(WireguardPeerAttribute::Endpoint));
    attributes.extend(update.keepalive.map(keepalive));
    attributes.extend(update.allowed.as_deref().map(allowed));
    WireguardPeer(attributes)
}

/// In seconds; 0 is none.
fn keepalive(every: Option<Duration>) -> WireguardPeerAttribute {
    let seconds = every.map_or(0, |every| u16::try_from(every.as_secs()).unwrap_or(u16::MAX));
    WireguardPeerAttribute::PersistentKeepalive(seconds)
}

fn allowed(prefixes: &[Prefix]) -> WireguardPeerAttribute {
    let one = |prefix: &Prefix| {
        let family = match prefix.address() {
            std::net::IpAddr::V4(_) => WireguardAddressFamily::Ipv4,
            std::net::IpAddr::V6(_) => WireguardAddressFamily::Ipv6,
        };
        WireguardAllowedIp(vec![
            WireguardAllowedIpAttr::Family(family),
            WireguardAllowedIpAttr::IpAddr(prefix.address()),
            WireguardAllowedIpAttr::Cidr(prefix.length()),
        ])
    };
    WireguardPeerAttribute::AllowedIps(prefixes.iter().map(one).collect())
}

fn read(messages: Vec<WireguardMessage>, wall: Duration) -> Report {
    let mut report = Report::default();
    for attribute in messages.into_iter().flat_map(|message| message.attributes) {
        match attribute {
            WireguardAttribute::ListenPort(port) => report.listen_port = port,
            WireguardAttribute::Peers(peers) => {
                for peer in peers.iter().filter_map(|peer| read_peer(peer, wall)) {
                    // A peer with many networks comes in several messages.
                    if report.peers.last().map(|last| last.public_key) != Some(peer.public_key) {
                        report.peers.push(peer);
                    }
                }
            }
            _ => {}
        }
    }
    report.peers.sort_by_key(|peer| peer.public_key);
    report
}

fn read_peer(peer: &WireguardPeer, wall: Duration) -> Option<PeerStatus> {
    let mut status = PeerStatus {
        public_key: PublicKey::from_bytes([0; 32]),
        endpoint: None,
        handshake_age: None,
        sent_bytes: 0,
        received_bytes: 0,
        configured_for: Duration::ZERO,
        underlay: Underlay::Unknown,
    };
    let mut is_named = false;
    for attribute in &peer.0 {
        match attribute {
            WireguardPeerAttribute::PublicKey(bytes) => {
                status.public_key = PublicKey::from_bytes(*bytes);
                is_named = true;
            }
            WireguardPeerAttribute::Endpoint(endpoint) => status.endpoint = Some(*endpoint),
            WireguardPeerAttribute::LastHandshake(time) => {
                let seconds = u64::try_from(time.seconds).unwrap_or(0);
                let nanos = u32::try_from(time.nano_seconds).unwrap_or(0);
                let at = Duration::new(seconds, nanos.min(999_999_999));
                // Zero is "never"; a wall clock that was set back gives an age of nothing.
                status.handshake_age = (!at.is_zero()).then(|| wall.saturating_sub(at));
            }
            WireguardPeerAttribute::TxBytes(bytes) => status.sent_bytes = *bytes,
            WireguardPeerAttribute::RxBytes(bytes) => status.received_bytes = *bytes,
            _ => {}
        }
    }
    is_named.then_some(status)
}

fn send(message: WireguardMessage) -> io::Result<()> {
    ask(message, Ask::One(0)).map(|_| ())
}

fn ask(message: WireguardMessage, how: Ask) -> io::Result<Vec<WireguardMessage>> {
    let mut message = GenlMessage::from_payload(message);
    message.set_resolved_family_id(family()?);
    let answers = request(message, how, NETLINK_GENERIC)?;
    Ok(answers.into_iter().map(|answer| answer.payload).collect())
}

/// The number of WireGuard's family in this kernel, which it gives out as modules are loaded.
fn family() -> io::Result<u16> {
    let question = GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName("wireguard".to_owned())],
    });
    let answers = request(question, Ask::One(0), NETLINK_GENERIC)?;
    let number = answers.iter().flat_map(|answer| &answer.payload.nlas).find_map(|one| match one {
        GenlCtrlAttrs::FamilyId(number) => Some(*number),
        _ => None,
    });
    number.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}
