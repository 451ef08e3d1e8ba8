//! Requests of the API: each is answered once, from confirmed state or by what was committed.
//!
//! Who is asked instead of a follower is in `forwarding.rs`, what concerns nodes in `members.rs`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Node, Wake};
use crate::api::view::Age;
use crate::api::{Answer, ApiError, ErrorCode, HOLD_MAX, Outcome, Request, RequestId};
use crate::cluster::admission::JoinToken;
use crate::cluster::command::{Command, ProposalId};
use crate::cluster::history::Happened;
use crate::cluster::{Refusal, Reply};
use crate::effect::Effect;
use crate::event::{Fate, Leadership, Origin};
use crate::mutant::{self, Mutant};
use crate::name::NodeId;
use crate::outbox::Outbox;
use crate::plan::Plan;
use crate::time::{Mono, Now};
use crate::units::Millis;

/// The most requests that wait at a time; one more is refused.
pub const REQUESTS_MAX: usize = 1000;

/// Requests that wait.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Requests {
    /// The last that came: they are numbered as they come.
    pub(super) latest: Option<RequestId>,
    /// For a leader to be known, or for another.
    pub(super) leaderless: BTreeMap<RequestId, Leaderless>,
    /// For the leader's answer, which was asked instead.
    pub(super) forwarded: BTreeMap<RequestId, Forwarded>,
    /// For this node's lead to be confirmed.
    unconfirmed: BTreeMap<RequestId, Request>,
    /// For an entry to be committed.
    proposed: BTreeMap<RequestId, Proposed>,
    /// For something that the caller has not seen.
    held: BTreeMap<RequestId, Watched>,
    /// Whether the state changed since held requests were looked at.
    changed: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Proposed {
    id: ProposalId,
    then: Then,
}

/// What whoever asked is told when the entry is committed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Then {
    /// A deploy has started, and this is what it does.
    Started(Plan),
    /// A node is a member.
    Admitted,
    /// It is so now.
    Done,
    /// A deploy moved as was asked.
    Moved,
    /// A run was asked for.
    Run,
}

/// A request that waits for a leader.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Leaderless {
    pub request: Request,
    pub until: Mono,
    /// When the leader that is known is asked again; absent if none is.
    pub again: Option<Mono>,
}

/// What somebody watches, and how long they wait for more.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Watched {
    seen: Seen,
    until: Mono,
}

/// What they have seen of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Seen {
    /// Of a deploy, the last if there is no number: a view with this fingerprint.
    Deploy { number: Option<u64>, fingerprint: u64 },
    /// Of a run: a view with this fingerprint.
    Run { number: u64, fingerprint: u64 },
    /// Of what happens: up to this number.
    Events(u64),
}

/// A request that another node was asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Forwarded {
    /// Who was thought to lead which term.
    pub to: NodeId,
    pub term: u64,
    pub request: Request,
    /// Until when another leader may be asked.
    pub until: Mono,
}

impl Requests {
    fn len(&self) -> usize {
        let elsewhere = self.leaderless.len() + self.forwarded.len();
        elsewhere + self.unconfirmed.len() + self.proposed.len() + self.held.len()
    }

    pub fn state_changed(&mut self) {
        self.changed = true;
    }

    /// Who asked is gone.
    pub fn dropped(&mut self, id: RequestId) {
        self.leaderless.remove(&id);
        self.forwarded.remove(&id);
        self.unconfirmed.remove(&id);
        self.proposed.remove(&id);
        self.held.remove(&id);
    }

    /// The state jumped ahead: what became of entries that were under way is not known.
    pub fn jumped(&mut self, out: &mut Outbox) {
        self.changed = true;
        let under_way: Vec<ProposalId> = self.proposed.values().map(|p| p.id).collect();
        under_way.into_iter().for_each(|id| self.proposal_failed(id, Then::unknown, out));
    }

    /// An entry of this node will not be seen committed.
    fn proposal_failed(
        &mut self,
        id: ProposalId,
        why: impl FnOnce(&Then) -> ApiError,
        out: &mut Outbox,
    ) {
        let Some((request, Proposed { then, .. })) = self.take_proposal(id) else { return };
        reply(out, request, Err(why(&then)));
    }

