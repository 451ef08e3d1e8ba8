//! WireGuard for all peers of one interface, as a value: datagrams and packets go in, datagrams and
//! packets come out through a [`Sink`].
//!
//! The protocol with one peer is boringtun's `Tunn`; here is what surrounds it: whom a datagram is
//! from, whom a packet is for, where a peer is (roaming), keepalives, counters. boringtun's own
//! device is not used: see docs/decisions/wireguard.md. No sockets and no threads; tested here with
//! two devices back to back, and in `tests/` on real ones.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};

use crate::keys::{PrivateKey, PublicKey};
use crate::peers::{Change, Peer, Update};
use crate::prefix::Prefix;
use crate::status::{PeerStatus, Strangers, Underlay};
use crate::userspace::table::Table;

/// Handshakes a second above which a sender must prove its address first (WireGuard's paper, 5.3).
const HANDSHAKES_PER_SECOND: u64 = 100;
/// Room for the largest datagram.
const LARGEST: usize = 65_535;
/// The first byte of a cookie (WireGuard's paper, 5.4.7).
const COOKIE: u8 = 3;
/// How often [`Device::tick`] wants to be called.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// Where what a device makes goes.
pub(crate) trait Sink {
    /// To the other side.
    fn datagram(&mut self, to: SocketAddr, datagram: &[u8]);
    /// To this machine.
    fn packet(&mut self, packet: &[u8]);
}

/// All peers of an interface.
pub(crate) struct Device {
    key: PrivateKey,
    limiter: Arc<RateLimiter>,
    peers: BTreeMap<PublicKey, Remote>,
    /// By the upper 24 bits of the index that datagrams of a session carry.
    indices: BTreeMap<u32, PublicKey>,
    table: Table,
    strangers: Strangers,
    buffer: Vec<u8>,
}

/// One peer.
struct Remote {
    tunnel: Tunn,
    index: u32,
    endpoint: Option<SocketAddr>,
    keepalive: Option<Duration>,
    since: Duration,
    last_sent: Option<Duration>,
    last_handshake: Option<Duration>,
    sent_bytes: u64,
    received_bytes: u64,
}

impl Remote {
    fn send(&mut self, now: Duration, datagram: &[u8], sink: &mut impl Sink) {
        let Some(endpoint) = self.endpoint else { return };
        self.last_sent = Some(now);
        self.sent_bytes += datagram.len() as u64;
        sink.datagram(endpoint, datagram);
    }
}

impl Device {
    pub(crate) fn new(key: PrivateKey) -> Device {
        Device {
            limiter: limiter(&key),
            key,
            peers: BTreeMap::new(),
            indices: BTreeMap::new(),
            table: Table::default(),
            strangers: Strangers::default(),
            buffer: vec![0; LARGEST],
        }
    }

    pub(crate) fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// Makes the change. A peer that stays keeps its session.
    pub(crate) fn apply(&mut self, now: Duration, change: &Change) {
        match change {
            Change::Remove(key) => self.remove(key),
            Change::Add(peer) => self.add(now, peer),
            Change::Update(update) => self.update(update),
        }
    }

    fn remove(&mut self, key: &PublicKey) {
        if let Some(remote) = self.peers.remove(key) {
            self.indices.remove(&remote.index);
            self.table.remove(key);
        }
    }

    fn add(&mut self, now: Duration, peer: &Peer) {
        self.remove(&peer.public_key);
        let index = self.free_index();
        let tunnel = Tunn::new(
            self.key.secret(),
            peer.public_key.point(),
            None,
            // Keepalives are made in `tick`: boringtun's end with its attempts at a handshake, and
            // cannot be changed.
            None,
            index,
            Some(Arc::clone(&self.limiter)),
        );
        let remote = Remote {
            tunnel,
            index,
            endpoint: peer.endpoint,
            keepalive: peer.keepalive,
            since: now,
            last_sent: None,
            last_handshake: None,
            sent_bytes: 0,
            received_bytes: 0,
        };
        self.indices.insert(index, peer.public_key);
        self.peers.insert(peer.public_key, remote);
        for prefix in &peer.allowed {
            self.table.insert(prefix, peer.public_key);
        }
    }

