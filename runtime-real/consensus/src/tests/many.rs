//! Several nodes: elections, entries on all of them, snapshots to those that lag, members that
//! change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::super::disk::SimulatedDisk;
use super::super::{Call, ChangeError};
use super::web::Web;
use super::{Leadership, Node, Options, PATIENCE, Proposal, Seen, options, texts};

/// Long enough that a busy machine elects nobody by mistake.
fn patient(node: u64) -> Options {
    Options {
        node,
        heartbeat: Duration::from_millis(40),
        election_min: Duration::from_millis(200),
        election_max: Duration::from_millis(400),
        ..options()
    }
}

/// What one call carries of a snapshot.
const PIECE_BYTES: u64 = 1 << 20;

/// For tests that move megabytes, which an unoptimised build does slowly.
fn unhurried(node: u64) -> Options {
    Options {
        election_min: Duration::from_secs(2),
        election_max: Duration::from_secs(3),
        snapshot_piece_bytes: PIECE_BYTES,
        ..patient(node)
    }
}

struct Many {
    web: Web,
    options: fn(u64) -> Options,
    disks: BTreeMap<u64, SimulatedDisk>,
    nodes: BTreeMap<u64, Node>,
}

impl Many {
    /// A cluster in which all of them vote.
    async fn start(voters: u64) -> Many {
        Many::start_with(voters, patient).await
    }

    async fn start_with(voters: u64, options: fn(u64) -> Options) -> Many {
        let (disks, nodes) = (BTreeMap::new(), BTreeMap::new());
        let mut many = Many { web: Web::default(), options, disks, nodes };
        for node in 1..=voters {
            many.open(node).await;
        }
        many.nodes[&1].consensus.initialize_single().await.unwrap();
        many.nodes[&1].until("the first leads", Node::leads).await;
        many.change(1, 1..=voters, []).await.unwrap();
        many
    }

    async fn open(&mut self, node: u64) {
        let disk = Arc::new(self.disks.entry(node).or_default().clone());
        let opened = Node::open_with((self.options)(node), disk, self.web.of(node)).await.unwrap();
        self.web.put(node, opened.consensus.clone());
        self.nodes.insert(node, opened);
    }

    /// Stops the node at once and loses some of what it had not synced.
    async fn crash(&mut self, node: u64) {
        self.web.take(node);
        self.disks[&node].cut_power_at(0);
        drop(self.nodes.remove(&node).unwrap().stop().await);
        self.disks[&node].restart(node);
    }

    async fn change(
        &self,
        at: u64,
        voters: impl IntoIterator<Item = u64>,
        learners: impl IntoIterator<Item = u64>,
    ) -> Result<(), ChangeError> {
        let (voters, learners) = (voters.into_iter().collect(), learners.into_iter().collect());
        let changing = self.nodes[&at].consensus.change_members(voters, learners);
        tokio::time::timeout(PATIENCE, changing).await.expect("a change ends")
    }

    /// The node that leads with the newest term, once there is one among these.
    async fn leader_among(&self, nodes: impl IntoIterator<Item = u64>) -> u64 {
        let nodes: BTreeSet<u64> = nodes.into_iter().collect();
        let leads = async {
            loop {
                let terms = nodes.iter().filter_map(|node| match self.seen(*node).leadership {
                    Some(Leadership::Leader { term }) => Some((term, *node)),
                    Some(Leadership::Follower { .. }) | None => None,
                });
                if let Some((_, node)) = terms.max() {
                    return node;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, leads).await.expect("one of them leads")
    }

    async fn leader(&self) -> u64 {
        self.leader_among(self.nodes.keys().copied()).await
    }

    fn seen(&self, node: u64) -> Seen {
        self.nodes[&node].seen.borrow().clone()
    }

    /// Waits until these have all that the first of them has, and returns it.
    async fn converge(&self, nodes: impl IntoIterator<Item = u64>) -> Vec<String> {
        let mut nodes = nodes.into_iter();
        let first = self.seen(nodes.next().unwrap()).state;
        for node in nodes {
            let seen = self.nodes[&node]
                .until("it has every entry", |seen| seen.state.len() >= first.len())
                .await;
            assert_eq!(seen.state[..first.len()], first, "node {node}");
        }
        texts(&first)
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let holding = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, holding).await.is_ok(), "never: {what}");
    }