    fn take_proposal(&mut self, id: ProposalId) -> Option<(RequestId, Proposed)> {
        let (request, _) = self.proposed.iter().find(|(_, proposed)| proposed.id == id)?;
        self.proposed.remove_entry(&request.clone())
    }

    /// Another node leads now: whoever waits here should ask there.
    pub fn no_longer_leader(&mut self, out: &mut Outbox) {
        let waiting: BTreeSet<RequestId> =
            self.unconfirmed.keys().chain(self.held.keys()).copied().collect();
        self.unconfirmed.clear();
        self.held.clear();
        waiting.into_iter().for_each(|id| reply(out, id, Err(no_leader(None))));
    }

    pub fn next_wake(&self) -> Option<(Mono, Wake)> {
        let held = self.held.values().map(|held| held.until);
        let waiting = self.leaderless.values();
        let leaderless =
            waiting.map(|waits| waits.again.map_or(waits.until, |at| at.min(waits.until)));
        held.chain(leaderless).map(|until| (until, Wake::Held)).min()
    }
}

impl Then {
    fn unknown(&self) -> ApiError {
        let message = "the leader changed before this was confirmed: it may or may not have been \
                       done";
        ApiError::new(ErrorCode::Unknown, message).hint(match self {
            Then::Started(_) => "look with `mill status` before you repeat it",
            Then::Moved => "look with `mill status` before you repeat it",
            Then::Run => "look with `mill runs ls` before you repeat it",
            Then::Admitted | Then::Done => "repeat it: it is done once, however often it is asked",
        })
    }
}

impl Node {
    /// A request comes in: answered from this node's copy if that will do, passed on to the leader,
    /// or kept until this node is sure that it leads.
    pub(super) fn request(&mut self, now: Now, id: RequestId, request: Request, origin: Origin) {
        self.requests.latest = Some(id);
        if request.is_stale() {
            let outcome = self.look(request, Some(self.age(now)));
            reply(&mut self.out, id, outcome);
        } else if self.requests.len() >= REQUESTS_MAX {
            let message = format!("{REQUESTS_MAX} requests wait already");
            let busy = ApiError::new(ErrorCode::Busy, message).hint("try again in a moment");
            reply(&mut self.out, id, Err(busy));
        } else {
            self.route(now, id, request, origin);
        }
    }

    /// An entry of this node was refused by consensus or lost.
    pub(super) fn proposal_failed(&mut self, id: ProposalId, fate: Fate) {
        let refused = match self.leadership {
            Leadership::Leader { .. } => self.cut_off(),
            Leadership::Follower { leader, .. } => no_leader(leader),
        };
        let why = |then: &Then| match fate {
            Fate::Refused => refused,
            Fate::Unknown => then.unknown(),
        };
        self.requests.proposal_failed(id, why, &mut self.out);
    }

    /// This node leads: it makes sure of that before it answers from its state.
    ///
    /// What is only to be proposed goes to the log at once. Consensus refuses it if this node does
    /// not lead, and where it is applied it is refused if it does not hold any more.
    pub(super) fn confirm(&mut self, now: Now, id: RequestId, request: Request) {
        if request.is_write() && matches!(self.act(now, id, request.clone()), Ok(None)) {
            return;
        }
        self.requests.unconfirmed.insert(id, request);
        if mutant::is(Mutant::ReadUnconfirmed) {
            return self.read_confirmed(now, id, true);
        }
        self.out.push(Effect::ConfirmRead { id });
    }

    pub(super) fn read_confirmed(&mut self, now: Now, id: RequestId, confirmed: bool) {
        let Some(request) = self.requests.unconfirmed.remove(&id) else { return };
        if !confirmed {
            let error = self.cut_off();
            reply(&mut self.out, id, Err(error));
            return;
        }
        self.freshness.confirmed(id);
        if let Some(outcome) = self.act(now, id, request).transpose() {
            reply(&mut self.out, id, outcome);
        }
    }

