//! What follows when services of a deploy fail: all of them go back, or, where the deploy keeps
//! going, those that failed.

use std::collections::BTreeMap;

use super::Draft;
use super::deploys::{Move, explain, is_unwell, its_allocs};
use crate::cluster::Cluster;
use crate::cluster::deploy::{Change, Deploy, DeployState};
use crate::mutant::{self, Mutant};
use crate::name::Name;
use crate::units::Millis;

/// Services failed, and why: all of the deploy goes back for the first reason, or these alone do.
pub(super) fn fall(deploy: &Deploy, failed: BTreeMap<Name, String>) -> Move {
    match deploy.keep_going {
        true => Move::Fail(failed),
        false => {
            let reason = failed.into_values().next().unwrap_or_default();
            Move::To(DeployState::RollingBack { reason })
        }
    }
}

/// The services that wait for a gate, each with the same reason.
pub(super) fn behind(deploy: &Deploy, gate: &Name, reason: &str) -> BTreeMap<Name, String> {
    let waits = |change: &Change| change.gate.as_ref() == Some(gate) && change.failed.is_none();
    let waiting = deploy.changes.iter().filter(|(_, change)| waits(change));
    waiting.map(|(name, _)| (name.clone(), reason.to_owned())).collect()
}

/// Images cannot be had: nothing has moved yet, so there is nothing to go back from. A deploy goes
/// on without the services that need them, but not without its tasks.
pub(super) fn without(
    cluster: &Cluster,
    deploy: &Deploy,
    images: &[&String],
    reason: String,
) -> Move {
    let number = cluster.running_deploy().map(|(number, _)| number).unwrap_or_default();
    let is_needed = |image: &String| images.contains(&image);
    let of_task = |name: &Name| {
        let version = cluster.tasks.get(name)?.versions.get(&number)?;
        Some(version.image.is_none() && is_needed(&version.spec.container.image))
    };
    let of_service = |name: &Name| {
        let version = cluster.services.get(name)?.versions.get(&number)?;
        Some(version.image.is_none() && is_needed(&version.spec.container.image))
    };
    let left = deploy.changes.iter().filter(|(_, change)| change.failed.is_none());
    let needing = left.filter(|(name, _)| of_service(name) == Some(true));
    let failed: BTreeMap<Name, String> =
        needing.map(|(name, _)| (name.clone(), reason.clone())).collect();
    let by_task = deploy.tasks.keys().any(|name| of_task(name) == Some(true));
    match deploy.keep_going && !by_task && !failed.is_empty() {
        true => Move::Fail(failed),
        false => Move::To(DeployState::RolledBack { reason }),
    }
}

/// Services that are late, each with what it waits for. One that goes back already is not waited
/// for any longer.
pub(super) fn each_late(
    draft: &Draft<'_>,
    deploy: &Deploy,
    late: &[(&Name, String)],
    allowed: Millis,
) -> BTreeMap<Name, String> {
    let each = late.iter().map(|(name, why)| {
        let before = deploy.changes.get(*name).and_then(|change| change.failed.as_ref());
        if let Some(before) = before {
            return ((*name).clone(), stuck(before, allowed));
        }
        let mut reason = format!("not finished within {allowed}{why}");
        let mut its = its_allocs(draft, deploy).filter(|(_, a)| a.slot.service == **name);
        if let Some((id, alloc)) = its.find(|(_, alloc)| is_unwell(alloc)) {
            reason.push_str(&format!(". {}", explain(id, alloc)));
        }
        ((*name).clone(), reason)
    });
    each.collect()
}

/// Everything of a deploy has settled, here or there.
pub(super) fn after_rolling(deploy: &Deploy) -> Move {
    let Some(reason) = failed_reason(deploy) else { return Move::To(DeployState::Removing) };
    // What is not wanted any more may be needed yet: it goes once nothing fails.
    let removed = deploy.changes.iter().filter(|(_, c)| c.to.is_none() && c.failed.is_none());
    let kept: BTreeMap<Name, String> =
        removed.map(|(name, _)| (name.clone(), KEPT.to_owned())).collect();
    if !kept.is_empty() && !mutant::is(Mutant::RemovedThoughOthersFailed) {
        return Move::Fail(kept);
    }
    match deploy.changes.values().all(|change| change.failed.is_some()) {
        true => Move::To(DeployState::RolledBack { reason }),
        false => Move::To(DeployState::Removing),
    }
}

/// Why a service is not removed that should be gone.
const KEPT: &str = "others failed; the next deploy that succeeds removes it";

/// Which services of a deploy failed, and why; `None` if none did.
pub(super) fn failed_reason(deploy: &Deploy) -> Option<String> {
    let changes = deploy.changes.iter();
    let failed =
        changes.filter_map(|(name, change)| Some(format!("{name} {}", change.failure(true)?)));
    let failed: Vec<String> = failed.collect();
    (!failed.is_empty()).then(|| failed.join("\n"))
}

/// Why going back is not waited for any longer.
pub(super) fn stuck(reason: &str, allowed: Millis) -> String {
    format!(
        "{reason}; going back did not finish within {allowed} either. What is healthy keeps \
         running; see `mill why` for what the rest waits for, then deploy again"
    )
}
