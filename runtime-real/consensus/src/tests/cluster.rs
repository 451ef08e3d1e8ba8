//! The life of a cluster with one voter: found, propose, stop, start again.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::super::disk::{FileDisk, SimulatedDisk};
use super::super::error::ConsensusError;
use super::{Leadership, NoTransport, Node, Options, Proposal, options, texts};

#[tokio::test]
async fn a_start_hands_over_the_state_once_and_in_order() {
    let disk = SimulatedDisk::new();
    let mut expected = Vec::new();
    for life in 0..5_u64 {
        let node = Node::start(&disk).await;
        let before = node.seen.borrow().clone();
        assert_eq!(texts(&before.state), expected, "life {life}: all of it before it leads");
        assert_eq!(before.restored.is_some(), life > 0, "life {life}");
        for number in 0..20 {
            let text = format!("{life}-{number}");
            let index = node.commit(&text).await;
            let seen = node.seen.borrow().clone();
            assert!(seen.last() >= index, "what is committed, the reader was sent");
            expected.push(text);
        }
        assert_eq!(node.consensus.confirm_read().await, Ok(node.seen.borrow().last()));
        let seen = node.until("a snapshot is asked for", |seen| seen.asked > 0).await;
        node.saved_beyond(0).await;
        assert_eq!(texts(&seen.state), expected);
        let term = node.consensus.status().term;
        assert_eq!(seen.leadership, Some(Leadership::Leader { term }));
        let seen = node.stop().await;
        assert_eq!((texts(&seen.state), seen.failed), (expected.clone(), None));
    }
}

#[tokio::test]
async fn snapshots_keep_the_log_short() {
    let disk = SimulatedDisk::new();
    let node = Node::start(&disk).await;
    let large = "x".repeat(1000);
    for round in 0..10 {
        for _ in 0..20 {
            node.commit(&large).await;
        }
        // Each snapshot covers the entries so far; those that follow are its successor's.
        node.saved_beyond(round * 20).await;
    }
    let seen = node.stop().await;
    assert_eq!(seen.members, Some(([1].into(), [].into())));
    let node = Node::start(&disk).await;
    let again = node.seen.borrow().clone();
    assert_eq!((&again.state, &again.members), (&seen.state, &seen.members));
    assert!(again.committed < 40, "{} entries had stayed in the log", again.committed);
    let status = node.consensus.status();
    assert_eq!((status.leader, status.voters.first()), (Some(1), Some(&1)));
    assert!(status.snapshot.is_some() && status.applied == status.last_log, "{status:?}");
    drop(node.stop().await);
}

#[tokio::test]
async fn a_proposal_at_shutdown_ends_as_committed_or_unknown() {
    for round in 0..10_usize {
        let disk = SimulatedDisk::new();
        let node = Node::start(&disk).await;
        let proposals: Vec<_> = (0..64)
            .map(|number| {
                let consensus = node.consensus.clone();
                let text = format!("{round}-{number}").into_bytes();
                tokio::spawn(async move { consensus.propose(text).await })
            })
            .collect();
        // The reader has got some of them: the others are under way.
        node.until("some are committed", |seen| seen.committed as usize >= round * 3).await;
        let consensus = node.consensus.clone();
        drop(node.stop().await);
        let mut committed = Vec::new();
        for (number, proposal) in proposals.into_iter().enumerate() {
            match tokio::time::timeout(super::PATIENCE, proposal).await.expect("it ends").unwrap() {
                Proposal::Committed { index } => {
                    committed.push((index, format!("{round}-{number}")));
                }
                Proposal::Unknown { reason } => assert!(!reason.is_empty()),
                other @ (Proposal::NotLeader { .. } | Proposal::TooLarge { .. }) => {
                    panic!("{other:?}")
                }
            }
        }
        assert!(matches!(consensus.propose(b"late".to_vec()).await, Proposal::Unknown { .. }));
        assert!(consensus.confirm_read().await.is_err());
        drop(consensus);
        let node = Node::start(&disk).await;
        let state = node.stop().await.state;
        for (index, text) in committed {
            assert!(state.contains(&(index, text.clone().into_bytes())), "{index} {text}");
        }
        let mut all = texts(&state);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), state.len(), "nothing is there twice");
    }
}

#[tokio::test]
async fn without_a_reader_a_proposal_ends_as_unknown_and_nothing_is_lost() {
    let disk = SimulatedDisk::new();
    let node = Node::start(&disk).await;
    let index = node.commit("read").await;
    assert_eq!(node.stop().await.last(), index);
    let opened = super::Consensus::open(options(), Arc::new(disk.clone()), NoTransport).await;
    let (consensus, events) = opened.unwrap();
    drop(events);
    match tokio::time::timeout(super::PATIENCE, consensus.propose(b"unread".to_vec())).await {
        Ok(Proposal::Unknown { reason }) => assert!(!reason.is_empty()),
        Ok(Proposal::NotLeader { leader: None }) => {}
        other => panic!("{other:?}"),
    }
    consensus.shutdown().await;
    drop(consensus);
    let node = Node::start(&disk).await;
    assert_eq!(texts(&node.stop().await.state)[0], "read");
}

