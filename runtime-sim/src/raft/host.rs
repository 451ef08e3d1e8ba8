//! A list of values on real consensus: the smallest that a node can be.
//!
//! Its reader is what the daemon's event loop is, made as small as can be: it applies, answers for
//! snapshots and tells the record. The driver talks to a node through [`Told`], as an operator
//! would.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mill_consensus::{Consensus, ConsensusEvent, Leadership, Proposal};
use openraft_rt::AsyncRuntime;
use tokio::sync::mpsc;

use super::machine::{Machine, Started};
use super::network::{Post, Question};
use super::record::{Record, Value};
use super::runtime::SimulatedRuntime;

/// A change of members that takes longer is given up, and asked for again by the driver.
const CHANGE: Duration = Duration::from_secs(3);

/// First byte of an answer to a client.
pub(super) const DONE: u8 = 0;
pub(super) const REFUSED: u8 = 1;
pub(super) const UNKNOWN: u8 = 2;

/// What the driver tells a node.
#[derive(Debug, Clone)]
pub(super) enum Told {
    Found,
    Members { voters: BTreeSet<u64>, learners: BTreeSet<u64> },
    TransferLead { to: u64 },
}

/// What a node shows of itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Shown {
    pub(super) entries: Vec<(u64, Value)>,
    pub(super) leads: Option<u64>,
    pub(super) members: (BTreeSet<u64>, BTreeSet<u64>),
}

/// A machine, and what its list shows.
#[derive(Debug, Clone)]
pub(super) struct ListHost {
    pub(super) machine: Machine,
    shown: Arc<Mutex<Shown>>,
}

impl ListHost {
    pub(super) fn new(machine: Machine) -> ListHost {
        ListHost { machine, shown: Arc::default() }
    }