    /// An entry of this node was applied.
    pub(super) fn proposal_done(&mut self, id: ProposalId, results: &[Result<Reply, Refusal>]) {
        let Some((request, Proposed { then, .. })) = self.requests.take_proposal(id) else {
            return;
        };
        let outcome = match (results.first(), then) {
            (Some(Ok(Reply::DeployStarted(number))), Then::Started(plan)) => {
                Ok(Answer::Started { number: *number, plan })
            }
            (Some(Ok(Reply::RunStarted(number))), Then::Run) => {
                Ok(Answer::RunStarted { number: *number })
            }
            (Some(Ok(Reply::Admitted(node))), Then::Admitted) => self.admitted(*node),
            // Somebody else did the same a moment before.
            (Some(Ok(Reply::Done) | Err(Refusal::Stale(_))), Then::Done) => Ok(Answer::Done),
            (Some(Ok(Reply::Done)), Then::Moved) => Ok(Answer::Done),
            (Some(Err(Refusal::Stale(_))), Then::Moved) => {
                let message = "the deploy moved on at the same moment, so nothing was done";
                let error = ApiError::new(ErrorCode::Conflict, message);
                Err(error.hint("`mill deploys show` says how far it is; then ask again"))
            }
            (Some(Err(refusal)), _) => Err(refused(refusal)),
            (Some(Ok(_)) | None, _) => {
                let message = "the entry did something else than was asked for";
                Err(ApiError::new(ErrorCode::Internal, message))
            }
        };
        reply(&mut self.out, request, outcome);
    }

    /// The answer, unless it comes later.
    fn act(
        &mut self,
        now: Now,
        id: RequestId,
        request: Request,
    ) -> Result<Option<Answer>, ApiError> {
        match request {
            Request::Plan { project } => self.plan_project(&project).map(Answer::Plan).map(Some),
            Request::Deploy { project, expect, keep_going } => {
                self.deploy(now, id, &project, (expect, keep_going))
            }
            Request::Restart { service } => self.restart(now, id, &service).map(|()| None),
            Request::Scale { service, replicas } => {
                self.scale(now, id, &service, replicas).map(|()| None)
            }
            Request::Deployment { number, seen, hold } => {
                let view = self.deploy_view(number)?;
                let seen = seen.filter(|seen| *seen == view.fingerprint && !view.state.is_end());
                let Some(fingerprint) = seen else { return Ok(Some(Answer::Deployment(view))) };
                self.hold(now, id, Seen::Deploy { number, fingerprint }, hold);
                Ok(None)
            }
            Request::Events { after, hold, .. } => {
                let events = self.events(after);
                match after.filter(|_| events.is_empty() && hold > Millis(0)) {
                    Some(seen) => self.hold(now, id, Seen::Events(seen), hold),
                    None => return Ok(Some(Answer::Events(events))),
                }
                Ok(None)
            }
            Request::Rollback { project, to, expect } => {
                self.go_back(now, id, (project, to), expect)
            }
            Request::Run { task, overrides } => self.run(now, id, task, *overrides).map(|()| None),
            Request::Kill { number } => self.kill(now, id, number),
            Request::RunState { number, seen, hold } => {
                let view = self.run_view(number)?;
                let seen = seen.filter(|seen| *seen == view.fingerprint && view.outcome.is_none());
                let Some(fingerprint) = seen else {
                    return Ok(Some(Answer::Run(Box::new(view))));
                };
                self.hold(now, id, Seen::Run { number, fingerprint }, hold);
                Ok(None)
            }
            Request::Cancel { number } => self.cancel(now, id, number),
            Request::Promote { number, services } => self.promote(now, id, number, services),
            Request::Join(ask) => self.join(now, id, &ask),
            Request::CreateToken { hash, roles, expires, once } => {
                let token = JoinToken { roles, expires, once, spent: None };
                Ok(self.create_token(now, id, hash, token))
            }
            Request::RevokeTokens => Ok(self.revoke_tokens(now, id)),
            Request::Drain { node, on } => self.drain(now, id, &node, on),
            Request::Label { node, set, remove } => self.label(now, id, &node, set, remove),
            Request::RotateKey { node } => self.rotate_key(now, id, &node),
            Request::ImportCertificate(imported) => Ok(self.import_certificate(now, id, *imported)),
            Request::RemoveCertificate { name } => self.remove_certificate(now, id, name),
            Request::RenewCertificate { name } => self.renew_certificate(now, id, name),
            Request::RemoveNode { node, force } => {
                self.remove_node(now, id, &node, force).map(|()| None)
            }
            Request::Status { .. }
            | Request::Allocs { .. }
            | Request::Why { .. }
            | Request::Node { .. }
            | Request::Deploys { .. }
            | Request::Routes { .. }
            | Request::Certificates { .. }
            | Request::Runs { .. }
            | Request::State => self.look(request, None).map(Some),
        }
    }

