//! Commands as one line of a timeline.

use mill_core::cluster::command::Command;
use mill_core::container::Digest;
use mill_core::name::Name;

pub(super) fn describe(command: &Command) -> String {
    match command {
        Command::Found { cluster, node, .. } => format!("cluster {cluster} begins with {node}"),
        Command::AdmitNode { admission, .. } => format!("{} is admitted", admission.name),
        Command::RemoveNode { node, force } => format!("{node} is removed, force: {force}"),
        Command::SetDrain { node, draining: true } => format!("{node} drains"),
        Command::SetDrain { node, draining: false } => format!("{node} drains no more"),
        Command::SetLabels { node, .. } => format!("{node} has other labels"),
        Command::PutToken { hash, .. } => format!("a new {hash}"),
        Command::RevokeTokens => "all tokens are revoked".to_owned(),
        Command::RaiseFeatures { to } => format!("feature level {to} is used"),
        Command::UseMesh => "nodes speak through the mesh only".to_owned(),
        Command::RotateKey { node, to } => format!("{node} is to make key {to}"),
        Command::RegisterNode { node, facts } => format!("{node} registers, boot {}", facts.boot),
        Command::SetLiveness { node, up: true } => format!("{node} is up"),
        Command::SetLiveness { node, up: false } => format!("{node} is down"),
        Command::Trust { node, returns: 0 } => format!("{node} has stayed up"),
        Command::Trust { node, .. } => format!("{node} is trusted again"),
        Command::StartDeploy {
            number,
            project,
            kind,
            changes,
            tasks,
            restart,
            back_to,
            keep_going,
            ..
        } => {
            let changed = changes.iter().map(|(name, spec)| match spec {
                Some(spec) => format!("{name}={} {:?}", spec.container.image, spec.replicas),
                None => format!("-{name}"),
            });
            let restarted = restart.iter().map(|name| format!("{name} again"));
            let tasks = tasks.iter().map(|(name, spec)| match spec {
                Some(spec) => format!("task {name}={}", spec.container.image),
                None => format!("-task {name}"),
            });
            let services: Vec<String> = changed.chain(restarted).chain(tasks).collect();
            let back = back_to.map(|to| format!(" to #{to}")).unwrap_or_default();
            let goes = if *keep_going { ", keeps going" } else { "" };
            format!("deploy #{number} of {project} ({kind:?}{back}{goes}): {}", services.join(", "))
        }
        Command::PinImage { deploy, reference, image } => {
            let (Digest::Registry(digest) | Digest::Local(digest)) = &image.digest;
            format!("deploy #{deploy}: {reference} is ...{}", &digest[digest.len() - 4..])
        }
        Command::AdvanceDeploy { deploy, to, .. } => format!("deploy #{deploy}: {}", to.sentence()),
        Command::SettleService { deploy, service } => {
            format!("deploy #{deploy}: {service} settled")
        }
        Command::FailServices { deploy, failed } => {
            let failed = failed.iter().map(|(name, how)| format!("{name} ({})", how.reason));
            let failed: Vec<String> = failed.collect();
            format!("deploy #{deploy} goes on without {}", failed.join(", "))
        }
        Command::Release { alloc, .. } => format!("{alloc} is in nobody's routes any more"),
        Command::FreePorts { until } => format!("all know which ports were free at {until}"),
        Command::Promote { deploy, services, early } => {
            let services: Vec<&str> = services.iter().map(Name::as_str).collect();
            let by = if *early { "by hand" } else { "watched" };
            format!("deploy #{deploy}: canaries of {} promoted, {by}", services.join(", "))
        }
        Command::Place { alloc, node, template, port, .. } => {
            let port = port.map_or(String::new(), |port| format!(" port {port}"));
            format!("place {alloc} v{template} on {node}{port}")
        }
        Command::Stop { alloc, reason } => format!("stop {alloc}: {}", reason.sentence()),
        Command::Report { node, alloc, status } => {
            format!("{node}: {alloc} {}, {} restarts", status.sentence(), status.restarts)
        }
        Command::StartRun { task, cause, .. } => format!("run {task}, {}", cause.sentence()),
        Command::PlaceRun { run, alloc, node } => {
            format!("place {alloc}, which is run {run}, on {node}")
        }
        Command::SkipDue { task, why, .. } => format!("{task} is due and not run: {why}"),
        Command::Certificates(change) => format!("certificates: {change:?}"),
        Command::KillRun { run } => format!("kill run {run}"),
        Command::Forget { alloc } => format!("forget {alloc}"),
    }
}