    /// An index of 24 bits that no peer has, and that says nothing about how many there are.
    fn free_index(&self) -> u32 {
        loop {
            let random = getrandom::u32().expect("the system gave randomness for this key before");
            let index = random >> 8;
            if !self.indices.contains_key(&index) {
                return index;
            }
        }
    }

    fn update(&mut self, update: &Update) {
        let Some(remote) = self.peers.get_mut(&update.public_key) else { return };
        if update.endpoint.is_some() {
            remote.endpoint = update.endpoint;
        }
        if let Some(keepalive) = update.keepalive {
            remote.keepalive = keepalive;
            remote.last_sent = remote.last_sent.filter(|_| keepalive.is_none());
        }
        if let Some(allowed) = &update.allowed {
            self.table.remove(&update.public_key);
            for prefix in allowed {
                self.table.insert(prefix, update.public_key);
            }
        }
    }

    /// Takes a new key. Sessions end, since they were made with the old one; peers that had one
    /// get a handshake at once.
    pub(crate) fn rotate(&mut self, now: Duration, key: PrivateKey, sink: &mut impl Sink) {
        self.limiter = limiter(&key);
        let public = key.public().point();
        for remote in self.peers.values_mut() {
            let had_session = remote.tunnel.time_since_last_handshake().is_some();
            let limiter = Some(Arc::clone(&self.limiter));
            remote.tunnel.set_static_private(key.secret(), public, limiter);
            if had_session && remote.endpoint.is_some() {
                let result = remote.tunnel.format_handshake_initiation(&mut self.buffer, true);
                if let TunnResult::WriteToNetwork(datagram) = result {
                    remote.send(now, datagram, sink);
                }
            }
        }
        self.key = key;
    }

    /// A packet of this machine, for whoever its address belongs to. One for nobody is dropped.
    pub(crate) fn outgoing(&mut self, now: Duration, packet: &[u8], sink: &mut impl Sink) {
        let Some(key) = Tunn::dst_address(packet).and_then(|address| self.table.find(address))
        else {
            return;
        };
        let Some(remote) = self.peers.get_mut(&key) else { return };
        if remote.endpoint.is_none() {
            return;
        }
        if let TunnResult::WriteToNetwork(datagram) =
            remote.tunnel.encapsulate(packet, &mut self.buffer)
        {
            remote.send(now, datagram, sink);
        }
    }

    /// A datagram of the network. What is not authentic is counted or dropped, never answered, but
    /// for the cookie that a sender gets when there are too many handshakes.
    pub(crate) fn incoming(
        &mut self,
        now: Duration,
        from: SocketAddr,
        datagram: &[u8],
        sink: &mut impl Sink,
    ) {
        let Some((key, is_cookie)) = self.sender(from, datagram, sink) else { return };
        let Some(remote) = self.peers.get_mut(&key) else { return };
        let result = remote.tunnel.decapsulate(Some(from.ip()), datagram, &mut self.buffer);
        match &result {
            TunnResult::Err(_) => return,
            // Under load even a peer must prove its address first, so nothing is authentic yet.
            TunnResult::WriteToNetwork(answer) if answer.first() == Some(&COOKIE) => {
                sink.datagram(from, answer);
                return;
            }
            _ => {}
        }
        remote.received_bytes += datagram.len() as u64;
        if !is_cookie {
            remote.endpoint = Some(from);
        }
        let source = match result {
            TunnResult::Done | TunnResult::Err(_) => return,
            TunnResult::WriteToTunnelV4(packet, source) => (packet, IpAddr::V4(source)),
            TunnResult::WriteToTunnelV6(packet, source) => (packet, IpAddr::V6(source)),
            TunnResult::WriteToNetwork(answer) => {
                remote.send(now, answer, sink);
                // What waited for the session.
                while let TunnResult::WriteToNetwork(waiting) =
                    remote.tunnel.decapsulate(None, &[], &mut self.buffer)
                {
                    remote.send(now, waiting, sink);
                }
                return;
            }
        };
        let (packet, source) = source;
        if self.table.find(source) == Some(key) {
            sink.packet(packet);
        }
    }

