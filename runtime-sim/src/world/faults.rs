//! What goes wrong, when, and for how long. Each fault lasts long enough to matter, and ends.

use mill_core::Event;
use mill_core::api::Request;
use mill_core::cluster::alloc::Phase;
use mill_core::container::Exit;
use mill_core::name::{AllocId, NodeId};
use mill_core::rng::Rng;
use mill_core::units::Millis;
use serde::Serialize;

use super::{Happening, World};
use crate::models::engine::{Container, KILLED};

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// `kill -9` of a daemon, which is started again.
    Crash,
    /// A machine without power.
    PowerOff,
    /// A daemon that stands still.
    Freeze,
    /// Two groups of machines that cannot reach each other.
    Partition,
    /// A link that works in one direction only.
    OneWay,
    /// Messages are lost and late.
    BadNetwork,
    /// The leader loses its lead for no reason.
    Depose,
    /// A node hears of what is committed much later.
    Lag,
    /// A node writes its state down.
    Snapshot,
    /// A wall clock jumps, back or forth.
    ClockJump,
    /// A clock changes its pace.
    ClockDrift,
    /// An engine does not answer.
    EngineDown,
    /// A disk is full.
    DiskFull,
    /// The registry does not answer.
    RegistryDown,
    /// Somebody kills a container's process.
    KillContainer,
    /// Somebody removes a container.
    RemoveContainer,
    /// A container runs and is of no use for a while.
    SickContainer,
    /// Another program takes a port out of the pool.
    TakePort,
    /// Nothing comes into the leader, or nothing but from a quorum; what it says arrives.
    DeafLeader,
    /// A node hears and never answers.
    MuteFollower,
    /// The leader's disk takes seconds for an entry.
    SlowDisk,
    /// A node is cut off and back, several times.
    Flapping,
    /// Half of the nodes fall silent at once, and are back.
    HalfSilent,
    /// A daemon is asked to stop, and started again.
    Stop,
    /// Somebody empties a node for a while.
    Drain,
    /// A machine is lost for ever and replaced.
    Replace,
    /// Somebody wants a node to have another key.
    RotateKey,
    /// Nodes cannot speak outside the mesh.
    OutsideClosed,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [FaultKind; 28] = [
        FaultKind::Crash,
        FaultKind::PowerOff,
        FaultKind::Freeze,
        FaultKind::Partition,
        FaultKind::OneWay,
        FaultKind::BadNetwork,
        FaultKind::Depose,
        FaultKind::Lag,
        FaultKind::Snapshot,
        FaultKind::ClockJump,
        FaultKind::ClockDrift,
        FaultKind::EngineDown,
        FaultKind::DiskFull,
        FaultKind::RegistryDown,
        FaultKind::KillContainer,
        FaultKind::RemoveContainer,
        FaultKind::SickContainer,
        FaultKind::TakePort,
        FaultKind::DeafLeader,
        FaultKind::MuteFollower,
        FaultKind::SlowDisk,
        FaultKind::Flapping,
        FaultKind::HalfSilent,
        FaultKind::Stop,
        FaultKind::Drain,
        FaultKind::Replace,
        FaultKind::RotateKey,
        FaultKind::OutsideClosed,
    ];

    /// Its name, for counting.
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::Crash => "fault: crash",
            FaultKind::PowerOff => "fault: power off",
            FaultKind::Freeze => "fault: freeze",
            FaultKind::Partition => "fault: partition",
            FaultKind::OneWay => "fault: one-way link",
            FaultKind::BadNetwork => "fault: bad network",
            FaultKind::Depose => "fault: leader deposed",
            FaultKind::Lag => "fault: lag",
            FaultKind::Snapshot => "fault: snapshot",
            FaultKind::ClockJump => "fault: clock jump",
            FaultKind::ClockDrift => "fault: clock drift",
            FaultKind::EngineDown => "fault: engine down",
            FaultKind::DiskFull => "fault: disk full",
            FaultKind::RegistryDown => "fault: registry down",
            FaultKind::KillContainer => "fault: container killed",
            FaultKind::RemoveContainer => "fault: container removed",
            FaultKind::SickContainer => "fault: container sick",
            FaultKind::TakePort => "fault: port taken",
            FaultKind::DeafLeader => "fault: deaf leader",
            FaultKind::MuteFollower => "fault: mute follower",
            FaultKind::SlowDisk => "fault: slow disk",
            FaultKind::Flapping => "fault: flapping",
            FaultKind::HalfSilent => "fault: half silent",
            FaultKind::Stop => "fault: stop",
            FaultKind::Drain => "fault: drain",
            FaultKind::Replace => "fault: machine replaced",
            FaultKind::RotateKey => "fault: key replaced",
            FaultKind::OutsideClosed => "fault: outside closed",
        }
    }
}

