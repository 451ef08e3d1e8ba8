//! Canaries: the first replicas of an update, watched alone while the others stay as they were.
//!
//! Whether they were promoted is a fact of the deploy ([`Promotion`]); which slots they are, and
//! what the others run meanwhile, follows from the state.

use std::collections::BTreeSet;

use super::apply::{missing, stale};
use super::{Cluster, Refusal, Reply};
use crate::brain::services::wanted_slots;
use crate::cluster::Revision;
use crate::cluster::alloc::Phase;
use crate::cluster::deploy::{DeployState, Promotion, Version};
use crate::config::model::{Replicas, ServiceSpec};
use crate::mutant::{self, Mutant};
use crate::name::{Name, NodeId, Slot};
use crate::time::Wall;

/// A service whose update waits for its canaries.
pub struct Canaries<'a> {
    /// The slots that run the new version by now, ascending.
    pub slots: Vec<u64>,
    /// What every other slot runs meanwhile, where it ran before.
    pub before: &'a Version,
    /// The slots of that version, ascending, as far as their numbers mean the same.
    pub before_slots: Vec<u64>,
}

impl Canaries<'_> {
    /// Whether a slot waits for them.
    pub fn hold(&self, index: u64) -> bool {
        !self.slots.contains(&index) && !mutant::is(Mutant::CanariesNotAwaited)
    }
}

impl Cluster {
    /// The canaries that an update of this service waits for; `None` if it has none, or they were
    /// promoted. One that brings no other container about, or the first one, has none.
    pub fn canaries(&self, name: &Name) -> Option<Canaries<'_>> {
        let (_, deploy) = self.running_deploy()?;
        let change = deploy.changes.get(name)?;
        let begun = deploy.state == DeployState::Rolling && self.closed_gate(name).is_none();
        if !begun || change.failed.is_some() || change.promoted.is_some() {
            return None;
        }
        let service = self.services.get(name)?;
        let before = service.versions.get(&change.from?)?;
        let to = service.versions.get(&change.to?)?;
        if to.spec.update.canary == 0 || to.template == before.template {
            return None;
        }
        let before_slots = self.slots_kept(&before.spec, &to.spec);
        let slots = self.canary_slots(name, &to.spec, (&before.spec, Some(to.template)));
        Some(Canaries { slots, before, before_slots })
    }

    /// The slots of a version whose numbers mean the same in the next; those of nodes are others
    /// than those of replicas.
    fn slots_kept(&self, before: &ServiceSpec, to: &ServiceSpec) -> Vec<u64> {
        let each_node = |spec: &ServiceSpec| spec.replicas == Replicas::EachNode;
        match each_node(before) == each_node(to) {
            true => wanted_slots(self, before),
            false => Vec::new(),
        }
    }

    /// Which slots come first in an update from that version: all that run the new one already,
    /// then such as replace nothing that serves, then the lowest.
    pub(crate) fn canary_slots(
        &self,
        name: &Name,
        to: &ServiceSpec,
        (before, template): (&ServiceSpec, Option<u64>),
    ) -> Vec<u64> {
        let before = self.slots_kept(before, to);
        let (mut new, mut served) = (BTreeSet::new(), BTreeSet::new());
        for (_, alloc) in self.allocs_of(name).filter(|(_, alloc)| alloc.is_wanted()) {
            let slot = alloc.serves(to.replicas);
            if Some(alloc.template) == template {
                new.insert(slot);
            } else if alloc.status.phase == Phase::Healthy && self.is_up(alloc.node) {
                served.insert(slot);
            }
        }
        let mut slots = wanted_slots(self, to);
        if to.replicas == Replicas::EachNode {
            slots.retain(|index| self.is_up(NodeId(*index)));
        }
        slots.sort_by_key(|index| {
            let replaces = before.contains(index) && served.contains(index);
            (!new.contains(index), replaces, *index)
        });
        let begun = slots.iter().filter(|index| new.contains(index)).count();
        slots.truncate(begun.max(to.update.canary as usize));
        slots.sort_unstable();
        slots
    }

    /// The version that this slot should be filled with now; `None` if with none.
    pub fn wanted_in(&self, slot: &Slot) -> Option<&Version> {
        match self.canaries(&slot.service) {
            Some(canaries) if canaries.hold(slot.index) => {
                canaries.before_slots.contains(&slot.index).then_some(canaries.before)
            }
            Some(_) | None => self.wanted_version(&slot.service),
        }
    }

    /// The first slot of the canaries that is not healthy.
    pub(crate) fn unhealthy_canary(&self, name: &Name, canaries: &Canaries<'_>) -> Option<Slot> {
        if mutant::is(Mutant::PromotedUnhealthy) {
            return None;
        }
        let template = self.wanted_version(name).map(|version| version.template);
        let healthy = |index: u64| {
            self.allocs_of(name).any(|(_, alloc)| {
                alloc.slot.index == index
                    && Some(alloc.template) == template
                    && alloc.is_wanted()
                    && alloc.status.phase == Phase::Healthy
                    && self.is_up(alloc.node)
            })
        };
        let index = canaries.slots.iter().find(|index| !healthy(**index))?;
        Some(Slot { service: name.clone(), index: *index })
    }

    pub(super) fn promote(
        &mut self,
        at: Revision,
        wall: Wall,
        number: u64,
        names: &[Name],
        early: bool,
    ) -> Result<Reply, Refusal> {
        for name in names {
            let canaries = self.canaries(name);
            let canaries = canaries.filter(|_| self.last_deploy == number);
            let canaries =
                canaries.ok_or_else(|| stale(format!("`{name}` waits for no canaries")))?;
            if let Some(slot) = self.unhealthy_canary(name, &canaries) {
                return Err(stale(format!("canary {slot} is not healthy")));
            }
        }
        let deploy = self.deploys.get_mut(&number).ok_or_else(|| missing("deploy", number))?;
        let promotion = if early { Promotion::Early(at) } else { Promotion::Soaked };
        for (_, change) in deploy.changes.iter_mut().filter(|(name, _)| names.contains(name)) {
            change.promoted = Some(promotion);
        }
        self.intent += 1;
        let services: Vec<&str> = names.iter().map(Name::as_str).collect();
        let services = services.join(", ");
        let text = match early {
            true => format!("deploy #{number}: the canaries of {services} were promoted by hand"),
            false => format!(
                "deploy #{number}: the canaries of {services} were watched, and the others follow"
            ),
        };
        self.history.record(wall, format!("#{number}"), text);
        Ok(Reply::Done)
    }
}
