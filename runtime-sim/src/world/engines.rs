//! Container operations in the world: how long they take, what breaks them, what ends by itself.

use mill_core::Event;
use mill_core::container::{ContainerOp, Exit, OpError, OpErrorKind, OpOutput, PinnedImage};
use mill_core::effect::OpId;
use mill_core::name::{AllocId, NodeId};
use mill_core::units::Millis;

use super::{Happening, World};
use crate::models::engine::{CRASHED, KILLED};
use crate::models::registry::Crash;

/// Starts of which the daemon's death may leave a container that was never started, of a thousand.
const TWO_STEPS: u64 = 50;

impl World {
    /// A daemon asks its engine for something.
    pub(super) fn submit(&mut self, node: NodeId, id: OpId, op: ContainerOp) {
        let now = self.now;
        match &op {
            ContainerOp::Probe { .. } | ContainerOp::List => {}
            ContainerOp::CountInFlight { .. } => {}
            ContainerOp::Start { spec } => {
                self.trace.transition(now, || format!("{node} starts {}", spec.alloc));
            }
            ContainerOp::Restart { .. }
            | ContainerOp::Stop { .. }
            | ContainerOp::Remove { .. }
            | ContainerOp::Resolve { .. }
            | ContainerOp::Fetch { .. }
            | ContainerOp::PruneImages { .. }
            | ContainerOp::Tail { .. } => {
                self.trace.transition(now, || format!("{node} asks its engine: {op:?}"));
            }
        }
        let is_look = match op {
            ContainerOp::Probe { .. } | ContainerOp::List => true,
            ContainerOp::CountInFlight { .. } => true,
            ContainerOp::Start { .. } | ContainerOp::Restart { .. } => false,
            ContainerOp::Stop { .. } | ContainerOp::Remove { .. } => false,
            ContainerOp::Resolve { .. } | ContainerOp::Fetch { .. } => false,
            ContainerOp::Tail { .. } => false,
            // Some time after the last change, when everything else has come to rest.
            ContainerOp::PruneImages { .. } => true,
        };
        self.operations += u64::from(!is_look);
        let pulls = match &op {
            ContainerOp::Resolve { .. } => true,
            ContainerOp::Fetch { image } => !self.host(node).engine.has_image(image),
            ContainerOp::Start { .. }
            | ContainerOp::Restart { .. }
            | ContainerOp::Stop { .. }
            | ContainerOp::Remove { .. }
            | ContainerOp::List
            | ContainerOp::Probe { .. }
            | ContainerOp::CountInFlight { .. }
            | ContainerOp::PruneImages { .. }
            | ContainerOp::Tail { .. } => false,
        };
        let wait = if pulls { self.pull() } else { self.engine_delay() };
        self.after(wait, Happening::Operate { node, id, op });
    }

    fn engine_delay(&mut self) -> Millis {
        let (low, high) = self.params.engine;
        Millis(self.draw.engine.between(low.0, high.0))
    }

    fn pull(&mut self) -> Millis {
        let (low, high) = self.params.pull;
        Millis(self.draw.engine.between(low.0, high.0))
    }

    /// The engine does it, now, and answers whoever asked if that is still there.
    pub(super) fn operate(&mut self, node: NodeId, id: OpId, op: ContainerOp) {
        let host = self.host(node);
        let gone = host.boots != id.boot || !host.is_up();
        // What was sent before its daemon died is done or not, as it happens.
        if !host.powered || (gone && self.draw.engine.chance(500)) {
            return;
        }
        let answer = match self.host(node).engine.answers() {
            Ok(()) => self.perform(node, id, op),
            Err(error) => Some(Err(error)),
        };
        let Some(result) = answer else { return };
        match &result {
            Err(error) if error.kind == OpErrorKind::RegistryDown => {
                let known = self.registry.fails_after;
                self.tell_after(known, node, id.boot, Event::OpDone { id, result });
            }
            Err(_) | Ok(_) => self.answer(node, id, result),
        }
    }

    fn answer(&mut self, node: NodeId, id: OpId, result: Result<OpOutput, OpError>) {
        self.tell(node, id.boot, Event::OpDone { id, result });
    }

    /// `None` if the answer comes later.
    fn perform(
        &mut self,
        node: NodeId,
        id: OpId,
        op: ContainerOp,
    ) -> Option<Result<OpOutput, OpError>> {
        let now = self.now;
        Some(match op {
            ContainerOp::Resolve { reference } => self.resolve(node, &reference),
            ContainerOp::Fetch { image } => self.fetch(node, image),
            ContainerOp::PruneImages { keep } => {
                self.host_mut(node).engine.prune(&keep);
                self.stats.count("images pruned");
                Ok(OpOutput::Done)
            }
            ContainerOp::Start { spec } => {
                let behaviour = self.registry.behaviour(&spec.image);
                let engine = &mut self.host_mut(node).engine;
                let there = engine.container(&spec.alloc).is_some();
                if let Err(error) = engine.create(&spec, behaviour) {
                    return Some(Err(error));
                }
                if !there && self.draw.engine.chance(TWO_STEPS) {
                    let wait = self.engine_delay();
                    self.after(
                        wait,
                        Happening::Operate { node, id, op: ContainerOp::Start { spec } },
                    );
                    return None;
                }
                self.start(node, &spec.alloc, spec.port, false)
            }
            ContainerOp::Restart { alloc, port } => self.start(node, &alloc, port, true),
            ContainerOp::Stop { alloc, plan } => return self.stop(node, id, &alloc, plan.grace),
            ContainerOp::Remove { alloc } => {
                let removed = self.host_mut(node).engine.remove(&alloc);
                removed.into_iter().flat_map(|c| c.stopping).for_each(|waiting| {
                    let exited = Ok(OpOutput::Exited(Some(KILLED)));
                    self.tell_after(
                        Millis(0),
                        node,
                        waiting.boot,
                        Event::OpDone { id: waiting, result: exited },
                    );
                });
                Ok(OpOutput::Done)
            }
            ContainerOp::List => Ok(OpOutput::Containers(self.host(node).engine.list(now))),
            ContainerOp::Probe { alloc, .. } => {
                let answer = self.host(node).engine.probe(now, &alloc);
                if let Some(container) = self.host_mut(node).engine.container_mut(&alloc) {
                    let failed = if answer.is_ok() { 0 } else { container.failed_probes + 1 };
                    container.failed_probes = failed;
                }
                answer
            }
            ContainerOp::CountInFlight { alloc, .. } => {
                Ok(OpOutput::InFlight(self.in_flight(node, &alloc)))
            }
            ContainerOp::Tail { .. } => Ok(OpOutput::Lines(vec!["the last words".to_owned()])),
        })
    }

