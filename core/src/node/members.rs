//! Requests about nodes and tokens: who may join, who is emptied, who goes; each safe to repeat.

use std::collections::BTreeMap;

use super::requests::{Then, refused};
use super::{Members, Node};
use crate::api::view::NodeDetail;
use crate::api::{Answer, ApiError, ErrorCode, JoinAsk, Outcome, RequestId};
use crate::cluster::Refusal;
use crate::cluster::admission::{Admission, JoinToken, NODES_MAX, labels_problem};
use crate::cluster::command::Command;
use crate::cluster::node::{Liveness, NodeRecord};
use crate::name::NodeId;
use crate::time::{Now, Wall};
use crate::units::Millis;

/// A machine whose clock is further off is not admitted: certificates would not be good.
pub const CLOCK_OFF_MAX: Millis = Millis::secs(30);

impl Node {
    /// A machine wants to be a node. One that is gets the same answer again, whatever became of
    /// its token.
    pub(super) fn join(
        &mut self,
        now: Now,
        id: RequestId,
        ask: &JoinAsk,
    ) -> Result<Option<Answer>, ApiError> {
        version_fits(&ask.version, &self.config.facts.version)?;
        clock_fits(ask.wall, now.wall)?;
        if let Some((node, _)) = self.cluster.node_with_key(&ask.key) {
            return self.admitted(node).map(Some);
        }
        let token = self.good_token(now, ask)?;
        let admission = Admission {
            name: ask.name.clone(),
            key: ask.key.clone(),
            roles: ask.roles.unwrap_or(token.roles),
            labels: ask.labels.clone(),
            advertise: ask.advertise.clone(),
            rpc: ask.rpc.clone(),
            version: ask.version.clone(),
            supports: ask.supports,
            mesh: ask.mesh.clone(),
        };
        if self.cluster.mesh_only && ask.mesh.is_none() {
            return Err(refused(&Refusal::NoMesh));
        }
        if ask.supports < self.cluster.features {
            let (supports, level) = (ask.supports, self.cluster.features);
            return Err(refused(&Refusal::TooOld { supports, level }));
        }
        if let Some(problem) = admission.problem() {
            return Err(ApiError::new(ErrorCode::Invalid, problem));
        }
        if let Some((node, _)) = self.cluster.node_named(&ask.name) {
            return Err(refused(&Refusal::NameTaken { name: ask.name.clone(), node }));
        }
        if self.cluster.nodes.len() >= NODES_MAX {
            return Err(refused(&Refusal::TooMany { what: "nodes", most: NODES_MAX }));
        }
        let (admission, token) = (Box::new(admission), Some(ask.token.clone()));
        self.propose(now, id, Command::AdmitNode { admission, token }, Then::Admitted);
        Ok(None)
    }

    /// The token of one who asks, if it is good for that now.
    fn good_token(&self, now: Now, ask: &JoinAsk) -> Result<&JoinToken, ApiError> {
        let token = self.cluster.tokens.get(&ask.token);
        let token = token.ok_or_else(|| refused(&Refusal::NoToken))?;
        if token.expires.is_some_and(|expires| expires <= now.wall) {
            let error = ApiError::new(ErrorCode::Forbidden, "this join token has expired");
            return Err(error.hint("`mill token create` on a node of the cluster makes another"));
        }
        if let Some(by) = &token.spent {
            return Err(refused(&Refusal::TokenSpent { by: by.clone() }));
        }
        let wanted = ask.roles.unwrap_or(token.roles);
        if !wanted.within(token.roles) {
            return Err(refused(&Refusal::RoleNotCovered { wanted, covered: token.roles }));
        }
        Ok(token)
    }

    /// What a node is told that was admitted.
    pub(super) fn admitted(&self, node: NodeId) -> Outcome {
        let Some(record) = self.cluster.nodes.get(&node) else {
            let message = format!("node {node} was admitted and removed again");
            return Err(ApiError::new(ErrorCode::Conflict, message).hint("join again"));
        };
        Ok(Answer::Admitted {
            node,
            cluster: self.cluster.id.clone().unwrap_or_default(),
            name: record.name.clone(),
            roles: record.roles,
            book: self.book(),
        })
    }

    pub(super) fn create_token(
        &mut self,
        now: Now,
        id: RequestId,
        hash: String,
        token: JoinToken,
    ) -> Option<Answer> {
        let known = self.cluster.tokens.get(&hash);
        if known.is_some_and(|known| JoinToken { spent: None, ..known.clone() } == token) {
            return Some(Answer::Done);
        }
        self.propose(now, id, Command::PutToken { hash, token }, Then::Done);
        None
    }

    pub(super) fn revoke_tokens(&mut self, now: Now, id: RequestId) -> Option<Answer> {
        if self.cluster.tokens.is_empty() {
            return Some(Answer::Done);
        }
        self.propose(now, id, Command::RevokeTokens, Then::Done);
        None
    }

    pub(super) fn drain(
        &mut self,
        now: Now,
        id: RequestId,
        node: &str,
        draining: bool,
    ) -> Result<Option<Answer>, ApiError> {
        let (node, record) = self.find_node(node)?;
        if record.draining == draining {
            return Ok(Some(Answer::Done));
        }
        self.propose(now, id, Command::SetDrain { node, draining }, Then::Done);
        Ok(None)
    }

