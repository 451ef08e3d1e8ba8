//! What clients saw, and whether one list of values, appended to one by one, explains it.
//!
//! Values are unique and written once each, so the order of the list is known at the end and the
//! check is exact and linear: Herlihy and Wing's conditions, pair by pair, for an append-only list.
//! A write that was refused is not in the list, one whose fate is unknown may be.

use std::collections::BTreeMap;

use super::record::Value;
use crate::time::SimTime;

/// One request of a client, from its call to its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) client: u64,
    pub(super) called: SimTime,
    pub(super) answered: SimTime,
    pub(super) outcome: Outcome,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The value is in the list.
    Written(Value),
    /// It is not, and never will be.
    Refused(Value),
    /// This was the list.
    Read(Vec<Value>),
}

/// What contradicts the list, if anything does.
pub(super) fn contradiction(history: &[Request], list: &[Value]) -> Option<String> {
    let mut places = BTreeMap::new();
    for (place, value) in list.iter().enumerate() {
        if let Some(first) = places.insert(*value, place) {
            return Some(format!("value {value:x} is in the list twice, at {first} and {place}"));
        }
    }
    // Each request needs at least so much of the list before it, and has at least so much after.
    let mut needs: Vec<(SimTime, usize, &Request)> = Vec::new();
    let mut reached: Vec<(SimTime, usize)> = Vec::new();
    for request in history {
        match &request.outcome {
            Outcome::Written(value) => match places.get(value) {
                Some(place) => {
                    // Whatever was there when it was called comes before it.
                    needs.push((request.called, *place, request));
                    reached.push((request.answered, place + 1));
                }
                None => return Some(format!("{request:?} was acknowledged, but it is lost")),
            },
            Outcome::Refused(value) if places.contains_key(value) => {
                return Some(format!("{request:?} was refused, but it is in the list"));
            }
            Outcome::Refused(_) => {}
            Outcome::Read(values) if !list.starts_with(values) => {
                let client = request.client;
                return Some(format!("client {client} read what the list never was: {values:x?}"));
            }
            Outcome::Read(values) => {
                needs.push((request.called, values.len(), request));
                reached.push((request.answered, values.len()));
            }
        }
    }
    out_of_order(needs, reached)
}

/// A request that saw less than what had been reached before it was called.
fn out_of_order(
    mut needs: Vec<(SimTime, usize, &Request)>,
    mut reached: Vec<(SimTime, usize)>,
) -> Option<String> {
    needs.sort_by_key(|(called, _, _)| *called);
    reached.sort_unstable();
    let mut reached = reached.into_iter().peekable();
    let mut most = 0;
    for (called, has, request) in needs {
        while let Some((_, upto)) = reached.next_if(|(answered, _)| *answered < called) {
            most = most.max(upto);
        }
        if has < most {
            let (client, answered) = (request.client, request.answered);
            return Some(format!(
                "client {client} called at {called} and saw {has} values at {answered}, but {most} \
                 had been acknowledged or read before"
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::Outcome::{Read, Refused, Written};
    use super::*;

    fn request(called: u64, answered: u64, outcome: Outcome) -> Request {
        Request { client: 1, called: SimTime(called), answered: SimTime(answered), outcome }
    }

    #[test]
    fn what_happened_at_the_same_time_may_have_happened_in_any_order() {
        let history = [
            request(0, 10, Written(2)),
            request(1, 9, Written(1)),
            request(2, 3, Read(vec![])),
            request(4, 8, Read(vec![1])),
            request(11, 12, Read(vec![1, 2, 3])),
            request(0, 1, Refused(9)),
        ];
        assert_eq!(contradiction(&history, &[1, 2, 3]), None);
    }

    #[test]
    fn each_way_to_break_the_promise_is_found() {
        let broken: [(&str, Vec<Request>); 7] = [
            ("lost", vec![request(0, 1, Written(7))]),
            ("in the list", vec![request(0, 1, Refused(1))]),
            ("never was", vec![request(0, 1, Read(vec![2]))]),
            ("saw 0", vec![request(0, 1, Written(1)), request(2, 3, Read(vec![]))]),
            ("saw 0", vec![request(0, 1, Read(vec![1])), request(2, 3, Read(vec![]))]),
            ("saw 0", vec![request(0, 1, Written(2)), request(2, 3, Written(1))]),
            ("saw 0", vec![request(0, 1, Read(vec![1])), request(2, 3, Written(1))]),
        ];
        for (expected, history) in broken {
            let found = contradiction(&history, &[1, 2]);
            assert!(found.as_ref().is_some_and(|text| text.contains(expected)), "{found:?}");
        }
        assert!(contradiction(&[], &[1, 2, 1]).is_some_and(|text| text.contains("twice")));
    }
}
