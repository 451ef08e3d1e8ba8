//! A host under a node of Mill: consensus, and what passes between it and the node.
//!
//! The node itself is in [`World`](crate::World), which its driver moves on between two ticks of
//! the engine. So this is what is left of the daemon's event loop: it hands on what consensus says
//! in order, and what came of something that was asked only after all that consensus had said
//! before. The driver finds both in the [`Seat`].

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mill_consensus::{self as consensus, Consensus, ConsensusEvent, Proposal};
use mill_core::Event;
use mill_core::cluster::command::Entry;
use mill_core::event::{Fate, Leadership};
use mill_core::name::NodeId;
use mill_core::node::Members;
use openraft_rt::AsyncRuntime;
use tokio::sync::{mpsc, oneshot};

use super::machine::{Machine, Started};
use super::network::{Post, Question};
use super::runtime::SimulatedRuntime;
use crate::world::Said;
use crate::world::ground::Ask;

/// A change of members that takes longer is given up, as the daemon does.
const CHANGE_WITHIN: Duration = Duration::from_secs(10);

/// Where a host and its driver meet. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct Seat(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    starts: u64,
    drift: i64,
    said: VecDeque<(u64, Said)>,
    asks: Option<mpsc::UnboundedSender<Ask>>,
}

impl Seat {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no code panics while it holds what was said")
    }

    /// From its next start on, the host's clock runs so much faster, in millionths.
    pub(super) fn has_clock(&self, drift: i64) {
        self.inner().drift = drift;
    }

    /// A host starts: in which boot, and with which clock. Its first start is that of a machine
    /// without a node, which is boot 0.
    pub(super) fn begins(&self) -> (u64, i64, mpsc::UnboundedReceiver<Ask>) {
        let mut inner = self.inner();
        let boot = inner.starts;
        inner.starts += 1;
        let (asks, asked) = mpsc::unbounded_channel();
        inner.asks = Some(asks);
        (boot, inner.drift, asked)
    }

    /// What was said since, and in which boot.
    pub(super) fn take_said(&self) -> VecDeque<(u64, Said)> {
        std::mem::take(&mut self.inner().said)
    }

    /// Passes something on, if that boot is the host's.
    pub(super) fn ask(&self, boot: u64, ask: Ask) {
        let inner = self.inner();
        if let Some(asks) = inner.asks.as_ref().filter(|_| inner.starts == boot + 1) {
            // A host that is down hears nothing.
            let _ = asks.send(ask);
        }
    }

    fn say(&self, boot: u64, said: Said) {
        self.inner().said.push_back((boot, said));
    }
}

/// One start of a host.
pub(super) struct Pump {
    pub(super) machine: Machine,
    pub(super) seat: Seat,
    pub(super) boot: u64,
    /// Whether it begins the cluster.
    pub(super) founds: bool,
}

impl Pump {
    /// Runs until the host crashes.
    pub(super) async fn run(self, asks: mpsc::UnboundedReceiver<Ask>) -> io::Result<()> {
        if self.boot == 0 {
            return Ok(());
        }
        let post = Post::open(self.machine.id, self.machine.record.clone()).await?;
        let Some(started) = self.machine.start(&post).await? else { return Ok(()) };
        let Started { consensus, events, has_snapshot } = started;
        let machine = self.machine.clone();
        if self.founds {
            let (machine, consensus) = (machine.clone(), consensus.clone());
            drop(SimulatedRuntime::spawn(async move {
                if let Err(error) = consensus.initialize_single().await {
                    machine.line(&format!("was not founded: {error}"));
                }
            }));
        }
        let (results, became) = mpsc::unbounded_channel();
        let carrying = Carrying {
            pump: self,
            consensus: consensus.clone(),
            results,
            snapshot: None,
            changing: Arc::default(),
            is_replayed: has_snapshot,
        };
        drop(SimulatedRuntime::spawn(carrying.run(events, became, asks)));
        let answer = move |from, question, body: Vec<u8>| {
            let (machine, consensus) = (machine.clone(), consensus.clone());
            async move {
                match question {
                    Question::Consensus(call) => machine.answer(&consensus, from, call, body).await,
                    Question::Write | Question::Read => Err(io::Error::other("there is no list")),
                }
            }
        };
        post.serve(answer).await
    }
}

/// What passes between consensus and the node.
struct Carrying {
    pump: Pump,
    consensus: Consensus<SimulatedRuntime>,
    results: mpsc::UnboundedSender<Event>,
    snapshot: Option<oneshot::Sender<(u64, Vec<u8>)>>,
    /// Whether a change of members is under way.
    changing: Arc<AtomicBool>,
    /// Whether the next state is this node's own.
    is_replayed: bool,
}

