//! Moves the running deploy from state to state, forward or back, as its services allow.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::keep_going::{after_rolling, behind, each_late, failed_reason, fall, stuck, without};
use super::runs::{failed_gate, gates_passed, waiting_gate};
use super::{Blocked, Brain, Draft};
use crate::cluster::Cluster;
use crate::cluster::alloc::{Alloc, Desired, Phase, TroubleKind};
use crate::cluster::command::Command;
use crate::cluster::deploy::{Change, Deploy, DeployState, Failure};
use crate::container::OpErrorKind;
use crate::message::ImageReport;
use crate::name::{AllocId, Name};
use crate::node::Wake;
use crate::rollout::Step;
use crate::units::Millis;

/// A new replica that was started again this often has failed its deploy.
pub const RESTARTS_BEFORE_FAILURE: u32 = 3;
/// Images that cannot be had for this long, for a reason that is known, fail their deploy.
pub const TRYING_DEADLINE: Millis = Millis::mins(1);
/// Images of which nothing is heard for this long, a slow pull, fail their deploy.
pub const PULLING_DEADLINE: Millis = Millis::mins(15);

impl Brain {
    /// The running deploy, a step, given what its services do in this one. Says whether it moves
    /// on to its next state.
    pub(super) fn move_deploy(&mut self, draft: &mut Draft<'_>, steps: &[(&Name, Step)]) -> bool {
        let Some((number, deploy)) = draft.cluster.running_deploy() else {
            self.deploy_since = None;
            self.trying_since.clear();
            return false;
        };
        let mine: Vec<&(&Name, Step)> =
            steps.iter().filter(|(name, _)| deploy.changes.contains_key(*name)).collect();
        let next = match &deploy.state {
            DeployState::Resolving => self.resolve(draft, number, deploy),
            DeployState::Rolling => self.roll(draft, number, deploy, &mine),
            DeployState::Removing => self.remove(draft, deploy, &mine),
            DeployState::RollingBack { reason } => self.roll_back(draft, deploy, reason, &mine),
            DeployState::Succeeded
            | DeployState::Partial { .. }
            | DeployState::RolledBack { .. }
            | DeployState::RollbackStuck { .. } => None,
        };
        let Some(next) = next else { return false };
        draft.commands.push(match next {
            Move::To(to) => {
                let from = deploy.state.clone();
                Command::AdvanceDeploy { deploy: number, from, to }
            }
            Move::Fail(failed) => Command::FailServices { deploy: number, failed },
        });
        true
    }

    /// The canaries that were watched for long enough are promoted.
    pub(super) fn promote(draft: &mut Draft<'_>, steps: &[(&Name, Step)]) {
        let Some((deploy, _)) = draft.cluster.running_deploy() else { return };
        let watched = steps.iter().filter(|(_, step)| step.canaries_ready);
        let services: Vec<Name> = watched.map(|(name, _)| (*name).clone()).collect();
        if !services.is_empty() {
            draft.commands.push(Command::Promote { deploy, services, early: false });
        }
    }

    /// Whether the deploy has been where it is for longer than allowed; `for_gates` if all that it
    /// waits for is that.
    fn overdue(&mut self, draft: &mut Draft<'_>, allowed: Millis, for_gates: bool) -> bool {
        let now = draft.now.mono;
        let Some((number, deploy)) = draft.cluster.running_deploy() else { return false };
        let failed = deploy.changes.values().filter(|change| change.failed.is_some());
        let place = Place {
            deploy: number,
            state: deploy.state.step(),
            gates_passed: gates_passed(draft.cluster, deploy),
            failed: failed.count(),
            for_gates,
        };
        let known = self.deploy_since.filter(|(known, _)| *known == place);
        let (_, since) = *self.deploy_since.insert(known.unwrap_or((place, now)));
        draft.wake_at(since + allowed, Wake::Deadline);
        since + allowed <= now
    }

