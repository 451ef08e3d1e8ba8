//! Why a service is not as wanted: data, put into words in one place.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::Slot;
use crate::rollout::Waiting;
use crate::scheduler::Rejected;
use crate::units::Millis;

/// What stands between a slot and what is wanted of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blocked {
    /// The rollout waits.
    Rollout {
        /// The slot.
        slot: Slot,
        /// For what.
        waiting: Waiting,
    },
    /// No node will do.
    Unplaced {
        /// The slot.
        slot: Slot,
        /// Why each node will not.
        rejected: Vec<Rejected>,
    },
    /// Its node is down, and as many lost slots as may be are being filled.
    Lost {
        /// The slot.
        slot: Slot,
        /// How many that is.
        first: u32,
    },
    /// Its image cannot be had yet.
    Image {
        /// The image as written.
        reference: String,
        /// What stands in the way: a sentence.
        detail: String,
    },
    /// It failed and is tried again later.
    Backoff {
        /// The slot.
        slot: Slot,
        /// How often it failed.
        failures: u32,
        /// How long from when this was decided.
        wait: Millis,
    },
}

impl Blocked {
    /// Whether it waits for slots that say themselves what is wrong.
    pub(super) fn is_for_others(&self) -> bool {
        match self {
            Blocked::Rollout { waiting, .. } => matches!(waiting, Waiting::Turn | Waiting::Floor),
            Blocked::Lost { .. } => true,
            Blocked::Unplaced { .. } | Blocked::Image { .. } | Blocked::Backoff { .. } => false,
        }
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Blocked::Rollout { slot, waiting } => match waiting {
                Waiting::Healthy(alloc) => write!(f, "{slot}: waiting for {alloc} to be healthy"),
                Waiting::Soak(alloc) => write!(f, "{slot}: {alloc} is healthy and being watched"),
                Waiting::Gone(alloc) => write!(f, "{slot}: waiting for {alloc} to be gone"),
                Waiting::Turn => write!(f, "{slot}: waiting for its turn"),
                Waiting::Floor => {
                    write!(f, "{slot}: waiting for other replicas, too few are healthy")
                }
            },
            Blocked::Unplaced { slot, rejected } if rejected.is_empty() => {
                write!(f, "{slot}: no node is up")
            }
            Blocked::Unplaced { slot, rejected } => {
                write!(f, "{slot}: no node can take it:")?;
                let each = |(i, r): (usize, &Rejected)| {
                    let comma = if i == 0 { "" } else { "," };
                    write!(f, "{comma} {} {}", r.node, r.reason)
                };
                rejected.iter().enumerate().try_for_each(each)
            }
            Blocked::Lost { slot, first } => write!(
                f,
                "{slot}: its node is down; it is placed elsewhere after {first} other replicas \
                 that were lost, which are on their way"
            ),
            Blocked::Image { reference, detail } => {
                write!(f, "waiting for image `{reference}`: {detail}")
            }
            Blocked::Backoff { slot, failures, wait } => {
                write!(f, "{slot}: failed {failures} times, tried again after {wait}")
            }
        }
    }
}
