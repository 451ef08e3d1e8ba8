//! How a service moves from what runs to what is wanted, played to the end in a small table.
//!
//! Each test is a world of slots in which every placed alloc becomes healthy after a step and
//! every stopped one is gone after a step; the transcript says what happened in each.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;

use mill_core::cluster::Revision;
use mill_core::cluster::alloc::{Alloc, Desired, Phase, Status, StopReason};
use mill_core::config::model::UpdateOrder;
use mill_core::name::{AllocId, NodeId, Slot};
use mill_core::rollout::{Canaries, Input, Pace, Step, Target, View, Waiting, step};
use mill_core::units::{Bytes, Millicores, Millis};

struct World {
    allocs: BTreeMap<AllocId, (Alloc, bool, Option<Millis>)>,
    next: u64,
    /// Whether node 1, where everything begins, is being emptied onto node 2.
    emptied: bool,
    transcript: Vec<String>,
}

fn target(template: u64, slots: u64, order: UpdateOrder, parallel: u32) -> Target {
    Target {
        template,
        slots: (0..slots).collect(),
        order,
        parallel,
        healthy_for: Millis::secs(5),
        surplus: StopReason::ScaledDown,
        canaries: None,
        promoted: None,
    }
}

/// The same after version 1 in as many slots, with the first so many as canaries.
fn watched(slots: u64, order: UpdateOrder, canaries: u64) -> Target {
    let canaries =
        Canaries { slots: (0..canaries).collect(), before: 1, before_slots: (0..slots).collect() };
    Target { canaries: Some(canaries), ..target(2, slots, order, 1) }
}

impl World {
    fn new() -> World {
        World { allocs: BTreeMap::new(), next: 1, emptied: false, transcript: Vec::new() }
    }

    fn with(mut self, template: u64, slots: u64) -> World {
        for index in 0..slots {
            let id = self.place(template, index);
            self.set(&id, Phase::Healthy);
        }
        self.transcript.clear();
        self
    }

    fn place(&mut self, template: u64, index: u64) -> AllocId {
        let slot = Slot { service: "web".parse().unwrap(), index };
        let id = AllocId::new(&slot, &format!("v{template}{}", self.next));
        let alloc = Alloc {
            slot,
            run: None,
            node: NodeId(1 + u64::from(self.emptied)),
            template,
            port: None,
            cpu: Millicores(0),
            memory: Bytes(0),
            placed: Revision { epoch: 0, index: self.next },
            desired: Desired::Run,
            status: Status::default(),
            served: false,
            leaving: None,
        };
        self.next += 1;
        self.allocs.insert(id.clone(), (alloc, true, None));
        id
    }

    fn set(&mut self, id: &AllocId, phase: Phase) {
        let (alloc, _, healthy_for) = self.allocs.get_mut(id).unwrap();
        alloc.status.phase = phase;
        *healthy_for = (phase == Phase::Healthy).then_some(Millis::mins(1));
    }

    fn only(&self, template: u64, index: u64) -> AllocId {
        let mut found = self
            .allocs
            .iter()
            .filter(|(_, (alloc, ..))| alloc.template == template && alloc.slot.index == index);
        found.next().unwrap().0.clone()
    }

    fn decide(&self, target: Option<Target>, pace: Pace, prune: bool) -> Step {
        let views = self.allocs.iter().map(|(id, (alloc, reachable, healthy_for))| View {
            id,
            alloc,
            slot: alloc.slot.index,
            reachable: *reachable,
            leaving: self.emptied && alloc.node == NodeId(1),
            healthy_for: *healthy_for,
        });
        step(&Input { target, allocs: views.collect(), pace, prune })
    }

    /// Steps until nothing moves; the least that was healthy at any time.
    fn play(&mut self, target: &Target, pace: Pace, prune: bool) -> usize {
        let mut lowest = self.healthy();
        for _ in 0..50 {
            let decided = self.decide(Some(target.clone()), pace, prune);
            if decided.settled {
                return lowest;
            }
            let mut line = Vec::new();
            for (id, _) in &decided.stop {
                let (alloc, ..) = self.allocs.get_mut(id).unwrap();
                alloc.desired = Desired::Stop { reason: StopReason::Updated };
                line.push(format!("stop {}v{}", alloc.slot.index, alloc.template));
            }
            for index in placed(&decided) {
                self.place(target.template, index);
                line.push(format!("start {index}v{}", target.template));
            }
            if !line.is_empty() {
                self.transcript.push(line.join(", "));
            }
            lowest = lowest.min(self.healthy());
            let stopped =
                |(alloc, ..): &(Alloc, bool, Option<Millis>)| alloc.desired != Desired::Run;
            let fresh: Vec<AllocId> = self.allocs.keys().cloned().collect();
            if line_is_quiet(&decided) {
                self.allocs.retain(|_, entry| !stopped(entry));
                for id in fresh
                    .iter()
                    .filter(|id| self.allocs.contains_key(*id))
                    .cloned()
                    .collect::<Vec<_>>()
                {
                    self.set(&id, Phase::Healthy);
                }
            }
        }
        panic!("it does not settle: {:#?}", self.transcript);
    }

