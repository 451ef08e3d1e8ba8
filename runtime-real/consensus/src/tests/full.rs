//! A full disk stops a node and loses nothing.

use std::sync::Arc;

use super::super::disk::SimulatedDisk;
use super::{Node, Proposal, Seen, texts};

/// Proposes until the disk is full: what was acknowledged, and why no more is.
async fn fill(node: &Node, size: usize) -> (Vec<String>, String) {
    let mut acknowledged = Vec::new();
    for number in 0..10_000 {
        let text = format!("{number} {}", "-".repeat(size));
        match node.propose(&text).await {
            Proposal::Committed { .. } => acknowledged.push(text),
            Proposal::Unknown { reason } => return (acknowledged, reason),
            other @ (Proposal::NotLeader { .. } | Proposal::TooLarge { .. }) => {
                panic!("{other:?}")
            }
        }
    }
    panic!("the disk never became full");
}

fn names_the_disk(reason: &str) {
    println!("{reason}");
    for part in ["simulated-disk/", "no storage space"] {
        assert!(reason.contains(part), "no `{part}` in: {reason}");
    }
}

async fn starts_again(disk: &SimulatedDisk, before: Seen, acknowledged: &[String]) {
    names_the_disk(before.failed.as_deref().expect("the reader is told"));
    disk.set_capacity(None);
    let node = Node::start(disk).await;
    let state = texts(&node.seen.borrow().state);
    assert!(state.len() >= acknowledged.len(), "{} of {}", state.len(), acknowledged.len());
    assert_eq!(state[..acknowledged.len()], *acknowledged);
    assert!(state.len() <= acknowledged.len() + 1, "only the one that was unknown may follow");
    node.commit("after").await;
    drop(node.stop().await);
}

#[tokio::test]
async fn a_full_disk_is_named_and_after_space_is_back_nothing_is_missing() {
    for size in [10, 3_000, 100_000] {
        let disk = SimulatedDisk::new();
        let node = Node::start(&disk).await;
        node.commit("before").await;
        disk.set_capacity(Some(disk.used() + 30_000));
        let (acknowledged, reason) = fill(&node, size).await;
        let acknowledged = [vec!["before".to_owned()], acknowledged].concat();
        names_the_disk(&reason);
        for _ in 0..3 {
            let Proposal::Unknown { reason } = node.propose("later").await else {
                panic!("a node whose disk failed takes nothing more");
            };
            names_the_disk(&reason);
        }
        assert!(node.consensus.confirm_read().await.is_err());
        node.until("the reader is told", |seen| seen.failed.is_some()).await;
        starts_again(&disk, node.stop().await, &acknowledged).await;
    }
}

#[tokio::test]
async fn a_disk_that_is_full_at_a_start_is_named_too() {
    let disk = SimulatedDisk::new();
    disk.set_capacity(Some(1000));
    let error = Node::open(Arc::new(disk.clone())).await.err().expect("there is no room");
    names_the_disk(&super::super::error::in_full(&error));
    disk.set_capacity(None);
    drop(Node::start(&disk).await.stop().await);
}
