//! Requests that one node passes on to another: on their way, answered, or lost with who was asked.

use mill_core::Event;
use mill_core::api::{ApiError, ErrorCode, Outcome, Request, RequestId};
use mill_core::event::Origin;
use mill_core::name::NodeId;
use mill_core::units::Millis;

use super::{Asker, Forwarder, Happening, World};
use crate::invariants::Moment;

/// A node waits this long for the answer of another at least; up to this much longer.
const ANSWER_WITHIN: Millis = Millis::secs(5);
/// The longest that it waits where it was asked to hold the answer.
const HELD_ANSWER_WITHIN: Millis = Millis::secs(40);

impl World {
    /// A node passes a request on.
    pub(super) fn pass_on(&mut self, node: NodeId, id: RequestId, to: NodeId, request: Request) {
        let asker = Forwarder { node, boot: self.host(node).boots, id };
        self.stats.count("requests passed on");
        self.forwards.insert(asker);
        let longest = match request {
            Request::Deployment { .. } | Request::Events { .. } => HELD_ANSWER_WITHIN,
            Request::RunState { .. } => HELD_ANSWER_WITHIN,
            Request::Plan { .. }
            | Request::Deploy { .. }
            | Request::Restart { .. }
            | Request::Scale { .. }
            | Request::Rollback { .. }
            | Request::Cancel { .. }
            | Request::Run { .. }
            | Request::Runs { .. }
            | Request::Kill { .. }
            | Request::Promote { .. }
            | Request::Deploys { .. }
            | Request::Routes { .. }
            | Request::Status { .. }
            | Request::Allocs { .. }
            | Request::Why { .. }
            | Request::Node { .. }
            | Request::Join(_)
            | Request::CreateToken { .. }
            | Request::RevokeTokens
            | Request::Drain { .. }
            | Request::Label { .. }
            | Request::RotateKey { .. }
            | Request::Certificates { .. }
            | Request::ImportCertificate(_)
            | Request::RemoveCertificate { .. }
            | Request::RenewCertificate { .. }
            | Request::RemoveNode { .. }
            | Request::State => {
                Millis(self.draw.consensus.between(ANSWER_WITHIN.0, 2 * ANSWER_WITHIN.0))
            }
        };
        let there = self.network.delay();
        self.after(there, Happening::PassedOn { asker, to, request });
        self.after(longest, Happening::NoAnswer { asker });
    }

    /// A request that was passed on arrives, if somebody is there to take it.
    pub(super) fn passed_on(&mut self, asker: Forwarder, to: NodeId, request: Request) {
        if !self.reaches(asker.node, to) {
            return;
        }
        let host = self.hosts.get_mut(&to);
        let Some(host) = host.filter(|host| host.is_up()) else {
            // Nobody listens there: it was certainly not asked.
            let refused =
                ApiError::new(ErrorCode::NoLeader, format!("node {to} cannot be reached"));
            let back = self.network.delay();
            return self.answer_forward(asker, to, back, Some(Err(refused)));
        };
        let (id, boot) = (RequestId(host.next_request), host.boots);
        host.next_request += 1;
        host.waiting.insert(id, Asker::Node(asker));
        self.tell(to, boot, Event::Request { id, request, origin: Origin::Node(asker.node) });
    }

    /// The node that was asked answers, or died.
    pub(super) fn answer_forward(
        &mut self,
        asker: Forwarder,
        from: NodeId,
        back: Millis,
        outcome: Option<Outcome>,
    ) {
        if self.reaches(from, asker.node) && self.forwards.remove(&asker) {
            if outcome.is_none() {
                self.observe(&unanswered(asker));
            }
            let event = Event::Forwarded { id: asker.id, outcome: outcome.map(Box::new) };
            self.tell_after(back, asker.node, asker.boot, event);
        }
    }

    /// A node waits no longer for the answer of another.
    pub(super) fn no_answer(&mut self, asker: Forwarder) {
        if self.forwards.remove(&asker) {
            self.stats.count("requests without an answer of the leader");
            self.observe(&unanswered(asker));
            let event = Event::Forwarded { id: asker.id, outcome: None };
            self.tell(asker.node, asker.boot, event);
        }
    }
}

fn unanswered(asker: Forwarder) -> Moment<'static> {
    Moment::Unanswered { node: asker.node, boot: asker.boot, id: asker.id }
}