    fn term(&self, node: u64) -> u64 {
        self.nodes[&node].consensus.status().term
    }
}

#[tokio::test]
async fn every_node_gets_every_entry_and_a_follower_sends_callers_to_the_leader() {
    let many = Many::start(3).await;
    let leader = many.leader().await;
    let expected: Vec<String> = (0..30).map(|number| number.to_string()).collect();
    for text in &expected {
        many.nodes[&leader].commit(text).await;
    }
    assert_eq!(many.converge([leader, 1, 2, 3]).await, expected);
    for node in (1..=3).filter(|node| *node != leader) {
        let refused = many.nodes[&node].propose("elsewhere").await;
        assert_eq!(refused, Proposal::NotLeader { leader: Some(leader) });
        assert!(many.nodes[&node].consensus.confirm_read().await.is_err());
        let seen = many.nodes[&node].until("it is caught up", |seen| seen.is_caught_up).await;
        assert_eq!(seen.members, Some(([1, 2, 3].into(), [].into())));
    }
    let confirmed = many.nodes[&leader].consensus.confirm_read().await;
    assert_eq!(confirmed, Ok(many.seen(leader).last()));
}

#[tokio::test]
async fn a_leader_that_crashes_is_replaced_and_catches_up_when_it_returns() {
    let mut many = Many::start(3).await;
    for round in 0..3 {
        let leader = many.leader().await;
        many.nodes[&leader].commit(&format!("before {round}")).await;
        many.crash(leader).await;
        let next = many.leader().await;
        many.nodes[&next].commit(&format!("after {round}")).await;
        many.open(leader).await;
        let seen = many.nodes[&leader].until("it is caught up", |seen| seen.is_caught_up).await;
        assert!(seen.state.len() > 2 * round, "all that it had applied comes before");
        assert_eq!(many.converge([next, leader]).await.len(), 2 * (round + 1));
    }
}