    /// Answers what only looks, from this node's copy of the state; `age` says how old that is.
    fn look(&self, request: Request, age: Option<Age>) -> Outcome {
        if age.is_some() && !self.caught_up {
            let message = "this node has just started and does not have its state yet";
            let busy = ApiError::new(ErrorCode::Busy, message);
            return Err(busy.hint("try again in a moment, or ask another node"));
        }
        match request {
            Request::Status { .. } => Ok(Answer::Status(self.status_view(age))),
            Request::Allocs { service, .. } => {
                self.alloc_views(service.as_ref()).map(Answer::Allocs)
            }
            Request::Why { subject, .. } => self.why(&subject).map(Answer::Why),
            Request::Node { node, .. } => self.node_detail(&node).map(Answer::Node),
            Request::Deploys { .. } => Ok(Answer::Deploys(self.deploys())),
            Request::Routes { .. } => Ok(Answer::Routes(self.routes_view())),
            Request::Certificates { .. } => Ok(Answer::Certificates(self.certificates_view())),
            Request::Runs { task, .. } => self.run_views(task.as_ref()).map(Answer::Runs),
            Request::Events { after, .. } => Ok(Answer::Events(self.events(after))),
            Request::State => {
                let text = String::from_utf8(self.cluster.encode());
                Ok(Answer::State(text.expect("JSON is text")))
            }
            Request::Plan { .. }
            | Request::Deployment { .. }
            | Request::RunState { .. }
            | Request::Run { .. }
            | Request::Kill { .. }
            | Request::Deploy { .. }
            | Request::Restart { .. }
            | Request::Scale { .. }
            | Request::Rollback { .. }
            | Request::Cancel { .. }
            | Request::Promote { .. }
            | Request::Join(_)
            | Request::CreateToken { .. }
            | Request::RevokeTokens
            | Request::Drain { .. }
            | Request::Label { .. }
            | Request::RotateKey { .. }
            | Request::ImportCertificate(_)
            | Request::RemoveCertificate { .. }
            | Request::RenewCertificate { .. }
            | Request::RemoveNode { .. } => {
                Err(ApiError::new(ErrorCode::Internal, "this does more than look"))
            }
        }
    }

    fn hold(&mut self, now: Now, id: RequestId, seen: Seen, hold: Millis) {
        let until = now.mono + Millis(hold.0.min(HOLD_MAX.0));
        self.requests.held.insert(id, Watched { seen, until });
    }

    /// What happened after an event, as far as that is kept.
    fn events(&self, after: Option<u64>) -> Vec<Happened> {
        let later = |event: &&Happened| after.is_none_or(|after| event.number > after);
        self.cluster.history.events.iter().filter(later).cloned().collect()
    }

    /// Proposes a command for which a request waits.
    pub(super) fn propose(&mut self, now: Now, id: RequestId, command: Command, then: Then) {
        let proposal = self.out.propose(now.wall, None, vec![command]);
        self.requests.proposed.insert(id, Proposed { id: proposal, then });
    }

    /// Held requests whose time has come, or that there is something new for.
    pub(super) fn answer_held(&mut self, now: Now) {
        let changed = std::mem::take(&mut self.requests.changed);
        if self.requests.held.is_empty() {
            return;
        }
        let held = std::mem::take(&mut self.requests.held);
        for (id, hold) in held {
            let due = hold.until <= now.mono;
            if !due && !changed {
                self.requests.held.insert(id, hold);
                continue;
            }
            match self.news(hold.seen, due).transpose() {
                Some(outcome) => reply(&mut self.out, id, outcome),
                None => _ = self.requests.held.insert(id, hold),
            }
        }
    }

