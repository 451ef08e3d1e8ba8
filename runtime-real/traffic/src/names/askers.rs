//! Who asks. Containers share their host's network, so an address tells nothing: the kernel is
//! asked which control group the socket was made in that a question came from (sock_diag(7)), and
//! each container is in one of its own.
//!
//! Where the kernel does not tell (before Linux 5.9, with control groups of version 1, when the
//! socket is gone), each socket is an asker: a program that asks from one is then held back, one
//! that makes a socket for each question only by what all may ask together.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, sendmsg, socket,
};

/// Whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asker {
    /// What is in one control group.
    Container(u64),
    /// One socket.
    Socket(SocketAddr),
    /// All that there is no room to keep apart.
    Rest,
}

/// What a question came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// A datagram.
    Udp,
    /// A connection.
    Tcp,
}

/// Asks the kernel. It sees the sockets of the network namespace in which it was made.
#[derive(Debug)]
pub(super) struct Askers(Option<OwnedFd>);

/// The group of everything that is in none (the number of cgroup2's root).
const ROOT: u64 = 1;
/// SOCK_DIAG_BY_FAMILY (linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
/// INET_DIAG_CGROUP_ID (linux/inet_diag.h).
const CGROUP_ID: u16 = 21;
/// Bytes of `struct nlmsghdr`, `inet_diag_req_v2`, `inet_diag_msg` and `nlattr`.
const HEADER: usize = 16;
const REQUEST: usize = 56;
const MESSAGE: usize = 72;
const ATTRIBUTE: usize = 4;
/// More than the kernel says of one socket.
const LONGEST: usize = 1024;

impl Askers {
    /// Of the sockets that are where this is called.
    pub fn here() -> Askers {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkSockDiag;
        Askers(socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).ok())
    }

    /// For whom each socket is an asker.
    pub fn unknown() -> Askers {
        Askers(None)
    }

    /// Who asks from one address, of another.
    pub fn who(&self, over: Over, from: SocketAddr, of: SocketAddr) -> Asker {
        let group = self.0.as_ref().and_then(|kernel| group(kernel, over, from, of).ok()?);
        match group {
            Some(group) if group != ROOT => Asker::Container(group),
            Some(_) | None => Asker::Socket(from),
        }
    }
}

/// The control group of the socket at `from`, if the kernel says it.
fn group(
    kernel: &OwnedFd,
    over: Over,
    from: SocketAddr,
    of: SocketAddr,
) -> io::Result<Option<u64>> {
    let Some(request) = request(over, from, of) else { return Ok(None) };
    let kernel = kernel.as_raw_fd();
    let none: Option<&()> = None;
    sendmsg(kernel, &[IoSlice::new(&request)], &[], MsgFlags::empty(), none)?;
    // The answer was made while the question was sent (netlink(7)).
    let mut answer = [0; LONGEST];
    let length = recv(kernel, &mut answer, MsgFlags::MSG_DONTWAIT)?;
    Ok(group_in(&answer[..length]))
}

/// Asks for one socket, in the order of bytes of the kernel's structures. None for addresses that
/// are not of IPv4: the name server has no other.
fn request(over: Over, from: SocketAddr, of: SocketAddr) -> Option<[u8; HEADER + REQUEST]> {
    let (SocketAddr::V4(from), SocketAddr::V4(of)) = (from, of) else { return None };
    // For datagrams the kernel expects the addresses as in a packet to the socket that is looked
    // for, for connections as that socket has them.
    let (protocol, source, destination) = match over {
        Over::Udp => (libc::IPPROTO_UDP, of, from),
        Over::Tcp => (libc::IPPROTO_TCP, from, of),
    };
    let mut request = [0; HEADER + REQUEST];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        request[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    let length = u32::try_from(HEADER + REQUEST).ok()?;
    put(&length.to_ne_bytes());
    put(&BY_FAMILY.to_ne_bytes());
    put(&u16::try_from(libc::NLM_F_REQUEST).ok()?.to_ne_bytes());
    put(&[0; 8]);
    put(&[u8::try_from(libc::AF_INET).ok()?, u8::try_from(protocol).ok()?, 0, 0]);
    // In whichever state.
    put(&u32::MAX.to_ne_bytes());
    put(&source.port().to_be_bytes());
    put(&destination.port().to_be_bytes());
    put(&source.ip().octets());
    put(&[0; 12]);
    put(&destination.ip().octets());
    put(&[0; 12]);
    // On any interface, and whichever socket it is by now.
    put(&[0; 4]);
    put(&[0xff; 8]);
    Some(request)
}

/// What an answer says of the group.
fn group_in(answer: &[u8]) -> Option<u64> {
    let number = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    if number(4)? != BY_FAMILY {
        return None;
    }
    let mut at = HEADER + MESSAGE;
    loop {
        let (length, kind) = (usize::from(number(at)?), number(at + 2)?);
        if kind == CGROUP_ID {
            let group = answer.get(at + ATTRIBUTE..at + length)?;
            return Some(u64::from_ne_bytes(group.try_into().ok()?));
        }
        at += length.max(ATTRIBUTE).next_multiple_of(ATTRIBUTE);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    fn answer(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut answer = vec![0; HEADER + MESSAGE];
        answer[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        for (kind, bytes) in attributes {
            let length = u16::try_from(ATTRIBUTE + bytes.len()).unwrap();
            answer.extend(length.to_ne_bytes());
            answer.extend(kind.to_ne_bytes());
            answer.extend_from_slice(bytes);
            answer.resize(answer.len().next_multiple_of(ATTRIBUTE), 0);
        }
        answer
    }

    #[test]
    fn the_group_is_found_among_what_else_is_said_and_nowhere_else() {
        let group = 4711_u64.to_ne_bytes();
        assert_eq!(group_in(&answer(&[(8, &[1]), (15, &[0; 4]), (CGROUP_ID, &group)])), Some(4711));
        assert_eq!(group_in(&answer(&[(8, &[1])])), None);
        assert_eq!(group_in(&answer(&[(CGROUP_ID, &group[..3])])), None);
        let said = answer(&[(8, &[1]), (CGROUP_ID, &group)]);
        for cut in 0..said.len() {
            assert_eq!(group_in(&said[..cut]), None);
        }
        let mut endless = answer(&[(8, &[])]);
        endless[HEADER + MESSAGE] = 0;
        assert_eq!(group_in(&endless), None);
    }

    #[test]
    fn the_kernel_knows_the_socket_that_asks_and_none_that_does_not() {
        let kernel = Askers::here().0.unwrap();
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (of, client) = (server.local_addr().unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let from = client.local_addr().unwrap();
        assert!(group(&kernel, Over::Udp, from, of).unwrap().is_some());
        client.connect(of).unwrap();
        assert!(group(&kernel, Over::Udp, from, of).unwrap().is_some());
        drop(client);
        assert_eq!(group(&kernel, Over::Udp, from, of).unwrap(), None);
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let of = server.local_addr().unwrap();
        let client = TcpStream::connect(of).unwrap();
        let from = client.local_addr().unwrap();
        assert!(group(&kernel, Over::Tcp, from, of).unwrap().is_some());
        assert_eq!(Askers::unknown().who(Over::Tcp, from, of), Asker::Socket(from));
    }
}
