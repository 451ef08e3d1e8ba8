//! The interface: made, told its peers, asked how they are, removed.
//!
//! What differs between the kernel's WireGuard and this process's is one enum here; all else
//! (addresses, MTU, checks of routes) is the same code for both. Tested in `tests/`.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use netlink_packet_route::link::InfoKind;

use crate::clock::{self, Clock};
use crate::error::Error;
use crate::kernel;
use crate::keys::{PrivateKey, PublicKey};
use crate::links::{self, Link};
use crate::peers::{self, Change, Peer};
use crate::prefix::Prefix;
use crate::status::{Kind, Status, Underlay};
use crate::userspace::Userspace;

/// Bytes that WireGuard adds to a packet, with UDP and the larger of both IP headers: 40 + 8 + 32.
const OVERHEAD: u32 = 80;
/// The MTU on an underlay of 1500 bytes, and the most that is chosen without being told.
const USUAL_MTU: u32 = 1500 - OVERHEAD;
/// IPv6 does not work below (RFC 8200, section 5).
const LEAST_MTU: u32 = 1280;
/// A datagram holds no more.
const MOST_MTU: u32 = 65_535 - OVERHEAD;
/// Characters of an interface's name (`IFNAMSIZ` less the zero).
const LONGEST_NAME: usize = 15;

/// Which WireGuard to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefer {
    /// The kernel's if it has it, else this process's.
    #[default]
    Auto,
    /// The kernel's or none.
    Kernel,
    /// This process's.
    Userspace,
}

/// What an interface is to be.
#[derive(Clone, Debug)]
pub struct MeshOptions {
    /// Its name, 1 to 15 characters.
    pub interface: String,
    /// This machine's key.
    pub private_key: PrivateKey,
    /// The UDP port that peers reach; 0 takes a free one.
    pub listen_port: u16,
    /// Its addresses, each with the network that is reached through it. At least one.
    pub addresses: Vec<Prefix>,
    /// Bytes of the largest packet, 1280 to 65455. If none is given: 1420, or what the interfaces
    /// on the way to the peers leave room for, if that is less.
    pub mtu: Option<u32>,
    /// Which WireGuard to use.
    pub prefer: Prefer,
}

/// A WireGuard interface of this machine. Dropping it removes it.
///
/// All methods take `&self` and return within milliseconds: they ask the kernel, or a thread that
/// answers between two batches of packets. So they may be called from an async runtime.
pub struct Mesh {
    interface: String,
    index: u32,
    addresses: Vec<Prefix>,
    mtu: Option<u32>,
    clock: Clock,
    engine: Engine,
    wanted: Mutex<Wanted>,
}

/// What does the work.
enum Engine {
    Kernel,
    Userspace(Userspace),
}

/// What was asked for last.
struct Wanted {
    public_key: PublicKey,
    peers: BTreeMap<PublicKey, Peer>,
    /// Since when each is a peer; the kernel does not say.
    since: BTreeMap<PublicKey, Duration>,
}

impl Mesh {
    /// Makes the interface, or takes over one of the kernel's that this crate made before a crash;
    /// gives it its addresses and MTU, and brings it up, which makes the routes.
    ///
    /// # Errors
    /// If this process may not, the name or the port is taken, a route of another interface lies in
    /// our networks, or the kernel lacks what is needed. Nothing of ours stays behind then.
    pub fn start(options: MeshOptions) -> Result<Mesh, Error> {
        check(&options)?;
        let MeshOptions { interface, private_key, listen_port, addresses, mtu, prefer } = options;
        let clock = Clock::start();
        let public_key = private_key.public();
        let before = links::find(&interface)
            .map_err(|source| Error::kernel("look for an interface", &interface, source))?;
        let left = before.map(|link| ours(&interface, link)).transpose()?;
        free_of_overlap(&addresses, left.as_ref().map(|link| link.index))?;
        let engine = match prefer {
            Prefer::Userspace => None,
            Prefer::Auto | Prefer::Kernel => kernel_device(&interface, left.is_some())?,
        };
        let engine = match engine {
            Some(engine) => engine,
            None if prefer == Prefer::Kernel => return Err(Error::NoKernelWireGuard),
            None => {
                if let Some(link) = left {
                    links::delete(link.index)
                        .map_err(|source| Error::kernel("replace it", &interface, source))?;
                }
                let key = private_key.clone();
                Engine::Userspace(Userspace::start(&interface, key, listen_port, clock)?)
            }
        };
        // From here on, dropping `mesh` removes what was made.
        let mut mesh = Mesh {
            interface,
            index: 0,
            addresses,
            mtu,
            clock,
            engine,
            wanted: Mutex::new(Wanted {
                public_key,
                peers: BTreeMap::new(),
                since: BTreeMap::new(),
            }),
        };
        mesh.index = mesh.link()?.index;
        mesh.set_up(&private_key, listen_port)?;
        tracing::info!(
            interface = mesh.interface,
            kind = mesh.kind().word(),
            key = %public_key,
            "the mesh's interface is up"
        );
        Ok(mesh)
    }