    /// What somebody is told who has seen that; nothing if that is all so far, and not `due`.
    fn news(&self, seen: Seen, due: bool) -> Result<Option<Answer>, ApiError> {
        match seen {
            Seen::Deploy { number, fingerprint } => {
                let view = self.deploy_view(number)?;
                let news = due || view.fingerprint != fingerprint;
                Ok(news.then_some(Answer::Deployment(view)))
            }
            Seen::Run { number, fingerprint } => {
                let view = self.run_view(number)?;
                let news = due || view.fingerprint != fingerprint;
                Ok(news.then(|| Answer::Run(Box::new(view))))
            }
            Seen::Events(seen) => {
                let events = self.events(Some(seen));
                Ok((due || !events.is_empty()).then_some(Answer::Events(events)))
            }
        }
    }
}

pub(super) fn reply(out: &mut Outbox, id: RequestId, outcome: Outcome) {
    out.push(Effect::Reply { id, outcome: Box::new(outcome) });
}

pub(super) fn no_leader(leader: Option<NodeId>) -> ApiError {
    let message = match leader {
        Some(leader) => format!("this node does not lead; node {leader} does"),
        None => "this node does not lead, and knows of no leader just now".to_owned(),
    };
    ApiError::new(ErrorCode::NoLeader, message).hint("ask the leader, or again in a moment")
}

pub(super) fn refused(refusal: &Refusal) -> ApiError {
    let code = match refusal {
        Refusal::NoToken | Refusal::TokenSpent { .. } | Refusal::RoleNotCovered { .. } => {
            ErrorCode::Forbidden
        }
        Refusal::Invalid(_) => ErrorCode::Invalid,
        Refusal::TooOld { .. } | Refusal::NoMesh => ErrorCode::Unsupported,
        Refusal::Founded(_)
        | Refusal::Missing { .. }
        | Refusal::Stale(_)
        | Refusal::DeployRunning(_)
        | Refusal::NameOfAnother { .. }
        | Refusal::NameTaken { .. }
        | Refusal::TooMany { .. }
        | Refusal::LastPrimary(_)
        | Refusal::NotPrimary(_)
        | Refusal::NotEmpty { .. }
        | Refusal::NotDrained(_) => ErrorCode::Conflict,
    };
    let error = ApiError::new(code, refusal.to_string());
    match refusal {
        Refusal::DeployRunning(number) => {
            error.hint(format!("`mill status` shows deploy #{number}; wait for its end"))
        }
        Refusal::NoToken | Refusal::TokenSpent { .. } | Refusal::RoleNotCovered { .. } => {
            error.hint("`mill token create` on a node of the cluster makes another")
        }
        Refusal::NameTaken { .. } => error.hint(
            "choose another with --name; or, if this machine takes that node's place, remove the \
             old one first with `mill node rm`",
        ),
        Refusal::TooMany { what: "runs under way", .. } => {
            error.hint("`mill runs ls` lists them, `mill runs kill` ends one")
        }
        Refusal::TooMany { what: "join tokens", .. } => {
            error.hint("`mill token revoke` revokes all of them")
        }
        Refusal::TooMany { .. } => error.hint("remove nodes that are gone with `mill node rm`"),
        Refusal::TooOld { .. } => {
            error.hint("install the version that the other nodes run, and join again")
        }
        Refusal::NoMesh => error.hint(
            "`mill doctor` on this machine says what it lacks: the right to make network interfaces, \
             or an --advertise that others reach",
        ),
        Refusal::LastPrimary(_) => error.hint("let another primary join first"),
        Refusal::NotEmpty { name, .. } | Refusal::NotDrained(name) => error.hint(format!(
            "drain it first with `mill node drain {name}`; if the machine is gone for good, \
             repeat this with --force and what ran there is placed elsewhere"
        )),
        Refusal::Invalid(_) | Refusal::NotPrimary(_) => error,
        Refusal::Founded(_)
        | Refusal::Missing { .. }
        | Refusal::Stale(_)
        | Refusal::NameOfAnother { .. } => error.hint("look again and repeat it"),
    }
}