/// One fault, with all that is needed to end it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The daemon of that machine dies.
    Crash(NodeId),
    /// That machine has no power.
    PowerOff(NodeId),
    /// That machine's daemon stands still.
    Freeze(NodeId),
    /// Nothing gets through in these directions.
    Blocked(Vec<(NodeId, NodeId)>),
    /// So many of a thousand messages are lost.
    BadNetwork(u64),
    /// The leader is one no more.
    Depose,
    /// Committed entries do not reach that node.
    Lag(NodeId),
    /// That node writes its state down.
    Snapshot(NodeId),
    /// That node's wall clock jumps by so many milliseconds.
    ClockJump(NodeId, i64),
    /// That node's clocks run faster by so many millionths.
    ClockDrift(NodeId, i64),
    /// That node's engine does not answer.
    EngineDown(NodeId),
    /// That node's disk is full.
    DiskFull(NodeId),
    /// The registry does not answer.
    RegistryDown,
    /// The process of that node's n-th running container is killed.
    KillContainer(NodeId, u64),
    /// That node's n-th container is removed.
    RemoveContainer(NodeId, u64),
    /// That node's n-th running container fails its probes.
    SickContainer(NodeId, u64),
    /// Another program listens on that port of that node.
    TakePort(NodeId, u16),
    /// While that node leads, its disk takes seconds for an entry.
    SlowDisk(NodeId),
    /// That node is cut off, and so many times in all.
    Flapping(NodeId, u64),
    /// The daemon of that machine is asked to stop.
    Stop(NodeId),
    /// That node is emptied.
    Drain(NodeId),
    /// That machine is lost for ever, and another bought.
    Replace(NodeId),
    /// That node is to have another key.
    RotateKey(NodeId),
    /// Nothing passes between nodes outside the mesh.
    OutsideClosed,
}

/// Faults that are under way.
pub(super) struct Faults {
    pub rng: Rng,
    pub active: Vec<Fault>,
}

impl Faults {
    pub fn new(rng: Rng) -> Faults {
        Faults { rng, active: Vec::new() }
    }
}

impl World {
    /// Lets faults begin, as the parameters say.
    pub fn begin_faults(&mut self) {
        if self.params.fault_gap > Millis(0) && !self.params.faults.is_empty() {
            self.after(Millis::secs(5), Happening::NextFault);
        }
    }

    pub(super) fn next_fault(&mut self) {
        if !self.in_turmoil() {
            return;
        }
        let kinds: Vec<FaultKind> = self.params.faults.iter().copied().collect();
        let rng = &mut self.faults.rng;
        let kind = kinds[rng.below(kinds.len() as u64) as usize];
        let gap = Millis(rng.between(1, 2 * self.params.fault_gap.0));
        let fault = self.draw_fault(kind);
        if let Some((fault, length)) = fault {
            self.stats.count(kind.name());
            self.inject(fault, self.ground.lasts(length));
        }
        self.after(gap, Happening::NextFault);
    }

    /// A machine that is a node.
    fn any_node(&mut self) -> NodeId {
        let there = self.hosts.values().filter(|host| !host.gone);
        let nodes: Vec<NodeId> = there.map(|host| host.id).collect();
        nodes[self.faults.rng.below(nodes.len() as u64) as usize]
    }

