//! A directory that is read while nothing runs, and one that begins with a state.

use std::sync::Arc;

use super::super::disk::SimulatedDisk;
use super::super::recovery::{Held, begin_with, read};
use super::{Node, State, options, texts};

fn held(disk: &SimulatedDisk) -> Held {
    read(&options(), Arc::new(disk.clone())).unwrap()
}

/// All that is held, as the reader would have it.
fn all(held: &Held) -> State {
    let mut state: State = match &held.state {
        Some((_, bytes)) => postcard::from_bytes(bytes).unwrap(),
        None => Vec::new(),
    };
    state.extend(held.entries.clone());
    state
}

#[tokio::test]
async fn what_a_stopped_node_holds_is_read_whole() {
    let disk = SimulatedDisk::new();
    assert_eq!(held(&disk), Held { state: None, entries: Vec::new(), uncertain: 0 });
    let node = Node::start(&disk).await;
    for value in 0..30 {
        node.commit(&format!("value {value}")).await;
    }
    let seen = node.stop().await;
    let held = held(&disk);
    assert!(held.state.is_some(), "a snapshot was taken");
    assert_eq!(texts(&all(&held)), texts(&seen.state));
}

#[tokio::test]
async fn a_directory_begins_with_a_state_and_goes_on_from_it() {
    let disk = SimulatedDisk::new();
    let state: State = (40..=42).map(|index| (index, b"kept".to_vec())).collect();
    let bytes = postcard::to_extend(&state, Vec::new()).unwrap();
    begin_with(&options(), Arc::new(disk.clone()), 42, bytes.clone()).unwrap();
    begin_with(&options(), Arc::new(disk.clone()), 42, bytes).unwrap_err();
    for round in 1..=3 {
        // It leads by itself: it is the only member.
        let node = Node::open(Arc::new(disk.clone())).await.unwrap();
        let seen = node.until("it leads", Node::leads).await;
        assert_eq!(seen.members.unwrap().0, [1].into());
        for value in 0..20 {
            assert!(node.commit(&format!("value {value}")).await > 42);
        }
        let seen = node.stop().await;
        assert!(seen.state.starts_with(&state));
        assert_eq!(seen.state.len(), 3 + 20 * round);
    }
}
