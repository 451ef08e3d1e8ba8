//! Known bugs, one per test and process: the simulator must find each of them within so many seeds,
//! by the invariant that it breaks.
//!
//! That the same seeds hold without any of them is what `swarm.rs` and `raft.rs` show. Needs the
//! feature `mutants`: `make mutants` runs it. The table is in `docs/simulation.md`, too.

#![allow(clippy::unwrap_used, reason = "a document that cannot be read fails its test")]

use mill_core::mutant::{self, Mutant};
use mill_core::units::Millis;
use mill_runtime_sim::raft::{self, RaftParams, Subject, mutant::Mutant as RaftMutant};
use mill_runtime_sim::{FaultKind, Params, Violation, run};

use Bug::{
    Asking, Busy, Consensus, Core, Lossy, Narrow, Renewing, Returning, Rotating, Running, Tasks,
    Under,
};

/// A bug of one of the two simulators.
enum Bug {
    /// `mill sim` finds it.
    Core(Mutant),
    /// The same, where members change all the time and entries take long.
    Busy(Mutant),
    /// The same, where people run tasks and machines die.
    Tasks(Mutant),
    /// The same, where nothing breaks, so that runs end by themselves or not at all.
    Running(Mutant),
    /// The same, where machines lose their power that run much.
    Lossy(Mutant),
    /// The same, where people ask all the time whoever is cut off.
    Asking(Mutant),
    /// The same, where people deploy all the time and go back.
    Returning(Mutant),
    /// The same, where certificates end soon and clocks are wrong.
    Renewing(Mutant),
    /// The same, where keys are replaced all the time, in clusters that move into the mesh.
    Rotating(Mutant),
    /// The same, where ports are few, and machines are cut off.
    Narrow(Mutant),
    /// `mill sim --raft` finds it with its lists.
    Consensus(RaftMutant),
    /// The same, with its nodes.
    Under(RaftMutant),
}

/// Looks for a bug, seed by seed; says what was broken, or nothing.
fn hunt(bug: &Bug, seeds: u64) -> Option<(u64, &'static str)> {
    match bug {
        Core(bug) | Busy(bug) | Tasks(bug) | Running(bug) => mutant::choose(*bug),
        Lossy(bug) | Asking(bug) | Returning(bug) => mutant::choose(*bug),
        Renewing(bug) | Rotating(bug) | Narrow(bug) => mutant::choose(*bug),
        Consensus(bug) | Under(bug) => raft::mutant::choose(*bug),
    }
    (0..seeds).find_map(|seed| {
        let violation = match bug {
            Core(_) => run(Params::from_seed(seed)).violation,
            Busy(_) => run(busy(seed)).violation,
            Tasks(_) => run(tasks(seed)).violation,
            Running(_) => run(running(seed)).violation,
            Lossy(_) => run(lossy(seed)).violation,
            Asking(_) => run(asking(seed)).violation,
            Returning(_) => run(returning(seed)).violation,
            Renewing(_) => run(renewing(seed)).violation,
            Rotating(_) => run(rotating(seed)).violation,
            Narrow(_) => run(narrow(seed)).violation,
            Consensus(_) => on_raft(seed, Subject::Lists),
            Under(_) => on_raft(seed, Subject::Nodes),
        };
        violation.map(|violation| {
            println!("seed {seed}: {violation}");
            (seed, violation.invariant)
        })
    })
}

fn on_raft(seed: u64, subject: Subject) -> Option<Violation> {
    raft::run_one(RaftParams::from_seed(seed), subject, false).violation
}

/// People run tasks all the time, and machines and daemons die.
fn tasks(seed: u64) -> Params {
    Params {
        nodes: 3,
        people: 3,
        pause: Millis::secs(5),
        faults: [FaultKind::PowerOff, FaultKind::Crash, FaultKind::Depose].into(),
        fault_gap: Millis::secs(15),
        tasks: 500,
        ..Params::from_seed(seed)
    }
}

/// People run tasks all the time, and nothing breaks.
fn running(seed: u64) -> Params {
    Params { nodes: 2, turmoil: Millis::mins(3), faults: [].into(), ..tasks(seed) }
}

/// Members change all the time, and an entry takes a second or two.
fn busy(seed: u64) -> Params {
    Params {
        nodes: 5,
        people: 3,
        pause: Millis::secs(3),
        faults: [FaultKind::Drain, FaultKind::Replace, FaultKind::SlowDisk].into(),
        fault_gap: Millis::secs(4),
        sync: (Millis(500), Millis(2_000)),
        tasks: 0,
        ..Params::from_seed(seed)
    }
}

