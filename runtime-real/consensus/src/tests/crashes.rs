//! A whole node with power cuts: what was acknowledged is there after a start, in order.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};

use super::super::disk::SimulatedDisk;
use super::{Node, Proposal, texts};

/// Proposals of one life; with the options' `snapshot_after` several snapshots fall into it.
const PROPOSALS: u64 = 14;

/// Lives mostly wait for elections, so that many fit beside each other.
const LIVES_AT_ONCE: usize = 16;

/// Lives on the disk until the power fails: what was acknowledged, and what was at least proposed.
async fn live(disk: &SimulatedDisk) -> (Vec<String>, Vec<String>) {
    let (mut acknowledged, mut proposed) = (Vec::new(), Vec::new());
    let Ok(node) = Node::open(Arc::new(disk.clone())).await else {
        return (acknowledged, proposed);
    };
    if node.consensus.initialize_single().await.is_ok() {
        node.until("it leads or failed", |seen| {
            Node::leads(seen) || seen.failed.is_some() || seen.ended
        })
        .await;
        for number in 0..PROPOSALS {
            let text = format!("{number}");
            proposed.push(text.clone());
            match node.propose(&text).await {
                Proposal::Committed { .. } => acknowledged.push(text),
                Proposal::Unknown { .. } | Proposal::NotLeader { .. } => break,
                Proposal::TooLarge { .. } => panic!("it is small"),
            }
        }
    }
    drop(node.stop().await);
    (acknowledged, proposed)
}

#[tokio::test]
async fn what_a_node_acknowledged_survives_a_power_cut_at_any_operation() {
    let whole = SimulatedDisk::new();
    let (acknowledged, _) = live(&whole).await;
    assert_eq!(acknowledged.len() as u64, PROPOSALS);
    let operations = whole.operations().all;
    let lives = stream::iter(1..=operations);
    lives.for_each_concurrent(LIVES_AT_ONCE, live_twice).await;
}

/// A life that a power cut at this operation ends, and one after it.
async fn live_twice(at: u64) {
    let disk = SimulatedDisk::new();
    disk.cut_power_at(at);
    let (acknowledged, proposed) = live(&disk).await;
    disk.restart(at);
    let node = Node::start(&disk).await;
    let state = texts(&node.seen.borrow().state);
    assert!(state.len() >= acknowledged.len(), "cut at {at}: {state:?} {acknowledged:?}");
    assert_eq!(state, proposed[..state.len()], "cut at {at}: in order, and nothing else");
    node.commit("after").await;
    let seen = node.stop().await;
    assert_eq!(texts(&seen.state).last().unwrap(), "after", "cut at {at}");
}
