//! Consensus on real files and on a disk that fails: the helpers that its tests share.
//!
//! A [`Node`] is consensus with a reader that behaves as the daemon's does and checks, with every
//! event, what the reader is promised: each entry once, in order, nothing before the state it
//! belongs to. Tests wait for what the reader has seen and never for a time.

mod cluster;
mod crashes;
mod full;
mod log;
mod many;
mod recovery;
mod snapshots;
mod web;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::disk::{Disk, SimulatedDisk};
use super::types::{Entry, LogId, Payload};
use super::{
    ConsensusError, ConsensusEvent, Leadership, NoTransport, Options, Proposal, Transport,
};

type Consensus = super::Consensus<super::PooledRuntime>;

/// A condition that does not hold by then fails its test.
const PATIENCE: Duration = Duration::from_secs(20);

/// Options of a cluster that elects quickly and takes snapshots often.
fn options() -> Options {
    Options {
        snapshot_after: 8,
        entries_kept: 3,
        heartbeat: Duration::from_millis(10),
        election_min: Duration::from_millis(20),
        election_max: Duration::from_millis(40),
        ..Options::new(1, "test")
    }
}

/// What the reader holds: every proposed entry, with its index.
type State = Vec<(u64, Vec<u8>)>;

/// What the reader was told since it began to read.
#[derive(Clone, Debug, Default)]
struct Seen {
    state: State,
    /// Index of the state that came whole.
    restored: Option<u64>,
    /// Entries that came one by one.
    committed: u64,
    /// How often the state was asked for.
    asked: u64,
    leadership: Option<Leadership>,
    members: Option<(BTreeSet<u64>, BTreeSet<u64>)>,
    is_caught_up: bool,
    failed: Option<String>,
    /// Nothing more comes.
    ended: bool,
}

impl Seen {
    fn last(&self) -> u64 {
        self.state.last().map_or(0, |(index, _)| *index)
    }

    fn take(&mut self, event: ConsensusEvent) {
        assert_eq!(self.failed, None, "nothing follows a failure, but {event:?}");
        match event {
            ConsensusEvent::Restored { index, bytes } => {
                let state: State = postcard::from_bytes(&bytes).unwrap();
                assert!(state.starts_with(&self.state), "a state contains what came before it");
                self.state = state;
                self.restored = Some(index);
                assert_eq!(self.last(), index);
            }
            ConsensusEvent::Committed { entries } => {
                assert!(!entries.is_empty());
                for (index, bytes) in entries {
                    assert!(index > self.last(), "{index} comes after {}", self.last());
                    self.state.push((index, bytes));
                    self.committed += 1;
                }
            }
            ConsensusEvent::SnapshotWanted { reply } => {
                self.asked += 1;
                let bytes = postcard::to_extend(&self.state, Vec::new()).unwrap();
                // Whoever asked may have stopped.
                let _ = reply.send((self.last(), bytes));
            }
            ConsensusEvent::Members { voters, learners } => {
                self.members = Some((voters, learners));
            }
            ConsensusEvent::CaughtUp => {
                assert!(!self.is_caught_up, "caught up twice");
                self.is_caught_up = true;
            }
            ConsensusEvent::Leadership(leadership) => {
                let leads = matches!(leadership, Leadership::Leader { .. });
                assert!(self.is_caught_up || !leads, "a leader is caught up");
                assert_ne!(self.leadership, Some(leadership), "announced twice");
                self.leadership = Some(leadership);
            }
            ConsensusEvent::Failed { reason } => self.failed = Some(reason),
        }
    }
}

/// Consensus and its reader.
struct Node {
    consensus: Consensus,
    seen: watch::Receiver<Seen>,
}

impl Node {
    /// Opens, founds if need be, and waits until it leads.
    async fn start(disk: &SimulatedDisk) -> Node {
        let node = Node::open(Arc::new(disk.clone())).await.unwrap();
        node.consensus.initialize_single().await.unwrap();
        node.until("it leads", Node::leads).await;
        node
    }

    async fn open(disk: Arc<dyn Disk>) -> Result<Node, ConsensusError> {
        Node::open_with(options(), disk, NoTransport).await
    }

    async fn open_with(
        options: Options,
        disk: Arc<dyn Disk>,
        transport: impl Transport,
    ) -> Result<Node, ConsensusError> {
        let (consensus, events) = Consensus::open(options, disk, transport).await?;
        Ok(Node { consensus, seen: read(events) })
    }

    fn leads(seen: &Seen) -> bool {
        matches!(seen.leadership, Some(Leadership::Leader { .. }))
    }

    /// Waits until what the reader has seen is so, and returns it.
    #[track_caller]
    fn until(&self, what: &str, holds: impl Fn(&Seen) -> bool) -> impl Future<Output = Seen> {
        let (mut seen, latest) = (self.seen.clone(), self.seen.clone());
        let what = what.to_owned();
        async move {
            let found = timeout(PATIENCE, seen.wait_for(|seen| holds(seen))).await;
            if let Ok(Ok(found)) = found {
                return found.clone();
            }
            panic!("did not come to hold: {what}; the reader saw {:?}", latest.borrow());
        }
    }

    /// Proposes; it must have become known within reason what came of it.
    async fn propose(&self, text: &str) -> Proposal {
        let proposed = self.consensus.propose(text.as_bytes().to_vec());
        timeout(PATIENCE, proposed).await.expect("a proposal ends")
    }

    /// Proposes what must be committed, and returns its index.
    async fn commit(&self, text: &str) -> u64 {
        match self.propose(text).await {
            Proposal::Committed { index } => index,
            other => panic!("{text}: {other:?}"),
        }
    }

    /// Waits until a snapshot of more than `index` entries is on the disk.
    async fn saved_beyond(&self, index: u64) {
        let saved = || self.consensus.status().snapshot.is_some_and(|saved| saved > index);
        let waiting = async {
            while !saved() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("a snapshot is saved");
    }

    /// Stops it and returns all that its reader was told.
    async fn stop(self) -> Seen {
        timeout(PATIENCE, self.consensus.shutdown()).await.expect("it stops");
        let Node { consensus, mut seen } = self;
        drop(consensus);
        let ended = timeout(PATIENCE, seen.wait_for(|seen| seen.ended)).await;
        ended.expect("the events end").unwrap().clone()
    }
}

fn read(mut events: mpsc::Receiver<ConsensusEvent>) -> watch::Receiver<Seen> {
    let (sender, seen) = watch::channel(Seen::default());
    drop(tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            sender.send_modify(|seen| seen.take(event));
        }
        sender.send_modify(|seen| seen.ended = true);
    }));
    seen
}

/// What was proposed, in order.
fn texts(state: &State) -> Vec<String> {
    state.iter().map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned()).collect()
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

fn entry(term: u64, index: u64, bytes: &[u8]) -> Entry {
    let payload = openraft::EntryPayload::Normal(Payload(bytes.to_vec()));
    Entry { log_id: log_id(term, index), payload }
}
