//! What a leader does at once when it is asked, and what only after it has made sure that it leads.
//! What people are told in a cluster is in `sim-tests/tests/scenarios/forwarding.rs`.

mod support;

use mill_core::api::{ErrorCode, Request};
use mill_core::event::Fate;
use mill_core::{Effect, Event};
use support::Leader;

fn drain(node: &str, on: bool) -> Request {
    Request::Drain { node: node.to_owned(), on }
}

#[test]
fn what_is_only_to_be_proposed_goes_to_the_log_at_once() {
    let effects = Leader::new().asked(drain("b", true));
    assert!(matches!(effects.as_slice(), [Effect::Propose { .. }]), "{effects:?}");
}

#[test]
fn what_is_answered_from_the_state_waits_until_the_lead_is_confirmed() {
    for request in [Request::State, drain("b", false), drain("nobody", true)] {
        let effects = Leader::new().asked(request);
        assert!(matches!(effects.as_slice(), [Effect::ConfirmRead { .. }]), "{effects:?}");
    }
}

#[test]
fn a_leader_whose_proposal_is_refused_says_that_it_reaches_no_majority() {
    let mut leader = Leader::new();
    let effects = leader.asked(drain("b", true));
    let [Effect::Propose { entry }] = effects.as_slice() else { panic!("{effects:?}") };
    let effects = leader.effects(Event::ProposalFailed { id: entry.id, fate: Fate::Refused });
    let [Effect::Reply { outcome, .. }] = effects.as_slice() else { panic!("{effects:?}") };
    let error = outcome.as_ref().as_ref().expect_err("nobody took it");
    assert_eq!(error.code, ErrorCode::NoLeader);
    assert!(error.message.starts_with("this node cannot reach a majority"), "{error}");
}
