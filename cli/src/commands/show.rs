//! `mill status`, `mill ps` and `mill why`.

use mill_core::api::view::{Age, AllocView, StatusView, TaskView};
use mill_core::api::{Answer, ApiError, ErrorCode};
use mill_core::cluster::alloc::Phase;

use super::past::moment;
use super::{Outcome, done, nodes, pretty};
use crate::args::{Ps, Stale, StatusArgs, Why};
use crate::client::Client;
use crate::failure::Failure;
use crate::render::{self, painted, table};

/// `mill status`.
pub async fn status(args: StatusArgs, json: bool) -> Outcome {
    let client = Client::new(&args.target.address)?;
    if args.state {
        println!("{}", client.text("/v1/state").await?);
        return done();
    }
    let Answer::Status(view) = client.get(&stale("/v1/status", args.stale)).await? else {
        return unexpected();
    };
    match json {
        true => println!("{}", pretty(&view)),
        false => print_status(&view),
    }
    done()
}

/// `mill ps`.
pub async fn ps(args: Ps, json: bool) -> Outcome {
    let client = Client::new(&args.target.address)?;
    let path = stale("/v1/allocs", args.stale);
    let path = match &args.service {
        Some(service) => format!("{path}&service={service}"),
        None => path,
    };
    let Answer::Allocs(mut views) = client.get(&path).await? else { return unexpected() };
    views.retain(|view| args.all || !view.phase.is_end());
    match json {
        true => println!("{}", pretty(&views)),
        false => print_allocs(&views),
    }
    done()
}

/// `mill why`.
pub async fn why(args: Why, json: bool) -> Outcome {
    let client = Client::new(&args.target.address)?;
    if !args.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        let message =
            format!("there is no service, task, slot, run, alloc or node `{}`", args.name);
        return Err(ApiError::new(ErrorCode::NotFound, message).into());
    }
    let path = stale(&format!("/v1/why/{}", args.name), args.stale);
    let Answer::Why(view) = client.get(&path).await? else { return unexpected() };
    if json {
        println!("{}", pretty(&view));
        return done();
    }
    println!("{}", view.summary);
    view.because.iter().for_each(|line| println!("  {line}"));
    done()
}

/// The path, with whether an old answer will do.
pub fn stale(path: &str, stale: Stale) -> String {
    format!("{path}?stale={}", stale.wanted)
}

/// The answer is not one to this.
pub fn unexpected() -> Outcome {
    let message = "the daemon answered something else; compare `mill version` on both sides";
    Err(Failure::Failed(message.to_owned()))
}

fn print_status(view: &StatusView) {
    println!("cluster {}, revision {}", view.cluster, view.revision);
    match view.stale {
        None => {}
        Some(Age::AtMost(age)) => println!("as this node knows it; at most {age} old"),
        Some(Age::Unknown) => println!("as this node knows it; nobody knows how old that is"),
    }
    println!();
    nodes::print_nodes(&view.nodes, view.leader);
    println!();
    match view.services.is_empty() {
        true => println!("no services yet; `mill deploy` starts what mill.toml says"),
        false => print_services(view),
    }
    if !view.tasks.is_empty() {
        println!();
        print_tasks(&view.tasks);
    }
    if let Some(deploy) = &view.deploy {
        println!("\ndeploy #{}: {}", deploy.number, deploy.state.sentence());
    }
}

fn print_services(view: &StatusView) {
    let headings = ["SERVICE", "PROJECT", "HEALTHY", "VERSION", "IMAGE", "ENDPOINTS"];
    let mut services = table::table(&headings);
    for service in &view.services {
        let healthy = format!("{}/{}", service.healthy, service.wanted);
        let colour = if service.healthy < service.wanted { render::YELLOW } else { render::GREEN };
        services.add_row([
            service.name.to_string(),
            service.project.to_string(),
            painted(&healthy, colour),
            service.version.map(|number| format!("#{number}")).unwrap_or_default(),
            service.image.clone(),
            service.endpoints.join(" "),
        ]);
    }
    table::print(&services);
    let waiting: Vec<&String> = view.services.iter().flat_map(|s| &s.waiting).collect();
    if !waiting.is_empty() {
        println!();
        waiting.iter().for_each(|line| println!("{line}"));
    }
}

fn print_tasks(views: &[TaskView]) {
    let mut tasks = table::table(&["TASK", "PROJECT", "VERSION", "NEXT", "LAST RUN", "IMAGE"]);
    for task in views {
        let last = task.last.as_ref().map(|run| format!("{}, {}", run.number, run.state));
        tasks.add_row([
            task.name.to_string(),
            task.project.to_string(),
            task.version.map(|number| format!("#{number}")).unwrap_or_default(),
            task.next.map(moment).unwrap_or_default(),
            last.unwrap_or_default(),
            task.image.clone(),
        ]);
    }
    table::print(&tasks);
}

pub fn print_allocs(views: &[AllocView]) {
    if views.is_empty() {
        println!("no containers; `mill deploy` starts them, `mill ps --all` shows ended ones");
        return;
    }
    let mut allocs =
        table::table(&["ALLOC", "STATE", "NODE", "PORT", "VERSION", "RESTARTS", "IMAGE"]);
    for view in views {
        let state = match (view.phase, view.stopping) {
            (Phase::Healthy, false) => painted("healthy", render::GREEN),
            (Phase::Running, false) if view.is_run => painted("running", render::GREEN),
            (phase, _) => painted(&phase_word(phase), render::YELLOW),
        };
        allocs.add_row([
            view.id.to_string(),
            state,
            view.node.clone(),
            view.port.map(|port| port.to_string()).unwrap_or_default(),
            format!("#{}", view.version),
            view.restarts.to_string(),
            view.image.clone(),
        ]);
    }
    table::print(&allocs);
    for view in views {
        if let (Some(trouble), true) = (&view.trouble, view.phase != Phase::Healthy) {
            println!("{}: {}", view.id, trouble.detail);
        }
    }
}

fn phase_word(phase: Phase) -> String {
    let word = serde_json::to_value(phase).expect("a phase is a word");
    word.as_str().unwrap_or_default().to_owned()
}
