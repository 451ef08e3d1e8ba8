//! A machine's container engine: containers outlive the daemon that asked for them.
//!
//! It answers as `core::container` asks of every adapter: idempotent by alloc id, errors by kind.
//! How long things take, and when the world breaks them, is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use mill_core::container::{
    ContainerState, Digest, Exit, Observed, OpError, OpErrorKind, OpOutput, PinnedImage, RunSpec,
};
use mill_core::effect::OpId;
use mill_core::name::AllocId;
use mill_core::units::Millis;

use crate::models::registry::Behaviour;
use crate::time::SimTime;

/// The engine of one machine.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    /// It does not answer; containers go on without it.
    pub down: bool,
    /// Nothing can be written.
    pub disk_full: bool,
    /// Ports on which programs listen that are none of Mill's.
    pub foreign_ports: BTreeSet<u16>,
    containers: BTreeMap<AllocId, Container>,
    images: BTreeSet<Digest>,
    starts: u64,
}

/// One container.
#[derive(Clone, Debug)]
pub struct Container {
    /// What it was created from.
    pub spec: RunSpec,
    /// What its image does.
    pub behaviour: Behaviour,
    /// Whether it runs.
    pub state: ContainerState,
    /// Which start of this engine its process is.
    pub started: u64,
    /// When that was.
    pub since: SimTime,
    /// Until then it fails its probes though it runs.
    pub sick_until: SimTime,
    /// Probes in a row that failed, as the daemon was told.
    pub failed_probes: u32,
    /// Stops that wait for its end.
    pub stopping: Vec<OpId>,
    /// Until then it answers what was sent to it before it left the routes.
    pub busy_until: Option<SimTime>,
    /// How many requests it had when they were counted last.
    pub in_flight: Option<u32>,
}

/// Exit of a process that ends by itself.
pub const CRASHED: Exit = Exit { code: 1, out_of_memory: false, killed_after_grace: false };
/// Exit by SIGKILL, as shells count.
pub const KILLED: Exit = Exit { code: 137, out_of_memory: false, killed_after_grace: false };

impl Engine {
    /// All containers, by alloc.
    pub fn containers(&self) -> impl Iterator<Item = (&AllocId, &Container)> {
        self.containers.iter()
    }

    /// The container of an alloc.
    pub fn container(&self, alloc: &AllocId) -> Option<&Container> {
        self.containers.get(alloc)
    }

    pub(crate) fn container_mut(&mut self, alloc: &AllocId) -> Option<&mut Container> {
        self.containers.get_mut(alloc)
    }

    /// The answer to every operation while something is wrong with the whole engine.
    ///
    /// # Errors
    /// It is down.
    pub fn answers(&self) -> Result<(), OpError> {
        if !self.down {
            return Ok(());
        }
        error(OpErrorKind::EngineDown, "the container engine does not answer")
    }

    pub(crate) fn has_image(&self, image: &PinnedImage) -> bool {
        self.images.contains(&image.digest)
    }

    pub(crate) fn store_image(&mut self, image: PinnedImage) -> Result<(), OpError> {
        self.has_space()?;
        self.images.insert(image.digest);
        Ok(())
    }

    /// Removes images that are not among these, and that no container is made of.
    pub(crate) fn prune(&mut self, keep: &[PinnedImage]) {
        let used: BTreeSet<&Digest> =
            self.containers.values().map(|c| &c.spec.image.digest).collect();
        let kept: BTreeSet<&Digest> = keep.iter().map(|image| &image.digest).collect();
        self.images.retain(|image| used.contains(image) || kept.contains(image));
    }

    /// The images that are here.
    pub fn images(&self) -> impl Iterator<Item = &Digest> {
        self.images.iter()
    }

    fn has_space(&self) -> Result<(), OpError> {
        if !self.disk_full {
            return Ok(());
        }
        error(OpErrorKind::DiskFull, "no space is left on the device")
    }

    /// Creates the container of an alloc unless it is there.
    pub(crate) fn create(&mut self, spec: &RunSpec, behaviour: Behaviour) -> Result<(), OpError> {
        if self.containers.contains_key(&spec.alloc) {
            return Ok(());
        }
        self.has_space()?;
        if !self.images.contains(&spec.image.digest) {
            return error(OpErrorKind::ImageMissing, "the image was removed");
        }
        let container = Container {
            spec: spec.clone(),
            behaviour,
            state: ContainerState::Created,
            started: 0,
            since: SimTime::default(),
            sick_until: SimTime::default(),
            failed_probes: 0,
            stopping: Vec::new(),
            busy_until: None,
            in_flight: None,
        };
        self.containers.insert(spec.alloc.clone(), container);
        Ok(())
    }

