//! Creating and starting containers, hardened by default.

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::CreateContainerOptions;
use mill_core::container::{ContainerState, Observed, OpError, OpErrorKind, RunSpec};
use mill_core::name::AllocId;
use tokio::time::timeout;

use super::errors::{self, error};
use super::{CALL_WITHIN, Engine, images, name, ports, within};
use crate::traffic::Known;

/// Capabilities that ordinary images need to switch users and bind low ports; all others go.
const CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Processes and threads that one container may have.
const PIDS_MAX: i64 = 4096;
/// The engine's own log of a container: files of this size,
const LOG_FILE_SIZE: &str = "16m";
/// and this many of them.
const LOG_FILES: &str = "4";

impl Engine {
    /// The container of that spec, running; created if there is none.
    pub(super) async fn start(&self, docker: &Docker, spec: RunSpec) -> Result<Observed, OpError> {
        let alloc = spec.alloc.clone();
        match self.find(docker, &alloc).await? {
            // What is executed once may have been on its way to be.
            Some(found) if found.state == ContainerState::Created && spec.once => {
                return self.run(docker, &alloc).await;
            }
            Some(found) if found.state == ContainerState::Created => {
                // A start that was cut off: its container may not be what is wanted now.
                self.remove(docker, &alloc).await?;
            }
            Some(found) => return Ok(found),
            None => {}
        }
        ports::check(spec.port)?;
        let options = CreateContainerOptions {
            name: Some(name(&alloc)),
            ..CreateContainerOptions::default()
        };
        let doing = format!("creating the container of {alloc}");
        let body = self.body(spec, self.names.known().await);
        match timeout(CALL_WITHIN, docker.create_container(Some(options), body)).await {
            Ok(Ok(_)) => {}
            Ok(Err(Error::DockerResponseServerError { status_code: 409, message })) => {
                self.conflict(docker, &alloc, &message).await?;
            }
            Ok(Err(cause)) => return Err(errors::of(&doing, &cause)),
            Err(_) => return Err(errors::silent(&doing)),
        }
        match self.run(docker, &alloc).await {
            Ok(observed) => Ok(observed),
            // It may have been started all the same: whoever asks again finds out.
            Err(failed) if is_open(failed.kind) => Err(failed),
            Err(failed) => match self.find(docker, &alloc).await {
                Ok(Some(found)) if found.state != ContainerState::Created => Ok(found),
                Ok(Some(_)) => {
                    // Nothing half-done stays behind; if this fails too, the next listing shows it.
                    let _ = self.remove(docker, &alloc).await;
                    Err(failed)
                }
                Ok(None) | Err(_) => Err(failed),
            },
        }
    }

    /// The name is taken: fine if by ourselves, through a creation whose answer was lost.
    async fn conflict(
        &self,
        docker: &Docker,
        alloc: &AllocId,
        message: &str,
    ) -> Result<(), OpError> {
        let name = name(alloc);
        if self.find(docker, alloc).await?.is_some() {
            return Ok(());
        }
        match timeout(CALL_WITHIN, docker.inspect_container(&name, None)).await {
            Ok(Ok(_)) => {
                let detail = format!(
                    "creating the container of {alloc}: a container named {name} is in the way, \
                     and this cluster did not start it; remove or rename it"
                );
                Err(error(OpErrorKind::Rejected, detail))
            }
            // It is being created or removed: asked again, it will be there or not.
            Ok(Err(_)) | Err(_) => {
                let detail = format!("creating the container of {alloc}: {message}");
                Err(error(OpErrorKind::Other, detail))
            }
        }
    }

    /// Starts the stopped container of an alloc again.
    pub(super) async fn restart(
        &self,
        docker: &Docker,
        alloc: &AllocId,
        port: Option<u16>,
    ) -> Result<Observed, OpError> {
        match self.find(docker, alloc).await? {
            Some(found) if found.state == ContainerState::Running => Ok(found),
            Some(_) => {
                ports::check(port)?;
                self.run(docker, alloc).await
            }
            None => {
                let detail = format!("the container of {alloc} is not there any more");
                Err(error(OpErrorKind::Gone, detail))
            }
        }
    }

    async fn run(&self, docker: &Docker, alloc: &AllocId) -> Result<Observed, OpError> {
        let doing = format!("starting {alloc}");
        within(CALL_WITHIN, &doing, docker.start_container(&name(alloc), None)).await?;
        let found = self.find(docker, alloc).await?;
        found.ok_or_else(|| error(OpErrorKind::Gone, format!("{alloc} is gone after its start")))
    }

    fn body(&self, spec: RunSpec, names: Known) -> ContainerCreateBody {
        let mut labels = spec.labels;
        labels.extend(self.ownership());
        let kept = CAPABILITIES.iter().filter(|cap| !spec.cap_drop.iter().any(|drop| drop == *cap));
        let added: Vec<String> =
            kept.map(|cap| (*cap).to_owned()).chain(spec.cap_add.iter().cloned()).collect();
        let memory = spec.memory.map(|bytes| clamp(bytes.0));
        let log = [("max-size", LOG_FILE_SIZE), ("max-file", LOG_FILES)];
        let (dns, extra_hosts) = match names {
            Known::Asked(server) => (Some(vec![server.to_string()]), None),
            Known::Told(names) => {
                let lines = names.iter().map(|(name, address)| format!("{name}:{address}"));
                (None, Some(lines.collect()))
            }
            Known::Hosts => (None, None),
        };
        let host = HostConfig {
            network_mode: Some("host".to_owned()),
            dns,
            extra_hosts,
            nano_cpus: spec.cpu.map(|cpu| clamp(cpu.0.saturating_mul(1_000_000))),
            memory,
            // Equal to memory: no swap beside it.
            memory_swap: memory,
            pids_limit: Some(PIDS_MAX),
            cap_drop: Some(vec!["ALL".to_owned()]),
            cap_add: Some(added),
            security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
            readonly_rootfs: Some(spec.read_only),
            tmpfs: Some(spec.tmpfs.into_iter().map(|path| (path, String::new())).collect()),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::NO),
                maximum_retry_count: None,
            }),
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".to_owned()),
                config: Some(log.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            }),
            ..HostConfig::default()
        };
        ContainerCreateBody {
            image: Some(images::exact(&spec.image)),
            cmd: (!spec.command.is_empty()).then_some(spec.command),
            env: Some(spec.env.iter().map(|(key, value)| format!("{key}={value}")).collect()),
            user: spec.user,
            stop_signal: Some(spec.stop_signal),
            labels: Some(labels.into_iter().collect()),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        }
    }
}

/// Whether nobody knows what became of an operation that failed like that.
fn is_open(kind: OpErrorKind) -> bool {
    matches!(kind, OpErrorKind::EngineDown | OpErrorKind::TimedOut)
}

fn clamp(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
