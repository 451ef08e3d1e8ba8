//! Bytes of calls and answers: a version, a head in postcard, then bytes as they are.
//!
//! Heads are small and made of openraft's own types; entries and snapshots follow them unencoded
//! or in the codec of the log, so that megabytes are copied and not walked through. The version
//! goes up with any change of a layout, openraft's included. Tested below.

use std::io;

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use openraft_rt::AsyncRuntime;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::codec::{self, Damage};
use super::transport::BODY_BYTES;
use super::types::{Entry, LogId, SnapshotMeta, Types, Vote};

/// The layout that this code writes, and the only one that it reads.
const VERSION: u8 = 1;

/// A call's or an answer's head, with nothing after it.
pub(super) fn encode<H: Serialize>(head: &H) -> io::Result<Vec<u8>> {
    encode_with(head, &[])
}

/// A head, then bytes.
pub(super) fn encode_with<H: Serialize>(head: &H, tail: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = postcard::to_extend(head, vec![VERSION]).map_err(io::Error::other)?;
    bytes.extend_from_slice(tail);
    Ok(bytes)
}

/// A head, with nothing after it.
pub(super) fn decode<H: DeserializeOwned>(bytes: &[u8]) -> io::Result<H> {
    let (head, tail) = decode_with(bytes)?;
    if tail.is_empty() { Ok(head) } else { Err(damaged("it goes on after its end")) }
}

/// A head, and the bytes after it.
pub(super) fn decode_with<H: DeserializeOwned>(bytes: &[u8]) -> io::Result<(H, &[u8])> {
    if bytes.len() > BODY_BYTES {
        return Err(damaged(&format!("{} bytes are too many", bytes.len())));
    }
    let (version, rest) = bytes.split_first().ok_or_else(|| damaged("it is empty"))?;
    if *version != VERSION {
        return Err(damaged(&format!("its version is {version}, this mill speaks {VERSION}")));
    }
    postcard::take_from_bytes(rest).map_err(|error| damaged(&error.to_string()))
}

fn damaged(detail: &str) -> io::Error {
    let text = format!("a consensus message cannot be read: {detail}");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// The head of [`Call::Append`](super::Call::Append); the entries follow, sealed as in the log.
#[derive(Serialize, Deserialize)]
struct AppendHead {
    vote: Vote,
    prev_log_id: Option<LogId>,
    leader_commit: Option<LogId>,
    /// How many bytes each entry has.
    lengths: Vec<u32>,
}

pub(super) fn encode_append<R: AsyncRuntime>(
    request: &AppendEntriesRequest<Types<R>>,
) -> io::Result<Vec<u8>> {
    let (mut lengths, mut sealed) = (Vec::with_capacity(request.entries.len()), Vec::new());
    for entry in &request.entries {
        let entry = codec::encode_entry(entry);
        lengths.push(u32::try_from(entry.len()).map_err(io::Error::other)?);
        sealed.extend_from_slice(&entry);
    }
    let AppendEntriesRequest { vote, prev_log_id, leader_commit, .. } = request;
    let (vote, prev_log_id, leader_commit) = (*vote, *prev_log_id, *leader_commit);
    encode_with(&AppendHead { vote, prev_log_id, leader_commit, lengths }, &sealed)
}

pub(super) fn decode_append<R: AsyncRuntime>(
    bytes: &[u8],
) -> io::Result<AppendEntriesRequest<Types<R>>> {
    let (head, mut rest) = decode_with::<AppendHead>(bytes)?;
    let AppendHead { vote, prev_log_id, leader_commit, lengths } = head;
    let mut entries = Vec::with_capacity(lengths.len());
    for length in lengths {
        let length = usize::try_from(length).expect("a usize has 32 bits or more");
        let (sealed, tail) =
            rest.split_at_checked(length).ok_or_else(|| damaged("it ends too early"))?;
        let entry: Entry = codec::decode_entry(sealed)
            .map_err(|Damage(detail)| damaged(&format!("an entry: {detail}")))?;
        entries.push(entry);
        rest = tail;
    }
    if !rest.is_empty() {
        return Err(damaged("it goes on after its last entry"));
    }
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

/// [`AppendEntriesResponse`] in a form of our own, since openraft's depends on the runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum AppendAnswer {
    Success,
    PartialSuccess(Option<LogId>),
    Conflict,
    HigherVote(Vote),
}

impl<R: AsyncRuntime> From<AppendEntriesResponse<Types<R>>> for AppendAnswer {
    fn from(response: AppendEntriesResponse<Types<R>>) -> Self {
        match response {
            AppendEntriesResponse::Success => AppendAnswer::Success,
            AppendEntriesResponse::PartialSuccess(upto) => AppendAnswer::PartialSuccess(upto),
            AppendEntriesResponse::Conflict => AppendAnswer::Conflict,
            AppendEntriesResponse::HigherVote(vote) => AppendAnswer::HigherVote(vote),
        }
    }
}

impl<R: AsyncRuntime> From<AppendAnswer> for AppendEntriesResponse<Types<R>> {
    fn from(answer: AppendAnswer) -> Self {
        match answer {
            AppendAnswer::Success => AppendEntriesResponse::Success,
            AppendAnswer::PartialSuccess(upto) => AppendEntriesResponse::PartialSuccess(upto),
            AppendAnswer::Conflict => AppendEntriesResponse::Conflict,
            AppendAnswer::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote),
        }
    }
}

