//! A leader change by itself never restarts or moves a container.
//!
//! Two sentences hold that exactly. Nobody asks to call a node down that it heard within a full
//! window, or before it has led for a full window, by its own clock. And a service at rest, with
//! one healthy replica of the wanted version in every wanted slot and nothing else, is left alone
//! by every entry that carries no fact: no node that came, went or changed, no deploy, no report.

use std::collections::{BTreeMap, BTreeSet};

use mill_core::Effect;
use mill_core::cluster::Cluster;
use mill_core::cluster::alloc::{Alloc, Phase};
use mill_core::cluster::command::{Command, Entry};
use mill_core::config::model::{Replicas, ServiceSpec};
use mill_core::event::Leadership;
use mill_core::message::Message;
use mill_core::name::{Name, NodeId};
use mill_core::time::Mono;
use mill_core::timing::Timing;

use super::{Invariant, Moment};

/// Remembers what each leader heard since it leads, and when.
#[derive(Default)]
pub(super) struct Calm {
    leads: BTreeMap<NodeId, Ears>,
}

struct Ears {
    since: Mono,
    /// By node: boot and number of the latest heartbeat, and when it came.
    heard: BTreeMap<NodeId, (u64, u64, Mono)>,
}

impl Invariant for Calm {
    fn name(&self) -> &'static str {
        "calm"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        match moment {
            Moment::Belief { node, belief: Leadership::Leader { .. }, at } => {
                self.leads.insert(*node, Ears { since: *at, heard: BTreeMap::new() });
            }
            Moment::Belief { node, belief: Leadership::Follower { .. }, .. } => {
                self.leads.remove(node);
            }
            Moment::Heard { by, from, message, at } => self.heard(*by, *from, message, *at),
            Moment::Effect { host, effect: Effect::Propose { entry }, at } => {
                return self.judged(host.id, entry, *at);
            }
            Moment::Committed { before, entry, after, .. } => {
                return touched(before, entry, after).into_iter().try_for_each(|service| {
                    let caused = entry.commands.iter().any(|c| is_fact(before, service, c));
                    match !caused && is_at_rest(before, service) {
                        true => Err(format!("{service} was at rest and is moved for no reason")),
                        false => Ok(()),
                    }
                });
            }
            Moment::Effect { .. } | Moment::Agreed { .. } | Moment::State { .. } => {}
            Moment::Answer { .. } | Moment::Host { .. } => {}
        }
        Ok(())
    }
}

impl Calm {
    fn heard(&mut self, by: NodeId, from: NodeId, message: &Message, at: Mono) {
        let Message::Heartbeat { seq, facts, .. } = message else { return };
        let Some(ears) = self.leads.get_mut(&by) else { return };
        let known = ears.heard.get(&from);
        // One that comes late or twice says nothing of now.
        if known.is_none_or(|(boot, known, _)| (*boot, *known) < (facts.boot, *seq)) {
            ears.heard.insert(from, (facts.boot, *seq, at));
        }
    }

    fn judged(&self, leader: NodeId, entry: &Entry, at: Mono) -> Result<(), String> {
        let window = Timing::default().down_after;
        let Some(ears) = self.leads.get(&leader) else { return Ok(()) };
        for command in &entry.commands {
            let Command::SetLiveness { node, up: false } = command else { continue };
            let heard = ears.heard.get(node).map_or(ears.since, |(.., heard)| *heard);
            if at.since(heard) < window {
                let length = at.since(heard);
                return Err(format!("{leader} calls {node} down after {length} of silence"));
            }
        }
        Ok(())
    }
}

/// Services of which an entry placed or stopped something.
fn touched<'a>(before: &'a Cluster, entry: &'a Entry, after: &Cluster) -> BTreeSet<&'a Name> {
    let services = entry.commands.iter().filter_map(|command| match command {
        Command::Place { alloc, slot, .. } => {
            let held = !before.allocs.contains_key(alloc) && after.allocs.contains_key(alloc);
            held.then_some(&slot.service)
        }
        Command::Stop { alloc, .. } => {
            let was = before.allocs.get(alloc).filter(|was| was.is_wanted())?;
            Some(&was.slot.service)
        }
        Command::Found { .. } | Command::RegisterNode { .. } | Command::SetLiveness { .. } => None,
        Command::AdmitNode { .. } | Command::RemoveNode { .. } | Command::SetDrain { .. } => None,
        Command::SetLabels { .. } | Command::PutToken { .. } | Command::RevokeTokens => None,
        Command::Trust { .. } | Command::StartDeploy { .. } | Command::PinImage { .. } => None,
        Command::AdvanceDeploy { .. } | Command::SettleService { .. } => None,
        Command::Report { .. } | Command::Forget { .. } => None,
    });
    services.collect()
}

/// Whether a command says something new that a service may have to follow.
fn is_fact(before: &Cluster, service: &Name, command: &Command) -> bool {
    match command {
        Command::RegisterNode { .. } | Command::SetLiveness { .. } => true,
        Command::RemoveNode { .. } | Command::SetDrain { .. } | Command::SetLabels { .. } => true,
        Command::StartDeploy { .. } | Command::AdvanceDeploy { .. } => true,
        Command::Report { alloc, .. } => {
            before.allocs.get(alloc).is_some_and(|alloc| alloc.slot.service == *service)
        }
        Command::Found { .. } | Command::Trust { .. } | Command::PinImage { .. } => false,
        Command::SettleService { .. } | Command::Place { .. } | Command::Stop { .. } => false,
        Command::AdmitNode { .. } | Command::PutToken { .. } | Command::RevokeTokens => false,
        Command::Forget { .. } => false,
    }
}

/// Whether nothing is left to do for a service.
fn is_at_rest(cluster: &Cluster, name: &Name) -> bool {
    let moving = cluster.running_deploy().is_some_and(|(_, d)| d.changes.contains_key(name));
    let Some(version) = cluster.wanted_version(name).filter(|_| !moving) else { return false };
    let live: Vec<&Alloc> =
        cluster.allocs_of(name).map(|(_, alloc)| alloc).filter(|alloc| alloc.is_live()).collect();
    let serves = |alloc: &Alloc| {
        alloc.is_wanted()
            && alloc.template == version.template
            && alloc.status.phase == Phase::Healthy
            && cluster.nodes.get(&alloc.node).is_some_and(|node| node.is_up() && !node.draining)
    };
    let filled: BTreeSet<u64> = live.iter().map(|alloc| alloc.slot.index).collect();
    live.iter().all(|alloc| serves(alloc))
        && filled.len() == live.len()
        && filled == slots(cluster, &version.spec)
}

fn slots(cluster: &Cluster, spec: &ServiceSpec) -> BTreeSet<u64> {
    match spec.replicas {
        Replicas::Count(count) => (0..u64::from(count)).collect(),
        Replicas::EachNode => {
            let suitable = cluster.nodes.iter().filter(|(_, record)| {
                let labels = &record.labels;
                let mut required = spec.place.require.iter();
                record.takes_new() && required.all(|(key, value)| labels.get(key) == Some(value))
            });
            suitable.map(|(node, _)| node.0).collect()
        }
    }
}