    pub(super) fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().expect("no code panics while it holds what is shown")
    }

    fn line(&self, text: &str) {
        self.machine.line(text);
    }

    fn record(&self) -> &Record {
        &self.machine.record
    }

    /// Runs the node until its host crashes.
    pub(super) async fn run(self, told: mpsc::UnboundedReceiver<Told>) -> io::Result<()> {
        *self.shown() = Shown::default();
        let post = Post::open(self.machine.id, self.record().clone()).await?;
        let Some(started) = self.machine.start(&post).await? else { return Ok(()) };
        let Started { consensus, events, has_snapshot } = started;
        drop(SimulatedRuntime::spawn(self.clone().read(events, has_snapshot)));
        drop(SimulatedRuntime::spawn(self.clone().obey(consensus.clone(), told)));
        let host = self.clone();
        let answer = move |from, question, body: Vec<u8>| {
            host.clone().answer(consensus.clone(), from, question, body)
        };
        post.serve(answer).await
    }

    async fn answer(
        self,
        consensus: Consensus<SimulatedRuntime>,
        from: u64,
        question: Question,
        body: Vec<u8>,
    ) -> io::Result<Vec<u8>> {
        match question {
            Question::Consensus(call) => self.machine.answer(&consensus, from, call, body).await,
            Question::Write => Ok(match consensus.propose(body).await {
                Proposal::Committed { .. } => vec![DONE],
                Proposal::NotLeader { leader } => with_leader(leader),
                Proposal::TooLarge { .. } | Proposal::Unknown { .. } => vec![UNKNOWN],
            }),
            Question::Read => {
                let Ok(confirmed) = consensus.confirm_read().await else {
                    return Ok(with_leader(consensus.status().leader));
                };
                // The reader was sent that much; it is a task of its own.
                while last(&self.shown().entries) < confirmed {
                    SimulatedRuntime::sleep(Duration::from_millis(1)).await;
                }
                let values: Vec<Value> =
                    self.shown().entries.iter().map(|(_, value)| *value).collect();
                Ok([vec![DONE], values.iter().flat_map(|value| value.to_le_bytes()).collect()]
                    .concat())
            }
        }
    }

    async fn obey(
        self,
        consensus: Consensus<SimulatedRuntime>,
        mut told: mpsc::UnboundedReceiver<Told>,
    ) {
        while let Some(told) = told.recv().await {
            self.line(&format!("is told {told:?}"));
            match told {
                Told::Found => {
                    if let Err(error) = consensus.initialize_single().await {
                        self.line(&format!("was not founded: {error}"));
                    }
                }
                Told::Members { voters, learners } => {
                    let changing = consensus.change_members(voters, learners);
                    match SimulatedRuntime::timeout(CHANGE, changing).await {
                        Ok(Ok(())) => self.record().count("members changed"),
                        Ok(Err(error)) => self.line(&format!("did not: {error}")),
                        Err(_) => self.line("did not in time"),
                    }
                }
                Told::TransferLead { to } => consensus.transfer_lead(to).await,
            }
        }
    }

    /// With `is_replayed`, the first state is this node's own, from before its start.
    async fn read(self, mut events: mpsc::Receiver<ConsensusEvent>, mut is_replayed: bool) {
        while let Some(event) = events.recv().await {
            match event {
                ConsensusEvent::Restored { index, bytes } => {
                    let entries = decode(&bytes);
                    assert_eq!(last(&entries), index, "a state is as of its last entry");
                    if !std::mem::take(&mut is_replayed) {
                        self.record().count("snapshots installed");
                    }
                    self.record().restored(self.machine.id, &entries);
                    self.shown().entries = entries;
                }
                ConsensusEvent::Committed { entries } => {
                    for (index, bytes) in entries {
                        let value = value_of(&bytes);
                        assert!(index > last(&self.shown().entries), "{index} comes once");
                        self.record().applied(self.machine.id, index, value);
                        self.shown().entries.push((index, value));
                    }
                }
                ConsensusEvent::SnapshotWanted { reply } => {
                    self.record().count("snapshots taken");
                    let entries = self.shown().entries.clone();
                    // Whoever asked may have stopped.
                    let _ = reply.send((last(&entries), encode(&entries)));
                }
                ConsensusEvent::Members { voters, learners } => {
                    self.line(&format!("knows {voters:?} vote and {learners:?} learn"));
                    self.shown().members = (voters, learners);
                }
                ConsensusEvent::CaughtUp => {
                    let at = last(&self.shown().entries);
                    self.record().caught_up(self.machine.id, at);
                }
                ConsensusEvent::Leadership(leadership) => {
                    self.shown().leads = match leadership {
                        Leadership::Leader { term } => Some(term),
                        Leadership::Follower { .. } => None,
                    };
                    match leadership {
                        Leadership::Leader { term } => self.record().leads(self.machine.id, term),
                        Leadership::Follower { leader, term } => {
                            self.line(&format!("follows {leader:?} in term {term}"));
                        }
                    }
                }
                ConsensusEvent::Failed { reason } => {
                    self.shown().leads = None;
                    self.machine.failed(&reason);
                }
            }
        }
    }
}

fn with_leader(leader: Option<u64>) -> Vec<u8> {
    [vec![REFUSED], leader.unwrap_or(0).to_le_bytes().to_vec()].concat()
}

pub(super) fn last(entries: &[(u64, Value)]) -> u64 {
    entries.last().map_or(0, |(index, _)| *index)
}

/// The value that an entry begins with; what follows it is there for its size.
pub(super) fn value_of(bytes: &[u8]) -> Value {
    u64::from_le_bytes(*bytes.first_chunk().expect("clients write eight bytes and more"))
}

fn encode(entries: &[(u64, Value)]) -> Vec<u8> {
    let numbers = entries.iter().flat_map(|(index, value)| [*index, *value]);
    numbers.flat_map(u64::to_le_bytes).collect()
}

fn decode(bytes: &[u8]) -> Vec<(u64, Value)> {
    let numbers: Vec<u64> = bytes.chunks_exact(8).map(value_of).collect();
    numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}
