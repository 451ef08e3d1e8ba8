//! Real consensus under the nodes, as seen from here: two queues of values, and nothing async.
//!
//! Each daemon has a host outside of this world, which runs its consensus. Starts, ends and what
//! nodes ask leave as [`Order`]s; what consensus says comes back through [`World::log_says`].
//! `raft/nodes.rs` carries both. Nothing is drawn here: leaders, terms and members are what nodes
//! were told. Held to here is what a log promises its reader: equal entries everywhere, in order,
//! each once and none left out; and a start that is caught up has all that was given before it.

use std::sync::Arc;

use mill_core::Event;
use mill_core::cluster::Revision;
use mill_core::cluster::command::Entry;
use mill_core::event::Leadership;
use mill_core::name::NodeId;
use mill_core::node::Members;

use super::World;
use super::ground::{Ask, Ground};

/// What hosts are to do next, in order.
#[derive(Default)]
pub(super) struct Bridge(Vec<Order>);

/// What a host is to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// To run consensus for the daemon that has started.
    Start(NodeId),
    /// To stop, as if the power had failed.
    Stop(NodeId),
    /// To carry out what that boot of a daemon asks.
    Ask(NodeId, u64, Ask),
}

/// What the consensus of a node says to it.
#[derive(Debug)]
pub(crate) enum Said {
    /// The state as of an index, in place of all entries up to there.
    Restored { index: u64, bytes: Vec<u8> },
    /// An entry is committed.
    Committed { index: u64, entry: Box<Entry> },
    /// A snapshot is wanted.
    SnapshotWanted,
    /// Who votes and who follows.
    Members(Members),
    /// All that was committed before the start has been said.
    CaughtUp,
    /// Who leads.
    Leadership(Leadership),
    /// What became of something that the node asked.
    Became(Box<Event>),
}

impl Bridge {
    pub fn starts(&mut self, node: NodeId) {
        self.0.push(Order::Start(node));
    }

    pub fn ask(&mut self, node: NodeId, boot: u64, ask: Ask) {
        self.0.push(Order::Ask(node, boot, ask));
    }
}

impl World {
    /// What hosts are to do since the last look.
    pub(crate) fn take_orders(&mut self) -> Vec<Order> {
        self.real().map(|bridge| std::mem::take(&mut bridge.0)).unwrap_or_default()
    }

    fn real(&mut self) -> Option<&mut Bridge> {
        match &mut self.ground {
            Ground::Modelled(_) => None,
            Ground::Real(bridge) => Some(bridge),
        }
    }

    fn orders(&mut self, order: Order) {
        self.real().expect("only real consensus has hosts").0.push(order);
    }

    /// A daemon is about to be gone; its consensus ends with it.
    pub(super) fn host_stops(&mut self, node: NodeId) {
        if !self.host(node).is_up() {
            return;
        }
        if self.log.leader == Some(node) {
            self.log.leader = None;
        }
        let host = self.host_mut(node);
        host.had = host.had.max(host.fed.applied);
        // It is told again.
        host.members = None;
        self.orders(Order::Stop(node));
    }

    /// The leader hands its lead on, for no reason, to the next that votes.
    pub(super) fn host_hands_on(&mut self, leader: NodeId) {
        let voters = self.log.voters();
        let next = voters.range(leader..).nth(1).or_else(|| voters.first()).copied();
        let boot = self.host(leader).boots;
        if let Some(to) = next.filter(|to| *to != leader) {
            self.orders(Order::Ask(leader, boot, Ask::TransferLead(to)));
        }
    }

    /// A machine that was removed and thinks that it votes asks for votes, and is told why it gets
    /// none.
    pub(super) fn watch_dismissed(&mut self) {
        let Some(leader) = self.log.leader else { return };
        let nodes = &self.log.reference.nodes;
        let strangers = self.hosts.values().filter(|host| !nodes.contains_key(&host.id));
        let asks = strangers.filter(|host| host.is_up() && host.votes(host.id));
        let up: Vec<NodeId> = asks.map(|host| host.id).collect();
        for node in up {
            if self.reaches(node, leader) {
                self.dismissed(node, leader);
            }
        }
    }

    /// Consensus says something to that boot of a node.
    pub(crate) fn log_says(&mut self, node: NodeId, boot: u64, said: Said) {
        let host = self.host(node);
        if host.boots != boot || !host.is_up() {
            return;
        }
        match said {
            Said::Restored { index, bytes } => self.is_given_a_state(node, boot, index, bytes),
            Said::Committed { index, entry } => self.is_given(node, boot, index, (*entry).into()),
            Said::SnapshotWanted => self.tell(node, boot, Event::SnapshotWanted),
            Said::Members(members) => {
                let version = self.log.end();
                if self.log.leader.is_none_or(|leader| leader == node) {
                    self.log.learn_members(members.clone());
                }
                self.learn_members(node, boot, version, members);
            }
            Said::CaughtUp => {
                let host = self.host_mut(node);
                host.fed.caught_up = true;
                let (has, had) = (host.fed.applied, host.had);
                if has < had {
                    let detail = format!("{node} is caught up at {has}, and had {had} before");
                    self.does_not_hold("caught-up", detail);
                }
                self.tell(node, boot, Event::CaughtUp);
            }
            Said::Leadership(belief) => {
                self.is_led(node, belief);
                self.learn(node, boot, belief);
            }
            Said::Became(event) => self.tell(node, boot, *event),
        }
    }