    /// Requests that a container has still to answer. Nobody sends it new ones: they are done
    /// after a while, or some only after longer than they are given.
    fn in_flight(&mut self, node: NodeId, alloc: &AllocId) -> u32 {
        let now = self.now;
        let busy = match self.draw.engine.chance(self.params.busy) {
            // One in eight takes longer than it is given.
            true if self.draw.engine.chance(125) => Millis::mins(2),
            true => Millis(self.draw.engine.below(10_000)),
            false => Millis(0),
        };
        let engine = &mut self.host_mut(node).engine;
        let Some(container) = engine.container_mut(alloc).filter(|c| c.runs()) else { return 0 };
        let until = *container.busy_until.get_or_insert(now + busy);
        let count = u32::from(now < until);
        container.in_flight = Some(count);
        count
    }

    fn resolve(&mut self, node: NodeId, reference: &str) -> Result<OpOutput, OpError> {
        let image = self.registry.resolve(reference)?;
        self.host_mut(node).engine.store_image(image.clone())?;
        Ok(OpOutput::Image(image))
    }

    fn fetch(&mut self, node: NodeId, image: PinnedImage) -> Result<OpOutput, OpError> {
        if !self.host(node).engine.has_image(&image) {
            self.registry.answers()?;
            self.host_mut(node).engine.store_image(image)?;
        }
        Ok(OpOutput::Done)
    }

    fn start(
        &mut self,
        node: NodeId,
        alloc: &AllocId,
        port: Option<u16>,
        again: bool,
    ) -> Result<OpOutput, OpError> {
        let now = self.now;
        let engine = &mut self.host_mut(node).engine;
        let before = engine.container(alloc).map(|container| container.started);
        let output = engine.start(now, alloc, port, again)?;
        let container = engine.container(alloc).expect("it was just started");
        let (started, behaviour) = (container.started, container.behaviour.clone());
        if before != Some(started) {
            self.stats.count("processes started");
            let ends = match behaviour.crash {
                Crash::Never => None,
                Crash::Always(after) => Some((after, CRASHED)),
                Crash::Sometimes(mean) => {
                    Some((Millis(self.draw.engine.below(2 * mean.0)), CRASHED))
                }
                Crash::Done(after, code) => Some((after, Exit { code, ..CRASHED })),
            };
            if let Some((after, exit)) = ends {
                let alloc = alloc.clone();
                self.after(after, Happening::Ends { node, alloc, started, exit });
            }
        }
        Ok(output)
    }

    fn stop(
        &mut self,
        node: NodeId,
        id: OpId,
        alloc: &AllocId,
        grace: Millis,
    ) -> Option<Result<OpOutput, OpError>> {
        let engine = &mut self.host_mut(node).engine;
        let running = engine.running().any(|(running, _)| running == alloc);
        let Some(container) = engine.container_mut(alloc).filter(|_| running) else {
            return Some(Ok(OpOutput::Exited(None)));
        };
        let started = container.started;
        container.stopping.push(id);
        let ends = container.behaviour.stops_after.filter(|length| *length <= grace);
        let (wait, exit) = match ends {
            Some(length) => (length, Exit { code: 0, ..KILLED }),
            None => (grace, Exit { killed_after_grace: true, ..KILLED }),
        };
        self.after(wait, Happening::Ends { node, alloc: alloc.clone(), started, exit });
        None
    }

    /// A process ends: by itself, by a signal, by somebody's hand.
    pub(super) fn process_ends(&mut self, node: NodeId, alloc: &AllocId, started: u64, exit: Exit) {
        let (now, mended) = (self.now, self.mended);
        let host = self.host_mut(node);
        let there = host.engine.container(alloc).is_some_and(|c| c.started == started);
        if !there || (mended && exit == CRASHED) {
            return;
        }
        // Whoever would have killed it after its grace is dead.
        let boot = host.boots;
        let asked = host
            .engine
            .container(alloc)
            .is_some_and(|c| c.stopping.iter().any(|op| op.boot == boot));
        if exit.killed_after_grace && !(asked && host.is_up()) {
            return;
        }
        let Some((observed, waiting)) = host.engine.end(alloc, exit) else { return };
        let down = host.engine.down;
        self.trace.mark(&[30, node.0, started]);
        self.trace.transition(now, || format!("{node}: the process of {alloc} ends: {exit:?}"));
        for id in waiting {
            let result = match down {
                true => Err(OpError {
                    kind: OpErrorKind::EngineDown,
                    detail: "the connection broke".to_owned(),
                }),
                false => Ok(OpOutput::Exited(Some(exit))),
            };
            self.tell_after(Millis(0), node, id.boot, Event::OpDone { id, result });
        }
        if !down {
            let wait = self.engine_delay();
            self.tell_after(wait, node, boot, Event::ContainerDied(observed));
        }
    }
}
