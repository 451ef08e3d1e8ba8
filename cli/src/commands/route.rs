//! `mill route`: where requests from outside come in.

use mill_core::api::Answer;
use mill_core::api::view::{RouteView, RoutesView};
use mill_core::config::model::{RouteMatch, RouteSpec};

use super::show::{stale, unexpected};
use super::{Outcome, done, pretty};
use crate::args::RouteCommand;
use crate::client::Client;
use crate::render::{self, painted, table};

/// `mill route`.
pub async fn route(command: RouteCommand, json: bool) -> Outcome {
    let RouteCommand::Ls(args) = command;
    let client = Client::new(&args.target.address)?;
    let Answer::Routes(view) = client.get(&stale("/v1/routes", args.stale)).await? else {
        return unexpected();
    };
    match json {
        true => println!("{}", pretty(&view)),
        false => print(&view),
    }
    done()
}

fn print(view: &RoutesView) {
    if view.routes.is_empty() {
        println!("no routes; `[[service.NAME.route]]` in mill.toml makes one");
    } else {
        let mut routes = table::table(&["ROUTE", "SERVICE", "HEALTHY", "HOW"]);
        for RouteView { service, healthy, route } in &view.routes {
            let colour = if *healthy == 0 { render::YELLOW } else { render::GREEN };
            routes.add_row([
                what(route),
                service.to_string(),
                painted(&healthy.to_string(), colour),
                how(route).join(", "),
            ]);
        }
        table::print(&routes);
    }
    if !view.unrouted.is_empty() {
        println!();
    }
    for (node, why) in &view.unrouted {
        println!("node {node} does not serve them all: {why}");
    }
}

fn what(route: &RouteSpec) -> String {
    let scheme = match (&route.accept, route.tls) {
        (RouteMatch::Http { .. }, true) => "https://",
        (RouteMatch::Http { .. }, false) => "http://",
        (RouteMatch::Tcp { .. }, _) => "",
    };
    format!("{scheme}{}", route.accept.sentence())
}

/// What is out of the ordinary, in a few words each.
fn how(route: &RouteSpec) -> Vec<String> {
    let flags = [
        (route.strip_prefix, "strip_prefix"),
        (route.websocket, "websocket"),
        (route.h2c, "h2c"),
        (!route.allow.is_empty(), "allow"),
        (!route.basic_auth.is_empty(), "basic_auth"),
        (route.maintenance.is_some(), "maintenance"),
    ];
    let flags = flags.into_iter().filter(|(set, _)| *set).map(|(_, name)| name.to_owned());
    let redirect = route.redirect.iter().map(|to| format!("redirects to {to}"));
    let limit = route.rate_limit.iter().map(|limit| format!("{limit} per second"));
    let timeout = route.timeout.iter().map(|timeout| format!("timeout {timeout}"));
    flags.chain(redirect).chain(limit).chain(timeout).collect()
}
