//! Looking at containers: ours are those with our cluster's and node's labels.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum};
use bollard::query_parameters::ListContainersOptions;
use mill_core::container::{ContainerState, Exit, Observed, OpError, label};
use mill_core::name::AllocId;
use tokio::time::timeout;

use super::errors;
use super::{CALL_WITHIN, Engine, name, within};

impl Engine {
    /// Every container of this cluster on this node.
    pub(super) async fn list(&self, docker: &Docker) -> Result<Vec<Observed>, OpError> {
        let filters = [("label".to_owned(), self.our_labels())];
        let options = ListContainersOptions {
            all: true,
            filters: Some(filters.into()),
            ..ListContainersOptions::default()
        };
        let doing = "listing containers";
        let listed = within(CALL_WITHIN, doing, docker.list_containers(Some(options))).await?;
        let mut found = Vec::new();
        for id in listed.into_iter().filter_map(|container| container.id) {
            // It may be gone since it was listed.
            found.extend(self.inspect(docker, &id).await?);
        }
        found.sort_by(|a, b| a.alloc.cmp(&b.alloc));
        Ok(found)
    }

    /// The container of an alloc, if there is one.
    pub(super) async fn find(
        &self,
        docker: &Docker,
        alloc: &AllocId,
    ) -> Result<Option<Observed>, OpError> {
        self.inspect(docker, &name(alloc)).await
    }

    /// A container by name or id, if it is there and ours.
    pub(super) async fn inspect(
        &self,
        docker: &Docker,
        id: &str,
    ) -> Result<Option<Observed>, OpError> {
        let doing = "looking at a container";
        match timeout(CALL_WITHIN, docker.inspect_container(id, None)).await {
            Ok(Ok(found)) => Ok(observed(found).filter(|observed| self.is_ours(&observed.labels))),
            Ok(Err(Error::DockerResponseServerError { status_code: 404, .. })) => Ok(None),
            Ok(Err(cause)) => Err(errors::of(doing, &cause)),
            Err(_) => Err(errors::silent(doing)),
        }
    }

    /// Filters for our labels.
    pub(super) fn our_labels(&self) -> Vec<String> {
        let labels = self.ownership();
        labels.into_iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    /// The labels that make a container ours.
    pub(super) fn ownership(&self) -> [(String, String); 2] {
        let options = self.options();
        [
            (label::CLUSTER.to_owned(), options.cluster.clone()),
            (label::NODE.to_owned(), options.node.to_string()),
        ]
    }

    fn is_ours(&self, labels: &BTreeMap<String, String>) -> bool {
        self.ownership().iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

fn observed(found: ContainerInspectResponse) -> Option<Observed> {
    let labels: BTreeMap<String, String> = found.config?.labels?.into_iter().collect();
    let alloc = AllocId::known(labels.get(label::ALLOC)?);
    let state = found.state?;
    let started = state.started_at.as_deref().map_or(0, nanos);
    let status = state.status.unwrap_or(ContainerStateStatusEnum::EMPTY);
    let state = match status {
        ContainerStateStatusEnum::CREATED => ContainerState::Created,
        ContainerStateStatusEnum::RUNNING
        | ContainerStateStatusEnum::PAUSED
        | ContainerStateStatusEnum::RESTARTING
        | ContainerStateStatusEnum::STOPPING => ContainerState::Running,
        ContainerStateStatusEnum::EXITED
        | ContainerStateStatusEnum::DEAD
        | ContainerStateStatusEnum::REMOVING
        | ContainerStateStatusEnum::EMPTY => ContainerState::Exited(Exit {
            code: i32::try_from(state.exit_code.unwrap_or_default()).unwrap_or(i32::MAX),
            out_of_memory: state.oom_killed.unwrap_or_default(),
            killed_after_grace: false,
        }),
    };
    Some(Observed { alloc, state, started, labels })
}

/// Nanoseconds since 1970 of a time as Docker writes it (RFC 3339); 0 for what is not one.
pub(super) fn nanos(text: &str) -> u64 {
    let parsed = humantime::parse_rfc3339(text).ok();
    let since = parsed.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |length| u64::try_from(length.as_nanos()).unwrap_or(u64::MAX))
}