#[tokio::test]
async fn what_a_cut_off_leader_took_is_unknown_and_never_called_committed() {
    let many = Many::start(3).await;
    let leader = many.leader().await;
    many.nodes[&leader].commit("before").await;
    many.web.cut_off(leader);
    let consensus = many.nodes[&leader].consensus.clone();
    let lost = tokio::spawn(async move { consensus.propose(b"lost".to_vec()).await });
    let others = (1..=3).filter(|node| *node != leader);
    let next = many.leader_among(others).await;
    many.nodes[&next].commit("after").await;
    assert!(many.nodes[&leader].consensus.confirm_read().await.is_err());
    many.web.heal();
    let lost = tokio::time::timeout(PATIENCE, lost).await.expect("it ends").unwrap();
    assert!(matches!(lost, Proposal::Unknown { .. }), "{lost:?}");
    assert_eq!(many.converge([next, leader]).await, ["before", "after"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lags_gets_a_snapshot_in_pieces_and_a_break_costs_one_of_them() {
    let many = Many::start_with(3, unhurried).await;
    let leader = many.leader().await;
    let away = if leader == 3 { 2 } else { 3 };
    many.web.cut_off(away);
    let large = "z".repeat(usize::try_from(PIECE_BYTES / 2).unwrap());
    for number in 0..12 {
        many.nodes[&leader].commit(&format!("{number} {large}")).await;
    }
    let consensus = &many.nodes[&leader].consensus;
    many.until("a snapshot is taken", || consensus.status().snapshot > Some(8)).await;
    many.web.lose_snapshots(3, 2);
    many.web.heal();
    let found = many.nodes[&away].until("it was sent the state", |seen| seen.restored.is_some());
    let restored = found.await;
    assert_eq!(many.converge([leader, away]).await.len(), 12);
    let size = restored.state.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
    let sent = many.web.snapshot_bytes();
    assert!(size > 4 * PIECE_BYTES, "{size} bytes are too few for pieces");
    assert!(sent < size + PIECE_BYTES / 2, "{sent} bytes were sent for {size}");
}

#[tokio::test]
async fn a_learner_is_promoted_and_a_removed_node_disturbs_nobody() {
    let mut many = Many::start(3).await;
    many.open(4).await;
    let leader = many.leader().await;
    for number in 0..20 {
        many.nodes[&leader].commit(&number.to_string()).await;
    }
    many.change(leader, [1, 2, 3], [4]).await.unwrap();
    many.converge([leader, 4]).await;
    let learns = Some(([1, 2, 3].into(), [4].into()));
    many.nodes[&4].until("it knows that it learns", |seen| seen.members == learns).await;

    let removed = if leader == 3 { 2 } else { 3 };
    let stays = 5 - removed;
    many.change(leader, [1, stays, 4], []).await.unwrap();
    let votes = Some(([1, stays, 4].into(), [].into()));
    many.nodes[&4].until("it knows that it votes", |seen| seen.members == votes).await;
    many.change(leader, [1, stays, 4], []).await.unwrap();
    let term = many.term(leader);
    let asked = many.web.tried(removed, Call::PreVote);
    many.until("the removed node wants to be elected", || {
        many.web.tried(removed, Call::PreVote) >= asked + 6
    })
    .await;
    many.nodes[&leader].commit("undisturbed").await;
    assert_eq!((many.term(leader), many.leader().await), (term, leader));
    assert_eq!(many.web.tried(removed, Call::Vote), 0);
    let elsewhere = many.change(4, [1, 2, 3, 4], []).await.unwrap_err();
    assert_eq!(elsewhere, ChangeError::NotLeader { leader: Some(leader) });
}

#[tokio::test]
async fn a_node_that_was_cut_off_and_returns_disturbs_nobody() {
    let many = Many::start(3).await;
    let leader = many.leader().await;
    let away = if leader == 3 { 2 } else { 3 };
    let term = many.term(leader);
    many.web.cut_off(away);
    many.until("it wants to be elected", || many.web.tried(away, Call::PreVote) >= 6).await;
    many.nodes[&leader].commit("meanwhile").await;
    many.web.heal();
    assert_eq!(many.converge([leader, away]).await, ["meanwhile"]);
    assert_eq!((many.term(leader), many.term(away)), (term, term));
}

#[tokio::test]
async fn the_lead_is_handed_to_the_node_that_is_asked() {
    let many = Many::start(3).await;
    for round in 0..3 {
        let leader = many.leader().await;
        let to = leader % 3 + 1;
        many.nodes[&leader].commit(&round.to_string()).await;
        many.converge([leader, to]).await;
        many.nodes[&leader].consensus.transfer_lead(to).await;
        many.nodes[&to].until("it leads", Node::leads).await;
        assert_eq!(many.leader().await, to);
    }
}

#[tokio::test]
async fn a_leader_that_starts_again_leads_only_when_it_is_elected_again() {
    let mut many = Many::start(3).await;
    let leader = many.leader().await;
    many.nodes[&leader].commit("before").await;
    many.crash(leader).await;
    many.web.cut_off(leader);
    let asked = many.web.tried(leader, Call::PreVote);
    many.open(leader).await;
    many.until("it asks for votes", || many.web.tried(leader, Call::PreVote) >= asked + 4).await;
    let seen = many.seen(leader);
    assert!(!Node::leads(&seen) && !seen.is_caught_up, "{seen:?}");
    assert_eq!(many.nodes[&leader].propose("alone").await, Proposal::NotLeader { leader: None });
    many.web.heal();
    many.leader().await;
    many.nodes[&leader].until("it is caught up", |seen| seen.is_caught_up).await;
}
