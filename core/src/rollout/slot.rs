//! One slot: the alloc that should stay, the ones that should go, and the next move.

use super::{Budget, Fill, Input, Pace, Step, Target, View, Waiting};
use crate::cluster::alloc::{Desired, StopReason};
use crate::config::model::UpdateOrder;
use crate::mutant::{self, Mutant};
use crate::units::Millis;

/// What is in a slot.
pub(super) struct SlotState<'a> {
    pub(super) index: u64,
    /// The best alloc of the wanted version that should run.
    new: Option<View<'a>>,
    /// Others of the wanted version that should run: one too many.
    doubled: Vec<View<'a>>,
    /// Allocs of other versions or of other slots, or on nodes that are emptied, that should run.
    old: Vec<View<'a>>,
    /// Allocs that were asked to stop and whose node is heard.
    leaving: Vec<View<'a>>,
}

impl<'a> SlotState<'a> {
    pub(super) fn of(input: &Input<'a>, target: &Target, index: u64) -> SlotState<'a> {
        let here = || input.allocs.iter().filter(|view| view.slot == index).copied();
        let template = target.template_of(index);
        let is_new = |view: &View<'_>| {
            let wanted = Some(view.alloc.template) == template;
            wanted && view.alloc.slot.index == index && !view.leaving
        };
        let mut candidates: Vec<View<'a>> =
            here().filter(|view| view.is_wanted() && is_new(view)).collect();
        // Healthy before reachable before silent; of equals the latest, which replaced the others.
        candidates.sort_by_key(|view| {
            let placed = view.alloc.placed;
            (!view.is_healthy(), !view.reachable, std::cmp::Reverse(placed))
        });
        let mut candidates = candidates.into_iter();
        SlotState {
            index,
            new: candidates.next(),
            doubled: candidates.collect(),
            old: here().filter(|view| view.is_wanted() && !is_new(view)).collect(),
            leaving: here()
                .filter(|view| view.alloc.desired != Desired::Run && view.reachable)
                .collect(),
        }
    }

    /// Whether somebody in this slot can serve.
    pub(super) fn is_served(&self) -> bool {
        self.new.iter().chain(&self.old).any(View::is_healthy)
    }

    /// Whether a replacement is under way here.
    pub(super) fn is_moving(&self, input: &Input<'_>, target: &Target) -> bool {
        let unfinished = match self.new {
            Some(new) => !is_ready(&new, input, target),
            None => !self.leaving.is_empty(),
        };
        match target.order {
            UpdateOrder::StartFirst => unfinished && !self.old.is_empty(),
            UpdateOrder::StopFirst => unfinished,
        }
    }

    /// Whether it runs what is wanted, for long enough.
    pub(super) fn has_soaked(&self, input: &Input<'_>, target: &Target) -> bool {
        let watched = mutant::is(Mutant::PromotedTooEarly);
        self.new.is_some_and(|new| is_ready(&new, input, target) || (watched && new.is_healthy()))
    }

    /// The next move of this slot.
    pub(super) fn advance(
        &self,
        input: &Input<'_>,
        target: &Target,
        budget: &mut Budget,
        step: &mut Step,
    ) {
        if target.canaries.as_ref().is_some_and(|canaries| canaries.hold(self.index)) {
            step.waiting.push((self.index, Waiting::Canaries));
            if target.template_of(self.index).is_none() {
                return;
            }
        }
        match self.new {
            Some(new) if !new.reachable => self.refill(input.pace, target, budget, step),
            Some(new) => self.settle(new, input, target, step),
            None => self.refill(input.pace, target, budget, step),
        }
    }

