//! Turns openraft's metrics into events: who leads, that this start is caught up, that consensus
//! has failed.
//!
//! Leadership is announced only when an entry of its own term is applied: then everything that
//! any earlier leader acknowledged is applied too (Raft, section 8), and the reader has been sent
//! all of it. Tested in `tests/cluster.rs`.

use openraft::ServerState;
use openraft::metrics::RaftMetrics;
use openraft_rt::{AsyncRuntime, Select2, WatchReceiver};
use tokio::sync::{mpsc, oneshot};

use super::caught_up::Target;
use super::error::FirstFailure;
use super::mutant::{self, Mutant};
use super::types::Types;
use super::{ConsensusEvent, Leadership};

type Metrics<R> = openraft::type_config::alias::WatchReceiverOf<Types<R>, RaftMetrics<Types<R>>>;

/// Runs until consensus stops or nobody reads the events.
pub(super) async fn watch<R: AsyncRuntime>(
    mut metrics: Metrics<R>,
    events: mpsc::Sender<ConsensusEvent>,
    replayed: oneshot::Receiver<()>,
    heard: Target,
    failure: FirstFailure,
) {
    if replayed.await.is_err() {
        return;
    }
    let mut announced = None;
    let mut start = Start::Listens(heard);
    loop {
        let (leadership, applied, running) = {
            let metrics = metrics.borrow_and_update();
            let applied = metrics.last_applied.map(|applied| applied.index);
            (leadership_in(&metrics), applied, metrics.running_state.clone())
        };
        match running {
            Ok(()) => {}
            Err(openraft::errors::Fatal::Stopped) => return,
            Err(fatal) => {
                let reason = failure.explain(&fatal);
                tracing::error!(reason, "consensus has failed");
                let _ = events.send(ConsensusEvent::Failed { reason }).await;
                return;
            }
        }
        if start.is_caught_up(leadership, applied) {
            start = Start::IsCaughtUp;
            if events.send(ConsensusEvent::CaughtUp).await.is_err() {
                return;
            }
        }
        if announced != Some(leadership) {
            tracing::info!(?leadership, "the leader has changed");
            if events.send(ConsensusEvent::Leadership(leadership)).await.is_err() {
                return;
            }
            announced = Some(leadership);
        }
        if !start.next_change::<R>(&mut metrics).await {
            return;
        }
    }
}

/// How far this start is with what was committed before it.
enum Start {
    /// No leader that knows has said how far that is.
    Listens(Target),
    /// Until this index is applied.
    Applies(u64),
    /// It has been announced.
    IsCaughtUp,
}

impl Start {
    fn is_caught_up(&self, leadership: Leadership, applied: Option<u64>) -> bool {
        let leads = matches!(leadership, Leadership::Leader { .. });
        match self {
            Start::Listens(_) => leads || mutant::is(Mutant::CaughtUpTooEarly),
            Start::Applies(target) => leads || applied >= Some(*target),
            Start::IsCaughtUp => false,
        }
    }

    /// Waits for new metrics or a leader's word; false when there will be no more metrics.
    async fn next_change<R: AsyncRuntime>(&mut self, metrics: &mut Metrics<R>) -> bool {
        let Start::Listens(heard) = self else { return metrics.changed().await.is_ok() };
        match R::select2(metrics.changed(), heard).await {
            Select2::First(changed) => changed.is_ok(),
            Select2::Second(Ok(target)) => {
                *self = Start::Applies(target);
                true
            }
            // Nobody is left who could pass on a leader's word: consensus is being dropped.
            Select2::Second(Err(_)) => false,
        }
    }
}

/// A leader that has not caught up yet is announced as a follower without a leader. So is a node
/// that led before its start: its vote still says so, and it has not been elected again.
fn leadership_in<R: AsyncRuntime>(metrics: &RaftMetrics<Types<R>>) -> Leadership {
    let term = metrics.current_term;
    let leader = metrics.current_leader.filter(|leader| *leader != metrics.id);
    let has_caught_up = metrics.last_applied.is_some_and(|applied| applied.leader_id.term == term);
    match metrics.state {
        ServerState::Leader if has_caught_up => Leadership::Leader { term },
        ServerState::Leader
        | ServerState::Learner
        | ServerState::Follower
        | ServerState::Candidate
        | ServerState::Shutdown => Leadership::Follower { leader, term },
    }
}
