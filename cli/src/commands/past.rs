//! `mill rollback`, `mill history` and `mill deploys`: deploys that were, and the one that runs.

use std::time::{Duration, UNIX_EPOCH};

use mill_core::api::view::{DeploySummary, DeployView, ReceiptView};
use mill_core::api::{Answer, ApiError, ErrorCode};
use mill_core::cluster::deploy::{DeployKind, DeployState};
use mill_core::name::Name;
use mill_core::time::Wall;
use mill_core::units::Millis;
use serde_json::json;

use super::{Outcome, deploy, done, pretty};
use crate::args::{
    CancelDeploy, DeploysCommand, HistoryArgs, PromoteDeploy, Rollback, WhichDeploy,
};
use crate::client::Client;
use crate::failure::Failure;
use crate::render::table;

/// The longest list of services in a table.
const SERVICES_SHOWN: usize = 4;

/// `mill rollback`.
pub async fn rollback(args: Rollback, json: bool) -> Outcome {
    let client = Client::new(&args.target.address)?;
    let wish = json!({ "project": args.project, "to": args.to });
    let Answer::Return { to, plan } = client.post("/v1/rollback", &wish).await? else {
        return unexpected();
    };
    if args.dry_run || !json {
        match json {
            true => println!("{}", pretty(&json!({ "to": to, "plan": plan }))),
            false => print!("back to deploy #{to}:\n{plan}"),
        }
    }
    if args.dry_run {
        return done();
    }
    if plan.is_empty() {
        if json {
            println!("{}", pretty(&json!({ "unchanged": true })));
        }
        return done();
    }
    if !args.yes {
        deploy::confirm("go back to this?", json)?;
    }
    let wish = json!({ "project": args.project, "to": to, "expect": plan.fingerprint() });
    match client.post("/v1/rollback", &wish).await? {
        Answer::Started { number, .. } => deploy::finish(&client, number, args.detach, json).await,
        Answer::Unchanged => done(),
        _ => unexpected(),
    }
}

/// `mill history`.
pub async fn history(args: HistoryArgs, json: bool) -> Outcome {
    let client = Client::new(&args.target.address)?;
    let path = format!("/v1/deploys?stale={}", args.stale.wanted);
    let Answer::Deploys(mut deploys) = client.get(&path).await? else { return unexpected() };
    let wanted =
        |deploy: &DeploySummary| args.project.as_ref().is_none_or(|p| *p == deploy.project);
    deploys.retain(wanted);
    deploys.truncate(args.lines);
    match json {
        true => println!("{}", pretty(&deploys)),
        false if deploys.is_empty() => println!("nothing has been deployed yet"),
        false => print_history(&deploys),
    }
    done()
}

fn print_history(deploys: &[DeploySummary]) {
    let mut table = table::table(&["DEPLOY", "STARTED", "PROJECT", "WHAT", "SERVICES", "STATE"]);
    for deploy in deploys {
        let state = deploy.state.sentence();
        let state = state.lines().next().unwrap_or_default().to_owned();
        let mark = if deploy.returnable { " *" } else { "" };
        table.add_row([
            format!("#{}{mark}", deploy.number),
            moment(deploy.started),
            deploy.project.to_string(),
            what(deploy.kind, deploy.back_to),
            services(deploy.services.iter().chain(&deploy.tasks)),
            state,
        ]);
    }
    table::print(&table);
    if deploys.iter().any(|deploy| deploy.returnable) {
        println!("\n* `mill rollback --to N` goes back to what ran after it");
    }
}

/// `mill deploys ...`.
pub async fn deploys(command: DeploysCommand, json: bool) -> Outcome {
    match command {
        DeploysCommand::Show(args) => show(args, json).await,
        DeploysCommand::Attach(args) => attach(args, json).await,
        DeploysCommand::Cancel(args) => cancel(args, json).await,
        DeploysCommand::Promote(args) => promote(args, json).await,
    }
}

async fn show(args: WhichDeploy, json: bool) -> Outcome {
    let client = Client::new(&args.target.address)?;
    let view = look(&client, args.number).await?;
    match json {
        true => println!("{}", pretty(&view)),
        false => print_deploy(&view),
    }
    done()
}

async fn attach(args: WhichDeploy, json: bool) -> Outcome {
    let client = Client::new(&args.target.address)?;
    let number = look(&client, args.number).await?.number;
    deploy::finish(&client, number, false, json).await
}

async fn promote(args: PromoteDeploy, json: bool) -> Outcome {
    let client = Client::new(&args.which.target.address)?;
    let hint = "`mill history` shows those that did";
    let number = running(&client, args.which.number, hint).await?;
    let path = format!("/v1/deploys/{number}/promote");
    let Answer::Done = client.post(&path, &json!({ "services": args.services })).await? else {
        return unexpected();
    };
    match json {
        true => println!("{}", pretty(&json!({ "promoted": number }))),
        false => {
            println!(
                "deploy #{number}: the other replicas follow; `mill deploys attach` watches it"
            );
        }
    }
    done()
}

/// The number of the deploy that runs, unless one is named.
async fn running(client: &Client, named: Option<u64>, hint: &str) -> Result<u64, Failure> {
    let latest = look(client, named).await?;
    if named.is_none() && latest.state.is_end() {
        let error = ApiError::new(ErrorCode::Conflict, "no deploy runs");
        return Err(Failure::Refused(error.hint(hint)));
    }
    Ok(latest.number)
}

