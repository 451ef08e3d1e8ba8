//! Whom a request goes to: this node if it leads, the leader otherwise, once; and for a moment
//! nobody, until a leader is known.
//!
//! A request that came from another node is never passed on again. One that was certainly not done
//! is tried with the next leader, for as long as it would have waited for one. Tested in
//! `sim-tests/tests/scenarios/forwarding.rs`.

use super::Node;
use super::requests::{Forwarded, Held, no_leader, reply};
use crate::api::{ApiError, ErrorCode, Outcome, Request, RequestId};
use crate::effect::Effect;
use crate::event::{Leadership, Origin};
use crate::mutant::{self, Mutant};
use crate::name::NodeId;
use crate::time::{Mono, Now};
use crate::units::Millis;

/// A request waits this long for a leader to be known.
pub const LEADER_PATIENCE: Millis = Millis::secs(3);

impl Node {
    pub(super) fn route(&mut self, now: Now, id: RequestId, request: Request, origin: Origin) {
        match (self.leadership, origin) {
            (Leadership::Leader { .. }, _) => self.confirm(now, id, request),
            (Leadership::Follower { leader, .. }, Origin::Node(_)) => {
                reply(&mut self.out, id, Err(no_leader(leader)));
            }
            (Leadership::Follower { leader, term }, Origin::Client) => {
                let known = leader.map(|leader| (leader, term));
                self.pass_on(id, request, known, now.mono + LEADER_PATIENCE);
            }
        }
    }

    fn pass_on(
        &mut self,
        id: RequestId,
        request: Request,
        leader: Option<(NodeId, u64)>,
        until: Mono,
    ) {
        match leader {
            Some((to, term)) => {
                self.out.push(Effect::Forward { to, id, request: request.clone() });
                self.requests.forwarded.insert(id, Forwarded { to, term, request, until });
            }
            None => {
                self.requests.leaderless.insert(id, Held { what: request, until });
            }
        }
    }

    /// The node that was asked instead has answered, or has not.
    pub(super) fn forwarded(&mut self, now: Now, id: RequestId, outcome: Option<Outcome>) {
        let Some(Forwarded { to, term, request, until }) = self.requests.forwarded.remove(&id)
        else {
            return;
        };
        match outcome {
            // It was not done there: the next leader is asked, as soon as one is known.
            Some(Err(error)) if error.code == ErrorCode::NoLeader && until > now.mono => {
                match self.leadership {
                    Leadership::Leader { .. } => self.confirm(now, id, request),
                    Leadership::Follower { leader, term: now_term } => {
                        let known = leader.map(|leader| (leader, now_term));
                        let other = known.filter(|known| *known != (to, term));
                        self.pass_on(id, request, other, until);
                    }
                }
            }
            Some(Err(error)) if error.code == ErrorCode::NoLeader => {
                let error = self.cut_off();
                reply(&mut self.out, id, Err(error));
            }
            Some(outcome) => reply(&mut self.out, id, outcome),
            None if mutant::is(Mutant::ForwardedAgain) => {
                self.pass_on(id, request, Some((to, term)), until);
            }
            None => {
                let error = no_answer(to, request.is_write());
                reply(&mut self.out, id, Err(error));
            }
        }
    }

    /// Who leads has changed: whoever waited for that is served.
    pub(super) fn leader_known(&mut self, now: Now) {
        let leader = match self.leadership {
            Leadership::Leader { .. } => None,
            Leadership::Follower { leader: None, .. } => return,
            Leadership::Follower { leader: Some(leader), term } => Some((leader, term)),
        };
        for (id, held) in std::mem::take(&mut self.requests.leaderless) {
            match leader {
                Some(_) => self.pass_on(id, held.what, leader, held.until),
                None => self.confirm(now, id, held.what),
            }
        }
    }

    /// Requests that have waited for a leader for long enough.
    pub(super) fn give_up_waiting(&mut self, now: Now) {
        let waiting = self.requests.leaderless.iter();
        let due: Vec<RequestId> =
            waiting.filter(|(_, held)| held.until <= now.mono).map(|(id, _)| *id).collect();
        for id in due {
            self.requests.leaderless.remove(&id);
            let error = self.cut_off();
            reply(&mut self.out, id, Err(error));
        }
    }

    /// This node can do nothing: it has no leader, or leads nobody.
    pub(super) fn cut_off(&self) -> ApiError {
        let message = match self.leadership {
            Leadership::Leader { .. } => {
                "this node cannot reach a majority of the nodes that vote: nothing was changed, \
                 and nothing can be"
                    .to_owned()
            }
            Leadership::Follower { leader: None, .. } => {
                "this node cannot reach a majority of the nodes that vote, or they have not agreed \
                 on a leader: nothing was changed, and nothing can be"
                    .to_owned()
            }
            Leadership::Follower { leader: Some(leader), .. } => format!(
                "node {leader}, the last leader that this node knows of, cannot be reached or does \
                 not lead any more, and no other has shown up: nothing was changed, and nothing can \
                 be"
            ),
        };
        ApiError::new(ErrorCode::NoLeader, message).hint(
            "containers go on running; ask another node, or try again when this one can reach the \
             others",
        )
    }
}

fn no_answer(to: NodeId, write: bool) -> ApiError {
    match write {
        true => {
            let message = format!(
                "node {to}, which leads, was asked and did not answer: it may or may not have been \
                 done"
            );
            ApiError::new(ErrorCode::Unknown, message)
                .hint("look with `mill status` before you repeat it")
        }
        false => {
            let message = format!("node {to}, which leads, did not answer");
            ApiError::new(ErrorCode::NoLeader, message).hint("try again in a moment")
        }
    }
}
