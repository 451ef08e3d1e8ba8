//! Which replica gets the next connection: the one with the fewest of them from this node, one of
//! this node where they are even. One that could not be reached a moment ago comes last.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use mill_core::name::{AllocId, NodeId};
use mill_core::net::Replica;

/// Connections by replica. Clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Balance {
    load: Arc<Mutex<Load>>,
}

#[derive(Debug, Default)]
struct Load {
    open: BTreeMap<AllocId, Open>,
    /// Counts up with each choice, so that even ones take turns.
    turn: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Open {
    connections: u32,
    /// Failures since it was last reached.
    failures: u32,
    /// When it was chosen last.
    turn: u64,
}

/// A connection that counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub replica: Replica,
    balance: Balance,
}

impl Balance {
    fn load(&self) -> MutexGuard<'_, Load> {
        self.load.lock().expect("no code panics while it holds the counts")
    }

    /// One of the replicas that were not tried before; `None` if all were.
    pub fn choose(&self, here: NodeId, replicas: &[Replica], tried: &[AllocId]) -> Option<Chosen> {
        let mut load = self.load();
        let left = replicas.iter().filter(|replica| !tried.contains(&replica.alloc));
        let replica = left.min_by_key(|replica| {
            let open = load.open.get(&replica.alloc).copied().unwrap_or_default();
            (open.failures > 0, open.connections, replica.node != here, open.turn)
        })?;
        load.turn += 1;
        let turn = load.turn;
        let open = load.open.entry(replica.alloc.clone()).or_default();
        open.connections += 1;
        open.turn = turn;
        Some(Chosen { replica: replica.clone(), balance: self.clone() })
    }

    /// Forgets replicas that are gone and have no connection any more.
    pub fn retain(&self, replicas: &[Replica]) {
        let known = |alloc: &AllocId| replicas.iter().any(|replica| replica.alloc == *alloc);
        self.load().open.retain(|alloc, open| open.connections > 0 || known(alloc));
    }
}

impl Chosen {
    /// Whether it could be reached.
    pub fn reached(&self, reached: bool) {
        if let Some(open) = self.balance.load().open.get_mut(&self.replica.alloc) {
            open.failures = if reached { 0 } else { open.failures.saturating_add(1) };
        }
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        if let Some(open) = self.balance.load().open.get_mut(&self.replica.alloc) {
            open.connections = open.connections.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn replica(slot: u64, node: u64) -> Replica {
        let alloc = AllocId::known(&format!("web.{slot}-abcd"));
        let (node, host) = (NodeId(node), IpAddr::V4(Ipv4Addr::LOCALHOST));
        Replica { slot, alloc, node, host, port: 1 }
    }

    #[test]
    fn the_one_with_the_fewest_is_chosen_and_where_even_one_of_this_node() {
        let (balance, replicas) = (Balance::default(), [replica(0, 1), replica(1, 2)]);
        let choose = || balance.choose(NodeId(2), &replicas, &[]).unwrap();
        let first = choose();
        let second = choose();
        assert_eq!([first.replica.slot, second.replica.slot], [1, 0]);
        drop(second);
        assert_eq!(choose().replica.slot, 0, "it has none, the other has one");
    }

    #[test]
    fn even_ones_elsewhere_take_turns() {
        let (balance, replicas) = (Balance::default(), [replica(0, 1), replica(1, 2)]);
        let choose = || balance.choose(NodeId(3), &replicas, &[]).unwrap().replica.slot;
        assert_eq!([choose(), choose(), choose(), choose()], [0, 1, 0, 1]);
    }

    #[test]
    fn one_that_was_not_reached_comes_last_until_it_is() {
        let (balance, replicas) = (Balance::default(), [replica(0, 1), replica(1, 2)]);
        let choose = |tried: &[AllocId]| balance.choose(NodeId(1), &replicas, tried).unwrap();
        let failed = choose(&[]);
        failed.reached(false);
        drop(failed);
        assert_eq!(choose(&[]).replica.slot, 1);
        let again = choose(&[replicas[1].alloc.clone()]);
        again.reached(true);
        drop(again);
        assert_eq!(choose(&[]).replica.slot, 0);
        assert!(balance.choose(NodeId(1), &[], &[]).is_none());
    }
}