    fn healthy(&self) -> usize {
        let serving = self.allocs.values().filter(|(alloc, reachable, _)| {
            *reachable && alloc.desired == Desired::Run && alloc.status.phase == Phase::Healthy
        });
        serving.count()
    }
}

fn line_is_quiet(step: &Step) -> bool {
    step.stop.is_empty() && placed(step).is_empty()
}

/// What is placed when every slot can be.
fn placed(step: &Step) -> Vec<u64> {
    let mut turns = step.turns;
    let fills = step.place.iter().filter(|fill| {
        let goes = !fill.in_turn || turns > 0;
        turns -= u32::from(fill.in_turn && goes);
        goes
    });
    fills.map(|fill| fill.index).collect()
}

#[test]
fn start_first_never_has_fewer_than_wanted() {
    let mut world = World::new().with(1, 3);
    let lowest = world.play(&target(2, 3, UpdateOrder::StartFirst, 1), Pace::Rolling, false);
    assert_eq!(lowest, 3);
    assert_eq!(
        world.transcript,
        ["start 0v2", "stop 0v1, start 1v2", "stop 1v1, start 2v2", "stop 2v1"]
    );
}

#[test]
fn stop_first_is_never_more_than_parallel_below() {
    let mut world = World::new().with(1, 4);
    let lowest = world.play(&target(2, 4, UpdateOrder::StopFirst, 2), Pace::Rolling, false);
    assert_eq!(lowest, 2);
    assert_eq!(
        world.transcript,
        [
            "stop 0v1, stop 1v1",
            "start 0v2, start 1v2",
            "stop 2v1, stop 3v1",
            "start 2v2, start 3v2"
        ]
    );
}

#[test]
fn stop_first_waits_while_another_replica_is_sick() {
    let mut world = World::new().with(1, 3);
    let sick = world.only(1, 2);
    world.set(&sick, Phase::Unhealthy);
    let decided = world.decide(Some(target(2, 3, UpdateOrder::StopFirst, 1)), Pace::Rolling, false);
    let stopped: Vec<_> = decided.stop.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(stopped, [sick], "the one that serves nobody goes first");
}

#[test]
fn a_new_replica_is_watched_before_the_old_one_goes() {
    let mut world = World::new().with(1, 1);
    let new = world.place(2, 0);
    world.set(&new, Phase::Healthy);
    world.allocs.get_mut(&new).unwrap().2 = Some(Millis::secs(4));
    let wanted = target(2, 1, UpdateOrder::StartFirst, 1);
    assert_eq!(world.decide(Some(wanted.clone()), Pace::Rolling, false).stop, []);
    world.allocs.get_mut(&new).unwrap().2 = Some(Millis::secs(5));
    assert_eq!(world.decide(Some(wanted), Pace::Rolling, false).stop.len(), 1);
}

#[test]
fn going_back_removes_what_failed_at_once_and_keeps_what_serves() {
    let mut world = World::new().with(1, 2);
    let broken = world.place(2, 0);
    world.set(&broken, Phase::BackingOff);
    let back = target(1, 2, UpdateOrder::StartFirst, 1);
    let decided = world.decide(Some(back), Pace::Back, true);
    assert_eq!(decided.stop, [(broken, StopReason::RolledBack)]);
    assert_eq!(placed(&decided), [] as [u64; 0]);
}

#[test]
fn what_is_surplus_goes_only_when_it_may() {
    let mut world = World::new().with(1, 3);
    let fewer = target(1, 1, UpdateOrder::StartFirst, 1);
    let rolling = world.decide(Some(fewer.clone()), Pace::Rolling, false);
    assert!(rolling.stop.is_empty() && rolling.settled);
    world.play(&fewer, Pace::Rolling, true);
    assert_eq!(world.transcript, ["stop 1v1, stop 2v1"]);
}

#[test]
fn a_lost_slot_is_filled_and_its_alloc_stopped_once_replaced() {
    let mut world = World::new().with(1, 2);
    let lost = world.only(1, 1);
    world.allocs.get_mut(&lost).unwrap().1 = false;
    let wanted = target(1, 2, UpdateOrder::StartFirst, 1);
    let decided = world.decide(Some(wanted.clone()), Pace::Steady, true);
    assert_eq!((placed(&decided), decided.stop), (vec![1], vec![]));
    let new = world.place(1, 1);
    world.set(&new, Phase::Healthy);
    let decided = world.decide(Some(wanted), Pace::Steady, true);
    assert_eq!(decided.stop, [(lost, StopReason::Replaced)]);
}

