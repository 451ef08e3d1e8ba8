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

#[cfg(test)]
mod tests {
    use netlink_packet_core::{Emitable, NlaBuffer, Parseable};
    use netlink_packet_wireguard::WireguardTimeSpec;

    use super::*;

    fn key(number: u8) -> PublicKey {
        PublicKey::from_bytes([number; 32])
    }

    fn peer() -> Peer {
        Peer {
            public_key: key(1),
            endpoint: Some("192.0.2.1:51820".parse().unwrap()),
            allowed: vec!["10.77.0.1/32".parse().unwrap(), "fd00::1/128".parse().unwrap()],
            keepalive: Some(Duration::from_secs(25)),
        }
    }

    fn peers(message: &WireguardMessage) -> &[WireguardPeer] {
        match &message.attributes[1] {
            WireguardAttribute::Peers(peers) => peers,
            other => panic!("{other:?}"),
        }
    }

    /// The numbers of the attributes at the outer level, as the kernel would see them.
    fn numbers(attributes: &[u8]) -> Vec<u16> {
        let mut rest = attributes;
        let mut found = Vec::new();
        while let Ok(one) = NlaBuffer::new_checked(rest) {
            found.push(one.kind());
            rest = rest.get(usize::from(one.length()).next_multiple_of(4)..).unwrap_or_default();
        }
        found
    }

    #[test]
    fn the_key_and_the_port_are_sent_under_the_numbers_of_the_kernels_header() {
        // include/uapi/linux/wireguard.h: IFNAME 2, PRIVATE_KEY 3, LISTEN_PORT 6.
        let message = configuration("mill0", &PrivateKey::generate().unwrap(), Some(51_820));
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        assert_eq!(numbers(&bytes), vec![2, 3, 6]);
        assert_eq!(u8::from(message.cmd), 1);
        let rotation = configuration("mill0", &PrivateKey::generate().unwrap(), None);
        assert_eq!(rotation.attributes.len(), 2, "a rotation leaves the port alone");
    }

    #[test]
    fn a_new_peer_is_sent_whole_and_its_networks_replace_others() {
        let message = changed("mill0", &[Change::Add(peer())]);
        let attributes = &peers(&message)[0].0;
        assert!(
            attributes
                .contains(&WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps))
        );
        assert!(attributes.contains(&WireguardPeerAttribute::PersistentKeepalive(25)));
        assert!(attributes.contains(&WireguardPeerAttribute::Endpoint(peer().endpoint.unwrap())));
        let networks = attributes.iter().find_map(|one| match one {
            WireguardPeerAttribute::AllowedIps(networks) => Some(networks.len()),
            _ => None,
        });
        assert_eq!(networks, Some(2));
    }

    #[test]
    fn an_update_sends_only_what_changes_and_makes_no_peer() {
        let update =
            Update { public_key: key(1), endpoint: None, allowed: None, keepalive: Some(None) };
        let message = changed("mill0", &[Change::Update(update), Change::Remove(key(2))]);
        let [update, removal] = peers(&message) else { panic!("{message:?}") };
        assert_eq!(
            update.0,
            vec![
                WireguardPeerAttribute::PublicKey([1; 32]),
                WireguardPeerAttribute::Flags(WireguardPeerFlags::UpdateOnly),
                WireguardPeerAttribute::PersistentKeepalive(0),
            ]
        );
        assert_eq!(
            removal.0,
            vec![
                WireguardPeerAttribute::PublicKey([2; 32]),
                WireguardPeerAttribute::Flags(WireguardPeerFlags::RemoveMe),
            ]
        );
    }

    #[test]
    fn a_full_message_fits_what_netlink_takes() {
        let networks = (0..=255).map(|byte| format!("fd00::{byte:x}/128").parse().unwrap());
        let peer = Peer { allowed: networks.take(crate::MAX_ALLOWED).collect(), ..peer() };
        let message = changed("mill0", &vec![Change::Add(peer); PEERS_PER_MESSAGE]);
        // An attribute's length has 16 bits, and all peers are one attribute.
        assert!(message.buffer_len() < 1 << 16, "{}", message.buffer_len());
    }

    #[test]
    fn the_kernels_answer_is_read_with_ages_for_times() {
        let known = |number: u8, seconds| {
            WireguardPeer(vec![
                WireguardPeerAttribute::PublicKey([number; 32]),
                WireguardPeerAttribute::LastHandshake(WireguardTimeSpec {
                    seconds,
                    nano_seconds: 0,
                }),
                WireguardPeerAttribute::RxBytes(7),
                WireguardPeerAttribute::TxBytes(9),
            ])
        };
        let message = |peers| WireguardMessage {
            cmd: WireguardCmd::GetDevice,
            attributes: vec![
                WireguardAttribute::ListenPort(51_820),
                WireguardAttribute::Peers(peers),
            ],
        };
        // The second peer's networks continue in a second message.
        let messages =
            vec![message(vec![known(1, 0), known(2, 990)]), message(vec![known(2, 990)])];
        let report = read(messages, Duration::from_secs(1000));
        assert_eq!(report.listen_port, 51_820);
        let ages: Vec<_> = report.peers.iter().map(|peer| peer.handshake_age).collect();
        assert_eq!(ages, vec![None, Some(Duration::from_secs(10))]);
        assert_eq!((report.peers[1].received_bytes, report.peers[1].sent_bytes), (7, 9));
    }

    #[test]
    fn what_is_sent_can_be_read_again() {
        let message = changed("mill0", &[Change::Add(peer())]);
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        let mut again = Vec::new();
        let mut rest = bytes.as_slice();
        while let Ok(one) = NlaBuffer::new_checked(rest) {
            again.push(WireguardAttribute::parse(&one).unwrap());
            rest = rest.get(usize::from(one.length()).next_multiple_of(4)..).unwrap_or_default();
        }
        assert_eq!(again, message.attributes);
    }
}
