//! The cluster's clockwork: how often nodes speak, how long silence lasts, and how much moves at
//! once when a node is lost. All are settings.

use serde::{Deserialize, Serialize};

use crate::units::Millis;

/// Periods and limits of failure detection and of what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Between two heartbeats of a node.
    pub heartbeat: Millis,
    /// Silent for this long, a node is down. A new leader gives every node as long anew.
    pub down_after: Millis,
    /// Slots of nodes that are down that are filled elsewhere at the same time.
    pub lost_at_once: u32,
    /// Silent for this long, a voter gives its vote to a node that is ready to take it.
    pub voter_replaced_after: Millis,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            heartbeat: Millis::secs(1),
            down_after: Millis::secs(8),
            lost_at_once: 5,
            voter_replaced_after: Millis::secs(60),
        }
    }
}
