//! A deploy succeeds as a whole or goes back as a whole; one that keeps going may end in part, some
//! of its services here and some there. Settled means healthy.

use mill_core::cluster::Cluster;
use mill_core::cluster::alloc::Phase;
use mill_core::cluster::command::Command;
use mill_core::cluster::deploy::{Deploy, DeployState};
use mill_core::config::model::Replicas;
use mill_core::name::Name;

use super::{Invariant, Moment};

/// Looks at every deploy that reaches an end, and every service that settles.
pub(super) struct Whole;

impl Invariant for Whole {
    fn name(&self) -> &'static str {
        "whole"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Committed { before, entry, after, .. } = moment else { return Ok(()) };
        for command in &entry.commands {
            match command {
                Command::SettleService { deploy, service } => {
                    let is = |cluster: &Cluster| {
                        let change = cluster.deploys.get(deploy)?.changes.get(service)?;
                        Some(change.settled)
                    };
                    // It may be refused.
                    if is(before) != is(after) {
                        settled(after, *deploy, service)?;
                    }
                }
                Command::AdvanceDeploy { deploy, .. } => {
                    let was = before.deploys.get(deploy).map(|deploy| deploy.state.is_end());
                    if let (Some(false), Some(is)) = (was, after.deploys.get(deploy)) {
                        ended(after, *deploy, is)?;
                    }
                }
                Command::Found { .. }
                | Command::AdmitNode { .. }
                | Command::RemoveNode { .. }
                | Command::SetDrain { .. }
                | Command::SetLabels { .. }
                | Command::PutToken { .. }
                | Command::RevokeTokens
                | Command::UseMesh
                | Command::RotateKey { .. }
                | Command::RaiseFeatures { .. }
                | Command::RegisterNode { .. }
                | Command::SetLiveness { .. }
                | Command::Trust { .. }
                | Command::StartDeploy { .. }
                | Command::PinImage { .. }
                | Command::FailServices { .. }
                | Command::Promote { .. }
                | Command::Place { .. }
                | Command::Stop { .. }
                | Command::Release { .. }
                | Command::FreePorts { .. }
                | Command::Report { .. }
                | Command::StartRun { .. }
                | Command::PlaceRun { .. }
                | Command::SkipDue { .. }
                | Command::KillRun { .. }
                | Command::Certificates(_)
                | Command::Forget { .. } => {}
            }
        }
        Ok(())
    }
}

fn settled(after: &Cluster, number: u64, name: &Name) -> Result<(), String> {
    let Some(service) = after.services.get(name) else { return Ok(()) };
    let running = after.running_deploy().filter(|(running, _)| *running == number);
    // What was to go and stays after all has not moved.
    let moves = running.is_some_and(|(_, d)| d.changes.get(name).is_some_and(|c| c.to.is_some()));
    let Some((_, version)) = service.target().filter(|_| moves) else { return Ok(()) };
    let Replicas::Count(count) = version.spec.replicas else { return Ok(()) };
    for index in 0..u64::from(count) {
        let healthy = after.allocs_of(name).any(|(_, alloc)| {
            alloc.slot.index == index
                && alloc.template == version.template
                && alloc.is_wanted()
                && alloc.status.phase == Phase::Healthy
                && after.is_up(alloc.node)
        });
        if !healthy {
            return Err(format!(
                "{name} settled in deploy #{number} and {name}.{index} is not healthy"
            ));
        }
    }
    Ok(())
}

fn ended(after: &Cluster, number: u64, deploy: &Deploy) -> Result<(), String> {
    if let DeployState::Partial { .. } = deploy.state {
        let failed = deploy.changes.values().filter(|change| change.failed.is_some()).count();
        if !deploy.keep_going || failed == 0 || failed == deploy.changes.len() {
            return Err(format!("{failed} of deploy #{number} failed, and it ended in part"));
        }
    }
    for (name, change) in &deploy.changes {
        let stable = after.services.get(name).and_then(|service| service.stable);
        let (should, how) = match &deploy.state {
            DeployState::Succeeded if !change.settled => {
                return Err(format!("deploy #{number} succeeded and {name} never settled"));
            }
            DeployState::Succeeded if change.failed.is_some() => {
                return Err(format!("deploy #{number} succeeded and {name} failed"));
            }
            DeployState::Partial { .. } if !change.settled => {
                return Err(format!("deploy #{number} ended in part and {name} never settled"));
            }
            DeployState::Partial { .. } if change.failed.is_none() && change.to.is_none() => {
                return Err(format!("deploy #{number} removed {name} though others failed"));
            }
            DeployState::Succeeded => (change.to, "succeeded"),
            DeployState::Partial { .. } => (change.goal(), "succeeded in part"),
            DeployState::RolledBack { .. } => (change.from, "went back"),
            DeployState::RollbackStuck { .. }
            | DeployState::Resolving
            | DeployState::Rolling
            | DeployState::Removing
            | DeployState::RollingBack { .. } => continue,
        };
        if stable != should {
            return Err(format!(
                "deploy #{number} {how} and {name} is at {stable:?} instead of {should:?}"
            ));
        }
    }
    Ok(())
}
