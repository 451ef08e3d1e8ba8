//! Why a service is not as wanted: data, put into words in one place.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::{Name, Slot};
use crate::plan::numbers;
use crate::rollout::Waiting;
use crate::scheduler::{Rejected, by_reason};
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
    /// A task has to succeed before anything of it moves.
    Gate {
        /// The task.
        task: Name,
        /// Its run, once it was begun.
        run: Option<u64>,
    },
    /// Nodes that are up have not said yet that they send requests to what is new.
    Unrouted {
        /// Their names.
        nodes: Vec<String>,
    },
    /// As many runs of its task are under way as may be.
    InLine {
        /// The run, as its task and number.
        slot: Slot,
        /// Runs before it.
        before: Vec<u64>,
        /// How many may be under way.
        most: u32,
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
            Blocked::Rollout { waiting, .. } => {
                matches!(waiting, Waiting::Turn | Waiting::Floor | Waiting::Canaries)
            }
            Blocked::Lost { .. } | Blocked::InLine { .. } | Blocked::Gate { .. } => true,
            Blocked::Unrouted { .. } => false,
            Blocked::Unplaced { .. } | Blocked::Image { .. } | Blocked::Backoff { .. } => false,
        }
    }
}

/// What stands in the way, as sentences: slots that no node will take for the same reasons share
/// one.
pub(crate) fn sentences(blocked: &[Blocked]) -> Vec<String> {
    let mut unplaced: Vec<(&[Rejected], Vec<&Slot>)> = Vec::new();
    let mut others = Vec::new();
    for blocked in blocked {
        let Blocked::Unplaced { slot, rejected } = blocked else {
            others.push(blocked.to_string());
            continue;
        };
        match unplaced.iter_mut().find(|(known, _)| known == rejected) {
            Some((_, slots)) => slots.push(slot),
            None => unplaced.push((rejected, vec![slot])),
        }
    }
    let unplaced = unplaced.into_iter().map(|(rejected, slots)| Unplaced { slots, rejected });
    unplaced.map(|unplaced| unplaced.to_string()).chain(others).collect()
}

/// Slots that no node will take, and why.
struct Unplaced<'a> {
    slots: Vec<&'a Slot>,
    rejected: &'a [Rejected],
}

impl fmt::Display for Unplaced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let them = match self.slots.as_slice() {
            [] => return Ok(()),
            [slot] => {
                write!(f, "{slot}")?;
                "it"
            }
            slots @ [first, ..] => {
                let indices: Vec<u64> = slots.iter().map(|slot| slot.index).collect();
                write!(f, "{} slots {}", first.service, numbers(&indices))?;
                "them"
            }
        };
        if self.rejected.is_empty() {
            return write!(f, ": no node is up");
        }
        write!(f, ": no node can take {them}:")?;
        for (i, (reason, nodes)) in by_reason(self.rejected).into_iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match nodes.as_slice() {
                [node] => write!(f, "{comma} {node} {reason}")?,
                nodes => write!(f, "{comma} {}: each {reason}", nodes.join(", "))?,
            }
        }
        Ok(())
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
                Waiting::Canaries => {
                    write!(f, "{slot}: waiting until the canaries are promoted")
                }
                Waiting::Floor => {
                    write!(f, "{slot}: waiting for other replicas, too few are healthy")
                }
            },
            Blocked::Unplaced { slot, rejected } => Unplaced { slots: vec![slot], rejected }.fmt(f),
            Blocked::Lost { slot, first } => write!(
                f,
                "{slot}: its node is down; it is placed elsewhere after {first} other replicas \
                 that were lost, which are on their way"
            ),
            Blocked::Image { reference, detail } => {
                write!(f, "waiting for image `{reference}`: {detail}")
            }
            Blocked::Gate { task, run: None } => {
                write!(f, "waiting for task {task}, which runs when the rest of the deploy is done")
            }
            Blocked::Gate { task, run: Some(run) } => {
                write!(f, "waiting for task {task} to succeed (run {run})")
            }
            Blocked::Unrouted { nodes } => {
                write!(f, "waiting until {} says that requests go there", nodes.join(" and "))
            }
            Blocked::InLine { slot, before, most } => {
                let s = if *most == 1 { "" } else { "s" };
                write!(f, "{slot}: {most} run{s} of its task may be under way at a time")?;
                match before.as_slice() {
                    [] => Ok(()),
                    before => write!(f, "; waiting for {}", numbers(before)),
                }
            }
            Blocked::Backoff { slot, failures, wait } => {
                write!(f, "{slot}: failed {failures} times, tried again after {wait}")
            }
        }
    }
}
