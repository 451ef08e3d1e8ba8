//! What happened, for people: a bounded list in the replicated state.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::time::Wall;

/// The most events that are kept.
pub const EVENTS_KEPT: usize = 500;

/// The last [`EVENTS_KEPT`] events, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct History {
    /// Number of the next event.
    pub next: u64,
    /// The events.
    pub events: VecDeque<Happened>,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happened {
    /// Counts up for ever.
    pub number: u64,
    /// When, by the proposer's clock.
    pub at: Wall,
    /// What it is about: a service, alloc, node or deploy.
    pub subject: String,
    /// What happened and why: a sentence.
    pub text: String,
}

impl History {
    pub(super) fn record(&mut self, at: Wall, subject: impl ToString, text: String) {
        if self.events.len() == EVENTS_KEPT {
            self.events.pop_front();
        }
        let number = self.next;
        self.next += 1;
        self.events.push_back(Happened { number, at, subject: subject.to_string(), text });
    }

    /// Forgets all but the latest.
    pub(super) fn keep(&mut self, most: usize) {
        let surplus = self.events.len().saturating_sub(most);
        self.events.drain(..surplus);
    }
}