    /// Makes this list the peers. Only differences are applied: a peer that is listed as before
    /// keeps its session, its counters, and where it roamed to.
    ///
    /// # Errors
    /// If the list cannot be meant (nothing was changed), or the interface is gone.
    pub fn set_peers(&self, peers: &[Peer]) -> Result<(), Error> {
        let mut state = self.state();
        let wanted = peers::check(&state.public_key, &self.addresses, peers)?;
        let mut changes = peers::changes(&state.peers, &wanted);
        if let Engine::Kernel = self.engine {
            changes.splice(0..0, self.left_over(&state, &wanted)?);
        }
        self.fit_mtu(wanted.values().filter_map(|peer| peer.endpoint))?;
        if !changes.is_empty() {
            match &self.engine {
                Engine::Kernel => kernel::apply(&self.interface, &changes)
                    .map_err(|source| self.failed("set peers", source))?,
                Engine::Userspace(device) => device.apply(changes)?,
            }
        }
        let now = self.clock.now();
        state.since.retain(|key, _| wanted.contains_key(key));
        for key in wanted.keys() {
            state.since.entry(*key).or_insert(now);
        }
        state.peers = wanted;
        Ok(())
    }

    /// Takes a new key. The interface stays up; sessions are made anew once peers know the key.
    ///
    /// # Errors
    /// If the key is one of a peer (nothing was changed), or the interface is gone.
    pub fn rotate(&self, private_key: &PrivateKey) -> Result<(), Error> {
        let mut state = self.state();
        let key = private_key.public();
        if state.peers.contains_key(&key) {
            return Err(crate::error::PeersError::Own { key }.into());
        }
        match &self.engine {
            Engine::Kernel => kernel::configure(&self.interface, private_key, None)
                .map_err(|source| self.failed("set the key", source))?,
            Engine::Userspace(device) => device.rotate(private_key.clone())?,
        }
        state.public_key = key;
        tracing::info!(interface = self.interface, key = %key, "the mesh has a new key");
        Ok(())
    }

    /// How the interface and its peers are.
    ///
    /// # Errors
    /// If the interface is gone.
    pub fn status(&self) -> Result<Status, Error> {
        let state = self.state();
        let now = self.clock.now();
        let link = self.link()?;
        let mut status = Status {
            at: now,
            interface: self.interface.clone(),
            kind: self.kind(),
            public_key: state.public_key,
            listen_port: 0,
            is_up: link.is_up,
            mtu: link.mtu,
            strangers: None,
            peers: Vec::new(),
        };
        let mut refused = Vec::new();
        match &self.engine {
            Engine::Kernel => {
                let report = kernel::report(&self.interface, clock::wall())
                    .map_err(|source| self.failed("read its peers", source))?;
                status.listen_port = report.listen_port;
                status.peers = report.peers;
                for peer in &mut status.peers {
                    let since = state.since.get(&peer.public_key).copied().unwrap_or(now);
                    peer.configured_for = now.saturating_sub(since);
                }
            }
            Engine::Userspace(device) => {
                let report = device.report()?;
                status.listen_port = device.port();
                status.strangers = Some(report.strangers);
                status.peers = report.peers;
                refused = report.refused;
            }
        }
        for peer in &mut status.peers {
            let told = refused.iter().find(|(to, _)| Some(*to) == peer.endpoint);
            peer.underlay = match (peer.endpoint, told) {
                (None, _) => Underlay::Unknown,
                (Some(_), Some((_, reason))) => Underlay::Refused { reason: reason.clone() },
                (Some(endpoint), None) => way_to(endpoint),
            };
        }
        Ok(status)
    }

