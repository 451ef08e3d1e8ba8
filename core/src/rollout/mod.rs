//! How a service gets from what runs to what is wanted: which slots to fill, which allocs to stop.
//!
//! A pure function of what is there, computed anew each time; the same one fills a lost slot,
//! rolls a new version out and takes it back, only its [`Pace`] differs. It never takes a service
//! below its floor: `replicas` when the new one comes first, `replicas - parallel` otherwise.
//! Where allocs go is the scheduler's business. Tested in `core/tests/rollout.rs`.

mod slot;

use serde::{Deserialize, Serialize};

use self::slot::SlotState;
use crate::cluster::Revision;
use crate::cluster::alloc::{Alloc, Desired, Phase, StopReason};
use crate::config::model::UpdateOrder;
use crate::mutant::{self, Mutant};
use crate::name::AllocId;
use crate::units::Millis;

/// What is wanted and what is there.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    /// The version whose container every slot should run; `None` if the service should be gone.
    pub target: Option<Target>,
    /// Every live alloc of the service.
    pub allocs: Vec<View<'a>>,
    /// How fast, and how careful.
    pub pace: Pace,
    /// Whether what is in no wanted slot may be stopped now.
    pub prune: bool,
}

/// What every slot should run.
#[derive(Clone, Debug)]
pub struct Target {
    /// Version of the container.
    pub template: u64,
    /// Wanted slots, ascending.
    pub slots: Vec<u64>,
    /// Which comes first when a replica is replaced.
    pub order: UpdateOrder,
    /// Replicas replaced at the same time, at least 1.
    pub parallel: u32,
    /// How long a new replica stays healthy before it counts, while rolling.
    pub healthy_for: Millis,
    /// Why what is in no wanted slot is stopped.
    pub surplus: StopReason,
    /// The canaries that other slots wait for.
    pub canaries: Option<Canaries>,
    /// What was placed before counts once it is healthy: its canaries were promoted by hand.
    pub promoted: Option<Revision>,
}

/// Slots that move while the others stay as they were.
#[derive(Clone, Debug)]
pub struct Canaries {
    /// Their numbers, ascending.
    pub slots: Vec<u64>,
    /// The version that other slots keep, or are filled with if they ran it before.
    pub before: u64,
    /// The slots of that version, ascending.
    pub before_slots: Vec<u64>,
}

/// An alloc and what the leader knows of it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Its id.
    pub id: &'a AllocId,
    /// What is replicated.
    pub alloc: &'a Alloc,
    /// Which slot it serves, and is in the way of: its own, or its node's where each has one.
    pub slot: u64,
    /// Whether its node is heard.
    pub reachable: bool,
    /// Whether its node is being emptied: it is replaced elsewhere, as carefully as by a deploy.
    pub leaving: bool,
    /// For how long the leader has seen it healthy.
    pub healthy_for: Option<Millis>,
}

/// How fast, and how careful.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pace {
    /// No deploy runs: fill what is empty at once.
    Steady,
    /// A deploy brings a version about: soak each step.
    Rolling,
    /// A failed deploy is taken back: as fast as the floor allows.
    Back,
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Slots to fill, ascending.
    pub place: Vec<Fill>,
    /// How many of them in turn: one that no node can take leaves its turn to the next.
    pub turns: u32,
    /// Allocs to stop.
    pub stop: Vec<(AllocId, StopReason)>,
    /// Slots that run what is wanted and have soaked.
    pub ready: u32,
    /// The canaries have soaked, all of them: the others may follow.
    pub canaries_ready: bool,
    /// Nothing is left to do or wait for, but for what may not be pruned yet.
    pub settled: bool,
    /// All that is waited for are replaced allocs that finish what is under way.
    pub draining: bool,
    /// Nothing that is in no wanted slot is left.
    pub pruned: bool,
    /// Slots that wait, and for what.
    pub waiting: Vec<(u64, Waiting)>,
}

/// A slot to fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Its number.
    pub index: u64,
    /// Whether it is filled beside a replica that serves, which takes a turn.
    pub in_turn: bool,
}

/// What a slot waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Waiting {
    /// Its alloc to become healthy.
    Healthy(AllocId),
    /// Its alloc to have been healthy for long enough.
    Soak(AllocId),
    /// An alloc that was asked to stop to be gone.
    Gone(AllocId),
    /// Its turn: others are being replaced.
    Turn,
    /// The canaries to be promoted.
    Canaries,
    /// Other slots to be healthy, since stopping this one would go below the floor.
    Floor,
}

impl Input<'_> {
    /// Whether what is waited for is an alloc that nobody sends anything to any more.
    fn drains(&self, waiting: &Waiting) -> bool {
        match waiting {
            Waiting::Gone(id) => {
                self.allocs.iter().any(|view| view.id == id && view.alloc.is_released())
            }
            Waiting::Healthy(_) | Waiting::Soak(_) | Waiting::Turn => false,
            Waiting::Canaries | Waiting::Floor => false,
        }
    }
}

