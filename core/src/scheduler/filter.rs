//! What a node must have for a slot: labels, cpu, memory, a port.

use super::{Ask, Candidate, Needs, Reason, Rejected};
use crate::mutant::{self, Mutant};
use crate::name::Name;
use crate::units::{Bytes, Millicores};

/// Whether it takes anything new, and has every label that the service requires.
pub fn suits(node: &Candidate, needs: Needs<'_>) -> Result<(), Reason> {
    match node.draining {
        true => Err(Reason::Draining),
        false => labels(node, needs),
    }
}

fn labels(node: &Candidate, needs: Needs<'_>) -> Result<(), Reason> {
    let lacking =
        needs.place.require.iter().find(|(key, value)| node.labels.get(*key) != Some(value));
    match lacking {
        Some((label, wanted)) => {
            Err(Reason::Label { label: label.clone(), wanted: wanted.clone() })
        }
        None => Ok(()),
    }
}

/// Whether it has the cpu and memory left that the service sets aside.
pub fn resources(node: &Candidate, needs: Needs<'_>) -> Result<(), Reason> {
    if mutant::is(Mutant::CapacityOffByOne) && node.cpu_used <= node.capacity.cpu.0 {
        return Ok(());
    }
    let (cpu, memory) = (needs.container.reserved_cpu(), needs.container.reserved_memory());
    let capacity = node.capacity;
    if node.cpu_used + cpu.0 > capacity.cpu.0 {
        let free = Millicores(capacity.cpu.0.saturating_sub(node.cpu_used));
        return Err(Reason::Cpu { free, capacity: capacity.cpu, wanted: cpu });
    }
    if node.memory_used + memory.0 > capacity.memory.0 {
        let free = Bytes(capacity.memory.0.saturating_sub(node.memory_used));
        return Err(Reason::Memory { free, capacity: capacity.memory, wanted: memory });
    }
    Ok(())
}

/// The port that the service would get there.
pub fn port(node: &Candidate, service: &Name, needs: Needs<'_>) -> Result<Option<u16>, Reason> {
    let rests_for = |port: u16| node.resting.get(&port).filter(|had_it| *had_it != service);
    if let Some(owned) = needs.container.owned_port() {
        return match (node.ports.contains(&owned), rests_for(owned)) {
            (true, _) => Err(Reason::PortTaken(owned)),
            (false, Some(other)) => Err(Reason::PortRests { port: owned, service: other.clone() }),
            (false, None) => Ok(Some(owned)),
        };
    }
    if needs.container.port.is_none() {
        return Ok(None);
    }
    let pool = node.capacity.ports;
    let from = node.next_port.clamp(pool.first, pool.last);
    let free = (from..=pool.last)
        .chain(pool.first..from)
        .find(|port| !node.ports.contains(port) && rests_for(*port).is_none());
    free.map(Some).ok_or(Reason::PoolExhausted(pool))
}

/// Whether the slot may be on that node at all.
pub fn pinned(node: &Candidate, ask: &Ask<'_>) -> bool {
    ask.pinned.is_none_or(|id| id == node.id || mutant::is(Mutant::PinnedIgnored))
}

/// Whether it gets anything new, or the slot is its own.
pub fn trusted(node: &Candidate, ask: &Ask<'_>) -> Result<(), Reason> {
    let is_its_own = ask.pinned.or(ask.home) == Some(node.id);
    match node.watched {
        Some(watched) if !is_its_own && !mutant::is(Mutant::FlappingTrusted) => {
            Err(Reason::Watched(watched))
        }
        Some(_) | None => Ok(()),
    }
}

/// The first thing that each node lacks; a slot of one node says nothing of the others.
pub fn rejections(nodes: &[Candidate], ask: &Ask<'_>) -> Vec<Rejected> {
    let check = |node: &Candidate| {
        suits(node, ask.needs)
            .and_then(|()| trusted(node, ask))
            .and_then(|()| resources(node, ask.needs))
            .and_then(|()| port(node, &ask.slot.service, ask.needs).map(|_| ()))
    };
    let lacking = nodes.iter().filter(|node| pinned(node, ask)).filter_map(|node| {
        let reason = check(node).err()?;
        Some(Rejected { node: node.name.clone(), reason })
    });
    lacking.collect()
}