    /// The clock of [`Status::at`]: the time since the interface was made.
    pub fn now(&self) -> Duration {
        self.clock.now()
    }

    /// What does the work.
    pub fn kind(&self) -> Kind {
        match self.engine {
            Engine::Kernel => Kind::Kernel,
            Engine::Userspace(_) => Kind::Userspace,
        }
    }

    /// This machine's public key.
    pub fn public_key(&self) -> PublicKey {
        self.state().public_key
    }

    /// Removes the interface, as dropping it does.
    pub fn stop(self) {}

    fn state(&self) -> std::sync::MutexGuard<'_, Wanted> {
        // What a panic left half done is a level, and is set again by the next call.
        self.wanted.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn set_up(&self, key: &PrivateKey, port: u16) -> Result<(), Error> {
        let failed = |action| move |source| self.failed(action, source);
        links::mark(self.index).map_err(failed("mark it as ours"))?;
        if let Engine::Kernel = self.engine {
            kernel::configure(&self.interface, key, Some(port))
                .map_err(|source| self.busy(port, "set its key and port", source))?;
        }
        let mtu = self.mtu.unwrap_or(USUAL_MTU);
        links::set_mtu(self.index, mtu).map_err(failed("set the MTU"))?;
        for old in links::addresses(self.index).map_err(failed("read its addresses"))? {
            if !self.addresses.contains(&old) {
                links::remove_address(self.index, &old).map_err(failed("remove an address"))?;
            }
        }
        for prefix in &self.addresses {
            links::add_address(self.index, prefix).map_err(failed("add an address"))?;
        }
        // The kernel's WireGuard opens its sockets now.
        links::bring_up(self.index).map_err(|source| self.busy(port, "bring it up", source))?;
        self.addresses.iter().try_for_each(|prefix| self.is_taken(prefix))
    }

    /// Whether packets to the network come to this interface, whatever `ip rule` says.
    fn is_taken(&self, prefix: &Prefix) -> Result<(), Error> {
        let Some(address) = prefix.neighbour() else { return Ok(()) };
        let elsewhere = match links::way_to(address) {
            Ok(index) if index == self.index => return Ok(()),
            Ok(index) => match links::at(index) {
                Ok(Some(link)) => format!("to {}", link.name),
                Ok(None) | Err(_) => format!("to interface {index}"),
            },
            Err(error) => format!("nowhere ({error})"),
        };
        Err(Error::Diverted { address, elsewhere, interface: self.interface.clone() })
    }

    fn busy(&self, port: u16, action: &'static str, source: io::Error) -> Error {
        if source.kind() == io::ErrorKind::AddrInUse {
            return Error::Port { port };
        }
        self.failed(action, source)
    }

    fn failed(&self, action: &'static str, source: io::Error) -> Error {
        Error::kernel(action, &self.interface, source)
    }

    fn link(&self) -> Result<Link, Error> {
        let found =
            links::find(&self.interface).map_err(|source| self.failed("look for it", source))?;
        let gone = || self.failed("look for it", io::Error::from(io::ErrorKind::NotFound));
        found.ok_or_else(gone)
    }

    /// Peers that the kernel has and nobody asked this mesh for: from before a crash, or by hand.
    fn left_over(
        &self,
        state: &Wanted,
        wanted: &BTreeMap<PublicKey, Peer>,
    ) -> Result<Vec<Change>, Error> {
        let report = kernel::report(&self.interface, clock::wall())
            .map_err(|source| self.failed("read its peers", source))?;
        let known = |key: &PublicKey| state.peers.contains_key(key) || wanted.contains_key(key);
        let strange = report.peers.iter().map(|peer| peer.public_key).filter(|key| !known(key));
        Ok(strange.map(Change::Remove).collect())
    }

