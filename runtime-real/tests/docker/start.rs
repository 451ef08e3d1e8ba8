//! Containers come up once, hardened, or leave nothing behind.

use std::collections::BTreeMap;
use std::net::TcpListener;

use mill_core::container::{ContainerOp, ContainerState, OpErrorKind, OpOutput, RunSpec, label};
use mill_core::units::{Bytes, Millicores};
use serde_json::json;

use crate::support::{Host, OBEYS, refused, stop_plan};

#[tokio::test]
async fn a_start_asked_for_twice_is_done_once_and_answers_the_same() {
    let Some(host) = Host::start() else { return };
    let spec = host.spec("twice.0-a", OBEYS).await;
    let first = host.begin(spec.clone()).await.unwrap();
    assert_eq!((&first.alloc, &first.state), (&spec.alloc, &ContainerState::Running));
    let id = host.inspect(&spec.alloc)["Id"].clone();
    assert_eq!(host.begin(spec.clone()).await.unwrap(), first);
    assert_eq!(host.inspect(&spec.alloc)["Id"], id);

    let ended = host.spec("twice.0-b", "exit 3").await;
    host.begin(ended.clone()).await.unwrap();
    assert_eq!(host.exit_of(&ended.alloc).await.code, 3);
    let same = host.begin(ended).await.unwrap();
    assert!(matches!(same.state, ContainerState::Exited(exit) if exit.code == 3), "{same:?}");
}

#[tokio::test]
async fn a_start_that_was_cut_off_is_begun_anew() {
    let Some(host) = Host::start() else { return };
    let spec = host.spec("cut.0-a", OBEYS).await;
    let mut create = vec!["create", "--name", "mill-cut.0-a", "--network", "host"];
    create.extend(["--label", "mill.alloc=cut.0-a", "--label", "mill.cluster=c1"]);
    create.extend(["--label", "mill.node=n1", "test/web:2"]);
    let old = host.docker(&create);
    assert_eq!(host.begin(spec.clone()).await.unwrap().state, ContainerState::Running);
    assert_ne!(host.inspect(&spec.alloc)["Id"], json!(old));
}

#[tokio::test]
async fn containers_are_hardened_by_default() {
    let Some(host) = Host::start() else { return };
    let labels = [(label::ALLOC, "hard.0-a"), (label::SERVICE, "hard"), (label::VERSION, "7")];
    let spec = RunSpec {
        cpu: Some(Millicores(500)),
        memory: Some(Bytes(64 << 20)),
        user: Some("1000:1001".to_owned()),
        read_only: true,
        cap_add: vec!["NET_RAW".to_owned()],
        cap_drop: vec!["CHOWN".to_owned()],
        tmpfs: vec!["/scratch".to_owned()],
        stop_signal: "SIGINT".to_owned(),
        env: BTreeMap::from([("PORT".to_owned(), "20000".to_owned())]),
        labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ..host
            .spec(
                "hard.0-a",
                "busybox id; echo port $PORT; echo > /no 2>&1 || echo read-only; \
                 echo > /scratch/yes && echo writable; busybox grep NoNewPrivs /proc/self/status; \
                 busybox grep Seccomp: /proc/self/status; echo done; sleep 60",
            )
            .await
    };
    host.begin(spec.clone()).await.unwrap();
    let found = host.inspect(&spec.alloc);
    let (engine, config) = (&found["HostConfig"], &found["Config"]);
    let expected = json!({
        "NetworkMode": "host", "NanoCpus": 500_000_000, "Memory": 64 << 20,
        "MemorySwap": 64 << 20, "PidsLimit": 4096, "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"], "ReadonlyRootfs": true, "Privileged": false,
        "Tmpfs": {"/scratch": ""}, "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "LogConfig": {"Type": "json-file", "Config": {"max-file": "4", "max-size": "16m"}},
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&engine[name], value, "{name}");
    }
    let kept = json!([
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "NET_BIND_SERVICE",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
        "NET_RAW"
    ]);
    assert_eq!(engine["CapAdd"], kept);
    assert_eq!((&config["User"], &config["StopSignal"]), (&json!("1000:1001"), &json!("SIGINT")));
    let labels = json!({
        "mill.alloc": "hard.0-a", "mill.service": "hard", "mill.version": "7",
        "mill.cluster": "c1", "mill.node": "n1",
    });
    assert_eq!(config["Labels"], labels);

    host.printed(&spec.alloc, "done").await;
    let said = host.tail(&spec.alloc, 20).await.unwrap().join("\n");
    let says = ["uid=1000 gid=1001", "port 20000", "read-only", "writable"];
    for line in says.into_iter().chain(["NoNewPrivs:\t1", "Seccomp:\t2"]) {
        assert!(said.contains(line), "no `{line}` in: {said}");
    }
}