    /// Whose datagram this is, and whether it is a cookie, which proves no address.
    fn sender(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        sink: &mut impl Sink,
    ) -> Option<(PublicKey, bool)> {
        let by_index = |index: u32| self.indices.get(&(index >> 8)).copied();
        match Tunn::parse_incoming_packet(datagram).ok()? {
            Packet::PacketData(data) => Some((by_index(data.receiver_idx)?, false)),
            Packet::HandshakeResponse(response) => Some((by_index(response.receiver_idx)?, false)),
            Packet::PacketCookieReply(cookie) => Some((by_index(cookie.receiver_idx)?, true)),
            Packet::HandshakeInit(_) => Some((self.initiator(from, datagram, sink)?, false)),
        }
    }

    /// Who begins a handshake. The cheap proof that our key is known comes before the costly look
    /// at theirs.
    fn initiator(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        sink: &mut impl Sink,
    ) -> Option<PublicKey> {
        let handshake =
            match self.limiter.verify_packet(Some(from.ip()), datagram, &mut self.buffer) {
                Ok(Packet::HandshakeInit(handshake)) => handshake,
                Ok(_) => return None,
                Err(TunnResult::WriteToNetwork(cookie)) => {
                    sink.datagram(from, cookie);
                    return None;
                }
                Err(_) => {
                    self.strangers.wrong_key += 1;
                    return None;
                }
            };
        let (secret, public) = (self.key.secret(), self.key.public().point());
        let Ok(half) = parse_handshake_anon(&secret, &public, &handshake) else {
            self.strangers.wrong_key += 1;
            return None;
        };
        let key = PublicKey::from_bytes(half.peer_static_public);
        if !self.peers.contains_key(&key) {
            self.strangers.unknown += 1;
            return None;
        }
        Some(key)
    }

    /// Repeats handshakes, renews keys, keeps alive. To be called every [`TICK`].
    pub(crate) fn tick(&mut self, now: Duration, sink: &mut impl Sink) {
        self.limiter.reset_count();
        for remote in self.peers.values_mut() {
            if let Some(age) = remote.tunnel.time_since_last_handshake() {
                remote.last_handshake = Some(now.saturating_sub(age));
            }
            let result = remote.tunnel.update_timers(&mut self.buffer);
            if let TunnResult::WriteToNetwork(datagram) = result {
                remote.send(now, datagram, sink);
            }
            let Some(every) = remote.keepalive.filter(|_| remote.endpoint.is_some()) else {
                continue;
            };
            if remote.last_sent.is_none_or(|last| now.saturating_sub(last) >= every) {
                // An empty packet; without a session it begins a handshake.
                remote.last_sent = Some(now);
                let result = remote.tunnel.encapsulate(&[], &mut self.buffer);
                if let TunnResult::WriteToNetwork(datagram) = result {
                    remote.send(now, datagram, sink);
                }
            }
        }
    }

    /// What is known about the peers.
    pub(crate) fn report(&self, now: Duration) -> (Strangers, Vec<PeerStatus>) {
        let peers = self.peers.iter().map(|(key, remote)| {
            let age = remote.tunnel.time_since_last_handshake();
            PeerStatus {
                public_key: *key,
                endpoint: remote.endpoint,
                handshake_age: age.or(remote.last_handshake.map(|last| now.saturating_sub(last))),
                sent_bytes: remote.sent_bytes,
                received_bytes: remote.received_bytes,
                configured_for: now.saturating_sub(remote.since),
                underlay: Underlay::Unknown,
            }
        });
        (self.strangers, peers.collect())
    }

    /// How often the peer is kept alive, and where: what `wg show` prints beside the status.
    pub(crate) fn keepalive(&self, key: &PublicKey) -> Option<Duration> {
        self.peers.get(key).and_then(|remote| remote.keepalive)
    }

    /// The peer's networks.
    pub(crate) fn allowed(&self, key: &PublicKey) -> Vec<Prefix> {
        self.table.of(key)
    }
}

