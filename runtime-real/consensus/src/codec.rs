//! Bytes of what the log keeps: entries, votes and log ids, each under a checksum.
//!
//! A sealed value is the XXH3-64 of its body, then the body. All numbers are little-endian.
//! The layouts are part of the log's format version. Tested below.

use openraft::EntryPayload as Kind;
use xxhash_rust::xxh3::xxh3_64;

use super::types::{Entry, LogId, Membership, Payload, Vote};

const CHECKSUM_BYTES: usize = size_of::<u64>();

const BLANK: u8 = 0;
const PROPOSED: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// What is wrong with bytes that were read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damage(pub(super) String);

/// Puts a checksum before the body.
pub(super) fn seal(body: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(CHECKSUM_BYTES + body.len());
    sealed.extend_from_slice(&xxh3_64(body).to_le_bytes());
    sealed.extend_from_slice(body);
    sealed
}

/// The body of a sealed value, if it is the one that was sealed.
pub(super) fn unseal(sealed: &[u8]) -> Result<&[u8], Damage> {
    let Some((checksum, body)) = sealed.split_first_chunk::<CHECKSUM_BYTES>() else {
        return Err(Damage(format!("{} bytes are too few for a checksum", sealed.len())));
    };
    let (expected, actual) = (u64::from_le_bytes(*checksum), xxh3_64(body));
    if expected != actual {
        return Err(Damage(format!(
            "the checksum is {actual:016x}, but {expected:016x} was written"
        )));
    }
    Ok(body)
}

pub(super) fn encode_entry(entry: &Entry) -> Vec<u8> {
    let mut sealed = vec![0; CHECKSUM_BYTES];
    let kind = match &entry.payload {
        Kind::Blank => BLANK,
        Kind::Normal(_) => PROPOSED,
        Kind::Membership(_) => MEMBERSHIP,
    };
    sealed.push(kind);
    put_log_id(&mut sealed, &entry.log_id);
    match &entry.payload {
        Kind::Blank => {}
        Kind::Normal(Payload(bytes)) => sealed.extend_from_slice(bytes),
        Kind::Membership(membership) => {
            serde_json::to_writer(&mut sealed, membership)
                .expect("a membership is sets and maps of numbers");
        }
    }
    let checksum = xxh3_64(&sealed[CHECKSUM_BYTES..]);
    sealed[..CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
    sealed
}

pub(super) fn decode_entry(sealed: &[u8]) -> Result<Entry, Damage> {
    let mut rest = unseal(sealed)?;
    let kind = take_byte(&mut rest)?;
    let log_id = take_log_id(&mut rest)?;
    let payload = match kind {
        BLANK => Kind::Blank,
        PROPOSED => Kind::Normal(Payload(rest.to_vec())),
        MEMBERSHIP => Kind::Membership(decode_membership(rest)?),
        other => return Err(Damage(format!("entry kind {other} is unknown"))),
    };
    Ok(Entry { log_id, payload })
}

fn decode_membership(json: &[u8]) -> Result<Membership, Damage> {
    serde_json::from_slice(json).map_err(|error| Damage(format!("its membership: {error}")))
}

pub(super) fn encode_vote(vote: &Vote) -> Vec<u8> {
    let mut body = vec![u8::from(vote.committed)];
    body.extend_from_slice(&vote.leader_id.term.to_le_bytes());
    body.extend_from_slice(&vote.leader_id.voted_for.to_le_bytes());
    seal(&body)
}

pub(super) fn decode_vote(sealed: &[u8]) -> Result<Vote, Damage> {
    let mut rest = unseal(sealed)?;
    let committed = take_byte(&mut rest)? != 0;
    let term = take_u64(&mut rest)?;
    let node = take_u64(&mut rest)?;
    Ok(if committed { Vote::new_committed(term, node) } else { Vote::new(term, node) })
}

pub(super) fn encode_log_id(log_id: &LogId) -> Vec<u8> {
    let mut body = Vec::new();
    put_log_id(&mut body, log_id);
    seal(&body)
}

pub(super) fn decode_log_id(sealed: &[u8]) -> Result<LogId, Damage> {
    take_log_id(&mut unseal(sealed)?)
}

fn put_log_id(body: &mut Vec<u8>, log_id: &LogId) {
    body.extend_from_slice(&log_id.leader_id.term.to_le_bytes());
    body.extend_from_slice(&log_id.index.to_le_bytes());
}

fn take_log_id(rest: &mut &[u8]) -> Result<LogId, Damage> {
    let term = take_u64(rest)?;
    let index = take_u64(rest)?;
    Ok(LogId::new_term_index(term, index))
}

fn take_byte(rest: &mut &[u8]) -> Result<u8, Damage> {
    Ok(take::<1>(rest)?[0])
}

fn take_u64(rest: &mut &[u8]) -> Result<u64, Damage> {
    Ok(u64::from_le_bytes(take(rest)?))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Damage> {
    let (taken, tail) =
        rest.split_first_chunk::<N>().ok_or_else(|| Damage("it ends too early".to_owned()))?;
    *rest = tail;
    Ok(*taken)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn entry(payload: Kind<Payload, u64, openraft::impls::EmptyNode>) -> Entry {
        Entry { log_id: LogId::new_term_index(7, 42), payload }
    }

    fn entries() -> Vec<Entry> {
        let voters = vec![BTreeSet::from([1, 2, 3])];
        let membership = Membership::new_with_defaults(voters, [4]);
        vec![
            entry(Kind::Blank),
            entry(Kind::Normal(Payload(Vec::new()))),
            entry(Kind::Normal(Payload(vec![1, 2, 3]))),
            entry(Kind::Membership(membership)),
        ]
    }

    #[test]
    fn entries_come_back_as_they_were() {
        for entry in entries() {
            assert_eq!(decode_entry(&encode_entry(&entry)), Ok(entry));
        }
    }

    #[test]
    fn votes_and_log_ids_come_back_as_they_were() {
        for vote in [Vote::new(3, 2), Vote::new_committed(u64::MAX, 1)] {
            assert_eq!(decode_vote(&encode_vote(&vote)), Ok(vote));
        }
        let log_id = LogId::new_term_index(9, u64::MAX);
        assert_eq!(decode_log_id(&encode_log_id(&log_id)), Ok(log_id));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        for entry in entries() {
            let sealed = encode_entry(&entry);
            for bit in 0..sealed.len() * 8 {
                let mut damaged = sealed.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(decode_entry(&damaged).is_err(), "bit {bit} of {entry:?}");
            }
            for length in 0..sealed.len() {
                assert!(decode_entry(&sealed[..length]).is_err(), "{length} bytes of {entry:?}");
            }
        }
    }
}