async fn cancel(args: CancelDeploy, json: bool) -> Outcome {
    let client = Client::new(&args.which.target.address)?;
    let hint = "`mill rollback` goes back to an earlier one";
    let number = running(&client, args.which.number, hint).await?;
    let Answer::Done = client.post(&format!("/v1/deploys/{number}/cancel"), &json!({})).await?
    else {
        return unexpected();
    };
    if args.detach {
        return deploy::finish(&client, number, true, json).await;
    }
    let view = deploy::follow(&client, number, json).await?;
    match view.state {
        DeployState::RolledBack { .. } => done(),
        DeployState::Resolving
        | DeployState::Rolling
        | DeployState::Removing
        | DeployState::Succeeded
        | DeployState::Partial { .. }
        | DeployState::RollingBack { .. }
        | DeployState::RollbackStuck { .. } => Err(Failure::Said),
    }
}

async fn look(client: &Client, number: Option<u64>) -> Result<DeployView, Failure> {
    let which = number.map_or_else(|| "latest".to_owned(), |number| number.to_string());
    match client.get(&format!("/v1/deploys/{which}")).await? {
        Answer::Deployment(view) => Ok(view),
        _ => Err(Failure::Failed("the daemon answered something else".to_owned())),
    }
}

fn print_deploy(view: &DeployView) {
    println!("deploy #{} of {}: {}", view.number, view.project, what(view.kind, view.back_to));
    println!("started {}", moment(view.started));
    if let Some(ended) = view.ended {
        let took = Millis(ended.0.saturating_sub(view.started.0));
        println!("ended   {}, after {took}", moment(ended));
    }
    println!("{}", view.state.sentence());
    println!();
    let mut table = table::table(&["SERVICE", "NEW AND HEALTHY", "DONE"]);
    for service in &view.services {
        let ready = format!("{}/{}", service.ready, service.wanted);
        let failed = service.failed.as_ref().map(|failed| failed.how.as_str());
        let done = failed.unwrap_or(if service.settled { "yes" } else { "no" });
        table.add_row([service.service.to_string(), ready, done.to_owned()]);
    }
    table::print(&table);
    for gate in &view.gates {
        let run = gate.run.map(|run| format!(" (run {run})")).unwrap_or_default();
        println!("  task {}: {}{run}", gate.task, gate.state);
    }
    for task in &view.tasks {
        println!("  task {task} changes with it");
    }
    for waiting in view.services.iter().flat_map(|service| &service.waiting) {
        println!("  {waiting}");
    }
    if !view.receipt.is_empty() {
        print_receipt(&view.receipt);
    }
}

/// What became of each replica that was stopped; what did not go well is told below.
fn print_receipt(receipt: &[ReceiptView]) {
    println!();
    let mut table = table::table(&["STOPPED", "NODE", "LET GO BY", "IN FLIGHT", "ENDED"]);
    for line in receipt {
        let let_go = match line.released {
            None if line.gone.is_some() => "-".to_owned(),
            None => "not by all yet".to_owned(),
            Some(at) => {
                let after = Millis(at.0.saturating_sub(line.left.0));
                format!("{} within {after}", line.let_go.join(" "))
            }
        };
        let ending = line.ending.unwrap_or_default();
        let in_flight = ending.in_flight.map_or_else(|| "-".to_owned(), |count| count.to_string());
        let cells = [line.alloc.to_string(), line.node.clone(), let_go, in_flight, ended(line)];
        table.add_row(cells);
    }
    table::print(&table);
    let told = receipt.iter().flat_map(concerns);
    told.for_each(|concern| println!("  {concern}"));
}

fn ended(line: &ReceiptView) -> String {
    match (line.gone, line.ending.and_then(|ending| ending.exit)) {
        (None, _) => "not yet".to_owned(),
        (Some(_), Some(exit)) if exit.killed_after_grace => "killed".to_owned(),
        (Some(_), Some(exit)) => format!("exit code {}", exit.code),
        (Some(_), None) => "without a stop".to_owned(),
    }
}

/// What somebody may have noticed of a stop.
fn concerns(line: &ReceiptView) -> Vec<String> {
    let mut concerns = Vec::new();
    if !line.excused.is_empty() {
        let nodes = line.excused.join(", ");
        concerns
            .push(format!("{}: nodes that were down, and may not know of it: {nodes}", line.alloc));
    }
    let ending = line.ending.unwrap_or_default();
    if let Some(open @ 1..) = ending.in_flight {
        let told = "connections that were open when it was asked to stop";
        concerns.push(format!("{}: {told}: {open}", line.alloc));
    }
    if ending.exit.is_some_and(|exit| exit.killed_after_grace) {
        concerns.push(format!("{}: it did not end within its grace period", line.alloc));
    }
    concerns
}

fn what(kind: DeployKind, back_to: Option<u64>) -> String {
    match (kind, back_to) {
        (DeployKind::Rollback, Some(to)) => format!("rollback to #{to}"),
        (DeployKind::Rollback, None) => "rollback".to_owned(),
        (DeployKind::Config, _) => "deploy".to_owned(),
        (DeployKind::Restart, _) => "restart".to_owned(),
        (DeployKind::Scale, _) => "scale".to_owned(),
    }
}

fn services<'a>(names: impl Iterator<Item = &'a Name>) -> String {
    let names: Vec<&str> = names.map(Name::as_str).collect();
    let shown = &names[..names.len().min(SERVICES_SHOWN)];
    match names.len().checked_sub(SERVICES_SHOWN) {
        None | Some(0) => shown.join(" "),
        Some(more) => format!("{} and {more} more", shown.join(" ")),
    }
}

/// A moment, for people.
pub fn moment(Wall(millis): Wall) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(millis)).to_string()
}

fn unexpected() -> Outcome {
    Err(Failure::Failed("the daemon answered something else".to_owned()))
}
