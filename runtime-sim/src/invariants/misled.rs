//! Nobody is sent to another service than was called: no member carries traffic for one to a port
//! that was given to another, also if it is cut off and goes on by what it knew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mill_core::Effect;
use mill_core::cluster::Cluster;
use mill_core::cluster::command::{Command, Entry};
use mill_core::name::{Name, NodeId};
use mill_core::net::Tables;

use super::{Invariant, Moment};

#[derive(Default)]
pub(super) struct Misled {
    /// What each node carries traffic by, with the boot that said so.
    carries: BTreeMap<NodeId, (u64, Arc<Tables>)>,
    /// To which service each port was given last.
    given: BTreeMap<(NodeId, u16), Name>,
    members: BTreeSet<NodeId>,
}

impl Invariant for Misled {
    fn name(&self) -> &'static str {
        "misled"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        match moment {
            Moment::Effect { host, effect: Effect::Publish { tables }, .. } => {
                self.carries.insert(host.id, (host.boots, tables.clone()));
                self.misleads(host.id, tables)
            }
            Moment::Host { host, .. } => {
                // The next boot carries nothing until it says something.
                self.carries.retain(|node, (boot, _)| *node != host.id || *boot == host.boots);
                Ok(())
            }
            Moment::Committed { before, entry, after, .. } => self.places(before, entry, after),
            Moment::Effect { .. } | Moment::Heard { .. } | Moment::Agreed { .. } => Ok(()),
            Moment::State { .. } | Moment::Belief { .. } | Moment::Unanswered { .. } => Ok(()),
            Moment::Answer { .. } | Moment::Validation { .. } => Ok(()),
        }
    }
}

impl Misled {
    fn places(&mut self, before: &Cluster, entry: &Entry, after: &Cluster) -> Result<(), String> {
        self.members = after.nodes.keys().copied().collect();
        let mut given = false;
        for command in &entry.commands {
            let Command::Place { alloc, slot, node, port: Some(port), .. } = command else {
                continue;
            };
            // It may be refused.
            if !before.allocs.contains_key(alloc) && after.allocs.contains_key(alloc) {
                given = true;
                self.given.insert((*node, *port), slot.service.clone());
            }
        }
        if given {
            self.carries.iter().try_for_each(|(node, (_, tables))| self.misleads(*node, tables))?;
        }
        Ok(())
    }

    fn misleads(&self, node: NodeId, tables: &Tables) -> Result<(), String> {
        if !self.members.contains(&node) {
            return Ok(());
        }
        for (service, table) in &tables.services {
            for replica in table.replicas() {
                let now = self.given.get(&(replica.node, replica.port));
                if let Some(other) = now.filter(|other| *other != service) {
                    return Err(format!(
                        "{node} sends what is for {service} to port {} of {}, which {other} has",
                        replica.port, replica.node
                    ));
                }
            }
        }
        Ok(())
    }
}
