//! The one ordered way out of a node: effects, and the ids that name their answers.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::acme::AcmeOp;
use crate::cluster::command::{Command, Entry, ProposalId};
use crate::container::ContainerOp;
use crate::effect::{Effect, OpId};
use crate::name::NodeId;
use crate::time::Wall;

/// Effects that wait to be polled.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outbox {
    node: NodeId,
    boot: u64,
    next_op: u64,
    next_proposal: u64,
    effects: VecDeque<Effect>,
}

impl Outbox {
    pub fn new(node: NodeId, boot: u64) -> Outbox {
        Outbox { node, boot, next_op: 1, next_proposal: 1, effects: VecDeque::new() }
    }

    pub fn pop(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    pub fn push(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    pub fn extend(&mut self, effects: impl IntoIterator<Item = Effect>) {
        self.effects.extend(effects);
    }

    /// Asks for a container operation; its answer carries the id.
    pub fn container(&mut self, op: ContainerOp) -> OpId {
        let id = OpId { boot: self.boot, seq: self.next_op };
        self.next_op += 1;
        self.push(Effect::Container { id, op });
        id
    }

    /// Asks a certificate authority; its answer carries the id.
    pub fn acme(&mut self, op: AcmeOp) -> OpId {
        let id = OpId { boot: self.boot, seq: self.next_op };
        self.next_op += 1;
        self.push(Effect::Acme { id, op: Box::new(op) });
        id
    }

    /// Proposes commands as one entry; its decisions were made for the members of that count.
    pub fn propose(
        &mut self,
        wall: Wall,
        intent: Option<u64>,
        commands: Vec<Command>,
    ) -> ProposalId {
        let id = ProposalId { node: self.node, boot: self.boot, seq: self.next_proposal };
        self.next_proposal += 1;
        self.push(Effect::Propose { entry: Box::new(Entry { id, wall, intent, commands }) });
        id
    }
}
