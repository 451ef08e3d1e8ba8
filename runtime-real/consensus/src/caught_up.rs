//! When a start is caught up: whatever was committed before it has been sent to the reader.
//!
//! A leader knows by itself: an entry of its own term is applied (`watch.rs`). A follower takes the
//! word of a leader whose own term has committed something: that leader's committed index covers
//! every earlier term (Raft, section 5.4.2), and a leader older than one that this node had
//! followed is refused, since votes are durable. A leader that was replaced without this node
//! knowing may miss the newest entries, but none that this node had applied before.
//! Tested in `tests/many.rs`.

use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::types::{LogId, Vote};

/// Takes the first word of a leader that counts. Clones share it.
#[derive(Clone)]
pub(super) struct Heard {
    tell: Arc<Mutex<Option<oneshot::Sender<u64>>>>,
}

/// Gives the index up to which entries must be applied.
pub(super) type Target = oneshot::Receiver<u64>;

impl Heard {
    pub(super) fn new() -> (Heard, Target) {
        let (tell, target) = oneshot::channel();
        (Heard { tell: Arc::new(Mutex::new(Some(tell))) }, target)
    }

    /// A leader with this vote, which this node follows, has committed up to there.
    pub(super) fn leader_says(&self, vote: Vote, committed: Option<LogId>) {
        let Some(committed) = committed else { return };
        if committed.leader_id.term != vote.leader_id.term {
            return;
        }
        let mut tell = self.tell.lock().expect("no code panics while it holds the sender");
        if let Some(tell) = tell.take() {
            // Nobody waits when this node has become a leader itself.
            let _ = tell.send(committed.index);
        }
    }
}