    /// Starts the process of a container that has none; `again` also one that ended.
    pub(crate) fn start(
        &mut self,
        now: SimTime,
        alloc: &AllocId,
        port: Option<u16>,
        again: bool,
    ) -> Result<OpOutput, OpError> {
        let Some(found) = self.containers.get(alloc) else {
            return error(OpErrorKind::Gone, "there is no such container");
        };
        let wanted = match found.state {
            ContainerState::Created => true,
            ContainerState::Exited(_) => again,
            ContainerState::Running => false,
        };
        if wanted {
            self.has_space()?;
            self.port_is_free(alloc, port)?;
            self.starts += 1;
            let started = self.starts;
            let container = self.containers.get_mut(alloc).expect("found above");
            container.state = ContainerState::Running;
            container.started = started;
            container.since = now;
            container.failed_probes = 0;
        }
        Ok(OpOutput::Container(self.containers[alloc].observed(alloc)))
    }

    fn port_is_free(&self, alloc: &AllocId, port: Option<u16>) -> Result<(), OpError> {
        let Some(port) = port else { return Ok(()) };
        let other = self.running().find(|(id, c)| *id != alloc && c.spec.port == Some(port));
        if other.is_none() && !self.foreign_ports.contains(&port) {
            return Ok(());
        }
        error(OpErrorKind::PortTaken, &format!("another program listens on port {port}"))
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = (&AllocId, &Container)> {
        self.containers.iter().filter(|(_, c)| c.state == ContainerState::Running)
    }

    /// Its process ends; what waits for that is returned.
    pub(crate) fn end(&mut self, alloc: &AllocId, exit: Exit) -> Option<(Observed, Vec<OpId>)> {
        let container = self.containers.get_mut(alloc)?;
        if container.state != ContainerState::Running {
            return None;
        }
        container.state = ContainerState::Exited(exit);
        let waiting = std::mem::take(&mut container.stopping);
        Some((container.observed(alloc), waiting))
    }

    /// Removes it, also if it runs.
    pub(crate) fn remove(&mut self, alloc: &AllocId) -> Option<Container> {
        self.containers.remove(alloc)
    }

    pub(crate) fn list(&self, now: SimTime) -> Vec<Observed> {
        let observed = |(alloc, container): (&AllocId, &Container)| Observed {
            running_for: if container.runs() { now.since(container.since) } else { Millis(0) },
            ..container.observed(alloc)
        };
        self.containers.iter().map(observed).collect()
    }

    /// What a health probe gets.
    pub(crate) fn probe(&self, now: SimTime, alloc: &AllocId) -> Result<OpOutput, OpError> {
        let Some(container) = self.containers.get(alloc) else {
            return error(OpErrorKind::Gone, "there is no such container");
        };
        if container.serves(now) {
            return Ok(OpOutput::Done);
        }
        error(OpErrorKind::Unhealthy, "connection refused")
    }

    /// Nothing that runs is sick any more.
    pub(crate) fn cure(&mut self, now: SimTime) {
        self.containers.values_mut().for_each(|container| container.sick_until = now);
    }

    /// The power is gone: every process with it.
    pub(crate) fn power_off(&mut self) {
        for container in self.containers.values_mut() {
            container.stopping.clear();
            if container.state == ContainerState::Running {
                container.state = ContainerState::Exited(KILLED);
            }
        }
    }
}

impl Container {
    /// What the daemon is told of it.
    pub fn observed(&self, alloc: &AllocId) -> Observed {
        Observed {
            alloc: alloc.clone(),
            state: self.state.clone(),
            started: self.started,
            running_for: Millis(0),
            labels: self.spec.labels.clone(),
        }
    }

    /// Whether it runs.
    pub fn runs(&self) -> bool {
        self.state == ContainerState::Running
    }

    /// Whether it would pass a health check now.
    pub fn serves(&self, now: SimTime) -> bool {
        let ready = |after: Millis| self.since + after <= now;
        self.runs() && self.behaviour.ready_after.is_some_and(ready) && self.sick_until <= now
    }
}

fn error<T>(kind: OpErrorKind, detail: &str) -> Result<T, OpError> {
    Err(OpError { kind, detail: detail.to_owned() })
}
