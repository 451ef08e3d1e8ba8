//! Leaders, commits and what nodes hear of them: who can reach whom decides.
//!
//! Elections are not simulated message by message. A leader that cannot reach a quorum loses its
//! lead after a while and may not notice for longer; a node that can reach a quorum wins; entries
//! that were in flight survive or do not, as a prefix. Tier 2 runs the real protocol.

use std::collections::BTreeSet;

use mill_core::Event;
use mill_core::api::RequestId;
use mill_core::cluster::Revision;
use mill_core::cluster::command::Entry;
use mill_core::event::{Fate, Leadership};
use mill_core::name::NodeId;
use mill_core::node::Members;
use mill_core::units::Millis;

use super::gray::SLOW_SYNC;
use super::{Happening, World};
use crate::time::SimTime;

/// What is under way between leaders.
#[derive(Debug, Default)]
pub(super) struct Elections {
    /// When the leader is given up, if it does not reach a quorum before.
    gives_up_at: Option<SimTime>,
    /// When somebody wins, if somebody can.
    wins_at: Option<SimTime>,
    /// Whether a commit is on its way.
    committing: bool,
}

/// Without a quorum for this long at least, a leader is not the leader any more; up to twice.
const LEASE: Millis = Millis(1_000);
/// A deposed leader that hears nobody notices after this long at most.
const NOTICES: Millis = Millis(4_000);
/// A proposal to nobody fails after this long at most.
const PROPOSAL_TIMEOUT: Millis = Millis(5_000);
/// The most entries that reach a node at once.
const FED_AT_ONCE: u64 = 64;
/// A node this far behind may be sent a snapshot instead.
const SNAPSHOT_GAP: u64 = 8;

impl World {
    fn alive(&self, node: NodeId) -> bool {
        self.hosts.get(&node).is_some_and(|host| host.is_up() && !host.frozen)
    }

    fn reaches_quorum(&self, node: NodeId) -> bool {
        let voters = self.log.voters().iter();
        let heard = voters.filter(|v| self.alive(**v) && self.connected(node, **v));
        self.alive(node) && heard.count() > self.log.voters().len() / 2
    }

    /// Looks whether the leader still leads, or who could.
    pub(super) fn watch_leader(&mut self) {
        let now = self.now;
        match self.log.leader {
            Some(leader) if self.reaches_quorum(leader) => {
                self.ground.elections_mut().gives_up_at = None
            }
            Some(leader) => {
                let wait = Millis(self.draw.consensus.between(LEASE.0, 2 * LEASE.0));
                let at = *self.ground.elections_mut().gives_up_at.get_or_insert(now + wait);
                if at <= now {
                    self.depose(leader);
                }
            }
            None => {
                let wait = Millis(self.draw.consensus.between(200, 1_500));
                let at = *self.ground.elections_mut().wins_at.get_or_insert(now + wait);
                if at <= now {
                    self.ground.elections_mut().wins_at = None;
                    self.elect();
                }
            }
        }
        for node in self.hosts.keys().copied().collect::<Vec<_>>() {
            self.feed_soon(node);
            self.hear_soon(node);
            self.hear_of_members(node);
        }
    }

    /// A node learns who votes and who follows, if somebody can tell it.
    fn hear_of_members(&mut self, node: NodeId) {
        let (version, members) = self.log.members();
        let host = &self.hosts[&node];
        let known = host.members.as_ref().is_some_and(|(known, _)| *known == version);
        let Some(leader) = self.log.leader.filter(|_| !known && host.is_up()) else { return };
        if self.log.is_member(node) && self.connected(leader, node) {
            let (members, boot) = (members.clone(), host.boots);
            self.learn_members(node, boot, version, members);
        }
    }

    /// A node's wish for other members is on its way to a quorum, if it leads.
    pub(super) fn change_soon(&mut self, node: NodeId, members: Members) {
        if self.leads(node) {
            let way = self.network.delay().0 + self.network.delay().0;
            let term = self.log.term;
            self.after(Millis(way), Happening::Change { leader: node, term, members });
        }
    }

