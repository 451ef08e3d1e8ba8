//! Turns openraft's metrics into events: who leads, and that consensus has failed.
//!
//! Leadership is announced only when an entry of its own term is applied: then everything that
//! any earlier leader acknowledged is applied too (Raft, section 8), and the reader has been sent
//! all of it. Tested in `tests/cluster.rs`.

use openraft::metrics::RaftMetrics;
use openraft_rt::{AsyncRuntime, WatchReceiver};
use tokio::sync::{mpsc, oneshot};

use super::error::FirstFailure;
use super::types::Types;
use super::{ConsensusEvent, Leadership};

type Metrics<R> = openraft::type_config::alias::WatchReceiverOf<Types<R>, RaftMetrics<Types<R>>>;

/// Runs until consensus stops or nobody reads the events.
pub(super) async fn watch<R: AsyncRuntime>(
    mut metrics: Metrics<R>,
    events: mpsc::Sender<ConsensusEvent>,
    replayed: oneshot::Receiver<()>,
    failure: FirstFailure,
) {
    if replayed.await.is_err() {
        return;
    }
    let mut announced = None;
    loop {
        let (leadership, running) = {
            let metrics = metrics.borrow_and_update();
            (leadership_in(&metrics), metrics.running_state.clone())
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
        if announced != Some(leadership) {
            tracing::info!(?leadership, "the leader has changed");
            if events.send(ConsensusEvent::Leadership(leadership)).await.is_err() {
                return;
            }
            announced = Some(leadership);
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// A leader that has not caught up yet is announced as a follower without a leader.
fn leadership_in<R: AsyncRuntime>(metrics: &RaftMetrics<Types<R>>) -> Leadership {
    let term = metrics.current_term;
    let leads = metrics.current_leader == Some(metrics.id);
    let has_caught_up = metrics.last_applied.is_some_and(|applied| applied.leader_id.term == term);
    match (leads, has_caught_up) {
        (true, true) => Leadership::Leader { term },
        (true, false) => Leadership::Follower { leader: None, term },
        (false, _) => Leadership::Follower { leader: metrics.current_leader, term },
    }
}