/// The head of [`Call::Snapshot`](super::Call::Snapshot); a piece of the snapshot follows, or
/// nothing, which asks how much the receiver has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapshotHead {
    pub(super) vote: Vote,
    pub(super) of: SnapshotKey,
    /// Where in the snapshot the piece begins.
    pub(super) offset: u64,
}

/// Which snapshot, exactly: equal keys mean equal bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapshotKey {
    pub(super) meta: SnapshotMeta,
    /// As in [`SnapshotImage`](super::types::SnapshotImage).
    pub(super) index: u64,
    pub(super) length: u64,
    /// XXH3-64 of all its bytes.
    pub(super) checksum: u64,
}

/// What the receiver of a piece says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum SnapshotAnswer {
    /// It has this many bytes of that snapshot, from the beginning.
    Has { bytes: u64 },
    /// It needs no more of it, or has seen a later vote than the sender's.
    Done { vote: Vote },
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::PooledRuntime;
    use super::super::types::{Membership, Payload, StoredMembership};
    use super::*;

    fn request() -> AppendEntriesRequest<Types<PooledRuntime>> {
        let membership = Membership::new_with_defaults(vec![BTreeSet::from([1, 2])], [4]);
        let payloads = [
            openraft::EntryPayload::Blank,
            openraft::EntryPayload::Normal(Payload(vec![7; 300])),
            openraft::EntryPayload::Membership(membership),
        ];
        let entries = (6..)
            .zip(payloads)
            .map(|(index, payload)| Entry { log_id: LogId::new_term_index(3, index), payload });
        AppendEntriesRequest {
            vote: Vote::new_committed(3, 1),
            prev_log_id: Some(LogId::new_term_index(2, 5)),
            entries: entries.collect(),
            leader_commit: None,
        }
    }

    #[test]
    fn an_append_comes_back_as_it_was_and_no_cut_of_it_does() {
        let (request, bytes) = (request(), encode_append(&request()).unwrap());
        let back = decode_append::<PooledRuntime>(&bytes).unwrap();
        assert_eq!(format!("{back:?}"), format!("{request:?}"));
        assert_eq!(back.entries, request.entries);
        for length in 0..bytes.len() {
            assert!(decode_append::<PooledRuntime>(&bytes[..length]).is_err(), "{length} bytes");
        }
        assert!(decode_append::<PooledRuntime>(&[bytes, vec![0]].concat()).is_err());
    }

    #[test]
    fn a_piece_of_a_snapshot_comes_back_with_its_head() {
        let last_log_id = Some(LogId::new_term_index(2, 9));
        let membership = Membership::new_with_defaults(vec![BTreeSet::from([1, 2])], [4]);
        let last_membership = StoredMembership::new(last_log_id, membership);
        let meta = SnapshotMeta { last_log_id, last_membership };
        let of = SnapshotKey { meta, index: 8, length: 1 << 40, checksum: u64::MAX };
        let head = SnapshotHead { vote: Vote::new_committed(3, 1), of, offset: 77 };
        let bytes = encode_with(&head, b"piece").unwrap();
        assert_eq!(decode_with(&bytes).unwrap(), (head, &b"piece"[..]));
        for answer in
            [SnapshotAnswer::Has { bytes: 5 }, SnapshotAnswer::Done { vote: Vote::new(1, 2) }]
        {
            assert_eq!(decode::<SnapshotAnswer>(&encode(&answer).unwrap()).unwrap(), answer);
        }
    }

    #[test]
    fn another_version_is_refused_in_words() {
        let mut bytes = encode(&AppendAnswer::Conflict).unwrap();
        bytes[0] = 9;
        let error = decode::<AppendAnswer>(&bytes).unwrap_err();
        assert!(error.to_string().contains("its version is 9, this mill speaks 1"), "{error}");
        assert!(decode::<AppendAnswer>(&[]).is_err());
    }
}
