//! `mill status`, `mill ps` and `mill why`.

use mill_core::api::view::{AllocView, StatusView};
use mill_core::api::{Answer, ApiError, ErrorCode};
use mill_core::cluster::alloc::Phase;

use super::{Outcome, done, pretty};
use crate::args::{Ps, StatusArgs, Why};
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
    let Answer::Status(view) = client.get("/v1/status").await? else { return unexpected() };
    match json {
        true => println!("{}", pretty(&view)),
        false => print_status(&view),
    }
    done()
}

/// `mill ps`.
pub async fn ps(args: Ps, json: bool) -> Outcome {
    let client = Client::new(&args.target.address)?;
    let path = match &args.service {
        Some(service) => format!("/v1/allocs?service={service}"),
        None => "/v1/allocs".to_owned(),
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
        let message = format!("there is no service, slot, alloc or node `{}`", args.name);
        return Err(ApiError::new(ErrorCode::NotFound, message).into());
    }
    let path = format!("/v1/why/{}", args.name);
    let Answer::Why(view) = client.get(&path).await? else { return unexpected() };
    if json {
        println!("{}", pretty(&view));
        return done();
    }
    println!("{}", view.summary);
    view.because.iter().for_each(|line| println!("  {line}"));
    done()
}

fn unexpected() -> Outcome {
    let message = "the daemon answered something else; compare `mill version` on both sides";
    Err(Failure::Failed(message.to_owned()))
}

fn print_status(view: &StatusView) {
    println!("cluster {}, revision {}", view.cluster, view.revision);
    let mut nodes =
        table::table(&["NODE", "STATE", "ADDRESS", "CPU", "MEMORY", "ALLOCS", "VERSION"]);
    for node in &view.nodes {
        let state = match node.up {
            true => painted("up", render::GREEN),
            false => painted("down", render::RED),
        };
        let leader = if view.leader == Some(node.id) { " (leader)" } else { "" };
        nodes.add_row([
            format!("{}{leader}", node.name),
            state,
            node.advertise.clone(),
            format!("{}/{}", node.cpu.0, node.cpu.1),
            format!("{}/{}", node.memory.0, node.memory.1),
            node.allocs.to_string(),
            node.version.clone(),
        ]);
    }
    println!();
    table::print(&nodes);
    for node in &view.nodes {
        if let Some(trouble) = &node.trouble {
            println!("{}: {trouble}", node.name);
        }
    }
    println!();
    match view.services.is_empty() {
        true => println!("no services yet; `mill deploy` starts what mill.toml says"),
        false => print_services(view),
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

fn print_allocs(views: &[AllocView]) {
    if views.is_empty() {
        println!("no containers; `mill deploy` starts them, `mill ps --all` shows ended ones");
        return;
    }
    let mut allocs =
        table::table(&["ALLOC", "STATE", "NODE", "PORT", "VERSION", "RESTARTS", "IMAGE"]);
    for view in views {
        let state = match (view.phase, view.stopping) {
            (Phase::Healthy, false) => painted("healthy", render::GREEN),
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
