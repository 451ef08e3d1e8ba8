//! Health probes, right and wrong.

use mill_core::config::model::HealthCheck;
use mill_core::container::{ContainerOp, OpErrorKind};
use mill_core::name::AllocId;
use mill_core::units::Millis;

use crate::support::{Deadline, Host, free_port, refused};

/// A container of `test/web:1` that answers at the port.
async fn web(host: &Host, alloc: &str) -> (AllocId, u16) {
    let port = free_port();
    let mut spec = host.spec(alloc, "").await;
    spec.port = Some(port);
    spec.env.insert("PORT".to_owned(), port.to_string());
    host.begin(spec.clone()).await.unwrap();
    let deadline = Deadline::new();
    while host.probe(&spec.alloc, Some(port), HealthCheck::Tcp).await.is_err() {
        deadline.pause("the server listens").await;
    }
    (spec.alloc, port)
}

fn http(path: &str) -> HealthCheck {
    HealthCheck::Http { path: path.to_owned() }
}

#[tokio::test]
async fn probes_over_the_network_pass_or_say_what_was_answered() {
    let Some(host) = Host::start() else { return };
    let (alloc, port) = web(&host, "net.0-a").await;
    host.probe(&alloc, Some(port), http("/healthz")).await.unwrap();
    host.probe(&alloc, Some(port), http("/cgi-bin/index.cgi?deep=1")).await.unwrap();
    host.probe(&alloc, None, HealthCheck::Running).await.unwrap();
    let missing = host.probe(&alloc, Some(port), http("/missing")).await;
    let at = port.to_string();
    refused(missing, OpErrorKind::Unhealthy, &["GET /missing", &at, "404"]);

    let nobody = free_port();
    let at = nobody.to_string();
    for check in [HealthCheck::Tcp, http("/healthz")] {
        let result = host.probe(&alloc, Some(nobody), check).await;
        refused(result, OpErrorKind::Unhealthy, &["nothing answers at port", &at]);
    }
    refused(host.probe(&alloc, None, HealthCheck::Tcp).await, OpErrorKind::Unhealthy, &["no port"]);
}

#[tokio::test]
async fn a_server_that_does_not_answer_in_time_or_not_in_http_is_unhealthy() {
    let Some(host) = Host::start() else { return };
    let alloc = AllocId::known("silent.0-a");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Connections wait in the backlog: accepted by the kernel, answered by nobody.
    let timeout = Millis(200);
    let op =
        ContainerOp::Probe { alloc: alloc.clone(), port: Some(port), check: http("/"), timeout };
    refused(host.engine.perform(op).await, OpErrorKind::Unhealthy, &["no answer within 200ms"]);

    drop(tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut connection, b"220 mail\r\n").await;
        }
    }));
    let result = host.probe(&alloc, Some(port), http("/")).await;
    refused(result, OpErrorKind::Unhealthy, &["GET /", &port.to_string()]);
}

#[tokio::test]
async fn a_command_in_the_container_decides_by_its_exit_code() {
    let Some(host) = Host::start() else { return };
    let (alloc, _) = web(&host, "exec.0-a").await;
    let exec = |words: &[&str]| HealthCheck::Exec {
        command: words.iter().map(|word| (*word).to_owned()).collect(),
    };
    host.probe(&alloc, None, exec(&["cat", "/www/healthz"])).await.unwrap();
    let script = "echo the disk is full >&2; exit 4";
    let result = host.probe(&alloc, None, exec(&["/bin/sh", "-c", script])).await;
    refused(result, OpErrorKind::Unhealthy, &["exited with 4", "the disk is full"]);
    let result = host.probe(&alloc, None, exec(&["/no/such"])).await;
    refused(result, OpErrorKind::Unhealthy, &["/no/such"]);
    let check = exec(&["sleep", "60"]);
    let op = ContainerOp::Probe { alloc: alloc.clone(), port: None, check, timeout: Millis(300) };
    refused(host.engine.perform(op).await, OpErrorKind::Unhealthy, &["no answer within 300ms"]);
    let deadline = Deadline::new();
    while host.docker(&["top", "mill-exec.0-a"]).contains("sleep 60") {
        deadline.pause("the command that took too long is gone").await;
    }

    host.docker(&["kill", "mill-exec.0-a"]);
    host.exit_of(&alloc).await;
    let result = host.probe(&alloc, None, exec(&["env"])).await;
    refused(result, OpErrorKind::Unhealthy, &["exec.0-a", "not running"]);
    host.remove(&alloc).await.unwrap();
    let result = host.probe(&alloc, None, exec(&["env"])).await;
    refused(result, OpErrorKind::Gone, &["exec.0-a"]);
}
