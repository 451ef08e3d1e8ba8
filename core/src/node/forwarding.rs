//! Whom a request goes to: this node if it leads, the leader otherwise, once; and for a moment
//! nobody, until a leader is known.
//!
//! A request that came from another node is never passed on again. One that was certainly not done
//! is tried with the next leader, for as long as it would have waited for one. Tested in
//! `sim-tests/tests/scenarios/forwarding.rs`.

use super::Node;
use super::requests::{Forwarded, Leaderless, no_leader, reply};
use crate::api::{ApiError, ErrorCode, Outcome, Request, RequestId};
use crate::effect::Effect;
use crate::event::{Leadership, Origin};
use crate::mutant::{self, Mutant};
use crate::name::NodeId;
use crate::time::{Mono, Now};
use crate::units::Millis;

/// A request waits this long for a leader to be known.
pub const LEADER_PATIENCE: Millis = Millis::secs(3);
/// A node that is known to lead and does not say so itself is asked again after this long: a new
/// leader does not know it before its first entry is committed, and an old one may be gone.
const ASK_AGAIN: Millis = Millis(100);

impl Node {
    pub(super) fn route(&mut self, now: Now, id: RequestId, request: Request, origin: Origin) {
        match (self.leadership, origin) {
            (Leadership::Follower { leader, .. }, Origin::Node(_)) => {
                reply(&mut self.out, id, Err(no_leader(leader)));
            }
            (Leadership::Leader { .. }, _) | (Leadership::Follower { .. }, Origin::Client) => {
                self.ask_leader(now, id, request, now.mono + LEADER_PATIENCE);
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
                let waits = Leaderless { request, until, again: None };
                self.requests.leaderless.insert(id, waits);
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
                let asked = Leadership::Follower { leader: Some(to), term };
                if self.leadership == asked {
                    let again = Some(now.mono + ASK_AGAIN);
                    self.requests.leaderless.insert(id, Leaderless { request, until, again });
                } else {
                    self.ask_leader(now, id, request, until);
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

    fn ask_leader(&mut self, now: Now, id: RequestId, request: Request, until: Mono) {
        match self.leadership {
            Leadership::Leader { .. } => self.confirm(now, id, request),
            Leadership::Follower { leader, term } => {
                self.pass_on(id, request, leader.map(|leader| (leader, term)), until);
            }
        }
    }

    /// Who leads has changed: whoever waited for that is served.
    pub(super) fn leader_known(&mut self, now: Now) {
        if let Leadership::Follower { leader: None, .. } = self.leadership {
            return;
        }
        for (id, waits) in std::mem::take(&mut self.requests.leaderless) {
            self.ask_leader(now, id, waits.request, waits.until);
        }
    }

    /// Requests that have waited for a leader for long enough are answered, and others put to it
    /// again.
    pub(super) fn wait_for_leader(&mut self, now: Now) {
        let due = |at: Mono| at <= now.mono;
        let waiting = self.requests.leaderless.iter();
        let waiting = waiting.filter(|(_, waits)| due(waits.until) || waits.again.is_some_and(due));
        for id in waiting.map(|(id, _)| *id).collect::<Vec<_>>() {
            let Some(Leaderless { request, until, .. }) = self.requests.leaderless.remove(&id)
            else {
                continue;
            };
            if due(until) {
                let error = self.cut_off();
                reply(&mut self.out, id, Err(error));
            } else {
                self.ask_leader(now, id, request, until);
            }
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
