//! Looking at containers: ours are those with our cluster's and node's labels.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum};
use bollard::query_parameters::{EventsOptions, ListContainersOptions};
use futures_util::StreamExt as _;
use mill_core::container::{ContainerState, Exit, Observed, OpError, label};
use mill_core::name::AllocId;
use mill_core::units::Millis;
use tokio::time::timeout;

use super::errors;
use super::{CALL_WITHIN, Engine, name, within};
use crate::clock;

/// Exit code of a process that SIGKILL ended, as shells count.
const KILLED: i64 = 128 + 9;
/// The kernel's notice of a lack of memory comes that close to the end of the process, if at all.
const NOTICE_WITHIN: Duration = Duration::from_millis(300);

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
            found.extend(self.inspect(docker, &id).await?.map(with_age));
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
            Ok(Ok(found)) => {
                let suspect = suspect(&found);
                let ours = observed(found).filter(|observed| self.is_ours(&observed.labels));
                let Some(mut observed) = ours else { return Ok(None) };
                if let (ContainerState::Exited(exit), Some(suspect)) =
                    (&mut observed.state, suspect)
                {
                    exit.out_of_memory = was_out_of_memory(docker, suspect).await;
                }
                Ok(Some(observed))
            }
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

/// A container that was killed, maybe because it reached its memory ceiling.
struct Suspect {
    id: String,
    /// When it ended, in nanoseconds since 1970.
    finished: u64,
}

/// One for which the engine does not say that it was, but might have: the kernel's notice and the
/// end of the process race each other in containerd, and the engine notes only what came first.
fn suspect(found: &ContainerInspectResponse) -> Option<Suspect> {
    let state = found.state.as_ref()?;
    let is_limited = found.host_config.as_ref()?.memory? > 0;
    let is_suspect = is_limited
        && state.status == Some(ContainerStateStatusEnum::EXITED)
        && state.exit_code == Some(KILLED)
        && state.oom_killed != Some(true);
    let finished = nanos(state.finished_at.as_deref()?);
    is_suspect.then_some(Suspect { id: found.id.clone()?, finished })
}

/// Whether the kernel's notice came, if only after the end. An engine that was restarted since
/// has forgotten it.
async fn was_out_of_memory(docker: &Docker, suspect: Suspect) -> bool {
    let seconds = |nanos: u64| format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    let around = u64::try_from(NOTICE_WITHIN.as_nanos()).unwrap_or(u64::MAX);
    let filters =
        [("container".to_owned(), vec![suspect.id]), ("event".to_owned(), vec!["oom".to_owned()])];
    let options = EventsOptions {
        since: Some(seconds(suspect.finished.saturating_sub(around))),
        until: Some(seconds(suspect.finished.saturating_add(around))),
        filters: Some(filters.into()),
    };
    // The engine ends the stream at `until`, by a clock that may be set back meanwhile; an error
    // says no more than its silence.
    let mut notices = Box::pin(docker.events(Some(options)));
    let first = timeout(2 * NOTICE_WITHIN, notices.next()).await;
    matches!(first, Ok(Some(Ok(_))))
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
    Some(Observed { alloc, state, started, running_for: Millis(0), labels })
}

/// The same, and for how long its process has run by the clock of this machine, which wrote down the
/// start as well.
fn with_age(observed: Observed) -> Observed {
    let since = Duration::from_nanos(observed.started).as_millis();
    let age = u128::from(clock::wall().0).saturating_sub(since);
    let running_for = match observed.state {
        ContainerState::Running => Millis(u64::try_from(age).unwrap_or_default()),
        ContainerState::Created | ContainerState::Exited(_) => Millis(0),
    };
    Observed { running_for, ..observed }
}

/// Nanoseconds since 1970 of a time as Docker writes it (RFC 3339); 0 for what is not one.
pub(super) fn nanos(text: &str) -> u64 {
    let parsed = humantime::parse_rfc3339(text).ok();
    let since = parsed.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |length| u64::try_from(length.as_nanos()).unwrap_or(u64::MAX))
}