/// Much runs on few machines, and they lose their power.
fn lossy(seed: u64) -> Params {
    Params {
        nodes: 3,
        services: 8,
        people: 1,
        pause: Millis::secs(20),
        faults: [FaultKind::PowerOff].into(),
        fault_gap: Millis::secs(30),
        bad_images: 0,
        tasks: 0,
        ..Params::from_seed(seed)
    }
}

/// Leaders are cut off and do not know it, and people ask all the time.
fn asking(seed: u64) -> Params {
    Params {
        nodes: 3,
        people: 3,
        pause: Millis::secs(1),
        faults: [FaultKind::Partition, FaultKind::OneWay, FaultKind::Freeze].into(),
        fault_gap: Millis::secs(10),
        tasks: 0,
        ..Params::from_seed(seed)
    }
}

/// Nothing breaks, everything is quick, and people deploy what they like and go back.
fn returning(seed: u64) -> Params {
    Params {
        nodes: 2,
        services: 2,
        people: 2,
        pause: Millis::secs(3),
        turmoil: Millis::mins(10),
        faults: [].into(),
        latency: (Millis(0), Millis(5)),
        engine: (Millis(5), Millis(300)),
        pull: (Millis(100), Millis::secs(1)),
        bad_images: 100,
        busy: 0,
        tasks: 0,
        ..Params::from_seed(seed)
    }
}

/// Certificates end soon, and clocks jump.
fn renewing(seed: u64) -> Params {
    Params {
        nodes: 3,
        people: 1,
        pause: Millis::secs(30),
        turmoil: Millis::mins(10),
        faults: [FaultKind::ClockJump].into(),
        fault_gap: Millis::secs(10),
        bad_images: 0,
        tasks: 0,
        certificate_life: Millis::mins(10),
        ..Params::from_seed(seed)
    }
}

/// Keys are replaced all the time, daemons die, and two nodes of some clusters never meet.
fn rotating(seed: u64) -> Params {
    Params {
        nodes: 4,
        people: 1,
        pause: Millis::secs(30),
        faults: [FaultKind::RotateKey, FaultKind::Crash, FaultKind::OutsideClosed].into(),
        fault_gap: Millis::secs(8),
        tasks: 0,
        mesh_after: Millis::secs(30),
        firewall: seed.is_multiple_of(2),
        ..Params::from_seed(seed)
    }
}

/// Ports are soon another service's, and whoever is cut off still sends to them.
fn narrow(seed: u64) -> Params {
    Params {
        nodes: 3,
        services: 2,
        people: 2,
        pause: Millis::secs(1),
        turmoil: Millis::mins(10),
        faults: [FaultKind::Partition].into(),
        fault_gap: Millis::secs(20),
        bad_images: 0,
        tasks: 0,
        ports: 10,
        ..Params::from_seed(seed)
    }
}

fn is_found(bug: &Bug, seeds: u64, by: &[&str]) {
    let found = hunt(bug, seeds);
    println!("{found:?}");
    let (seed, invariant) = found.unwrap_or_else(|| panic!("not found in {seeds} seeds"));
    assert!(by.contains(&invariant), "seed {seed} found it by {invariant}");
}

macro_rules! bugs {
    ($($test:ident: $bug:expr, within $seeds:literal, by $by:expr;)*) => {
        $(
            #[test]
            fn $test() {
                is_found(&$bug, $seeds, &$by);
            }
        )*

        /// What each bug is in words, within how many seeds it is found, and by what.
        const TABLE: &[(&str, u64, &[&str])] = &[$((stringify!($test), $seeds, &$by)),*];
    };
}

