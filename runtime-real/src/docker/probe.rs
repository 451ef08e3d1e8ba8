//! Health probes: one question, and the answer or why it is not one.

use std::net::Ipv4Addr;
use std::time::Duration;

use bollard::Docker;
use bollard::exec::{CreateExecOptions, StartExecResults};
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use mill_core::config::model::HealthCheck;
use mill_core::container::{OpError, OpErrorKind, OpOutput};
use mill_core::name::AllocId;
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::errors::{self, error};
use super::exec::signal_exec;
use super::{CALL_WITHIN, Engine, name, within};

/// As much of an answer as is told.
const TOLD_BYTES: usize = 200;

impl Engine {
    /// Asks once.
    pub(super) async fn probe(
        &self,
        alloc: &AllocId,
        port: Option<u16>,
        check: HealthCheck,
        limit: Duration,
    ) -> Result<OpOutput, OpError> {
        let over_the_network = async {
            match (&check, port) {
                (HealthCheck::Running | HealthCheck::Exec { .. }, _) => Ok(()),
                (HealthCheck::Http { path }, Some(port)) => http(port, path).await,
                (HealthCheck::Tcp, Some(port)) => connect(port).await.map(|_| ()),
                (HealthCheck::Http { .. } | HealthCheck::Tcp, None) => {
                    Err(unhealthy(format!("{alloc} has no port to ask at; give its service one")))
                }
            }
        };
        let overdue = || unhealthy(format!("no answer within {limit:?}"));
        timeout(limit, over_the_network).await.map_err(|_| overdue())??;
        if let HealthCheck::Exec { command } = &check {
            match self.exec(&self.docker().await?, alloc, command, limit).await? {
                Ran::Exited { code: 0, .. } => {}
                Ran::Exited { code, said } => {
                    return Err(unhealthy(format!("the command exited with {code}: {said}")));
                }
                Ran::Overdue => return Err(overdue()),
            }
        }
        Ok(OpOutput::Done)
    }

    /// Runs a command in a container, and ends it when it takes longer than the limit.
    pub(super) async fn exec(
        &self,
        docker: &Docker,
        alloc: &AllocId,
        command: &[String],
        limit: Duration,
    ) -> Result<Ran, OpError> {
        let options = CreateExecOptions {
            cmd: Some(command.to_vec()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..CreateExecOptions::default()
        };
        let doing = format!("running a command in {alloc}");
        let name = name(alloc);
        let created = docker.create_exec(&name, options);
        let id = within(CALL_WITHIN, &doing, created).await?.id;
        let running = async {
            let started = within(CALL_WITHIN, &doing, docker.start_exec(&id, None)).await?;
            let mut said = Vec::new();
            if let StartExecResults::Attached { mut output, .. } = started {
                while let Some(Ok(chunk)) = output.next().await {
                    said.extend_from_slice(chunk.as_ref());
                    let surplus = said.len().saturating_sub(TOLD_BYTES);
                    said.drain(..surplus);
                }
            }
            Ok(said)
        };
        match timeout(limit, running).await {
            Ok(said) => {
                let ended = within(CALL_WITHIN, &doing, docker.inspect_exec(&id)).await?;
                let said = errors::cleaned(&String::from_utf8_lossy(&said?));
                Ok(Ran::Exited { code: ended.exit_code.unwrap_or(-1), said })
            }
            Err(_) => {
                drop(tokio::spawn(end(docker.clone(), id)));
                Ok(Ran::Overdue)
            }
        }
    }
}

/// How often a command that took too long is looked at until it has ended.
const END_LOOKS: u32 = 100;
/// Between two looks.
const END_PAUSE: Duration = Duration::from_millis(100);

/// Ends a command that nobody waits for any more: Docker cannot, and one more would stay with
/// every probe, until the container has no processes left. On a busy machine it may begin only
/// after it was given up.
async fn end(docker: Docker, id: String) {
    for _ in 0..END_LOOKS {
        match timeout(CALL_WITHIN, docker.inspect_exec(&id)).await {
            Ok(Ok(exec)) if exec.exit_code.is_none() => signal_exec(&exec, Signal::KILL),
            // It has ended; or its container is gone, and it with it.
            Ok(Ok(_)) | Ok(Err(_)) => return,
            // The engine is busy.
            Err(_) => {}
        }
        tokio::time::sleep(END_PAUSE).await;
    }
}

/// What became of a command in a container.
pub(super) enum Ran {
    /// It ended by itself.
    Exited {
        /// Its exit code.
        code: i64,
        /// The end of what it printed.
        said: String,
    },
    /// It took too long and was killed.
    Overdue,
}

async fn connect(port: u16) -> Result<TcpStream, OpError> {
    let connected = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
    connected.map_err(|cause| unhealthy(format!("nothing answers at port {port}: {cause}")))
}

async fn http(port: u16, path: &str) -> Result<(), OpError> {
    let broken = |cause: &dyn std::error::Error| {
        let why = errors::chain(cause);
        unhealthy(format!("GET {path} at port {port} was not answered in HTTP: {why}"))
    };
    let stream = TokioIo::new(connect(port).await?);
    let handshake = hyper::client::conn::http1::handshake(stream).await;
    let (mut sender, connection) = handshake.map_err(|cause| broken(&cause))?;
    let mut driving = tokio::spawn(connection);
    let request = hyper::Request::get(path)
        .header("host", format!("127.0.0.1:{port}"))
        .header("user-agent", "mill-health")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|cause| broken(&cause))?;
    let response = match sender.send_request(request).await {
        Ok(response) => Ok(response),
        // The connection knows why better than the request.
        Err(cause) => match (&mut driving).await {
            Ok(Err(cause)) => Err(broken(&cause)),
            Ok(Ok(())) | Err(_) => Err(broken(&cause)),
        },
    };
    let answered = match response {
        Ok(response) => {
            let status = response.status();
            if (200..400).contains(&status.as_u16()) {
                Ok(())
            } else {
                let said = first_line(response.into_body()).await;
                Err(unhealthy(format!("GET {path} at port {port} answered {status}: {said}")))
            }
        }
        Err(cause) => Err(cause),
    };
    driving.abort();
    answered
}

async fn first_line(mut body: hyper::body::Incoming) -> String {
    let mut said = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            said.extend_from_slice(&data);
        }
        if said.len() >= TOLD_BYTES {
            break;
        }
    }
    said.truncate(TOLD_BYTES);
    let text = String::from_utf8_lossy(&said);
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
}

fn unhealthy(detail: impl Into<String>) -> OpError {
    error(OpErrorKind::Unhealthy, detail)
}
