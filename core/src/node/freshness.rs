//! How old this node's copy of the state is: since the sending of the latest heartbeat of which
//! the leader said what was committed by then, once that is applied here.
//!
//! As honest as the leader that answered: one that has lost its quorum takes as long to notice as
//! an election takes. One that stood still meanwhile says nothing until it knows that it leads.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::api::RequestId;
use crate::api::view::Age;
use crate::cluster::Revision;
use crate::mutant::{self, Mutant};
use crate::time::Mono;
use crate::units::Millis;

/// Heartbeats that an answer may still come for; those before are forgotten.
const REMEMBERED: usize = 32;

/// What the leader is known to have heard.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Freshness {
    /// Heartbeats and when they were sent, oldest first.
    sent: VecDeque<(u64, Mono)>,
    /// When those were sent that were heard, and what was committed by then.
    heard: VecDeque<(Mono, Revision)>,
    /// This node leads, and stood still: another may lead by now.
    doubted: Option<Doubt>,
}

/// Since when a leader is not sure that it leads.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Doubt {
    /// The last request that had come by then: what a quorum says of a later one, it says of now.
    latest: Option<RequestId>,
}

impl Freshness {
    /// A heartbeat goes out.
    pub fn sent(&mut self, at: Mono, seq: u64) {
        if self.sent.len() == REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back((seq, at));
    }

    /// The leader heard one.
    pub fn heard(&mut self, seq: u64, revision: Revision, applied: Revision) {
        // It heard itself.
        if self.doubted.is_some() {
            return;
        }
        let Some((_, at)) = self.sent.iter().find(|(sent, _)| *sent == seq).copied() else {
            return;
        };
        self.sent.retain(|(sent, _)| *sent > seq);
        // Of those that count already, the latest is enough.
        let latest = self.heard.iter().filter(|(_, known)| *known <= applied).max().copied();
        self.heard.retain(|(_, known)| *known > applied);
        self.heard.extend(latest);
        if self.heard.len() == REMEMBERED {
            self.heard.pop_front();
        }
        self.heard.push_back((at, revision));
    }

    /// This node led when it stood still.
    pub fn doubt(&mut self, latest: Option<RequestId>) {
        self.doubted = Some(Doubt { latest });
    }

    /// A quorum said that it leads, when that was asked for a request.
    pub fn confirmed(&mut self, request: RequestId) {
        self.doubted.take_if(|doubt| Some(request) > doubt.latest);
    }

    /// It has heard who leads.
    pub fn trust(&mut self) {
        self.doubted = None;
    }

    /// How old the state is.
    pub fn age(&self, now: Mono, applied: Revision) -> Age {
        if mutant::is(Mutant::StaleReadSaysNow) {
            return Age::AtMost(Millis(0));
        }
        if self.doubted.is_some() {
            return Age::Unknown;
        }
        let known = self.heard.iter().filter(|(_, revision)| *revision <= applied);
        match known.map(|(at, _)| *at).max() {
            Some(at) => Age::AtMost(now.since(at)),
            None => Age::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64) -> Revision {
        Revision { epoch: 0, index }
    }

    fn second(number: u64) -> Mono {
        Mono(0) + Millis::secs(number)
    }

    #[test]
    fn what_was_heard_counts_once_what_was_committed_by_then_is_applied() {
        let mut freshness = Freshness::default();
        assert_eq!(freshness.age(second(1), at(5)), Age::Unknown);
        freshness.sent(second(1), 1);
        freshness.sent(second(2), 2);
        freshness.heard(1, at(5), at(5));
        freshness.heard(2, at(9), at(5));
        assert_eq!(freshness.age(second(3), at(8)), Age::AtMost(Millis::secs(2)));
        assert_eq!(freshness.age(second(3), at(9)), Age::AtMost(Millis::secs(1)));
    }

    #[test]
    fn a_doubt_survives_being_written_down() {
        let mut freshness = Freshness::default();
        freshness.sent(second(1), 1);
        freshness.heard(1, at(5), at(5));
        freshness.doubt(None);
        let text = serde_json::to_string(&freshness).unwrap();
        let mut read: Freshness = serde_json::from_str(&text).unwrap();
        assert_eq!(read.age(second(2), at(5)), Age::Unknown);
        read.confirmed(RequestId(0));
        assert_eq!(read.age(second(2), at(5)), Age::AtMost(Millis::secs(1)));
    }

    #[test]
    fn an_answer_to_a_heartbeat_that_was_not_sent_says_nothing() {
        let mut freshness = Freshness::default();
        freshness.sent(second(1), 1);
        freshness.heard(7, at(5), at(5));
        assert_eq!(freshness.age(second(3), at(8)), Age::Unknown);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut freshness = Freshness::default();
        for seq in 0..1000 {
            freshness.sent(second(seq), seq);
            freshness.heard(seq, at(seq), at(0));
        }
        assert!(freshness.sent.len() + freshness.heard.len() <= 2 * REMEMBERED);
    }
}