fn limiter(key: &PrivateKey) -> Arc<RateLimiter> {
    // A handshake is counted twice: when its sender is looked for, and when it is carried out.
    Arc::new(RateLimiter::new(&key.public().point(), 2 * HANDSHAKES_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Two devices and the wire between; `addresses[i]` is where device `i` is just now.
    struct Pair {
        devices: [Device; 2],
        addresses: [SocketAddr; 2],
        wire: VecDeque<(usize, SocketAddr, Vec<u8>)>,
        arrived: [Vec<Vec<u8>>; 2],
    }

    struct Wire<'a> {
        from: usize,
        pair: &'a mut VecDeque<(usize, SocketAddr, Vec<u8>)>,
        arrived: &'a mut Vec<Vec<u8>>,
    }

    impl Sink for Wire<'_> {
        fn datagram(&mut self, to: SocketAddr, datagram: &[u8]) {
            self.pair.push_back((self.from, to, datagram.to_vec()));
        }
        fn packet(&mut self, packet: &[u8]) {
            self.arrived.push(packet.to_vec());
        }
    }

    const NOW: Duration = Duration::from_secs(1);

    impl Pair {
        fn new() -> Pair {
            let keys = [(); 2].map(|()| PrivateKey::generate().unwrap());
            let mut pair = Pair {
                devices: keys.map(Device::new),
                addresses: ["192.0.2.1:1", "192.0.2.2:1"].map(|text| text.parse().unwrap()),
                wire: VecDeque::new(),
                arrived: [vec![], vec![]],
            };
            for me in 0..2 {
                let peer = pair.peer_of(me);
                pair.devices[me].apply(NOW, &Change::Add(peer));
            }
            pair
        }

        fn peer_of(&self, me: usize) -> Peer {
            let other = 1 - me;
            Peer {
                public_key: self.devices[other].key().public(),
                endpoint: Some(self.addresses[other]),
                allowed: vec![format!("10.77.0.{}/32", other + 1).parse().unwrap()],
                keepalive: None,
            }
        }

        fn with(&mut self, me: usize, act: impl FnOnce(&mut Device, &mut Wire<'_>)) {
            let mut sink = Wire { from: me, pair: &mut self.wire, arrived: &mut self.arrived[me] };
            act(&mut self.devices[me], &mut sink);
        }

        fn send(&mut self, me: usize) {
            let packet = packet(me, 1 - me);
            self.with(me, |device, sink| device.outgoing(NOW, &packet, sink));
            self.settle();
        }

        /// Delivers until nothing is on the wire; what goes to where nobody is gets lost.
        fn settle(&mut self) {
            while let Some((from, to, datagram)) = self.wire.pop_front() {
                let (source, other) = (self.addresses[from], 1 - from);
                if to == self.addresses[other] {
                    self.with(other, |device, sink| device.incoming(NOW, source, &datagram, sink));
                }
            }
        }

        fn status(&self, me: usize) -> PeerStatus {
            self.devices[me].report(NOW).1.remove(0)
        }
    }

    /// An empty IPv4 packet from one machine to the other.
    fn packet(from: usize, to: usize) -> Vec<u8> {
        let mut packet = vec![0; 20];
        packet[0] = 0x45;
        packet[3] = 20;
        packet[12..16].copy_from_slice(&[10, 77, 0, from as u8 + 1]);
        packet[16..20].copy_from_slice(&[10, 77, 0, to as u8 + 1]);
        packet
    }

    #[test]
    fn a_packet_makes_a_handshake_and_arrives() {
        let mut pair = Pair::new();
        pair.send(0);
        assert_eq!(pair.arrived[1], vec![packet(0, 1)]);
        let status = pair.status(0);
        assert!(status.handshake_age.is_some());
        assert!(status.sent_bytes > 148 && status.received_bytes >= 92, "{status:?}");
    }

    #[test]
    fn a_peer_that_moved_is_followed() {
        let mut pair = Pair::new();
        pair.send(0);
        pair.addresses[0] = "198.51.100.7:9".parse().unwrap();
        pair.send(0);
        assert_eq!(pair.status(1).endpoint, Some(pair.addresses[0]));
        pair.send(1);
        assert_eq!(pair.arrived[0], vec![packet(1, 0)]);
    }

    #[test]
    fn an_update_keeps_session_counters_and_where_it_roamed_to() {
        let mut pair = Pair::new();
        pair.send(0);
        let before = pair.status(0);
        let update = Update {
            public_key: before.public_key,
            endpoint: None,
            allowed: Some(pair.peer_of(0).allowed),
            keepalive: Some(Some(Duration::from_secs(25))),
        };
        pair.devices[0].apply(NOW, &Change::Update(update));
        let after = pair.status(0);
        assert_eq!((after.endpoint, after.sent_bytes), (before.endpoint, before.sent_bytes));
        pair.send(0);
        assert_eq!(pair.arrived[1].len(), 2);
        // No new handshake was needed: the packet took one datagram.
        assert!(pair.status(0).sent_bytes < before.sent_bytes + 100);
    }

    #[test]
    fn a_source_that_is_not_the_peers_own_is_dropped() {
        let mut pair = Pair::new();
        pair.send(0);
        let mut forged = packet(0, 1);
        forged[15] = 99;
        pair.with(0, |device, sink| device.outgoing(NOW, &forged, sink));
        pair.settle();
        assert_eq!(pair.arrived[1].len(), 1);
    }

    #[test]
    fn a_removed_peer_is_not_heard() {
        let mut pair = Pair::new();
        pair.send(0);
        let key = pair.devices[0].key().public();
        pair.devices[1].apply(NOW, &Change::Remove(key));
        pair.send(0);
        assert_eq!(pair.arrived[1].len(), 1);
    }

    #[test]
    fn handshakes_of_strangers_and_for_other_keys_are_counted() {
        let mut pair = Pair::new();
        let key = pair.devices[0].key().public();
        pair.devices[1].apply(NOW, &Change::Remove(key));
        pair.send(0);
        assert_eq!(pair.devices[1].report(NOW).0, Strangers { wrong_key: 0, unknown: 1 });
        let mut pair = Pair::new();
        let key = PrivateKey::generate().unwrap();
        pair.with(1, |device, sink| device.rotate(NOW, key, sink));
        pair.send(0);
        assert_eq!(pair.devices[1].report(NOW).0, Strangers { wrong_key: 1, unknown: 0 });
    }

    #[test]
    fn a_new_key_that_the_peer_knows_makes_a_new_session() {
        let mut pair = Pair::new();
        pair.send(0);
        let old = pair.devices[0].key().public();
        let key = PrivateKey::generate().unwrap();
        pair.with(0, |device, sink| device.rotate(NOW, key, sink));
        pair.wire.clear();
        pair.devices[1].apply(NOW, &Change::Remove(old));
        let peer = pair.peer_of(1);
        pair.devices[1].apply(NOW, &Change::Add(peer));
        pair.send(1);
        assert_eq!(pair.arrived[0], vec![packet(1, 0)]);
    }

    #[test]
    fn a_keepalive_begins_a_handshake_and_is_repeated() {
        let mut pair = Pair::new();
        let every = Duration::from_secs(25);
        let peer = Peer { keepalive: Some(every), ..pair.peer_of(0) };
        pair.devices[0].apply(NOW, &Change::Add(peer));
        pair.with(0, |device, sink| device.tick(NOW, sink));
        pair.settle();
        assert!(pair.status(0).handshake_age.is_some());
        let before = pair.status(0).sent_bytes;
        pair.with(0, |device, sink| device.tick(NOW + every - Duration::from_millis(1), sink));
        assert_eq!(pair.status(0).sent_bytes, before);
        pair.with(0, |device, sink| device.tick(NOW + every, sink));
        assert_eq!(pair.status(0).sent_bytes, before + 32);
    }

    #[test]
    fn garbage_is_dropped() {
        let mut pair = Pair::new();
        let from = pair.addresses[1];
        for length in [0, 1, 31, 32, 64, 92, 148, 2000] {
            for kind in 0..6 {
                let mut garbage = vec![0xa5; length];
                if length >= 4 {
                    garbage[..4].copy_from_slice(&[kind, 0, 0, 0]);
                }
                pair.with(0, |device, sink| device.incoming(NOW, from, &garbage, sink));
            }
        }
        assert!(pair.wire.is_empty() && pair.arrived[0].is_empty());
        assert_eq!(pair.status(0).received_bytes, 0);
    }
}
