//! Containers end as asked, and how they ended is told.

use mill_core::container::{ContainerState, Exit, OpErrorKind, RunSpec, StopPlan};
use mill_core::name::AllocId;
use mill_core::units::Bytes;

use crate::support::{Host, IGNORES, OBEYS, refused, stop_plan};

#[tokio::test]
async fn a_container_that_obeys_ends_by_its_own_signal() {
    let Some(host) = Host::start() else { return };
    let script = "trap 'echo asked; exit 7' INT; echo ready; while :; do sleep 0.05; done";
    let spec = host.spec("obeys.0-a", script).await;
    host.begin(spec.clone()).await.unwrap();
    host.printed(&spec.alloc, "ready").await;
    let exit = host.end(&spec.alloc, stop_plan("SIGINT", 20_000)).await.unwrap();
    let expected = Exit { code: 7, out_of_memory: false, killed_after_grace: false };
    assert_eq!(exit, Some(expected));
    host.printed(&spec.alloc, "asked").await;
    let again = host.end(&spec.alloc, stop_plan("SIGINT", 20_000)).await.unwrap();
    assert_eq!(again, Some(expected), "asked twice, it answers the same");
}

#[tokio::test]
async fn a_container_that_ignores_its_signal_is_killed_after_its_grace() {
    let Some(host) = Host::start() else { return };
    let spec = host.spec("ignores.0-a", IGNORES).await;
    host.begin(spec.clone()).await.unwrap();
    host.printed(&spec.alloc, "ready").await;
    let exit = host.end(&spec.alloc, stop_plan("SIGTERM", 300)).await.unwrap();
    let expected = Exit { code: 137, out_of_memory: false, killed_after_grace: true };
    assert_eq!(exit, Some(expected));
}

#[tokio::test]
async fn the_command_before_the_stop_runs_and_cannot_prevent_it() {
    let Some(host) = Host::start() else { return };
    let spec = host.spec("before.0-a", OBEYS).await;
    host.begin(spec.clone()).await.unwrap();
    host.printed(&spec.alloc, "ready").await;
    let script = ["/bin/sh", "-c", "echo said goodbye > /proc/1/fd/1; exit 1"];
    let pre_stop = script.map(str::to_owned).to_vec();
    let plan = StopPlan { pre_stop, ..stop_plan("SIGTERM", 20_000) };
    let exit = host.end(&spec.alloc, plan).await.unwrap().unwrap();
    assert_eq!((exit.code, exit.killed_after_grace), (0, false));
    host.printed(&spec.alloc, "said goodbye").await;

    let cases = [("before.0-b", ["/no/such", ""], 20_000), ("before.0-c", ["sleep", "60"], 5_000)];
    for (alloc, pre_stop, grace) in cases {
        let spec = host.spec(alloc, OBEYS).await;
        host.begin(spec.clone()).await.unwrap();
        host.printed(&spec.alloc, "ready").await;
        let pre_stop = pre_stop.map(str::to_owned).to_vec();
        let plan = StopPlan { pre_stop, ..stop_plan("SIGTERM", grace) };
        let exit = host.end(&spec.alloc, plan).await.unwrap().unwrap();
        assert_eq!((exit.code, exit.killed_after_grace), (0, false), "{alloc}");
    }
}

#[tokio::test]
async fn a_container_over_its_memory_ceiling_ends_and_says_why() {
    let Some(host) = Host::start() else { return };
    // The engine itself loses the kernel's notice at times, when the machine is busy: then nobody
    // can know. Mostly it is known.
    let mut told = 0;
    for attempt in 0..5 {
        let alloc = format!("oom.0-{attempt}");
        let script = "a=x; while :; do a=$a$a; done";
        let spec = RunSpec { memory: Some(Bytes(8 << 20)), ..host.spec(&alloc, script).await };
        host.begin(spec.clone()).await.unwrap();
        let exit = host.exit_of(&spec.alloc).await;
        assert_eq!((exit.code, exit.killed_after_grace), (137, false), "attempt {attempt}");
        told += u32::from(exit.out_of_memory);
    }
    assert!(told > 0, "not one of five was told apart");
    let killed = host.spec("oom.0-killed", OBEYS).await;
    let killed = RunSpec { memory: Some(Bytes(64 << 20)), ..killed };
    host.begin(killed.clone()).await.unwrap();
    host.docker(&["kill", "mill-oom.0-killed"]);
    assert!(!host.exit_of(&killed.alloc).await.out_of_memory);
}

#[tokio::test]
async fn what_is_not_there_is_stopped_and_removed_already() {
    let Some(host) = Host::start() else { return };
    let alloc = AllocId::known("nothing.0-a");
    assert_eq!(host.end(&alloc, stop_plan("SIGTERM", 1000)).await.unwrap(), None);
    host.remove(&alloc).await.unwrap();
    let running = host.spec("removed.0-a", IGNORES).await;
    host.begin(running.clone()).await.unwrap();
    host.remove(&running.alloc).await.unwrap();
    assert!(!host.has_container(&running.alloc), "also one that runs is removed");
    host.remove(&running.alloc).await.unwrap();
}

#[tokio::test]
async fn a_signal_that_does_not_exist_is_rejected() {
    let Some(host) = Host::start() else { return };
    let spec = host.spec("signal.0-a", OBEYS).await;
    host.begin(spec.clone()).await.unwrap();
    let result = host.end(&spec.alloc, stop_plan("SIGNONE", 1000)).await;
    refused(result, OpErrorKind::Rejected, &["SIGNONE", "signal.0-a"]);
}

#[tokio::test]
async fn containers_of_others_are_neither_seen_nor_touched() {
    let Some(host) = Host::start() else { return };
    let (other, node) = (host.neighbour("c2", 1), host.neighbour("c1", 2));
    let (mine, theirs) =
        (host.spec("mine.0-a", OBEYS).await, other.spec("theirs.0-a", OBEYS).await);
    host.begin(mine.clone()).await.unwrap();
    other.begin(theirs.clone()).await.unwrap();
    host.docker(&[
        "run",
        "-d",
        "--name",
        "mill-foreign.0-a",
        "--network=host",
        "test/web:1",
        "sleep",
        "99",
    ]);
    let names = |all: Vec<mill_core::container::Observed>| -> Vec<String> {
        all.into_iter().map(|one| one.alloc.to_string()).collect()
    };
    let listed = names(host.list().await.unwrap());
    assert!(listed.contains(&"mine.0-a".to_owned()), "{listed:?}");
    assert!(
        listed.iter().all(|alloc| !alloc.starts_with("theirs") && !alloc.starts_with("foreign"))
    );
    assert_eq!(names(other.list().await.unwrap()), ["theirs.0-a"]);
    assert!(node.list().await.unwrap().is_empty());

    for alloc in [theirs.alloc.clone(), AllocId::known("foreign.0-a")] {
        assert_eq!(host.end(&alloc, stop_plan("SIGTERM", 1000)).await.unwrap(), None);
        host.remove(&alloc).await.unwrap();
        assert_eq!(host.inspect(&alloc)["State"]["Running"], true, "{alloc} goes on");
        let same_name = host.spec(alloc.as_str(), OBEYS).await;
        let says = [alloc.as_str(), "in the way", "remove or rename"];
        refused(host.begin(same_name).await, OpErrorKind::Rejected, &says);
        assert_eq!(host.inspect(&alloc)["State"]["Running"], true, "{alloc} goes on");
    }
    let still = other.list().await.unwrap();
    assert_eq!(still[0].state, ContainerState::Running);
}
