//! A network in memory between the nodes of one test: links are cut, and calls are counted.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::super::{Call, Transport};
use super::Consensus;

/// The network. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct Web {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<u64, Consensus>,
    /// From and to.
    cut: BTreeSet<(u64, u64)>,
    tried: BTreeMap<(u64, Call), u64>,
    /// Bytes of snapshots that arrived.
    snapshot_bytes: u64,
    /// Snapshot calls that still pass before some are lost, and how many are.
    snapshots_lost: Option<(u64, u64)>,
}

impl Web {
    /// The transport of this node.
    pub(super) fn of(&self, from: u64) -> Wire {
        Wire { web: self.clone(), from }
    }

    pub(super) fn put(&self, node: u64, consensus: Consensus) {
        self.lock().nodes.insert(node, consensus);
    }

    pub(super) fn take(&self, node: u64) {
        self.lock().nodes.remove(&node);
    }

    /// Nothing passes between this node and the others.
    pub(super) fn cut_off(&self, node: u64) {
        let mut state = self.lock();
        for other in 0..10 {
            state.cut.extend([(node, other), (other, node)]);
        }
    }

    pub(super) fn heal(&self) {
        self.lock().cut.clear();
    }

    /// After so many calls with a snapshot, so many are lost.
    pub(super) fn lose_snapshots(&self, after: u64, lost: u64) {
        self.lock().snapshots_lost = Some((after, lost));
    }

    /// How often this node tried this call, and how many bytes of snapshots arrived anywhere.
    pub(super) fn tried(&self, from: u64, call: Call) -> u64 {
        self.lock().tried.get(&(from, call)).copied().unwrap_or(0)
    }

    pub(super) fn snapshot_bytes(&self) -> u64 {
        self.lock().snapshot_bytes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    fn target(&mut self, from: u64, to: u64, call: Call, bytes: usize) -> Option<Consensus> {
        *self.tried.entry((from, call)).or_default() += 1;
        if self.cut.contains(&(from, to)) {
            return None;
        }
        if call == Call::Snapshot {
            if let Some((after, lost)) = &mut self.snapshots_lost {
                if *after == 0 && *lost > 0 {
                    *lost -= 1;
                    return None;
                }
                *after = after.saturating_sub(1);
            }
            self.snapshot_bytes += bytes as u64;
        }
        self.nodes.get(&to).cloned()
    }
}

/// One node's end of the network.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    web: Web,
    from: u64,
}

impl Transport for Wire {
    async fn call(
        &self,
        to: u64,
        call: Call,
        body: Vec<u8>,
        limit: Duration,
    ) -> io::Result<Vec<u8>> {
        let target = self.web.lock().target(self.from, to, call, body.len());
        let Some(target) = target else { return Err(io::ErrorKind::HostUnreachable.into()) };
        tokio::time::timeout(limit, target.answer(self.from, call, body)).await?
    }
}