    /// Lowers the MTU to what the interfaces towards the peers leave room for, unless one was
    /// given.
    fn fit_mtu(&self, endpoints: impl Iterator<Item = SocketAddr>) -> Result<(), Error> {
        if self.mtu.is_some() {
            return Ok(());
        }
        let rooms = endpoints.filter_map(|endpoint| match way_to(endpoint) {
            Underlay::Routed { mtu, .. } => Some(mtu),
            Underlay::Unknown | Underlay::Refused { .. } => None,
        });
        let mtu = fitting(rooms.min());
        if self.link()?.mtu != mtu {
            links::set_mtu(self.index, mtu).map_err(|source| self.failed("set the MTU", source))?;
            tracing::info!(interface = self.interface, mtu, "the mesh's MTU follows the network");
        }
        Ok(())
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        match &self.engine {
            // The TUN device goes with its descriptor.
            Engine::Userspace(_) => {}
            // By its number: another of its name would be somebody else's.
            Engine::Kernel => {
                let _ = links::delete(self.index);
            }
        }
    }
}

/// The MTU for the smallest underlay.
fn fitting(smallest: Option<u32>) -> u32 {
    smallest.map_or(USUAL_MTU, |room| room.saturating_sub(OVERHEAD).clamp(LEAST_MTU, USUAL_MTU))
}

fn check(options: &MeshOptions) -> Result<(), Error> {
    let name = &options.interface;
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let is_dots = name.chars().all(|letter| letter == '.');
    if name.len() > LONGEST_NAME || is_dots || !name.chars().all(is_letter) {
        return Err(Error::Name { name: name.clone() });
    }
    if options.addresses.is_empty() {
        return Err(Error::NoAddress { interface: name.clone() });
    }
    match options.mtu {
        Some(mtu) if !(LEAST_MTU..=MOST_MTU).contains(&mtu) => Err(Error::Mtu { mtu }),
        _ => Ok(()),
    }
}

/// An interface that exists, if it is one that this crate made.
fn ours(interface: &str, link: Link) -> Result<Link, Error> {
    let is_ours = link.alias.as_deref() == Some(links::ALIAS);
    let found = match &link.kind {
        Some(InfoKind::Wireguard) if is_ours => return Ok(link),
        Some(InfoKind::Wireguard) => "a WireGuard interface of somebody else".to_owned(),
        Some(InfoKind::Tun) if is_ours => "the mesh of a mill that is still running".to_owned(),
        Some(InfoKind::Tun) => "a TUN or TAP device of another program".to_owned(),
        Some(kind) => format!("of kind {kind}"),
        None => "a network card or the loopback".to_owned(),
    };
    Err(Error::Taken { interface: interface.to_owned(), found })
}

/// Refuses networks that another interface has a route into: it would win over ours.
fn free_of_overlap(networks: &[Prefix], own: Option<u32>) -> Result<(), Error> {
    for network in networks {
        let routes = links::routes(network.address().is_ipv4())
            .map_err(|source| Error::kernel("read the routes", "this machine", source))?;
        let inside = routes
            .into_iter()
            .find(|route| network.covers(&route.to) && Some(route.interface) != own);
        let Some(route) = inside else { continue };
        let through = match links::at(route.interface) {
            Ok(Some(link)) => link.name,
            Ok(None) | Err(_) => format!("interface {}", route.interface),
        };
        return Err(Error::Overlap { network: network.network(), route: route.to, through });
    }
    Ok(())
}

