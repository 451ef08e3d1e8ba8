//! The one loop that owns the node: takes what happened, in one order, and passes on what follows.

use mill_core::api::RequestId;
use mill_core::cluster::Revision;
use mill_core::cluster::command::Entry;
use mill_core::event::Leadership;
use mill_core::name::NodeId;
use mill_core::recording::{self, Record};
use mill_core::{Event, Node};
use rustix::io::Errno;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;

use super::Asked;
use super::dispatch::Dispatch;
use crate::clock::Clock;
use crate::docker::{Engine, EngineSignal};
use crate::recorder::Recorder;
use mill_consensus::{self as consensus, ConsensusEvent};

/// What the engine says that waits for the loop.
const SIGNALS_WAITING: usize = 1024;

/// How a loop ended.
pub(super) enum Ended {
    /// It was asked to.
    Stopped,
    /// The node was removed from its cluster.
    Removed,
    /// Something that it needs has failed; says what to do.
    Failed(String),
}

/// Drives a node.
pub(super) struct EventLoop {
    node: Node,
    clock: Clock,
    recorder: Option<Recorder>,
    dispatch: Dispatch,
    engine: Engine,
    next_request: u64,
}

impl EventLoop {
    pub fn new(
        node: Node,
        clock: Clock,
        dispatch: Dispatch,
        engine: Engine,
        recorder: Option<Recorder>,
    ) -> EventLoop {
        EventLoop { node, clock, recorder, dispatch, engine, next_request: 1 }
    }

    /// Runs until it cannot go on, or is told to stop. No operation on a container is under way any
    /// more when this is over.
    pub async fn run(
        mut self,
        mut log: mpsc::Receiver<ConsensusEvent>,
        mut happened: mpsc::Receiver<Event>,
        mut asked: mpsc::Receiver<Asked>,
        mut stop: oneshot::Receiver<()>,
        mut retired: oneshot::Receiver<()>,
    ) -> Ended {
        let (signal, mut signals) = mpsc::channel(SIGNALS_WAITING);
        let engine = self.engine.clone();
        let watching = tokio::spawn(async move { engine.watch(signal).await });
        let outcome = loop {
            let wake = self.node.poll_timeout().map(|(at, _)| self.clock.instant(at));
            tokio::select! {
                biased;
                // It also ends with the daemon that would tell it.
                _ = &mut stop => break Ended::Stopped,
                _ = &mut retired => break Ended::Removed,
                Some(event) = log.recv() => if let Err(reason) = self.on_log(event) {
                    break Ended::Failed(reason);
                },
                Some(event) = happened.recv() => self.handle(event),
                Some(signal) = signals.recv() => self.on_engine(signal),
                next = asked.recv() => match next {
                    Some(asked) => self.on_api(asked),
                    None => break Ended::Stopped,
                },
                () = async { sleep_until(wake.expect("checked below")).await }, if wake.is_some() => {
                    self.handle(Event::Wake);
                }
            }
        };
        watching.abort();
        self.dispatch.end().await;
        outcome
    }

    fn handle(&mut self, event: Event) {
        let now = self.clock.now();
        let recorded = self.recorder.is_some().then(|| event.clone());
        let (effects, hash) = recording::handle(&mut self.node, now, event);
        if let (Some(recorder), Some(event)) = (&mut self.recorder, recorded) {
            recorder.add(Record { now, event, effects: hash }, &self.node);
        }
        effects.into_iter().for_each(|effect| self.dispatch.carry_out(effect));
    }

    fn on_log(&mut self, event: ConsensusEvent) -> Result<(), String> {
        match event {
            ConsensusEvent::Restored { index, bytes } => {
                let at = self.revision(index);
                self.handle(Event::Restored { at, bytes });
            }
            ConsensusEvent::Committed { entries } => {
                for (index, bytes) in entries {
                    let entry: Entry = serde_json::from_slice(&bytes).map_err(|error| {
                        format!(
                            "entry {index} of the log cannot be read ({error}): it was written by \
                             a newer mill, run that one"
                        )
                    })?;
                    let at = self.revision(index);
                    self.handle(Event::Committed { at, entry: entry.into() });
                }
            }
            ConsensusEvent::SnapshotWanted { reply } => {
                self.dispatch.snapshot_wanted(reply);
                self.handle(Event::SnapshotWanted);
            }
            ConsensusEvent::Leadership(leadership) => {
                let leadership = match leadership {
                    consensus::Leadership::Leader { term } => Leadership::Leader { term },
                    consensus::Leadership::Follower { leader, term } => {
                        Leadership::Follower { leader: leader.map(NodeId), term }
                    }
                };
                self.handle(Event::Leadership(leadership));
            }
            ConsensusEvent::Members { voters, learners } => {
                let [voters, learners] =
                    [voters, learners].map(|nodes| nodes.into_iter().map(NodeId).collect());
                self.handle(Event::Members { voters, learners });
            }
            ConsensusEvent::CaughtUp => self.handle(Event::CaughtUp),
            ConsensusEvent::Failed { reason } => return Err(with_remedy(&reason)),
        }
        Ok(())
    }

    /// The log counts indices; epochs, which begin with restore and recovery, are the state's.
    fn revision(&self, index: u64) -> Revision {
        Revision { epoch: self.node.cluster().revision.epoch, index }
    }

    fn on_engine(&mut self, signal: EngineSignal) {
        match signal {
            EngineSignal::Died(observed) => self.handle(Event::ContainerDied(observed)),
            EngineSignal::Connected => {
                tracing::info!("the container engine answers");
                self.handle(Event::EngineConnected);
            }
            EngineSignal::Lost { detail } => {
                tracing::warn!(detail, "the container engine does not answer");
            }
        }
    }

    fn on_api(&mut self, asked: Asked) {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.dispatch.asked(id, asked.reply);
        self.handle(Event::Request { id, request: asked.request, origin: asked.origin });
        for id in self.dispatch.abandoned() {
            self.handle(Event::RequestDropped { id });
        }
    }
}

/// What stopped consensus, and what to do about it.
fn with_remedy(reason: &str) -> String {
    let full =
        [Errno::NOSPC, Errno::DQUOT].map(|errno| format!("(os error {})", errno.raw_os_error()));
    let remedy = match full.iter().any(|code| reason.contains(code)) {
        true => "free some space there",
        false => "check that disk and the kernel's log",
    };
    format!(
        "{reason}\n{remedy}, then start the daemon again; nothing that was acknowledged is lost, and \
         containers go on running meanwhile"
    )
}