    fn resolve(&mut self, draft: &mut Draft<'_>, number: u64, deploy: &Deploy) -> Option<Move> {
        let mut waiting = BTreeMap::new();
        let unpinned = deploy.images.iter().filter(|(_, pin)| pin.is_none());
        let unpinned: Vec<&String> = unpinned.map(|(reference, _)| reference).collect();
        for reference in &unpinned {
            let reports = self.heard.values().filter_map(|heard| heard.said.images.get(*reference));
            for report in reports {
                match report {
                    ImageReport::Pinned(image) => draft.commands.push(Command::PinImage {
                        deploy: number,
                        reference: (*reference).clone(),
                        image: image.clone(),
                    }),
                    ImageReport::Failed(error) => {
                        let (images, detail) = (&[*reference], error.detail.clone());
                        return Some(without(draft.cluster, (number, deploy), images, detail));
                    }
                    ImageReport::Trying(error) => {
                        waiting.insert(*reference, error.detail.clone());
                    }
                }
            }
        }
        if unpinned.is_empty() {
            return Some(Move::To(DeployState::Rolling));
        }
        let resolver = draft.cluster.resolver();
        if let Some(trouble) = resolver.and_then(|resolver| self.trouble_of(resolver)) {
            waiting.extend(unpinned.iter().map(|reference| (*reference, trouble.detail.clone())));
        }
        self.wait_for_images(draft.cluster, number, deploy, &waiting);
        let late = |images: &[&String], allowed: Millis, why: &str| {
            let reason = format!("its images could not be had within {allowed}: {why}");
            without(draft.cluster, (number, deploy), images, reason)
        };
        let now = draft.now.mono;
        self.trying_since.retain(|reference, _| waiting.contains_key(reference));
        for (reference, why) in &waiting {
            let since = *self.trying_since.entry((*reference).clone()).or_insert(now);
            if since + TRYING_DEADLINE <= now {
                return Some(late(&[*reference], TRYING_DEADLINE, why));
            }
        }
        if let Some(since) = self.trying_since.values().min() {
            draft.wake_at(*since + TRYING_DEADLINE, Wake::Deadline);
        }
        let still = "they are still being pulled";
        self.overdue(draft, PULLING_DEADLINE, false)
            .then(|| late(&unpinned, PULLING_DEADLINE, still))
    }

    /// What is not wanted any more goes, and routes are those of the new versions. That is all that
    /// is waited for, and not for ever: what became of the rest after it had soaked is no business
    /// of the deploy any more.
    fn remove(
        &mut self,
        draft: &mut Draft<'_>,
        deploy: &Deploy,
        steps: &[&(&Name, Step)],
    ) -> Option<Move> {
        let gone = steps.iter().all(|(_, step)| step.pruned);
        let allowed = deadline(draft, deploy, Change::goal);
        let end = match failed_reason(deploy) {
            Some(reason) => DeployState::Partial { reason },
            None => DeployState::Succeeded,
        };
        let done = gone && self.is_routed(draft, deploy);
        (done || self.overdue(draft, allowed, false)).then_some(Move::To(end))
    }

    /// Tells the services of a deploy which of their images cannot be had, and why.
    fn wait_for_images(
        &mut self,
        cluster: &Cluster,
        number: u64,
        deploy: &Deploy,
        waiting: &BTreeMap<&String, String>,
    ) {
        for name in deploy.changes.keys() {
            let version = cluster.services.get(name).and_then(|s| s.versions.get(&number));
            let Some(version) = version.filter(|version| version.image.is_none()) else { continue };
            let reference = &version.spec.container.image;
            if let Some(detail) = waiting.get(reference) {
                let (reference, detail) = (reference.clone(), detail.clone());
                let blocked = self.blocked.entry(name.clone()).or_default();
                blocked.insert(0, Blocked::Image { reference, detail });
            }
        }
    }