    /// Members change, if a majority of the old and of the new ones can be reached: both steps of
    /// a joint change (Ongaro 2014, section 4.3) as one.
    pub(super) fn change(&mut self, leader: NodeId, term: u64, members: Members) {
        let still = self.log.term == term && self.leads(leader);
        let heard = |voters: &BTreeSet<NodeId>| {
            let alive = voters.iter().filter(|v| self.alive(**v));
            alive.filter(|v| self.connected(leader, **v)).count() > voters.len() / 2
        };
        if !still || !heard(self.log.voters()) || !heard(&members.voters) {
            return;
        }
        while self.log.has_in_flight() {
            self.commit_one();
        }
        self.log.change_members(members);
        let now = self.now;
        let (version, members) = self.log.members();
        let members = members.clone();
        self.stats.count("changes of members");
        self.trace.mark(&[22, version]);
        self.trace.transition(now, || format!("members change: {members:?}"));
        let boot = self.host(leader).boots;
        self.feed_all(leader, boot);
        self.learn_members(leader, boot, version, members.clone());
        if !members.voters.contains(&leader) {
            self.depose(leader);
        }
    }

    /// Whether a node leads and knows it.
    fn leads(&self, node: NodeId) -> bool {
        let current = Leadership::Leader { term: self.log.term };
        self.log.leader == Some(node) && self.host(node).fed.leadership == current
    }

    /// The leader is one no more, and may not know it.
    pub(super) fn depose(&mut self, leader: NodeId) {
        self.log.leader = None;
        self.ground.elections_mut().gives_up_at = None;
        self.ground.elections_mut().wins_at = None;
        let (now, term) = (self.now, self.log.term);
        self.trace.transition(now, || format!("{leader} lost its lead of term {term}"));
        // Whoever waits for an entry may be told that its fate is unknown before that is decided.
        for id in self.log.in_flight().collect::<Vec<_>>() {
            if self.draw.consensus.chance(500) {
                let wait = Millis(self.draw.consensus.below(NOTICES.0));
                let event = Event::ProposalFailed { id, fate: Fate::Unknown };
                self.tell_after(wait, id.node, id.boot, event);
            }
        }
        let boot = self.host(leader).boots;
        let notices = Millis(self.draw.consensus.below(NOTICES.0));
        self.after(notices, Happening::HearOfLeader { node: leader, boot });
    }

    fn elect(&mut self) {
        let able: Vec<NodeId> =
            self.log.voters().iter().copied().filter(|v| self.reaches_quorum(*v)).collect();
        if able.is_empty() {
            return;
        }
        let winner = able[self.draw.consensus.below(able.len() as u64) as usize];
        self.crown(winner);
    }

    /// A leader asks another node to take its place (Raft, section 3.10: it stands for election at
    /// once). Nothing comes of it if the leader leads no more, or the news is lost.
    pub(super) fn ask_to_lead(&mut self, from: NodeId, to: NodeId) {
        let now = self.now;
        self.stats.count("leads handed on");
        self.trace.transition(now, || format!("{from} hands its lead to {to}"));
        let term = self.log.term;
        let right = self.host(from).fed.leadership == Leadership::Leader { term };
        if self.log.leader != Some(from) || !right {
            return;
        }
        if let Some(delay) = self.carry(from, to).first() {
            self.after(*delay, Happening::Transfer { to, term });
        }
    }

    /// A node stands for election at once; it wins if it votes and reaches a quorum.
    pub(super) fn transfer(&mut self, to: NodeId, term: u64) {
        let Some(leader) = self.log.leader.filter(|_| self.log.term == term) else { return };
        if leader == to || !self.log.voters().contains(&to) || !self.reaches_quorum(to) {
            return;
        }
        self.depose(leader);
        self.stats.count("leads taken over");
        self.crown(to);
    }

    /// A new term begins.
    fn crown(&mut self, winner: NodeId) {
        // Whatever its last leader had in flight survives up to some entry.
        while self.log.has_in_flight() && self.draw.consensus.chance(600) {
            self.commit_one();
        }
        self.win(winner);
    }

    fn win(&mut self, winner: NodeId) {
        let skipped = self.draw.consensus.below(3);
        let lost = self.log.begin_term(winner, skipped);
        let (now, term) = (self.now, self.log.term);
        self.stats.count("elections");
        self.trace.mark(&[20, winner.0, term]);
        self.trace.transition(now, || format!("{winner} leads term {term}"));
        for entry in lost {
            self.stats.count("entries lost with their leader");
            let proposer = entry.id.node;
            let event = Event::ProposalFailed { id: entry.id, fate: Fate::Unknown };
            let wait = Millis(self.draw.consensus.below(NOTICES.0));
            self.tell_after(wait, proposer, entry.id.boot, event);
        }
        // Others may hear of it before it knows itself.
        let boot = self.host(winner).boots;
        let wait = self.commit_takes(winner);
        self.after(wait, Happening::Leads { node: winner, boot, term });
    }

