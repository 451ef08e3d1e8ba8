//! What the engine does by itself: containers end, the engine goes and comes back.

use mill_core::config::model::HealthCheck;
use mill_core::container::{ContainerState, OpErrorKind, RunSpec};
use mill_core::name::{AllocId, NodeId};
use mill_runtime_real::docker::{Engine, EngineOptions, EngineSignal};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::{Host, OBEYS, PATIENCE, free_port, refused};

async fn next(signals: &mut mpsc::Receiver<EngineSignal>) -> EngineSignal {
    timeout(PATIENCE, signals.recv()).await.expect("a signal comes").expect("the watch goes on")
}

fn watch(host: &Host) -> mpsc::Receiver<EngineSignal> {
    let (into, signals) = mpsc::channel(64);
    let engine = host.engine.clone();
    drop(tokio::spawn(async move { engine.watch(into).await }));
    signals
}

#[tokio::test]
async fn the_end_of_a_container_is_announced() {
    let Some(host) = Host::start() else { return };
    let mut signals = watch(&host);
    assert!(matches!(next(&mut signals).await, EngineSignal::Connected));
    let other = host.neighbour("c2", 1);
    other.begin(other.spec("died.0-other", "exit 1").await).await.unwrap();
    other.exit_of(&AllocId::known("died.0-other")).await;
    let spec = host.spec("died.0-a", "exit 3").await;
    host.begin(spec.clone()).await.unwrap();
    loop {
        match next(&mut signals).await {
            EngineSignal::Died(observed) if observed.alloc == spec.alloc => {
                let ContainerState::Exited(exit) = observed.state else { panic!("{observed:?}") };
                assert_eq!(exit.code, 3);
                return;
            }
            // Tests that share the engine have containers of their own.
            EngineSignal::Died(observed) => {
                assert_ne!(observed.alloc.as_str(), "died.0-other", "not ours");
            }
            other @ (EngineSignal::Connected | EngineSignal::Lost { .. }) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn containers_outlive_an_engine_that_is_killed_and_are_found_again() {
    let Some(host) = Host::alone() else { return };
    let port = free_port();
    let mut web = host.spec("lives.0-a", "").await;
    web.port = Some(port);
    web.env.insert("PORT".to_owned(), port.to_string());
    let web = host.begin(web).await.unwrap();
    host.printed(&web.alloc, "listens").await;
    let ends = RunSpec { ..host.spec("lives.0-b", OBEYS).await };
    host.begin(ends.clone()).await.unwrap();
    host.printed(&ends.alloc, "ready").await;
    let pid = host.inspect(&ends.alloc)["State"]["Pid"].as_i64().unwrap();
    let mut signals = watch(&host);
    assert!(matches!(next(&mut signals).await, EngineSignal::Connected));

    host.kill_engine();
    let lost = next(&mut signals).await;
    let EngineSignal::Lost { detail } = lost else { panic!("{lost:?}") };
    println!("Lost: {detail}");
    assert!(detail.contains("engine"), "{detail}");
    let says = ["does not answer", "is it running", "mill doctor"];
    refused(host.list().await, OpErrorKind::EngineDown, &says);
    refused(host.remove(&web.alloc).await, OpErrorKind::EngineDown, &says);
    refused(host.resolve("test/web:1").await, OpErrorKind::EngineDown, &says);
    refused(host.tail(&web.alloc, 5).await, OpErrorKind::EngineDown, &says);
    let asked = HealthCheck::Exec { command: vec!["env".to_owned()] };
    refused(host.probe(&web.alloc, None, asked).await, OpErrorKind::EngineDown, &says);
    let healthz = HealthCheck::Http { path: "/healthz".to_owned() };
    host.probe(&web.alloc, Some(port), healthz).await.unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();

    host.start_engine();
    assert!(matches!(next(&mut signals).await, EngineSignal::Connected));
    let found = host.list().await.unwrap();
    assert_eq!(found[0], web, "the same process, still running");
    assert!(matches!(found[1].state, ContainerState::Exited(_)), "{:?}", found[1]);
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_down_and_says_so() {
    let socket = "unix:///nowhere/docker.sock".to_owned();
    let options = EngineOptions {
        host: Some(socket),
        cluster: "c1".to_owned(),
        node: NodeId(1),
        config: None,
        pulled: None,
    };
    let engine = Engine::connect(options.clone()).unwrap();
    let says = ["/nowhere/docker.sock", "is it running", "mill doctor"];
    refused(engine.info().await, OpErrorKind::EngineDown, &says);
    let tcp = EngineOptions { host: Some("tcp://localhost:2375".to_owned()), ..options };
    let says = ["tcp://localhost:2375", "unix:///path/to/docker.sock"];
    refused(Engine::connect(tcp), OpErrorKind::Rejected, &says);
}

#[tokio::test]
async fn an_engine_tells_its_version_and_that_containers_outlive_it() {
    let Some(host) = Host::start() else { return };
    let info = host.engine.info().await.unwrap();
    assert_eq!(info.version, host.docker(&["version", "-f", "{{.Server.Version}}"]));
    assert!(info.live_restore);
    assert_eq!(info.data_root, host.docker(&["info", "-f", "{{.DockerRootDir}}"]));
}