    fn roll(
        &mut self,
        draft: &mut Draft<'_>,
        number: u64,
        deploy: &Deploy,
        steps: &[&(&Name, Step)],
    ) -> Option<Move> {
        if let Some(failed) = failures(draft, deploy) {
            return Some(fall(deploy, failed));
        }
        if let Some((gate, reason)) = failed_gate(draft.cluster, deploy) {
            return Some(fall(deploy, behind(deploy, gate, &reason)));
        }
        let held = |name: &&Name| draft.cluster.closed_gate(name).is_some();
        let unsettled = deploy.changes.iter().filter(|(_, change)| !change.settled);
        let unsettled = unsettled.map(|(name, _)| name);
        let (held, unsettled): (Vec<&Name>, Vec<&Name>) = unsettled.partition(held);
        for name in &held {
            let Some(task) = draft.cluster.closed_gate(name).cloned() else { continue };
            let run = deploy.gates.get(&task).copied().flatten();
            let blocked = self.blocked.entry((*name).clone()).or_default();
            blocked.insert(0, Blocked::Gate { task, run });
        }
        if unsettled.is_empty() && !held.is_empty() {
            return self.wait_for_gates(draft, number, deploy);
        }
        let unsettled = unsettled.into_iter();
        let (settles, late): (Vec<&Name>, Vec<&Name>) = unsettled.partition(|unsettled| {
            steps.iter().any(|(name, step)| name == unsettled && step.settled)
        });
        let allowed = deadline(draft, deploy, Change::goal);
        let overdue = !late.is_empty() && self.overdue(draft, allowed, false);
        // What only finishes what is under way has brought everything about.
        let (drains, late): (Vec<&Name>, Vec<&Name>) = late.into_iter().partition(|late| {
            overdue && steps.iter().any(|(name, step)| name == late && step.draining)
        });
        if late.is_empty() || !overdue {
            let settled = settles.into_iter().chain(drains).cloned();
            let settled = settled.map(|service| Command::SettleService { deploy: number, service });
            draft.commands.extend(settled);
            let all = late.is_empty() && held.is_empty();
            let routed = all && self.is_routed(draft, deploy);
            let goes_on = routed || all && self.overdue(draft, allowed, false);
            return goes_on.then(|| after_rolling(deploy));
        }
        let late = late.into_iter().map(|name| {
            let why = self.blocked(name).iter().min_by_key(|b| b.is_for_others());
            let why = why.map(|blocked| format!(" ({blocked})")).unwrap_or_default();
            (name, why)
        });
        let late: Vec<(&Name, String)> = late.collect();
        if deploy.keep_going {
            return Some(each_late(draft, deploy, &late, allowed));
        }
        let late: Vec<String> = late.iter().map(|(name, why)| format!("{name}{why}")).collect();
        let mut reason = format!("not finished within {allowed}: {}", late.join("; "));
        if let Some((id, alloc)) = its_allocs(draft, deploy).find(|(_, a)| is_unwell(a)) {
            reason.push_str(&format!(". {}", explain(id, alloc)));
        }
        Some(Move::To(DeployState::RollingBack { reason }))
    }

    /// Nothing but what waits for gates is left: they run, for as long as their tasks allow. Only
    /// one that finds no node is not waited for that long.
    fn wait_for_gates(
        &mut self,
        draft: &mut Draft<'_>,
        number: u64,
        deploy: &Deploy,
    ) -> Option<Move> {
        Brain::open_gates(draft, number, deploy);
        let allowed = deadline(draft, deploy, Change::goal);
        let gate = waiting_gate(draft.cluster, deploy)?;
        if !self.overdue(draft, allowed, true) {
            return None;
        }
        let why = self.blocked(gate).first().map(|blocked| format!(" ({blocked})"));
        let reason = format!(
            "task {gate}, which has to succeed first, was not begun within {allowed}{}",
            why.unwrap_or_default()
        );
        Some(fall(deploy, behind(deploy, gate, &reason)))
    }

    fn roll_back(
        &mut self,
        draft: &mut Draft<'_>,
        deploy: &Deploy,
        reason: &str,
        steps: &[&(&Name, Step)],
    ) -> Option<Move> {
        let settled = steps.iter().all(|(_, step)| step.settled);
        if settled && self.is_routed(draft, deploy) {
            return Some(Move::To(DeployState::RolledBack { reason: reason.to_owned() }));
        }
        let allowed = deadline(draft, deploy, |change| change.from);
        let end = || match settled {
            true => DeployState::RolledBack { reason: reason.to_owned() },
            false => DeployState::RollbackStuck { reason: stuck(reason, allowed) },
        };
        self.overdue(draft, allowed, false).then(|| Move::To(end()))
    }
}

