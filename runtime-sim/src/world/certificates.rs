//! The certificate authority in the world: how long it takes, what it sees of the cluster from
//! outside, what goes wrong between it and a node.

use std::sync::Arc;

use mill_core::Event;
use mill_core::acme::{AcmeFailure, AcmeFailureKind, AcmeOp, ChallengeKind};
use mill_core::effect::OpId;
use mill_core::name::NodeId;
use mill_core::time::Wall;
use mill_core::units::Millis;

use super::{Happening, World};
use crate::invariants::Moment;
use crate::models::authority::{Authority, Verdict};
use crate::models::clock::right;

/// Steps that do not get there, of a thousand.
const LOST: u64 = 40;
/// Answers that do not come back, of a thousand.
const UNANSWERED: u64 = 40;
/// Steps at which the authority loses its accounts, of a thousand.
const FORGETS: u64 = 5;

impl World {
    /// The authority, for a test to break.
    pub fn authority(&mut self) -> &mut Authority {
        &mut self.authority
    }

    /// A node asks the authority for something.
    pub(super) fn ask_authority(&mut self, node: NodeId, id: OpId, op: AcmeOp) {
        let now = self.now;
        let brief = match &op {
            AcmeOp::Register { .. } => "an account".to_owned(),
            AcmeOp::Order { name, .. } => format!("a certificate for {name}"),
            AcmeOp::Complete { url, .. } => format!("the end of {url}"),
            AcmeOp::Look { .. } => "when to renew".to_owned(),
        };
        self.trace.transition(now, || format!("{node} asks the authority for {brief}"));
        let wait = Millis(self.draw.authority.between(50, 2_000));
        self.after(wait, Happening::Certify { node, id, op });
    }

    /// The authority is asked, and answers whoever asked if that is still there.
    pub(super) fn certify(&mut self, node: NodeId, id: OpId, op: &AcmeOp) {
        let wild = !self.mended && self.params.fault_gap > Millis(0);
        if wild && self.draw.authority.chance(FORGETS) {
            self.authority.forget_accounts();
            self.stats.count("accounts lost");
        }
        let unreachable = AcmeFailure {
            kind: AcmeFailureKind::Unreachable,
            detail: "the authority does not answer".to_owned(),
        };
        if wild && self.draw.authority.chance(LOST) {
            let result = Err(unreachable);
            return self.tell(node, id.boot, Event::AcmeDone { id, result });
        }
        let wall = right(self.now);
        let result = match self.authority.take(wall, op) {
            Verdict::Done(result) => result,
            Verdict::Validate { url, name, kind } => self.validate(wall, &url, &name, kind),
        };
        let result = match wild && self.draw.authority.chance(UNANSWERED) {
            true => Err(unreachable),
            false => result,
        };
        self.stats.count(match result {
            Ok(_) => "steps of certificates",
            Err(_) => "steps of certificates that failed",
        });
        let wait = Millis(self.draw.authority.between(10, 1_000));
        self.tell_after(wait, node, id.boot, Event::AcmeDone { id, result });
    }

    /// It asks any of the cluster's machines.
    fn validate(
        &mut self,
        wall: Wall,
        url: &str,
        name: &str,
        kind: ChallengeKind,
    ) -> Result<mill_core::acme::AcmeOutput, AcmeFailure> {
        let members: Vec<NodeId> = self.cluster().nodes.keys().copied().collect();
        let asked = members[self.draw.authority.below(members.len() as u64) as usize];
        let proven = self.answers(asked, name, kind);
        self.observe(&Moment::Validation { now: self.now, name, proven: proven.is_ok() });
        self.authority.validated(wall, url, proven)
    }

    fn answers(&self, node: NodeId, name: &str, kind: ChallengeKind) -> Result<(), String> {
        let host = self.hosts.get(&node).filter(|host| host.is_up() && !host.frozen);
        let tables = host
            .and_then(|host| host.tables.as_ref())
            .filter(|(boot, _)| host.is_some_and(|host| host.boots == *boot));
        let Some((_, tables)) = tables else { return Err(format!("{node} does not answer")) };
        let asked = |c: &mill_core::acme::Challenge| c.kind == kind && c.name == name;
        match tables.challenges.iter().any(asked) {
            true => Ok(()),
            false => Err(format!("{node} answers 404")),
        }
    }

    /// What a node carries traffic by from now on.
    pub(super) fn carries(&mut self, node: NodeId, tables: Arc<mill_core::net::Tables>) {
        let host = self.host_mut(node);
        host.tables = Some((host.boots, tables));
    }
}