#[tokio::test]
async fn a_slow_reader_gets_everything_and_proposals_wait_for_it() {
    let disk = SimulatedDisk::new();
    let opened = super::Consensus::open(options(), Arc::new(disk.clone()), NoTransport).await;
    let (consensus, events) = opened.unwrap();
    consensus.initialize_single().await.unwrap();
    let proposing = tokio::spawn(async move {
        let mut committed = 0;
        while committed < 300 {
            match consensus.propose(vec![1; 10]).await {
                Proposal::Committed { .. } => committed += 1,
                // It does not lead yet.
                Proposal::NotLeader { .. } => tokio::task::yield_now().await,
                other @ (Proposal::Unknown { .. } | Proposal::TooLarge { .. }) => {
                    panic!("{other:?}")
                }
            }
        }
        consensus
    });
    while disk.operations().syncs < 20 {
        tokio::task::yield_now().await;
    }
    let seen = super::read(events);
    let consensus = tokio::time::timeout(super::PATIENCE, proposing).await.unwrap().unwrap();
    let seen = Node { consensus, seen }.stop().await;
    assert_eq!((seen.state.len(), seen.failed), (300, None));
}

#[tokio::test]
async fn a_node_that_founds_again_or_was_never_founded_is_what_it_was() {
    let disk = SimulatedDisk::new();
    let node = Node::open(Arc::new(disk.clone())).await.unwrap();
    let refused = node.propose("too early").await;
    assert_eq!(refused, Proposal::NotLeader { leader: None });
    for _ in 0..3 {
        node.consensus.initialize_single().await.unwrap();
    }
    node.until("it leads", Node::leads).await;
    let too_large = node.consensus.propose(vec![0; (4 << 20) + 1]).await;
    assert_eq!(too_large, Proposal::TooLarge { limit: 4 << 20 });
    node.commit("first").await;
    node.consensus.initialize_single().await.unwrap();
    node.consensus.shutdown().await;
    assert_eq!(texts(&node.stop().await.state), ["first"]);
}

#[tokio::test]
async fn options_that_cannot_work_and_foreign_directories_are_refused() {
    let disk = SimulatedDisk::new();
    drop(Node::start(&disk).await.stop().await);
    let open = async |options: Options| {
        let opened = super::Consensus::open(options, Arc::new(disk.clone()), NoTransport).await;
        opened.map(drop).unwrap_err()
    };
    let error = open(Options { snapshot_after: 0, ..options() }).await;
    assert!(error.to_string().contains("snapshot_after must be at least 1"), "{error}");
    let error = open(Options { node: 2, ..options() }).await;
    assert!(matches!(error, ConsensusError::Foreign { .. }), "{error}");
    let error = open(Options { cluster_name: "other".to_owned(), ..options() }).await;
    assert!(error.to_string().contains("node 1 of cluster other"), "{error}");
    drop(Node::start(&disk).await.stop().await);
}

/// Set for the process that [`a_second_process_on_a_directory_is_told_who_has_it`] starts.
const HOLD: &str = "MILL_TEST_HOLD_DIRECTORY";

#[tokio::test]
async fn a_second_process_on_a_directory_is_told_who_has_it() {
    if let Some(directory) = std::env::var_os(HOLD) {
        let node = Node::open(Arc::new(FileDisk::new(directory).unwrap())).await.unwrap();
        println!("\nheld");
        std::io::stdin().lines().for_each(drop);
        drop(node);
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let me = std::env::current_exe().unwrap();
    let name = "tests::cluster::a_second_process_on_a_directory_is_told_who_has_it";
    let mut command = Command::new(me);
    command.args(["--exact", name, "--nocapture"]).env(HOLD, directory.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut other = command.spawn().unwrap();
    let said = BufReader::new(other.stdout.take().unwrap());
    assert!(said.lines().any(|line| line.unwrap() == "held"));

    let open = || async { Node::open(Arc::new(FileDisk::new(directory.path()).unwrap())).await };
    let error = open().await.err().expect("the directory is in use");
    let text = error.to_string();
    assert!(matches!(error, ConsensusError::InUse { by, .. } if by == Some(other.id())), "{text}");
    for part in [&directory.path().display().to_string(), "in use by another mill daemon", "stop"] {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
    other.kill().unwrap();
    other.wait().unwrap();
    drop(open().await.unwrap().stop().await);
    drop(open().await.unwrap().stop().await);
}