    /// The wanted alloc is there: when it is ready, the others go.
    fn settle(&self, new: View<'_>, input: &Input<'_>, target: &Target, step: &mut Step) {
        let wait = |waiting: Waiting, step: &mut Step| step.waiting.push((self.index, waiting));
        if new.is_healthy() {
            self.doubled.iter().for_each(|view| stop(view, StopReason::Replaced, step));
        } else {
            // One that can be heard fills the slot; a silent one may yet come back healthy.
            let heard = self.doubled.iter().filter(|view| view.reachable);
            heard.for_each(|view| stop(view, StopReason::Replaced, step));
        }
        if !is_ready(&new, input, target) {
            let id = new.id.clone();
            let waiting = if new.is_healthy() { Waiting::Soak(id) } else { Waiting::Healthy(id) };
            wait(waiting, step);
            if input.pace == Pace::Back {
                // What failed serves nobody: it makes room at once.
                let broken = self.old.iter().filter(|view| !view.is_healthy());
                broken.for_each(|view| stop(view, StopReason::RolledBack, step));
            }
            return;
        }
        step.ready += 1;
        let reason = replaced_because(input.pace);
        self.old.iter().for_each(|view| stop(view, reason, step));
        let leaving = self.leaving.iter().chain(self.old.iter().filter(|view| view.reachable));
        for view in leaving {
            wait(Waiting::Gone(view.id.clone()), step);
        }
    }

    /// The wanted alloc is not there, or not heard: place one, in its turn.
    fn refill(&self, pace: Pace, target: &Target, budget: &mut Budget, step: &mut Step) {
        let waiting = |waiting: Waiting, step: &mut Step| step.waiting.push((self.index, waiting));
        let old: Vec<&View<'_>> = self.old.iter().filter(|view| view.reachable).collect();
        if old.is_empty() {
            match (target.order, self.leaving.first()) {
                (UpdateOrder::StopFirst, Some(view)) => {
                    waiting(Waiting::Gone(view.id.clone()), step);
                }
                (UpdateOrder::StopFirst | UpdateOrder::StartFirst, _) => {
                    step.place.push(Fill { index: self.index, in_turn: false });
                }
            }
            return;
        }
        if pace == Pace::Back && !self.is_served() {
            old.iter().for_each(|view| stop(view, StopReason::RolledBack, step));
        }
        if mutant::is(Mutant::DrainStopsFirst) {
            let drained = old.iter().filter(|view| view.leaving);
            drained.for_each(|view| stop(view, StopReason::Drained, step));
        }
        match target.order {
            UpdateOrder::StartFirst => {
                let in_turn = self.is_served();
                // Who serves nobody needs no turn to be replaced, and still counts as one.
                budget.turns = budget.turns.saturating_sub(u32::from(!in_turn));
                step.place.push(Fill { index: self.index, in_turn });
            }
            UpdateOrder::StopFirst if self.is_served() && budget.turns == 0 => {
                waiting(Waiting::Turn, step);
            }
            UpdateOrder::StopFirst if self.is_served() && budget.spare == 0 => {
                waiting(Waiting::Floor, step);
            }
            UpdateOrder::StopFirst => {
                budget.turns = budget.turns.saturating_sub(1);
                budget.spare -= u32::from(self.is_served());
                let reason = replaced_because(pace);
                old.iter().for_each(|view| stop(view, reason, step));
                waiting(Waiting::Gone(old[0].id.clone()), step);
            }
        }
    }
}

fn stop(view: &View<'_>, reason: StopReason, step: &mut Step) {
    step.stop.push((view.id.clone(), view.because(reason)));
}

fn replaced_because(pace: Pace) -> StopReason {
    match pace {
        Pace::Steady | Pace::Rolling => StopReason::Updated,
        Pace::Back => StopReason::RolledBack,
    }
}

/// Healthy, and for as long as the pace asks.
fn is_ready(view: &View<'_>, input: &Input<'_>, target: &Target) -> bool {
    let promoted = target.promoted.is_some_and(|at| view.alloc.placed < at);
    // What waits for canaries runs what it ran.
    let stays = target.canaries.is_some() && view.alloc.template != target.template;
    let soak = match input.pace {
        Pace::Rolling if !(promoted || stays) => target.healthy_for,
        Pace::Rolling | Pace::Steady | Pace::Back => Millis(0),
    };
    view.is_healthy() && view.healthy_for.is_some_and(|length| length >= soak)
}
