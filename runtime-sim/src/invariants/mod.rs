//! What must hold at every moment of every run, one file each.
//!
//! An invariant sees [`Moment`]s and remembers what it needs. One that a run contradicts is a bug
//! in Mill or wrongly stated; it is restated in the open, never special-cased in the code that it
//! watches.

mod acknowledged;
mod backoff;
mod calm;
mod canaries;
mod capacity;
mod certificates;
mod commanded;
mod ears;
mod equal_state;
mod floor;
mod forward;
mod gates;
mod gradual;
mod members;
mod mesh;
mod misled;
mod once;
mod one_leader;
mod outlives;
mod pinned;
mod placed;
mod reads;
mod released;
mod returned;
mod routed;
mod routes;
mod runs;
mod storm;
mod whole;

use std::fmt;

use mill_core::Effect;
use mill_core::api::{Outcome, RequestId};
use mill_core::cluster::command::Entry;
use mill_core::cluster::{Cluster, Revision};
use mill_core::event::Leadership;
use mill_core::message::Message;
use mill_core::name::NodeId;
use mill_core::time::Mono;
use serde::Serialize;

use crate::time::SimTime;
use crate::world::host::Host;
use crate::world::people::Asked;

/// Something that an invariant may have an opinion on.
pub(crate) enum Moment<'a> {
    /// A node asks for something to be done, by its own clock; nothing is done yet.
    Effect { host: &'a Host, effect: &'a Effect, at: Mono },
    /// A message of another node is handed to a node, by whose clock it comes.
    Heard { by: NodeId, from: NodeId, message: &'a Message, at: Mono },
    /// An entry was committed; so many of its commands held.
    Committed {
        before: &'a Cluster,
        entry: &'a Entry,
        at: Revision,
        after: &'a Cluster,
        held: usize,
    },
    /// The hash that the state at a revision has.
    Agreed { at: Revision, hash: u64 },
    /// A node's own copy of the state.
    State { node: NodeId, at: Revision, hash: u64 },
    /// A node was told who leads, by its own clock.
    Belief { node: NodeId, belief: Leadership, at: Mono },
    /// A node is told that nothing is known of what became of a request that it passed on.
    Unanswered { node: NodeId, boot: u64, id: RequestId },
    /// A person got an answer; `cluster` is the committed state.
    Answer { now: SimTime, asked: &'a Asked, outcome: &'a Outcome, cluster: &'a Cluster },
    /// A certificate authority has looked at a name.
    Validation { now: SimTime, name: &'a str, proven: bool },
    /// A machine, looked at every tick.
    Host { now: SimTime, host: &'a Host },
}

/// Something that must hold.
trait Invariant {
    /// Its name: that of its file.
    fn name(&self) -> &'static str;

    /// Looks at a moment.
    ///
    /// # Errors
    /// What does not hold, a sentence.
    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String>;
}

/// What did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// When.
    pub at: SimTime,
    /// Which invariant.
    pub invariant: &'static str,
    /// What exactly.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}: {}", self.invariant, self.at, self.detail)
    }
}

/// All of them.
pub(crate) struct Invariants(Vec<Box<dyn Invariant>>);

impl Default for Invariants {
    fn default() -> Invariants {
        Invariants(vec![
            Box::new(acknowledged::Acknowledged::default()),
            Box::new(backoff::Backoff::default()),
            Box::new(calm::Calm::default()),
            Box::new(canaries::Canaries::default()),
            Box::new(certificates::Certificates::default()),
            Box::new(capacity::Capacity),
            Box::new(commanded::Commanded),
            Box::new(equal_state::EqualState::default()),
            Box::new(floor::Floor),
            Box::new(forward::Forward),
            Box::new(gates::Gates),
            Box::new(gradual::Gradual),
            Box::new(members::Members::default()),
            Box::new(mesh::Mesh),
            Box::new(misled::Misled::default()),
            Box::new(once::Once::default()),
            Box::new(one_leader::OneLeader::default()),
            Box::new(outlives::Outlives::default()),
            Box::new(pinned::Pinned::default()),
            Box::new(placed::Placed),
            Box::new(reads::Reads::default()),
            Box::new(released::Released::default()),
            Box::new(returned::Returned),
            Box::new(routed::Routed::default()),
            Box::new(routes::Routes),
            Box::new(runs::Runs::default()),
            Box::new(storm::Storm::default()),
            Box::new(whole::Whole),
        ])
    }
}

impl Invariants {
    /// Shows a moment to all of them; the first that objects is named.
    pub fn observe(&mut self, moment: &Moment<'_>) -> Result<(), (&'static str, String)> {
        for invariant in &mut self.0 {
            invariant.observe(moment).map_err(|detail| (invariant.name(), detail))?;
        }
        Ok(())
    }
}