bugs! {
    a_stale_deploy_is_accepted: Core(Mutant::StaleDeployAccepted),
        within 10, by ["acknowledged", "forward"];
    a_decision_counts_on_a_node_that_is_gone: Busy(Mutant::IntentFenceDropped),
        within 100, by ["calm", "floor", "whole", "placed"];
    a_deploy_that_went_back_keeps_the_new: Core(Mutant::RollbackKeepsTheNew),
        within 10, by ["whole", "liveness", "routes"];
    the_number_of_a_removed_node_is_reused: Core(Mutant::NodeNumberReused),
        within 30, by ["members"];
    whoever_proposed_applies_something_more: Core(Mutant::ProposerAppliesMore),
        within 5, by ["equal_state"];
    a_snapshot_loses_a_field: Core(Mutant::SnapshotLosesField),
        within 100, by ["equal_state"];
    a_snapshot_loses_its_index: Core(Mutant::SnapshotLosesIndex),
        within 200, by ["equal_state", "capacity", "gradual", "liveness"];
    a_new_leader_gives_nobody_a_window: Core(Mutant::NoWindowAfterElection),
        within 5, by ["calm"];
    the_silence_of_many_is_believed: Core(Mutant::MassSilenceBelieved),
        within 60, by ["calm"];
    all_that_was_lost_is_placed_at_once: Lossy(Mutant::LostAllAtOnce),
        within 20, by ["gradual"];
    the_floor_is_off_by_one: Core(Mutant::FloorOffByOne),
        within 40, by ["floor"];
    a_drain_stops_before_it_starts: Core(Mutant::DrainStopsFirst),
        within 60, by ["floor"];
    a_node_that_is_not_heard_is_given_a_vote: Core(Mutant::VoteToTheUnheard),
        within 10, by ["members"];
    more_are_promoted_than_may_vote: Core(Mutant::DoublePromotion),
        within 30, by ["members"];
    a_quorum_is_off_by_one: Busy(Mutant::QuorumOffByOne),
        within 10, by ["members"];
    a_service_settles_too_early: Core(Mutant::SettledTooEarly),
        within 5, by ["whole"];
    a_restart_is_not_noticed: Core(Mutant::RestartNotNoticed),
        within 60, by ["calm"];
    a_node_takes_one_too_many: Core(Mutant::CapacityOffByOne),
        within 60, by ["capacity"];
    the_slot_of_one_node_goes_to_another: Core(Mutant::PinnedIgnored),
        within 30, by ["placed"];
    a_flapping_node_is_trusted: Core(Mutant::FlappingTrusted),
        within 30, by ["placed"];
    a_daemon_does_not_reattach: Core(Mutant::ReattachLost),
        within 10, by ["commanded", "released"];
    a_stop_is_forgotten: Core(Mutant::StopForgotten),
        within 5, by ["outlives"];
    what_failed_is_started_at_once: Core(Mutant::RestartWithoutBackoff),
        within 30, by ["backoff"];
    a_request_is_passed_on_twice: Core(Mutant::ForwardedAgain),
        within 60, by ["once"];
    a_leader_answers_unconfirmed: Asking(Mutant::ReadUnconfirmed),
        within 40, by ["reads"];
    a_copy_says_that_it_is_fresh: Core(Mutant::StaleReadSaysNow),
        within 10, by ["reads"];
    a_return_keeps_the_new: Core(Mutant::ReturnKeepsTheNew),
        within 60, by ["returned"];
    a_return_resolves_anew: Returning(Mutant::ReturnResolvesAnew),
        within 20, by ["returned"];
    replicas_do_not_wait_for_canaries: Core(Mutant::CanariesNotAwaited),
        within 60, by ["canaries"];
    canaries_are_promoted_too_early: Core(Mutant::PromotedTooEarly),
        within 60, by ["canaries"];
    canaries_are_promoted_unhealthy: Core(Mutant::PromotedUnhealthy),
        within 60, by ["canaries"];
    what_leaves_stays_routed: Core(Mutant::LeavesStayRouted),
        within 30, by ["routed"];
    a_port_is_another_services_at_once: Narrow(Mutant::PortGivenAtOnce),
        within 5, by ["misled"];
    a_deploy_is_done_unrouted: Core(Mutant::DoneUnrouted),
        within 60, by ["routed"];
    routes_change_too_early: Core(Mutant::RoutedTooEarly),
        within 20, by ["routes"];
    an_authority_looks_too_early: Core(Mutant::ValidatedUnanswered),
        within 100, by ["certificates"];
    a_certificate_is_renewed_at_once: Renewing(Mutant::RenewedAtOnce),
        within 20, by ["certificates"];
    what_leaves_is_released_unheard: Core(Mutant::ReleasedUnheard),
        within 10, by ["released", "certificates"];
    what_leaves_is_stopped_unreleased: Core(Mutant::StoppedUnreleased),
        within 10, by ["commanded", "released"];
    what_leaves_is_not_left_to_finish: Core(Mutant::DrainSkipped),
        within 10, by ["released"];
    a_service_does_not_wait_for_its_gate: Tasks(Mutant::GateNotAwaited),
        within 5, by ["gates"];
    a_gate_is_run_again: Tasks(Mutant::GateRunAgain),
        within 5, by ["gates"];
    a_moment_is_served_twice: Tasks(Mutant::DueServedTwice),
        within 5, by ["runs"];
    too_many_runs_are_under_way: Tasks(Mutant::ConcurrencyIgnored),
        within 30, by ["runs"];
    the_runs_of_a_lost_node_never_end: Tasks(Mutant::LostRunForgotten),
        within 5, by ["runs"];
    the_runs_of_a_lost_node_are_run_again: Tasks(Mutant::LostRunAgain),
        within 5, by ["runs"];
    a_run_is_started_again: Tasks(Mutant::RunStartedAgain),
        within 5, by ["runs"];
    a_run_takes_as_long_as_it_likes: Running(Mutant::TimeoutIgnored),
        within 20, by ["liveness"];
    what_failed_goes_on: Core(Mutant::FailedGoesOn),
        within 60, by ["whole"];
    two_nodes_have_one_address: Core(Mutant::MeshAddressTwice),
        within 5, by ["mesh"];
    a_key_is_replaced_that_nobody_can_be_told: Rotating(Mutant::KeyReplacedUnheard),
        within 30, by ["mesh"];
    greetings_are_not_heard: Rotating(Mutant::GreetedUnheard),
        within 5, by ["liveness"];
    a_cluster_moves_into_the_mesh_unmet: Rotating(Mutant::MeshUsedUnmet),
        within 5, by ["mesh"];
    images_in_use_are_removed: Core(Mutant::ImagesInUsePruned),
        within 5, by ["commanded"];
    a_vote_does_not_survive: Consensus(RaftMutant::VoteNotSynced),
        within 5, by ["votes", "one leader"];
    an_entry_is_acknowledged_before_its_sync: Consensus(RaftMutant::LogNotSynced),
        within 15, by ["applied", "caught-up", "linearizable", "votes"];
    an_entry_is_skipped_after_a_snapshot: Consensus(RaftMutant::EntrySkippedAfterSnapshot),
        within 5, by ["applied", "linearizable", "caught-up"];
    a_read_is_not_confirmed: Consensus(RaftMutant::ReadNotConfirmed),
        within 5, by ["linearizable"];
    what_is_unknown_is_said_to_be_refused: Consensus(RaftMutant::UnknownSaidRefused),
        within 10, by ["linearizable"];
    a_start_is_caught_up_too_early: Consensus(RaftMutant::CaughtUpTooEarly),
        within 5, by ["caught-up"];
    a_vote_does_not_survive_under_nodes: Under(RaftMutant::VoteNotSynced),
        within 5, by ["votes", "one leader"];
    an_entry_is_acknowledged_before_its_sync_under_nodes: Under(RaftMutant::LogNotSynced),
        within 15, by ["applied", "caught-up", "votes"];
    an_entry_is_skipped_after_a_snapshot_under_nodes: Under(RaftMutant::EntrySkippedAfterSnapshot),
        within 5, by ["applied", "caught-up"];
    a_read_is_not_confirmed_under_nodes: Under(RaftMutant::ReadNotConfirmed),
        within 10, by ["reads"];
    a_start_is_caught_up_too_early_under_nodes: Under(RaftMutant::CaughtUpTooEarly),
        within 5, by ["caught-up"];
}

fn all_hold(all: impl Iterator<Item = Params>) {
    for params in all {
        let report = run(params);
        assert!(report.passed(), "{report}");
    }
}

// Two tests, so that they run beside each other.
#[test]
fn busy_seeds_hold_without_any_bug() {
    all_hold((0..40).map(busy));
}

#[test]
fn other_seeds_hold_without_any_bug() {
    let kinds = [running, lossy, asking, returning, rotating, narrow];
    let others = kinds.into_iter().flat_map(|kind| (0..5).map(kind));
    all_hold((0..20).map(tasks).chain((5..15).map(narrow)).chain(others));
}

#[test]
fn the_documentation_has_this_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/simulation.md");
    let document = std::fs::read_to_string(path).unwrap();
    let rows = TABLE.iter().map(|(test, seeds, by)| {
        let (bug, by) = (test.replace('_', " "), by.join("`, `"));
        format!("| {bug} | {seeds} | `{by}` |")
    });
    let rows: Vec<String> = rows.collect();
    let lacks: Vec<&String> = rows.iter().filter(|row| !document.contains(row.as_str())).collect();
    assert!(lacks.is_empty(), "docs/simulation.md lacks:\n{}", rows.join("\n"));
}
