//! Asking containers to stop, waiting, killing, removing.

use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::{
    KillContainerOptions, RemoveContainerOptions, WaitContainerOptions,
};
use futures_util::StreamExt as _;
use mill_core::container::{ContainerState, Exit, OpError, OpErrorKind, OpOutput, StopPlan};
use mill_core::name::AllocId;
use tokio::time::timeout;

use super::errors::{self, error};
use super::{CALL_WITHIN, Engine, name};

/// SIGKILL cannot be refused; an engine that does not report the end by then is stuck.
const KILL_WITHIN: Duration = Duration::from_secs(30);

impl Engine {
    /// Runs `pre_stop`, signals, waits for the grace period, kills. How it ended; `None` if there
    /// was nothing to stop.
    pub(super) async fn stop(
        &self,
        docker: &Docker,
        alloc: &AllocId,
        plan: &StopPlan,
    ) -> Result<Option<Exit>, OpError> {
        match self.find(docker, alloc).await?.map(|found| found.state) {
            None | Some(ContainerState::Created) => return Ok(None),
            Some(ContainerState::Exited(exit)) => return Ok(Some(exit)),
            Some(ContainerState::Running) => {}
        }
        let grace = plan.grace.duration();
        if !plan.pre_stop.is_empty() {
            // What it answers does not matter: the signal follows in any case.
            let _ = self.exec(docker, alloc, &plan.pre_stop, grace).await;
        }
        self.signal(docker, alloc, &plan.signal).await?;
        let ended = timeout(grace, self.wait(docker, alloc)).await;
        let killed_after_grace = ended.is_err();
        match ended {
            Ok(waited) => waited?,
            Err(_) => {
                self.signal(docker, alloc, "SIGKILL").await?;
                match timeout(KILL_WITHIN, self.wait(docker, alloc)).await {
                    Ok(waited) => waited?,
                    Err(_) => {
                        let detail = format!(
                            "{alloc} was killed and the engine still calls it running after \
                             {KILL_WITHIN:?}; it may hang in the kernel, look at its process"
                        );
                        return Err(error(OpErrorKind::TimedOut, detail));
                    }
                }
            }
        }
        let state = self.find(docker, alloc).await?.map(|found| found.state);
        Ok(match state {
            Some(ContainerState::Exited(exit)) => Some(Exit { killed_after_grace, ..exit }),
            Some(ContainerState::Created | ContainerState::Running) | None => None,
        })
    }

    /// Removes a container, killing it if it runs.
    pub(super) async fn remove(
        &self,
        docker: &Docker,
        alloc: &AllocId,
    ) -> Result<OpOutput, OpError> {
        if self.find(docker, alloc).await?.is_none() {
            return Ok(OpOutput::Done);
        }
        let options =
            RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
        let name = name(alloc);
        let removed = docker.remove_container(&name, Some(options));
        match timeout(CALL_WITHIN, removed).await {
            Ok(Ok(())) | Ok(Err(Error::DockerResponseServerError { status_code: 404, .. })) => {
                Ok(OpOutput::Done)
            }
            // Somebody else's removal is under way: asked again, it will be gone.
            Ok(Err(cause)) => Err(errors::of(&format!("removing {alloc}"), &cause)),
            Err(_) => Err(errors::silent(&format!("removing {alloc}"))),
        }
    }

    /// Sends a signal; one that ended meanwhile needs none.
    async fn signal(&self, docker: &Docker, alloc: &AllocId, signal: &str) -> Result<(), OpError> {
        let options = KillContainerOptions { signal: signal.to_owned() };
        match timeout(CALL_WITHIN, docker.kill_container(&name(alloc), Some(options))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Error::DockerResponseServerError { status_code: 404 | 409, .. })) => Ok(()),
            Ok(Err(cause)) => Err(errors::of(&format!("sending {signal} to {alloc}"), &cause)),
            Err(_) => Err(errors::silent(&format!("sending {signal} to {alloc}"))),
        }
    }

    /// Returns when the container does not run any more.
    async fn wait(&self, docker: &Docker, alloc: &AllocId) -> Result<(), OpError> {
        let options = WaitContainerOptions { condition: "not-running".to_owned() };
        let ended = docker.wait_container(&name(alloc), Some(options)).next().await;
        match ended {
            None | Some(Ok(_)) => Ok(()),
            // An exit code other than 0 comes as an error; so does a container that is gone.
            Some(Err(Error::DockerContainerWaitError { .. })) => Ok(()),
            Some(Err(Error::DockerResponseServerError { status_code: 404, .. })) => Ok(()),
            Some(Err(cause)) => Err(errors::of(&format!("waiting for {alloc}"), &cause)),
        }
    }
}