    pub(super) fn label(
        &mut self,
        now: Now,
        id: RequestId,
        node: &str,
        set: BTreeMap<String, String>,
        remove: Vec<String>,
    ) -> Result<Option<Answer>, ApiError> {
        let (node, record) = self.find_node(node)?;
        let mut labels = record.labels.clone();
        labels.extend(set.clone());
        labels.retain(|key, _| !remove.contains(key));
        if let Some(problem) = labels_problem(&labels) {
            return Err(ApiError::new(ErrorCode::Invalid, problem));
        }
        if labels == record.labels {
            return Ok(Some(Answer::Done));
        }
        self.propose(now, id, Command::SetLabels { node, set, remove }, Then::Done);
        Ok(None)
    }

    pub(super) fn remove_node(
        &mut self,
        now: Now,
        id: RequestId,
        node: &str,
        force: bool,
    ) -> Result<(), ApiError> {
        let (node, record) = self.find_node(node)?;
        if let Some(error) = self.members.as_ref().and_then(|members| {
            members.voters.contains(&node).then(|| self.quorum_without(node, record, members))?
        }) {
            return Err(error);
        }
        self.propose(now, id, Command::RemoveNode { node, force }, Then::Done);
        Ok(())
    }

    /// Why a node that votes cannot be removed: those that are left could not decide anything.
    fn quorum_without(
        &self,
        node: NodeId,
        record: &NodeRecord,
        members: &Members,
    ) -> Option<ApiError> {
        let left: Vec<NodeId> = members.voters.iter().copied().filter(|id| *id != node).collect();
        if left.is_empty() {
            let message = format!("node {} is the only one that votes", record.name);
            let error = ApiError::new(ErrorCode::Conflict, message);
            return Some(error.hint("let another primary join, and wait until it votes"));
        }
        let silent = left.iter().filter(|id| !self.cluster.is_up(**id));
        let silent: Vec<&NodeId> = silent.collect();
        if (left.len() - silent.len()) * 2 > left.len() {
            return None;
        }
        let names: Vec<&str> = silent
            .iter()
            .filter_map(|id| Some(self.cluster.nodes.get(id)?.name.as_str()))
            .collect();
        let names = names.join(", ");
        let message = format!(
            "without node {} nothing could be decided any more: of those that vote, {names} cannot \
             be reached",
            record.name
        );
        let error = ApiError::new(ErrorCode::Conflict, message);
        Some(error.hint(format!(
            "bring {names} back, or remove that first with `mill node rm --force`, and wait until \
             another votes"
        )))
    }

    pub(super) fn find_node(&self, text: &str) -> Result<(NodeId, &NodeRecord), ApiError> {
        self.cluster.node_called(text).ok_or_else(|| {
            let error = ApiError::new(ErrorCode::NotFound, format!("there is no node `{text}`"));
            error.hint("`mill node ls` lists the nodes")
        })
    }

    pub(super) fn node_detail(&self, node: &str) -> Result<Box<NodeDetail>, ApiError> {
        let (id, record) = self.find_node(node)?;
        let allocs = self.cluster.allocs_on(id);
        let mut allocs: Vec<_> = allocs.map(|(id, alloc)| self.alloc_view(id, alloc)).collect();
        allocs.sort_by(|a, b| (&a.slot, &a.id).cmp(&(&b.slot, &b.id)));
        Ok(Box::new(NodeDetail {
            node: self.node_view(id, record),
            key: record.key.clone(),
            rpc: record.facts.rpc.clone(),
            mesh: record.facts.mesh.clone(),
            mesh_address: self.cluster.mesh_address(record),
            key_due: record.facts.mesh.as_ref().is_some_and(|mesh| mesh.serial < record.rotate_to),
            boot: record.facts.boot,
            down_since: match record.liveness {
                Liveness::Joining | Liveness::Up => None,
                Liveness::Down { since } => Some(since),
            },
            allocs,
            lately: self.lately(|subject| subject == id.to_string()),
        }))
    }
}

/// Versions work together that are at most one minor apart (product.md, section 5).
fn version_fits(theirs: &str, ours: &str) -> Result<(), ApiError> {
    let known = |text: &str| {
        let mut parts = text.split(['.', '-', '+']).map(str::parse::<u64>);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    };
    let fits = match (known(theirs), known(ours)) {
        (Some((major, minor)), Some((our_major, our_minor))) => {
            major == our_major && minor.abs_diff(our_minor) <= 1
        }
        (_, _) => theirs == ours,
    };
    if fits {
        return Ok(());
    }
    let message = format!(
        "this machine runs mill {theirs} and the cluster {ours}: versions more than one minor \
         apart do not work together"
    );
    let error = ApiError::new(ErrorCode::Unsupported, message);
    Err(error.hint(format!("install mill {ours} on this machine and join again")))
}

fn clock_fits(theirs: Wall, ours: Wall) -> Result<(), ApiError> {
    let off = Millis(theirs.0.abs_diff(ours.0));
    if off <= CLOCK_OFF_MAX {
        return Ok(());
    }
    let side = if theirs > ours { "ahead of" } else { "behind" };
    let message = format!(
        "the clock of this machine is {off} {side} that of the leader, and {CLOCK_OFF_MAX} are \
         allowed"
    );
    let error = ApiError::new(ErrorCode::Conflict, message);
    Err(error
        .hint("set the clocks right on both, with chrony or another NTP client, and join again"))
}
