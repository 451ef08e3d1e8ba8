//! What is under way at an alloc that nothing new is sent to any more: counted until it is done, or
//! has had its time.

use serde::{Deserialize, Serialize};

use crate::container::{OpError, OpOutput};
use crate::effect::OpId;
use crate::time::Mono;
use crate::units::Millis;

/// For how long an alloc that nobody is told of any more may still be sent something: an answer of
/// DNS is good for a second, and whoever asks the API may do so once a second. They have that long
/// before anything is counted.
const LINGER: Millis = Millis::secs(2);
/// Between the first two counts; then twice as long each time, up to [`LONGEST`].
const FIRST: Millis = Millis(100);
/// The longest between two counts, also when it could not be counted.
const LONGEST: Millis = Millis::secs(1);

/// The time that requests have to finish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Drain {
    /// When they are counted again.
    at: Mono,
    /// How long they have from the first count on.
    length: Millis,
    /// Until when that is.
    until: Option<Mono>,
    counting: Option<OpId>,
    /// Between this count and the next.
    wait: Millis,
}

impl Drain {
    pub fn new(now: Mono, length: Millis) -> Drain {
        Drain { at: now + LINGER, length, until: None, counting: None, wait: FIRST }
    }

    pub fn waits_for(&self, id: OpId) -> bool {
        self.counting == Some(id)
    }

    pub fn is_due(&self, now: Mono) -> bool {
        self.counting.is_none() && self.at <= now
    }

    /// Whether the time is over.
    pub fn is_over(&self, now: Mono) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    pub fn asked(&mut self, now: Mono, id: OpId) {
        self.counting = Some(id);
        self.until.get_or_insert(now + self.length);
    }

    /// How many there are, if they could be counted; with none the time is over.
    pub fn counted(&mut self, now: Mono, result: &Result<OpOutput, OpError>) -> Option<u32> {
        self.counting = None;
        let count = match result {
            Ok(OpOutput::InFlight(count)) => Some(*count),
            Ok(_) | Err(_) => None,
        };
        if count == Some(0) {
            self.until = Some(now);
        }
        let wait = if count.is_some() { self.wait } else { LONGEST };
        self.wait = Millis(self.wait.0 * 2).min(LONGEST);
        self.at = self.until.map_or(now + wait, |until| until.min(now + wait));
        count
    }

    pub fn next_wake(&self) -> Option<Mono> {
        self.counting.is_none().then_some(self.at)
    }
}
