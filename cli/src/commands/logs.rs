//! `mill logs`: one stream in time order, a colour per alloc.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use mill_core::units::Millis;
use mill_runtime_real::clock;
use serde::Deserialize;

use super::{Outcome, done};
use crate::args::Logs;
use crate::client::Client;
use crate::failure::Failure;
use crate::render;

/// Colours that allocs take turns with.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

#[derive(Deserialize)]
#[serde(untagged)]
enum Event {
    Line { alloc: String, text: String },
    Trouble { error: String },
}

/// `mill logs`.
pub async fn logs(args: Logs, json: bool) -> Outcome {
    let client = Client::new(&args.target.address)?;
    let mut query = vec![format!("tail={}", args.lines), format!("follow={}", args.follow)];
    query.push(format!("all={}", args.all));
    if !args.names.is_empty() {
        query.push(format!("names={}", args.names.join(",")));
    }
    if let Some(Millis(age)) = args.since {
        query.push(format!("since={}", clock::wall().0.saturating_sub(age)));
    }
    let path = format!("/v1/logs?{}", query.join("&"));
    tokio::select! {
        printed = print(&client, &path, args.follow, json) => printed,
        // Ctrl-C is how following ends.
        _ = tokio::signal::ctrl_c() => done(),
    }
}

/// Prints every line that comes until there are no more, which fails a follower.
pub async fn print(client: &Client, path: &str, follow: bool, json: bool) -> Outcome {
    let mut events = client.events(path).await?;
    let mut colours: BTreeMap<String, u8> = BTreeMap::new();
    let mut is_whole = true;
    while let Some(event) = events.next().await {
        match serde_json::from_str(&event) {
            Ok(Event::Trouble { error }) => {
                is_whole = false;
                eprintln!("error: {error}");
            }
            Ok(Event::Line { .. }) if json => println!("{event}"),
            Ok(Event::Line { alloc, text }) => {
                let next = COLOURS[colours.len() % COLOURS.len()];
                let colour = *colours.entry(alloc.clone()).or_insert(next);
                println!("{} {text}", render::painted(&format!("{alloc:<14}"), colour));
            }
            // A newer daemon may tell more than this version knows of.
            Err(_) => {}
        }
    }
    match (follow, is_whole) {
        (true, _) => {
            let message = "the daemon has closed the connection; follow again when it is back";
            Err(Failure::Unreachable(message.to_owned()))
        }
        (false, true) => done(),
        (false, false) => Err(Failure::Said),
    }
}