    /// What exactly, and for how long.
    fn draw_fault(&mut self, kind: FaultKind) -> Option<(Fault, Millis)> {
        let node = self.any_node();
        let nodes: Vec<NodeId> = self.hosts.keys().copied().collect();
        let rng = &mut self.faults.rng;
        let between = |rng: &mut Rng, low, high| Millis(rng.between(low, high));
        Some(match kind {
            FaultKind::Crash => (Fault::Crash(node), between(rng, 200, 20_000)),
            FaultKind::PowerOff => (Fault::PowerOff(node), between(rng, 5_000, 90_000)),
            FaultKind::Freeze => (Fault::Freeze(node), between(rng, 500, 20_000)),
            FaultKind::Partition | FaultKind::OneWay if nodes.len() == 1 => return None,
            FaultKind::Partition => {
                let sides = nodes.iter().map(|node| (*node, rng.chance(500)));
                let sides: Vec<(NodeId, bool)> = sides.collect();
                let mut links = Vec::new();
                for (a, one) in &sides {
                    let across = sides.iter().filter(|(_, other)| one != other);
                    links.extend(across.map(|(b, _)| (*a, *b)));
                }
                (Fault::Blocked(links), between(rng, 2_000, 60_000))
            }
            FaultKind::OneWay => {
                let others: Vec<NodeId> = nodes.into_iter().filter(|id| *id != node).collect();
                let other = others[rng.below(others.len() as u64) as usize];
                (Fault::Blocked(vec![(node, other)]), between(rng, 2_000, 60_000))
            }
            FaultKind::BadNetwork => {
                (Fault::BadNetwork(rng.between(50, 500)), between(rng, 2_000, 60_000))
            }
            FaultKind::Depose => (Fault::Depose, Millis(0)),
            FaultKind::Lag => (Fault::Lag(node), between(rng, 1_000, 30_000)),
            FaultKind::Snapshot => (Fault::Snapshot(node), Millis(0)),
            FaultKind::ClockJump => {
                let by = i64::try_from(rng.between(0, 7_200_000)).expect("small") - 3_600_000;
                (Fault::ClockJump(node, by), between(rng, 10_000, 120_000))
            }
            FaultKind::ClockDrift => {
                let by = i64::try_from(rng.between(0, 100_000)).expect("small") - 50_000;
                (Fault::ClockDrift(node, by), Millis(0))
            }
            FaultKind::EngineDown => (Fault::EngineDown(node), between(rng, 1_000, 60_000)),
            FaultKind::DiskFull => (Fault::DiskFull(node), between(rng, 5_000, 60_000)),
            FaultKind::RegistryDown => (Fault::RegistryDown, between(rng, 5_000, 90_000)),
            FaultKind::KillContainer => (Fault::KillContainer(node, rng.draw()), Millis(0)),
            FaultKind::RemoveContainer => (Fault::RemoveContainer(node, rng.draw()), Millis(0)),
            FaultKind::SickContainer => {
                (Fault::SickContainer(node, rng.draw()), between(rng, 1_000, 60_000))
            }
            FaultKind::TakePort => {
                let port = u16::try_from(rng.between(20_000, 20_060)).expect("a port");
                (Fault::TakePort(node, port), between(rng, 5_000, 90_000))
            }
            FaultKind::DeafLeader
            | FaultKind::MuteFollower
            | FaultKind::SlowDisk
            | FaultKind::Flapping
            | FaultKind::HalfSilent => return self.draw_gray(kind, node),
            FaultKind::Stop => (Fault::Stop(node), between(rng, 1_500, 20_000)),
            FaultKind::Drain => (Fault::Drain(node), between(rng, 10_000, 120_000)),
            FaultKind::Replace if !self.can_spare(node) => return None,
            FaultKind::Replace => (Fault::Replace(node), Millis(0)),
            FaultKind::RotateKey => (Fault::RotateKey(node), Millis(0)),
            FaultKind::OutsideClosed => {
                (Fault::OutsideClosed, between(&mut self.faults.rng, 5_000, 90_000))
            }
        })
    }

    /// Lets a fault begin now, and end after `length`; one that cannot be is left out.
    pub fn inject(&mut self, fault: Fault, length: Millis) {
        if self.faults.active.contains(&fault) || !self.begin(&fault, length) {
            return;
        }
        let now = self.now;
        self.trace.transition(now, || format!("FAULT {fault:?} for {length}"));
        self.faults.active.push(fault.clone());
        self.after(length, Happening::Heal { fault });
    }