#[test]
fn one_that_comes_back_before_it_was_replaced_stays() {
    let mut world = World::new().with(1, 1);
    let returned = world.only(1, 0);
    let replacement = world.place(1, 0);
    let wanted = target(1, 1, UpdateOrder::StartFirst, 1);
    let decided = world.decide(Some(wanted), Pace::Steady, true);
    assert_eq!(decided.stop, [(replacement, StopReason::Replaced)]);
    assert!(world.allocs.contains_key(&returned));
}

#[test]
fn a_node_is_emptied_as_carefully_as_a_version_is_rolled_out() {
    for (order, floor) in [(UpdateOrder::StartFirst, 3), (UpdateOrder::StopFirst, 2)] {
        let mut world = World::new().with(1, 3);
        world.emptied = true;
        let lowest = world.play(&target(1, 3, order, 1), Pace::Steady, true);
        assert_eq!(lowest, floor, "{order:?}: {:#?}", world.transcript);
        assert!(world.allocs.values().all(|(alloc, ..)| alloc.node == NodeId(2)));
    }
}

#[test]
fn canaries_come_together_and_nothing_else_moves_until_they_are_promoted() {
    let mut world = World::new().with(1, 4);
    let wanted = watched(4, UpdateOrder::StartFirst, 2);
    let decided = world.decide(Some(wanted.clone()), Pace::Rolling, false);
    assert_eq!((placed(&decided), decided.stop.len()), (vec![0, 1], 0), "beside what is there");
    for index in placed(&decided) {
        let new = world.place(2, index);
        world.set(&new, Phase::Healthy);
    }
    let decided = world.decide(Some(wanted), Pace::Rolling, false);
    assert!(decided.canaries_ready && !decided.settled);
    assert_eq!((placed(&decided), decided.stop.len()), (vec![], 2), "only what they replace goes");
    let held = decided.waiting.iter().filter(|(_, waiting)| *waiting == Waiting::Canaries);
    assert_eq!(held.map(|(slot, _)| *slot).collect::<Vec<_>>(), [2, 3]);
    world.play(&target(2, 4, UpdateOrder::StartFirst, 1), Pace::Rolling, false);
    assert_eq!(world.healthy(), 4);
}

#[test]
fn canaries_that_own_something_take_turns_at_the_floor() {
    let world = World::new().with(1, 3);
    let wanted = watched(3, UpdateOrder::StopFirst, 2);
    let first = world.decide(Some(wanted), Pace::Rolling, false);
    let stopped: Vec<_> = first.stop.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(stopped, [world.only(1, 0)]);
}

#[test]
fn a_slot_that_is_lost_while_it_waits_for_canaries_gets_back_what_it_ran() {
    let mut world = World::new().with(1, 3);
    let lost = world.only(1, 2);
    world.allocs.get_mut(&lost).unwrap().1 = false;
    let mut wanted = watched(3, UpdateOrder::StartFirst, 1);
    let decided = world.decide(Some(wanted.clone()), Pace::Rolling, false);
    assert_eq!(placed(&decided), [0, 2]);
    let again = world.place(1, 2);
    world.set(&again, Phase::Healthy);
    let decided = world.decide(Some(wanted.clone()), Pace::Rolling, false);
    assert_eq!(decided.stop, [(lost, StopReason::Replaced)]);
    // One that it did not have before has nothing to run until then.
    wanted.slots.push(3);
    assert_eq!(placed(&world.decide(Some(wanted), Pace::Rolling, false)), [0]);
}

#[test]
fn what_was_promoted_by_hand_is_not_watched_any_longer() {
    let mut world = World::new().with(1, 2);
    let canary = world.place(2, 0);
    world.set(&canary, Phase::Healthy);
    world.allocs.get_mut(&canary).unwrap().2 = Some(Millis(0));
    let mut wanted = target(2, 2, UpdateOrder::StartFirst, 1);
    assert_eq!(world.decide(Some(wanted.clone()), Pace::Rolling, false).stop, []);
    wanted.promoted = Some(Revision { epoch: 0, index: world.next });
    let decided = world.decide(Some(wanted.clone()), Pace::Rolling, false);
    assert_eq!((placed(&decided), decided.stop.len()), (vec![1], 1));
    let follower = world.place(2, 1);
    world.set(&follower, Phase::Healthy);
    world.allocs.get_mut(&follower).unwrap().2 = Some(Millis(0));
    assert_eq!(
        world.decide(Some(wanted), Pace::Rolling, false).ready,
        1,
        "what follows is watched"
    );
}

#[test]
fn what_leaves_its_node_is_told_so() {
    let mut world = World::new().with(1, 1);
    world.emptied = true;
    let replacement = world.place(1, 0);
    world.set(&replacement, Phase::Healthy);
    let step = world.decide(Some(target(1, 1, UpdateOrder::StartFirst, 1)), Pace::Steady, true);
    let reasons: Vec<StopReason> = step.stop.iter().map(|(_, reason)| *reason).collect();
    assert_eq!(reasons, [StopReason::Drained]);
}
