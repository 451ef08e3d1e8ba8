//! What an answer promises: that its node will remember a term, whatever happens to it.
//!
//! A vote that was given and entries that were taken hold over a restart, or a second leader could
//! be elected in the same term. A refusal promises nothing, and neither does the answer to a
//! pre-vote. Simulators hold restarts to it (`runtime-sim/src/raft`). Tested below.

use openraft::raft::{VoteRequest, VoteResponse};
use openraft_rt::AsyncRuntime;

use super::transport::Call;
use super::types::Types;
use super::wire::{self, AppendAnswer};

/// The term that the answerer of a call must know for ever after; `None` if it promised nothing,
/// or the bytes are none of consensus.
pub fn promised_term<R: AsyncRuntime>(call: Call, asked: &[u8], answer: &[u8]) -> Option<u64> {
    match call {
        Call::Vote => {
            let asked: VoteRequest<Types<R>> = wire::decode(asked).ok()?;
            let answer: VoteResponse<Types<R>> = wire::decode(answer).ok()?;
            answer.vote_granted.then_some(asked.vote.leader_id.term)
        }
        Call::Append => {
            let asked = wire::decode_append::<R>(asked).ok()?;
            match wire::decode(answer).ok()? {
                AppendAnswer::Success | AppendAnswer::PartialSuccess(_) => {
                    Some(asked.vote.leader_id.term)
                }
                AppendAnswer::Conflict | AppendAnswer::HigherVote(_) => None,
            }
        }
        // What is in a snapshot is committed, whoever sent it.
        Call::Snapshot | Call::PreVote | Call::TransferLead => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::PooledRuntime;
    use super::super::types::Vote;
    use super::*;

    #[test]
    fn a_vote_that_is_given_is_a_promise_and_one_that_is_refused_is_none() {
        let asked = VoteRequest::<Types<PooledRuntime>>::new(Vote::new(4, 3), None);
        let asked = wire::encode(&asked).unwrap();
        let promised = |granted| {
            let answer = VoteResponse::<Types<PooledRuntime>>::new(Vote::new(4, 3), None, granted);
            let answer = wire::encode(&answer).unwrap();
            promised_term::<PooledRuntime>(Call::Vote, &asked, &answer)
        };
        assert_eq!([promised(true), promised(false)], [Some(4), None]);
    }
}
