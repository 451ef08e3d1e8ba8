//! One question to the kernel over netlink, and its answers.
//!
//! Blocking, on a socket of its own per question: the kernel answers within the call, in
//! microseconds, so an async runtime is not held up. What is asked is in `links.rs` and
//! `kernel.rs`.

use std::fmt::Debug;
use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// Answers to one question at most: routes of a router with several full tables would exceed it.
const MAX_ANSWERS: usize = 100_000;
/// Bytes of a netlink message's header (RFC 3549, section 2.3.2).
const HEADER: usize = 16;

/// How a question is asked beyond `NLM_F_REQUEST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Do it, or answer about one thing; with further flags such as `NLM_F_CREATE`.
    One(u16),
    /// Answer about all things.
    All,
}

/// What the kernel answers to `message` in the protocol's family (`NETLINK_ROUTE`, ...).
pub(crate) fn request<I>(message: I, ask: Ask, protocol: isize) -> io::Result<Vec<I>>
where
    I: Debug + NetlinkSerializable + NetlinkDeserializable,
    NetlinkPayload<I>: From<I>,
{
    let mut question = NetlinkMessage::from(message);
    question.header.sequence_number = 1;
    question.header.flags = match ask {
        Ask::One(flags) => NLM_F_REQUEST | NLM_F_ACK | flags,
        Ask::All => NLM_F_REQUEST | NLM_F_DUMP,
    };
    question.finalize();
    let mut bytes = zeroize::Zeroizing::new(vec![0; question.buffer_len()]);
    question.serialize(&mut bytes);
    let socket = Socket::new(protocol)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let mut answers = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        if read(&datagram, ask, &mut answers)? {
            return Ok(answers);
        }
        if answers.len() > MAX_ANSWERS {
            return Err(io::Error::other("more answers than expected"));
        }
    }
}

/// Takes the answers out of a datagram; true if it was the last one.
fn read<I>(datagram: &[u8], ask: Ask, answers: &mut Vec<I>) -> io::Result<bool>
where
    I: Debug + NetlinkDeserializable,
{
    let mut rest = datagram;
    while rest.len() >= HEADER {
        let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length < HEADER || length > rest.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a truncated netlink message"));
        }
        match NetlinkMessage::<I>::deserialize(&rest[..length]).map(|answer| answer.payload) {
            Ok(NetlinkPayload::Error(error)) if error.code.is_none() => return Ok(true),
            Ok(NetlinkPayload::Error(error)) => return Err(error.to_io()),
            Ok(NetlinkPayload::Done(_)) => return Ok(true),
            Ok(NetlinkPayload::InnerMessage(inner)) => answers.push(inner),
            Ok(_) => {}
            // Of all things one may be of a kind that this build cannot read; it is not ours.
            Err(_) if ask == Ask::All => {}
            Err(error) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string()));
            }
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}