    fn begin(&mut self, fault: &Fault, length: Millis) -> bool {
        let now = self.now;
        match fault {
            Fault::Crash(node) => {
                let up = self.host(*node).is_up();
                self.kill_daemon(*node);
                return up;
            }
            Fault::PowerOff(node) => {
                self.kill_daemon(*node);
                let host = self.host_mut(*node);
                host.powered = false;
                host.frozen = false;
                host.engine.power_off();
            }
            Fault::Freeze(node) => {
                let host = self.host_mut(*node);
                let can = host.is_up() && !host.frozen;
                host.frozen |= can;
                return can;
            }
            Fault::Blocked(links) => {
                links.iter().for_each(|(from, to)| self.network.block(*from, *to));
                return !links.is_empty();
            }
            Fault::BadNetwork(permille) => self.network.set_extra_loss(*permille),
            Fault::Depose => return self.depose_leader(),
            Fault::Lag(node) => self.host_mut(*node).lags_until = now + length,
            Fault::Snapshot(node) => {
                let host = self.host(*node);
                // The log asks for one only after it has given the node all it needs to start.
                let (boot, ready) = (host.boots, host.is_up() && host.fed.applied > 0);
                if ready {
                    self.tell(*node, boot, Event::SnapshotWanted);
                }
                return ready;
            }
            Fault::ClockJump(node, by) => self.host_mut(*node).clock.jump(*by),
            Fault::ClockDrift(node, drift) => {
                let host = self.host_mut(*node);
                host.clock.set_drift(now, *drift);
                let boot = host.boots;
                self.tell(*node, boot, Event::Wake);
            }
            Fault::EngineDown(node) => self.host_mut(*node).engine.down = true,
            Fault::DiskFull(node) => self.host_mut(*node).engine.disk_full = true,
            Fault::RegistryDown => {
                // Where the network is slow, calls to it lead nowhere.
                let slow = self.params.latency.1 > Millis(100);
                self.registry.fails_after = Millis::secs(if slow { 20 } else { 0 });
                self.registry.down = true;
            }
            Fault::KillContainer(node, which) => return self.kill_container(*node, *which, KILLED),
            Fault::RemoveContainer(node, which) => {
                let containers = self.host(*node).engine.containers();
                let containers: Vec<AllocId> = containers
                    .filter(|(id, container)| !self.may_not_be_known(id, container))
                    .map(|(id, _)| id.clone())
                    .collect();
                let Some(alloc) = pick(&containers, *which).cloned() else { return false };
                self.kill_named(*node, &alloc, KILLED);
                self.host_mut(*node).engine.remove(&alloc);
            }
            Fault::SickContainer(node, which) => {
                let engine = &mut self.host_mut(*node).engine;
                let running: Vec<_> = engine.running().map(|(id, _)| id.clone()).collect();
                let Some(alloc) = pick(&running, *which) else { return false };
                if let Some(container) = engine.container_mut(alloc) {
                    container.sick_until = now + length;
                }
            }
            Fault::TakePort(node, port) => {
                let engine = &mut self.host_mut(*node).engine;
                if engine.running().any(|(_, c)| c.spec.port == Some(*port)) {
                    return false;
                }
                engine.foreign_ports.insert(*port);
            }
            Fault::SlowDisk(node) => self.host_mut(*node).slow_disk = true,
            Fault::Flapping(node, _) => {
                let links = self.links_of(*node);
                links.iter().for_each(|(from, to)| self.network.block(*from, *to));
                return !links.is_empty();
            }
            Fault::Stop(node) => {
                let host = self.host(*node);
                let (up, boot) = (host.is_up(), host.boots);
                if up {
                    self.tell(*node, boot, Event::Stopping);
                    let lasts = Millis(self.faults.rng.between(10, 1_000));
                    self.after(lasts, Happening::Stop { node: *node, boot });
                }
                return up;
            }
            Fault::Drain(node) => self.order(Request::Drain { node: node.to_string(), on: true }),
            Fault::Replace(node) => self.take_away(*node),
            Fault::RotateKey(node) => self.order(Request::RotateKey { node: node.to_string() }),
            Fault::OutsideClosed => return self.close_outside(),
        }
        true
    }