impl Carrying {
    async fn run(
        mut self,
        mut events: mpsc::Receiver<ConsensusEvent>,
        mut became: mpsc::UnboundedReceiver<Event>,
        mut asks: mpsc::UnboundedReceiver<Ask>,
    ) {
        loop {
            // As in the daemon's loop, the log comes first.
            tokio::select! {
                biased;
                Some(event) = events.recv() => self.hand_on(event),
                Some(event) = became.recv() => self.say(Said::Became(Box::new(event))),
                Some(ask) = asks.recv() => self.carry_out(ask),
                else => return,
            }
        }
    }

    fn say(&self, said: Said) {
        self.pump.seat.say(self.pump.boot, said);
    }

    fn hand_on(&mut self, event: ConsensusEvent) {
        let machine = &self.pump.machine;
        match event {
            ConsensusEvent::Restored { index, bytes } => {
                if !std::mem::take(&mut self.is_replayed) {
                    machine.record.count("snapshots installed");
                }
                machine.line(&format!("restored a state as of {index}"));
                self.say(Said::Restored { index, bytes });
            }
            ConsensusEvent::Committed { entries } => {
                for (index, bytes) in entries {
                    let entry: Entry = serde_json::from_slice(&bytes).expect("a node wrote it");
                    self.say(Said::Committed { index, entry: Box::new(entry) });
                }
            }
            ConsensusEvent::SnapshotWanted { reply } => {
                machine.record.count("snapshots taken");
                self.snapshot = Some(reply);
                self.say(Said::SnapshotWanted);
            }
            ConsensusEvent::Members { voters, learners } => {
                machine.line(&format!("knows {voters:?} vote and {learners:?} learn"));
                let [voters, learners] = [voters, learners].map(named);
                self.say(Said::Members(Members { voters, learners }));
            }
            ConsensusEvent::CaughtUp => self.say(Said::CaughtUp),
            ConsensusEvent::Leadership(leadership) => {
                self.say(Said::Leadership(match leadership {
                    consensus::Leadership::Leader { term } => {
                        machine.record.leads(machine.id, term);
                        Leadership::Leader { term }
                    }
                    consensus::Leadership::Follower { leader, term } => {
                        machine.line(&format!("follows {leader:?} in term {term}"));
                        Leadership::Follower { leader: leader.map(NodeId), term }
                    }
                }));
            }
            ConsensusEvent::Failed { reason } => machine.failed(&reason),
        }
    }

    fn carry_out(&mut self, ask: Ask) {
        let (consensus, results) = (self.consensus.clone(), self.results.clone());
        match ask {
            Ask::Propose(entry) => {
                let bytes = serde_json::to_vec(&entry).expect("entries have text keys only");
                drop(SimulatedRuntime::spawn(async move {
                    let fate = match consensus.propose(bytes).await {
                        Proposal::Committed { .. } => return,
                        Proposal::NotLeader { .. } | Proposal::TooLarge { .. } => Fate::Refused,
                        Proposal::Unknown { .. } => Fate::Unknown,
                    };
                    // Nobody waits for it where the host has gone down.
                    let _ = results.send(Event::ProposalFailed { id: entry.id, fate });
                }));
            }
            Ask::ConfirmRead(id) => drop(SimulatedRuntime::spawn(async move {
                let confirmed = consensus.confirm_read().await.is_ok();
                let _ = results.send(Event::ReadConfirmed { id, confirmed });
            })),
            Ask::Members(Members { voters, learners }) => self.change(voters, learners),
            Ask::TransferLead(to) => drop(SimulatedRuntime::spawn(async move {
                consensus.transfer_lead(to.0).await;
            })),
            Ask::Snapshot(at, bytes) => {
                if let Some(reply) = self.snapshot.take() {
                    // The log may have stopped.
                    let _ = reply.send((at.index, bytes));
                }
            }
        }
    }

    /// One change at a time; the node asks again for as long as it is not so.
    fn change(&self, voters: BTreeSet<NodeId>, learners: BTreeSet<NodeId>) {
        if self.changing.swap(true, Ordering::Relaxed) {
            return;
        }
        let (consensus, changing) = (self.consensus.clone(), self.changing.clone());
        let machine = self.pump.machine.clone();
        machine.line(&format!("is to let {voters:?} vote and {learners:?} learn"));
        drop(SimulatedRuntime::spawn(async move {
            let [voters, learners] =
                [voters, learners].map(|nodes| nodes.into_iter().map(|node| node.0).collect());
            let change = consensus.change_members(voters, learners);
            match SimulatedRuntime::timeout(CHANGE_WITHIN, change).await {
                Ok(Ok(())) => machine.record.count("members changed"),
                Ok(Err(error)) => machine.line(&format!("did not: {error}")),
                Err(_) => machine.line("did not in time"),
            }
            changing.store(false, Ordering::Relaxed);
        }));
    }
}

fn named(nodes: BTreeSet<u64>) -> BTreeSet<NodeId> {
    nodes.into_iter().map(NodeId).collect()
}