    fn is_given_a_state(&mut self, node: NodeId, boot: u64, index: u64, bytes: Vec<u8>) {
        let has = self.host(node).fed.applied;
        if index < has {
            self.does_not_hold("applied", format!("{node} goes back from {has} to {index}"));
        }
        self.host_mut(node).fed.applied = index;
        let at = Revision { epoch: 0, index };
        self.tell(node, boot, Event::Restored { at, bytes });
        self.compare_state(node);
    }

    fn is_given(&mut self, node: NodeId, boot: u64, index: u64, entry: Arc<Entry>) {
        let has = self.host(node).fed.applied;
        let at = Revision { epoch: 0, index };
        if index <= has {
            self.does_not_hold("applied", format!("{node} is given {index} after {has}"));
        }
        if let Some(skipped) = self.log.entry_between(has, index) {
            self.does_not_hold("applied", format!("{node} is not given {skipped} of the log"));
        }
        if index > self.log.end() {
            self.log.learn(index, entry.clone());
            self.committed(at, &entry);
        } else if self.log.entry(index).is_none_or(|known| *known != entry) {
            self.does_not_hold("applied", format!("{node} is given another entry {index}"));
        }
        self.host_mut(node).fed.applied = index;
        self.tell(node, boot, Event::Committed { at, entry });
        self.compare_state(node);
    }

    /// Who leads, as the newest leader says.
    fn is_led(&mut self, node: NodeId, belief: Leadership) {
        let now = self.now;
        match belief {
            Leadership::Leader { term } if term >= self.log.term => {
                self.stats.count("elections");
                self.trace.mark(&[20, node.0, term]);
                self.trace.transition(now, || format!("{node} leads term {term}"));
                (self.log.term, self.log.leader) = (term, Some(node));
                if let Some((_, members)) = self.host(node).members.clone() {
                    self.log.learn_members(members);
                }
            }
            Leadership::Leader { .. } => {}
            Leadership::Follower { .. } if self.log.leader == Some(node) => {
                self.trace.transition(now, || format!("{node} leads no more"));
                self.log.leader = None;
            }
            Leadership::Follower { .. } => {}
        }
    }

    fn does_not_hold(&mut self, invariant: &'static str, detail: String) {
        super::record(&mut self.violation, self.now, Err((invariant, detail)));
    }
}

#[cfg(test)]
mod tests {
    use mill_core::cluster::command::ProposalId;
    use mill_core::time::Wall;
    use mill_core::units::Millis;

    use super::*;
    use crate::params::Params;
    use crate::world::faults::Fault;

    const NODE: NodeId = NodeId(1);

    fn entry(seq: u64) -> Box<Entry> {
        let id = ProposalId { node: NODE, boot: 1, seq };
        Box::new(Entry { id, wall: Wall(0), intent: None, commands: Vec::new() })
    }

    fn committed(index: u64, seq: u64) -> Said {
        Said::Committed { index, entry: entry(seq) }
    }

    /// One machine that was given entries at 2 and 4, and has started again.
    fn restarted() -> World {
        let mut world = World::on_real_consensus(Params::calm(1, 1), None);
        world.run_for(Millis::secs(2));
        world.log_says(NODE, 1, committed(2, 1));
        world.log_says(NODE, 1, committed(4, 2));
        world.inject(Fault::Crash(NODE), Millis::secs(1));
        world.run_for(Millis::secs(2));
        world
    }

    /// What does not hold, if that is said to the second boot.
    fn violated(said: impl IntoIterator<Item = Said>) -> Option<&'static str> {
        let mut world = restarted();
        said.into_iter().for_each(|said| world.log_says(NODE, 2, said));
        world.violation().map(|violation| violation.invariant)
    }

    #[test]
    fn starts_and_ends_of_daemons_are_orders_for_their_hosts() {
        let orders = restarted().take_orders();
        let told: Vec<&str> = orders
            .iter()
            .filter_map(|order| match order {
                Order::Start(_) => Some("start"),
                Order::Stop(_) => Some("stop"),
                Order::Ask(..) => None,
            })
            .collect();
        assert_eq!(told, ["start", "stop", "start"]);
    }

    #[test]
    fn a_log_that_says_the_same_again_holds() {
        assert_eq!(violated([committed(2, 1), committed(4, 2), Said::CaughtUp]), None);
        assert_eq!(violated([committed(2, 1), committed(4, 2), committed(9, 3)]), None);
    }

    #[test]
    fn each_way_to_break_its_promise_is_found() {
        assert_eq!(violated([committed(2, 7)]), Some("applied"), "another entry");
        assert_eq!(violated([committed(3, 2)]), Some("applied"), "at another place");
        assert_eq!(violated([committed(4, 2)]), Some("applied"), "one is left out");
        assert_eq!(violated([committed(2, 1), committed(2, 1)]), Some("applied"), "twice");
        assert_eq!(violated([committed(2, 1), Said::CaughtUp]), Some("caught-up"), "too early");
    }

    #[test]
    fn what_is_said_to_a_boot_that_is_over_is_not_heard() {
        let mut world = restarted();
        world.log_says(NODE, 1, committed(2, 7));
        assert_eq!(world.violation(), None);
        assert_eq!(world.host(NODE).applied(), 0);
    }
}
