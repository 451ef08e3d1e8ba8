//! A project that went back runs what the earlier deploy left: the same services, settings and
//! bytes.

use std::collections::BTreeMap;

use mill_core::cluster::Cluster;
use mill_core::cluster::deploy::{Deploy, DeployState};
use mill_core::config::model::ServiceSpec;
use mill_core::container::PinnedImage;
use mill_core::name::Name;

use super::{Invariant, Moment};

/// Compares what two deploys left.
pub(super) struct Returned;

impl Invariant for Returned {
    fn name(&self) -> &'static str {
        "returned"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        match moment {
            Moment::Committed { before, after, .. } => {
                let Some((number, deploy)) = before.running_deploy() else { return Ok(()) };
                let (Some(to), Some(ended)) = (deploy.back_to, after.deploys.get(&number)) else {
                    return Ok(());
                };
                let Some(earlier) = before.deploys.get(&to) else { return Ok(()) };
                if ended.state != DeployState::Succeeded {
                    return Ok(());
                }
                match left(before, earlier) == left(after, ended) {
                    true => Ok(()),
                    false => {
                        Err(format!("deploy #{number} went back to something else than #{to}"))
                    }
                }
            }
            Moment::Effect { .. } | Moment::Agreed { .. } | Moment::State { .. } => Ok(()),
            Moment::Heard { .. }
            | Moment::Belief { .. }
            | Moment::Host { .. }
            | Moment::Validation { .. } => Ok(()),
            Moment::Unanswered { .. } | Moment::Answer { .. } => Ok(()),
        }
    }
}

fn left(cluster: &Cluster, deploy: &Deploy) -> BTreeMap<Name, (ServiceSpec, Option<PinnedImage>)> {
    let left = cluster.left_by(deploy).into_iter();
    left.map(|(name, version)| (name, (version.spec.clone(), version.image.clone()))).collect()
}