    /// The first entry of its term is committed: a node knows that it leads, and what came before.
    pub(super) fn begins_to_lead(&mut self, node: NodeId, boot: u64, term: u64) {
        if self.log.leader != Some(node) || self.log.term != term {
            return;
        }
        self.feed_all(node, boot);
        let (version, members) = self.log.members();
        let members = members.clone();
        self.learn_members(node, boot, version, members);
        self.learn(node, boot, Leadership::Leader { term });
    }

    /// A node wants an entry in the log.
    pub(super) fn propose(&mut self, node: NodeId, boot: u64, entry: Entry) {
        let id = entry.id;
        let believed = self.host(node).fed.leadership;
        let hears_nobody = self.leads(node) && self.missed_its_quorum();
        if self.leads(node) && !hears_nobody {
            self.log.accept(entry);
            self.commit_soon();
            return;
        }
        let (wait, fate) = match believed {
            Leadership::Leader { .. } if hears_nobody => (Millis(0), Fate::Refused),
            // It does not know better, and nobody hears it.
            Leadership::Leader { .. } => {
                (Millis(self.draw.consensus.between(1_000, PROPOSAL_TIMEOUT.0)), Fate::Unknown)
            }
            Leadership::Follower { .. } => (Millis(0), Fate::Refused),
        };
        self.tell_after(wait, node, boot, Event::ProposalFailed { id, fate });
    }

    /// Whether the leader has been without a quorum for so long that it takes no proposals until it
    /// reaches one again (openraft's CheckQuorum).
    fn missed_its_quorum(&self) -> bool {
        self.ground.elections().gives_up_at.is_some_and(|at| at <= self.now + LEASE)
    }

    fn commit_soon(&mut self) {
        if !self.ground.elections_mut().committing {
            self.ground.elections_mut().committing = true;
            let Some(leader) = self.log.leader else { return };
            let wait = self.commit_takes(leader);
            self.after(wait, Happening::Commit);
        }
    }

    /// How long an entry of a leader takes to a quorum's disks and back.
    fn commit_takes(&mut self, leader: NodeId) -> Millis {
        let way = self.network.delay().0 + self.network.delay().0;
        let slow = self.hosts.get(&leader).is_some_and(|host| host.slow_disk);
        let (low, high) = if slow { SLOW_SYNC } else { self.params.sync };
        Millis(way + self.draw.consensus.between(low.0, high.0))
    }

    /// What is in flight has reached a quorum, if the leader reaches one.
    pub(super) fn commit(&mut self) {
        self.ground.elections_mut().committing = false;
        let Some(leader) = self.log.leader else { return };
        if !self.reaches_quorum(leader) {
            // Tried again until there is a quorum or another leader.
            self.ground.elections_mut().committing = true;
            self.after(Millis(50), Happening::Commit);
            return;
        }
        while self.log.has_in_flight() {
            self.commit_one();
        }
        let boot = self.host(leader).boots;
        self.feed_all(leader, boot);
    }

    fn commit_one(&mut self) {
        if let Some((at, entry)) = self.log.commit_next() {
            self.committed(at, &entry);
        }
    }

    /// More of the log will reach a node, if there is more and somebody to send it.
    pub(super) fn feed_soon(&mut self, node: NodeId) {
        let (now, end) = (self.now, self.log.end());
        let Some(leader) = self.log.leader else { return };
        let host = &self.hosts[&node];
        if !self.log.is_member(node) {
            // One that thinks that it votes asks for votes, and is told why it gets none.
            if host.votes(node) && self.reaches(node, leader) {
                self.dismissed(node, leader);
            }
            return;
        }
        let behind = host.fed.applied < end || !host.fed.caught_up;
        // Whether its answer arrives is nothing to who takes in what is committed.
        let reachable = self.alive(leader) && self.reaches(leader, node);
        if !host.is_up() || !behind || host.fed.coming || host.lags_until > now || !reachable {
            return;
        }
        let boot = host.boots;
        let delay = self.network.delay();
        self.host_mut(node).fed.coming = true;
        self.after(delay, Happening::Feed { node, boot });
    }