/// Where a deploy is: what follows has time of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    deploy: u64,
    state: u8,
    /// The time of gates is their own, and what follows them begins anew.
    gates_passed: usize,
    /// So does going back.
    failed: usize,
    for_gates: bool,
}

/// What a deploy does next.
pub(super) enum Move {
    /// It moves on.
    To(DeployState),
    /// It goes on without some of its services.
    Fail(BTreeMap<Name, Failure>),
}

/// The longest deadline among the versions that a deploy moves its services to.
fn deadline(
    draft: &Draft<'_>,
    deploy: &Deploy,
    version: impl Fn(&Change) -> Option<u64>,
) -> Millis {
    let versions = deploy.changes.iter().filter_map(|(name, change)| {
        draft.cluster.services.get(name)?.versions.get(&version(change)?)
    });
    let longest = versions.map(|version| version.spec.update.deadline).max();
    longest.unwrap_or(crate::config::model::UpdateSpec::default().deadline)
}

/// Why new replicas of the deploy cannot become healthy, by service, if any cannot.
fn failures(draft: &Draft<'_>, deploy: &Deploy) -> Option<BTreeMap<Name, String>> {
    let mut failed = BTreeMap::new();
    for (id, alloc) in its_allocs(draft, deploy) {
        if has_failed(alloc) && !is_placed_anew(draft.cluster, alloc) {
            let name = alloc.slot.service.clone();
            failed.entry(name).or_insert_with(|| explain(id, alloc));
        }
    }
    (!failed.is_empty()).then_some(failed)
}

/// The allocs that a deploy placed: of what it wants, and since it began.
pub(super) fn its_allocs<'a>(
    draft: &Draft<'a>,
    deploy: &'a Deploy,
) -> impl Iterator<Item = (&'a AllocId, &'a Alloc)> {
    let cluster = draft.cluster;
    let under_way = deploy.changes.iter().filter(|(_, change)| change.failed.is_none());
    under_way.flat_map(move |(name, change)| {
        let service = cluster.services.get(name);
        let version = service.zip(change.to).and_then(|(s, to)| s.versions.get(&to));
        let template = version.map(|version| version.template);
        let allocs = cluster.allocs_of(name);
        allocs.filter(move |(_, a)| Some(a.template) == template && a.placed > deploy.begun)
    })
}

/// Whether it should be healthy, is not, and it is known why.
pub(super) fn is_unwell(alloc: &Alloc) -> bool {
    alloc.desired == Desired::Run
        && alloc.status.phase != Phase::Healthy
        && alloc.status.trouble.is_some()
}

fn has_failed(alloc: &Alloc) -> bool {
    alloc.status.phase == Phase::Failed || alloc.status.restarts >= RESTARTS_BEFORE_FAILURE
}

/// Whether its failure was its port's: it came from the pool, and the next one will do.
fn is_placed_anew(cluster: &Cluster, alloc: &Alloc) -> bool {
    let service = cluster.services.get(&alloc.slot.service);
    let version = service.and_then(|service| service.versions.get(&alloc.template));
    let owned = version.and_then(|version| version.spec.container.owned_port());
    let taken = alloc.status.trouble.as_ref().is_some_and(|trouble| match trouble.kind {
        TroubleKind::Op(kind) => kind == OpErrorKind::PortTaken,
        TroubleKind::Exited(_) | TroubleKind::Unhealthy | TroubleKind::KilledAfterGrace => false,
        TroubleKind::TimedOut => false,
    });
    taken && owned.is_none()
}

pub(super) fn explain(id: &AllocId, alloc: &Alloc) -> String {
    let Some(trouble) = &alloc.status.trouble else { return format!("{id} failed") };
    let mut reason = format!("{id}: {}", trouble.detail);
    if !trouble.output.is_empty() {
        reason.push_str("; its last lines:");
        trouble.output.iter().for_each(|line| reason.push_str(&format!("\n    {line}")));
    }
    reason
}
