//! What containers there are on this node, asked at boot and whenever the engine is back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::container::{ContainerOp, Observed, OpError, OpErrorKind, OpOutput};
use crate::effect::OpId;
use crate::name::AllocId;
use crate::node::Wake;
use crate::outbox::Outbox;
use crate::time::Mono;
use crate::units::Millis;

/// Between two tries to list the containers of an engine that does not answer.
const RETRY: Millis = Millis::secs(1);
/// Between two listings: what the engine forgot to tell, and whether it answers at all.
const LOOK_AGAIN: Millis = Millis::secs(30);

/// Whether the engine's containers are known.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Inventory {
    state: State,
    /// What was listed and not taken yet.
    fresh: Option<Seen>,
    /// Whether there ever was a listing in this boot.
    known: bool,
    /// Why the last try failed, if it did; at first, that there was none.
    trouble: Option<OpError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    Stale,
    Asked(OpId),
    Retry(Mono),
}

/// All containers of this cluster on this node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Seen {
    /// What was started by operations from this one on may be missing.
    pub asked: u64,
    pub containers: BTreeMap<AllocId, Observed>,
}

impl Default for Inventory {
    fn default() -> Inventory {
        let detail = "the container engine has not said yet what runs here".to_owned();
        Inventory {
            state: State::Stale,
            fresh: None,
            known: false,
            trouble: Some(OpError { kind: OpErrorKind::EngineDown, detail }),
        }
    }
}

impl Inventory {
    /// Nothing may be done (`None`) before the first listing; each fresh one is handed out once.
    pub fn step(&mut self, now: Mono, out: &mut Outbox) -> Option<Option<Seen>> {
        let due = match self.state {
            State::Stale => true,
            State::Retry(at) => at <= now,
            State::Asked(_) => false,
        };
        if due {
            self.state = State::Asked(out.container(ContainerOp::List));
        }
        self.known.then(|| self.fresh.take())
    }

    /// The operation that lists just now.
    pub fn under_way(&self) -> Option<u64> {
        match self.state {
            State::Asked(id) => Some(id.seq),
            State::Stale | State::Retry(_) => None,
        }
    }

    /// Why nobody can say what runs, while nobody can.
    pub fn trouble(&self) -> Option<&OpError> {
        self.trouble.as_ref()
    }

    /// Whether that operation was the listing.
    pub fn op_done(&mut self, now: Mono, id: OpId, result: &Result<OpOutput, OpError>) -> bool {
        if self.state != State::Asked(id) {
            return false;
        }
        let containers = match result {
            Ok(OpOutput::Containers(containers)) => containers,
            Ok(_) => {
                self.state = State::Retry(now + RETRY);
                return true;
            }
            Err(error) => {
                self.trouble = Some(error.clone());
                self.state = State::Retry(now + RETRY);
                return true;
            }
        };
        self.trouble = None;
        let containers = containers.iter().map(|c| (c.alloc.clone(), c.clone())).collect();
        self.fresh = Some(Seen { asked: id.seq, containers });
        self.known = true;
        self.state = State::Retry(now + LOOK_AGAIN);
        true
    }

    pub fn invalidate(&mut self) {
        self.state = State::Stale;
    }

    pub fn next_wake(&self) -> Option<(Mono, Wake)> {
        match self.state {
            State::Retry(at) => Some((at, Wake::Engine)),
            State::Stale | State::Asked(_) => None,
        }
    }
}
