//! The receipt of a deploy: what became of each replica that it stopped. Who let go of it and when,
//! what was under way when it was asked to stop, how it ended.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Cluster;
use crate::cluster::alloc::{Alloc, Ending, Released, StopReason};
use crate::name::{AllocId, Name, Slot};
use crate::time::Wall;

/// Deploys whose receipt is kept, the latest.
pub const RECEIPTS_KEPT: usize = 10;
/// The most replicas on one receipt; those that stop first are on it.
pub const RECEIPT_LINES: usize = 1000;

/// What became of each replica that a deploy stopped.
pub type Receipt = BTreeMap<AllocId, Line>;

/// What became of one of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The slot that it filled.
    pub slot: Slot,
    /// The name of its node.
    pub node: String,
    /// Why it was stopped.
    pub reason: StopReason,
    /// When it left the routes, by the clock of the leader that said so.
    pub left: Wall,
    /// Who let go of it, once every node that was up had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<Released>,
    /// When it was gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<Wall>,
    /// How its stop went; absent if it ended otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
}

impl Cluster {
    /// A replica leaves: the deploy that moves its service, if one does, writes that down.
    pub(super) fn receipt_begins(&mut self, wall: Wall, id: &AllocId, reason: StopReason) {
        let Some(alloc) = self.allocs.get(id) else { return };
        let node = self.nodes.get(&alloc.node).map(|record| record.name.clone());
        let service = &alloc.slot.service;
        let moves = |changes: &BTreeMap<Name, _>| changes.contains_key(service);
        let Some((_, deploy)) = self.deploys.iter_mut().next_back() else { return };
        if !deploy.state.is_end() && moves(&deploy.changes) && deploy.receipt.len() < RECEIPT_LINES
        {
            let (slot, node) = (alloc.slot.clone(), node.unwrap_or_default());
            let line =
                Line { slot, node, reason, left: wall, released: None, gone: None, ending: None };
            deploy.receipt.insert(id.clone(), line);
        }
    }

    /// What is known of a replica that leaves, or is gone, is written down.
    pub(super) fn receipt_goes_on(&mut self, wall: Wall, id: &AllocId) {
        let Some(alloc) = self.allocs.get(id) else { return };
        let deploys = self.deploys.values_mut().rev().take(RECEIPTS_KEPT);
        let Some(line) = deploys.filter_map(|deploy| deploy.receipt.get_mut(id)).next() else {
            return;
        };
        let Alloc { leaving, status, .. } = alloc;
        line.released = leaving.as_ref().and_then(|leaving| leaving.released.clone());
        line.ending = status.ending;
        if !alloc.is_live() {
            line.gone.get_or_insert(wall);
        }
    }

    /// Old receipts go.
    pub(super) fn forget_receipts(&mut self) {
        let old = self.deploys.values_mut().rev().skip(RECEIPTS_KEPT);
        old.for_each(|deploy| deploy.receipt.clear());
    }
}
