//! A leader change by itself never restarts or moves a container.
//!
//! Three sentences hold that exactly. Nobody asks to call a node down that it heard within a full
//! window, or before it has led for a full window, by its own clock. And a service at rest, with
//! one healthy replica of the wanted version in every wanted slot and nothing else, is left alone
//! by every entry that carries no fact: no node that came, went or changed, no deploy, no report.
//! And silence of many at once is not believed at once: whoever hears too few gives itself another
//! window, in which its lead may go to somebody who hears more.

use std::collections::{BTreeMap, BTreeSet};

use mill_core::Effect;
use mill_core::cluster::Cluster;
use mill_core::cluster::alloc::{Alloc, Phase};
use mill_core::cluster::command::{Command, Entry};
use mill_core::config::model::{Replicas, ServiceSpec};
use mill_core::name::{Name, NodeId};
use mill_core::time::Mono;
use mill_core::timing::Timing;
use mill_core::units::Millis;

use super::ears::{Ears, Listening};
use super::{Invariant, Moment};

/// More than one in this many silent nodes are taken for the leader's own trouble first.
const MANY: usize = 3;

/// Remembers what each leader heard since it leads, and when.
#[derive(Default)]
pub(super) struct Calm {
    listening: Listening,
    /// By leader: nodes that it called down, and when.
    called: BTreeMap<NodeId, BTreeMap<NodeId, Mono>>,
}

impl Invariant for Calm {
    fn name(&self) -> &'static str {
        "calm"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        self.listening.observe(moment, Timing::default().down_after);
        match moment {
            Moment::Effect { host, effect: Effect::Propose { entry }, at } => {
                let state = host.daemon.as_ref().map(|daemon| daemon.cluster());
                let ears = self.listening.of(host.id);
                if let (Some(state), Some(ears)) = (state, ears) {
                    let called = self.called.entry(host.id).or_default();
                    calls_down(state, ears, called, entry, *at)
                        .map_err(|detail| format!("{} {detail}", host.id))?;
                }
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
            Moment::Belief { node, .. } => {
                self.called.remove(node);
            }
            Moment::Heard { .. } => {}
            Moment::Effect { .. } | Moment::Agreed { .. } | Moment::State { .. } => {}
            Moment::Unanswered { .. }
            | Moment::Answer { .. }
            | Moment::Host { .. }
            | Moment::Validation { .. } => {}
        }
        Ok(())
    }
}

/// Who is called down was silent for long enough, and not with too many others.
fn calls_down(
    state: &Cluster,
    ears: &Ears,
    called: &mut BTreeMap<NodeId, Mono>,
    entry: &Entry,
    now: Mono,
) -> Result<(), String> {
    let window = Timing::default().down_after;
    called.retain(|node, at| now.since(*at) < window && ears.silence(*node, now) >= window);
    let before = called.keys().filter(|node| !state.is_up(**node)).count();
    let up = state.nodes.values().filter(|record| record.is_up()).count() + before;
    for command in &entry.commands {
        let Command::SetLiveness { node, up: false } = command else { continue };
        let length = ears.silence(*node, now);
        if length < window {
            return Err(format!("calls {node} down after {length} of silence"));
        }
        // Who was never heard by this leader says nothing about its ears.
        if ears.heard(*node).is_some() {
            called.insert(*node, now);
        }
    }
    // Whom else the state lost meanwhile is no news of who is silent.
    let calls = entry.commands.iter().any(|c| matches!(c, Command::SetLiveness { up: false, .. }));
    let many = calls && called.len() > 1 && called.len() * MANY > up;
    // The window that it gives itself begins when the first has been silent for one, and may
    // have begun with a node that is heard again.
    let longest = called.keys().map(|node| ears.silence(*node, now)).max().unwrap_or_default();
    let doubted = longest >= Millis(window.0 + window.0 / 2)
        || ears.relieved.is_some_and(|at| now.since(at) < Millis(2 * window.0));
    match many && !doubted {
        true => Err(format!("calls {called:?} down at once, of {up}, after {longest}")),
        false => Ok(()),
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
            let kept = after.allocs.get(alloc).is_some_and(Alloc::is_wanted);
            (!kept).then_some(&was.slot.service)
        }
        Command::Found { .. } | Command::RegisterNode { .. } | Command::SetLiveness { .. } => None,
        Command::AdmitNode { .. } | Command::RemoveNode { .. } | Command::SetDrain { .. } => None,
        Command::SetLabels { .. } | Command::PutToken { .. } | Command::RevokeTokens => None,
        Command::Trust { .. } | Command::StartDeploy { .. } | Command::PinImage { .. } => None,
        Command::AdvanceDeploy { .. } | Command::SettleService { .. } => None,
        Command::FailServices { .. } => None,
        Command::Promote { .. } | Command::Release { .. } | Command::FreePorts { .. } => None,
        Command::Report { .. } | Command::Forget { .. } => None,
        Command::StartRun { .. } | Command::PlaceRun { .. } => None,
        Command::SkipDue { .. } | Command::KillRun { .. } | Command::Certificates(_) => None,
        Command::RaiseFeatures { .. } | Command::UseMesh | Command::RotateKey { .. } => None,
    });
    services.collect()
}

/// Whether a command says something new that a service may have to follow.
fn is_fact(before: &Cluster, service: &Name, command: &Command) -> bool {
    match command {
        Command::RegisterNode { .. } | Command::SetLiveness { .. } => true,
        Command::RemoveNode { .. } | Command::SetDrain { .. } | Command::SetLabels { .. } => true,
        Command::StartDeploy { .. } | Command::AdvanceDeploy { .. } => true,
        Command::FailServices { .. } | Command::Promote { .. } => true,
        Command::Report { alloc, .. } => {
            before.allocs.get(alloc).is_some_and(|alloc| alloc.slot.service == *service)
        }
        Command::Found { .. } | Command::Trust { .. } | Command::PinImage { .. } => false,
        Command::Release { .. } | Command::FreePorts { .. } => false,
        Command::SettleService { .. } | Command::Place { .. } | Command::Stop { .. } => false,
        Command::AdmitNode { .. } | Command::PutToken { .. } | Command::RevokeTokens => false,
        Command::StartRun { .. } | Command::PlaceRun { .. } => false,
        Command::SkipDue { .. } | Command::KillRun { .. } | Command::Certificates(_) => false,
        Command::Forget { .. } | Command::RaiseFeatures { .. } => false,
        Command::UseMesh | Command::RotateKey { .. } => false,
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
