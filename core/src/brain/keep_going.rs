//! What follows when services of a deploy fail: all of them go back, or, where the deploy keeps
//! going, those that failed.

use std::collections::BTreeMap;

use super::Draft;
use super::deploys::{Move, explain, is_unwell, its_allocs};
use crate::cluster::Cluster;
use crate::cluster::deploy::{Change, Deploy, DeployState, Failure};
use crate::name::Name;
use crate::units::Millis;

/// Services failed, and why: all of the deploy goes back for the first reason, or these alone do.
pub(super) fn fall(deploy: &Deploy, failed: BTreeMap<Name, String>) -> Move {
    match deploy.keep_going {
        true => alone(failed),
        false => {
            let reason = failed.into_values().next().unwrap_or_default();
            Move::To(DeployState::RollingBack { reason })
        }
    }
}

/// Services fail by themselves.
fn alone(failed: BTreeMap<Name, String>) -> Move {
    let failed = failed.into_iter();
    Move::Fail(failed.map(|(name, reason)| (name, Failure { reason, stuck: false })).collect())
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
    (number, deploy): (u64, &Deploy),
    images: &[&String],
    reason: String,
) -> Move {
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
        true => alone(failed),
        false => Move::To(DeployState::RolledBack { reason }),
    }
}

/// Services that are late, each with what it waits for: they fail, or, going back already, are
/// stuck.
pub(super) fn each_late(
    draft: &Draft<'_>,
    deploy: &Deploy,
    late: &[(&Name, String)],
    allowed: Millis,
) -> Move {
    let each = late.iter().map(|(name, why)| {
        let before = deploy.changes.get(*name).and_then(|change| change.failed.as_ref());
        if let Some(before) = before {
            let reason = stuck(&before.reason, allowed);
            return ((*name).clone(), Failure { reason, stuck: true });
        }
        let mut reason = format!("not finished within {allowed}{why}");
        let mut its = its_allocs(draft, deploy).filter(|(_, a)| a.slot.service == **name);
        if let Some((id, alloc)) = its.find(|(_, alloc)| is_unwell(alloc)) {
            reason.push_str(&format!(". {}", explain(id, alloc)));
        }
        ((*name).clone(), Failure { reason, stuck: false })
    });
    Move::Fail(each.collect())
}

/// Everything of a deploy has settled, here or there.
pub(super) fn after_rolling(deploy: &Deploy) -> Move {
    let Some(reason) = failed_reason(deploy) else { return Move::To(DeployState::Removing) };
    // What is not wanted any more may be needed yet: it goes once nothing fails.
    let removed = deploy.changes.iter().filter(|(_, c)| c.to.is_none() && c.failed.is_none());
    let kept: BTreeMap<Name, String> =
        removed.map(|(name, _)| (name.clone(), KEPT.to_owned())).collect();
    if !kept.is_empty() {
        return alone(kept);
    }
    if deploy.changes.values().any(|change| change.failed.is_none()) {
        return Move::To(DeployState::Removing);
    }
    let stuck = deploy.changes.values().any(|c| c.failed.as_ref().is_some_and(|f| f.stuck));
    Move::To(match stuck {
        true => DeployState::RollbackStuck { reason },
        false => DeployState::RolledBack { reason },
    })
}

/// Why a service is not removed that should be gone.
const KEPT: &str = "others failed; deploy the file again to remove it";

/// Which services of a deploy failed, and why; `None` if none did.
pub(super) fn failed_reason(deploy: &Deploy) -> Option<String> {
    let failed = deploy.changes.iter().filter_map(|(name, change)| {
        let (how, reason) = change.failure(true)?;
        Some(format!("{name} {how}: {reason}"))
    });
    let failed: Vec<String> = failed.collect();
    (!failed.is_empty()).then(|| failed.join("\n"))
}

/// Why going back is not waited for any longer.
pub(super) fn stuck(reason: &str, allowed: Millis) -> String {
    format!(
        "{reason}\ngoing back did not finish within {allowed} either. What is healthy keeps \
         running; see `mill why` for what the rest waits for, then deploy again"
    )
}