/// Decides what to do now.
pub fn step(input: &Input<'_>) -> Step {
    let mut step = Step::default();
    let Some(target) = &input.target else {
        prune(input, &[], StopReason::Removed, &mut step);
        return step;
    };
    let slots: Vec<SlotState<'_>> =
        target.slots.iter().map(|index| SlotState::of(input, target, *index)).collect();
    let mut budget = Budget::new(input, target, &slots);
    for slot in &slots {
        slot.advance(input, target, &mut budget, &mut step);
    }
    if let Some(canaries) = &target.canaries {
        let mut watched = slots.iter().filter(|slot| canaries.slots.contains(&slot.index));
        step.canaries_ready =
            !canaries.slots.is_empty() && watched.all(|slot| slot.has_soaked(input, target));
    }
    prune(input, &target.slots, target.surplus, &mut step);
    step.turns = budget.turns;
    let all_ready = usize::try_from(step.ready).is_ok_and(|ready| ready == slots.len());
    let all_ready = all_ready && step.waiting.is_empty();
    step.draining = step.place.is_empty()
        && !step.waiting.is_empty()
        && usize::try_from(step.ready).is_ok_and(|ready| ready == slots.len())
        && step.waiting.iter().all(|(_, waiting)| input.drains(waiting));
    step.settled &= all_ready || mutant::is(Mutant::SettledTooEarly);
    step.settled &= step.place.is_empty();
    step
}

impl Target {
    /// The version that a slot should run now; `None` if nothing goes there yet.
    fn template_of(&self, slot: u64) -> Option<u64> {
        match self.canaries.as_ref().filter(|canaries| canaries.hold(slot)) {
            Some(canaries) => canaries.before_slots.contains(&slot).then_some(canaries.before),
            None => Some(self.template),
        }
    }

    /// How many slots may be in the middle of something. Canaries beside what is there come
    /// together, to be watched together.
    fn turns(&self) -> u32 {
        match (&self.canaries, self.order) {
            (Some(canaries), UpdateOrder::StartFirst) => {
                let canaries = u32::try_from(canaries.slots.len()).unwrap_or(u32::MAX);
                self.parallel.max(canaries)
            }
            (Some(_), UpdateOrder::StopFirst) | (None, _) => self.parallel,
        }
    }
}

impl Canaries {
    /// Whether a slot waits for them.
    fn hold(&self, slot: u64) -> bool {
        !self.slots.contains(&slot) && !mutant::is(Mutant::CanariesNotAwaited)
    }
}

/// How many more slots may be in the middle of something.
struct Budget {
    turns: u32,
    /// Healthy replicas beyond the floor of a stop-first update.
    spare: u32,
}

impl Budget {
    fn new(input: &Input<'_>, target: &Target, slots: &[SlotState<'_>]) -> Budget {
        // What waits for canaries takes nobody's turn, also if it is sick.
        let held = |slot: &&SlotState<'_>| {
            target.canaries.as_ref().is_some_and(|canaries| canaries.hold(slot.index))
        };
        let moves = slots.iter().filter(|slot| !held(slot));
        let moving = moves.filter(|slot| slot.is_moving(input, target)).count();
        let moving = u32::try_from(moving).unwrap_or(u32::MAX);
        let healthy = slots.iter().filter(|slot| slot.is_served()).count();
        let surplus = usize::from(mutant::is(Mutant::FloorOffByOne));
        let floor = slots.len().saturating_sub(target.parallel as usize + surplus);
        Budget {
            turns: target.turns().saturating_sub(moving),
            spare: u32::try_from(healthy.saturating_sub(floor)).unwrap_or(u32::MAX),
        }
    }
}

/// Stops what is in no wanted slot, or waits for it to be gone.
fn prune(input: &Input<'_>, wanted: &[u64], reason: StopReason, step: &mut Step) {
    let surplus = input.allocs.iter().filter(|view| !wanted.contains(&view.slot));
    let mut left = false;
    for view in surplus.filter(|_| input.prune) {
        match view.alloc.desired {
            Desired::Run => step.stop.push((view.id.clone(), view.because(reason))),
            Desired::Stop { .. } if view.reachable => {
                step.waiting.push((view.slot, Waiting::Gone(view.id.clone())));
            }
            Desired::Stop { .. } => {}
        }
        left |= view.reachable;
    }
    step.pruned = !left;
    step.settled = !left;
}

impl View<'_> {
    fn is_wanted(&self) -> bool {
        self.alloc.is_wanted()
    }

    /// Why it is stopped, if that is not for its node.
    fn because(&self, otherwise: StopReason) -> StopReason {
        if self.leaving { StopReason::Drained } else { otherwise }
    }

    fn is_healthy(&self) -> bool {
        self.reachable && self.alloc.status.phase == Phase::Healthy
    }
}