    /// A fault ends.
    pub(super) fn heal(&mut self, fault: &Fault) {
        let Some(place) = self.faults.active.iter().position(|active| active == fault) else {
            return;
        };
        self.faults.active.remove(place);
        match fault {
            Fault::Crash(node) | Fault::Stop(node) => self.boot(*node),
            Fault::Drain(node) => {
                self.order(Request::Drain { node: node.to_string(), on: false });
            }
            Fault::PowerOff(node) => {
                self.host_mut(*node).powered = true;
                self.boot(*node);
            }
            Fault::Freeze(node) => self.thaw(*node),
            Fault::Blocked(links) => self.unblock(links),
            Fault::SlowDisk(node) => self.host_mut(*node).slow_disk = false,
            Fault::Flapping(node, rounds) => {
                self.unblock(&self.links_of(*node));
                self.flap_again(*node, *rounds);
            }
            Fault::BadNetwork(_) => self.network.set_extra_loss(0),
            Fault::ClockJump(node, _) => self.host_mut(*node).clock.set_right(),
            Fault::EngineDown(node) => {
                let host = self.host_mut(*node);
                host.engine.down = false;
                let boot = host.boots;
                self.tell(*node, boot, Event::EngineConnected);
            }
            Fault::DiskFull(node) => self.host_mut(*node).engine.disk_full = false,
            Fault::RegistryDown => self.registry.down = false,
            Fault::TakePort(node, port) => {
                self.host_mut(*node).engine.foreign_ports.remove(port);
            }
            // These ended when they began, or end by themselves.
            Fault::Depose | Fault::Lag(_) | Fault::Snapshot(_) | Fault::ClockDrift(..) => {}
            Fault::Replace(_) | Fault::RotateKey(_) => {}
            Fault::OutsideClosed => self.outside_closed = None,
            Fault::KillContainer(..) | Fault::RemoveContainer(..) | Fault::SickContainer(..) => {}
        }
    }

    /// These directions work again, but for what other faults block.
    fn unblock(&mut self, links: &[(NodeId, NodeId)]) {
        links.iter().for_each(|(from, to)| self.network.unblock(*from, *to));
        for active in self.faults.active.clone() {
            if let Fault::Blocked(links) = active {
                links.iter().for_each(|(from, to)| self.network.block(*from, *to));
            } else if let Fault::Flapping(node, _) = active {
                let links = self.links_of(node);
                links.iter().for_each(|(from, to)| self.network.block(*from, *to));
            }
        }
    }

    /// Every fault ends now, and every machine is started.
    pub fn heal_all(&mut self) {
        for fault in self.faults.active.clone() {
            self.heal(&fault);
        }
        let (now, nodes): (_, Vec<NodeId>) = (self.now, self.hosts.keys().copied().collect());
        for node in nodes {
            self.host_mut(node).engine.cure(now);
            self.boot(node);
        }
    }

    /// Whether it is that of a run which nobody knows to have begun: without it, nobody could tell
    /// that it did.
    fn may_not_be_known(&self, id: &AllocId, container: &Container) -> bool {
        let phase = self.cluster().allocs.get(id).map(|alloc| alloc.status.phase);
        let begins = matches!(phase, Some(Phase::Placed | Phase::Starting | Phase::BackingOff));
        container.spec.env.contains_key("MILL_RUN") && begins
    }

    fn kill_container(&mut self, node: NodeId, which: u64, exit: Exit) -> bool {
        let running: Vec<_> = self.host(node).engine.running().map(|(id, _)| id.clone()).collect();
        match pick(&running, which) {
            Some(alloc) => self.kill_named(node, &alloc.clone(), exit),
            None => false,
        }
    }

    /// The process of an alloc's container ends now, by somebody else's hand.
    pub fn kill_named(&mut self, node: NodeId, alloc: &AllocId, exit: Exit) -> bool {
        let Some(started) = self.host(node).engine.container(alloc).map(|c| c.started) else {
            return false;
        };
        self.process_ends(node, alloc, started, exit);
        true
    }
}

fn pick<T>(some: &[T], which: u64) -> Option<&T> {
    let count = some.len() as u64;
    (count > 0).then(|| &some[(which % count) as usize])
}
