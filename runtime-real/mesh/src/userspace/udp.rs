//! The UDP sockets of an interface: one per family that this machine has, on the same port.
//!
//! Datagrams of one size to one place leave in one call (UDP segmentation offload, kernel 4.18) and
//! arrive in one (UDP_GRO, 5.0); where a network card or a path cannot, they are sent singly.
//! Like the kernel's WireGuard, these sockets let the network fragment what is too large for it.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use rustix::net::sockopt::{self as options, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};

/// Datagrams that wait in the kernel, in bytes per socket. A burst of a gigabit for 30 ms.
const WAITING_BYTES: usize = 4 << 20;
/// Datagrams in one call (`UDP_MAX_SEGMENTS` of kernels before 6.9).
const MAX_SEGMENTS: usize = 64;
/// Bytes in one call: what an IPv4 packet holds beside its and UDP's headers.
const MAX_BYTES: usize = 65_507;

/// The sockets of an interface.
pub(crate) struct Sockets {
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
    port: u16,
}

impl Sockets {
    /// Binds both families to the port; 0 takes a free one.
    ///
    /// # Errors
    /// The system's; `AddrInUse` if another program has the port in either family.
    pub(crate) fn bind(port: u16) -> io::Result<Sockets> {
        let v4 = available(open(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))?;
        let port = match &v4 {
            Some(socket) => port_of(socket)?,
            None => port,
        };
        let v6 = available(open(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port))?;
        let port = match &v6 {
            Some(socket) => port_of(socket)?,
            None => port,
        };
        if v4.is_none() && v6.is_none() {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        }
        Ok(Sockets { v4, v6, port })
    }

    /// The port that both are bound to.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The sockets there are, to wait for.
    pub(crate) fn all(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.v4, &self.v6].into_iter().flatten().map(AsFd::as_fd)
    }

    fn towards(&self, to: SocketAddr) -> io::Result<&OwnedFd> {
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        socket.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
    }
}

/// A family that this machine lacks is no error.
fn available(socket: io::Result<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    match socket {
        Ok(socket) => Ok(Some(socket)),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => Ok(None),
            _ => Err(error),
        },
    }
}

/// Without `SO_REUSEADDR`: with it, two programs could have the port and each get some datagrams.
fn open(any: IpAddr, port: u16) -> io::Result<OwnedFd> {
    let family = if any.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
    if any.is_ipv6() {
        options::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &SocketAddr::new(any, port))?;
    // What follows makes it better, not possible.
    let _ = options::set_socket_recv_buffer_size_force(&socket, WAITING_BYTES);
    let _ = options::set_socket_send_buffer_size(&socket, WAITING_BYTES);
    let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
    let _ = if any.is_ipv4() {
        options::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT)
    } else {
        options::set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DONT)
    };
    Ok(socket)
}

fn port_of(socket: &OwnedFd) -> io::Result<u16> {
    let address = SocketAddr::try_from(getsockname(socket)?)?;
    Ok(address.port())
}

/// Datagrams that wait to be sent together: all to one place, all of one size but the last.
pub(crate) struct Batch {
    to: Option<SocketAddr>,
    size: usize,
    bytes: Vec<u8>,
    is_closed: bool,
    can_segment: bool,
}

impl Batch {
    pub(crate) fn new() -> Batch {
        Batch {
            to: None,
            size: 0,
            bytes: Vec::with_capacity(MAX_BYTES),
            is_closed: false,
            can_segment: true,
        }
    }

    /// Whether the datagram can join those that wait.
    pub(crate) fn takes(&self, to: SocketAddr, length: usize) -> bool {
        self.to.is_none_or(|waiting| {
            waiting == to
                && !self.is_closed
                && length <= self.size
                && self.bytes.len() + length <= MAX_BYTES
                && self.bytes.len() < self.size * MAX_SEGMENTS
        })
    }

    /// Adds a datagram that [`Batch::takes`].
    pub(crate) fn push(&mut self, to: SocketAddr, datagram: &[u8]) {
        if self.to.is_none() {
            self.to = Some(to);
            self.size = datagram.len();
        }
        self.is_closed = datagram.len() < self.size || !self.can_segment;
        self.bytes.extend_from_slice(datagram);
    }

    /// Sends what waits. What the kernel has no room for is lost, as datagrams are.
    ///
    /// # Errors
    /// Where to and why the kernel refuses to send there.
    pub(crate) fn flush(&mut self, sockets: &Sockets) -> Result<Option<SocketAddr>, Refusal> {
        let Some(to) = self.to.take() else { return Ok(None) };
        let sent = self.send(sockets, to);
        self.bytes.clear();
        self.is_closed = false;
        match sent {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(Refusal { to, error }),
            _ => Ok(Some(to)),
        }
    }

    fn send(&mut self, sockets: &Sockets, to: SocketAddr) -> io::Result<()> {
        let socket = sockets.towards(to)?;
        let address = SockaddrStorage::from(to);
        let size = u16::try_from(self.size).unwrap_or(u16::MAX);
        if self.bytes.len() > self.size {
            let whole = [IoSlice::new(&self.bytes)];
            let segments = [ControlMessage::UdpGsoSegments(&size)];
            let sent =
                sendmsg(socket.as_raw_fd(), &whole, &segments, MsgFlags::empty(), Some(&address));
            match sent {
                // The card cannot compute checksums, which will not change.
                Err(Errno::EIO) => self.can_segment = false,
                // Datagrams are larger than the MTU of the way to this one place.
                Err(Errno::EINVAL | Errno::EMSGSIZE) => {}
                sent => return Ok(sent.map(|_| ())?),
            }
        }
        let mut result = Ok(());
        for datagram in self.bytes.chunks(self.size.max(1)) {
            let one = [IoSlice::new(datagram)];
            let sent = sendmsg(socket.as_raw_fd(), &one, &[], MsgFlags::empty(), Some(&address));
            result = sent.map(|_| ()).map_err(io::Error::from);
        }
        result
    }
}

/// The kernel refuses to send somewhere.
pub(crate) struct Refusal {
    pub(crate) to: SocketAddr,
    pub(crate) error: io::Error,
}

/// Room for what one call receives.
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    control: Vec<u8>,
}

impl Inbox {
    pub(crate) fn new() -> Inbox {
        Inbox { bytes: vec![0; 1 << 16], control: nix::cmsg_space!(i32) }
    }

    /// Hands over the datagrams of one call; false if none waits.
    pub(crate) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        mut each: impl FnMut(SocketAddr, &[u8]),
    ) -> bool {
        let (from, length, size) = {
            let mut room = [IoSliceMut::new(&mut self.bytes)];
            let received = recvmsg::<SockaddrStorage>(
                socket.as_raw_fd(),
                &mut room,
                Some(&mut self.control),
                MsgFlags::empty(),
            );
            let Ok(message) = received else { return false };
            let size = message.cmsgs().ok().and_then(|mut all| {
                all.find_map(|one| match one {
                    ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok(),
                    _ => None,
                })
            });
            (message.address.as_ref().and_then(address), message.bytes, size)
        };
        let Some(from) = from else { return true };
        let size = size.filter(|size| *size > 0).unwrap_or(length.max(1));
        for datagram in self.bytes[..length].chunks(size) {
            each(from, datagram);
        }
        true
    }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::V4((*v4).into()));
    }
    storage.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into()))
}
