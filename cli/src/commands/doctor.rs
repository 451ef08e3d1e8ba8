//! `mill doctor`: what a node needs of this machine, and how the one is that runs here.

use mill_runtime_real::doctor::{self, Grade};

use mill_core::api::Answer;
use mill_runtime_real::doctor::Finding;
use mill_runtime_real::mesh::MeshReport;

use super::{Outcome, done, pretty};
use crate::args::Doctor;
use crate::client::Client;
use crate::failure::Failure;
use crate::render::{self, painted};

/// `mill doctor`.
pub async fn doctor(args: Doctor, json: bool) -> Outcome {
    let mut found = doctor::examine(args.engine, &args.data, args.ports.0).await;
    found.extend(of_daemon(&args.target.address).await);
    if json {
        println!("{}", pretty(&found));
    } else {
        for finding in &found {
            let sign = match finding.grade {
                Grade::Fine => painted("ok  ", render::GREEN),
                Grade::Warning => painted("warn", render::YELLOW),
                Grade::Broken => painted("FAIL", render::RED),
            };
            println!("{sign} {}: {}", finding.subject, finding.seen);
            if let Some(remedy) = &finding.remedy {
                println!("     {remedy}");
            }
        }
    }
    match found.iter().any(|finding| finding.grade == Grade::Broken) {
        true if json => Err(Failure::Said),
        true => Err(Failure::Failed("this machine cannot run Mill as it is".to_owned())),
        false => done(),
    }
}

/// What the daemon that runs here says; or what one would need to find free.
async fn of_daemon(address: &str) -> Vec<Finding> {
    let Ok(client) = Client::new(address) else { return doctor::before_a_daemon() };
    let Ok(report) = client.text("/v1/mesh").await else { return doctor::before_a_daemon() };
    let report: MeshReport = serde_json::from_str(&report).unwrap_or_default();
    let mut found = doctor::of_mesh(&report);
    if let Ok(names) = client.text("/v1/names").await
        && let Ok(names) = serde_json::from_str(&names)
    {
        found.extend(doctor::of_names(&names));
    }
    if let Ok(Answer::Status(status)) = client.get("/v1/status?stale=true").await {
        found.extend(status.stale.map(doctor::of_age));
    }
    if let Ok(Answer::Routes(routes)) = client.get("/v1/routes?stale=true").await {
        found.extend(doctor::of_routes(&routes));
    }
    found
}
