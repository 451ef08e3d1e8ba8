//! `mill plan`: what a deploy would do, asked of a cluster or computed from a saved state.

use std::fs;

use mill_core::api::Answer;
use mill_core::cluster::Cluster;
use mill_core::config::model::Project;
use mill_core::plan::{self, Plan};

use super::{Outcome, config, done, pretty};
use crate::args::PlanArgs;
use crate::client::{Client, PLAN};
use crate::failure::Failure;

/// `mill plan`.
pub async fn plan(args: PlanArgs, json: bool) -> Outcome {
    let loaded = config::load(&args.files, json)?.supported(json)?;
    let project = &loaded.parsed.project;
    let plan = match &args.state {
        Some(path) => offline(path, project)?,
        None => ask(&Client::new(&args.target.address)?, project).await?,
    };
    match json {
        true => println!("{}", pretty(&plan)),
        false => print!("{plan}"),
    }
    done()
}

/// What a cluster says that deploying `project` would do.
pub async fn ask(client: &Client, project: &Project) -> Result<Plan, Failure> {
    match client.post(PLAN, project).await? {
        Answer::Plan(plan) => Ok(plan),
        other => Err(Failure::Failed(format!("the daemon answered something else: {other:?}"))),
    }
}

fn offline(path: &std::path::Path, project: &Project) -> Result<Plan, Failure> {
    let bytes = fs::read(path)
        .map_err(|error| Failure::Failed(format!("cannot read {}: {error}", path.display())))?;
    let cluster = Cluster::decode(&bytes)
        .map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
    let problems = plan::check(&cluster, project);
    if !problems.is_empty() {
        problems.iter().for_each(|problem| eprintln!("{problem}"));
        return Err(Failure::Failed("this config cannot be deployed there".to_owned()));
    }
    Ok(plan::plan(&cluster, project))
}
