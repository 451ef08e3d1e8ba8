//! Which of the suitable nodes is best for a slot.
//!
//! In order: not one where the slot failed lately, preferred labels, fewest replicas of the
//! service (over the values of its spread label, then on the node), then the least dominant share
//! after placing (DRF: Ghodsi et al., NSDI 2011), then the lowest node number.

use std::collections::BTreeMap;

use super::{Ask, Candidate, Needs, filter};
use crate::name::Name;

/// Share of a whole node, in parts of 2^20: fixed-point, so that every machine agrees.
const SHARE_ONE: u64 = 1 << 20;

/// Lower is better, field by field.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    lacks_preferred: u32,
    on_zone: u32,
    on_node: u32,
    share: u64,
    index: usize,
}

/// The suitable nodes of one service with their scores.
pub struct Ranking<'a> {
    service: &'a Name,
    needs: Needs<'a>,
    entries: Vec<Entry>,
    zones: BTreeMap<String, u32>,
}

struct Entry {
    score: Score,
    fits: bool,
    zone: Option<String>,
}

impl<'a> Ranking<'a> {
    /// Scores `suitable` nodes for the service.
    pub fn new(
        nodes: &[Candidate],
        suitable: &[usize],
        service: &'a Name,
        needs: Needs<'a>,
    ) -> Ranking<'a> {
        let zone_of = |node: &Candidate| {
            needs.place.spread.as_ref().map(|key| node.labels.get(key).cloned().unwrap_or_default())
        };
        let mut zones = BTreeMap::new();
        for node in nodes {
            if let Some(zone) = zone_of(node) {
                *zones.entry(zone).or_default() += count(node, service);
            }
        }
        let mut ranking = Ranking { service, needs, entries: Vec::new(), zones };
        for index in suitable {
            let node = &nodes[*index];
            let preferred = needs.place.prefer.iter();
            let lacking = preferred.filter(|(key, value)| node.labels.get(*key) != Some(value));
            let score = Score {
                lacks_preferred: u32::try_from(lacking.count()).unwrap_or(u32::MAX),
                on_zone: 0,
                on_node: 0,
                share: 0,
                index: *index,
            };
            let mut entry = Entry { score, fits: false, zone: zone_of(node) };
            ranking.refresh(&mut entry, node);
            ranking.entries.push(entry);
        }
        ranking
    }

    /// The best node for the ask, if one will do.
    pub fn best(&self, nodes: &[Candidate], ask: &Ask<'_>) -> Option<usize> {
        let fitting = self.entries.iter().filter(|entry| entry.fits);
        let allowed = fitting.filter(|entry| {
            let node = &nodes[entry.score.index];
            filter::pinned(node, ask) && filter::trusted(node, ask).is_ok()
        });
        let best = allowed.min_by_key(|entry| {
            (ask.avoid.contains(&nodes[entry.score.index].id), self.with_zone(entry))
        });
        best.map(|entry| entry.score.index)
    }

    /// Takes note that `index` got a slot.
    pub fn took(&mut self, nodes: &[Candidate], index: usize) {
        let Some(at) = self.entries.iter().position(|entry| entry.score.index == index) else {
            return;
        };
        let mut entry = self.entries.remove(at);
        if let Some(zone) = &entry.zone {
            *self.zones.entry(zone.clone()).or_default() += 1;
        }
        self.refresh(&mut entry, &nodes[index]);
        self.entries.insert(at, entry);
    }

    fn refresh(&self, entry: &mut Entry, node: &Candidate) {
        entry.fits = filter::resources(node, self.needs).is_ok()
            && filter::port(node, self.service, self.needs).is_ok();
        entry.score.on_node = count(node, self.service);
        entry.score.share = dominant_share(node, self.needs);
    }

    fn with_zone(&self, entry: &Entry) -> Score {
        let on_zone = entry.zone.as_ref().and_then(|zone| self.zones.get(zone));
        Score { on_zone: on_zone.copied().unwrap_or_default(), ..entry.score }
    }
}

fn count(node: &Candidate, service: &Name) -> u32 {
    node.services.get(service).copied().unwrap_or_default()
}

/// The larger of the cpu and memory shares that would be taken with one more.
fn dominant_share(node: &Candidate, needs: Needs<'_>) -> u64 {
    let share = |used: u64, of: u64| {
        let parts = u128::from(used) * u128::from(SHARE_ONE) / u128::from(of.max(1));
        u64::try_from(parts).unwrap_or(u64::MAX)
    };
    let cpu = node.cpu_used + needs.container.reserved_cpu().0;
    let memory = node.memory_used + needs.container.reserved_memory().0;
    share(cpu, node.capacity.cpu.0).max(share(memory, node.capacity.memory.0))
}
