//! Routes change all at once, when everything new of a deploy is there, and never otherwise: not
//! when it begins, and not when it goes back.

use mill_core::cluster::command::Command;
use mill_core::cluster::deploy::DeployState;

use super::{Invariant, Moment};

pub(super) struct Routes;

impl Invariant for Routes {
    fn name(&self) -> &'static str {
        "routes"
    }

    fn observe(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Committed { before, entry, after, .. } = moment else { return Ok(()) };
        if entry.commands.iter().any(may_change) {
            return Ok(());
        }
        let (was, is) = (before.routes(), after.routes());
        let lost = was.iter().find(|route| !is.contains(route));
        let new = is.iter().find(|route| !was.contains(route));
        match lost.or(new) {
            None => Ok(()),
            Some(route) => Err(format!(
                "{} changes on its way to {} before everything new is there",
                route.spec.accept.sentence(),
                route.service
            )),
        }
    }
}

/// Whether an entry with it may change routes: a deploy gets there, or one of its services that was
/// there falls back.
fn may_change(command: &Command) -> bool {
    match command {
        Command::AdvanceDeploy { to, .. } => matches!(
            to,
            DeployState::Removing | DeployState::Succeeded | DeployState::Partial { .. }
        ),
        Command::FailServices { .. } => true,
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
        | Command::SettleService { .. }
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
        | Command::Forget { .. } => false,
    }
}