    /// A part of the log reaches a node.
    pub(super) fn feed(&mut self, node: NodeId, boot: u64) {
        let host = self.host_mut(node);
        if host.boots != boot || !host.is_up() {
            return;
        }
        host.fed.coming = false;
        let applied = host.fed.applied;
        let gap = self.log.end() - applied;
        if gap > SNAPSHOT_GAP
            && self.draw.consensus.chance(300)
            && let Some((at, bytes)) = self.log.snapshot_beyond(applied)
        {
            self.stats.count("snapshots sent");
            self.host_mut(node).fed.applied = at.index;
            self.tell(node, boot, Event::Restored { at, bytes: bytes.to_vec() });
        }
        self.feed_up_to(node, boot, FED_AT_ONCE);
        self.feed_soon(node);
    }

    /// A daemon that starts again reads in its own log what it knew to be committed: any part of
    /// what its node had applied.
    pub(super) fn remembers(&mut self, node: NodeId, boot: u64, had_applied: u64) {
        let from = self.host(node).fed.applied;
        if had_applied > from {
            let known = self.draw.consensus.between(from, had_applied);
            self.feed_entries(node, boot, known - from);
        }
    }

    fn feed_all(&mut self, node: NodeId, boot: u64) {
        self.feed_up_to(node, boot, u64::MAX);
    }

    fn feed_up_to(&mut self, node: NodeId, boot: u64, most: u64) {
        self.feed_entries(node, boot, most);
        let fed = &mut self.host_mut(node).fed;
        if !fed.caught_up && fed.applied >= fed.behind {
            fed.caught_up = true;
            self.tell(node, boot, Event::CaughtUp);
        }
    }

    fn feed_entries(&mut self, node: NodeId, boot: u64, most: u64) {
        let end = self.log.end();
        let mut given = 0;
        while self.host(node).fed.applied < end && given < most && self.host(node).is_up() {
            let index = self.host(node).fed.applied + 1;
            self.host_mut(node).fed.applied = index;
            given += 1;
            let Some(entry) = self.log.entry(index).cloned() else { continue };
            let at = Revision { epoch: 0, index };
            self.tell(node, boot, Event::Committed { at, entry });
            self.compare_state(node);
        }
    }

    fn hear_soon(&mut self, node: NodeId) {
        let host = &self.hosts[&node];
        if !host.is_up() || host.fed.hearing || self.right_belief(node) == host.fed.leadership {
            return;
        }
        let Some(leader) = self.log.leader.filter(|leader| *leader != node) else { return };
        let reaches = self.alive(leader) && self.reaches(leader, node);
        if self.log.is_member(node) && reaches {
            let (boot, delay) = (host.boots, self.network.delay());
            self.host_mut(node).fed.hearing = true;
            self.after(delay, Happening::HearOfLeader { node, boot });
        }
    }

    /// What a node would believe that knew everything.
    fn right_belief(&self, node: NodeId) -> Leadership {
        let term = self.log.term;
        match self.log.leader {
            Some(leader) if leader == node => Leadership::Leader { term },
            leader => Leadership::Follower { leader, term },
        }
    }

    /// A node learns who leads, or that it does not any more.
    pub(super) fn hear_of_leader(&mut self, node: NodeId, boot: u64) {
        let host = self.host_mut(node);
        if host.boots != boot {
            return;
        }
        host.fed.hearing = false;
        let belief = match self.right_belief(node) {
            // Told when it wins, and at no other time.
            Leadership::Leader { .. } => return,
            Leadership::Follower { leader, term } => {
                let known = leader.filter(|leader| self.reaches(*leader, node));
                Leadership::Follower { leader: known, term }
            }
        };
        self.learn(node, boot, belief);
    }

    /// A quorum says whether a node leads, some time after it asked.
    pub(super) fn confirm(&mut self, node: NodeId, boot: u64, request: RequestId) {
        let confirmed = self.leads(node) && self.reaches_quorum(node);
        let back = self.network.delay();
        let wait = if confirmed { back } else { Millis(back.0 + 1_000) };
        self.tell_after(wait, node, boot, Event::ReadConfirmed { id: request, confirmed });
    }
}
