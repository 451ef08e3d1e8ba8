//! Answers as bytes: how large they may be, and what is left out where they would be larger.
//!
//! Hosts that save a question come first to be left out (RFC 2181 section 9), then answers, and
//! only then it is said that something is missing. EDNS stays in any case (RFC 6891 section 7).

use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Edns, Metadata};
use hickory_server::proto::rr::Record;
use hickory_server::proto::serialize::binary::BinEncoder;
use hickory_server::server::Request;
use hickory_server::zone_handler::MessageResponseBuilder;

use super::Answer;

/// Bytes of a message's header (RFC 1035 section 4.1.1).
pub(super) const HEADER: usize = 12;
/// What fits into a datagram without being cut on its way (DNS flag day 2020).
const DATAGRAM: u16 = 1232;
/// What whoever does not say more is sent at most (RFC 1035 section 4.2.1).
const PLAIN_DATAGRAM: u16 = 512;

/// The bit that tells answers from questions, in the third byte.
const IS_ANSWER: u8 = 0x80;
/// What an answer takes over from that byte of its question: the kind of question, and whether it
/// wants others to be asked.
const KEPT: u8 = 0x79;
/// Bytes of a label, at most (RFC 1035 section 2.3.4).
const LONGEST_LABEL: u8 = 63;
/// Bytes after a question's name.
const TYPE_AND_CLASS: usize = 4;
/// EDNS (RFC 6891 section 6.1.1): its type, and its bytes without options.
const OPT: u8 = 41;
const PLAIN_EDNS: usize = 11;
/// FORMERR.
const MALFORMED: u8 = 1;

pub(super) fn is_answer(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & IS_ANSWER != 0)
}

/// Where the one question of a message ends; none if there are others, or if its name goes on
/// elsewhere: there is nothing before it that it could go on in but the header.
pub(super) fn question_end(message: &[u8]) -> Option<usize> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let mut at = HEADER;
    loop {
        match *message.get(at)? {
            0 => break,
            length @ 1..=LONGEST_LABEL => at += usize::from(length) + 1,
            _ => return None,
        }
    }
    Some(at + 1 + TYPE_AND_CLASS).filter(|end| *end <= message.len())
}

/// Whether a message is its one question alone, or with EDNS that has no options: nothing of it
/// can depend on its id.
pub(super) fn is_plain(message: &[u8]) -> bool {
    let rest = question_end(message).map(|end| &message[end..]);
    rest.is_some_and(|rest| match rest {
        [] => message[6..HEADER] == [0; 6],
        [0, 0, OPT, .., 0, 0] if rest.len() == PLAIN_EDNS => {
            message[6..HEADER] == [0, 0, 0, 0, 0, 1]
        }
        _ => false,
    })
}

/// What whoever sent this is told: the header alone.
pub(super) fn malformed(question: &[u8]) -> Vec<u8> {
    let mut answer = question[..HEADER].to_vec();
    answer[2] = answer[2] & KEPT | IS_ANSWER;
    answer[3] = MALFORMED;
    answer[4..].fill(0);
    answer
}

fn metadata(request: &Request, answer: &Answer, asks_others: bool) -> Metadata {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.response_code = answer.code;
    metadata.authoritative = answer.is_ours;
    metadata.recursion_available = asks_others;
    metadata
}

fn edns(request: &Request) -> Option<Edns> {
    request.edns.as_ref().map(|asked| {
        let mut edns = Edns::new();
        edns.set_max_payload(asked.max_payload().clamp(PLAIN_DATAGRAM, DATAGRAM));
        edns
    })
}

/// The answer as a datagram, or as a message of a connection, which may be of any length that the
/// two bytes before it can say.
pub(super) fn written(request: &Request, mut answer: Answer, asks_others: bool) -> Vec<u8> {
    let mut metadata = metadata(request, &answer, asks_others);
    let edns = edns(request);
    let room = match request.protocol() {
        Protocol::Tcp => u16::MAX,
        _ => edns.as_ref().map_or(PLAIN_DATAGRAM, Edns::max_payload),
    };
    let write = |metadata, answer: &Answer, answers: &[Record]| {
        let mut bytes = Vec::with_capacity(usize::from(PLAIN_DATAGRAM));
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(room);
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let Answer { authorities, additionals, .. } = answer;
        let message = builder.build(metadata, answers, authorities, [], additionals);
        let info = message.destructive_emit(&mut encoder).ok()?;
        Some((info.truncation, usize::from(info.counts().answers), bytes))
    };
    let unwritable = || malformed(request.as_slice());
    let whole = write(metadata, &answer, &answer.answers);
    let Some((cut, _, bytes)) = whole else { return unwritable() };
    if !cut {
        return bytes;
    }
    answer.additionals.clear();
    let Some((cut, fit, bytes)) = write(metadata, &answer, &answer.answers) else {
        return unwritable();
    };
    if !cut {
        return bytes;
    }
    metadata.truncation = true;
    let fewer = (0..=fit).rev().map(|count| write(metadata, &answer, &answer.answers[..count]));
    let mut lasting = fewer.flatten().filter(|(_, _, bytes)| has_edns(bytes, edns.is_some()));
    lasting.next().map_or_else(unwritable, |(_, _, bytes)| bytes)
}

/// Whether EDNS is there if it is due; no other additional is.
fn has_edns(message: &[u8], due: bool) -> bool {
    message[HEADER - 2..HEADER] == u16::from(due).to_be_bytes()
}
