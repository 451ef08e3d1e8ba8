//! Ports that rest: given up before every member had said that it sends nothing there any more.
//!
//! A member that is cut off goes on by the tables that it has. Whoever got such a port next would be
//! sent what is meant for the service that had it, so no other service gets it until every member
//! has followed, or was removed. Told by `sim-tests/tests/scenarios/ports.rs`; the invariant is
//! `misled`.

use serde::{Deserialize, Serialize};

use super::apply::stale;
use super::{Cluster, Refusal, Reply, Revision};
use crate::mutant::{self, Mutant};
use crate::name::{AllocId, Name, NodeId};

/// A port that rests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resting {
    /// The service that had it, and may have it again.
    pub service: Name,
    /// When it was given up: whoever has applied this sends nothing there.
    pub since: Revision,
}

impl Cluster {
    /// Ports of a node that rest.
    pub fn resting_on(&self, node: NodeId) -> impl Iterator<Item = (u16, &Resting)> {
        let ports = self.resting.get(&node).into_iter().flatten();
        ports.map(|(port, resting)| (*port, resting))
    }

    /// The service for which a port of a node rests, unless it is that one's.
    pub fn rests_for(&self, node: NodeId, port: u16, service: &Name) -> Option<&Name> {
        let resting = self.resting.get(&node)?.get(&port)?;
        (resting.service != *service).then_some(&resting.service)
    }

    /// Lets the port rest that a replica gave up then, unless every member has let go of it.
    pub(super) fn rest_port(&mut self, id: &AllocId, since: Revision) {
        let Some(alloc) = self.allocs.get(id).filter(|alloc| alloc.served) else { return };
        let Some(port) = alloc.port else { return };
        let released = alloc.leaving.as_ref().and_then(|leaving| leaving.released.as_ref());
        let knows = |node: &NodeId| released.is_some_and(|released| released.by.contains(node));
        if !self.nodes.keys().all(knows) && !mutant::is(Mutant::PortGivenAtOnce) {
            let resting = Resting { service: alloc.slot.service.clone(), since };
            self.resting.entry(alloc.node).or_default().insert(port, resting);
        }
    }

    /// Every member has said that it sends nothing to ports that were given up until then.
    pub(super) fn free_ports(&mut self, until: Revision) -> Result<Reply, Refusal> {
        let mut freed = false;
        self.resting.retain(|_, ports| {
            let before = ports.len();
            ports.retain(|_, resting| resting.since > until);
            freed |= ports.len() < before;
            !ports.is_empty()
        });
        match freed {
            true => Ok(Reply::Done),
            false => Err(stale("no port rests since then")),
        }
    }
}
