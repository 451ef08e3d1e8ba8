//! Nothing is done outside the log: a node starts what was placed on it, and stops only what is
//! to stop or what fails its health check. So a restarted daemon touches no container.

use mill_core::Effect;
use mill_core::cluster::alloc::Desired;
use mill_core::container::{ContainerOp, ContainerState, PinnedImage};
use mill_core::name::AllocId;

use super::{Invariant, Moment};
use crate::world::host::Host;

/// Looks at every operation that a node asks for.
pub(super) struct Commanded;

impl Invariant for Commanded {
    fn name(&self) -> &'static str {
        "commanded"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Effect { host, effect: Effect::Container { op, .. }, .. } = moment else {
            return Ok(());
        };
        match op {
            ContainerOp::Start { spec } => may_start(host, &spec.alloc),
            ContainerOp::Restart { alloc, .. } => may_start(host, alloc),
            ContainerOp::Stop { alloc, .. } | ContainerOp::Remove { alloc } => may_end(host, alloc),
            ContainerOp::Resolve { .. } | ContainerOp::Fetch { .. } | ContainerOp::List => Ok(()),
            ContainerOp::Probe { .. } | ContainerOp::Tail { .. } => Ok(()),
            ContainerOp::CountInFlight { .. } => Ok(()),
            ContainerOp::PruneImages { keep } => may_prune(host, keep),
        }
    }
}

fn may_start(host: &Host, id: &AllocId) -> Result<(), String> {
    let state = host.daemon.as_ref().map(|daemon| daemon.cluster());
    let alloc = state.and_then(|state| state.allocs.get(id));
    match alloc.filter(|alloc| alloc.node == host.id && alloc.is_wanted()) {
        Some(_) => Ok(()),
        None => Err(format!("{} starts {id}, which nobody told it to run", host.id)),
    }
}

/// What is wanted stays, and what is made of it here or may be at any moment.
fn may_prune(host: &Host, keep: &[PinnedImage]) -> Result<(), String> {
    let Some(state) = host.daemon.as_ref().map(|daemon| daemon.cluster()) else { return Ok(()) };
    let wanted = state.services.values().filter_map(|service| Some(service.target()?.1));
    let wanted = wanted.filter_map(|version| version.image.as_ref());
    let here = state.allocs_on(host.id).filter(|(_, alloc)| alloc.is_live());
    let here = here.filter_map(|(_, alloc)| match alloc.run {
        Some(run) => Some(&state.runs.get(&run)?.image),
        None => {
            state.services.get(&alloc.slot.service)?.versions.get(&alloc.template)?.image.as_ref()
        }
    });
    let tasks = state.tasks.values().filter_map(|task| task.current()?.1.image.as_ref());
    match wanted.chain(here).chain(tasks).find(|image| !keep.contains(image)) {
        Some(image) => Err(format!("{} prunes {}, which is needed", host.id, image.reference)),
        None => Ok(()),
    }
}

fn may_end(host: &Host, id: &AllocId) -> Result<(), String> {
    let Some(container) = host.engine.container(id) else { return Ok(()) };
    let Some(state) = host.daemon.as_ref().map(|daemon| daemon.cluster()) else { return Ok(()) };
    let Some(alloc) = state.allocs.get(id).filter(|alloc| alloc.is_live()) else { return Ok(()) };
    if container.state != ContainerState::Running || alloc.is_released() {
        return Ok(());
    }
    let service = state.services.get(&alloc.slot.service);
    let version = service.and_then(|service| service.versions.get(&alloc.template));
    let limit = version.map_or(0, |version| version.spec.container.health.unhealthy_after);
    if container.failed_probes >= limit {
        return Ok(());
    }
    if alloc.desired != Desired::Run {
        return Err(format!("{} stops {id}, to which others may still send something", host.id));
    }
    Err(format!(
        "{} stops {id}, which should run and failed {} of {limit} probes",
        host.id, container.failed_probes
    ))
}