#[tokio::test]
async fn a_port_that_another_program_has_is_refused_and_nothing_stays_behind() {
    let Some(host) = Host::start() else { return };
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let spec = RunSpec { port: Some(port), ..host.spec("port.0-a", OBEYS).await };
    let me = format!("process {}", std::process::id());
    let says = [port.to_string(), me, "stop that program".to_owned()];
    let says: Vec<&str> = says.iter().map(String::as_str).collect();
    refused(host.begin(spec.clone()).await, OpErrorKind::PortTaken, &says);
    assert!(!host.has_container(&spec.alloc));

    drop(other);
    host.begin(spec.clone()).await.unwrap();
    host.end(&spec.alloc, stop_plan("SIGTERM", 5000)).await.unwrap();
    let other = TcpListener::bind(("0.0.0.0", port)).unwrap();
    let again = ContainerOp::Restart { alloc: spec.alloc.clone(), port: Some(port) };
    let taken = host.engine.perform(again.clone()).await;
    refused(taken, OpErrorKind::PortTaken, &says);
    drop(other);
    let restarted = host.engine.perform(again).await.unwrap();
    assert!(matches!(restarted, OpOutput::Container(it) if it.state == ContainerState::Running));
}

#[tokio::test]
async fn a_restart_starts_the_same_container_again() {
    let Some(host) = Host::start() else { return };
    let spec = host.spec("again.0-a", OBEYS).await;
    let first = host.begin(spec.clone()).await.unwrap();
    let id = host.inspect(&spec.alloc)["Id"].clone();
    host.printed(&spec.alloc, "ready").await;
    host.end(&spec.alloc, stop_plan("SIGTERM", 5000)).await.unwrap();
    let op = ContainerOp::Restart { alloc: spec.alloc.clone(), port: None };
    let OpOutput::Container(second) = host.engine.perform(op.clone()).await.unwrap() else {
        panic!("a restart answers with the container");
    };
    assert_eq!(second.state, ContainerState::Running);
    assert_ne!(second.started, first.started, "another process");
    assert_eq!(host.inspect(&spec.alloc)["Id"], id);
    assert_eq!(host.engine.perform(op.clone()).await.unwrap(), OpOutput::Container(second));
    host.remove(&spec.alloc).await.unwrap();
    let gone = host.engine.perform(op).await;
    refused(gone, OpErrorKind::Gone, &["again.0-a", "not there any more"]);
}

#[tokio::test]
async fn a_container_that_cannot_run_is_rejected_in_a_sentence_and_leaves_nothing() {
    let Some(host) = Host::start() else { return };
    let plain = host.spec("bad.0-a", "").await;
    let command = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let cases: Vec<(RunSpec, &[&str])> = vec![
        (RunSpec { command: command(&["/no/such"]), ..plain.clone() }, &["/no/such", "command"]),
        (RunSpec { command: command(&["nosuch"]), ..plain.clone() }, &["nosuch", "command"]),
        (RunSpec { command: command(&["/www/healthz"]), ..plain.clone() }, &["/www/healthz"]),
        (RunSpec { user: Some("nobody-here".to_owned()), ..plain.clone() }, &["nobody-here"]),
        (RunSpec { cap_add: command(&["FLY"]), ..plain.clone() }, &["FLY", "cap_add"]),
        (RunSpec { memory: Some(Bytes(1 << 20)), ..plain.clone() }, &["6MB", "memory"]),
        (RunSpec { cpu: Some(Millicores(4_000_000)), ..plain.clone() }, &["CPU", "cpu"]),
        (RunSpec { tmpfs: command(&["not/absolute"]), ..plain.clone() }, &["not/absolute"]),
    ];
    for (spec, says) in cases {
        let says = [says, &["bad.0-a"]].concat();
        refused(host.begin(spec).await, OpErrorKind::Rejected, &says);
        assert!(!host.has_container(&plain.alloc));
    }
}