/// Whether this process can make such an interface: it makes one, on any UDP port, and removes it.
///
/// # Errors
/// Why it cannot.
pub fn probe(interface: &str) -> Result<(), Error> {
    let private_key = PrivateKey::generate()
        .map_err(|error| Error::Answer { action: "make a key", detail: error.to_string() })?;
    match kernel_device(interface, false)? {
        Some(_) => {
            let made = links::find(interface).and_then(|link| {
                let link = link.ok_or(io::ErrorKind::NotFound)?;
                let configured = kernel::configure(interface, &private_key, Some(0))
                    .and_then(|()| links::bring_up(link.index));
                links::delete(link.index).and(configured)
            });
            made.map_err(|source| Error::kernel("try a WireGuard interface", interface, source))
        }
        None => Userspace::start(interface, private_key, 0, Clock::start()).map(drop),
    }
}

/// The kernel's WireGuard, if there is one.
fn kernel_device(interface: &str, exists: bool) -> Result<Option<Engine>, Error> {
    if exists {
        return Ok(Some(Engine::Kernel));
    }
    match links::create_wireguard(interface) {
        Ok(()) => Ok(Some(Engine::Kernel)),
        // What kernels say to a kind of interface that they do not know.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(None),
        Err(source) => Err(Error::kernel("make a WireGuard interface", interface, source)),
    }
}

fn way_to(endpoint: SocketAddr) -> Underlay {
    let refused = |error: io::Error| Underlay::Refused { reason: error.to_string() };
    match links::way_to(endpoint.ip()).and_then(links::at) {
        Ok(Some(link)) if link.is_up => Underlay::Routed { interface: link.name, mtu: link.mtu },
        Ok(Some(link)) => {
            Underlay::Refused { reason: format!("the interface {} is down", link.name) }
        }
        Ok(None) => refused(io::Error::from(io::ErrorKind::NetworkUnreachable)),
        Err(error) => refused(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> MeshOptions {
        MeshOptions {
            interface: "mill0".to_owned(),
            private_key: PrivateKey::generate().unwrap(),
            listen_port: 51_820,
            addresses: vec!["10.77.0.1/16".parse().unwrap()],
            mtu: None,
            prefer: Prefer::Auto,
        }
    }

    #[test]
    fn the_mtu_follows_the_smallest_underlay_within_bounds() {
        for (underlay, mtu) in [
            (None, 1420),
            (Some(1500), 1420),
            (Some(1460), 1380),
            (Some(1400), 1320),
            (Some(1000), 1280),
            (Some(9000), 1420),
        ] {
            assert_eq!(fitting(underlay), mtu, "{underlay:?}");
        }
    }

    #[test]
    fn options_that_cannot_work_are_refused_before_anything_is_made() {
        for name in ["", ".", "..", "a b", "a/b", "sixteenletters16"] {
            let refusal = check(&MeshOptions { interface: name.to_owned(), ..options() });
            assert!(matches!(refusal, Err(Error::Name { .. })), "{name}");
        }
        for mtu in [0, 1279, 65_456] {
            let refusal = check(&MeshOptions { mtu: Some(mtu), ..options() });
            assert!(matches!(refusal, Err(Error::Mtu { .. })), "{mtu}");
        }
        let refusal = check(&MeshOptions { addresses: vec![], ..options() });
        assert!(matches!(refusal, Err(Error::NoAddress { .. })));
        assert!(check(&options()).is_ok());
    }

    #[test]
    fn only_our_own_wireguard_interface_is_taken_over() {
        let link = |kind, alias: Option<&str>| Link {
            index: 7,
            name: "mill0".to_owned(),
            mtu: 1420,
            is_up: true,
            alias: alias.map(str::to_owned),
            kind,
        };
        let ours_is = Some(links::ALIAS);
        assert!(ours("mill0", link(Some(InfoKind::Wireguard), ours_is)).is_ok());
        for (kind, alias, words) in [
            (Some(InfoKind::Wireguard), None, "somebody else"),
            (Some(InfoKind::Tun), ours_is, "still running"),
            (Some(InfoKind::Tun), None, "another program"),
            (Some(InfoKind::Bridge), ours_is, "bridge"),
            (None, None, "network card"),
        ] {
            let refusal = ours("mill0", link(kind, alias)).unwrap_err().to_string();
            assert!(refusal.contains(words), "{refusal}");
        }
    }
}
