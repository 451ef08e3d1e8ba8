//! What happened, in order: a hash of everything, and lines for people.
//!
//! The hash is what two runs of one seed are compared by. Lines are kept for the last transitions
//! only, unless somebody listens to all of them.

use std::collections::VecDeque;

use xxhash_rust::xxh3::Xxh3;

use crate::time::SimTime;

/// Lines that a failure report shows.
const RECENT: usize = 60;

/// Takes each line of a trace.
pub type Line = Box<dyn FnMut(&str)>;

pub(crate) struct Trace {
    hash: Xxh3,
    recent: VecDeque<String>,
    listener: Option<Line>,
}

impl Trace {
    pub fn new(listener: Option<Line>) -> Trace {
        Trace { hash: Xxh3::default(), recent: VecDeque::new(), listener }
    }

    /// Takes numbers into the hash; always.
    pub fn mark(&mut self, numbers: &[u64]) {
        numbers.iter().for_each(|number| self.hash.update(&number.to_le_bytes()));
    }

    /// A transition: something that an operator would want to see in a timeline.
    pub fn transition(&mut self, at: SimTime, text: impl FnOnce() -> String) {
        let line = format!("{at}  {}", text());
        if let Some(listener) = &mut self.listener {
            listener(&line);
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(line);
    }

    /// Everything else: made into text only if somebody listens.
    pub fn detail(&mut self, at: SimTime, text: impl FnOnce() -> String) {
        if let Some(listener) = &mut self.listener {
            listener(&format!("{at}    {}", text()));
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash.digest()
    }

    pub fn recent(&self) -> Vec<String> {
        self.recent.iter().cloned().collect()
    }
}
